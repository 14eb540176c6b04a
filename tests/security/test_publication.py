"""What a hostile host, a thief of the writer's key and a folder that went away can do to what is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.app import open_home, open_publishing, open_sites
from exclave.errors import CorruptObject
from exclave.formats.edition import KIND, BundleLine, Edition, make_bundle, parse_bundle, published_lines
from exclave.formats.fact import Fact
from exclave.formats.paths import public_key
from exclave.ids import Digest, Instant, Label, Sequence, now, sha256
from exclave.operations.ledger_entry import enter
from exclave.operations.publish import _grouped, publish
from exclave.sites.contract import ObjectStat, Site
from exclave.verify.history import read_history
from exclave.verify.published import newest_edition
from exclave.verify.state import read_state
from support.gazette_room import act_files, law
from support.gazette_state import TITLE, PublicRegister, gazette_home, put
from support.small_home import SmallHome, run

SECOND = act_files("2025/0001", "Ice Road Act", [law("Ice Road Act", "Roads over the ice.")])
THIRD = act_files("2025/0002", "Fog Act", [law("Fog Act", "Fog is measured.")])
LAST = Sequence(2**53 - 1)


@pytest.fixture
def town(tmp_path: Path) -> tuple[SmallHome, Path]:
    home, acts = gazette_home(tmp_path)
    home.backup()
    return home, acts


def published(home: SmallHome, site: str) -> list[Path]:
    """Every published object at a site."""
    return sorted((home.site(site) / home.fingerprint / home.id_of() / "public").glob("*/*"))


def room(home: SmallHome, folder: Path, code: int = 0) -> dict[str, object]:
    """``latest.json`` of the reading room in ``folder`` after one look at the sites."""
    said = run("serve", "public", TITLE, "--dir", str(folder), *home.where(), "--once")
    assert said.code == code, said.err
    return dict(json.loads((folder / "current" / "latest.json").read_bytes()))


def test_nothing_is_published_at_a_site_whose_legal_basis_has_ended(town: tuple[SmallHome, Path]) -> None:
    """It is told, before and after, and the site gets neither documents nor the list of them."""
    home, _ = town
    text = home.config
    basis = 'legal_basis_until = { lux = "2021-01-01" }\nlegal_basis ='
    home.config = lambda: text().replace("legal_basis =", basis)  # type: ignore[method-assign]
    home.write_config()
    home.new_charter("draft-2")
    home.backup()
    assert home.ok("publish", "gazette", "--look", *home.home)["outlook"]["sites"] == ["home", "nord"]
    receipt = home.ok("publish", "gazette", "--yes", *home.home)
    assert receipt["sites"] == ["home", "nord"]
    assert receipt["failed"] == {"lux": "its legal basis ended on 2021-01-01: nothing is shipped there"}
    assert (len(published(home, "lux")), len(published(home, "nord"))) == (0, 2)


def test_a_folder_that_went_away_takes_no_law_out_of_force(town: tuple[SmallHome, Path], tmp_path: Path) -> None:
    """What the version has and the folder has not stops a publication, also of what was never public; a version
    without it does not."""
    home, acts = town
    home.ok("publish", "gazette", "--yes", *home.home)
    put(acts, SECOND)
    home.backup()
    shutil.rmtree(acts / "acts/2025")
    failure = home.fails(14, "publish", "gazette", "--yes", *home.home)
    assert "acts/2025/0001/act.json is in the newest version" in failure["message"]
    (acts / "acts").rename(tmp_path / "away")
    home.fails(14, "publish", "gazette", "--yes", *home.home)
    assert room(home, tmp_path / "room")["acts"] == 4
    (tmp_path / "away").rename(acts / "acts")
    shutil.rmtree(acts / "acts/2023")
    home.backup()
    assert home.ok("publish", "gazette", "--yes", *home.home)["removed"] == 5
    assert room(home, tmp_path / "room")["acts"] == 2


def test_beside_other_datasets_nobody_guesses_which_is_public(tmp_path: Path) -> None:
    """The one folder of a register whose law stands in a database may be its application's, with its passwords."""
    put(tmp_path / "app", {"settings.ini": b"password = hunter2"})
    put(tmp_path, {"laws.db": b""})
    datasets: list[tuple[str, str, dict[str, object]]] = [
        ("laws", "sqlite", {"path": str(tmp_path / "laws.db")}), ("app", "files", {"path": str(tmp_path / "app")}),
    ]  # fmt: skip
    home = SmallHome(tmp_path, [PublicRegister("gazette", datasets)]).found()
    assert "--dataset" in home.fails(2, "publish", "gazette", "--yes", *home.home)["message"]


class Thief:
    """Has the writer's key and the sites' credentials."""

    def __init__(self, home: SmallHome) -> None:
        self.home = open_home(home.folder)
        self.sites = open_sites(self.home)
        self.register = self.home.register_id("gazette")

    def last(self) -> Edition:
        """What is public."""
        view = read_state(self.sites, self.home.fingerprint())
        found = newest_edition(view, self.sites, read_history(view, self.sites, self.register))
        assert found is not None
        return found.edition

    def put(self, data: bytes) -> Digest:
        for site in self.sites.values():
            site.put_same(public_key(self.home.fingerprint(), self.register, sha256(data)), data)
        return sha256(data)

    def names(self, sequence: Sequence, edition: Digest) -> None:
        """Enters that ``edition`` is what is public."""
        view = read_state(self.sites, self.home.fingerprint())
        epoch = view.epoch_chain(self.register).newest
        fact = Fact(self.register, epoch.number, now(), KIND, None, published_lines(sequence, edition))
        outbox = self.home.folder / "state" / f"{self.register}.outbox"
        enter(
            view, epoch, self.home.writer_key(), [fact.encode()], sites=self.sites, witnesses={}, now=now(),
            outbox=outbox,
        )  # fmt: skip

    def publishes(self, sequence: Sequence, time: Instant, *bundles: bytes) -> None:
        """An edition of his own, after the last one."""
        last = self.last()
        lines = tuple(BundleLine(self.put(data), len(data), 1) for data in bundles)
        edition = Edition(
            last.state, last.register, sequence, time, sha256(last.encode()), last.name, (*last.bundles, *lines)
        )
        self.names(sequence, self.put(edition.encode()))


def test_an_edition_of_a_version_that_is_not_there_counts_for_nothing(
    town: tuple[SmallHome, Path], tmp_path: Path
) -> None:
    """A number beyond all others would stand before every later edition; a time of its own would make old law new."""
    home, acts = town
    home.ok("publish", "gazette", "--yes", *home.home)
    thief = Thief(home)
    thief.publishes(LAST, thief.last().time)
    assert room(home, tmp_path / "room")["version"] == 1
    put(acts, SECOND)
    home.backup()
    thief.publishes(Sequence(2), Instant(thief.last().time + 86_400_000_000))
    assert room(home, tmp_path / "room", code=21)["version"] == 1
    home.backup()
    home.ok("publish", "gazette", "--yes", "--anew", *home.home)
    assert room(home, tmp_path / "room")["version"] == 3


def test_a_publication_that_was_spoilt_for_good_is_not_the_last(town: tuple[SmallHome, Path], tmp_path: Path) -> None:
    """A bundle that is none, then an edition that is nowhere: what can be read is listed on, the rest comes anew, and
    rooms follow."""
    home, acts = town
    home.ok("publish", "gazette", "--yes", *home.home)
    thief = Thief(home)
    put(acts, SECOND)
    home.backup()
    history = read_history(read_state(thief.sites, thief.home.fingerprint()), thief.sites, thief.register)
    thief.publishes(Sequence(2), history.latest.leaf.time, b"this is no bundle")
    home.backup()
    assert "--anew" in home.fails(21, "publish", "gazette", "--look", *home.home)["hint"]
    receipt = home.ok("publish", "gazette", "--yes", "--anew", *home.home)
    assert (receipt["sequence"], receipt["files"], len(receipt["lost"])) == (3, 2, 1)
    thief.names(Sequence(3), sha256(b"nowhere"))
    assert "--anew" in home.fails(22, "publish", "gazette", "--yes", *home.home)["hint"]
    assert "one edition" in home.fails(2, "publish", "gazette", "--yes", "--anew", *home.home)["message"]
    put(acts, THIRD)
    home.backup()
    assert home.ok("publish", "gazette", "--look", "--anew", *home.home)["outlook"]["lost"] == [
        "edition 3 cannot be read"
    ]
    receipt = home.ok("publish", "gazette", "--yes", "--anew", *home.home)
    assert (receipt["sequence"], receipt["files"]) == (4, 2)
    assert room(home, tmp_path / "room")["acts"] == 6
    assert (tmp_path / "room/permanent/v/1/act/2024/0001/v1.txt").exists()
    home.backup()
    assert home.ok("publish", "gazette", "--yes", *home.home)["lost"] == []


class Lister:
    """A host whose list of what is published cannot be true."""

    def __init__(self, inner: Site) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        if "/public/" in prefix:
            raise CorruptObject("a list that cannot be true")
        return self._inner.list(prefix)


def test_one_host_stops_no_publication(town: tuple[SmallHome, Path]) -> None:
    """Whose list is wrong is left out, and named; the other sites get the edition."""
    home, acts = town
    home.ok("publish", "gazette", "--yes", *home.home)
    put(acts, SECOND)
    home.backup()
    opened = open_home(home.folder)
    source, prover = open_publishing(opened, "gazette", "")
    sites = dict(open_sites(opened))
    sites[Label("lux")] = Lister(sites[Label("lux")])  # type: ignore[assignment]
    receipt = publish(opened, "gazette", source, prover, sites=sites, witnesses={}, now=now())
    assert (receipt.sites, list(receipt.failed)) == ((Label("home"), Label("nord")), [Label("lux")])


def test_a_pile_of_long_names_fits_into_its_bundles() -> None:
    """Files that are gone have nothing but their names: thousands of the longest are more than one table holds."""
    names = [f"{number:05}/{'/'.join('n' * 240 for _ in range(4))}" for number in range(12_000)]
    groups = list(_grouped((name, None, b"") for name in names))
    assert sum(len(group) for group in groups) == len(names)
    for group in groups:
        parse_bundle(make_bundle(Sequence(1), Instant(1), group).encode())

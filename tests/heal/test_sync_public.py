"""What the public goes by comes along when a site heals: statements and timestamps, and nothing that a host planted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exclave.cli.keys import load_key
from exclave.formats.note import ParsedNote, parse_note
from exclave.ids import Key, sha256
from exclave.operations import carry_public
from exclave.operations.carry_public import MAX_USELESS
from exclave.operations.home import key_card
from exclave.rules.signatures import sign_text
from exclave.sites.contract import ObjectStat
from exclave.sites.directory import DirectorySite
from exclave.verify.timestamps import MAX_READ
from support.small_home import SmallHome, tree_of
from support.timestamper import POLICY, Timestamper


class Dated(SmallHome):
    """A home whose charter names one timestamp authority."""

    url, tsa_root = "", Path()

    def config(self) -> str:
        block = f'[[timestamp]]\nname = "tsa"\nurl = "{self.url}"\nroot = "{self.tsa_root}"\npolicy = "{POLICY}"\n\n'
        return super().config().replace("[[site]]", f"{block}[[site]]", 1)


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Timestamper]:
    made = Timestamper(tmp_path_factory.mktemp("tsa") / "good")
    with made.serving():
        yield made


@pytest.fixture
def home(tsa: Timestamper, tmp_path: Path) -> Dated:
    """Two versions at three sites, each dated and stated in public; then ``lux`` is lost."""
    made = Dated(tmp_path)
    made.url, made.tsa_root = tsa.url, tsa.root
    made.found()
    for version in range(2):
        (made.root / "acts" / f"more-{version}").write_bytes(os.urandom(1000))
        made.backup()
        made.ok("timestamp", *made.home)
        made.ok("statement", "make", str(tmp_path / f"said-{version}"), "--publish", *made.home)
    shutil.rmtree(made.site("lux"))
    made.site("lux").mkdir()
    return made


def public(home: SmallHome, name: str) -> dict[str, bytes]:
    """Statements and timestamps at a site."""
    found = tree_of(home.site(name))
    return {key: data for key, data in found.items() if "/statement/" in key or "/timestamp/" in key}


def plant(home: SmallHome, name: str, key: str, data: bytes) -> None:
    path = home.site(name) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def by_sync(home: SmallHome) -> None:
    home.ok("site", "sync", "lux", *home.where())


def by_rebuild(home: SmallHome) -> None:
    home.ok("site", "rebuild", "lux", *home.where())


def by_backup(home: SmallHome) -> None:
    home.backup()


def by_disk(home: SmallHome) -> None:
    disk = home.root / "disk"
    disk.mkdir()
    home.ok("ship", "lux", "--to", str(disk), *home.where())
    into = ["--into", f"lux={home.urls['lux']}", "--fingerprint", home.fingerprint]
    home.ok("site", "import", str(disk), *into)


@pytest.mark.parametrize("heal", [by_sync, by_rebuild, by_backup, by_disk])
def test_healed_site_has_what_the_public_goes_by(home: Dated, heal: Callable[[SmallHome], None]) -> None:
    """Whichever way a site is healed, its statements and timestamps are there again, and prove what they proved."""
    there = public(home, "nord")
    assert len([key for key in there if "/timestamp/" in key]) >= 2
    assert len([key for key in there if "/statement/" in key]) == 2
    before = home.verify("nord")["registers"][0]["timestamps"]
    heal(home)
    assert there.items() <= public(home, "lux").items()
    after = home.verify("lux")["registers"][0]["timestamps"]
    assert [one for one in after if one in before] == before
    assert home.ok("statement", "latest", str(home.root / "fetched"), *home.where("lux"))["verified"]


def test_only_what_is_signed_is_carried(home: Dated) -> None:
    """A hostile source's statements and tokens stay with it: junk, strangers' notes, true ones under false names."""
    there = public(home, "nord")
    statement, said = next((key, data) for key, data in there.items() if "/statement/" in key)
    token, proof = next((key, data) for key, data in there.items() if "/timestamp/" in key)
    home.ok("custodian", "new", "stranger", "--out", str(home.root / "strangers"))
    stranger = load_key(home.root / "strangers" / "stranger.key")
    text = parse_note(said).text
    forged = ParsedNote(text, sign_text(text, stranger.name, stranger.signing())).encode()
    day, log = statement.rpartition("/")[0], token.rpartition("/")[0]
    for name in ("nord", "home"):
        plant(home, name, f"{day}/{sha256(forged).hex()}", forged)
        plant(home, name, f"{day}/{sha256(b'junk').hex()}", b"junk")
        plant(home, name, f"{day[:-8]}20200101/{sha256(said).hex()}", said)
        plant(home, name, f"{log}/{1:020d}-{sha256(b'junk').hex()[:16]}", b"junk")
        plant(home, name, f"{log}/{1:020d}-{sha256(proof).hex()[:16]}", proof)
    by_sync(home)
    assert public(home, "lux") == there
    by_sync(home)
    assert public(home, "lux") == there


def test_a_planted_card_makes_nobody_known(home: Dated) -> None:
    """A stranger's card, planted beside what he signed, makes no other site store his statements of a register."""
    home.ok("custodian", "new", "stranger", "--out", str(home.root / "strangers"))
    stranger = load_key(home.root / "strangers" / "stranger.key")
    card = key_card(stranger).encode().encode()
    plant(home, "nord", f"{home.fingerprint}/card/{sha256(card).hex()}", card)
    for number in range(3):
        text = f"a statement\nnumber {number}\n"
        said = ParsedNote(text, sign_text(text, stranger.name, stranger.signing())).encode()
        plant(home, "nord", f"{home.fingerprint}/{home.id_of()}/statement/{sha256(said).hex()}", said)
    by_sync(home)
    assert not list((home.site("lux") / home.fingerprint / home.id_of()).glob("statement/*"))


def test_a_flood_hides_nothing_elsewhere(home: Dated) -> None:
    """What a host plants among one day's statements or one version's tokens stops neither those of other days and
    versions, nor what another source has of the same."""
    there = public(home, "nord")
    statement = next(key for key in there if "/statement/" in key)
    log = next(key for key in there if "/timestamp/" in key).rpartition("/")[0]
    for number in range(MAX_USELESS + MAX_READ + 4):
        junk = f"junk {number}".encode()
        for day in ("20200101", statement.split("/")[2]):
            plant(home, "nord", f"{home.fingerprint}/statement/{day}/{sha256(junk).hex()}", junk)
        plant(home, "nord", f"{log}/{2:020d}-{sha256(junk).hex()[:16]}", junk)
    by_sync(home)
    assert public(home, "lux") == there


def test_a_flood_of_days_and_statements_is_not_read_to_its_end(
    home: Dated, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """However many days a host makes up, and however many statements of a register, few of its notes are read."""
    there = public(home, "nord")
    monkeypatch.setattr(carry_public, "_Patience", partial(carry_public._Patience, 20))
    for number in range(100):
        junk = f"junk {number}".encode()
        day = f"2020{number // 28 + 1:02d}{number % 28 + 1:02d}"
        plant(home, "nord", f"{home.fingerprint}/statement/{day}/{sha256(junk).hex()}", junk)
        plant(home, "nord", f"{home.fingerprint}/{home.id_of()}/statement/{sha256(junk).hex()}", junk)
    read = statements_read(monkeypatch)
    by_sync(home)
    assert public(home, "lux") == there
    assert len(read) < 60


def test_a_backup_asks_no_site_that_is_behind(home: Dated, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that hides the ledger that it was given is given its statements again, and asked for none of its own."""
    there = public(home, "nord")
    shutil.rmtree(home.site("nord") / home.fingerprint / home.id_of() / "ledger")
    shutil.rmtree(home.site("nord") / home.fingerprint / "statement")
    for number in range(100):
        junk = f"junk {number}".encode()
        plant(home, "nord", f"{home.fingerprint}/{home.id_of()}/statement/{sha256(junk).hex()}", junk)
    read = statements_read(monkeypatch)
    by_backup(home)
    for name in ("nord", "lux"):
        assert there.items() <= public(home, name).items()
    assert {site for site, _ in read} == {f"dir:{home.site('home')}"}


def statements_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Key]]:
    """Address of the site and key of each statement that is read from now on."""
    read: list[tuple[str, Key]] = []
    get = DirectorySite.get

    def counted(site: DirectorySite, key: Key, **more: Any) -> bytes:
        if "/statement/" in key:
            read.append((site.address, key))
        return get(site, key, **more)

    monkeypatch.setattr(DirectorySite, "get", counted)
    return read


def test_rebuild_mends_a_spoilt_statement_and_token(home: Dated) -> None:
    """Wrong bytes under a statement's or token's name are replaced by `site rebuild`."""
    there = public(home, "nord")
    by_sync(home)
    for key in there:
        (home.site("lux") / key).chmod(0o600)
        (home.site("lux") / key).write_bytes(b"spoilt")
    by_rebuild(home)
    assert public(home, "lux") == there


class _Listed:
    """A site of names alone."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return (ObjectStat(Key(name), 1) for name in self._names)

    def get(self, key: Key, *, limit: int) -> bytes:
        return b"said"


def test_after_decades_of_statements_the_newest_is_carried_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state speaks every hour by three voices: what it says today stands behind all of that in a list."""
    monkeypatch.setattr(carry_public, "_is_public_statement", lambda view, key, data: True)
    names = [f"{number:08}/{number}" for number in range(150_000)]
    view, target = SimpleNamespace(state="f" * 64), _Listed(names[:-1])
    lacking = carry_public._public_statements(view, target, {"nord": _Listed(names)}, mend=False)  # type: ignore[arg-type, dict-item]
    assert [key for key, _ in lacking] == [names[-1]]

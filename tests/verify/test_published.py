"""What the chain says is published must all be there: what is missing is named, and nothing else counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exclave.formats.edition import BUNDLE_HEADER, HEADER
from exclave.ids import Fingerprint, Key, now, sha256
from exclave.sites.contract import ObjectStat
from exclave.sites.directory import DirectorySite
from exclave.verify.embassy import verify_embassy
from support.gazette_state import gazette_home, put
from support.small_home import SmallHome, run, tree_of


@pytest.fixture
def home(tmp_path: Path) -> SmallHome:
    """Two editions of a gazette, at three sites."""
    made, acts = gazette_home(tmp_path)
    for number in range(2):
        put(acts, {f"new-{number}.txt": b"another act " * 50})
        made.backup()
        made.ok("publish", "gazette", "--yes", *made.home)
    return made


def published(home: SmallHome, site: str, starts: str) -> list[Path]:
    """Published objects at ``site`` that begin so."""
    root = home.site(site)
    names = [root / key for key in tree_of(root) if "/public/" in key]
    return [path for path in names if path.read_bytes().startswith(starts.encode())]


def told(report: Any) -> list[tuple[str, str, bool]]:
    return [(f["site"], f["fault"], f["grave"]) for f in report["findings"] if "/public/" in f["what"]]


def spoil(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def test_all_that_is_published_is_there(home: SmallHome) -> None:
    """The version that is public, and the sites that hold all of it, are told."""
    report = home.verify()
    shown = report["registers"][0]["published"]
    assert (shown["sequence"], shown["complete"]) == (2, list(home.sites))
    assert told(report) == []
    assert "version 2 of Riigi Teataja is public" in run("verify", *home.where()).out


@pytest.mark.parametrize("what", [HEADER, BUNDLE_HEADER.decode()])
@pytest.mark.parametrize("wrong", [Path.unlink, spoil])
def test_what_is_missing_is_named(home: SmallHome, what: str, wrong: Callable[[Path], None]) -> None:
    """An edition or bundle that a site lost or spoilt is a fault of that site, by name; a rebuild brings it back."""
    objects = published(home, "lux", what)
    assert len(objects) == 2
    for path in objects:
        wrong(path)
    report = home.verify(code=20)
    fault = "missing-object" if wrong is Path.unlink else "corrupt-object"
    assert told(report) == [("lux", fault, True)] * 2
    assert {f["what"].rpartition("/")[2] for f in report["findings"] if "/public/" in f["what"]} == {
        path.name for path in objects
    }
    assert report["registers"][0]["published"]["complete"] == [name for name in home.sites if name != "lux"]
    home.ok("site", "rebuild", "lux", *home.where())
    assert told(home.verify()) == []


def test_an_edition_without_end_is_not_read(home: SmallHome) -> None:
    """A host that lists an edition as a terabyte, and serves any number of bytes of it, holds nobody up."""
    pieces: list[str] = []

    class Endless(DirectorySite):
        def list(self, prefix: str) -> Iterator[ObjectStat]:
            for stat in super().list(prefix):
                long = "/public/" in stat.key and self.get(stat.key).startswith(HEADER.encode())
                yield ObjectStat(stat.key, 1 << 40) if long else stat

        def get_range(self, key: Key, offset: int, length: int) -> bytes:
            if "/public/" not in key:
                return super().get_range(key, offset, length)
            pieces.append(key)
            assert len(pieces) < 100
            return bytes(length)

    report = verify_embassy({"lux": Endless(str(home.site("lux")))}, Fingerprint(home.fingerprint), now=now())
    wrong = sorted(one.detail for one in report.findings if "/public/" in one.what)
    assert wrong == [f"edition {number} is listed with {1 << 40} bytes" for number in (1, 2)]
    assert not pieces


def test_lost_everywhere(home: SmallHome) -> None:
    """What no site has any more is missing at each; if it is the edition in force, nobody knows what it listed."""
    for name in home.sites:
        for path in published(home, name, HEADER):
            path.unlink()
    report = home.verify(code=20)
    assert told(report) == [(name, "missing-object", True) for name in home.sites for _ in range(2)]
    assert report["registers"][0]["published"] is None
    assert ("?", "edition 2") in {(f["site"], f["what"]) for f in report["findings"]}


def test_what_no_edition_names_counts_for_nothing(home: SmallHome) -> None:
    """Planted objects are told in one note, are no fault, and are carried nowhere."""
    (bundle, *_) = published(home, "nord", BUNDLE_HEADER.decode())
    for number in range(3):
        data = bundle.read_bytes() + bytes([number])
        name = sha256(data).hex()
        target = bundle.parents[1] / name[:2] / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    report = home.verify()
    (note,) = [f for f in report["findings"] if f["fault"] == "not-published"]
    assert (note["site"], note["grave"]) == ("nord", False)
    assert note["detail"].startswith("3 objects ")
    before = published(home, "lux", "")
    home.ok("site", "sync", "lux", "--from", "nord", *home.where())
    assert published(home, "lux", "") == before


def test_a_site_that_was_away_lacks_nothing_afterwards(home: SmallHome) -> None:
    """A site that missed an edition is not blamed for what its ledger does not say, and the next publication or sync
    brings it the edition in between too."""
    acts = home.root / "gazette"
    away = home.site("lux").rename(home.root / "away")
    put(acts, {"third.txt": b"third"})
    run("backup", *home.home)
    run("publish", "gazette", "--yes", *home.home)
    away.rename(home.site("lux"))
    assert told(home.verify()) == []
    put(acts, {"fourth.txt": b"fourth"})
    home.backup()
    home.ok("publish", "gazette", "--yes", *home.home)
    report = home.verify()
    assert told(report) == []
    assert len(published(home, "lux", HEADER)) == 4

"""What a further version costs, and what happens when the caches are gone, damaged or wrong."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from exclave.errors import UnavailableError
from exclave.ids import Label
from exclave.sites.memory import MemorySite
from exclave.vault.chunker import LARGEST_BYTES
from exclave.vault.index import ChunkIndex
from support.vault import DOCS, Vault, packs, picture, repeated_chunks

ONE, TWO = Label("one"), Label("two")
TREE_BYTES = 60 << 20


def grow(root: Path, seed: int, total: int = TREE_BYTES) -> None:
    """A tree of incompressible files from some bytes to some MiB, old enough to be trusted."""
    noise = random.Random(seed)
    left, n = total, 0
    while left > 0:
        size = min(left, noise.choice([500, 5_000, 50_000, 400_000, 3_000_000]))
        path = root / f"{n % 40:02}" / f"{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise.randbytes(size))
        left -= size
        n += 1


def rest() -> None:
    """Until what was just written is older than a tick of the file system's clock."""
    end = time.monotonic() + 0.06
    while time.monotonic() < end:
        os.sched_yield()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tree, and the cache and site of its first version (as a pickled copy on disk)."""
    work = tmp_path_factory.mktemp("grown")
    grow(work / "src", 21)
    rest()
    return work / "src", work


@pytest.fixture
def vault(grown: tuple[Path, Path], tmp_path: Path) -> Vault:
    """A vault that holds the first version of the tree."""
    made = Vault(tmp_path / "cache", {ONE: MemorySite("one")})
    made.back_up(grown[0])
    return made


def test_an_unchanged_tree_costs_a_few_kilobytes(grown: tuple[Path, Path], vault: Vault) -> None:
    """Nothing is read, and only a root, a few nodes and a list are shipped."""
    second = vault.back_up(grown[0])
    third = vault.back_up(grown[0])
    for version in (second, third):
        assert version.read_bytes == 0
        assert version.new_chunks <= 6
        assert version.packs == 1
    assert second.shipped_bytes <= 24 << 10
    assert third.shipped_bytes <= 6 << 10


def test_one_percent_changed_ships_about_that(grown: tuple[Path, Path], vault: Vault, tmp_path: Path) -> None:
    """New files of 1 % of the tree, a block inside a large file, a rename and a touch: little more is shipped."""
    src = tmp_path / "src"
    shutil.copytree(grown[0], src, symlinks=True)
    rest()
    vault.back_up(src)  # the copies have other inodes: all is read, nothing is new
    base = vault.back_up(src)
    assert base.read_bytes == 0
    grow(src / "new", 22, TREE_BYTES // 100)
    os.utime(src / "new" / "00" / "0")
    version = vault.back_up(src)
    assert version.shipped_bytes <= TREE_BYTES // 50
    assert version.read_bytes <= TREE_BYTES // 100
    rest()
    (src / "00").rename(src / "moved")
    renamed = vault.back_up(src)
    assert renamed.new_raw_bytes <= TREE_BYTES // 50
    assert renamed.shipped_bytes <= TREE_BYTES // 40
    rest()
    large = max(src.rglob("*"), key=lambda path: path.stat().st_size)
    with large.open("r+b") as file:
        file.seek(1 << 20)
        file.write(os.urandom(10))
    edited = vault.back_up(src)
    assert edited.new_raw_bytes <= LARGEST_BYTES + (200 << 10)
    vault.restore(edited, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)


def test_a_grown_log_ships_its_end(vault: Vault, tmp_path: Path) -> None:
    """A file that grew by 1 % ships the chunks at its end only."""
    src = tmp_path / "src"
    src.mkdir()
    noise = random.Random(5)
    (src / "log").write_bytes(noise.randbytes(20 << 20))
    vault.back_up(src)
    with (src / "log").open("ab") as file:
        file.write(noise.randbytes(200 << 10))
    assert vault.back_up(src).new_raw_bytes <= LARGEST_BYTES + (300 << 10)


@pytest.mark.parametrize(
    "harm",
    ["both gone", "index gone", "catalogue gone", "index garbage", "catalogue garbage", "index truncated",
     "catalogue cut", "machine went down"],
)  # fmt: skip
def test_caches_may_be_lost_or_damaged(
    harm: str, grown: tuple[Path, Path], vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run rebuilds what it needs from the site, ships no chunk twice, and its version is whole."""
    src = grown[0]
    index, catalogue = vault.cache / "index.sqlite", vault.cache / f"{DOCS}.catalogue"
    before = packs(vault.sites[ONE])
    if harm in ("both gone", "index gone"):
        index.unlink()
    if harm in ("both gone", "catalogue gone"):
        catalogue.unlink()
    if harm == "index garbage":
        index.write_bytes(random.Random(1).randbytes(50_000))
    if harm == "index truncated":
        os.truncate(index, index.stat().st_size // 2)
    if harm == "catalogue garbage":
        catalogue.write_bytes(random.Random(2).randbytes(50_000))
    if harm == "catalogue cut":
        os.truncate(catalogue, catalogue.stat().st_size // 2 + 3)
    if harm == "machine went down":
        db = sqlite3.connect(index)
        db.execute("INSERT INTO used VALUES('another boot')")
        db.execute("DELETE FROM chunk")
        db.commit()
        db.close()
    version = vault.back_up(src)
    assert version.new_raw_bytes <= TREE_BYTES // 50, "only where the stream of small files starts elsewhere"
    assert not repeated_chunks(vault.sites[ONE])
    assert sum(packs(vault.sites[ONE]).values()) <= sum(before.values()) + TREE_BYTES // 50
    vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)


def test_one_flipped_bit_in_the_catalogue_is_never_believed(tmp_path: Path) -> None:
    """Wherever it is, the next version is whole."""
    src = tmp_path / "src"
    src.mkdir()
    for n in range(20):
        (src / f"{n}").write_bytes(os.urandom(100))
    rest()
    vault = Vault(tmp_path / "cache")
    vault.back_up(src)
    catalogue = vault.cache / f"{DOCS}.catalogue"
    good = catalogue.read_bytes()
    noise = random.Random(6)
    for n in range(40):
        bad = bytearray(good)
        bad[noise.randrange(len(bad))] ^= 1 << noise.randrange(8)
        catalogue.write_bytes(bad)
        vault.restore(vault.back_up(src), tmp_path / f"out{n}")
        assert picture(tmp_path / f"out{n}") == picture(src)


def test_damage_that_shows_late_is_reported_and_the_cache_removed(vault: Vault, tmp_path: Path) -> None:
    """An index that breaks in the middle of a run ends it; the run after that starts from the sites."""
    path = vault.cache / "index.sqlite"
    with path.open("r+b") as file:
        size = path.stat().st_size
        for at in range(8 * 4096, size, 4096):
            file.seek(at)
            file.write(b"\xee" * 4096)
    src = tmp_path / "src"
    grow(src, 33, 3 << 20)
    with contextlib.suppress(UnavailableError):
        vault.back_up(src)
    version = vault.back_up(src)
    vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)


def test_a_catalogue_without_its_index_is_not_trusted(grown: tuple[Path, Path], vault: Vault, tmp_path: Path) -> None:
    """References of the last catalogue to packs that no site of this run holds are not used again."""
    src = grown[0]
    vault.sites = {TWO: MemorySite("two")}
    version = vault.back_up(src)
    vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)


def test_a_pack_that_vanished_is_shipped_again(grown: tuple[Path, Path], vault: Vault, tmp_path: Path) -> None:
    """A site that lost a pack gets its chunks anew with the next version, though nothing changed at the source."""
    from support.hostile import MissingSite

    src = grown[0]
    site = vault.sites[ONE]
    gone = max(packs(site), key=lambda name: packs(site)[name]).hex()
    vault.sites = {ONE: MissingSite(site, lambda key: gone in key)}
    version = vault.back_up(src)
    assert 1 << 20 <= version.new_raw_bytes <= 20 << 20
    vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)


def test_memory_of_waiting_records_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries without content do not pile up behind each other."""
    from exclave.formats.entry import Captured, Entry
    from exclave.vault import ingest

    most = 0

    def watch(self: ingest.Ingest) -> None:
        nonlocal most
        most = max(most, len(self._jobs))
        whole(self)

    whole = ingest.Ingest.drain
    monkeypatch.setattr(ingest.Ingest, "drain", watch)
    vault = Vault(tmp_path / "cache")
    items = [Captured(Entry(b"", 1, 0o755, 0, 0, 0))]
    items += [Captured(Entry(b"%06d" % n, 2, 0o777, 0, 0, 0, 0, b"target")) for n in range(40_000)]
    vault.back_up(items)
    assert most <= ingest.MOST_WAITING + 1


def test_the_index_counts_only_the_sites_of_the_run(tmp_path: Path) -> None:
    """A pack at a site that takes no part is unknown to ``lookup`` and ``held``."""
    from exclave.formats.pack import TableRow
    from exclave.ids import ChunkId, Digest, Epoch

    index = ChunkIndex(tmp_path / "i")
    index.intend(Digest(b"p" * 32), 4096, Epoch(1), [TableRow(ChunkId(b"c" * 32), 2000, 30, 10)])
    assert not index.lookup([ChunkId(b"c" * 32)])
    index.confirm(Digest(b"p" * 32), "one")
    assert index.lookup([ChunkId(b"c" * 32)])
    index.count_only(["two"])
    assert not index.lookup([ChunkId(b"c" * 32)])
    assert not index.held()
    index.count_only(["two", "one"])
    assert index.held() == {b"p" * 32}
    index.close()

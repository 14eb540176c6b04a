"""A manifest may be an enemy's: nothing outside the target is touched, and what cannot be is refused."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from exclave.errors import CorruptObject, ExclaveError, MalformedError, UnavailableError
from exclave.formats.entry import Entry, Kind
from exclave.formats.manifest import VERSION, Branch, Extent, ExtentNode, Record, Ref, encode_node
from exclave.ids import ChunkId, Label
from exclave.vault.sealer import HERE
from support.vault import Forger, Vault

ROOT = Record(Entry(b"", Kind.FOLDER, 0o755, 0, 0, 0))


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("untouched")
    return Vault(tmp_path / "cache")


@pytest.fixture
def forger(vault: Vault) -> Forger:
    return Forger(vault.sites[Label("one")])


def folder(path: bytes) -> Record:
    return Record(Entry(path, Kind.FOLDER, 0o755, 0, 0, 0))


def file(path: bytes, size: int = 0, *extents: Extent, lists: tuple[Ref, ...] = ()) -> Record:
    return Record(Entry(path, Kind.FILE, 0o644, 0, 0, 0, size), extents, b"h" * 32, lists)


def symlink(path: bytes, target: bytes) -> Record:
    return Record(Entry(path, Kind.SYMLINK, 0o777, 0, 0, 0, 0, target))


def hardlink(path: bytes, target: bytes) -> Record:
    return Record(Entry(path, Kind.HARDLINK, 0, 0, 0, 0, 0, target))


def refused(vault: Vault, manifest: bytes, tmp_path: Path, *, why: tuple[type[ExclaveError], ...]) -> None:
    before = _all_of(tmp_path / "outside")
    with pytest.raises(why):
        vault.restore(manifest, tmp_path / "out")  # type: ignore[arg-type]
    assert _all_of(tmp_path / "outside") == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name not in ("cache", "out")) == ["outside"]
    shutil.rmtree(tmp_path / "out")


def _all_of(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in root.rglob("*")}


WRONG = (CorruptObject, MalformedError)
TREES: dict[str, list[Record]] = {
    "parent": [ROOT, file(b"../evil")],
    "parent inside": [ROOT, folder(b"a"), file(b"a/../../evil")],
    "absolute": [ROOT, file(b"/etc/evil")],
    "dot": [ROOT, file(b"./evil")],
    "empty part": [ROOT, folder(b"a"), file(b"a//evil")],
    "trailing slash": [ROOT, folder(b"a/")],
    "zero byte": [ROOT, file(b"ev\0il")],
    "long name": [ROOT, file(b"n" * 256)],
    "out of order": [ROOT, file(b"b"), file(b"a")],
    "twice": [ROOT, file(b"a"), file(b"a")],
    "folder twice": [ROOT, folder(b"a"), file(b"a/x"), folder(b"a")],
    "no root": [file(b"a")],
    "root is a link": [symlink(b"", b"outside")],
    "root is a file": [file(b"")],
    "under a link": [ROOT, symlink(b"a", b"../outside"), file(b"a/evil")],
    "link then folder": [ROOT, symlink(b"a", b"../outside"), folder(b"a"), file(b"a/evil")],
    "folder then link": [ROOT, folder(b"a"), symlink(b"a", b"../outside"), file(b"a/evil")],
    "under a file": [ROOT, file(b"a"), file(b"a/evil")],
    "under a FIFO": [ROOT, Record(Entry(b"a", Kind.FIFO, 0o600, 0, 0, 0)), file(b"a/evil")],
    "under a hard link": [ROOT, folder(b"a"), hardlink(b"b", b"a"), file(b"b/evil")],
    "without its folder": [ROOT, file(b"a/evil")],
    "cousin's folder": [ROOT, folder(b"a"), folder(b"a/b"), folder(b"c"), file(b"c/b/evil")],
    "hard link up": [ROOT, hardlink(b"a", b"../outside/secret")],
    "hard link away": [ROOT, hardlink(b"a", b"/etc/passwd")],
    "unknown kind": [ROOT, Record(Entry(b"a", 8, 0, 0, 0, 0))],
    "negative kind": [ROOT, Record(Entry(b"a", -1, 0, 0, 0, 0))],
    "mode": [ROOT, Record(Entry(b"a", 0, 0o10000, 0, 0, 0))],
    "owner": [ROOT, Record(Entry(b"a", 0, 0, 2**32 - 1, 0, 0))],
    "negative owner": [ROOT, Record(Entry(b"a", 0, 0, 0, -1, 0))],
    "time": [ROOT, Record(Entry(b"a", 0, 0, 0, 0, 2**63))],
    "negative size": [ROOT, file(b"a", -1)],
    "size over 63 bits": [ROOT, file(b"a", 2**63, Extent(-1, 0, 2**63))],
    "folder with a size": [ROOT, Record(Entry(b"a", 1, 0, 0, 0, 0, 5), (Extent(-1, 0, 5),))],
    "link with content": [ROOT, Record(Entry(b"a", 2, 0, 0, 0, 0, 0, b"x"), (), b"", (Ref(HERE, 2000, 20, 5, HERE),))],
    "link without target": [ROOT, symlink(b"a", b"")],
    "zero byte in a target": [ROOT, symlink(b"a", b"x\0y")],
    "attribute without name": [ROOT, Record(Entry(b"a", 0, 0, 0, 0, 0, xattrs=((b"", b"x"),)))],
    "zero byte in an attribute": [ROOT, Record(Entry(b"a", 0, 0, 0, 0, 0, xattrs=((b"user.\0", b"x"),)))],
    "size without content": [ROOT, file(b"a", 10)],
    "content without size": [ROOT, file(b"a", 0, Extent(-1, 0, 10))],
    "empty extent": [ROOT, file(b"a", 0, Extent(-1, 0, 0))],
    "negative extent": [ROOT, file(b"a", 5, Extent(-1, 0, 10), Extent(-1, 0, -5))],
    "extent of no chunk": [ROOT, file(b"a", 5, Extent(0, 0, 5))],
    "extent before the table": [ROOT, file(b"a", 5, Extent(-2, 0, 5))],
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_impossible_trees_are_refused(name: str, vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """Entries that no capture makes end the restore, and nothing outside the target changes."""
    refused(vault, forger.of_records(TREES[name]), tmp_path, why=WRONG)


def test_hard_links_do_not_follow_planted_links(vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """A hard link whose path leads through a restored symbolic link does not reach what is outside."""
    records = [ROOT, symlink(b"a", os.fsencode(tmp_path / "outside")), hardlink(b"b", b"a/secret")]
    refused(vault, forger.of_records(records), tmp_path, why=WRONG)
    assert os.stat(tmp_path / "outside" / "secret").st_nlink == 1


def test_hard_link_to_a_symbolic_link_links_the_link(vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """Its owner, mode and times are not set through it either."""
    before = os.stat(tmp_path / "outside" / "secret")
    records = [ROOT, symlink(b"a", os.fsencode(tmp_path / "outside" / "secret")), hardlink(b"b", b"a")]
    vault.restore(forger.of_records(records), tmp_path / "out")
    after = os.stat(tmp_path / "outside" / "secret")
    assert (before.st_mtime_ns, before.st_mode, before.st_nlink) == (after.st_mtime_ns, after.st_mode, after.st_nlink)
    assert stat.S_ISLNK(os.lstat(tmp_path / "out" / "b").st_mode)


def test_links_to_nothing_are_reported(vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """A hard link to an entry that is not there, or to a folder, is listed as not restored."""
    records = [ROOT, folder(b"a"), hardlink(b"b", b"zzz"), hardlink(b"c", b"a"), hardlink(b"d", b"a/none")]
    sink, _ = vault.restore(forger.of_records(records), tmp_path / "out")
    assert sink.unrestored.count == 3
    assert [path for _, path in sink.unrestored.first] == ["b", "c", "d"]


@pytest.mark.parametrize("size", [2**62, 2**63 - 1])
def test_giant_sizes_take_no_space(size: int, vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """A file announced as a hole of exabytes is refused by the file system, in Exclave's words."""
    refused(vault, forger.of_records([ROOT, file(b"a", size, Extent(-1, 0, size))]), tmp_path, why=(UnavailableError,))


def test_extents_beyond_the_chunk(vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """An extent that reaches past its chunk, or starts before it, is refused."""
    ref = forger.chunk(b"twelve bytes")
    for extent in [Extent(0, 8, 8), Extent(0, -4, 8), Extent(0, 2**62, 8)]:
        manifest = forger.of_records([ROOT, file(b"a", 8, extent)], [ref])
        refused(vault, manifest, tmp_path, why=WRONG)


def test_a_chunk_that_lies_about_its_length(vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """A frame that decompresses to another length than its reference says is refused before it takes memory."""
    for announced in [5, 2 << 20]:
        ref = forger.chunk(bytes(1 << 20), announce=announced)
        manifest = forger.of_records([ROOT, file(b"a", 5, Extent(0, 0, 5))], [ref])
        with pytest.raises(ExclaveError):
            vault.restore(manifest, tmp_path / f"out{announced}")


def test_a_chunk_of_another_id(vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """Content that is not what its id says is refused even if it was sealed with the right key."""
    ref = forger.chunk(b"other content", chunk=ChunkId(b"z" * 32))
    manifest = forger.of_records([ROOT, file(b"a", 5, Extent(0, 0, 5))], [ref])
    with pytest.raises(ExclaveError):
        vault.restore(manifest, tmp_path / "out")


@pytest.mark.parametrize("total", [99, 101, 2**63])
def test_extent_lists_that_do_not_add_up(total: int, vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """Listed extents longer or shorter than the file are refused, without writing to a file that is closed."""
    ref = forger.chunk(b"x" * 50)
    node = ExtentNode(VERSION, (ref.pack,), ((0, ref.offset, ref.length, 50, ref.id),), (Extent(0, 0, 50),))
    rest = ExtentNode(VERSION, (ref.pack,), ((0, ref.offset, ref.length, 50, ref.id),), (Extent(-1, 0, total - 50),))
    lists = (forger.chunk(encode_node(node)), forger.chunk(encode_node(rest)), forger.chunk(encode_node(node)))
    refused(vault, forger.of_records([ROOT, file(b"a", 100, lists=lists)]), tmp_path, why=WRONG)


def test_branches_that_lie(vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """Branches of a wrong level, repeated or empty leaves, and impossible depths are refused."""
    leaf = forger.chunk(forger.leaf([ROOT, file(b"a")]))
    empty = forger.chunk(forger.leaf([]))
    for branch, level in [
        (Branch(VERSION, 2, (leaf,), (b"",)), 1),
        (Branch(VERSION, 1, (leaf, leaf), (b"", b"b")), 1),
        (Branch(VERSION, 1, (leaf, empty, empty), (b"", b"b", b"c")), 1),
        (Branch(VERSION, 1, (leaf,), (b"a",)), 1),
        (Branch(VERSION, 1, (leaf,), ()), 1),
        (Branch(VERSION, 1, (leaf,), (b"",)), 13),
        (Branch(VERSION, 1, (leaf,), (b"",)), -1),
        (Branch(VERSION, 1, (leaf,), (b"",)), 0),
        (Branch(VERSION, 1, (), ()), 1),
    ]:
        manifest = forger.version(forger.chunk(encode_node(branch)), level=level, entries=2)
        refused(vault, manifest, tmp_path, why=WRONG)


def test_a_wrong_number_of_entries(vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """A tree with more or fewer entries than its root says is refused."""
    for entries in [0, 1, 3]:
        manifest = forger.version(forger.chunk(forger.leaf([ROOT, file(b"a")])), entries=entries)
        with pytest.raises(CorruptObject):
            vault.restore(manifest, tmp_path / f"out{entries}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_devices_are_restored_as_devices_only(vault: Vault, forger: Forger, tmp_path: Path) -> None:
    """A device node of a manifest is made inside the target, and its mode is what the manifest says."""
    device = Record(Entry(b"null", Kind.CHAR_DEVICE, 0o600, 0, 0, 0, device=os.makedev(1, 3)))
    vault.restore(forger.of_records([ROOT, device]), tmp_path / "out")
    assert os.lstat(tmp_path / "out" / "null").st_rdev == os.makedev(1, 3)

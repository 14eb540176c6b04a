"""Reading single places of a version: the right bytes, no more than needed, from whichever site is honest."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.errors import CorruptObject, ExclaveError, MissingObject
from exclave.formats.entry import Entry, Kind, walk_order
from exclave.formats.manifest import VERSION, Branch, Record, encode_node
from exclave.formats.pack import HEADER_BYTES
from exclave.ids import Digest, Label
from exclave.sites.contract import Readable, Site
from exclave.sites.memory import MemorySite
from exclave.sites.recording import RecordingSite
from exclave.vault.lookup import TreeLookup
from exclave.vault.opener import PackReader
from exclave.vault.reading import ChunkCache, FaultLog, OpenFile
from support.hostile import Choice, FlippingSite, MissingSite, containing
from support.vault import Forger, Vault

ROOT = Record(Entry(b"", Kind.FOLDER, 0o755, 0, 0, 0))


@contextmanager
def looked_up(
    vault: Vault, manifest: Digest, sites: dict[Label, Readable] | None = None, *, cache_bytes: int = 64 << 20
) -> Iterator[tuple[TreeLookup, PackReader, ChunkCache]]:
    reader = vault.reader(sites)
    cache = ChunkCache(cache_bytes)
    try:
        yield TreeLookup(cache, reader, reader.root(manifest).datasets[0]), reader, cache
    finally:
        cache.close()


def opened(tree: TreeLookup, path: bytes) -> OpenFile:
    found = tree.find(path)
    assert found is not None
    return tree.open(found)


def recorded(vault: Vault) -> RecordingSite:
    return RecordingSite(vault.sites[Label("one")], keep_calls=True)


def test_a_random_read_fetches_one_chunk(tmp_path: Path) -> None:
    """A read of 4 KiB fetches the record of one chunk, and of a pack that is new its header; nothing is read ahead."""
    (tmp_path / "tree").mkdir()
    content = random.Random(1).randbytes(24 << 20)
    (tmp_path / "tree" / "big").write_bytes(content)
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    site = recorded(vault)
    with looked_up(vault, version.manifest, {Label("one"): site}) as (tree, _, _):
        file, leaf = opened(tree, b"big"), tree.find(b"big")
        assert leaf is not None
        longest = max(row[2] for row in leaf.leaf.chunks)
        chooser = random.Random(2)
        for _ in range(40):
            at = chooser.randrange(len(content) - 4096)
            site.forget()
            assert file.read(at, 4096) == content[at : at + 4096]
            reads = [call.read_bytes for call in site.calls if call.read_bytes != HEADER_BYTES]
            assert len(reads) <= 2  # two where the place straddles a cut
            assert all(size <= longest for size in reads)
            headers = site.totals.operations.get("get_range", 0) - len(reads)
            assert headers <= len(reads)


def test_a_path_is_found_by_its_own_nodes(tmp_path: Path) -> None:
    """In a tree of 6,000 files in 60 folders, one name and one folder take a small part of the manifest's nodes."""
    for folder in range(60):
        (tmp_path / "tree" / f"folder-{folder:02}").mkdir(parents=True)
        for name in range(100):
            (tmp_path / "tree" / f"folder-{folder:02}" / f"file-{name:03}").write_bytes(b"%d" % name)
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    with looked_up(vault, version.manifest) as (_, reader, _):
        dataset = reader.root(version.manifest).datasets[0]
        whole = sum(1 for _ in reader.leaves(dataset))
        assert dataset.level >= 1
        assert whole >= 12
    read: list[bytes] = []
    with looked_up(vault, version.manifest) as (tree, reader, _):
        reader.verified = lambda ref, _: read.append(ref.id)
        found = tree.find(b"folder-31/file-050")
        assert found is not None
        assert len(read) <= dataset.level + 1
        assert tree.find(b"folder-31/file-050x") is None
        names = [item.entry.path for item in tree.children(b"folder-31")]
        assert names == [b"folder-31/file-%03d" % n for n in range(100)]
        assert len(read) < whole // 2
        assert [item.entry.path for item in tree.children(b"")] == [b"folder-%02d" % n for n in range(60)]


def test_every_entry_is_found(tmp_path: Path) -> None:
    """Names that sort awkwardly around ``/`` are listed and found as the walk has them; folders end where they end."""
    names = [b"a", b"a b", b"a!", b"a-b", b"a.d", b"\x01", b"\xff", b"a\xff", b"z" * 255]
    base = os.fsencode(tmp_path / "tree")
    os.mkdir(base)
    for name in names:
        os.mkdir(base + b"/" + name)
        for inner in names:
            with open(base + b"/" + name + b"/" + inner, "wb") as file:
                file.write(name[:3] + inner)
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    with looked_up(vault, version.manifest) as (tree, _, _):
        assert [item.entry.path for item in tree.children(b"")] == sorted(names)
        for name in names:
            assert [i.entry.path.rpartition(b"/")[2] for i in tree.children(name)] == sorted(names)
            for inner in names:
                assert opened(tree, name + b"/" + inner).read(0, 500) == name[:3] + inner
        assert tree.find(b"a/b") is None
        assert list(tree.children(b"nothing")) == []


def test_any_place_of_any_file(tmp_path: Path) -> None:
    """Files with holes, with more extents than a leaf holds, and of every length around a chunk's give the same bytes
    at every place as the source.
    """
    (tmp_path / "tree").mkdir()
    chooser = random.Random(3)
    with open(tmp_path / "tree" / "holes", "wb") as file:
        for part in range(1400):  # 2800 extents: they stand in extent nodes
            file.seek(part * 16384)
            file.write(chooser.randbytes(4096))
        file.truncate(1400 * 16384 + 99)
    (tmp_path / "tree" / "large").write_bytes(chooser.randbytes(3 << 20) + bytes(1 << 20) + chooser.randbytes(7))
    (tmp_path / "tree" / "empty").write_bytes(b"")
    (tmp_path / "tree" / "one").write_bytes(b"1")
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    with looked_up(vault, version.manifest) as (tree, _, _):
        assert tree.find(b"holes").record.lists  # type: ignore[union-attr]
        for name in (b"holes", b"large", b"empty", b"one"):
            content = (tmp_path / "tree" / os.fsdecode(name)).read_bytes()
            file = opened(tree, name)
            assert file.read(len(content), 10) == b""
            for _ in range(60):
                at, size = chooser.randrange(len(content) + 1), chooser.randrange(1, 300_000)
                assert file.read(at, size) == content[at : at + size]


def test_reading_in_order_is_read_ahead(tmp_path: Path) -> None:
    """A file read from start to end comes in fewer, larger fetches than it has chunks, each byte once."""
    (tmp_path / "tree").mkdir()
    content = random.Random(4).randbytes(40 << 20)
    (tmp_path / "tree" / "big").write_bytes(content)
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    site = recorded(vault)
    with looked_up(vault, version.manifest, {Label("one"): site}) as (tree, _, _):
        file, found = opened(tree, b"big"), tree.find(b"big")
        assert found is not None
        chunks = len({row[4] for row in found.leaf.chunks})
        site.forget()
        for at in range(0, len(content), 128 << 10):
            assert file.read(at, 128 << 10) == content[at : at + (128 << 10)]
        fetches = [call for call in site.calls if call.read_bytes > HEADER_BYTES]
        assert len(fetches) < chunks * 2 // 3
        assert site.totals.read_bytes < len(content) * 1.05


def test_memory_is_bounded(tmp_path: Path) -> None:
    """What is kept never exceeds the limit by more than one chunk, whatever is read."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "big").write_bytes(os.urandom(30 << 20))
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    with looked_up(vault, version.manifest, cache_bytes=6 << 20) as (tree, _, cache):
        file = opened(tree, b"big")
        for at in range(0, 30 << 20, 1 << 19):
            file.read(at, 4096)
            assert sum(map(len, cache._kept.values())) <= 6 << 20
            assert cache._kept_bytes == sum(map(len, cache._kept.values()))


def test_many_orderly_readers_share_the_room(tmp_path: Path) -> None:
    """Sixteen files read in order at once through a small memory: every byte is right, few are fetched twice."""
    (tmp_path / "tree").mkdir()
    contents = {b"%02d" % n: random.Random(n).randbytes(2 << 20) for n in range(16)}
    for name, content in contents.items():
        (tmp_path / "tree" / os.fsdecode(name)).write_bytes(content)
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    site = recorded(vault)
    with looked_up(vault, version.manifest, {Label("one"): site}, cache_bytes=24 << 20) as (tree, _, cache):
        files = {name: opened(tree, name) for name in contents}
        site.forget()
        for at in range(0, 2 << 20, 128 << 10):
            for name, file in files.items():
                assert file.read(at, 128 << 10) == contents[name][at : at + (128 << 10)]
                assert sum(cache._ahead.values()) <= 12 << 20
        assert site.totals.read_bytes < 1.5 * sum(map(len, contents.values()))


def test_many_readers_fetch_a_chunk_once(tmp_path: Path) -> None:
    """Sixteen threads that want the same place at the same time cause one fetch."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(os.urandom(100_000))
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    site = recorded(vault)
    with looked_up(vault, version.manifest, {Label("one"): site}) as (tree, _, _):
        file = opened(tree, b"a")
        site.forget()
        start, got = threading.Barrier(16), []

        def read() -> None:
            start.wait()
            got.append(file.read(10, 20))

        threads = [threading.Thread(target=read) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(got)) == 1
        assert len([c for c in site.calls if c.read_bytes and c.read_bytes != HEADER_BYTES]) == 1


def lying(inner: Site, only: Choice) -> Site:
    """Changes the sealed key of each pack."""
    return FlippingSite(inner, only, position=200)


@pytest.mark.parametrize("spoil", [lying, MissingSite])
def test_another_site_is_asked(spoil: Callable[[Site, Choice], Site], tmp_path: Path) -> None:
    """A site that lies or has lost its packs is named, and the bytes come from the other one."""
    (tmp_path / "tree").mkdir()
    content = os.urandom(3 << 20)
    (tmp_path / "tree" / "big").write_bytes(content)
    vault = Vault(tmp_path / "cache", {Label("one"): MemorySite("one"), Label("two"): MemorySite("two")})
    version = vault.back_up(tmp_path / "tree")
    manifest = version.manifest.hex()
    bad = spoil(vault.sites[Label("one")], lambda key: "/pack/" in key and manifest not in key)
    told: list[str] = []
    with looked_up(vault, version.manifest, {Label("one"): bad, Label("two"): vault.sites[Label("two")]}) as found:
        tree, reader, _ = found
        assert opened(tree, b"big").read(1 << 20, 70_000) == content[1 << 20 : (1 << 20) + 70_000]
        FaultLog(told.append).look(reader)
    assert told
    assert all(line.startswith("one: pack ") for line in told)


def test_when_all_sites_lie_nothing_is_given(tmp_path: Path) -> None:
    """Without a good copy a read fails; it never gives other bytes."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "big").write_bytes(os.urandom(1 << 20))
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    manifest = version.manifest.hex()
    bad = lying(vault.sites[Label("one")], lambda key: manifest not in key and containing("/pack/")(key))
    with looked_up(vault, version.manifest, {Label("one"): bad}) as (tree, _, _), pytest.raises(MissingObject):
        opened(tree, b"big").read(0, 4096)


def test_trees_that_lie(tmp_path: Path) -> None:
    """Branches whose bounds are false, leaves out of order, orphans and links to nothing fail when they are met."""
    vault = Vault(tmp_path / "cache")
    forger = Forger(vault.sites[Label("one")])

    def record(path: bytes, kind: Kind = Kind.FILE, target: bytes = b"") -> Record:
        return Record(Entry(path, kind, 0o644, 0, 0, 0, target=target))

    low = forger.chunk(forger.leaf([ROOT, record(b"a"), record(b"b")]))
    high = forger.chunk(forger.leaf([record(b"c"), record(b"d")]))
    mixed = forger.chunk(forger.leaf([record(b"b"), record(b"a")]))
    for branch, path in [
        (Branch(VERSION, 1, (low, high), (b"", b"bb")), b"c"),  # does not begin there
        (Branch(VERSION, 1, (low, high), (b"", b"a")), b"a"),  # neither does this one
        (Branch(VERSION, 1, (low, low), (b"", b"c")), b"c"),  # the same leaf twice
        (Branch(VERSION, 2, (low, high), (b"", b"c")), b"a"),  # of another level
        (Branch(VERSION, 1, (low, mixed), (b"", b"b")), b"c"),
        (Branch(VERSION, 1, (high,), (b"c",)), b"c"),  # no root
    ]:
        tree = forger.version(forger.chunk(encode_node(branch)), level=1, entries=5)
        with looked_up(vault, tree) as (lookup, _, _), pytest.raises(CorruptObject):
            lookup.find(path)
    for records, path in [
        ([ROOT, record(b"a/b")], None),
        ([record(b"", Kind.FILE)], b""),
        ([ROOT, record(b"x", Kind.HARDLINK, b"nothing")], b"x"),
        ([ROOT, record(b"x", Kind.HARDLINK, b"x")], b"x"),
    ]:
        with looked_up(vault, forger.of_records(records)) as (lookup, _, _):
            ask = partial(lookup.origin, path) if path is not None else lambda seen=lookup: list(seen.children(b""))
            with pytest.raises(CorruptObject):
                ask()


def test_whoever_waits_at_the_end_is_told(tmp_path: Path) -> None:
    """A cache that is closed answers what is asked later with an error, at once."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(os.urandom(1000))
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(tmp_path / "tree")
    with looked_up(vault, version.manifest) as (tree, _, cache):
        file = opened(tree, b"a")
        cache.close()
        with pytest.raises(ExclaveError, match="taken down"):
            file.read(0, 10)


NAMES = (
    st.binary(min_size=1, max_size=3)
    .map(lambda raw: raw.translate(bytes(range(256)), b"/\0"))
    .filter(lambda name: name not in (b"", b".", b".."))
)


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[Record], list[list[int]]]:
    """Entries in walk order, and how many of them each leaf and then each branch takes."""
    folders = {b""}
    paths: dict[bytes, Kind] = {b"": Kind.FOLDER}
    for name in draw(st.lists(NAMES, max_size=25, unique=True)):
        parent = draw(st.sampled_from(sorted(folders)))
        path = parent + b"/" + name if parent else name
        kind = draw(st.sampled_from([Kind.FILE, Kind.FOLDER]))
        paths[path] = kind
        folders |= {path} if kind is Kind.FOLDER else set()
    records = [Record(Entry(path, paths[path], 0o644, 0, 0, 0)) for path in sorted(paths, key=walk_order)]
    cuts = [draw(st.lists(st.integers(1, 4), min_size=30, max_size=30)) for _ in range(3)]
    return records, cuts


def groups(items: list[Any], sizes: list[int]) -> list[list[Any]]:
    found, at = [], 0
    for size in sizes:
        found.append(items[at : at + size])
        at += size
    return [group for group in found if group]


@given(trees())
@settings(max_examples=60, deadline=None)
def test_lookup_agrees_with_the_walk(made: tuple[list[Record], list[list[int]]]) -> None:
    """However a tree is cut into leaves and branches, every path is found, and each folder lists just its children."""
    records, cuts = made
    site = MemorySite("one")
    vault, forger = Vault(Path("unused"), {Label("one"): site}), Forger(site)
    leaves = groups(records, cuts[0])
    nodes = [(forger.chunk(forger.leaf(leaf)), leaf[0].entry.path) for leaf in leaves]
    level = 0
    for sizes in (cuts[1], cuts[2]):
        level += 1
        nodes = [
            (forger.chunk(encode_node(Branch(VERSION, level, tuple(r for r, _ in g), tuple(f for _, f in g)))), g[0][1])
            for g in groups(nodes, [size + 1 for size in sizes])
        ]
    while len(nodes) > 1:
        level += 1
        branch = Branch(VERSION, level, tuple(r for r, _ in nodes), tuple(f for _, f in nodes))
        nodes = [(forger.chunk(encode_node(branch)), nodes[0][1])]
    manifest = forger.version(nodes[0][0], level=level, entries=len(records))
    with looked_up(vault, manifest) as (tree, _, _):
        for record in records:
            path = record.entry.path
            found = tree.find(path)
            assert found is not None
            assert found.record == record
            assert tree.find(path + b"\x01never") is None
            inside = path + b"/" if path else b""
            below = [r.entry.path for r in records if r.entry.path.startswith(inside) and r.entry.path != path]
            direct = [p for p in below if b"/" not in p[len(inside) :]]
            assert [item.entry.path for item in tree.children(path)] == direct

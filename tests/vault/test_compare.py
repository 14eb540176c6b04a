"""Comparing two trees: what a plain walk over both would find, from far fewer nodes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from exclave.errors import CorruptObject
from exclave.formats.entry import Captured, Entry, Kind, walk_order
from exclave.formats.manifest import VERSION, Branch, Dataset, Record, Ref, encode_node
from exclave.vault.compare import Difference, changed_aspects, differences
from exclave.vault.opener import PackReader
from support.vault import DOCS, SECRETS, TIME, Forger, Vault

Tree = dict[bytes, tuple[bytes, int, int]]
"""Path → (content, mode, time)."""


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def blocks(self) -> Iterator[bytes]:
        if self._data:
            yield self._data


def captured(tree: Tree) -> Iterator[Captured]:
    """A capture of ``tree``, with the folders that its paths need."""
    folders = {path.rpartition(b"/")[0] for path in tree} | {b""}
    folders |= {b"/".join(f.split(b"/")[:n]) for f in folders for n in range(1, f.count(b"/") + 1)}
    for path in sorted({*tree, *folders}, key=walk_order):
        if path in tree:
            data, mode, time = tree[path]
            yield Captured(Entry(path, Kind.FILE, mode, 0, 0, time, len(data)), content=_Bytes(data))
        else:
            yield Captured(Entry(path, Kind.FOLDER, 0o755, 0, 0, 0))


def compare(vault: Vault, one: object, two: object) -> tuple[list[Difference], list[int]]:
    """Differences of two versions, and the levels of the nodes that were read."""
    sides = []
    for version in (one, two):
        reader = vault.reader()
        sides.append((reader, reader.root(version.manifest).datasets[0]))  # type: ignore[attr-defined]
    opened: list[int] = []
    return list(differences(*sides, opened.append)), opened


def expected(one: Tree, two: Tree) -> set[tuple[bytes, bool, bool]]:
    """(path, is in one, is in two) of everything that differs, without folders."""
    return {(p, p in one, p in two) for p in {*one, *two} if one.get(p) != two.get(p)}


def grown(rng: random.Random, files: int) -> Tree:
    return {b"f%02d/%05d.txt" % (n % 17, n): (rng.randbytes(rng.randint(0, 300)), 0o644, n) for n in range(files)}


def planted(folder: Path, files: int) -> None:
    """A folder of ``files`` small files, old enough for the next run to see at a glance that they are unchanged."""
    folder.mkdir(parents=True)
    for n in range(files):
        (folder / f"{n:05d}").write_text(str(n))
    time.sleep(0.06)


def edited(rng: random.Random, tree: Tree, share: float) -> Tree:
    """Some files changed, some gone, some new, among them a new folder."""
    made = dict(tree)
    for path in rng.sample(sorted(tree), int(len(tree) * share)):
        what = rng.random()
        if what < 0.4:
            made[path] = (rng.randbytes(50), *made[path][1:])
        elif what < 0.6:
            made[path] = (made[path][0], 0o600, made[path][2])
        elif what < 0.8:
            del made[path]
        else:
            made[path + b".new"] = (b"new", 0o644, 7)
    if rng.random() < 0.5:
        made |= {b"f05-inserted/%d" % n: (b"in", 0o644, 1) for n in range(rng.randint(1, 400))}
    return made


@pytest.mark.parametrize("seed", range(6))
def test_differences_are_those_of_a_plain_comparison(tmp_path: Path, seed: int) -> None:
    """Whatever was edited, exactly the entries that differ are found, in walk order and each once."""
    rng = random.Random(seed)
    vault = Vault(tmp_path / "cache")
    one = grown(rng, rng.choice((0, 1, 60, 1500, 4000)))
    two = edited(rng, one, rng.choice((0.0, 0.002, 0.1, 1.0)))
    found, _ = compare(vault, vault.back_up(captured(one)), vault.back_up(captured(two)))
    files = [d for d in found if Kind.FILE in {r.entry.kind for r in (d.before, d.after) if r}]
    assert {(d.path, d.before is not None, d.after is not None) for d in files} == expected(one, two)
    assert [walk_order(d.path) for d in found] == sorted({walk_order(d.path) for d in found})


def test_what_is_shared_is_not_read(tmp_path: Path) -> None:
    """One changed file in 8,000 costs the nodes on its way, on both sides; equal versions cost nothing."""
    vault = Vault(tmp_path / "cache")
    planted(tmp_path / "tree", 8000)
    first = vault.back_up(tmp_path / "tree")
    (tmp_path / "tree" / "04000").write_text("other")
    found, opened = compare(vault, first, vault.back_up(tmp_path / "tree"))
    assert [(d.path, d.aspects) for d in found] == [(b"04000", ("content", "time"))]
    assert len(opened) <= 14
    assert compare(vault, first, first) == ([], [])


def test_new_folder_before_everything(tmp_path: Path) -> None:
    """A thousand entries that push all others back do not make the others be read."""
    vault = Vault(tmp_path / "cache")
    planted(tmp_path / "tree" / "m", 8000)
    first = vault.back_up(tmp_path / "tree")
    planted(tmp_path / "tree" / "a", 1000)
    found, opened = compare(vault, first, vault.back_up(tmp_path / "tree"))
    assert [d.before for d in found] == [None] * 1001
    assert sum(level == 0 for level in opened) <= 12


def test_a_dataset_that_is_missing(tmp_path: Path) -> None:
    """Against a dataset that is not there, everything is new or gone."""
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(captured({b"a": (b"x", 0o644, 1)}))
    reader = vault.reader()
    side = (reader, reader.root(version.manifest).datasets[0])
    assert [d.after and d.after.entry.path for d in differences(None, side)] == [b"", b"a"]
    assert [d.before and d.before.entry.path for d in differences(side, None)] == [b"", b"a"]
    assert list(differences(None, None)) == []


def test_aspects() -> None:
    """Each part of an entry is named when it differs, and a change of type alone says all."""
    base = Entry(b"a", Kind.FILE, 0o644, 1, 1, 5, 3)
    record = Record(base, (), b"h" * 32)
    cases = {
        ("content",): Record(base, (), b"i" * 32),
        ("mode",): Record(Entry(b"a", 0, 0o600, 1, 1, 5, 3), (), b"h" * 32),
        ("owner",): Record(Entry(b"a", 0, 0o644, 2, 1, 5, 3), (), b"h" * 32),
        ("time",): Record(Entry(b"a", 0, 0o644, 1, 1, 6, 3), (), b"h" * 32),
        ("attributes",): Record(Entry(b"a", 0, 0o644, 1, 1, 5, 3, b"", ((b"user.x", b"1"),)), (), b"h" * 32),
        ("type",): Record(Entry(b"a", 1, 0o600, 1, 1, 9)),
        (): record,
    }
    for aspects, other in cases.items():
        assert changed_aspects(record, other) == aspects


def forged(children: Iterable[tuple[list[Record], bytes]], *, twice: bool = False) -> tuple[PackReader, Dataset]:
    """A tree of one branch over leaves that an enemy made; each with the path that the branch says it begins with."""
    vault = Vault(Path("/nonexistent"))
    site = next(iter(vault.sites.values()))
    forger = Forger(site)
    refs: list[Ref] = []
    firsts: list[bytes] = []
    for records, first in children:
        refs.append(refs[0] if twice and refs else forger.chunk(forger.leaf(records)))
        firsts.append(first)
    top = forger.chunk(encode_node(Branch(VERSION, 1, tuple(refs), tuple(firsts))))
    reader = vault.reader()
    reader.id_key = SECRETS.id_key
    return reader, Dataset(DOCS, "files", top, 1, 3, 0, TIME, {})


def folder(path: bytes) -> Record:
    return Record(Entry(path, Kind.FOLDER, 0o755, 0, 0, 0))


def test_hostile_trees_are_refused() -> None:
    """A node that stands twice, entries out of order and a branch that lies about them end with the right error."""
    good = [([folder(b""), folder(b"a")], b""), ([folder(b"b")], b"b")]
    assert len(list(differences(None, forged(good)))) == 3
    out_of_order = [([folder(b""), folder(b"c")], b""), ([folder(b"b")], b"b")]
    lying = [([folder(b""), folder(b"a")], b""), ([folder(b"c")], b"b")]
    for tree in (forged(out_of_order), forged(lying), forged(good, twice=True)):
        with pytest.raises(CorruptObject):
            list(differences(None, tree))

"""One path or one folder of a version, found by reading only the manifest's nodes on the way to it.

A branch says with which path each child begins (``formats/manifest.py``), and every node that is read must keep that
promise: so whatever a lie says elsewhere in the tree, what is found is what a restore would bring back.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from exclave.errors import CorruptObject, MalformedError
from exclave.formats.entry import Entry, Kind, check_path
from exclave.formats.manifest import (
    MAX_LEVEL,
    Branch,
    Dataset,
    Leaf,
    Record,
    Ref,
    check_ref,
    parse_branch,
    parse_leaf,
    walk_key,
)
from exclave.vault.opener import PackReader
from exclave.vault.reading import ChunkCache, OpenFile
from exclave.vault.sealer import HERE

NODE_BYTES: Final = 48 << 20
"""Memory for parsed nodes of a dataset, about."""
_PARSED: Final = 12
"""A parsed node takes about so many times the memory of its bytes."""


@dataclass(frozen=True, slots=True)
class Found:
    """One entry, and the leaf whose tables say where its content lies."""

    leaf: Leaf
    record: Record

    @property
    def entry(self) -> Entry:
        return self.record.entry


@dataclass(frozen=True, slots=True)
class _Node:
    """A parsed node with the keys of its records or children, and the key before which all in it must come."""

    node: Leaf | Branch
    keys: list[bytes]
    pack: bytes
    before: bytes | None

    def promised(self, level: int, begins: bytes, before: bytes | None) -> bool:
        """Whether it was checked against just this."""
        own = self.node.level if isinstance(self.node, Branch) else 0
        return (own, self.keys[:1], self.before) == (level, [begins], before)


class TreeLookup:
    """Paths of one dataset. Safe to call from several threads."""

    def __init__(self, cache: ChunkCache, reader: PackReader, dataset: Dataset) -> None:
        if not 0 <= dataset.level <= MAX_LEVEL:
            raise CorruptObject("a manifest's tree is impossibly deep")
        self._cache, self._reader, self._dataset = cache, reader, dataset
        self._nodes: OrderedDict[tuple[bytes, int], tuple[_Node, int]] = OrderedDict()
        self._nodes_bytes = 0
        self._lock = threading.Lock()

    def find(self, path: bytes) -> Found | None:
        """The entry at ``path``; the empty path is the dataset's root. None if there is none.

        ``MissingObject`` or ``CorruptObject`` if a node on the way cannot be had.
        """
        key = walk_key(path)
        leaf = self._seek(key)
        at = bisect_left(leaf.keys, key)
        if at < len(leaf.keys) and leaf.keys[at] == key:
            return _found(leaf, at)
        return None

    def origin(self, path: bytes) -> Found | None:
        """As ``find``; of a hard link the entry that it leads to. ``CorruptObject`` if that is none with content."""
        found = self.find(path)
        if found is None or found.entry.kind != Kind.HARDLINK:
            return found
        origin = self.find(found.entry.target)
        if origin is None or origin.entry.kind in (Kind.HARDLINK, Kind.FOLDER):
            raise CorruptObject(f"a hard link leads to nothing: {path[:80]!r}")
        return origin

    def children(self, folder: bytes) -> Iterator[Found]:
        """What lies in ``folder`` itself, in byte order of the names; what lies deeper is skipped, not read."""
        prefix = folder + b"/" if folder else b""
        start = walk_key(folder) + b"\0" if folder else b"\x01"  # no key lies between the folder's own and this
        while True:
            leaf = self._seek(start)
            at = bisect_left(leaf.keys, start)
            while at < len(leaf.keys):
                found = _found(leaf, at)
                path = found.entry.path
                if not path.startswith(prefix):
                    return
                if b"/" in path[len(prefix) :]:
                    raise CorruptObject(f"a manifest's entry is not in a folder: {path[:80]!r}")
                yield found
                start = leaf.keys[at] + b"\x01"  # after all that is below it
                at = bisect_left(leaf.keys, start, at) if found.entry.kind == Kind.FOLDER else at + 1
            if leaf.before is None:
                return
            start = max(start, leaf.before)

    def open(self, found: Found) -> OpenFile:
        """The content of a file."""
        return OpenFile(self._cache, self._reader, found.leaf, found.record)

    def _seek(self, key: bytes) -> _Node:
        """The leaf in whose range ``key`` lies."""
        level, ref = self._dataset.level, self._dataset.tree
        begins, before = b"", None
        node = self._node(ref, level, begins, before)
        while isinstance(node.node, Branch):
            at = max(bisect_right(node.keys, key) - 1, 0)
            child = node.node.children[at]
            ref = Ref(node.pack, child.offset, child.length, child.raw, child.id) if child.pack == HERE else child
            check_ref(ref)
            begins = node.keys[at]
            before = node.keys[at + 1] if at + 1 < len(node.keys) else node.before
            level -= 1
            node = self._node(ref, level, begins, before)
        return node

    def _node(self, ref: Ref, level: int, begins: bytes, before: bytes | None) -> _Node:
        place = ref.pack, ref.offset
        with self._lock:
            kept = self._nodes.get(place)
            if kept is not None:
                self._nodes.move_to_end(place)
        if kept is not None and kept[0].promised(level, begins, before):
            return kept[0]
        made = _parsed(self._cache.chunk(self._reader, ref), ref.pack, level, begins, before)
        with self._lock:
            former = self._nodes.pop(place, None)
            self._nodes[place] = made, ref.raw * _PARSED
            self._nodes_bytes += ref.raw * _PARSED - (former[1] if former else 0)
            while self._nodes_bytes > NODE_BYTES and len(self._nodes) > 1:
                self._nodes_bytes -= self._nodes.popitem(last=False)[1][1]
        return made


def _parsed(data: bytes, pack: bytes, level: int, begins: bytes, before: bytes | None) -> _Node:
    """Strict: the node's level, where it begins, its order, and that it ends before its neighbour begins."""
    node: Leaf | Branch
    if level == 0:
        node = parse_leaf(data)
        try:
            keys = [walk_key(check_path(record.entry.path)) for record in node.records]
        except MalformedError as error:
            raise CorruptObject(f"a manifest's leaf is malformed: {error.message}") from error
        if any(keys[at] >= keys[at + 1] for at in range(len(keys) - 1)):
            raise CorruptObject("a manifest's entries are out of order")
        if b"" in keys[:1] and node.records[0].entry.kind != Kind.FOLDER:
            raise CorruptObject("a dataset's root is not a folder")
    else:
        node = parse_branch(data)
        if node.level != level:
            raise CorruptObject("a manifest's branch is of another level than its parent says")
        keys = [walk_key(path) for path in node.firsts]
    if keys[:1] != [begins] or (before is not None and keys[-1] >= before):
        raise CorruptObject("a manifest's node does not hold what its parent says")
    return _Node(node, keys, pack, before)


def _found(leaf: _Node, at: int) -> Found:
    if not isinstance(leaf.node, Leaf):
        raise CorruptObject("a manifest's leaf is a branch")
    return Found(leaf.node, leaf.node.records[at])

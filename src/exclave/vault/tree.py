"""Records to leaves to branches: the sealed tree of one dataset.

Where a node ends depends on its last name or id alone, so a change writes only the nodes around it anew.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from exclave.errors import Bug
from exclave.formats.manifest import (
    HOLE,
    MAX_LEVEL,
    VERSION,
    Branch,
    Extent,
    ExtentNode,
    Leaf,
    Record,
    Ref,
    encode_node,
)
from exclave.vault.catalogue import FlatRecord, Part
from exclave.vault.sealer import HERE, Slot

LEAF_LEAST = 64
LEAF_MOST = 2048
LEAF_MASK = 0xFF
LEAF_MOST_CHUNKS = 8192
LEAF_MOST_BYTES = 2 << 20
"""A leaf is closed when its records are longer than this; readers refuse a node of more than 8 MiB."""
BRANCH_CUT = 4
BRANCH_MOST = 1024
BRANCH_MOST_PATHS = 1 << 20
"""Bytes of the paths in a branch: paths of 64 KiB must not make it longer than a node may be."""


class Tables:
    """A node's tables of packs and chunks while it is being built."""

    def __init__(self) -> None:
        self._packs: dict[bytes, int] = {}
        self._chunks: dict[tuple[bytes, int], int] = {}
        self._rows: list[tuple[int, int, int, int, bytes]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def extent(self, part: Part) -> Extent:
        """``part`` by positions in these tables."""
        ref = part.ref
        if ref is None:
            return Extent(HOLE, 0, part.length)
        key = (ref.pack, ref.offset)
        at = self._chunks.get(key)
        if at is None:
            pack = self._packs.setdefault(ref.pack, len(self._packs))
            at = self._chunks[key] = len(self._rows)
            self._rows.append((pack, ref.offset, ref.length, ref.raw, ref.id))
        return Extent(at, part.start, part.length)

    def packs(self) -> tuple[bytes, ...]:
        return tuple(self._packs)

    def chunks(self) -> tuple[tuple[int, int, int, int, bytes], ...]:
        return tuple(self._rows)


def encode_extents(parts: Sequence[Part]) -> bytes:
    """An extent node of ``parts``."""
    tables = Tables()
    extents = tuple(tables.extent(part) for part in parts)
    return encode_node(ExtentNode(VERSION, tables.packs(), tables.chunks(), extents))


class TreeBuilder:
    """Takes records in walk order; ``store`` seals a node and returns its slot."""

    def __init__(self, store: Callable[[bytes], Slot], needs: set[bytes]) -> None:
        """``needs`` collects the names of all packs that the tree refers to."""
        self._store = store
        self._needs = needs
        self._tables = Tables()
        self._records: list[Record] = []
        self._leaves: list[tuple[Slot, bytes]] = []
        """Each leaf, and the path of its first record."""
        self._leaf_bytes = 0
        self.entries = 0
        self.bytes = 0

    def add(self, flat: FlatRecord, size_bytes: int) -> None:
        """``size_bytes``: length of the encoded record, about what it adds to its leaf."""
        entry = flat.entry
        self._leaf_bytes += size_bytes
        extents = tuple([self._tables.extent(part) for part in flat.parts])
        self._records.append(Record(entry, extents, flat.hash, flat.lists))
        for ref in flat.lists:
            self._needs.add(ref.pack)
        self.entries += 1
        self.bytes += entry.size
        count = len(self._records)
        full = count >= LEAF_MOST or len(self._tables) >= LEAF_MOST_CHUNKS or self._leaf_bytes >= LEAF_MOST_BYTES
        if full or (count >= LEAF_LEAST and zlib.crc32(entry.path) & LEAF_MASK == LEAF_MASK):
            self._close_leaf()

    def need(self, packs: set[bytes]) -> None:
        """Packs that an extent node refers to."""
        self._needs.update(packs)

    def _close_leaf(self) -> None:
        leaf = Leaf(VERSION, self._tables.packs(), self._tables.chunks(), tuple(self._records))
        self._needs.update(leaf.packs)
        first = self._records[0].entry.path if self._records else b""
        self._leaves.append((self._store(encode_node(leaf)), first))
        self._tables, self._records, self._leaf_bytes = Tables(), [], 0

    def finish(self, place: Callable[[list[Slot], int], tuple[Ref, ...]]) -> tuple[Slot, int]:
        """Slot and level of the top node.

        ``place(slots, reserve)`` gives the references of ``slots`` for a node of at most ``reserve`` bytes to come.
        """
        if self._records or not self._leaves:
            self._close_leaf()
        nodes, level = self._leaves, 0
        while len(nodes) > 1:
            level += 1
            if level > MAX_LEVEL:
                raise Bug("a manifest's tree grows without end")
            above: list[tuple[Slot, bytes]] = []
            for group in _groups(nodes):
                firsts = tuple(first for _, first in group)
                refs = place([slot for slot, _ in group], 256 + 104 * len(group) + sum(map(len, firsts)))
                self._needs.update(ref.pack for ref in refs if ref.pack != HERE)
                above.append((self._store(encode_node(Branch(VERSION, level, refs, firsts))), firsts[0]))
            nodes = above
        return nodes[0][0], level


def _groups(nodes: list[tuple[Slot, bytes]]) -> list[list[tuple[Slot, bytes]]]:
    groups: list[list[tuple[Slot, bytes]]] = [[]]
    paths = 0
    for slot, first in nodes:
        groups[-1].append((slot, first))
        paths += len(first)
        full = len(groups[-1]) >= BRANCH_MOST or paths >= BRANCH_MOST_PATHS
        if len(groups[-1]) >= 2 and (slot.id[-1] < BRANCH_CUT or full):
            groups.append([])
            paths = 0
    if not groups[-1]:
        groups.pop()
    return groups

"""The RFC 6962 Merkle tree: roots, proofs, and growing a log without reading it all. Pure.

Leaf: SHA-256(0x00 || entry). Node: SHA-256(0x01 || left || right). Root of no leaves: SHA-256 of nothing.
Proofs are first planned as ranges of leaves (``inclusion_ranges``, ``consistency_ranges``); a range is made of perfect
subtrees (``range_nodes``), which tiles hold; so the same plan serves a list of leaves and a log at a site.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exclave.errors import CorruptObject, Forked, MalformedError, RolledBack
from exclave.formats.tile import MAX_LEVEL, TILE_WIDTH, Tile
from exclave.ids import Digest

EMPTY_ROOT = Digest(hashlib.sha256(b"").digest())
MAX_PROOF_HASHES = 64
_TILE_HEIGHT = 8


def leaf_hash(entry: bytes) -> Digest:
    return Digest(hashlib.sha256(b"\x00" + entry).digest())


def node_hash(left: bytes, right: bytes) -> Digest:
    return Digest(hashlib.sha256(b"\x01" + left + right).digest())


def root_of(hashes: Sequence[Digest]) -> Digest:
    """Root of the tree over these leaf hashes (or over the roots of equally high perfect subtrees)."""
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        # Pairing from the left and carrying an odd last one up gives RFC 6962's split at the largest power of two.
        paired = [node_hash(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
        row = paired + row[len(paired) * 2 :]
    return row[0]


def fold(subtrees: Sequence[Digest]) -> Digest:
    """Root of a tree from the roots of its perfect subtrees, largest (leftmost) first."""
    if not subtrees:
        return EMPTY_ROOT
    root = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        root = node_hash(left, root)
    return root


@dataclass(frozen=True, slots=True)
class Node:
    """The perfect subtree over leaves ``index * 2**height`` up to ``(index + 1) * 2**height``."""

    height: int
    index: int


def range_nodes(start: int, end: int) -> list[Node]:
    """The perfect subtrees that make up leaves ``start`` to ``end`` (exclusive) of an RFC 6962 subtree, in order."""
    nodes: list[Node] = []
    while start < end:
        height = (end - start).bit_length() - 1
        if start % (1 << height):
            raise MalformedError("these leaves are not one subtree")
        nodes.append(Node(height, start >> height))
        start += 1 << height
    return nodes


def _split(count: int) -> int:
    """The largest power of two below ``count`` (which is at least 2)."""
    return 1 << ((count - 1).bit_length() - 1)


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The subtrees whose roots prove leaf ``index`` in a tree of ``size`` leaves (RFC 6962, 2.1.1), in proof order."""
    if not 0 <= index < size:
        raise MalformedError(f"leaf {index} is not in a log of {size} leaves")
    ranges: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[tuple[int, int]]:
    """The subtrees whose roots prove that a tree of ``old`` leaves is the start of one of ``new`` (RFC 6962, 2.1.2)."""
    if not 0 <= old <= new:
        raise MalformedError(f"a log of {new} leaves cannot extend one of {old}")
    ranges: list[tuple[int, int]] = []
    start, end = 0, new
    while 0 < old < end:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if old and start:
        ranges.append((start, end))
    return ranges[::-1]


def inclusion_proof(leaves: Sequence[Digest], index: int) -> tuple[Digest, ...]:
    """Audit path of leaf ``index`` from all leaf hashes."""
    return tuple(root_of(leaves[a:b]) for a, b in inclusion_ranges(index, len(leaves)))


def consistency_proof(leaves: Sequence[Digest], old: int) -> tuple[Digest, ...]:
    """Proof from all leaf hashes that the first ``old`` are the start of this tree."""
    return tuple(root_of(leaves[a:b]) for a, b in consistency_ranges(old, len(leaves)))


def verify_inclusion(leaf: Digest, index: int, size: int, proof: Sequence[Digest], root: Digest) -> None:
    """Returns if ``leaf`` is leaf number ``index`` (from 0) of the tree; else ``CorruptObject`` (RFC 9162, 2.1.3.2)."""
    _check_hashes(proof)
    if not 0 <= index < size:
        raise CorruptObject(f"leaf {index} is not in a log of {size} leaves")
    at, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise CorruptObject("an inclusion proof is too long")
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    if last or found != root:
        raise CorruptObject("an inclusion proof does not lead to the root")


def verify_consistency(old: int, old_root: Digest, new: int, new_root: Digest, proof: Sequence[Digest]) -> None:
    """Returns if the tree of ``old`` leaves is the start of the one of ``new`` (RFC 9162, 2.1.4.2).

    ``RolledBack`` if it would shrink, ``Forked`` if both have one size and different roots, ``CorruptObject`` if the
    proof proves nothing.
    """
    _check_hashes(proof)
    if old > new:
        raise RolledBack(f"a log of {old} leaves is followed by one of {new}")
    if old == new and old_root != new_root:
        raise Forked(f"there are two logs of {old} leaves", size=old)
    if old in (0, new):
        if proof or (old == 0 and old_root != EMPTY_ROOT):
            raise CorruptObject("a consistency proof holds hashes where none is needed")
        return
    steps = list(proof)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        raise CorruptObject("a consistency proof is empty")
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old_found = new_found = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise CorruptObject("a consistency proof is too long")
        if at & 1 or at == last:
            old_found, new_found = node_hash(step, old_found), node_hash(step, new_found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new_found = node_hash(new_found, step)
        at, last = at >> 1, last >> 1
    if last or old_found != old_root or new_found != new_root:
        raise CorruptObject("a consistency proof does not lead to both roots")


def _check_hashes(proof: Sequence[Digest]) -> None:
    if len(proof) > MAX_PROOF_HASHES or any(len(step) != 32 for step in proof):
        raise CorruptObject("a proof has too many hashes, or some of a wrong length")


@dataclass(frozen=True, slots=True)
class Frontier:
    """Compact range: enough of a tree to append to it and to tell its root. At most 63 hashes."""

    size: int = 0
    subtrees: tuple[Digest, ...] = ()
    """Roots of the perfect subtrees, largest first."""

    def push(self, leaf: Digest) -> Frontier:
        """The tree with one more leaf."""
        stack, carry, size = list(self.subtrees), leaf, self.size
        while size & 1:
            carry = node_hash(stack.pop(), carry)
            size >>= 1
        return Frontier(self.size + 1, (*stack, carry))

    @property
    def root(self) -> Digest:
        return fold(self.subtrees)


@dataclass(frozen=True, slots=True)
class Edge:
    """The partial tiles at a log's right edge: enough to append and to make the next tiles."""

    size: int = 0
    levels: tuple[tuple[Digest, ...], ...] = ()
    """At place L: the hashes of the partial tile at level L, none if it is empty."""

    def __post_init__(self) -> None:
        if tuple(len(level) for level in self.levels) != edge_widths(self.size):
            raise MalformedError(f"these tiles are not the edge of a log of {self.size} leaves")

    @property
    def root(self) -> Digest:
        """Each level's hashes, cut into runs of a power of two, are the perfect subtrees of the whole tree."""
        subtrees = [
            root_of(level[node.index << node.height : (node.index + 1) << node.height])
            for level in reversed(self.levels)
            for node in range_nodes(0, len(level))
        ]
        return fold(subtrees)

    def grow(self, leaves: Sequence[Digest]) -> tuple[Edge, list[tuple[Tile, tuple[Digest, ...]]]]:
        """The edge after ``leaves`` more, and every tile that must be stored for it, lower levels first."""
        tiles: list[tuple[Tile, tuple[Digest, ...]]] = []
        levels: list[tuple[Digest, ...]] = []
        size = self.size + len(leaves)
        added: Sequence[Digest] = leaves
        for level in range(MAX_LEVEL + 1):
            row = (*(self.levels[level] if level < len(self.levels) else ()), *added)
            first = (self.size >> (_TILE_HEIGHT * level)) // TILE_WIDTH
            full = [row[i : i + TILE_WIDTH] for i in range(0, len(row) - TILE_WIDTH + 1, TILE_WIDTH)]
            tiles += [(Tile(level, first + i, TILE_WIDTH), hashes) for i, hashes in enumerate(full)]
            rest = row[len(full) * TILE_WIDTH :]
            if rest and added:
                tiles.append((Tile(level, first + len(full), len(rest)), rest))
            levels.append(rest)
            added = [root_of(hashes) for hashes in full]
        return Edge(size, tuple(levels[: len(edge_widths(size))])), tiles


def edge_widths(size: int) -> tuple[int, ...]:
    """Number of hashes in the partial tile of each level of a log of ``size`` leaves."""
    widths: list[int] = []
    while size:
        widths.append(size % TILE_WIDTH)
        size //= TILE_WIDTH
    return tuple(widths)


def edge_tiles(size: int) -> list[Tile]:
    """The partial tiles of a log of ``size`` leaves, lowest level first."""
    return [
        Tile(level, (size >> (_TILE_HEIGHT * level)) // TILE_WIDTH, width)
        for level, width in enumerate(edge_widths(size))
        if width
    ]


def new_tiles(old: int, new: int) -> Iterator[Tile]:
    """The tiles that a log of ``new`` leaves needs and one of ``old`` did not have, lower levels first."""
    level = 0
    while new >> (_TILE_HEIGHT * level):
        had, has = old >> (_TILE_HEIGHT * level), new >> (_TILE_HEIGHT * level)
        for index in range(had // TILE_WIDTH, has // TILE_WIDTH):
            yield Tile(level, index, TILE_WIDTH)
        if has > had and has % TILE_WIDTH:
            yield Tile(level, has // TILE_WIDTH, has % TILE_WIDTH)
        level += 1


def node_in_tile(node: Node, size: int) -> tuple[Tile, slice]:
    """Where in a log of ``size`` leaves a perfect subtree's root is found: ``root_of(hashes of the tile[slice])``."""
    level, up = divmod(node.height, _TILE_HEIGHT)
    first = node.index << up
    row = size >> (_TILE_HEIGHT * level)
    index, start = divmod(first, TILE_WIDTH)
    width = min(TILE_WIDTH, row - index * TILE_WIDTH)
    if start + (1 << up) > width:
        raise MalformedError("this subtree is not part of the log")
    return Tile(level, index, width), slice(start, start + (1 << up))

"""Reads a log from any source of objects and believes nothing that its checkpoint does not prove.

``LogReader`` knows which log and whose; ``LogTree`` is the log as one checkpoint has it. Memory stays bounded: a
cache of tiles, one bundle at a time. Neither may be shared by threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Protocol

from exclave.errors import (
    CorruptObject,
    Forked,
    MalformedError,
    MissingObject,
    NotAuthorised,
    RolledBack,
)
from exclave.formats.card import Card
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES
from exclave.formats.tile import (
    MAX_BUNDLE_BYTES,
    MAX_TILE_BYTES,
    TILE_WIDTH,
    Tile,
    bundle_key,
    checkpoint_key,
    parse_bundle,
    parse_tile,
    tile_key,
)
from exclave.ids import Digest, Key
from exclave.rules.checkpoints import VerifiedCheckpoint, verify_checkpoint
from exclave.rules.tree import (
    Edge,
    Frontier,
    Node,
    consistency_ranges,
    edge_tiles,
    edge_widths,
    fold,
    inclusion_ranges,
    leaf_hash,
    node_in_tile,
    range_nodes,
    root_of,
)
from exclave.sites.contract import Readable
from exclave.verify.ahead import foresee
from exclave.verify.remembered import newest_head

_CACHED_TILES = 64


class LogReader:
    """One log at one ``source``: below ``prefix`` (ends in ``/``), with ``origin``, signed by ``writer``."""

    def __init__(self, source: Readable, prefix: str, origin: str, writer: Card) -> None:
        self.source = source
        self.prefix = prefix
        self.origin = origin
        self.writer = writer

    def head(self, witnesses: Iterable[Card] = ()) -> VerifiedCheckpoint:
        """The checkpoint that the source shows now; ``MissingObject`` if none. It may be stale: compare sites.

        A source that remembers what it was given has former heads too, which nobody can take from it: the newest of
        them that the writer signed counts if it is larger, or if what is shown is none of his.
        """
        cards = tuple(witnesses)
        return newest_head(
            self.source, checkpoint_key(self.prefix), MAX_CHECKPOINT_BYTES, lambda data: self.verify(data, cards),
            lambda head: head.size,
        )  # fmt: skip

    def verify(self, data: bytes, witnesses: Iterable[Card] = ()) -> VerifiedCheckpoint:
        """The checkpoint in ``data``; ``WrongFingerprint`` if another log's, ``CorruptObject`` if not the writer's."""
        try:
            return verify_checkpoint(data, self.origin, self.writer, witnesses)
        except (MalformedError, NotAuthorised) as error:
            raise CorruptObject(f"this is not a checkpoint that the writer of {self.origin} signed") from error

    def tree(self, checkpoint: VerifiedCheckpoint) -> LogTree:
        """The log as ``checkpoint`` has it."""
        return LogTree(self.source, self.prefix, checkpoint)


class TreeHead(Protocol):
    """A log's size and root that somebody vouches for: its writer by a checkpoint, or its successor by a cut."""

    @property
    def origin(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def root(self) -> Digest: ...


class ProvenTree:
    """The log as ``head`` has it.

    Everything returned is proven by the root: a full tile's root is a hash in its parent, and the partial tiles at
    the right edge together give the root. ``MissingObject`` and ``CorruptObject`` name the object.
    """

    def __init__(self, source: Readable, prefix: str, head: TreeHead) -> None:
        self.head = head
        self._source = source
        self._prefix = prefix
        self._edge: Edge | None = None
        self._cache: OrderedDict[Tile, tuple[Digest, ...]] = OrderedDict()

    @property
    def size(self) -> int:
        return self.head.size

    def edge(self) -> Edge:
        """The right edge, verified against the root."""
        if self._edge is None:
            foresee((self._source,), (tile_key(self._prefix, tile) for tile in edge_tiles(self.size)))
            held = {tile.level: self.unproven_tile(tile) for tile in edge_tiles(self.size)}
            edge = Edge(self.size, tuple(held.get(level, ()) for level in range(len(edge_widths(self.size)))))
            if edge.root != self.head.root:
                raise CorruptObject(f"the tiles of {self._prefix} do not lead to its checkpoint's root")
            self._edge = edge
        return self._edge

    def tile(self, tile: Tile) -> tuple[Digest, ...]:
        """The hashes of a tile of this tree, as wide as this tree has it."""
        if tile in self._cache:
            self._cache.move_to_end(tile)
            return self._cache[tile]
        if tile.width < TILE_WIDTH:
            edge = self.edge()
            if tile not in edge_tiles(self.size):
                raise MalformedError("this tile is not part of the log")
            return edge.levels[tile.level]
        hashes = self.unproven_tile(tile)
        if root_of(hashes) != self._node(Node(8 * (tile.level + 1), tile.index)):
            key = tile_key(self._prefix, tile)
            raise CorruptObject(f"{key} is not the tile that its parent names", key=key)
        self._cache[tile] = hashes
        if len(self._cache) > _CACHED_TILES:
            self._cache.popitem(last=False)
        return hashes

    def bundle(self, index: int) -> tuple[bytes, ...]:
        """The entries of bundle ``index``, as many as this tree has, each verified against its leaf hash."""
        entries = self.unproven_entries(index)
        if tuple(leaf_hash(entry) for entry in entries) != self.tile(Tile(0, index, len(entries))):
            raise CorruptObject(f"bundle {index} of {self._prefix} does not hold the entries that its tile names")
        return entries

    def foresee(self, index: int) -> None:
        """Bundle ``index`` and its hashes will be asked for; nothing if there is none."""
        width = min(TILE_WIDTH, self.size - index * TILE_WIDTH)
        if index >= 0 and width > 0:
            keys = [bundle_key(self._prefix, index, width)]
            tile = Tile(0, index, width)
            if width == TILE_WIDTH and tile not in self._cache:  # a narrower one is of the edge
                keys.append(tile_key(self._prefix, tile))
            foresee((self._source,), keys)

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Entries from number ``start`` (from 0) up to ``stop`` (exclusive; the end), each with its number."""
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise MalformedError(f"entries {start} to {stop} are not in a log of {self.size}")
        at = start
        while at < stop:
            index, skip = divmod(at, TILE_WIDTH)
            for entry in self.bundle(index)[skip : skip + stop - at]:
                yield at, entry
                at += 1

    def entry(self, index: int) -> bytes:
        """Entry number ``index``, from 0."""
        return next(self.entries(index, index + 1))[1]

    def root_at(self, size: int) -> Digest:
        """The root that this log had when it had ``size`` entries."""
        if size > self.size:
            raise RolledBack(f"the log has {self.size} entries, not {size}")
        return self._range(0, size)

    def inclusion(self, index: int) -> tuple[Digest, ...]:
        """RFC 6962 inclusion proof of entry ``index``."""
        return tuple(self._range(a, b) for a, b in inclusion_ranges(index, self.size))

    def consistency(self, old: int) -> tuple[Digest, ...]:
        """RFC 6962 consistency proof from the first ``old`` entries to this tree."""
        return tuple(self._range(a, b) for a, b in consistency_ranges(old, self.size))

    def check_extends(self, older: TreeHead) -> None:
        """Returns if ``older`` is a former state of this very log.

        ``RolledBack`` if ``older`` is larger, ``Forked`` if its entries were others.
        """
        if older.origin != self.head.origin or self.root_at(older.size) != older.root:
            raise Forked(f"the log of {self.size} entries does not go on from the one of {older.size}", size=older.size)

    def check_bundles(self) -> None:
        """Recomputes the root from the entries alone, without tiles; ``CorruptObject`` if it is another."""
        frontier = Frontier()
        for index in range(-(-self.size // TILE_WIDTH)):
            for entry in self.unproven_entries(index):
                frontier = frontier.push(leaf_hash(entry))
        if frontier.root != self.head.root:
            raise CorruptObject(f"the entries of {self._prefix} do not lead to its checkpoint's root")

    def _range(self, start: int, end: int) -> Digest:
        return fold([self._node(node) for node in range_nodes(start, end)])

    def _node(self, node: Node) -> Digest:
        tile, place = node_in_tile(node, self.size)
        return root_of(self.tile(tile)[place])

    def unproven_tile(self, tile: Tile) -> tuple[Digest, ...]:
        """The hashes of a tile as the source has it, right in form alone."""
        key = tile_key(self._prefix, tile)
        data, width = self._get(key, tile_key(self._prefix, tile.full), tile.width, MAX_TILE_BYTES)
        try:
            return parse_tile(data, width)[: tile.width]
        except MalformedError as error:
            raise CorruptObject(f"{key} is not a tile of {tile.width} hashes", key=key) from error

    def unproven_entries(self, index: int) -> tuple[bytes, ...]:
        """The entries of one bundle as the source has it, right in form alone."""
        wanted = min(TILE_WIDTH, self.size - index * TILE_WIDTH)
        if index < 0 or wanted < 1:
            raise MalformedError(f"bundle {index} is not part of a log of {self.size} entries")
        key = bundle_key(self._prefix, index, wanted)
        data, width = self._get(key, bundle_key(self._prefix, index, TILE_WIDTH), wanted, MAX_BUNDLE_BYTES)
        try:
            return parse_bundle(data, width)[:wanted]
        except MalformedError as error:
            raise CorruptObject(f"{key} is not a bundle of {wanted} entries", key=key) from error

    def _get(self, key: Key, full: Key, width: int, limit: int) -> tuple[bytes, int]:
        """An object and the width that it must have: as asked for, or full if only the full one is (still) there."""
        try:
            return self._source.get(key, limit=limit), width
        except MissingObject:
            if key == full:
                raise
        try:
            return self._source.get(full, limit=limit), TILE_WIDTH
        except MissingObject as error:
            raise MissingObject(f"{key} is missing", key=key) from error


class LogTree(ProvenTree):
    """The log as one verified checkpoint has it."""

    def __init__(self, source: Readable, prefix: str, checkpoint: VerifiedCheckpoint) -> None:
        super().__init__(source, prefix, checkpoint)
        self.checkpoint = checkpoint

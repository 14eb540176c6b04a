"""What a log's objects must be, from its entries alone: for putting right ones in the place of spoilt ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from exclave.formats.tile import TILE_WIDTH, bundle_key, encode_bundle, encode_tile, tile_key
from exclave.ids import Digest, Key
from exclave.rules.tree import leaf_hash, new_tiles, root_of


def log_objects(bundle: Callable[[int], tuple[bytes, ...]], prefix: str, size: int) -> Iterator[tuple[Key, bytes]]:
    """Every bundle and tile of the log's first ``size`` entries: name and right bytes.

    ``bundle(i)`` gives entries from number 256 i on that are proven by what counts; it raises what it likes. Memory: 32
    bytes for each entry.
    """
    row: list[Digest] = []
    for index in range(-(-size // TILE_WIDTH)):
        entries = bundle(index)[: size - index * TILE_WIDTH]
        yield bundle_key(prefix, index, len(entries)), encode_bundle(entries)
        row += [leaf_hash(entry) for entry in entries]
    for tile in new_tiles(0, size):
        if tile.index == 0 and tile.level:
            row = [root_of(row[i : i + TILE_WIDTH]) for i in range(0, len(row) - TILE_WIDTH + 1, TILE_WIDTH)]
        first = tile.index * TILE_WIDTH
        yield tile_key(prefix, tile), encode_tile(row[first : first + tile.width])

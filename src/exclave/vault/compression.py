"""Chunks to what is sealed of them: a zstd frame, or the chunk itself where a frame would be no shorter."""

from __future__ import annotations

import threading
from enum import Enum
from typing import Final

import zstandard


class Effort(Enum):
    """How hard zstd tries, by what is compressed: its level, or its parameters."""

    SMALL_FILES = 1
    """They compress well together, and their reading keeps the other core busy."""
    LARGE_FILES = 3
    PAGES = 2
    """Pages of a table."""
    KEYS = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_LAZY, min_match=6, search_log=1, hash_log=16, chain_log=15, window_log=17
    )
    """Pages of an index. Better and faster than level 6 for their many short rows, which are much alike: a quarter
    shorter than by level 2, in three times its time."""


_LOOKED_AT_BYTES: Final = 64 << 10
_PIECES: Final = 8
_PIECE_BYTES: Final = 2 << 10
_local = threading.local()


def compress(data: bytes | memoryview, effort: Effort = Effort.SMALL_FILES) -> bytes:
    """One zstd frame with its content size."""
    made: dict[Effort, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    compressor = made.get(effort)
    if compressor is None:
        value = effort.value
        if isinstance(value, int):
            compressor = zstandard.ZstdCompressor(level=value)
        else:
            compressor = zstandard.ZstdCompressor(compression_params=value)
        made[effort] = compressor
    frame: bytes = compressor.compress(data)
    return frame


def pack_chunk(data: memoryview, effort: Effort = Effort.SMALL_FILES) -> bytes | memoryview:
    """What is sealed of a chunk: its frame if that is shorter, else ``data`` itself."""
    if _is_dense(data):
        return data
    frame = compress(data, effort)
    return frame if len(frame) < len(data) else data


def _is_dense(data: memoryview) -> bool:
    """Whether eight short pieces of a chunk say that nothing is to be gained.

    Most of what does not compress is random to the eye throughout: media, archives, what is encrypted. Wrong is this
    only for a chunk that repeats itself at a distance and nowhere nearby; it then takes the room that it has anyway.
    """
    length = len(data)
    if length < _LOOKED_AT_BYTES:
        return False
    step = length // _PIECES
    sample = b"".join([data[at : at + _PIECE_BYTES] for at in range(0, step * _PIECES, step)])
    return len(compress(sample)) * 32 > len(sample) * 31

"""Chunks to what is sealed of them: a zstd frame, or the chunk itself where a frame would be no shorter."""

from __future__ import annotations

import threading
from typing import Final

import zstandard

SMALL_LEVEL: Final = 1
"""zstd level for small files, which compress well together, and whose reading keeps the other core busy."""
LARGE_LEVEL: Final = 3
_LOOKED_AT_BYTES: Final = 64 << 10
_PIECES: Final = 8
_PIECE_BYTES: Final = 2 << 10
_local = threading.local()


def compress(data: bytes | memoryview, level: int = SMALL_LEVEL) -> bytes:
    """One zstd frame with its content size."""
    made: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    compressor = made.get(level)
    if compressor is None:
        compressor = made[level] = zstandard.ZstdCompressor(level=level)
    frame: bytes = compressor.compress(data)
    return frame


def pack_chunk(data: memoryview, level: int = SMALL_LEVEL) -> bytes | memoryview:
    """What is sealed of a chunk: its frame if that is shorter, else ``data`` itself."""
    if _is_dense(data):
        return data
    frame = compress(data, level)
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
    return len(compress(sample, SMALL_LEVEL)) * 32 > len(sample) * 31

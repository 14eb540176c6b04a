"""Tiles and entry bundles of a log (C2SP tlog-tiles). Page: ``docs/spec/ledger.md``.

::

    <prefix>checkpoint                       signed head
    <prefix>tile/<L>/<N>[.p/<W>]             1 to 256 hashes of 32 bytes
    <prefix>tile/entries/<N>[.p/<W>]         1 to 256 entries, each with its length as two bytes, big-endian
    <prefix>stage/<N>                        what the writer appends to the tree of size N, see formats/stage.py
    <prefix>cosigned/<size>-<hash>           a head that witnesses cosigned, kept for good: its size in 20 digits, and
                                             the first 16 hex digits of the SHA-256 of its bytes

``<N>`` is written in groups of three digits, all but the last with an ``x`` in front: ``x001/x234/067``. ``<W>``, 1 to
255, is there only while a tile is not full.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.ids import Digest, Key, sha256

TILE_WIDTH = 256
HASH_BYTES = 32
MAX_LEVEL = 7
"""256**8 leaves are more than a size may say."""
MAX_ENTRY_BYTES = 4096
"""Our own limit (C2SP allows 65,535): a ledger holds short texts, never content."""
MAX_TILE_BYTES = TILE_WIDTH * HASH_BYTES
MAX_BUNDLE_BYTES = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
_COSIGNED = re.compile(r"([0-9]{20})-[0-9a-f]{16}\Z")


@dataclass(frozen=True, slots=True)
class Tile:
    """Which tile: ``level`` 0 … 7, ``index`` within the level, ``width`` 1 … 256 hashes."""

    level: int
    index: int
    width: int

    @property
    def full(self) -> Tile:
        """The same tile once it is complete."""
        return Tile(self.level, self.index, TILE_WIDTH)


def number_path(number: int) -> str:
    """``1234067`` → ``x001/x234/067``."""
    if number < 0:
        raise MalformedError("a tile's number is negative")
    text = str(number)
    text = text.rjust(-(-len(text) // 3) * 3, "0")
    groups = [text[i : i + 3] for i in range(0, len(text), 3)]
    return "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])


def tile_path(tile: Tile) -> str:
    """Path of a hash tile below the log's prefix."""
    if not 0 <= tile.level <= MAX_LEVEL:
        raise MalformedError("a tile's level is outside of 0 to 7")
    return f"tile/{tile.level}/{_place(tile.index, tile.width)}"


def bundle_path(index: int, width: int) -> str:
    """Path of an entry bundle below the log's prefix."""
    return f"tile/entries/{_place(index, width)}"


def _place(index: int, width: int) -> str:
    if not 1 <= width <= TILE_WIDTH:
        raise MalformedError("a tile's width is outside of 1 to 256")
    return number_path(index) + ("" if width == TILE_WIDTH else f".p/{width}")


def checkpoint_key(prefix: str) -> Key:
    """Name of the head of the log below ``prefix`` (which ends in ``/``)."""
    return Key(f"{prefix}checkpoint")


def tile_key(prefix: str, tile: Tile) -> Key:
    return Key(prefix + tile_path(tile))


def bundle_key(prefix: str, index: int, width: int) -> Key:
    return Key(prefix + bundle_path(index, width))


def stage_key(prefix: str, size: int) -> Key:
    """Name of what the writer appends to the tree of ``size`` leaves."""
    return Key(f"{prefix}stage/{number_path(size)}")


def cosigned_prefix(prefix: str) -> str:
    """Where the heads that witnesses cosigned are kept."""
    return f"{prefix}cosigned/"


def cosigned_key(prefix: str, size: int, note: bytes) -> Key:
    """Name under which the cosigned head ``note`` of ``size`` leaves is kept."""
    if not 0 <= size < 10**20:
        raise MalformedError("a kept head's size is outside of 0 to 10^20 - 1")
    return Key(f"{cosigned_prefix(prefix)}{size:020d}-{sha256(note).hex()[:16]}")


def cosigned_size(prefix: str, key: str) -> int | None:
    """The size that a kept head's name says; None if ``key`` is no such name."""
    match = _COSIGNED.match(key.removeprefix(cosigned_prefix(prefix)))
    return int(match[1]) if match else None


def encode_tile(hashes: Sequence[Digest]) -> bytes:
    if not 1 <= len(hashes) <= TILE_WIDTH or any(len(h) != HASH_BYTES for h in hashes):
        raise MalformedError("a tile holds 1 to 256 hashes of 32 bytes")
    return b"".join(hashes)


def parse_tile(data: bytes, width: int) -> tuple[Digest, ...]:
    """The ``width`` hashes of a tile. Raises ``MalformedError`` if it has another length."""
    if not 1 <= width <= TILE_WIDTH or len(data) != width * HASH_BYTES:
        raise MalformedError(f"a tile of {width} hashes has {len(data)} bytes")
    return tuple(Digest(data[i : i + HASH_BYTES]) for i in range(0, len(data), HASH_BYTES))


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise MalformedError("a bundle holds 1 to 256 entries")
    return b"".join(len(check_entry(entry)).to_bytes(2, "big") + entry for entry in entries)


def parse_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """The ``width`` entries of a bundle. Raises ``MalformedError`` on any other number, an empty or overlong entry."""
    entries: list[bytes] = []
    at = 0
    while at < len(data) and len(entries) < width:
        size = int.from_bytes(data[at : at + 2], "big")
        if at + 2 + size > len(data):
            raise MalformedError("a bundle ends within an entry")
        entries.append(check_entry(data[at + 2 : at + 2 + size]))
        at += 2 + size
    if at != len(data) or len(entries) != width or not 1 <= width <= TILE_WIDTH:
        raise MalformedError(f"a bundle does not hold exactly {width} entries")
    return tuple(entries)


def check_entry(entry: bytes) -> bytes:
    """``entry`` if a log may hold it, else ``MalformedError``."""
    if not 1 <= len(entry) <= MAX_ENTRY_BYTES:
        raise MalformedError(f"a ledger entry has 1 to {MAX_ENTRY_BYTES} bytes, not {len(entry)}")
    return entry

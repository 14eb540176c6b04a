"""Packs: write-once objects that hold sealed chunks. Page: ``docs/spec/pack.md``.

::

    offset  bytes  what
         0      8  "EXCPACK1"
         8   1176  HPKE (MLKEM768-X25519) to the register's opening key of
                   pack key (32) | offset of the head record (u32) | its length (u32)
      1184     32  salt of the table key
      1216     24  AES-256-GCM under the table key, nonce 0: offset (u32) | length (u32) of the chunk table
      1240      …  records: AES-256-GCM under the pack key, nonce = the record's offset, bound to its chunk id
         …      …  chunk table: AES-256-GCM under the table key, nonce 1
         …      …  random bytes up to the size class

Integers are big-endian. A record's plaintext is one zstd frame with its content size, shorter than the chunk; or the
chunk itself, which its length tells. The name of a pack is the SHA-256 of all its bytes. Without a key a host sees the
magic and a size class, no more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from exclave.errors import CorruptObject
from exclave.ids import ChunkId

MAGIC: Final = b"EXCPACK1"
SEALED_KEY_BYTES: Final = 1120 + 40 + 16
LOCATOR_BYTES: Final = 8 + 16
HEADER_BYTES: Final = 8 + SEALED_KEY_BYTES + 32 + LOCATOR_BYTES
ROW_BYTES: Final = 32 + 4 + 4 + 4
TAG_BYTES: Final = 16

BULK_BYTES: Final = 16 << 20
"""Largest size class: packs of bulk data are filled up to it."""

SIZE_CLASSES: Final = tuple(sorted([4 << 10, *(step << k for k in range(10, 22) for step in (5, 6, 7, 8))]))
"""4 KiB, 5 KiB, 6 KiB, 7 KiB, 8 KiB, 10 KiB … 14 MiB, 16 MiB: at most a fifth of a version's last pack is padding."""

MAX_RAW_BYTES: Final = 8 << 20
"""No chunk is longer than this, decompressed."""

ROOT_ID: Final = ChunkId(bytes(32))
"""What a version's root record is bound to in place of a chunk id."""

_PAYLOAD = struct.Struct(">32sII")
_LOCATOR = struct.Struct(">II")
_ROW = struct.Struct(">32sIII")


@dataclass(frozen=True, slots=True)
class PackSecret:
    """What the HPKE part of the header holds."""

    key: bytes
    head_offset: int
    head_length: int

    def encode(self) -> bytes:
        return _PAYLOAD.pack(self.key, self.head_offset, self.head_length)


@dataclass(frozen=True, slots=True)
class TableRow:
    """One chunk of a pack: its id, where its record lies, and the chunk's length in bytes before compression."""

    id: ChunkId
    offset: int
    length: int
    raw: int


@dataclass(frozen=True, slots=True)
class ParsedHeader:
    """The parts of a header, none of them opened."""

    sealed_key: bytes
    salt: bytes
    sealed_locator: bytes


def size_class(length: int) -> int:
    """The smallest class, in bytes, that holds ``length`` bytes."""
    for size in SIZE_CLASSES:
        if length <= size:
            return size
    raise ValueError(f"a pack of {length} bytes is larger than every size class")


def encode_header(sealed_key: bytes, salt: bytes, sealed_locator: bytes) -> bytes:
    if len(sealed_key) != SEALED_KEY_BYTES or len(salt) != 32 or len(sealed_locator) != LOCATOR_BYTES:
        raise ValueError("a part of a pack's header has the wrong length")
    return MAGIC + sealed_key + salt + sealed_locator


def parse_header(data: bytes | memoryview) -> ParsedHeader:
    """Splits the first ``HEADER_BYTES`` of a pack. Raises ``CorruptObject``."""
    if len(data) < HEADER_BYTES or bytes(data[:8]) != MAGIC:
        raise CorruptObject("an object that should be a pack does not start like one")
    at = 8 + SEALED_KEY_BYTES
    return ParsedHeader(bytes(data[8:at]), bytes(data[at : at + 32]), bytes(data[at + 32 : HEADER_BYTES]))


def parse_secret(payload: bytes) -> PackSecret:
    if len(payload) != _PAYLOAD.size:
        raise CorruptObject("a pack's sealed key has the wrong length")
    return PackSecret(*_PAYLOAD.unpack(payload))


def encode_locator(offset: int, length: int) -> bytes:
    return _LOCATOR.pack(offset, length)


def parse_locator(payload: bytes) -> tuple[int, int]:
    """Offset and length of the sealed chunk table."""
    if len(payload) != _LOCATOR.size:
        raise CorruptObject("a pack's table locator has the wrong length")
    offset, length = _LOCATOR.unpack(payload)
    if offset < HEADER_BYTES or length < TAG_BYTES or offset + length > BULK_BYTES:
        raise CorruptObject("a pack's table locator points outside the pack")
    return offset, length


def encode_table(rows: list[TableRow]) -> bytes:
    return b"".join(_ROW.pack(r.id, r.offset, r.length, r.raw) for r in rows)


def parse_table(payload: bytes) -> list[TableRow]:
    """Strict: rows in order of offset, none overlapping. Raises ``CorruptObject``."""
    if len(payload) % ROW_BYTES:
        raise CorruptObject("a pack's chunk table has a torn row")
    rows = [TableRow(ChunkId(i), o, n, r) for i, o, n, r in _ROW.iter_unpack(payload)]
    end = HEADER_BYTES
    for row in rows:
        if row.offset < end or row.length < TAG_BYTES or row.raw > MAX_RAW_BYTES:
            raise CorruptObject("a pack's chunk table has overlapping or impossible rows")
        end = row.offset + row.length
    if end > BULK_BYTES:
        raise CorruptObject("a pack's chunk table points outside the pack")
    return rows


def is_stored(length: int, raw: int) -> bool:
    """Whether a record of ``length`` bytes with its tag holds its chunk of ``raw`` bytes as it is, not compressed."""
    return length == raw + TAG_BYTES


def pack_info(register: str, epoch: int) -> bytes:
    """The HPKE ``info`` of a pack key."""
    return f"exclave/pack/v1\n{register}\n{epoch}\n".encode()


def record_bound(chunk: ChunkId) -> bytes:
    """What a record is bound to beside its offset."""
    return b"exclave/chunk/v1" + chunk

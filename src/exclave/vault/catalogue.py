"""The writer's own copy of a dataset's last catalogue, so that unchanged files need not be read again.

A cache file of frames, each a length (u32), a CRC-32 (u32) and one MessagePack record, in walk order. It holds names
in the clear and never leaves the machine. A missing, torn or foreign file only means that everything is read again.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from exclave.formats.entry import Entry, Stamp, walk_order
from exclave.formats.manifest import Ref

MAGIC = b"EXCCAT02"
_HEAD = struct.Struct(">II")
_MAX_FRAME = 64 << 20


class Part(msgspec.Struct, frozen=True, array_like=True):
    """``length`` bytes of a file: of the chunk at ``ref`` from byte ``start`` on, or a hole if ``ref`` is None."""

    ref: Ref | None
    start: int
    length: int


class FlatRecord(msgspec.Struct, frozen=True, array_like=True):
    """An entry with absolute references: what a leaf's record is made from."""

    entry: Entry
    stamp: tuple[int, int, int, int] | None
    parts: tuple[Part, ...] = ()
    hash: bytes = b""
    lists: tuple[Ref, ...] = ()
    listed_packs: tuple[bytes, ...] = ()
    """The packs that the extent nodes at ``lists`` name: the writer cannot open those to see."""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(FlatRecord)


def pack_record(record: FlatRecord) -> bytes:
    return _ENCODER.encode(record)


def unpack_record(data: bytes) -> FlatRecord:
    return _DECODER.decode(data)


class CatalogueWriter:
    """Writes the next cache file beside the last one; ``commit`` puts it in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + ".new")
        self._file: BinaryIO = open(self._temporary, "wb", buffering=1 << 20)
        self._file.write(MAGIC)

    def add(self, encoded: bytes) -> None:
        self._file.write(_HEAD.pack(len(encoded), zlib.crc32(encoded)))
        self._file.write(encoded)

    def commit(self) -> None:
        """A process that dies before this keeps the former cache; the next run then reads more than it must."""
        self._file.close()
        os.replace(self._temporary, self._path)

    def drop(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class Prior:
    """The last catalogue, walked along with the present one."""

    def __init__(self, path: Path, passed: Callable[[FlatRecord], None] = lambda record: None) -> None:
        """``passed`` is told every record that nothing of the present answers to."""
        self._records = _frames(path)
        self._passed = passed
        self.same: FlatRecord | None = None
        """What the last ``match`` found under the same path, changed or not."""
        self._next: FlatRecord | None = None
        self._order: tuple[bytes, ...] = ()
        self._advance()
        self.known = self._next is not None
        """Whether there is a former catalogue at all."""

    def _advance(self) -> None:
        self._next = next(self._records, None)
        if self._next is not None:
            self._order = walk_order(self._next.entry.path)

    def match(self, entry: Entry, stamp: Stamp) -> FlatRecord | None:
        """The former record of ``entry`` if its content cannot have changed. Ask in walk order, once for each file."""
        if self._next is None:
            self.same = None
            return None
        order = walk_order(entry.path)
        while self._next is not None and self._order < order:
            if self._next is not self.same:
                self._passed(self._next)
            self._advance()
        found = self.same = self._next if self._order == order else None
        if found is None or found.stamp is None or found.entry.kind != entry.kind:
            return None
        same = found.stamp == stamp
        return found if same and found.entry.size == entry.size else None

    def finish(self) -> None:
        """Nothing more is asked: what is left was not met."""
        while self._next is not None:
            if self._next is not self.same:
                self._passed(self._next)
            self._advance()


def _frames(path: Path) -> Iterator[FlatRecord]:
    try:
        file = open(path, "rb", buffering=1 << 20)
    except OSError:
        return
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            return
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, check = _HEAD.unpack(head)
            data = file.read(length) if length <= _MAX_FRAME else b""
            # A flipped bit in a reference would otherwise end up in the next version.
            if len(data) != length or zlib.crc32(data) != check:
                return
            try:
                yield unpack_record(data)
            except (msgspec.DecodeError, UnicodeError):
                return

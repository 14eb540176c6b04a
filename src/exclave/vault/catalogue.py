"""The writer's own copy of a dataset's last manifest, so that what is unchanged need not be read or encoded again.

A cache file of frames, each a length (u32), a CRC-32 (u32) and one MessagePack ``Frame``: one leaf of the manifest,
in walk order, with what the source's file system said of its entries. A run of entries that look as they did is
compared with ``marks`` as bytes, and its leaf goes into the next version as it is. The file holds names in the clear
and never leaves the machine. A missing, torn or foreign file only means that everything is read again.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from exclave.errors import UnavailableError
from exclave.formats.entry import STAMP_LINKS, STAMP_MODE, Entry, Stamp, walk_order
from exclave.formats.manifest import HOLE, Leaf, Record, Ref

MAGIC = b"EXCCAT03"
_HEAD = struct.Struct(">II")
_MAX_FRAME = 64 << 20
_KIND, _FOLDER, _FILE = 0o170000, 0o040000, 0o100000


class Part(msgspec.Struct, frozen=True, array_like=True):
    """``length`` bytes of a file: of the chunk at ``ref`` from byte ``start`` on, or a hole if ``ref`` is None."""

    ref: Ref | None
    start: int
    length: int


class FlatRecord(msgspec.Struct, frozen=True, array_like=True):
    """An entry with absolute references: what a leaf's record is made from."""

    entry: Entry
    stamp: Stamp | None
    parts: tuple[Part, ...] = ()
    hash: bytes = b""
    lists: tuple[Ref, ...] = ()
    listed_packs: tuple[bytes, ...] = ()
    """The packs that the extent nodes at ``lists`` name: the writer cannot open those to see."""


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One leaf of a manifest, and what belongs to it."""

    first: bytes
    """Path of the first entry; the last one is the one that the walk order puts last."""
    last: bytes
    entries: int
    files: int
    size_bytes: int
    """Sum of its files' lengths."""
    comparable: bool
    """Each entry has a stamp, and none shares its content with another name, which may lie in another leaf."""
    packs: tuple[bytes, ...]
    """All that the leaf needs: those of its chunks, of its extent nodes, and what these name."""
    listed: dict[int, tuple[bytes, ...]]
    """By position of the record: packs that its extent nodes name."""
    marks: bytes
    """``encode_marks`` of its entries."""
    lines: bytes
    """What its entries add to the dataset's digest (``digest_line``), one after the other."""
    node: bytes
    """The leaf as it was sealed."""
    records: bytes = b""
    """Root over its documents' commitments (32 bytes), behind the tag (8 bytes) of the key that it was made with."""


_ENCODER = msgspec.msgpack.Encoder()
_RECORD = msgspec.msgpack.Decoder(FlatRecord)
_FRAME = msgspec.msgpack.Decoder(Frame)
_MARKS = msgspec.msgpack.Decoder(tuple[list[bytes], list[Stamp | None]])
_LEAF = msgspec.msgpack.Decoder(Leaf)


def pack_record(record: FlatRecord) -> bytes:
    return _ENCODER.encode(record)


def unpack_record(data: bytes) -> FlatRecord:
    return _RECORD.decode(data)


def decode_leaf(node: bytes) -> Leaf:
    """A leaf of ours, from the cache or made a moment ago: decoded without the checks that a stranger's needs."""
    return _LEAF.decode(node)


def encode_marks(paths: Sequence[bytes], stamps: Sequence[Stamp | None]) -> bytes:
    """Two such texts are equal if nothing tells the entries apart, and only entries with stamps can be told apart."""
    return _ENCODER.encode((paths, stamps))


class CatalogueWriter:
    """Writes the next cache file beside the last one; ``commit`` puts it in its place.

    It only saves work, so a disk that does not take it ends no backup: then there is no base for the next run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + ".new")
        self._spoilt = False
        try:
            self._file: BinaryIO = open(self._temporary, "wb", buffering=1 << 20)
        except OSError as error:
            raise UnavailableError(f"cannot write {self._temporary}: {error.strerror}") from error
        self._file.write(MAGIC)

    def add(self, frame: Frame) -> None:
        self.add_encoded(_ENCODER.encode(frame))

    def add_encoded(self, encoded: bytes) -> None:
        """A frame as the former file had it."""
        if self._spoilt:
            return
        try:
            self._file.write(_HEAD.pack(len(encoded), zlib.crc32(encoded)))
            self._file.write(encoded)
        except OSError:
            self._spoilt = True

    def commit(self) -> None:
        """A process that dies before this keeps the former cache; the next run then reads more than it must."""
        try:
            self._file.close()
            if not self._spoilt:
                os.replace(self._temporary, self._path)
        except OSError:
            self._spoilt = True
        if self._spoilt:
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def drop(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


class FormerLeaf:
    """A frame of the last catalogue. Its records are decoded only while they are asked for."""

    def __init__(self, encoded: bytes, known: Set[bytes]) -> None:
        """``known``: packs that a site of this run holds."""
        self.encoded = encoded
        self.frame = frame = _FRAME.decode(encoded)
        self.whole = known >= set(frame.packs)
        """Everything that the leaf needs is still there."""
        self._known = known
        self.last_order = walk_order(frame.last)
        self.opened = False
        self.met: set[int] = set()
        """Positions of records whose path is still there."""
        self.paths: list[bytes] = []
        self.stamps: list[Stamp | None] = []
        self.where: dict[bytes, int] = {}
        self._leaf: Leaf | None = None

    def open(self) -> None:
        """Paths, stamps, and where each path is."""
        if not self.opened:
            self.paths, self.stamps = _MARKS.decode(self.frame.marks)
            self.where = {path: at for at, path in enumerate(self.paths)}
            self.opened = True

    def close(self) -> None:
        """Forgets what can be decoded again: many of them may wait for the content of one file before them."""
        self.opened = False
        self.paths, self.stamps, self.where, self._leaf = [], [], {}, None

    @property
    def leaf(self) -> Leaf:
        if self._leaf is None:
            self._leaf = _LEAF.decode(self.frame.node)
        return self._leaf

    def can_reuse(self, at: int, stamp: Stamp | None) -> bool:
        """Whether the entry of record ``at`` is as it was, by its ``stamp`` of now, and its content still stored."""
        return stamp is not None and self.stamps[at] == stamp and (self.whole or self._still_there(at))

    def _still_there(self, at: int) -> bool:
        leaf, known = self.leaf, self._known
        record = leaf.records[at]
        return (
            all(e.chunk == HOLE or leaf.packs[leaf.chunks[e.chunk][0]] in known for e in record.extents)
            and all(ref.pack in known for ref in record.lists)
            and known >= set(self.frame.listed.get(at, ()))
        )


class Prior:
    """The last catalogue, walked along with the present one."""

    def __init__(self, path: Path, known: Set[bytes], passed: Callable[[Record], None] | None = None) -> None:
        """``known``: packs that a site of this run holds. ``passed`` is told every record whose path is gone."""
        self._frames = _frames(path)
        self._known = known
        self._passed = passed
        self.now: FormerLeaf | None = None
        """The leaf that the walk has come to."""
        self.take()
        self.known = self.now is not None
        """There is a last catalogue."""

    def take(self) -> None:
        """The next leaf: this one was met as a whole."""
        encoded = next(self._frames, None)
        self.now = None if encoded is None else FormerLeaf(encoded, self._known)

    def _pass(self) -> None:
        """The next leaf: the walk is behind this one."""
        if self.now is not None:
            if self._passed is not None:
                for at, record in enumerate(self.now.leaf.records):
                    if at not in self.now.met:
                        self._passed(record)
            self.now.close()
        self.take()

    def come_to(self, path: bytes) -> FormerLeaf | None:
        """The leaf in which ``path`` may be. Ask in walk order."""
        now = self.now
        if now is None or (path in now.where if now.opened else path == now.frame.first):
            return now
        order = walk_order(path)
        while (now := self.now) is not None and order > now.last_order:
            self._pass()
        return now

    def finish(self) -> None:
        """Nothing more is asked: what is left was not met."""
        while self.now is not None:
            self._pass()


def catalogue_leaves(path: Path) -> Iterator[Leaf]:
    """The leaves of the last version's manifest, as far as the file is unharmed."""
    for encoded in _frames(path):
        yield decode_leaf(_FRAME.decode(encoded).node)


def _frames(path: Path) -> Iterator[bytes]:
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
            yield data


def has_other_names(stamp: Stamp) -> bool:
    """Whether other names may lead to the same content."""
    return stamp[STAMP_LINKS] > 1 and stamp[STAMP_MODE] & _KIND != _FOLDER


def are_comparable(stamps: Sequence[Stamp | None]) -> bool:
    """Whether ``stamps`` alone tell that their entries are unchanged."""
    return None not in stamps and not any(
        has_other_names(stamp) for stamp in stamps if stamp is not None and stamp[STAMP_LINKS] > 1
    )


def count_files(stamps: Sequence[Stamp | None]) -> int:
    """How many of ``stamps`` are regular files'."""
    return sum([stamp is not None and stamp[STAMP_MODE] & _KIND == _FILE for stamp in stamps])

"""Chunks into sealed packs.

``PackSealer`` fills one pack at a time; a full one is finished and handed to the shipper in another thread. A
``Slot`` is the promise of a chunk's place: it gets its pack's name when that pack is durable.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from exclave.crypto.aead import ObjectCipher
from exclave.crypto.hpke import SealingKey
from exclave.crypto.keyed import chunk_id as keyed_id
from exclave.formats.manifest import Ref
from exclave.formats.pack import (
    BULK_BYTES,
    HEADER_BYTES,
    ROOT_ID,
    ROW_BYTES,
    TAG_BYTES,
    PackSecret,
    TableRow,
    encode_header,
    encode_locator,
    encode_table,
    pack_info,
    record_bound,
    size_class,
)
from exclave.ids import ChunkId, Digest, Epoch, RegisterId, sha256
from exclave.vault.room import Room, Rooms

HERE = bytes(32)
"""In a branch or root, in place of a pack's name: the pack that this node lies in."""


MOST_WAITING = 12
ROOMS_KEPT = 8
"""As many packs as may be open, sealed or on their way at once."""
WORTH_FILLING_BYTES = 32 << 10
"""A pack with less room than this is closed."""


class Slot:
    """Where a chunk will lie. ``ready`` once its pack is durable, or at once if it was shipped before."""

    __slots__ = ("id", "length", "offset", "pack", "pack_number", "raw", "same")

    def __init__(self, raw: int) -> None:
        self.id: ChunkId = ChunkId(b"")
        self.raw = raw
        self.pack: bytes | None = None
        self.pack_number = -1
        self.offset = 0
        self.length = 0
        self.same: Slot | None = None
        """Another slot of this run with the same content."""

    def place(self, ref: Ref) -> None:
        """The chunk lies at ``ref``, from an earlier run."""
        self.offset, self.length, self.pack = ref.offset, ref.length, ref.pack

    @property
    def target(self) -> Slot:
        """The slot that really holds the content."""
        slot = self
        while slot.same is not None:
            slot = slot.same
        return slot

    @property
    def ready(self) -> bool:
        return self.target.pack is not None

    def ref(self) -> Ref:
        """The place; only once ``ready``."""
        slot = self.target
        if slot.pack is None:
            raise RuntimeError("a chunk's place was asked for before its pack was durable")
        return Ref(slot.pack, slot.offset, slot.length, self.raw, self.id)


@dataclass(slots=True)
class SealedPack:
    """A finished pack on its way to the sites."""

    name: Digest
    data: memoryview
    rows: list[TableRow]
    slots: list[Slot]
    rooms: Rooms
    room: Room

    def settle(self) -> None:
        """The pack is durable: its chunks have their place, and its memory may be used again."""
        for slot in self.slots:
            slot.pack = self.name
        self.data = memoryview(b"")
        self.rooms.give_back(self.room)


@dataclass(frozen=True, slots=True)
class PackKeys:
    """What a writer needs to seal packs of one register in one epoch: nothing here opens them."""

    register: RegisterId
    epoch: Epoch
    opening: SealingKey
    id_key: bytes
    index_key: bytes


def table_key(index_key: bytes, salt: bytes) -> bytes:
    """Key of one pack's chunk table: keyed BLAKE3 of the pack's salt."""
    return keyed_id(index_key, b"exclave/table/v1" + salt)


class PackSealer:
    """Safe to call from several threads. ``ship`` takes a finished pack's sealing job and runs it elsewhere.

    A place is given under the lock, and the chunk sealed into it outside; whoever seals the last one ships the pack. A
    chunk that no longer fits waits for the next pack while smaller ones fill this one up, so that little of a bulk pack
    is padding.
    """

    def __init__(
        self,
        keys: PackKeys,
        ship: Callable[[Callable[[], SealedPack]], None],
        *,
        first_number: int = 1,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """Packs are numbered from ``first_number``; sealers of one version must not share a number.

        ``most_waiting``: chunks that may wait; 0 keeps them in order.
        """
        self._keys = keys
        self._ship = ship
        self._rooms = Rooms(BULK_BYTES, kept=ROOMS_KEPT)
        self._lock = threading.Condition()
        self._number = first_number - 1
        self._open: _OpenPack | None = None
        self._unshipped = 0
        """Packs that were closed and have not been handed to ``ship`` yet."""
        self._broken = False
        """Something failed, so that a pack may never be complete: whoever called has the error."""
        self._waiting: list[tuple[Slot, bytes]] = []
        self._most_waiting = most_waiting

    def add(self, slot: Slot, frame: bytes | memoryview) -> None:
        """Seals what ``pack_chunk`` made as the chunk of ``slot``."""
        places: list[_Place] = []
        with self._lock:
            if self._open is None or self._open.fits(len(frame)):
                self._reserve(slot, frame, places)
            else:
                # A copy: the block that the chunk was cut from need not stay in memory for it.
                self._waiting.append((slot, bytes(frame)))
                if len(self._waiting) > self._most_waiting or not self._open.fits(WORTH_FILLING_BYTES):
                    self._close(self._open, None, places)
                    self._place_waiting(places)
        self._seal(places)

    def _reserve(self, slot: Slot, frame: bytes | memoryview, places: list[_Place]) -> None:
        pack = self._open
        if pack is not None and not pack.fits(len(frame)):
            self._close(pack, None, places)
            pack = None
        if pack is None:
            self._number += 1
            least = HEADER_BYTES + len(frame) + ROW_BYTES + 2 * TAG_BYTES
            pack = self._open = _OpenPack(self._number, self._keys, self._rooms, self._rooms.take(least))
        places.append(_Place(pack, slot, frame, pack.reserve(slot, len(frame))))

    def _place_waiting(self, places: list[_Place]) -> None:
        waiting, self._waiting = self._waiting, []
        for slot, frame in waiting:
            self._reserve(slot, frame, places)

    def _close(self, pack: _OpenPack, head: Slot | None, places: list[_Place]) -> None:
        """Nothing more goes into ``pack``. The place without a slot lets whoever closes it look if it is done."""
        self._open = None
        self._unshipped += 1
        pack.closed, pack.head = True, head
        pack.unsealed += 1
        places.append(_Place(pack, None, b"", 0))

    def _seal(self, places: list[_Place]) -> None:
        try:
            for pack, slot, frame, offset in places:
                if slot is not None:
                    pack.seal(slot, frame, offset)
                with self._lock:
                    pack.unsealed -= 1
                    done = pack.closed and not pack.unsealed
                if done:
                    self._ship(pack.finish)
                    with self._lock:
                        self._unshipped -= 1
                        self._lock.notify_all()
        except BaseException:
            with self._lock:
                self._broken = True
                self._lock.notify_all()
            raise

    def room_for(self, length: int) -> int:
        """Number of the pack that a frame of ``length`` bytes would go to, if added next and nothing waits."""
        with self._lock:
            if self._open is not None and self._open.fits(length):
                return self._open.number
            return self._number + 1

    def flush(self, head: Slot | None = None) -> None:
        """Finishes the open pack, whatever its size; ``head`` becomes its head record. All are handed on after it."""
        places: list[_Place] = []
        with self._lock:
            self._place_waiting(places)
            if self._open is not None:
                self._close(self._open, head, places)
        self._seal(places)
        with self._lock:
            self._lock.wait_for(lambda: self._broken or not self._unshipped)


class _Place(NamedTuple):
    """Where a frame goes; without a slot, the end of its pack."""

    pack: _OpenPack
    slot: Slot | None
    frame: bytes | memoryview
    offset: int


class _OpenPack:
    """A pack that is being filled. ``reserve`` needs the sealer's lock, ``seal`` does not."""

    def __init__(self, number: int, keys: PackKeys, rooms: Rooms, room: Room) -> None:
        self.number = number
        self.closed = False
        self.head: Slot | None = None
        self.unsealed = 0
        """Places that were given and are not filled yet."""
        self._keys = keys
        self._key = os.urandom(32)
        self._cipher = ObjectCipher(self._key)
        self._rooms, self._room, self._data = rooms, room, room.view
        self._at = HEADER_BYTES
        self._slots: list[Slot] = []

    def fits(self, frame_bytes: int) -> bool:
        table = (len(self._slots) + 1) * ROW_BYTES + TAG_BYTES
        return self._at + frame_bytes + TAG_BYTES + table <= BULK_BYTES

    def reserve(self, slot: Slot, frame_bytes: int) -> int:
        """Gives ``slot`` its place, and returns the offset."""
        offset, length = self._at, frame_bytes + TAG_BYTES
        slot.offset, slot.length, slot.pack_number = offset, length, self.number
        self._at += length
        self._slots.append(slot)
        self.unsealed += 1
        return offset

    def seal(self, slot: Slot, frame: bytes | memoryview, offset: int) -> None:
        # The nonce is the record's offset: unique within the pack, and the key is this pack's own.
        into = self._data[offset : offset + len(frame) + TAG_BYTES]
        self._cipher.seal_into(offset, frame, record_bound(slot.id), into)

    def finish(self) -> SealedPack:
        """Header, table and padding around the sealed chunks, and the name of it all."""
        keys, head = self._keys, self.head
        rows = [TableRow(s.id, s.offset, s.length, s.raw) for s in self._slots if s.id != ROOT_ID]
        salt = os.urandom(32)
        tables = ObjectCipher(table_key(keys.index_key, salt))
        table = tables.seal(1, encode_table(rows), b"exclave/table/v1")
        locator = tables.seal(0, encode_locator(self._at, len(table)), b"exclave/table/v1")
        secret = PackSecret(self._key, head.offset if head else 0, head.length if head else 0)
        sealed_key = keys.opening.seal(secret.encode(), pack_info(keys.register, keys.epoch))
        used = self._at + len(table)
        size = size_class(used)
        self._data[:HEADER_BYTES] = encode_header(sealed_key, salt, locator)
        self._data[self._at : used] = table
        self._data[used:size] = os.urandom(size - used)
        data, self._data = self._data[:size], memoryview(b"")
        return SealedPack(sha256(data), data, rows, self._slots, self._rooms, self._room)

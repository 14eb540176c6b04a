"""Chunks into sealed packs.

``PackSealer`` fills one pack at a time; a full one is finished and handed to the shipper in another thread. A
``Slot`` is the promise of a chunk's place: it gets its pack's name when that pack is durable.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

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

HERE = bytes(32)
"""In a branch or root, in place of a pack's name: the pack that this node lies in."""


MOST_WAITING = 12
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
    data: bytes
    rows: list[TableRow]
    slots: list[Slot]

    def settle(self) -> None:
        """The pack is durable: its chunks have their place."""
        for slot in self.slots:
            slot.pack = self.name


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

    A chunk that no longer fits waits for the next pack while smaller ones fill this one up, so that little of a bulk
    pack is padding.
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
        self._lock = threading.Lock()
        self._number = first_number - 1
        self._open: _OpenPack | None = None
        self._waiting: list[tuple[Slot, bytes]] = []
        self._most_waiting = most_waiting

    def add(self, slot: Slot, frame: bytes) -> None:
        """Seals a zstd frame as the chunk of ``slot``."""
        with self._lock:
            if self._open is None or self._open.fits(len(frame)):
                self._add(slot, frame)
                return
            self._waiting.append((slot, frame))
            if len(self._waiting) > self._most_waiting or not self._open.fits(WORTH_FILLING_BYTES):
                self._finish(self._open, None)
                self._place_waiting()

    def _add(self, slot: Slot, frame: bytes) -> None:
        pack = self._open
        if pack is not None and not pack.fits(len(frame)):
            self._finish(pack, None)
            pack = None
        if pack is None:
            self._number += 1
            pack = self._open = _OpenPack(self._number, self._keys)
        pack.add(slot, frame)

    def _place_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for slot, frame in waiting:
            self._add(slot, frame)

    def room_for(self, length: int) -> int:
        """Number of the pack that a frame of ``length`` bytes would go to, if added next and nothing waits."""
        with self._lock:
            if self._open is not None and self._open.fits(length):
                return self._open.number
            return self._number + 1

    def flush(self, head: Slot | None = None) -> None:
        """Finishes the open pack, whatever its size; ``head`` becomes its head record."""
        with self._lock:
            self._place_waiting()
            if self._open is not None:
                self._finish(self._open, head)

    def _finish(self, pack: _OpenPack, head: Slot | None) -> None:
        self._open = None
        self._ship(lambda: pack.finish(head))


class _OpenPack:
    """A pack that is being filled."""

    def __init__(self, number: int, keys: PackKeys) -> None:
        self.number = number
        self._keys = keys
        self._key = os.urandom(32)
        self._cipher = ObjectCipher(self._key)
        self._parts: list[bytes] = []
        self._at = HEADER_BYTES
        self._slots: list[Slot] = []

    def fits(self, frame_bytes: int) -> bool:
        table = (len(self._slots) + 1) * ROW_BYTES + TAG_BYTES
        return self._at + frame_bytes + TAG_BYTES + table <= BULK_BYTES

    def add(self, slot: Slot, frame: bytes) -> None:
        # The nonce is the record's offset: unique within the pack, and the key is this pack's own.
        sealed = self._cipher.seal(self._at, frame, record_bound(slot.id))
        slot.offset, slot.length, slot.pack_number = self._at, len(sealed), self.number
        self._parts.append(sealed)
        self._at += len(sealed)
        self._slots.append(slot)

    def finish(self, head: Slot | None) -> SealedPack:
        keys = self._keys
        rows = [TableRow(s.id, s.offset, s.length, s.raw) for s in self._slots if s.id != ROOT_ID]
        salt = os.urandom(32)
        tables = ObjectCipher(table_key(keys.index_key, salt))
        table = tables.seal(1, encode_table(rows), b"exclave/table/v1")
        locator = tables.seal(0, encode_locator(self._at, len(table)), b"exclave/table/v1")
        secret = PackSecret(self._key, head.offset if head else 0, head.length if head else 0)
        sealed_key = keys.opening.seal(secret.encode(), pack_info(keys.register, keys.epoch))
        used = self._at + len(table)
        padding = os.urandom(size_class(used) - used)
        data = b"".join([encode_header(sealed_key, salt, locator), *self._parts, table, padding])
        return SealedPack(sha256(data), data, rows, self._slots)

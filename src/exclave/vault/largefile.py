"""One large file: read straight into rooms, hashed while it is in the processor's cache, cut, and sent on.

A byte is copied twice on its way to a pack, by the kernel and by the cipher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from exclave.crypto.keyed import ContentHash
from exclave.formats.entry import Content, Fillable
from exclave.vault.compression import Effort
from exclave.vault.plan import Cutter, Plan, plan_for
from exclave.vault.room import Room, Rooms
from exclave.vault.sealer import Slot
from exclave.vault.signals import SAMPLE_BYTES
from exclave.vault.stream import Job

ROOM_BYTES: Final = 8 << 20
"""Twice the longest chunk, so that every room gives at least one."""
PIECE_BYTES: Final = 1 << 20
"""Read and hashed at once: what fits a core's own cache."""
_ZEROS: Final = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class LargeBlock:
    """Chunks of one large file, and the room in which they lie."""

    views: list[memoryview]
    slots: list[Slot]
    effort: Effort
    room: Room


class LargeFile:
    """Reads one file; ``job`` gets its parts and its hash, ``send`` the blocks."""

    def __init__(self, job: Job, rooms: Rooms, by_content: Cutter, send: Callable[[LargeBlock], None]) -> None:
        """``rooms``: of ``ROOM_BYTES``. ``by_content`` cuts what is no database."""
        self._job, self._rooms, self._by_content, self._send = job, rooms, by_content, send
        self._room = rooms.take()
        self._length = 0
        self._plan: Plan | None = None
        self.total_bytes = 0
        """Holes included."""
        self.read_bytes = 0
        self.samples = [b"", b"", b""]
        """From the beginning, about the middle, and the end."""

    def read(self, content: Content) -> None:
        """Reads it all. ``SourceUnavailable`` from ``content``."""
        hasher = ContentHash()
        fill = content.fill if isinstance(content, Fillable) else _Filler(content.blocks()).fill
        half = self._job.entry.size // 2
        while got := fill(self._room.view[self._length : self._length + PIECE_BYTES]):
            if got < 0:
                # Parts are in file order only if what was read before has its slots.
                self._cut(final=True)
                self._job.parts.append((None, 0, -got))
                hash_hole(hasher, -got)
                self.total_bytes -= got
                continue
            piece = self._room.view[self._length : self._length + got]
            hasher.update(piece)
            self.samples[0] = self.samples[0] or bytes(piece[:SAMPLE_BYTES])
            if self.total_bytes <= half:
                self.samples[1] = bytes(piece[:SAMPLE_BYTES])
            self.samples[2] = bytes(piece[-SAMPLE_BYTES:])
            self._length += got
            self.total_bytes += got
            self.read_bytes += got
            piece.release()  # else the room would still be in use when its block is done
            if self._length == len(self._room.view):
                self._cut(final=False)
        self._cut(final=True)
        self._job.hash = hasher.digest()
        self._rooms.give_back(self._room)

    def _cut(self, *, final: bool) -> None:
        """Sends what is there; unless ``final``, the last chunk moves on, since more may belong to it."""
        if not self._length:
            return
        room, length = self._room, self._length
        plan = self._plan = self._plan or plan_for(room.view[:length], self._by_content)
        ends = plan.cutter.cut(room.view[:length])
        if not final:
            ends.pop()
        views, slots, start = [], [], 0
        for stop in ends:
            slot = Slot(stop - start)
            views.append(room.view[start:stop])
            slots.append(slot)
            self._job.parts.append((slot, 0, stop - start))
            start = stop
        self._room, self._length = self._rooms.take(), length - start
        self._room.view[: self._length] = room.view[start:length]
        self._send(LargeBlock(views, slots, plan.effort, room))


def hash_hole(hasher: ContentHash, length: int) -> None:
    """What ``length`` zero bytes add to ``hasher``; a hole may be longer than memory."""
    while length > 0:
        hasher.update(_ZEROS[:length])
        length -= len(_ZEROS)


class _Filler:
    """``fill`` for content that only comes in blocks of its own."""

    def __init__(self, blocks: Iterator[bytes | memoryview | int]) -> None:
        self._blocks = blocks
        self._left: memoryview = memoryview(b"")

    def fill(self, room: memoryview) -> int:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            if isinstance(block, int):
                if block:
                    return -block
            else:
                self._left = memoryview(block)
        got = min(len(room), len(self._left))
        room[:got] = self._left[:got]
        self._left = self._left[got:]
        return got

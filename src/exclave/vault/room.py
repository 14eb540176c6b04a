"""Memory for blocks and packs, used again and again: to get a page from the kernel costs more than everything else that
is done to its bytes.
"""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress

_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)


class Room:
    """A piece of memory, ``view`` on all of it. What was in it before is still there."""

    __slots__ = ("memory", "view")

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.view = memoryview(memory)

    def is_free(self) -> bool:
        """Gives ``view`` up; whether nothing refers to the memory any more, as the interpreter counts it."""
        try:
            self.view.release()
            self.memory.resize(len(self.memory))  # refused while there is a view, a slice or a borrowed pointer
        except (BufferError, OSError, SystemError):  # the last: a system that cannot resize, and so cannot tell
            return False
        return True


class Rooms:
    """Rooms of one size. Safe to call from several threads.

    A room that something still refers to is never used again, so a request that a site has given up, but not stopped,
    goes on reading what it was given.
    """

    def __init__(self, length: int, *, kept: int) -> None:
        """``length``: bytes of each; ``kept``: rooms that may lie idle."""
        self._length, self._kept = length, kept
        self._idle: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def take(self, length: int = 0) -> Room:
        """A room of the usual size, or of ``length`` bytes if that is more."""
        with self._lock:
            if length <= self._length and self._idle:
                return Room(self._idle.pop())
        memory = mmap.mmap(-1, max(length, self._length), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if _HUGE is not None:
            with suppress(OSError):  # a kernel without large pages
                memory.madvise(_HUGE)
        return Room(memory)

    def give_back(self, room: Room) -> None:
        """The caller has dropped all that it made of ``room.view``."""
        if room.is_free() and len(room.memory) == self._length:
            with self._lock:
                if len(self._idle) < self._kept:
                    self._idle.append(room.memory)

"""One file while it is read, and what a person should know of files that did not stand still."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from exclave.errors import SourceUnavailable
from exclave.formats.entry import Entry, Kind, Stamp
from exclave.registers.file_status import OPEN, YOUNG_NS, entry_of, stamp_of, xattrs_of

BLOCK_BYTES = 1 << 20


@dataclass(slots=True)
class CaptureNotes:
    """What a person should know of a capture, as paths."""

    changed: list[str] = field(default_factory=list)
    """Files that kept changing while they were read: captured as they were last seen."""
    gone: list[str] = field(default_factory=list)
    """Files that went away between the listing and the reading."""


class OpenFile:
    """One file as ``LiveContent``. What the listing said of it is trusted once its stamp is the same after reading."""

    __slots__ = ("_at", "_data_end", "_fd", "_full", "_info", "_links", "_listed", "_notes", "_path", "_size")

    def __init__(
        self,
        full: bytes,
        path: bytes,
        listed: os.stat_result,
        notes: CaptureNotes,
        links: dict[tuple[int, int], bytes],
    ) -> None:
        self._full, self._path, self._notes, self._links = full, path, notes, links
        self._fd = -1
        self._listed: os.stat_result | None = listed
        self._info = listed
        self._size = self._at = self._data_end = 0

    def begin(self) -> tuple[Entry, Stamp | None] | None:
        try:
            fd = os.open(self._full, OPEN)
        except FileNotFoundError:
            self._links.pop((self._info.st_dev, self._info.st_ino), None)
            self._notes.gone.append(os.fsdecode(self._path))
            return None
        except OSError as error:
            raise SourceUnavailable(f"cannot read {os.fsdecode(self._full)!r}: {error.strerror}") from error
        if self._listed is not None:
            info, self._listed = self._listed, None
        else:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                os.close(fd)
                raise SourceUnavailable(f"{os.fsdecode(self._full)!r} turned into something else while it was read")
            if (info.st_dev, info.st_ino) != (self._info.st_dev, self._info.st_ino):
                # Another file under this name: further names of the former one must not become links to this one.
                self._links.pop((self._info.st_dev, self._info.st_ino), None)
        self._fd, self._info, self._size = fd, info, info.st_size
        self._at = 0
        self._data_end = 0 if info.st_blocks * 512 < info.st_size else info.st_size
        # The system's clock, not the capture's: it is compared with times that the system gave.
        young = info.st_ctime_ns > time.time_ns() - YOUNG_NS
        return entry_of(self._path, info, Kind.FILE, xattrs_of(fd)), None if young else stamp_of(info)

    def blocks(self) -> Iterator[bytes | int]:
        room = memoryview(bytearray(min(BLOCK_BYTES, self._size)))
        while got := self.fill(room):
            yield -got if got < 0 else bytes(room[:got])

    def fill(self, room: memoryview) -> int:
        at = self._at
        try:
            if self._data_end <= at < self._size:
                hole = self._find_data(at)
                if hole:
                    return -hole
            got = os.preadv(self._fd, [room[: self._data_end - at]], at)
        except OSError as error:
            raise SourceUnavailable(f"cannot read {os.fsdecode(self._full)!r}: {error.strerror}") from error
        if not got:
            # It became shorter: what is missing counts as a hole, and `unchanged` will say that it changed.
            self._at = self._data_end = self._size
            return at - self._size
        self._at += got
        return got

    def _find_data(self, at: int) -> int:
        """Moves to the next data and finds its end; how many bytes were passed over."""
        try:
            data = os.lseek(self._fd, at, os.SEEK_DATA)
            end = os.lseek(self._fd, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = end = self._size
        self._at, self._data_end = min(data, self._size), min(end, self._size)
        return self._at - at

    def whole(self) -> bytes | None:
        size = self._size
        if size > BLOCK_BYTES or self._info.st_blocks * 512 < size:
            return None
        try:
            data = os.read(self._fd, size)
        except OSError as error:
            raise SourceUnavailable(f"cannot read {os.fsdecode(self._full)!r}: {error.strerror}") from error
        return data if len(data) == size else None

    def unchanged(self) -> bool:
        after = os.fstat(self._fd)
        os.close(self._fd)
        self._fd = -1
        before = self._info
        return (
            after.st_mtime_ns == before.st_mtime_ns
            and after.st_ctime_ns == before.st_ctime_ns
            and after.st_size == before.st_size
            and after.st_ino == before.st_ino
        )

    def give_up(self) -> None:
        self._notes.changed.append(os.fsdecode(self._path))

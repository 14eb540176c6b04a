"""The segment files of an identity journal and the lock of their folder. Format: docs/spec/journal.md."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from exclave.durable import sync_folder
from exclave.errors import Busy, CorruptObject, MalformedError, RolledBack, UnavailableError
from exclave.formats.journal import HEAD_BYTES, MAX_SEGMENT_BYTES, Head, parse_segment_head

LOCK_WAIT_S = 10.0
_LOCK_POLL_S = 0.005
_NAME = re.compile(r"([0-9]{16})\.journal\Z")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """Behind the entry ``head.number``: in the segment that begins with ``first``, at byte ``offset``."""

    first: int
    offset: int
    head: Head


class SegmentFolder:
    """The files in the folder ``path``. ``UnavailableError`` where they cannot be read."""

    def __init__(self, path: str, sleep: Callable[[float], None]) -> None:
        self._path = path
        self._sleep = sleep
        self._named = (0, 0)  # the folder and segment whose name is known to be durable

    def inode(self) -> int:
        """Tells this folder from another one that was put into its place."""
        try:
            return os.stat(self._path).st_ino
        except OSError as error:
            raise UnavailableError(f"the identity journal cannot be read: {error.strerror}") from error

    def firsts(self) -> list[int]:
        """First numbers of the segments, sorted."""
        try:
            found = [match[1] for name in os.listdir(self._path) if (match := _NAME.match(name))]
        except OSError as error:
            raise UnavailableError(f"the identity journal cannot be read: {error.strerror}") from error
        return sorted(int(name) for name in found)

    def begin(self, first: int) -> Place | None:
        """The place before the first record of a segment; None if not even its head was written."""
        data = self._read(first, 0, HEAD_BYTES)
        if len(data) < HEAD_BYTES or not any(data):
            return None
        return Place(first, HEAD_BYTES, _segment_head(data, first))

    def rest(self, place: Place) -> bytes:
        """The segment's bytes from ``place`` on."""
        data = self._read(place.first, place.offset, MAX_SEGMENT_BYTES + 1)
        if place.offset + len(data) > MAX_SEGMENT_BYTES:
            raise CorruptObject(f"a segment of the identity journal is longer than {MAX_SEGMENT_BYTES} bytes")
        return data

    def _read(self, first: int, offset: int, length: int) -> bytes:
        path = self._file(first)
        try:
            file = os.open(path, _READ)
            try:
                data = os.pread(file, length, offset)
                while len(data) < length and (more := os.pread(file, length - len(data), offset + len(data))):
                    data += more
            finally:
                os.close(file)
        except OSError as error:
            raise UnavailableError(f"the identity journal cannot be read: {path}: {error.strerror}") from error
        return data

    def _file(self, first: int) -> str:
        return os.path.join(self._path, f"{first:016d}.journal")

    def write(self, place: Place, data: bytes) -> None:
        """Durably puts ``data`` at ``place``, and nothing behind it. Raises ``OSError``; a part may be there then."""
        file = os.open(self._file(place.first), _WRITE, 0o600)
        try:
            size = os.fstat(file).st_size
            if size < place.offset:
                raise RolledBack("the identity journal became shorter while it was open")
            if size > place.offset:  # a dead writer's torn record, or a segment of which not even the head was whole
                os.ftruncate(file, place.offset)
            at = 0
            while at < len(data):
                at += os.pwrite(file, data[at:], place.offset + at)
            # Entries that a dead writer did not sync become durable with these, before these are acknowledged.
            os.fsync(file)
        finally:
            os.close(file)
        name = self.inode(), place.first
        if name != self._named:  # until this is done, a restart may find no such segment: none of it was told
            sync_folder(self._path)
            self._named = name

    @contextmanager
    def locked(self, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Alone among processes and threads (``LOCK_SH``: without a writer). ``Busy`` after 10 s."""
        try:
            folder = os.open(self._path, _FOLDER)
        except OSError as error:
            raise UnavailableError(f"the identity journal cannot be opened: {error.strerror}") from error
        try:
            waited = 0.0
            while True:
                try:
                    fcntl.flock(folder, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if waited >= LOCK_WAIT_S:
                        raise Busy("another process is writing the identity journal") from error
                waited += _LOCK_POLL_S
                self._sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(folder)


def _segment_head(data: bytes, first: int) -> Head:
    try:
        before = parse_segment_head(data)
    except MalformedError as error:
        raise CorruptObject(f"a segment of the identity journal is damaged: {error.message}") from error
    if before.number + 1 != first:
        raise CorruptObject(f"a segment of the identity journal is not the one that its name says: {first}")
    return before

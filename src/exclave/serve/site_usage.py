"""What a state holds at this host, against its quota.

The folder itself is the truth. It is counted at each start; until that is done the last record counts, with what was
written since. The record is a hint (``.tmp/usage``): lost or wrong, it holds until the folder is counted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock, Thread

from exclave.errors import ExclaveError, SiteFull, SiteUnavailable
from exclave.formats.hostconfig import HostedConfig
from exclave.ids import Key
from exclave.sites.arriving import ArrivingSite

_RECORD = re.compile(rb"exclave usage 1\nbytes ([0-9]{1,19})\nobjects ([0-9]{1,19})\n\Z")
_RECORD_EVERY = 1000
_RECORD_BYTES = 100
_FREE_NAMES_PART = 100
"""One in so many of a file system's inodes is left to others."""


@dataclass(slots=True)
class Room:
    """Held for one write."""

    used: bool = False

    def use(self) -> None:
        self.used = True


class FolderUsage:
    """Of one state. Methods may be called from several threads."""

    def __init__(self, folder: str, site: ArrivingSite, config: HostedConfig, free_bytes: int) -> None:
        """``free_bytes``: what no write may take from the file system. Nothing is counted yet."""
        self._folder, self._site, self._config, self._free_bytes = folder, site, config, free_bytes
        self._lock = Lock()
        self._bytes = self._objects = 0
        self._reserved_bytes = self._reserved_objects = 0
        self._changes = 0
        self._met: set[Key] | None = None
        """While the folder is counted: what was put since it began."""
        self._again = False

    @property
    def bytes_used(self) -> int:
        return self._bytes

    @property
    def objects_used(self) -> int:
        return self._objects

    @property
    def counting(self) -> bool:
        return self._met is not None

    def begin(self) -> None:
        """Counts in the background if there is a record, and now if there is none. Raises ``ExclaveError``."""
        found = self._read_record()
        if found is None:
            self._count()
        else:
            self._bytes, self._objects = found
            self.recount()

    def recount(self) -> None:
        with self._lock:
            if self._met is not None:
                self._again = True
                return
            self._met = set()
        Thread(target=self._count_quietly, name=f"count-{self._config.name}", daemon=True).start()

    @contextmanager
    def room(self, key: Key, size_bytes: int, *, replaces_bytes: int | None = None) -> Iterator[Room]:
        """Holds room for a write until the block ends; ``use`` says that it was written. ``SiteFull`` if there is none.

        ``replaces_bytes``: size of the object that it takes the place of.
        """
        more_bytes, more_objects = (size_bytes - (replaces_bytes or 0)), int(replaces_bytes is None)
        self._reserve(max(0, more_bytes), more_objects)
        room = Room()
        try:
            yield room
        finally:
            used = (more_bytes, more_objects) if room.used else (0, 0)
            self._settle(key, max(0, more_bytes), more_objects, *used)

    def close(self) -> None:
        """Leaves a record for the next start."""
        with self._lock:
            self._write_record()

    def _reserve(self, more_bytes: int, more_objects: int) -> None:
        try:
            disk = os.statvfs(self._folder)
        except OSError as error:
            raise SiteUnavailable(f"the state's folder cannot be reached: {error.strerror}") from error
        if disk.f_favail < disk.f_files // _FREE_NAMES_PART:  # f_files is 0 where names are not limited
            raise SiteFull("the host's disk has room for few more files")
        with self._lock:
            if disk.f_bavail * disk.f_frsize - self._reserved_bytes - more_bytes < self._free_bytes:
                raise SiteFull("the host's disk is full")
            if self._bytes + self._reserved_bytes + more_bytes > self._config.quota_bytes and more_bytes:
                raise SiteFull(f"the quota of {self._config.quota_bytes} bytes is used up")
            if self._objects + self._reserved_objects + more_objects > self._config.quota_objects and more_objects:
                raise SiteFull(f"the quota of {self._config.quota_objects} objects is used up")
            self._reserved_bytes += more_bytes
            self._reserved_objects += more_objects

    def _settle(self, key: Key, held_bytes: int, held_objects: int, used_bytes: int, used_objects: int) -> None:
        with self._lock:
            self._reserved_bytes -= held_bytes
            self._reserved_objects -= held_objects
            self._bytes += used_bytes
            self._objects += used_objects
            if used_objects and self._met is not None:
                self._met.add(key)
            self._changes += 1
            if self._changes % _RECORD_EVERY == 0:
                self._write_record()

    def _count_quietly(self) -> None:
        # A folder that cannot be read stops nobody but its own state, whose requests meet the same failure and say so.
        with suppress(ExclaveError):
            self._count()
        with self._lock:
            self._met, again, self._again = None, self._again, False
        if again:
            self.recount()

    def _count(self) -> None:
        size = objects = 0
        for item in self._site.list(""):
            if self._met is None or item.key not in self._met:
                size += item.size_bytes
                objects += 1
        with self._lock:
            # What was put since the count began is in _met alone; its sizes were counted as it came.
            met = self._met or set()
            for key in met:
                found = self._site.stat(key)
                size, objects = (size + found.size_bytes, objects + 1) if found else (size, objects)
            self._bytes, self._objects = size, objects
            self._met = None
            self._write_record()

    def _read_record(self) -> tuple[int, int] | None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with open(fd, "rb") as file, suppress(OSError):
            found = _RECORD.match(file.read(_RECORD_BYTES))
            return (int(found[1]), int(found[2])) if found else None
        return None

    def _write_record(self) -> None:
        # Not synced, and not renamed over the old one with care: a start that finds half a record counts at once.
        text = b"exclave usage 1\nbytes %d\nobjects %d\n" % (self._bytes, self._objects)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with suppress(OSError):
            fd = os.open(self._path, flags, 0o600)
            with open(fd, "wb") as file:
                file.write(text)

    @property
    def _path(self) -> str:
        return os.path.join(self._folder, ".tmp", "usage")

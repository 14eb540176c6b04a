"""Taking objects away from a site: another contract than ``Site``, which has no such method, and opened nowhere else.

Only the command that carries out an authorised erasure at a site opens it, on the machine of that site's operator:
a folder with the file system's own rights, a bucket with an access key that nobody has who writes versions. What a
store locks stays locked: it refuses, and the erasure says until when.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from exclave.errors import SiteUnavailable
from exclave.ids import Instant, Key
from exclave.sites.plainfiles import FOLDER, NO_SUCH, descend, explain, split_key

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Locked:
    """The store refused: the object is locked."""

    until: Instant | None
    """When the lock ends, as the store says; None if it names no end (a legal hold of the store)."""
    why: str


class ErasingSite(Protocol):
    """A site from which its operator may take objects."""

    def shown_since(self, key: Key) -> Instant | None:
        """Since when the object has been there, by the store's own clock: no writer can make it earlier. None if it is
        not there."""

    def erase(self, key: Key) -> Locked | None:
        """Durably removes the object with all that the store keeps of it; None if it is gone, also if it never was
        there. May be repeated. ``SiteUnavailable``, ``SiteReadOnly`` if these credentials may not."""


class DirectoryEraser:
    """For a site in the folder ``path``."""

    def __init__(self, path: str) -> None:
        self._root = path

    def shown_since(self, key: Key) -> Instant | None:
        """The time of the last change of its inode: no program sets it but the kernel, by the machine's clock."""

        def look(folder: int, name: str) -> os.stat_result:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

        found = self._at(key, look)
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        return Instant(found.st_ctime_ns // 1000)

    def erase(self, key: Key) -> Locked | None:
        self._at(key, self._unlink)
        return None

    @staticmethod
    def _unlink(folder: int, name: str) -> None:
        # Killed before this: the object. After it: no object, or the object if the power failed before the fsync; the
        # next run removes it again.
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        os.fsync(folder)

    def _at(self, key: Key, act: Callable[[int, str], Found]) -> Found | None:
        parts, name = split_key(key)
        try:
            root = os.open(self._root, FOLDER & ~os.O_NOFOLLOW)
        except OSError as error:
            raise SiteUnavailable(f"the folder {self._root} cannot be opened: {error.strerror}") from error
        try:
            folder = descend(root, parts)
            try:
                return act(folder, name)
            finally:
                os.close(folder)
        except OSError as error:
            if error.errno in NO_SUCH:
                return None
            raise explain(error, key, f"dir:{self._root}", writing=True) from error
        finally:
            os.close(root)

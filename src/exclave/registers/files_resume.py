"""Going on with a restore that was interrupted, in the folder that it left."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from exclave.formats.entry import Entry
from exclave.registers.files_restore import FolderSink


class ResumedSink(FolderSink):
    """Restores the same version once more over what an interrupted restore of it left in ``root``.

    A file whose size, mode and time are those of its entry is complete: the time is set last of all. That holds for a
    process that died; after a crash of the machine pages may be missing: without ``trusted`` all is written again.
    The folder must hold nothing but what such a restore left; whoever calls this has seen its mark.
    """

    def __init__(self, root: Path, *, trusted: bool) -> None:
        super().__init__(root, into_empty=False)
        self._trusted = trusted

    def has(self, entry: Entry) -> bool:
        """Whether the file is there and complete. Its owner and attributes were set before its time was."""
        if not self._trusted:
            return False
        try:
            found = os.lstat(self._full(entry.path))
        except OSError:
            return False
        told = (stat.S_IMODE(found.st_mode), found.st_size, found.st_mtime_ns)
        return stat.S_ISREG(found.st_mode) and told == (entry.mode, entry.size, entry.mtime_ns)

    def _make_folder(self, full: bytes) -> None:
        try:
            os.mkdir(full, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(full).st_mode):
                raise
            os.chmod(full, 0o700)  # it may have been left with a mode that forbids writing

    def _create(self, entry: Entry, mode: int) -> int:
        self._clear(entry)
        return super()._create(entry, mode)

    def _make_other(self, entry: Entry) -> None:
        self._clear(entry)
        super()._make_other(entry)

    def _clear(self, entry: Entry) -> None:
        """What is there is not complete, or a link that is made anew. A folder stays, and the restore fails there."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._full(entry.path))
        except OSError as error:
            raise self._unwritable(entry, error) from error

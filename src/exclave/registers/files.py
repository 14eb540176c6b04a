"""A folder with everything in it: capture and restore.

Kept: names as bytes, content with holes, mode, owner, modification time to the nanosecond, symbolic and hard links,
extended attributes (POSIX access lists are among them), FIFOs, devices, empty folders. Not kept: access and change
times, inode numbers, sockets' listeners.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from exclave.errors import SourceUnavailable
from exclave.formats.entry import Captured, Entry, Kind, Listed, Stamp
from exclave.ids import Instant
from exclave.registers.contract import Clock, DatasetDigest
from exclave.registers.file_status import KINDS, OPEN, YOUNG_NS, entry_of, group_name, stamp_of, user_name, xattrs_of
from exclave.registers.open_file import BLOCK_BYTES, CaptureNotes, OpenFile
from exclave.registers.rows import NOTHING, FormerRows

_name = attrgetter("name")
_mode: Callable[[os.stat_result], int] = attrgetter("st_mode")
_CTIME = 7
_KIND = 0o170000
RUN = 512
"""Entries that are listed at once: what changes between listing and reading is read twice."""


class _Folder:
    """One folder's entries, sorted by name, of which the first ``at`` were taken."""

    __slots__ = ("at", "entries", "folders", "prefix")

    def __init__(self, prefix: bytes, entries: list[os.DirEntry[bytes]]) -> None:
        self.prefix, self.entries, self.at = prefix, entries, 0
        self.folders = deque(n for n, entry in enumerate(entries) if entry.is_dir(follow_symlinks=False))

    @property
    def done(self) -> bool:
        return self.at >= len(self.entries)

    def take(self, most: int, paths: list[bytes], infos: list[os.stat_result], notes: CaptureNotes) -> bytes | None:
        """Adds up to ``most`` entries, the next folder being the last of them: then its path is returned."""
        start = self.at
        while self.folders and self.folders[0] < start:
            self.folders.popleft()
        stop = min(start + most, self.folders[0] + 1 if self.folders else len(self.entries), len(self.entries))
        batch, prefix = self.entries[start:stop], self.prefix
        self.at = stop
        if not batch:
            return None
        try:
            found = [entry.stat(follow_symlinks=False) for entry in batch]
        except OSError:
            return self._take_one(start, paths, infos, notes)
        if min(map(_mode, found)) < stat.S_IFREG:
            # Whatever the listing said, what is a folder now is walked, and comes last.
            for n, info in enumerate(found):
                if stat.S_ISDIR(info.st_mode):
                    self.at = start + n + 1
                    del batch[n + 1 :], found[n + 1 :]
                    break
        paths += [prefix + entry.name for entry in batch]
        infos += found
        return paths[-1] if stat.S_ISDIR(found[-1].st_mode) else None

    def _take_one(
        self, start: int, paths: list[bytes], infos: list[os.stat_result], notes: CaptureNotes
    ) -> bytes | None:
        """One of them went away, or cannot be looked at: no more than the next entry."""
        self.at = start + 1
        entry = self.entries[start]
        path = self.prefix + entry.name
        try:
            info = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            notes.gone.append(os.fsdecode(path))
            return None
        except OSError as error:
            raise SourceUnavailable(f"cannot read {os.fsdecode(entry.path)!r}: {error.strerror}") from error
        paths.append(path)
        infos.append(info)
        return path if stat.S_ISDIR(info.st_mode) else None


class FolderCapture:
    """Walks ``root``; see ``contract.Capture``. ``skip``: relative paths left out with everything below them."""

    kind = "files"
    ordered = True

    def __init__(self, root: Path, clock: Clock, *, skip: frozenset[bytes] = frozenset()) -> None:
        self._root = os.fsencode(root)
        self._skip = skip
        self._clock = clock
        self._links: dict[tuple[int, int], bytes] = {}
        self.notes = CaptureNotes()
        self.captured_at = Instant(0)
        """When the walk began: what was there before is in the items."""

    def __enter__(self) -> Self:
        self.captured_at = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @property
    def facts(self) -> Mapping[str, str]:
        """How many files kept changing or went away while they were read, if any."""
        counts = {"changed_while_read": len(self.notes.changed), "gone_while_read": len(self.notes.gone)}
        return {name: str(count) for name, count in counts.items() if count}

    def digest(self, former: FormerRows = NOTHING) -> DatasetDigest | None:
        """None: the vault computes it from what it reads anyway."""
        return None

    def entries(self) -> Iterator[Captured]:
        """Everything in walk order, each entry looked at once the one before it is done with.

        Raises ``SourceUnavailable`` for what cannot be listed or read.
        """
        for listed in self._walk(1):
            found = self.open(listed.paths[0], listed.infos[0], again=False)
            if found is not None:
                yield found

    def items(self) -> Iterator[Captured | Listed]:
        """The same, some hundred entries at a time."""
        return self._walk(RUN)

    def _walk(self, most: int) -> Iterator[Listed]:
        """Runs of about ``most`` entries: depth first, with an explicit stack of folders."""
        since = time.time_ns()
        try:
            info = os.stat(self._root)
        except OSError as error:
            raise SourceUnavailable(f"cannot read {os.fsdecode(self._root)!r}: {error.strerror}") from error
        if not stat.S_ISDIR(info.st_mode):
            raise SourceUnavailable(f"{os.fsdecode(self._root)!r} is not a folder")
        yield self._run([b""], [info], since)
        stack = [self._folder(b"")]
        paths: list[bytes] = []
        infos: list[os.stat_result] = []
        while stack:
            folder = stack[-1]
            if not paths:
                since = time.time_ns()
            below = folder.take(most, paths, infos, self.notes)
            if len(paths) >= most:
                yield self._run(paths, infos, since)
                paths, infos = [], []
            if below is not None:
                stack.append(self._folder(below))
            elif folder.done:
                stack.pop()
        if paths:
            yield self._run(paths, infos, since)

    def _run(self, paths: list[bytes], infos: list[os.stat_result], since: int) -> Listed:
        """``since``: the system's clock before the first of ``infos`` was asked for."""
        young = since - YOUNG_NS
        stamps = [stamp if stamp[_CTIME] <= young else None for stamp in map(stamp_of, infos)]
        return Listed(paths, stamps, infos, self)

    def _folder(self, folder: bytes) -> _Folder:
        base = self._root + b"/" + folder if folder else self._root
        prefix = folder + b"/" if folder else b""
        try:
            with os.scandir(base) as found:
                entries = sorted(found, key=_name)
            if self._skip:
                entries = [entry for entry in entries if prefix + entry.name not in self._skip]
            return _Folder(prefix, entries)
        except FileNotFoundError:
            self.notes.gone.append(os.fsdecode(folder))
            return _Folder(prefix, [])
        except OSError as error:
            raise SourceUnavailable(f"cannot list {os.fsdecode(base)!r}: {error.strerror}") from error

    def read(
        self, paths: Sequence[bytes], infos: Sequence[os.stat_result]
    ) -> Iterator[tuple[Entry, Stamp | None, bytes] | None]:
        """See ``Listing``. This is where a first backup of many small files spends its time."""
        root = self._root + b"/"
        young = time.time_ns() - YOUNG_NS
        for path, info in zip(paths, infos, strict=True):
            found = None
            size = info.st_size
            if (
                info.st_mode & _KIND == stat.S_IFREG
                and size <= BLOCK_BYTES
                and info.st_nlink == 1
                and info.st_blocks * 512 >= size
            ):
                try:
                    fd = os.open(root + path, OPEN)
                    try:
                        data = os.read(fd, size) if size else b""
                        xattrs = xattrs_of(fd) if os.listxattr(fd) else ()
                        after = os.fstat(fd)
                    finally:
                        os.close(fd)
                except OSError:  # `open` and what follows meet it again, and say so
                    yield None
                    continue
                stamp = stamp_of(after)
                if len(data) == size and stamp == stamp_of(info):
                    mode, _, _, uid, gid, _, mtime, ctime, _ = stamp
                    entry = Entry(path, 0, mode & 0o7777, uid, gid, mtime, size, b"", xattrs, 0,
                                  user_name(uid), group_name(gid))  # fmt: skip
                    found = entry, stamp if ctime <= young else None, data
            yield found

    def open(self, path: bytes, info: os.stat_result, *, again: bool) -> Captured | None:
        """The entry at ``path``; with ``again`` as it is by now, unless it is a folder. None: it is gone."""
        full = self._root + b"/" + path if path else self._root
        if again and not stat.S_ISDIR(info.st_mode):
            try:
                now = os.lstat(full)
            except (FileNotFoundError, NotADirectoryError):
                self.notes.gone.append(os.fsdecode(path))
                return None
            except OSError as error:
                raise SourceUnavailable(f"cannot read {os.fsdecode(full)!r}: {error.strerror}") from error
            if not stat.S_ISDIR(now.st_mode):  # else its opening will say that it turned into something else
                info = now
        kind = KINDS[stat.S_IFMT(info.st_mode)]
        if kind is Kind.FOLDER:
            return Captured(entry_of(path, info, kind, xattrs_of(full)))
        return self._leaf(path, full, info, kind)

    def _leaf(self, path: bytes, full: bytes, info: os.stat_result, kind: Kind) -> Captured | None:
        if info.st_nlink > 1:
            first = self._links.setdefault((info.st_dev, info.st_ino), path)
            if first != path:
                return Captured(
                    Entry(path, int(Kind.HARDLINK), 0, info.st_uid, info.st_gid, info.st_mtime_ns, target=first)
                )
        if kind == Kind.FILE:
            entry = Entry(path, 0, 0, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_size)
            return Captured(entry, stamp_of(info), None, OpenFile(full, path, info, self.notes, self._links))
        if kind == Kind.SYMLINK:
            try:
                target = os.readlink(full)
            except OSError:  # gone, or no link any more
                self.notes.gone.append(os.fsdecode(path))
                return None
            made = entry_of(path, info, kind, xattrs_of(full))
            return Captured(Entry(path, made.kind, made.mode, made.uid, made.gid, made.mtime_ns, 0, target,
                                  made.xattrs, 0, made.user, made.group))  # fmt: skip
        return Captured(entry_of(path, info, kind, xattrs_of(full)))

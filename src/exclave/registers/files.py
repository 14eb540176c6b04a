"""A folder with everything in it: capture and restore.

Kept: names as bytes, content with holes, mode, owner, modification time to the nanosecond, symbolic and hard links,
extended attributes (POSIX access lists are among them), FIFOs, devices, empty folders. Not kept: access and change
times, inode numbers, sockets' listeners.
"""

from __future__ import annotations

import errno
import functools
import grp
import hashlib
import os
import pwd
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from exclave.crypto.keyed import ContentHash
from exclave.errors import SourceUnavailable
from exclave.formats.entry import Captured, Entry, Kind, Listed, Stamp, digest_line
from exclave.ids import Instant
from exclave.registers.contract import Clock, DatasetDigest
from exclave.registers.rows import NOTHING, FormerRows

BLOCK_BYTES = 1 << 20
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHAR_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}
_name = attrgetter("name")
_mode: Callable[[os.stat_result], int] = attrgetter("st_mode")
RUN = 512
"""Entries that are listed at once: what changes between listing and reading is read twice."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


_NO_XATTRS = frozenset(
    {errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
)
"""A file system without them, one of them that we may not see, or something that is gone by now."""
_YOUNG_NS = 50_000_000
"""The kernel's file times move in ticks of up to 10 ms. What changed less than this before it was read may change
again within the same tick, unseen by its times, so the next run reads it again."""


@functools.lru_cache(4096)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@functools.lru_cache(4096)
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def _xattrs(target: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = os.listxattr(target) if isinstance(target, int) else os.listxattr(target, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise SourceUnavailable(f"cannot read the extended attributes of {target!r}: {error.strerror}") from error
    if not names:
        return ()
    found = []
    for name in sorted(names):
        try:
            follow = isinstance(target, int)
            found.append((os.fsencode(name), os.getxattr(target, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise SourceUnavailable(f"cannot read {name!r} of {target!r}: {error.strerror}") from error
    return tuple(found)


def _entry(path: bytes, info: os.stat_result, kind: Kind, xattrs: tuple[tuple[bytes, bytes], ...] = ()) -> Entry:
    return Entry(
        path,
        int(kind),
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        info.st_size if kind is Kind.FILE else 0,
        b"",
        xattrs,
        info.st_rdev if kind >= Kind.CHAR_DEVICE else 0,
        _user(info.st_uid),
        _group(info.st_gid),
    )


_stamp: Callable[[os.stat_result], Stamp] = attrgetter(
    "st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns", "st_rdev"
)
_CTIME = 7
_KIND = 0o170000


@dataclass(slots=True)
class CaptureNotes:
    """What a person should know of a capture, as paths."""

    changed: list[str] = field(default_factory=list)
    """Files that kept changing while they were read: captured as they were last seen."""
    gone: list[str] = field(default_factory=list)
    """Files that went away between the listing and the reading."""


class _OpenFile:
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
            fd = os.open(self._full, _OPEN)
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
        young = info.st_ctime_ns > time.time_ns() - _YOUNG_NS
        return _entry(self._path, info, Kind.FILE, _xattrs(fd)), None if young else _stamp(info)

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
        young = since - _YOUNG_NS
        stamps = [stamp if stamp[_CTIME] <= young else None for stamp in map(_stamp, infos)]
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
        young = time.time_ns() - _YOUNG_NS
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
                    fd = os.open(root + path, _OPEN)
                    try:
                        data = os.read(fd, size) if size else b""
                        xattrs = _xattrs(fd) if os.listxattr(fd) else ()
                        after = os.fstat(fd)
                    finally:
                        os.close(fd)
                except OSError:  # `open` and what follows meet it again, and say so
                    yield None
                    continue
                stamp = _stamp(after)
                if len(data) == size and stamp == _stamp(info):
                    mode, _, _, uid, gid, _, mtime, ctime, _ = stamp
                    entry = Entry(path, 0, mode & 0o7777, uid, gid, mtime, size, b"", xattrs, 0,
                                  _user(uid), _group(gid))  # fmt: skip
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
        kind = _KINDS[stat.S_IFMT(info.st_mode)]
        if kind is Kind.FOLDER:
            return Captured(_entry(path, info, kind, _xattrs(full)))
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
            return Captured(entry, _stamp(info), None, _OpenFile(full, path, info, self.notes, self._links))
        if kind == Kind.SYMLINK:
            try:
                target = os.readlink(full)
            except OSError:  # gone, or no link any more
                self.notes.gone.append(os.fsdecode(path))
                return None
            made = _entry(path, info, kind, _xattrs(full))
            return Captured(Entry(path, made.kind, made.mode, made.uid, made.gid, made.mtime_ns, 0, target,
                                  made.xattrs, 0, made.user, made.group))  # fmt: skip
        return Captured(_entry(path, info, kind, _xattrs(full)))


def folder_digest(root: Path) -> DatasetDigest:
    """The digest of a folder as it lies here, equal to the one that a version of it carries."""
    total = hashlib.sha256()
    count = 0
    for item in FolderCapture(root, lambda: Instant(0)).entries():
        entry, content = item.entry, b""
        if item.live is not None:
            now = item.live.begin()
            if now is None:
                continue
            entry = now[0]
            hasher = ContentHash()
            for block in item.live.blocks():
                _hash_block(hasher, block)
            item.live.unchanged()
            content = hasher.digest()
        total.update(digest_line(entry, content))
        count += 1
    return DatasetDigest(total.hexdigest(), (("entries", count),), exact=True)


def _hash_block(hasher: ContentHash, block: bytes | memoryview | int) -> None:
    if not isinstance(block, int):
        hasher.update(block)
        return
    zeros = bytes(min(block, BLOCK_BYTES))
    while block > 0:  # a hole may be longer than memory
        hasher.update(zeros[: min(block, len(zeros))])
        block -= len(zeros)

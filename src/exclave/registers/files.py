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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from exclave.crypto.keyed import ContentHash
from exclave.errors import SourceUnavailable
from exclave.formats.entry import Captured, Entry, Kind, Stamp, digest_line
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


def _stamp(info: os.stat_result) -> Stamp:
    return Stamp(info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)


@dataclass(slots=True)
class CaptureNotes:
    """What a person should know of a capture, as paths."""

    changed: list[str] = field(default_factory=list)
    """Files that kept changing while they were read: captured as they were last seen."""
    gone: list[str] = field(default_factory=list)
    """Files that went away between the listing and the reading."""


class _OpenFile:
    """One file as ``LiveContent``. What the listing said of it is trusted once its stamp is the same after reading."""

    __slots__ = ("_fd", "_full", "_info", "_links", "_listed", "_notes", "_path", "_size")

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
        self._size = 0

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
        # The system's clock, not the capture's: it is compared with times that the system gave.
        young = info.st_ctime_ns > time.time_ns() - _YOUNG_NS
        return _entry(self._path, info, Kind.FILE, _xattrs(fd)), None if young else _stamp(info)

    def blocks(self) -> Iterator[bytes | int]:
        if self._info.st_blocks * 512 < self._size:
            yield from self._sparse_blocks()
        else:
            yield from self._dense_blocks(0, self._size)

    def whole(self) -> bytes | None:
        size = self._size
        if size > BLOCK_BYTES or self._info.st_blocks * 512 < size:
            return None
        try:
            data = os.read(self._fd, size)
        except OSError as error:
            raise SourceUnavailable(f"cannot read {os.fsdecode(self._full)!r}: {error.strerror}") from error
        return data if len(data) == size else None

    def _dense_blocks(self, start: int, stop: int) -> Iterator[bytes | int]:
        while start < stop:
            try:
                data = os.pread(self._fd, min(BLOCK_BYTES, stop - start), start)
            except OSError as error:
                raise SourceUnavailable(f"cannot read {os.fsdecode(self._full)!r}: {error.strerror}") from error
            if not data:
                # It became shorter: what is missing counts as a hole, and `unchanged` will say that it changed.
                yield stop - start
                return
            yield data
            start += len(data)

    def _sparse_blocks(self) -> Iterator[bytes | int]:
        at = 0
        while at < self._size:
            try:
                data = os.lseek(self._fd, at, os.SEEK_DATA)
                end = os.lseek(self._fd, data, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise SourceUnavailable(f"cannot read {os.fsdecode(self._full)!r}: {error.strerror}") from error
                data = end = self._size
            data, end = min(data, self._size), min(end, self._size)
            if data > at:
                yield data - at
            yield from self._dense_blocks(data, end)
            at = max(end, data)

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

    def items(self) -> Iterator[Captured]:
        """Everything in walk order. Raises ``SourceUnavailable`` for what cannot be listed or read."""
        try:
            info = os.stat(self._root)
        except OSError as error:
            raise SourceUnavailable(f"cannot read {os.fsdecode(self._root)!r}: {error.strerror}") from error
        if not stat.S_ISDIR(info.st_mode):
            raise SourceUnavailable(f"{os.fsdecode(self._root)!r} is not a folder")
        yield Captured(_entry(b"", info, Kind.FOLDER, _xattrs(self._root)))
        # Depth first with an explicit stack of listings, each sorted by name.
        skip, notes = self._skip, self.notes
        stack = [(b"", iter(self._listing(b"")))]
        while stack:
            prefix, listing = stack[-1]
            for item in listing:
                path = prefix + item.name
                if path in skip:
                    continue
                try:
                    info = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    notes.gone.append(os.fsdecode(path))
                    continue
                except OSError as error:
                    raise SourceUnavailable(f"cannot read {os.fsdecode(item.path)!r}: {error.strerror}") from error
                kind = _KINDS[stat.S_IFMT(info.st_mode)]
                if kind is Kind.FOLDER:
                    yield Captured(_entry(path, info, kind, _xattrs(item.path)))
                    stack.append((path + b"/", iter(self._listing(path))))
                    break
                found = self._leaf(path, item.path, info, kind)
                if found is not None:
                    yield found
            else:
                stack.pop()

    def _listing(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        base = self._root + b"/" + folder if folder else self._root
        try:
            with os.scandir(base) as found:
                return sorted(found, key=_name)
        except FileNotFoundError:
            self.notes.gone.append(os.fsdecode(folder))
            return []
        except OSError as error:
            raise SourceUnavailable(f"cannot list {os.fsdecode(base)!r}: {error.strerror}") from error

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
    for item in FolderCapture(root, lambda: Instant(0)).items():
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

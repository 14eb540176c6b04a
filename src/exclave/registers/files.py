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
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from exclave.crypto.keyed import ContentHash
from exclave.errors import CorruptObject, SourceUnavailable, TargetNotEmpty, UnavailableError
from exclave.formats.entry import Captured, Entry, FileSink, Kind, Stamp, digest_line
from exclave.ids import Instant
from exclave.registers.contract import Clock, DatasetDigest

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
_SET_ID = stat.S_ISUID | stat.S_ISGID
_name = attrgetter("name")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


_NO_XATTRS = frozenset(
    {errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
)
"""A file system without them, one of them that we may not see, or something that is gone by now."""
_DISK_FAILS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
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

    def digest(self) -> DatasetDigest | None:
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


@dataclass(slots=True)
class Unrestored:
    """What could not be brought back, as (what, path): counted in full, listed up to a limit."""

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, what: str, path: bytes) -> None:
        with self._lock:
            self.count += 1
            if len(self.first) < 100:
                self.first.append((what, os.fsdecode(path)))


class FolderSink:
    """Restores into ``root``, which must be new or empty. Never writes outside it.

    The caller vouches that every entry's parent is a folder placed before (``vault/restore.py`` checks it), and links
    are made only after files, so no path leads through a link that an enemy's manifest planted.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self.unrestored = Unrestored()
        self._own = (os.geteuid(), os.getegid())
        self._root_user = os.geteuid() == 0
        self._stack: list[Entry] = []
        self._now: list[Entry] = []
        self._marked: list[Entry] = []
        self._open: set[int] = set()
        self._closed_folders: list[Entry] = []
        """Folders that their owner may not enter: left last of all, since hard links may still lead into them."""
        try:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            if os.listdir(self._root):
                raise TargetNotEmpty(f"the folder {os.fsdecode(self._root)!r} is not empty")
        except OSError as error:
            raise UnavailableError(f"cannot use {os.fsdecode(self._root)!r}: {error.strerror}") from error

    def _full(self, path: bytes) -> bytes:
        return self._root + b"/" + path if path else self._root

    def place(self, entry: Entry) -> None:
        """A folder is made at once, writable only by us; the rest waits for the barrier."""
        while self._stack and not _inside(entry.path, self._stack[-1].path):
            self._now.append(self._stack.pop())
        if entry.kind == Kind.FOLDER:
            if entry.path:
                try:
                    os.mkdir(self._full(entry.path), 0o700)
                except OSError as error:
                    raise self._unwritable(entry, error) from error
            self._stack.append(entry)
        else:
            self._now.append(entry)

    def begin(self, entry: Entry) -> FileSink:
        fd = self._create(entry)
        self._open.add(fd)
        return _FileSink(fd, entry, self)

    def ended(self, fd: int) -> None:
        """A file that came in pieces is closed."""
        self._open.discard(fd)
        os.close(fd)

    def abandon(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _create(self, entry: Entry) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._full(entry.path), flags, 0o600)
        except OSError as error:
            raise self._unwritable(entry, error) from error

    def _unwritable(self, entry: Entry, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"cannot write {os.fsdecode(self._full(entry.path))!r}: {error.strerror}",
            hint="Give the target space and write permission, empty it, and restore again.",
        )

    def write_whole(self, entry: Entry, data: bytes | memoryview) -> None:
        fd = self._create(entry)
        try:
            _write_all(fd, data, 0)
            self.settle(fd, entry)
        finally:
            os.close(fd)

    def settle(self, fd: int, entry: Entry) -> None:
        """Owner before mode, since changing the owner clears the set-id bits; times last."""
        mode = entry.mode
        if not self._set_owner(fd, entry) and entry.kind == Kind.FILE and mode & _SET_ID:
            # A program that was to run as its owner must not run as whoever restores it.
            mode &= ~_SET_ID
            self.unrestored.add("set-id bits", entry.path)
        for name, value in entry.xattrs:
            self._set_xattr(fd, name, value, entry.path)
        try:
            os.fchmod(fd, mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        except OSError as error:
            raise self._unwritable(entry, error) from error

    def _set_owner(self, target: int | bytes, entry: Entry) -> bool:
        """Whether it is owned by whom it should be."""
        if (entry.uid, entry.gid) == self._own and not self._root_user:
            return True
        try:
            if not self._root_user:
                raise PermissionError(errno.EPERM, "not root")
            if isinstance(target, int):
                os.fchown(target, entry.uid, entry.gid)
            else:
                os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
        except OSError as error:
            if error.errno in _DISK_FAILS:
                raise self._unwritable(entry, error) from error
            self.unrestored.add("owner", entry.path)  # not root, or a root that may not, as in some containers
            return False
        return True

    def _set_xattr(self, target: int | bytes, name: bytes, value: bytes, path: bytes) -> None:
        try:
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError:
            self.unrestored.add(f"attribute {os.fsdecode(name)}", path)

    def mark(self) -> None:
        self._marked.extend(self._now)
        self._now = []

    def barrier(self) -> None:
        marked, self._marked = self._marked, []
        for entry in marked:
            if entry.kind != Kind.FOLDER:
                self._make_other(entry)
            elif self._root_user or entry.mode & stat.S_IXUSR:
                self._leave(entry)
            else:
                self._closed_folders.append(entry)

    def _make_other(self, entry: Entry) -> None:
        full = self._full(entry.path)
        try:
            if entry.kind == Kind.SYMLINK:
                os.symlink(entry.target, full)
            elif entry.kind == Kind.HARDLINK:
                self._check_link_target(entry)
                os.link(self._full(entry.target), full, follow_symlinks=False)
                return
            elif entry.kind == Kind.FIFO:
                os.mkfifo(full, 0o600)
            else:
                form = {Kind.SOCKET: stat.S_IFSOCK, Kind.CHAR_DEVICE: stat.S_IFCHR, Kind.BLOCK_DEVICE: stat.S_IFBLK}
                os.mknod(full, form[Kind(entry.kind)] | 0o600, entry.device)
        except OSError as error:
            if error.errno in _DISK_FAILS:
                raise self._unwritable(entry, error) from error
            self.unrestored.add(f"{Kind(entry.kind).name.lower()} ({error.strerror})", entry.path)
            return
        self._set_owner(full, entry)
        for name, value in entry.xattrs:
            self._set_xattr(full, name, value, entry.path)
        try:
            if entry.kind != Kind.SYMLINK:
                os.chmod(full, entry.mode)
            os.utime(full, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
        except OSError as error:
            raise self._unwritable(entry, error) from error

    def _check_link_target(self, entry: Entry) -> None:
        """A hard link may only lead to a file of this restore, never through a symbolic link to one outside."""
        parts = entry.target.split(b"/")
        for depth in range(1, len(parts)):
            if not stat.S_ISDIR(os.lstat(self._full(b"/".join(parts[:depth]))).st_mode):
                raise CorruptObject(f"a hard link leads through something that is no folder: {entry.target[:80]!r}")

    def _leave(self, entry: Entry) -> None:
        nofollow = os.O_NOFOLLOW if entry.path else 0  # the target itself may be the operator's own link
        try:
            fd = os.open(self._full(entry.path), os.O_RDONLY | os.O_DIRECTORY | nofollow | os.O_CLOEXEC)
        except OSError as error:
            raise self._unwritable(entry, error) from error
        try:
            self.settle(fd, entry)
        finally:
            os.close(fd)

    def close(self) -> None:
        while self._stack:
            self._now.append(self._stack.pop())
        self.mark()
        self.barrier()
        for entry in self._closed_folders:
            self._leave(entry)
        self._closed_folders.clear()


class _FileSink:
    """A file that is written in pieces."""

    __slots__ = ("_entry", "_fd", "_sink")

    def __init__(self, fd: int, entry: Entry, sink: FolderSink) -> None:
        self._fd, self._entry, self._sink = fd, entry, sink

    def write(self, offset: int, data: memoryview) -> None:
        _write_all(self._fd, data, offset)

    def finish(self) -> None:
        try:
            _lengthen(self._fd, self._entry.size)  # a hole at the end
            self._sink.settle(self._fd, self._entry)
        finally:
            self._sink.ended(self._fd)


def _inside(path: bytes, folder: bytes) -> bool:
    return not folder or path.startswith(folder + b"/")


def _lengthen(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise UnavailableError(
            f"the target cannot hold a file of {size} bytes: {error.strerror}",
            hint="Restore into a file system that can.",
        ) from error


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        try:
            done = os.pwrite(fd, view, offset)
        except OSError as error:
            raise UnavailableError(
                f"cannot write the restored file: {error.strerror}",
                hint="Give the target space, empty it, and restore again.",
            ) from error
        view = view[done:]
        offset += done

"""A folder of a version back into a folder: everything that was captured, and a list of what could not be."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from exclave.errors import CorruptObject, TargetNotEmpty, UnavailableError
from exclave.formats.entry import Entry, FileSink, Kind

_SET_ID = stat.S_ISUID | stat.S_ISGID
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DISK_FAILS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})


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

    def __init__(self, root: Path, *, into_empty: bool = True) -> None:
        self._root = os.fsencode(root)
        self.unrestored = Unrestored()
        self._own = (os.geteuid(), os.getegid())
        self._root_user = os.geteuid() == 0
        self._stack: list[Entry] = []
        self._now: list[Entry] = []
        self._marked: deque[list[Entry]] = deque()
        self._open: set[int] = set()
        self._closed_folders: list[Entry] = []
        """Folders that their owner may not enter: left last of all, since hard links may still lead into them."""
        try:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            if into_empty and os.listdir(self._root):
                raise TargetNotEmpty(f"the folder {os.fsdecode(self._root)!r} is not empty")
        except OSError as error:
            raise UnavailableError(f"cannot use {os.fsdecode(self._root)!r}: {error.strerror}") from error
        self._fresh = _fresh_status(self._root)

    def _full(self, path: bytes) -> bytes:
        return self._root + b"/" + path if path else self._root

    def place(self, entry: Entry) -> None:
        """A folder is made at once, writable only by us; the rest waits for the barrier."""
        while self._stack and not _inside(entry.path, self._stack[-1].path):
            self._now.append(self._stack.pop())
        if entry.kind == Kind.FOLDER:
            if entry.path:
                try:
                    self._make_folder(self._full(entry.path))
                except OSError as error:
                    raise self._unwritable(entry, error) from error
            self._stack.append(entry)
        else:
            self._now.append(entry)

    def _make_folder(self, full: bytes) -> None:
        os.mkdir(full, 0o700)

    def begin(self, entry: Entry) -> FileSink:
        fd = self._create(entry, 0o600)
        self._open.add(fd)
        return _FileSink(fd, entry, self)

    def ended(self, fd: int) -> None:
        """A file that came in pieces is closed."""
        self._open.discard(fd)
        os.close(fd)

    def abandon(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _create(self, entry: Entry, mode: int) -> int:
        try:
            return os.open(self._full(entry.path), _CREATE, mode)
        except OSError as error:
            raise self._unwritable(entry, error) from error

    def _unwritable(self, entry: Entry, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"cannot write {os.fsdecode(self._full(entry.path))!r}: {error.strerror}",
            hint="Give the target space and write permission, empty it, and restore again.",
        )

    def _born_right(self, entry: Entry) -> bool:
        """Whether a file that is created with its mode needs nothing more but its times.

        It may be created so, since its folder cannot be entered by others before it is complete (``_leave``).
        """
        fresh = self._fresh
        return (
            fresh is not None
            and not entry.xattrs  # an ACL and a mode speak of the same bits
            and (entry.uid, entry.gid) == fresh[:2]
            and not entry.mode & ~fresh[2]
        )

    def write_whole(self, entry: Entry, data: bytes | memoryview) -> None:
        right = self._born_right(entry)
        fd = self._create(entry, entry.mode if right else 0o600)
        try:
            _write_all(fd, data, 0)
            if right:
                self._set_times(fd, entry)
            else:
                self.settle(fd, entry)
        except BaseException:
            os.fchmod(fd, 0o600)  # whoever finds it sees that it is not complete
            raise
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
        except OSError as error:
            raise self._unwritable(entry, error) from error
        self._set_times(fd, entry)

    def _set_times(self, fd: int, entry: Entry) -> None:
        try:
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
        self._marked.append(self._now)
        self._now = []

    def barrier(self) -> None:
        for entry in self._marked.popleft():
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


def _fresh_status(folder: bytes) -> tuple[int, int, int] | None:
    """What a new file in ``folder`` gets without being told: owner, group, and which permissions are left when all are
    asked for (by the umask, or a default ACL). None if the file system has no nameless files to try it with."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o777)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


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

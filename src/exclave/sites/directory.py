"""A site in a folder of a file system: local disks, mounted shares and carried disks.

An object is a plain file; its name is its path under the root. The folder ``.tmp`` holds files that are being
written and the locks of ``replace_if``; it can be emptied whenever nothing writes.

Whoever runs the machine may plant anything here, so names are resolved one folder at a time from the root, never
through symbolic links, and a file is opened without blocking and measured before a byte of it is read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from exclave.errors import (
    AlreadyExists,
    ConfigError,
    CorruptObject,
    HeadMoved,
    MissingObject,
    OutcomeUnknown,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.ids import Digest, Key, sha256
from exclave.sites.contract import (
    MAX_HEAD_BYTES,
    MAX_OBJECT_BYTES,
    Digested,
    ObjectStat,
    Tagged,
    check_prefix,
    check_range,
    check_write,
)
from exclave.sites.plainfiles import (
    FOLDER,
    FULL,
    NO_SUCH,
    NOT_A_FILE,
    NOT_POSSIBLE,
    REFUSED,
    content_tag,
    descend,
    digest_whole,
    explain,
    plain_file,
    read_up_to,
    read_whole,
    split_key,
    sweep,
    walk,
    write_whole,
)

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TEMP_FOLDER = ".tmp"
_LOCK_WAIT_S = 10.0
_LOCK_POLL_S = 0.002
_MOST_KNOWN_FOLDERS = 100_000


class DirectorySite:
    """A site in the existing folder ``path`` (absolute).

    The root is never created here: an unmounted disk must not be mistaken for an empty site.
    """

    def __init__(
        self,
        path: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not os.path.isabs(path) or "\0" in path:
            raise ConfigError(f"a directory site needs an absolute path, not {path!r}")
        self._root = os.path.normpath(path)
        self._clock = clock
        self._sleep = sleep
        self._durable_folders: set[str] = set()
        self._swept = threading.Event()

    @property
    def address(self) -> str:
        return f"dir:{self._root}"

    # Reading

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        parts, name = split_key(key)
        with self._explained(key), self._folder(parts) as folder:
            return read_whole(folder, name, limit, key)

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        parts, name = split_key(key)
        with self._explained(key), self._folder(parts) as folder:
            return digest_whole(folder, name, limit, key)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        check_range(offset, length)
        parts, name = split_key(key)
        with self._explained(key), self._folder(parts) as folder, plain_file(folder, name, key) as (fd, size):
            data = os.pread(fd, length, offset) if offset + length <= size else b""
        if len(data) != length or offset > size:
            raise CorruptObject(f"{key} is {size} bytes long; bytes {offset}+{length} are missing", key=key)
        return data

    def stat(self, key: Key) -> ObjectStat | None:
        parts, name = split_key(key)
        try:
            with self._explained(key), self._folder(parts) as folder:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except MissingObject:
            return None
        return ObjectStat(key, found.st_size) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """One folder's names are in memory at a time (and those of the folders above it)."""
        return self.list_after(prefix, "")

    def list_after(self, prefix: str, after: str) -> Iterator[ObjectStat]:
        """Of a listing, what comes after the name ``after``; folders that come before it are not read."""
        check_prefix(prefix)
        parts = split_key(Key(prefix + "x"))[0]
        with self._explained(Key(prefix)), self._root_folder() as root:
            try:
                folder = descend(root, parts)
            except OSError as error:
                if error.errno in NO_SUCH | NOT_A_FILE:
                    return
                raise
            yield from walk(folder, prefix, after)

    def read_head(self, key: Key) -> Tagged | None:
        try:
            data = self.get(key, limit=MAX_HEAD_BYTES)
        except MissingObject:
            return None
        return Tagged(data, content_tag(data))

    # Writing

    def put_new(self, key: Key, data: bytes) -> None:
        check_write(data)
        if not self._place(key, data):
            raise AlreadyExists(f"{key} is already at {self.address}", key=key)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        check_write(data)
        try:
            if self.stat(key) is None and self._place(key, data):
                return
        except OutcomeUnknown as error:  # harmless here: repeating it finds the object, or writes it
            raise SiteUnavailable(error.message, key=key) from error
        self._confirm(key, data)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        check_write(data, limit=MAX_HEAD_BYTES)
        parts, name = split_key(key)
        with (
            self._explained(key, writing=True),
            self._made_folder([_TEMP_FOLDER]) as temps,
            self._made_folder(parts) as folder,
            self._locked(temps, key),
        ):
            try:
                found: str | None = content_tag(read_whole(folder, name, MAX_HEAD_BYTES, key))
            except FileNotFoundError:
                found = None
            if found != expected:
                raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
            with self._written_temp(temps, data) as temp:
                if expected is not None:
                    # Killed before this: the old bytes, and a stray file in .tmp. After it: the new bytes, or the old
                    # ones if the power failed before the fsync below. Never a mixture.
                    with self._fate(key, "replacing"):
                        os.rename(temp, name, src_dir_fd=temps, dst_dir_fd=folder)
                elif not self._link(temps, temp, folder, name, key):
                    raise HeadMoved(f"{key} was created meanwhile", key=key)
            self._settle(folder, key)
        return content_tag(data)

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        check_write(data)
        parts, name = split_key(key)
        try:
            with (
                self._explained(key, writing=True),
                self._made_folder([_TEMP_FOLDER]) as temps,
                self._made_folder(parts) as folder,
                self._locked(temps, key),
            ):
                found = self._digest_there(folder, name, key)
                if found == sha256(data):
                    return self._settle(folder, key)
                if found != spoilt:
                    raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
                with self._written_temp(temps, data) as temp, self._fate(key, "replacing"):
                    # Killed before this: the wrong bytes, as before. After it: the right ones, or the wrong ones if the
                    # power failed before the fsync below; the next scrub finds them again.
                    os.rename(temp, name, src_dir_fd=temps, dst_dir_fd=folder)
                self._settle(folder, key)
        except OutcomeUnknown as error:  # repeating it finds the right bytes, or replaces the wrong ones
            raise SiteUnavailable(error.message, key=key) from error

    def _digest_there(self, folder: int, name: str, key: Key) -> Digest | None:
        """SHA-256 of what has the name; None if that is no plain file, or too long to be an object."""
        try:
            return digest_whole(folder, name, MAX_OBJECT_BYTES, key).digest
        except FileNotFoundError as error:
            raise HeadMoved(f"{key} is no longer at {self.address}", key=key) from error
        except CorruptObject:
            return None
        except OSError as error:
            if error.errno in NOT_A_FILE or error.errno == errno.EIO:  # a bad sector gives nobody its bytes
                return None
            raise

    def _place(self, key: Key, data: bytes | memoryview) -> bool:
        """Writes a new object; False if the name is taken.

        (1) the bytes go to a temporary file, (2) which reaches the disk, (3) and gets its name if that is free,
        (4) and the name reaches the disk. Killed before (3): no object, a stray file in ``.tmp``. After it: the whole
        object, or none if the power failed before (4).
        """
        parts, name = split_key(key)
        with (
            self._explained(key, writing=True),
            self._made_folder([_TEMP_FOLDER]) as temps,
            self._made_folder(parts) as folder,
        ):
            with self._written_temp(temps, data) as temp:  # (1) (2)
                placed = self._link(temps, temp, folder, name, key)  # (3)
            if placed:
                self._settle(folder, key)  # (4)
        return placed

    def _confirm(self, key: Key, data: bytes | memoryview) -> None:
        """The object that is there has the bytes ``data`` and is on the disk, whoever put it there."""
        parts, name = split_key(key)
        with (
            self._explained(key),
            self._made_folder(parts) as folder,  # its names may not be on the disk yet, either
            plain_file(folder, name, key) as (fd, size),
        ):
            if size != len(data) or read_up_to(fd, size) != data:
                raise CorruptObject(f"{key} at {self.address} holds other bytes", key=key)
            # Its writer may have died between (3) and (4) of _place, or may have been no writer of ours.
            os.fsync(fd)
            os.fsync(folder)

    @contextmanager
    def _written_temp(self, temps: int, data: bytes | memoryview) -> Iterator[str]:
        """A temporary file with the bytes on disk; its name is gone afterwards."""
        temp = os.urandom(16).hex()
        fd = os.open(temp, _CREATE, 0o444, dir_fd=temps)
        try:
            try:
                if not self._swept.is_set():
                    self._swept.set()
                    sweep(temps, os.fstat(fd).st_mtime)
                write_whole(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            yield temp
        finally:
            # Not synced: a restart that still finds it sweeps it away a day later.
            with suppress(OSError):
                os.unlink(temp, dir_fd=temps)

    def _link(self, temps: int, temp: str, folder: int, name: str, key: Key) -> bool:
        """Gives the temporary file its name; False if that is taken."""
        try:
            with self._fate(key, "naming"):
                os.link(temp, name, src_dir_fd=temps, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            # A network file system may repeat a request whose answer was lost: two names mean that the first one won.
            return os.stat(temp, dir_fd=temps, follow_symlinks=False).st_nlink == 2
        except PermissionError as error:
            raise SiteReadOnly(
                f"{key} at {self.address}: {error.strerror}",
                hint="A file system without hard links (FAT, exFAT) cannot hold a site; use ext4, XFS, ZFS or NFS.",
                key=key,
            ) from error
        return True

    @contextmanager
    def _fate(self, key: Key, what: str) -> Iterator[None]:
        """Errors that do not tell whether a name was changed become ``OutcomeUnknown``."""
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in FULL | REFUSED | NO_SUCH | NOT_POSSIBLE:
                raise
            raise OutcomeUnknown(f"{what} {key} at {self.address} failed: {error.strerror}", key=key) from error

    def _settle(self, folder: int, key: Key) -> None:
        """The folder's names are on the disk."""
        try:
            os.fsync(folder)
        except OSError as error:
            raise OutcomeUnknown(f"{key} may not be on disk at {self.address}: {error.strerror}", key=key) from error

    # Folders and locks

    @contextmanager
    def _root_folder(self) -> Iterator[int]:
        try:
            # The operator's own root may be a link; nothing below it may.
            fd = os.open(self._root, FOLDER & ~os.O_NOFOLLOW)
        except OSError as error:
            raise SiteUnavailable(
                f"the folder of {self.address} cannot be opened: {error.strerror}",
                hint="Mount the disk, or create the folder if this is a new site.",
                permanent=error.errno in NO_SUCH,
            ) from error
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _folder(self, parts: Sequence[str]) -> Iterator[int]:
        with self._root_folder() as root:
            fd = descend(root, parts)
            try:
                yield fd
            finally:
                os.close(fd)

    @contextmanager
    def _made_folder(self, parts: Sequence[str]) -> Iterator[int]:
        """The folder, made where missing; every name on the way to it is on the disk."""
        with self._root_folder() as root:
            fd = os.dup(root)
            try:
                path = ""
                for part in parts:
                    path += part + "/"
                    fd = self._step(fd, part, path)
                yield fd
            finally:
                os.close(fd)

    def _step(self, fd: int, part: str, path: str) -> int:
        """Into the folder ``part``, making it; ``fd`` stays open if this fails and is closed if it works."""
        known = path in self._durable_folders
        try:
            child = os.open(part, FOLDER, dir_fd=fd)
        except FileNotFoundError:
            known = False
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            child = os.open(part, FOLDER, dir_fd=fd)
        if not known:
            # Killed before this, a restart may find an empty folder or none. A folder that was there already is synced
            # too, once: its maker may have died before doing so.
            try:
                os.fsync(fd)
            except OSError:
                os.close(child)
                raise
            if len(self._durable_folders) >= _MOST_KNOWN_FOLDERS:
                self._durable_folders.clear()
            self._durable_folders.add(path)
        os.close(fd)
        return child

    @contextmanager
    def _locked(self, temps: int, key: Key) -> Iterator[None]:
        """Nobody else replaces ``key``. The kernel drops the lock of a process that dies."""
        # Of so many names, heads that are replaced at the same time share one seldom.
        name = "lock-" + hashlib.sha256(key.encode()).hexdigest()[:3]
        fd = os.open(name, _LOCK, 0o666, dir_fd=temps)
        try:
            deadline = self._clock() + _LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if self._clock() >= deadline:
                        raise SiteUnavailable(f"another process holds the lock of {key} at {self.address}") from error
                    self._sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _explained(self, key: Key, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain(error, key, self.address, writing=writing) from error

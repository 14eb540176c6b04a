"""Plain files under an open folder that a hostile host may have filled: opened without following links, without
blocking, and measured before they are read. What ``DirectorySite`` is made of.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    MalformedError,
    MissingObject,
    SiteFull,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.ids import MAX_KEY_LENGTH, Digest, Key, parse_key
from exclave.sites.contract import START_BYTES, Digested, ObjectStat

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a planted FIFO must not hang us
_SEGMENT = re.compile(r"[a-z0-9_-][a-z0-9._-]*\Z")
_TEMP_NAME = re.compile(r"[0-9a-f]{32}\Z")
_TEMP_LIFE_S = 24 * 3600
_DIRECT = getattr(os, "O_DIRECT", 0)
_DIRECT_LEAST_BYTES = 1 << 20
_DIRECT_UNIT_BYTES = 4096
_PIECE_BYTES = 256 << 10  # stays in a core's own cache between being read and being hashed
_own = threading.local()

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
NOT_A_FILE = {errno.ELOOP, errno.ENXIO}
NO_SUCH = {errno.ENOENT, errno.ENOTDIR}
NOT_POSSIBLE = {errno.EXDEV, errno.EMLINK, errno.ENAMETOOLONG, errno.EOPNOTSUPP}


def explain(error: OSError, key: Key, address: str, *, writing: bool) -> ExclaveError:
    """What an operating system's error means to the caller."""
    text = f"{key} at {address}: {error.strerror}"
    code = error.errno
    if code == errno.ENAMETOOLONG:
        return MalformedError(f"{text} (one part of the name is over 255 characters)")
    if writing:
        if code in FULL:
            return SiteFull(text, key=key)
        if code in REFUSED:
            return SiteReadOnly(text, key=key)
        return SiteUnavailable(text, key=key, permanent=code in NOT_A_FILE or code == errno.ENOTDIR)
    if code in NO_SUCH:
        return MissingObject(f"{key} is not at {address}", key=key)
    if code in NOT_A_FILE:
        return CorruptObject(f"{key} at {address} is not a plain file", key=key)
    return SiteUnavailable(text, key=key, permanent=code in REFUSED)


def split_key(key: Key) -> tuple[list[str], str]:
    """Folders and file name. Keys are checked where they are made; here a wrong one could leave the site."""
    *parts, name = parse_key(key).split("/")
    return parts, name


def content_tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def descend(root: int, parts: Sequence[str]) -> int:
    """Opens the folder under ``root``, following no link."""
    fd = os.dup(root)
    for part in parts:
        try:
            child = os.open(part, FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = child
    return fd


@contextmanager
def plain_file(folder: int, name: str, key: Key) -> Iterator[tuple[int, int]]:
    """An open plain file and its size in bytes."""
    fd = os.open(name, _READ, dir_fd=folder)
    try:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise MissingObject(f"{key} is a folder, not an object", key=key)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptObject(f"{key} is not a plain file", key=key)
        yield fd, found.st_size
    finally:
        os.close(fd)


def read_whole(folder: int, name: str, limit: int, key: Key) -> bytes:
    with plain_file(folder, name, key) as (fd, size):
        if size > limit:
            raise CorruptObject(f"{key} is {size} bytes long; at most {limit} can be right", key=key)
        data = read_up_to(fd, size + 1)
    if len(data) > size:
        raise CorruptObject(f"{key} grew while it was read", key=key)
    return data


def digest_whole(folder: int, name: str, limit: int, key: Key) -> Digested:
    """As ``read_whole`` and SHA-256, with one small buffer for each thread."""
    piece: bytearray | None = getattr(_own, "piece", None)
    if piece is None:
        piece = _own.piece = bytearray(_PIECE_BYTES)
    view, hasher, start, length = memoryview(piece), hashlib.sha256(), b"", 0
    with plain_file(folder, name, key) as (fd, size):
        if size > limit:
            raise CorruptObject(f"{key} is {size} bytes long; at most {limit} can be right", key=key)
        while (count := os.readv(fd, (piece,))) and length <= size:
            hasher.update(view[:count])
            start = start or bytes(view[: min(count, START_BYTES)])
            length += count
    if length > size:
        raise CorruptObject(f"{key} grew while it was read", key=key)
    return Digested(Digest(hasher.digest()), length, start)


def read_up_to(fd: int, length: int) -> bytes:
    first = os.read(fd, length)
    if len(first) >= length - 1:  # all of it, in the usual single call: no further copy
        return first
    data = bytearray(first)
    while piece := os.read(fd, length - len(data)):
        data += piece
    return bytes(data)


def write_whole(fd: int, data: bytes | memoryview) -> None:
    """Writes a new file. A long one goes past the page cache, whose pages cost more than all else that is done to it,
    and which should keep what the machine is there for. Nothing is durable before ``fsync``.
    """
    direct = len(data) >= _DIRECT_LEAST_BYTES and len(data) % _DIRECT_UNIT_BYTES == 0 and set_direct(fd, on=True)
    rest = memoryview(data)
    while rest:
        try:
            done = os.write(fd, rest)
        except OSError as error:
            if not direct or error.errno != errno.EINVAL:
                raise
            set_direct(fd, on=False)  # this file system, or where the bytes lie in memory, does not suit it
            direct = False
            continue
        rest = rest[done:]


def set_direct(fd: int, *, on: bool) -> bool:
    """Whether the file system takes it."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | _DIRECT if on else flags & ~_DIRECT)
    except OSError:
        return False
    return bool(_DIRECT)


def walk(folder: int, prefix: str, after: str = "") -> Iterator[ObjectStat]:
    """Objects below an open folder, which is closed at the end; only those whose names come after ``after``."""
    waiting: list[tuple[int, str, Iterator[str]]] = [(folder, prefix, iter(()))]
    try:
        waiting[0] = (folder, prefix, iter(_names(folder, prefix)))
        while waiting:
            here, path, names = waiting[-1]
            for name in names:
                if after and path + name <= after and not after.startswith(path + name if name[-1] == "/" else "/"):
                    continue  # it comes before, with all that is in it
                # What vanished since, or is a link by now, is passed over; other errors are not: a listing is complete.
                try:
                    if name[-1] != "/":
                        found = os.stat(name, dir_fd=here, follow_symlinks=False)
                    else:
                        child = os.open(name[:-1], FOLDER, dir_fd=here)
                except OSError as error:
                    if error.errno in NO_SUCH | NOT_A_FILE:
                        continue
                    raise
                if name[-1] == "/":
                    waiting.append((child, path + name, iter(())))
                    waiting[-1] = (child, path + name, iter(_names(child, path + name)))
                    break
                if stat.S_ISREG(found.st_mode):
                    yield ObjectStat(Key(path + name), found.st_size)
            else:
                os.close(waiting.pop()[0])
    finally:
        for left, _, _ in waiting:
            os.close(left)


def _names(folder: int, prefix: str) -> list[str]:
    """In order; folders end in a slash, so "a/" comes after "a-b" and before "a0", as it does in whole names."""
    room = MAX_KEY_LENGTH - len(prefix)
    with os.scandir(folder) as entries:
        return sorted(
            entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
            if _SEGMENT.match(entry.name) and len(entry.name) <= room
        )


def sweep(temps: int, now_s: float) -> None:
    """Removes temporary files that writers left a day ago or earlier, by the file system's own clock."""
    with os.scandir(temps) as entries:
        stray = [entry.name for entry in entries if _TEMP_NAME.match(entry.name)]
    for name in stray:
        with suppress(OSError):
            if os.stat(name, dir_fd=temps, follow_symlinks=False).st_mtime < now_s - _TEMP_LIFE_S:
                os.unlink(name, dir_fd=temps)

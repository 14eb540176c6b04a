"""What the system says of a file, as the vault keeps it."""

from __future__ import annotations

import errno
import functools
import grp
import os
import pwd
import stat
from collections.abc import Callable
from operator import attrgetter

from exclave.errors import SourceUnavailable
from exclave.formats.entry import Entry, Kind, Stamp

KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHAR_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""A link is not followed, and nobody is waited for at the other end of a FIFO."""
_NO_XATTRS = frozenset(
    {errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
)
"""A file system without them, one of them that we may not see, or something that is gone by now."""
YOUNG_NS = 50_000_000
"""The kernel's file times move in ticks of up to 10 ms. What changed less than this before it was read may change
again within the same tick, unseen by its times, so the next run reads it again."""
stamp_of: Callable[[os.stat_result], Stamp] = attrgetter(
    "st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns", "st_rdev"
)


@functools.lru_cache(4096)
def user_name(uid: int) -> str:
    """Empty if the system has none for that number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@functools.lru_cache(4096)
def group_name(gid: int) -> str:
    """Empty if the system has none for that number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def xattrs_of(target: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes of an open file or of a path, sorted; those that nobody may see are left out."""
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


def entry_of(path: bytes, info: os.stat_result, kind: Kind, xattrs: tuple[tuple[bytes, bytes], ...] = ()) -> Entry:
    """What ``info`` says of ``path``, which is relative to the root of what is captured."""
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
        user_name(info.st_uid),
        group_name(info.st_gid),
    )

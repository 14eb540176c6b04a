"""One file-system entry of a dataset as a version keeps it. Page: ``docs/spec/manifest.md``.

Paths are bytes, relative, with ``/`` between components; the dataset's own root is the empty path. Entries of a
dataset come in walk order: a folder before what is in it, siblings in byte order of their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import msgspec

from exclave.errors import MalformedError

MAX_PATH = 64 << 10
MAX_NAME = 255
MAX_XATTR_BYTES = 1 << 20


class Kind(IntEnum):
    """What an entry is."""

    FILE = 0
    FOLDER = 1
    SYMLINK = 2
    HARDLINK = 3
    FIFO = 4
    SOCKET = 5
    CHAR_DEVICE = 6
    BLOCK_DEVICE = 7


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Everything about one entry but its content."""

    path: bytes
    kind: int
    mode: int
    """Permission bits, set-id and sticky bits: 0 … 0o7777."""
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    """Length of a file in bytes, holes included; 0 for everything else."""
    target: bytes = b""
    """Of a symbolic link: what it points at. Of a hard link: the path of the earlier entry that has the content."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    """Extended attributes (POSIX access lists among them), sorted by name."""
    device: int = 0
    """``st_rdev`` of a device."""
    user: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells, without reading a file, that it is the one seen before."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class Content(Protocol):
    """A file's bytes, read once."""

    def blocks(self) -> Iterator[bytes | memoryview | int]:
        """The content in order: pieces of at most 4 MiB; an ``int`` is a hole of so many zero bytes."""


@dataclass(frozen=True, slots=True)
class Captured:
    """One entry on its way into a version. ``stamp`` is None where the source cannot vouch for unchanged content."""

    entry: Entry
    stamp: Stamp | None = None
    content: Content | None = None


def check_path(path: bytes) -> bytes:
    """``path`` if no component could lead out of the dataset, else ``MalformedError``."""
    if len(path) > MAX_PATH or b"\0" in path:
        raise MalformedError(f"not a path: {path[:80]!r}")
    if path and any(part in (b"", b".", b"..") or len(part) > MAX_NAME for part in path.split(b"/")):
        raise MalformedError(f"a path may not leave its folder: {path[:80]!r}")
    return path


def walk_order(path: bytes) -> tuple[bytes, ...]:
    """Sort key of the walk order."""
    return tuple(path.split(b"/")) if path else ()

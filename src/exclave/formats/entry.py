"""One file-system entry of a dataset as a version keeps it. Page: ``docs/spec/manifest.md``.

Paths are bytes, relative, with ``/`` between components; the dataset's own root is the empty path. Entries of a
dataset come in walk order: a folder before what is in it, siblings in byte order of their names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Annotated, Protocol, runtime_checkable

import msgspec
from msgspec import Meta

from exclave.errors import MalformedError

MAX_PATH = 64 << 10
MAX_NAME = 255
MAX_XATTR_BYTES = 1 << 20
_MOST = 2**63 - 1
_NO_OWNER = 2**32 - 1
"""To the kernel this number means "leave the owner as it is"."""


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


_SYMLINK, _HARDLINK = int(Kind.SYMLINK), int(Kind.HARDLINK)


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Everything about one entry but its content. The bounds are checked when it is decoded."""

    path: bytes
    kind: Annotated[int, Meta(ge=0, le=7)]
    mode: Annotated[int, Meta(ge=0, le=0o7777)]
    """Permission bits, set-id and sticky bits: 0 … 0o7777."""
    uid: Annotated[int, Meta(ge=0, lt=_NO_OWNER)]
    gid: Annotated[int, Meta(ge=0, lt=_NO_OWNER)]
    mtime_ns: Annotated[int, Meta(le=_MOST)]
    size: Annotated[int, Meta(ge=0, le=_MOST)] = 0
    """Length of a file in bytes, holes included; 0 for everything else."""
    target: bytes = b""
    """Of a symbolic link: what it points at. Of a hard link: the path of the earlier entry that has the content."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    """Extended attributes (POSIX access lists among them), sorted by name."""
    device: Annotated[int, Meta(ge=0, le=_MOST)] = 0
    """``st_rdev`` of a device."""
    user: str = ""
    group: str = ""


Stamp = tuple[int, ...]
"""What tells, without reading it, that an entry is the one seen before: mode, inode, number of links, owner, group,
size, times of modification and of change in nanoseconds, device number."""
STAMP_MODE, STAMP_LINKS = 0, 2


class Content(Protocol):
    """A file's bytes, read once."""

    def blocks(self) -> Iterator[bytes | memoryview | int]:
        """The content in order: pieces of at most 4 MiB, each its own object; an ``int`` is a hole of zero bytes."""


@runtime_checkable
class Fillable(Protocol):
    """Content that can be read straight to where it is wanted, instead of ``blocks``."""

    def fill(self, room: memoryview) -> int:
        """Reads on into ``room``: so many bytes; of a hole, its length below zero; 0 at the end."""


class LiveContent(Content, Protocol):
    """Content of a file that others may be changing: ``begin``, ``blocks``, ``unchanged``; as often as needed."""

    def begin(self) -> tuple[Entry, Stamp | None] | None:
        """Opens the file and says what it is now, without a stamp if that could not show a change; None: it is gone."""

    def whole(self) -> bytes | None:
        """All of it at once, if it is short and has no holes; else None, and ``blocks`` gives it."""

    def unchanged(self) -> bool:
        """Closes it; whether it stayed the same since ``begin``."""

    def give_up(self) -> None:
        """It kept changing: the capture reports it."""


class Captured(msgspec.Struct, frozen=True):
    """One entry on its way into a version. ``stamp`` is None where the source cannot vouch for unchanged content.

    ``content`` of a source that stands still, or ``live`` of one that may not; neither for anything but files.
    """

    entry: Entry
    stamp: Stamp | None = None
    content: Content | None = None
    live: LiveContent | None = None


class Listing(Protocol):
    """What can open entries that it has listed."""

    def open(self, path: bytes, info: os.stat_result, *, again: bool) -> Captured | None:
        """One entry; None: it is gone. With ``again`` one more system call tells what it is by now."""

    def read(
        self, paths: Sequence[bytes], infos: Sequence[os.stat_result]
    ) -> Iterator[tuple[Entry, Stamp | None, bytes] | None]:
        """Of each entry, if it is a short file without holes and other names that rested meanwhile: all of it.

        None for anything else, which ``open`` then gives.
        """


class Listed:
    """Entries in walk order as their file system lists them, before any of them is opened."""

    __slots__ = ("infos", "paths", "source", "stamps")

    def __init__(
        self, paths: list[bytes], stamps: list[Stamp | None], infos: list[os.stat_result], source: Listing
    ) -> None:
        """Three lists of one length. A stamp is None where it could not show a change."""
        self.paths, self.stamps, self.infos, self.source = paths, stamps, infos, source


class FileSink(Protocol):
    """One file that is being restored. Safe to call from several threads."""

    def write(self, offset: int, data: memoryview) -> None:
        """Some of its bytes."""

    def finish(self) -> None:
        """All bytes were written: sets what else belongs to it, and closes."""


class Sink(Protocol):
    """Where a restore puts entries. One thread calls everything but ``write_whole`` and ``FileSink``."""

    def place(self, entry: Entry) -> None:
        """Anything but a file. Folders are made at once, the rest at the next barrier."""

    def begin(self, entry: Entry) -> FileSink:
        """A file that comes in pieces."""

    def write_whole(self, entry: Entry, data: bytes | memoryview) -> None:
        """A file that comes in one piece; any thread."""

    def mark(self) -> None:
        """What was placed since the last ``mark`` is what one of the next ``barrier`` calls speaks of."""

    def barrier(self) -> None:
        """All files begun before the oldest ``mark`` that had no ``barrier`` yet are complete: links are made, folders
        left get their times."""

    def close(self) -> None:
        """Everything is there."""

    def abandon(self) -> None:
        """The restore failed: closes what is open, and leaves what was written."""


def check_path(path: bytes) -> bytes:
    """``path`` if no component could lead out of the dataset, else ``MalformedError``."""
    if len(path) > MAX_PATH or b"\0" in path:
        raise MalformedError(f"not a path: {path[:80]!r}")
    if path and any(part in (b"", b".", b"..") or len(part) > MAX_NAME for part in path.split(b"/")):
        raise MalformedError(f"a path may not leave its folder: {path[:80]!r}")
    return path


def check_entry(entry: Entry) -> None:
    """What the bounds of the fields do not say: ``MalformedError`` for values that no file system ever gave."""
    if entry.kind != Kind.FILE and entry.size:
        raise MalformedError(f"only a file has a size: {entry.path[:80]!r}")
    if entry.target:
        if entry.kind not in (Kind.SYMLINK, Kind.HARDLINK) or b"\0" in entry.target or len(entry.target) > MAX_PATH:
            raise MalformedError(f"not a link's target: {entry.target[:80]!r}")
    elif entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
        raise MalformedError(f"a link leads nowhere: {entry.path[:80]!r}")
    for name, value in entry.xattrs:
        if not 0 < len(name) <= MAX_NAME or b"\0" in name or len(value) > MAX_XATTR_BYTES:
            raise MalformedError(f"not an extended attribute: {name[:80]!r}")


def walk_order(path: bytes) -> tuple[bytes, ...]:
    """Sort key of the walk order."""
    return tuple(path.split(b"/")) if path else ()


_encode = msgspec.msgpack.Encoder().encode


def digest_line(entry: Entry, content: bytes) -> bytes:
    """What one entry adds to the digest of a dataset of kind ``files``. ``content``: BLAKE3 of a file, else empty.

    Owners are left out, since only root can bring them back; so are hard links' own metadata, which are their target's.
    """
    kind, mode, mtime_ns, xattrs = entry.kind, entry.mode, entry.mtime_ns, entry.xattrs
    if kind == _HARDLINK:
        mode, mtime_ns, xattrs = 0, 0, ()
    elif kind == _SYMLINK:
        mode = 0
    return _encode((entry.path, kind, mode, mtime_ns, entry.size, entry.target, xattrs, entry.device, content))

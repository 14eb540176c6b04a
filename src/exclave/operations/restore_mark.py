"""The mark of a restore that is under way: a small file beside the target, so that the same command can go on.

``NAME.restoring`` beside the folder ``NAME``; it is written before anything else and removed when everything is there.
While it lies there, files of the folder may hold a part of their bytes under their final names.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from exclave.durable import sync_folder
from exclave.errors import Busy, MalformedError, TargetNotEmpty, UnavailableError, UsageError
from exclave.formats.manifest import Root
from exclave.operations.home import make_folder, read_limited, write_private

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_BYTES = 4096


class Mark(msgspec.Struct, frozen=True):
    """Which version is being restored, what of it, and since which start of the machine."""

    register: str
    epoch: int
    sequence: int
    time: int
    only: str
    boot: str


def mark_of(root: Root, only: str | None) -> Mark:
    """The mark of a restore of this version that begins now."""
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return Mark(root.register, root.epoch, root.sequence, root.time, only or "", boot)


def mark_path(target: Path) -> Path:
    return target.with_name(target.name + ".restoring")


@contextmanager
def alone_in(target: Path) -> Iterator[None]:
    """The folder ``target``, made private if it is new, for this process alone; ``Busy`` if another restores into it.

    One that was told to end may still be at work: two would write the same files. A restart finds an empty folder.
    """
    if not target.name:
        raise UsageError(f"{target} has no name that a mark could be called by", hint="Name a new or empty folder.")
    make_folder(target.parent)
    try:
        with suppress(FileExistsError):
            target.mkdir(mode=0o700)
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"cannot use {str(target)!r}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                f"another restore into {target} is under way",
                hint="Wait for it to end, or end it; then the same command goes on from what it left.",
            ) from error
        except OSError:
            pass  # a file system without locks on folders, as NFS
        yield
    finally:
        os.close(fd)


def begin(target: Path, mine: Mark) -> Mark | None:
    """Sets the mark; the one that an interrupted restore of the same version left, None if the target is new or empty.

    ``TargetNotEmpty`` if something else lies there, ``UsageError`` if no mark can be set: without one, nobody could
    tell unfinished files from finished ones. A restart finds the mark before it finds any file.
    """
    path = mark_path(target)
    left = _read(path) if path.exists() else None
    if target.is_dir() and any(target.iterdir()):
        if left is None:
            raise TargetNotEmpty(
                f"the folder {target} is not empty, and no mark ({path.name} beside it) says that a restore into it was"
                " broken off",
                hint="This command wrote nothing. Choose an empty or new folder. If you removed the mark of a restore"
                " that was broken off, remove the folder too: some of its files may be incomplete.",
            )
        if msgspec.structs.replace(left, boot="") != msgspec.structs.replace(mine, boot=""):
            raise TargetNotEmpty(
                f"in {target} lies a restore of version {left.sequence} that was interrupted",
                hint=f"Restore the same version to go on with it, or remove {target} and {path}.",
            )
    else:
        left = None
    try:
        write_private(path, msgspec.json.encode(mine))
    except UsageError as error:
        raise UsageError(
            f"{error.message}: it would tell that a restore was broken off",
            hint="Restore into a new folder within one that you may write to; nothing was written.",
        ) from error
    return left


def end(target: Path) -> None:
    """Everything is there. Dies before: the next run looks at every file once more, and is done."""
    path = mark_path(target)
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def _read(path: Path) -> Mark:
    try:
        return msgspec.json.decode(read_limited(path, _MAX_BYTES), type=Mark)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise MalformedError(f"{path} is damaged", hint="Remove it and the target, and restore again.") from error

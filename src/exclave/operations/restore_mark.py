"""The mark of a restore that is under way: a small file beside the target, so that the same command can go on.

``NAME.restoring`` beside the folder ``NAME``; it is written before anything else and removed when everything is there.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from exclave.errors import MalformedError, TargetNotEmpty, UsageError
from exclave.formats.manifest import Root
from exclave.operations.home import read_limited, sync_folder, write_private

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


def begin(target: Path, mine: Mark) -> Mark | None:
    """Sets the mark; the one that an interrupted restore of the same version left, None if the target is new or empty.

    ``TargetNotEmpty`` if something else lies there. A restart finds the mark before it finds any file.
    """
    path = mark_path(target)
    left = _read(path) if path.exists() else None
    if target.is_dir() and any(target.iterdir()):
        if left is None:
            raise TargetNotEmpty(f"the folder {target} is not empty")
        if msgspec.structs.replace(left, boot="") != msgspec.structs.replace(mine, boot=""):
            raise TargetNotEmpty(
                f"in {target} lies a restore of version {left.sequence} that was interrupted",
                hint=f"Restore the same version to go on with it, or remove {target} and {path}.",
            )
    else:
        left = None
    try:
        write_private(path, msgspec.json.encode(mine))
    except UsageError:
        # The folder above belongs to others: a restore that is interrupted is begun anew then, in an emptied folder.
        if left is not None:
            raise
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

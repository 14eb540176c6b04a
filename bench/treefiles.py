"""What all trees of the benchmark are made with: where they lie, one fixed seed, copies that keep owner and times."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORK = Path(__file__).resolve().parent / "work"
TREES = WORK / "trees"
SEED = 20261126
MIB = 1 << 20


class TreeImpossible(Exception):
    """This machine cannot make the tree; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree that is ready, in its original state unless `trees.switch` was called."""

    name: str
    folder: Path  # holds tree/, original/, changed/ and tree.json
    scale: float = 1.0  # share of the full size; below 1 only to try the benchmark itself

    @property
    def path(self) -> Path:
        """The folder that the tools save."""
        return self.folder / "tree"

    def facts(self) -> dict[str, int | str]:
        """Files, bytes, and the files and bytes that differ in the changed state."""
        found: dict[str, int | str] = json.loads((self.folder / "tree.json").read_text())
        return found


def files(folder: Path) -> Iterator[Path]:
    """Every regular file under the folder; links are not followed."""
    for entry in entries(str(folder)):
        if entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Everything under the folder, links not followed; a folder that is not there holds nothing."""
    below = [folder]
    while below:
        try:
            listed = list(os.scandir(below.pop()))
        except FileNotFoundError:
            continue
        for entry in listed:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)


def relative_files(folder: Path) -> set[Path]:
    """The regular files under the folder by their relative names."""
    return {path.relative_to(folder) for path in files(folder)}


def copy(source: Path, target: Path) -> None:
    """Copy a file or link: content, mode, times and owner."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not target.is_symlink():  # a change of owner clears the set-id bits
        os.chmod(target, status.st_mode & 0o7777)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a whole folder with all owners."""
    shutil.copytree(source, target, symlinks=True)
    for parent, _, names in os.walk(source):
        for path in (Path(parent), *(Path(parent, name) for name in names)):
            status = path.lstat()
            os.chown(target / path.relative_to(source), status.st_uid, status.st_gid, follow_symlinks=False)


def set_time(path: Path, choose: random.Random) -> None:
    """A modification time in the years 2021 to 2025, with nanoseconds."""
    nanoseconds = some_time_ns(choose)
    os.utime(path, ns=(nanoseconds, nanoseconds))


def some_time_ns(choose: random.Random) -> int:
    """A time in the years 2021 to 2025."""
    return choose.randrange(1_609_459_200, 1_767_225_600) * 10**9 + choose.randrange(10**9)


def set_folder_times(folder: Path, choose: random.Random) -> None:
    """Times for all folders, the deepest first, since every change inside sets the time of the one above."""
    for parent, names, _ in os.walk(folder, topdown=False):
        names.sort()
        set_time(Path(parent), choose)


def keep_both(tree: Tree, path: Path, changed: bytes) -> None:
    """Note a file's present and changed content, for `trees.switch`."""
    relative = path.relative_to(tree.path)
    copy(path, tree.folder / "original" / relative)
    other = tree.folder / "changed" / relative
    copy(path, other)
    other.write_bytes(changed)

"""Files written with exact modes and times, so that the same seed gives the same folder to the nanosecond.

Nothing is synced to disk: the data are invented and can be made again from the seed.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from datetime import date

EPOCH_DAY = date(1970, 1, 1).toordinal()
NS_PER_S = 1_000_000_000


def office_hours(day: int, rng: random.Random) -> int:
    """A moment between 08:00 and 17:00 UTC of the day with that ordinal, in nanoseconds since 1970."""
    seconds = (day - EPOCH_DAY) * 86_400 + rng.randrange(8 * 3600, 17 * 3600)
    return seconds * NS_PER_S + rng.randrange(NS_PER_S)


def stamp(path: str | bytes, time_ns: int) -> None:
    """Sets both times of a file, folder or link (of the link itself)."""
    os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def write_file(path: str | bytes, data: bytes, time_ns: int, *, mode: int = 0o644) -> None:
    """A new file with these bytes, mode (whatever the umask says) and time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(time_ns, time_ns))
    finally:
        os.close(descriptor)


def replace_file(path: str, data: bytes, time_ns: int) -> None:
    """Puts a file in place of another in one step: a reader sees the old bytes or the new, never a mixture.

    If the process dies before the rename, a file with ``.new`` at its end is left; the next call clears it away.
    """
    staged = path + ".new"
    if os.path.lexists(staged):
        os.unlink(staged)
    write_file(staged, data, time_ns)
    os.replace(staged, path)


def replace_link(path: str, target: str, time_ns: int) -> None:
    """Makes or moves a symbolic link in one step, as ``replace_file`` does with a file."""
    staged = path + ".new"
    if os.path.lexists(staged):
        os.unlink(staged)
    os.symlink(target, staged)
    stamp(staged, time_ns)
    os.replace(staged, path)


def make_folder(path: str | bytes, *, mode: int = 0o755) -> None:
    """A folder (there already or not) with this mode, whatever the umask says."""
    os.makedirs(path, exist_ok=True)
    os.chmod(path, mode)


@dataclass(frozen=True, slots=True)
class TreeCount:
    """What lies in a folder, itself included; ``bytes`` are apparent sizes, those of hard links counted once."""

    files: int
    folders: int
    links: int
    others: int
    bytes: int


def count_tree(folder: str) -> TreeCount:
    """Counts everything below ``folder`` without following links."""
    files, folders, links, others, size = 0, 1, 0, 0, 0
    seen: set[int] = set()
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    links += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders += 1
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    files += 1
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink == 1 or status.st_ino not in seen:
                        seen.add(status.st_ino)
                        size += status.st_size
                else:
                    others += 1
    return TreeCount(files, folders, links, others, size)

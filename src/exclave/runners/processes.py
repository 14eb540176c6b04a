"""What the kernel says about a process (Linux, ``/proc``; proc(5)).

A number alone does not name a process, as numbers are used again. Number, start time and boot together do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DEAD = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """A living process. ``started`` counts clock ticks since boot (field 22 of ``/proc/PID/stat``)."""

    pid: int
    group: int
    session: int
    started: int


def process_stat(pid: int) -> ProcessStat | None:
    """The process of that number, or None if there is none or it only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name (field 2) stands in brackets and may itself hold brackets and spaces: count from the last one.
    fields = text[text.rindex(")") + 2 :].split()
    if fields[0] in _DEAD:
        return None
    return ProcessStat(pid, group=int(fields[2]), session=int(fields[3]), started=int(fields[19]))


def group_members(group: int) -> Iterator[ProcessStat]:
    """Every living process of a process group."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = process_stat(int(name))
            if found is not None and found.group == group:
                yield found


def boot_id() -> str:
    """Changes with every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def writes_to(pid: int, file: Path) -> bool:
    """True if that process's standard output or error is ``file``."""
    try:
        wanted = os.stat(file)
    except FileNotFoundError:
        return False
    for descriptor in (1, 2):
        try:
            found = os.stat(f"/proc/{pid}/fd/{descriptor}")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False

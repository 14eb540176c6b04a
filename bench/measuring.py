"""Measured commands: what one operation of one tool cost, and whether a restored tree is the saved one."""

from __future__ import annotations

import filecmp
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import Command
from treefiles import entries

MEASURE = Path(__file__).resolve().parent / "measure.py"


class RunFailed(Exception):
    """A measured command failed, or what it restored is not what was saved."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one operation cost, once."""

    wall_s: float
    user_s: float  # processor time of the process and all that it waited for
    system_s: float
    peak_bytes: int  # as measure.py counts it

    @property
    def cpu_s(self) -> float:
        """User and system time together."""
        return self.user_s + self.system_s


def measure(command: Command, environment: dict[str, str], log: Path) -> Run:
    """Run one command to its end. Raises RunFailed with the end of its output when it does not exit with 0."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as figures, log.open("wb") as said:
        process = subprocess.Popen(
            [*command.inside, sys.executable, "-I", "-S", str(MEASURE), str(writer), *command.argv], cwd=command.cwd,
            env=environment | command.env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=[writer],
            start_new_session=True,
        )  # fmt: skip
        os.close(writer)
        try:
            text = figures.read()
            code = process.wait()
        finally:
            if process.returncode is None:  # interrupted: the tool must not go on writing
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code != 0:
        end = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        raise RunFailed(f"{Path(command.argv[0]).name} exited with {code}: {end}")
    cost = json.loads(text)
    return Run(cost["wall_s"], cost["user_s"], cost["system_s"], cost["peak_kib"] * 1024)


def measure_all(commands: Sequence[Command], environment: dict[str, str], log: Path) -> Run:
    """The sum of several commands that make one operation."""
    os.sync()
    runs = [measure(command, environment, log) for command in commands]
    os.sync()
    return Run(
        sum(run.wall_s for run in runs),
        sum(run.user_s for run in runs),
        sum(run.system_s for run in runs),
        max(run.peak_bytes for run in runs),
    )


def folder_size(folder: Path) -> tuple[int, int]:
    """(bytes, files): the sum of the lengths of all files, as `du --apparent-size` counts them, and their number."""
    sizes = [
        entry.stat(follow_symlinks=False).st_size
        for entry in entries(str(folder))
        if entry.is_file(follow_symlinks=False)
    ]
    return sum(sizes), len(sizes)


def differences(saved: Path, restored: Path) -> list[str]:
    """Where the restored tree is not the saved one: names, kinds, modes, owners, times to the nanosecond, contents."""
    found = []
    before, after = _statuses(saved), _statuses(restored)
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            found.append(f"{name}: only in the {'saved' if name in before else 'restored'} tree")
            continue
        one, other = before[name], after[name]
        if one.st_mode != other.st_mode:
            found.append(f"{name}: mode {one.st_mode:o} became {other.st_mode:o}")
        elif (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid):
            found.append(f"{name}: another owner")
        elif one.st_mtime_ns != other.st_mtime_ns:
            found.append(f"{name}: time {one.st_mtime_ns} became {other.st_mtime_ns}")
        elif stat.S_ISLNK(one.st_mode) and os.readlink(saved / name) != os.readlink(restored / name):
            found.append(f"{name}: the link points elsewhere")
        elif stat.S_ISREG(one.st_mode) and not _same_content(saved / name, restored / name, one.st_size):
            found.append(f"{name}: other content")
    filecmp.clear_cache()
    return found


def _same_content(one: Path, other: Path, size: int) -> bool:
    if size > 1 << 20:
        return filecmp.cmp(one, other, shallow=False)
    return one.read_bytes() == other.read_bytes()


def _statuses(folder: Path) -> dict[str, os.stat_result]:
    """Everything below the folder by its relative name; the folder itself is the user's own, not restored."""
    cut = len(str(folder)) + 1
    return {entry.path[cut:]: entry.stat(follow_symlinks=False) for entry in entries(str(folder))}

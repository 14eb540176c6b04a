"""Where the time goes: processor seconds by stage and by function, from py-spy beside the unchanged program.

py-spy (from PyPI, in a virtual environment of its own under bench/work/peers) looks at all threads a hundred times a
second and writes down which function each that is running is in. A call into C (hashing, sealing, compressing, system
calls) counts for the Python line that made it, so the last function of ours on the stack says what was done. `exclave`
itself is slowed by a few per cent; processor seconds are scaled to what the kernel counted.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import Run, measure
from peers import PEERS, PeerMissing
from tools import Command

RATE = 100
SHOWN = 14


@dataclass(frozen=True, slots=True)
class Profile:
    """Processor seconds of one operation."""

    run: Run
    stages: list[tuple[str, float]]  # (module: function, CPU s), most first


def find_spy() -> Path:
    """py-spy, installed when it is not there. Raises PeerMissing."""
    folder = PEERS / "py-spy"
    program = folder / "bin" / "py-spy"
    if not program.exists():
        for argv in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "py-spy"],
        ):
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise PeerMissing(f"py-spy: {done.stderr.strip().splitlines()[-1:]}")
    return program


def profiled(command: Command, environment: dict[str, str], folder: Path) -> Profile:
    """One command under py-spy. Raises RunFailed or PeerMissing."""
    raw = folder / "profile.txt"
    spy = [str(find_spy()), "record", "--format", "raw", "--rate", str(RATE), "--subprocesses", "--output", str(raw)]
    watched = Command([*spy, "--", *command.argv], command.cwd, command.env, command.inside)
    run = measure(watched, environment, folder / "profile.log")
    return Profile(run, stages_of(raw.read_text().splitlines(), run.cpu_s))


def stages_of(lines: Sequence[str], cpu_s: float) -> list[tuple[str, float]]:
    """From py-spy's lines (`frame;frame;frame count`): the innermost function of ours, in shares of ``cpu_s``."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own = [frame for frame in frames if "exclave/" in frame and not frame.startswith("process ")]
        counts[_short(own[-1]) if own else "Python itself: start, imports, threads"] += int(count)
    total = sum(counts.values()) or 1
    return [(name, cpu_s * count / total) for name, count in counts.most_common()]


def _short(frame: str) -> str:
    """``open (exclave/vault/opener.py:12)`` → ``vault/opener.py: open``."""
    function, _, place = frame.partition(" (")
    return f"{place.partition('exclave/')[2].partition(':')[0]}: {function}"


def text(operation: str, profile: Profile) -> str:
    """The largest stages, as lines."""
    head = f"{operation}: {profile.run.wall_s:.2f} s, CPU {profile.run.user_s:.2f} + {profile.run.system_s:.2f} s"
    shown = profile.stages[:SHOWN]
    rest = sum(seconds for _, seconds in profile.stages[SHOWN:])
    return "\n".join([head, *(f"  {seconds:6.2f} s  {name}" for name, seconds in [*shown, ("the rest", rest)])])

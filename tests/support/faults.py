"""One durable call of a real command fails, or is the last thing that its process does."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "crash" / "faults.c"
_TESTS = Path(__file__).parents[1]


class Mode(Enum):
    """What happens at the chosen call; the numbers are those of ``faults.c``, with the error that is reported."""

    COUNT = (0, 0)
    KILL_BEFORE = (1, 0)
    KILL_AFTER = (2, 0)
    LOST = (3, errno.EIO)
    """It is not made, and an error is reported."""
    FULL = (3, errno.ENOSPC)
    """The same, for want of space."""
    APPLIED = (4, errno.EIO)
    """It is made, and an error is reported."""
    TORN = (5, 0)
    """Half of the bytes are written, then the process dies."""


@dataclass(frozen=True, slots=True)
class Call:
    """One durable call of a run, in the order in which they were made."""

    number: int
    what: str
    path: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: exit code (-9: killed), what it said, and the calls up to then."""

    code: int
    out: str
    err: str
    calls: tuple[Call, ...]


def build(folder: Path) -> Path:
    """The shim, compiled from ``faults.c``."""
    made = folder / "faults.so"
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(made)]
    subprocess.run([*command, str(SOURCE), "-ldl"], check=True, capture_output=True)
    return made


class Faults:
    """A process that runs commands with faults, below ``roots``. Use as a context; ends with it."""

    def __init__(self, folder: Path, roots: Iterable[Path]) -> None:
        self._folder = folder
        self._roots = [str(root) for root in roots]
        path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.faults_server"],
            env={**os.environ, "LD_PRELOAD": str(build(folder)), "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._read() == "ready"

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, arguments: Sequence[str], mode: Mode = Mode.COUNT, at: int = 0) -> Outcome:
        """``exclave ARGUMENTS``, in which ``mode`` happens at the ``at``-th durable call."""
        log, out, err = (self._folder / name for name in ("calls", "out", "err"))
        log.unlink(missing_ok=True)
        number, error = mode.value
        asked = {
            "arguments": list(arguments), "roots": self._roots, "log": str(log), "out": str(out), "err": str(err),
            "at": at, "mode": number, "errno": error,
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._read())["code"]
        lines = log.read_text().splitlines() if log.exists() else []
        calls = sorted((_call(line) for line in lines), key=lambda call: call.number)
        return Outcome(code, out.read_text(), err.read_text(), tuple(calls))

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that makes faults ended"
        return line.strip()


def _call(line: str) -> Call:
    number, what, path = line.split(" ", 2)
    return Call(int(number), what, path)

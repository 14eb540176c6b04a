"""The demo's only way to act: the ``exclave`` command that any user has, run as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from exclave.errors import Bug


@dataclass(frozen=True, slots=True)
class Told:
    """What a command said: its exit code and its JSON."""

    exit_code: int
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Commands:
    """Runs commands; ``show`` gets each one as a person would type it, ``apart`` runs those that are not waited for."""

    show: Callable[[str], None]
    apart: Executor

    def run(self, *arguments: str, expect: tuple[int, ...] = (0,)) -> Told:
        """Runs ``exclave ARGUMENTS --json``. ``Bug`` if it ends with another exit code than expected."""
        self.show(typed(arguments))
        return _done(arguments, expect)

    def beside(self, *arguments: str) -> Future[Told]:
        """As ``run``, while the story goes on; what it said, or the ``Bug``, comes with the result."""
        self.show(typed(arguments) + " &")
        return self.apart.submit(_done, arguments, (0,))

    def together(self, *calls: Sequence[str]) -> list[Told]:
        """Several commands that do not touch each other's files, at once."""
        return [future.result() for future in [self.beside(*arguments) for arguments in calls]]


def typed(arguments: Sequence[str]) -> str:
    """``$ exclave ARGUMENTS``, as a person would type it."""
    return "$ exclave " + " ".join(quoted(a) for a in arguments)


def quoted(argument: str) -> str:
    return (
        argument
        if argument and not set(argument) & set(" '\"$&|;()<>*?")
        else "'" + argument.replace("'", "'\\''") + "'"
    )


def _done(arguments: Sequence[str], expect: tuple[int, ...]) -> Told:
    argv = [sys.executable, "-m", "exclave.cli.main", *arguments, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    try:
        result = json.loads(done.stdout) if done.stdout.strip() else {}
    except ValueError as error:
        raise Bug(f"`exclave {arguments[0]}` did not print JSON: {done.stdout[:500]}") from error
    if done.returncode not in expect:
        said = result.get("message", "") if isinstance(result, dict) else ""
        hint = f"{result.get('hint', '')}\n{done.stderr[-2000:]}"
        raise Bug(f"`exclave {' '.join(arguments[:2])}` ended with {done.returncode}: {said}", hint=hint)
    return Told(done.returncode, result)

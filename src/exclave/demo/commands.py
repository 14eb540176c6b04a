"""The demo's only way to act: the ``exclave`` command that any user has, run as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
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
    """Runs commands; ``show`` gets each one as a person would type it."""

    show: Callable[[str], None]

    def run(self, *arguments: str, expect: tuple[int, ...] = (0,)) -> Told:
        """Runs ``exclave ARGUMENTS --json``. ``Bug`` if it ends with another exit code than expected."""
        self.show("$ exclave " + " ".join(quoted(a) for a in arguments))
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


def quoted(argument: str) -> str:
    return (
        argument
        if argument and not set(argument) & set(" '\"$&|;()<>*?")
        else "'" + argument.replace("'", "'\\''") + "'"
    )

"""Gateways as processes of their own, on a disk that stays when they are killed: ``exclave serve site`` each time.

A process that has loaded the product forks them (``serve_gateways``), so that a start costs milliseconds. It also kills
and stops them, and answers only when that is done.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from exclave.cli import main as cli
from support.gateway import wait_until

TESTS = Path(__file__).resolve().parents[1]


@dataclass
class Gateways:
    """The process that starts them."""

    process: subprocess.Popen[bytes]

    def ask(self, what: str, *, pid: int = 0, config: str = "", log: str = "") -> int:
        """``start`` (answers with the process's id), ``kill``, ``freeze`` or ``thaw``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"what": what, "pid": pid, "config": config, "log": log}
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"what starts gateways ended at {what}"
        return int(json.loads(answer))


@contextmanager
def gateways(prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Iterator[Gateways]:
    """``prefix``: what enters a namespace. At the end all that were started are killed."""
    path = os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)
    argv = [*prefix, sys.executable, "-c", "from support.gateway_process import serve_gateways; serve_gateways()"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TESTS,
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
    ) as process:  # fmt: skip
        yield Gateways(process)


@dataclass
class RunningGateway:
    """One of them; ``config`` names the port at which it listens each time."""

    of: Gateways
    config: Path
    pid: int = 0

    def start(self) -> None:
        """Returns once it says that it listens."""
        log = self.config.with_suffix(".log")
        log.write_bytes(b"")
        self.pid = self.of.ask("start", config=str(self.config), log=str(log))
        wait_until(lambda: b"listening at port" in log.read_bytes(), f"{self.config} is served")

    def kill(self) -> None:
        """Without notice, whatever it is doing. Returns when it is dead."""
        if self.pid:
            self.of.ask("kill", pid=self.pid)
            self.pid = 0

    def freeze(self) -> None:
        """It takes connections and answers nothing; what was asked meanwhile it does after ``thaw``."""
        self.of.ask("freeze", pid=self.pid)

    def thaw(self) -> None:
        self.of.ask("thaw", pid=self.pid)


# In the process that starts them


def serve_gateways() -> None:
    """Until its input ends; then all are killed."""
    import_module("exclave.cli.serve_site")
    alive: set[int] = set()
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            sys.stdout.write(f"{_DOES[asked['what']](alive, asked)}\n")
            sys.stdout.flush()
    finally:
        for pid in alive.copy():
            _kill(alive, {"pid": pid})


def _start(alive: set[int], asked: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        for number, name in ((0, os.devnull), (1, asked["log"]), (2, asked["log"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_APPEND), number)
        code = 1
        try:
            code = cli.run(["serve", "site", "--config", asked["config"]])
        finally:
            sys.stderr.flush()
            os._exit(code)
    alive.add(pid)
    return pid


def _kill(alive: set[int], asked: Mapping[str, Any]) -> int:
    os.kill(asked["pid"], signal.SIGKILL)
    os.waitpid(asked["pid"], 0)
    alive.discard(asked["pid"])
    return 0


def _freeze(alive: set[int], asked: Mapping[str, Any]) -> int:
    os.kill(asked["pid"], signal.SIGSTOP)
    os.waitpid(asked["pid"], os.WUNTRACED)
    return 0


def _thaw(alive: set[int], asked: Mapping[str, Any]) -> int:
    os.kill(asked["pid"], signal.SIGCONT)
    return 0


_DOES: dict[str, Callable[[set[int], Mapping[str, Any]], int]] = {
    "start": _start,
    "kill": _kill,
    "freeze": _freeze,
    "thaw": _thaw,
}

"""Runs ``exclave`` and dies by SIGKILL at a chosen moment: ``python dying.py SAVES before|after ARGUMENTS…``

The moment is the ``SAVES``-th time that the failover writes its progress down, before or after it is durable.
"""

from __future__ import annotations

import os
import signal
import sys

from exclave.cli import main as cli
from exclave.operations.failover_run import Run


def die() -> None:
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def run(at: int, when: str, arguments: list[str]) -> int:
    real, seen = Run.save, 0

    def save(progress: Run) -> None:
        nonlocal seen
        seen += 1
        if seen == at and when == "before":
            die()
        real(progress)
        if seen == at and when == "after":
            die()

    Run.save = save  # type: ignore[method-assign]
    return cli.run(arguments)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))

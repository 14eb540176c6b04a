"""Runs ``exclave restore`` and sends itself a signal: ``python signalled_restore.py SIGNAL FILES restore …``

The moment is when it has set the times of ``FILES`` files, which are the last thing a file gets.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from exclave.cli import main as cli
from exclave.formats.entry import Entry
from exclave.registers.files_restore import FolderSink


def start_signalled(number: signal.Signals, files: int, arguments: list[str]) -> subprocess.Popen[bytes]:
    """The restore as a process of its own, which hears of Ctrl-C."""
    command = [sys.executable, __file__, number.name, str(files), *arguments]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def run(number: signal.Signals, files: int, arguments: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    real, left, lock = FolderSink._set_times, [files], threading.Lock()

    def set_times(sink: FolderSink, fd: int, entry: Entry) -> None:
        real(sink, fd, entry)
        with lock:
            left[0] -= 1
            due = left[0] == 0
        if due:
            os.kill(os.getpid(), number)

    FolderSink._set_times = set_times  # type: ignore[method-assign]
    return cli.run(arguments)


if __name__ == "__main__":
    sys.exit(run(signal.Signals[sys.argv[1]], int(sys.argv[2]), sys.argv[3:]))

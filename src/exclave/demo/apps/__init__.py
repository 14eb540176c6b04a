"""The registers' own web applications. They are part of the registers, and so are copied and started with them.

Each is one standalone file: once ``write_app`` has put it into a register's folder, nothing of Exclave is needed.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Literal

from exclave.demo.files import make_folder, write_file
from exclave.errors import TargetNotEmpty

AppName = Literal["gazette", "land", "business"]

_WRITTEN_NS = 1_767_225_600 * 1_000_000_000
"""2026-01-01T00:00:00Z: a fixed time, so that the same application always makes the same folder."""

_RUNBOOKS: dict[AppName, tuple[str, str]] = {
    "gazette": ('python app.py --port 8101 --data "FOLDER OF THE ACTS"', "Python 3.11 or newer; no packages."),
    "land": (
        'python app.py --port 8102 --dsn "host=HOST dbname=NAME user=USER"',
        "Python 3.11 or newer, psycopg 3 (requirements.txt), PostgreSQL 15 or newer with the register's database.",
    ),
    "business": ('python app.py --port 8103 --db "FILE.sqlite"', "Python 3.11 or newer; no packages."),
}

_RUNBOOK = """RUNBOOK: {name}

Needs:  {needs}
Start:  {start}
Probe:  curl --fail http://127.0.0.1:PORT/health
Stop:   SIGTERM; requests under way are finished first.

It answers on 127.0.0.1 only and needs no network: put a web server with TLS before it.
Port 0 takes any free port; the first line of its output says which. Errors go to standard error.
"""


def write_app(name: AppName, folder: Path) -> Path:
    """Puts the application ``app.py`` with its runbook into ``folder`` (new or empty, else ``TargetNotEmpty``).

    Returns the path of ``app.py``. The same application always gives the same bytes, modes and times.
    """
    if os.path.isdir(folder) and os.listdir(folder):
        raise TargetNotEmpty(f"{folder} is not empty")
    make_folder(str(folder))
    program = folder / "app.py"
    start, needs = _RUNBOOKS[name]
    source = resources.files(__name__).joinpath(f"{name}.py").read_bytes()
    write_file(str(program), source, _WRITTEN_NS, mode=0o755)
    runbook = _RUNBOOK.format(name=name, needs=needs, start=start)
    write_file(str(folder / "RUNBOOK.txt"), runbook.encode(), _WRITTEN_NS)
    if name == "land":
        write_file(str(folder / "requirements.txt"), b"psycopg[binary]>=3.2,<4\n", _WRITTEN_NS)
    os.utime(folder, ns=(_WRITTEN_NS, _WRITTEN_NS))
    return program

"""Clerks at work: files documents in the business register again and again, until told to stop.

Run as ``python -m exclave.demo.business_writer PATH``. Each filing is one transaction. On SIGTERM or SIGINT the
current one is finished, and one line of JSON says what was done: ``{"filed": 512, "last_id": 28512}``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from exclave.demo.business import file_document, make_filing, writer_filings
from exclave.errors import ExclaveError, SourceUnavailable

BUSY_S = 30.0
"""How long a filing waits for somebody else's transaction."""


def write_filings(
    path: Path, *, seed: int, rate: float, stop: threading.Event, now_us: Callable[[], int]
) -> tuple[int, int]:
    """Files about ``rate`` documents a second until ``stop`` is set; returns how many, and the last one's id.

    ``SourceUnavailable`` if ``path`` is not the business register or stays locked for longer than 30 seconds.
    """
    filed = last_id = 0
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_S)) as database:
            # The totals are kept in one transaction; a power cut may take the last ones, a kill takes none.
            database.execute("PRAGMA synchronous = NORMAL")
            (companies,) = database.execute("SELECT value FROM total WHERE name = 'companies'").fetchone()
            (start,) = database.execute("SELECT value FROM total WHERE name = 'filings'").fetchone()
            began = time.monotonic()
            for code, rng in writer_filings(seed, start, companies):
                if stop.wait(max(0.0, began + filed / rate - time.monotonic())):
                    break
                last_id = file_document(database, make_filing(rng, code, now_us()))
                filed += 1
    except sqlite3.Error as error:
        raise SourceUnavailable(f"{path} does not take filings: {error}") from error
    return filed, last_id


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="business_writer", description="Files documents in the business register.")
    parser.add_argument("path", type=Path, help="the register's SQLite database")
    parser.add_argument("--rate", type=float, default=50.0, help="filings per second (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="what the filings are made from (default 0)")
    options = parser.parse_args(arguments)
    if not 0 < options.rate <= 10_000:
        parser.error("--rate must be above 0 and at most 10000")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        filed, last_id = write_filings(
            options.path, seed=options.seed, rate=options.rate, stop=stop, now_us=lambda: time.time_ns() // 1000
        )
    except ExclaveError as error:
        print(f"business_writer: {error.message}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"filed": filed, "last_id": last_id}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tickets: one contract for the three keepers, races between threads and processes, damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from exclave.errors import ConfigError, UnavailableError
from exclave.identity.contract import Tickets
from exclave.identity.tickets import MemoryTickets, SqliteTickets
from exclave.identity.tickets_postgres import PostgresTickets
from exclave.ids import Instant
from support.postgres import running_server

T = Instant(1_790_000_000_000_000)
LATER = Instant(T + 60_000_000)
AFTER = Instant(LATER + 1)
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def conninfo() -> Iterator[str]:
    with running_server(15) as server:
        yield psycopg.conninfo.make_conninfo(
            host=str(server.socket_dir), port=server.port, user="postgres", dbname="postgres"
        )


Opener = Callable[[], Tickets]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the same keeper as often as it is called."""
    if request.param == "memory":
        only = MemoryTickets()
        return lambda: only
    if request.param == "sqlite":
        return lambda: SqliteTickets(str(tmp_path / "tickets.db"))
    where = request.getfixturevalue("conninfo")
    with psycopg.connect(where, autocommit=True) as db:
        db.execute("DROP TABLE IF EXISTS exclave_ticket")
    return lambda: PostgresTickets(where)


def test_contract(opener: Opener) -> None:
    """Put replaces, get reads until the end, take gives once, add refuses what is there, sweep removes the expired."""
    tickets = opener()
    tickets.put("code", KEY, b"one", LATER)
    tickets.put("code", KEY, b"two", LATER)
    tickets.put("challenge", KEY, b"other", LATER)
    assert tickets.get("code", KEY, now=T) == b"two"
    assert tickets.get("code", KEY, now=LATER) is None
    assert tickets.get("code", b"", now=T) is None
    assert tickets.take("code", KEY, now=T) == b"two"
    assert tickets.take("code", KEY, now=T) is None
    assert tickets.take("challenge", KEY, now=LATER) is None
    assert tickets.get("challenge", KEY, now=T) is None
    assert tickets.add("jti", KEY, b"", LATER, now=T)
    assert not tickets.add("jti", KEY, b"replay", LATER, now=T)
    assert tickets.get("jti", KEY, now=T) == b""
    assert tickets.add("jti", KEY, b"again", AFTER, now=LATER)
    tickets.put("old", KEY, b"", T)
    assert tickets.sweep(now=LATER) == 1
    assert tickets.sweep(now=AFTER) == 1
    tickets.close()


def test_race(opener: Opener) -> None:
    """Of many threads on several openings, exactly one adds and exactly one takes."""
    opened = [opener() for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        for round_ in range(20):
            key = round_.to_bytes(4, "big")
            added = list(
                pool.map(lambda n, k=key: opened[n % 3].add("x", k, b"%d" % n, LATER, now=T), range(6))  # type: ignore[misc]
            )
            taken = list(pool.map(lambda n, k=key: opened[n % 3].take("x", k, now=T), range(6)))  # type: ignore[misc]
            assert added.count(True) == 1
            assert [t for t in taken if t is not None] == [b"%d" % added.index(True)]
    for tickets in opened:
        tickets.close()


TAKER = """
import sys
from exclave.identity.tickets import SqliteTickets
tickets = SqliteTickets(sys.argv[1])
sys.stdin.readline()
print(sum(tickets.take("x", n.to_bytes(4, "big"), now=1) is not None for n in range(2000)))
"""


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Three processes that take the same tickets get each of them once, all together."""
    path = str(tmp_path / "tickets.db")
    tickets = SqliteTickets(path)
    for n in range(2000):
        tickets.put("x", n.to_bytes(4, "big"), b"v", LATER)
    takers = [
        subprocess.Popen([sys.executable, "-c", TAKER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    counts = [int(taker.communicate(b"\n")[0]) for taker in takers]
    assert sum(counts) == 2000
    assert tickets.sweep(now=AFTER) == 0


def test_damaged_file_is_replaced(tmp_path: Path) -> None:
    """A file that is no database costs the log-ins under way, not the service."""
    path = tmp_path / "tickets.db"
    SqliteTickets(str(path)).close()
    path.write_bytes(b"not a database" * 1000)
    tickets = SqliteTickets(str(path))
    assert tickets.add("x", KEY, b"v", LATER, now=T)
    other = SqliteTickets(str(path))
    assert other.take("x", KEY, now=T) == b"v"


def test_file_is_private(tmp_path: Path) -> None:
    """Others on the machine cannot read sessions."""
    SqliteTickets(str(tmp_path / "tickets.db")).put("session", KEY, b"v", LATER)
    assert {os.stat(tmp_path / name).st_mode & 0o077 for name in os.listdir(tmp_path)} == {0}


def test_failures_are_ours(tmp_path: Path) -> None:
    """A folder that is missing is a wrong setting; a closed or unreachable keeper is unavailable."""
    with pytest.raises(ConfigError):
        SqliteTickets(str(tmp_path / "missing" / "tickets.db"))
    tickets = SqliteTickets(str(tmp_path / "tickets.db"))
    tickets.close()
    with pytest.raises(UnavailableError):
        tickets.get("x", KEY, now=T)


def test_speed(tmp_path: Path) -> None:
    """Thousands of put and take per second, so that tickets are never what a log-in waits for."""
    tickets = SqliteTickets(str(tmp_path / "tickets.db"))
    began = time.process_time()
    for n in range(5000):
        key = n.to_bytes(32, "big")
        tickets.put("code", key, KEY * 10, LATER)
        assert tickets.take("code", key, now=T) is not None
    assert 5000 / (time.process_time() - began) > 3000

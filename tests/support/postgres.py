"""Real PostgreSQL servers for tests: the machine's own and the wheel's, each in a folder of its own.

A test that needs one of them fails where it is missing; it is never skipped.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psycopg

from exclave.ids import Label
from exclave.registers.postgres_binaries import PostgresBinaries, find_postgres
from exclave.registers.postgres_source import PostgresSource
from exclave.runners.ports import free_port
from exclave.runners.postgres import initdb, start_postgres, stop_postgres
from exclave.runners.process import Running
from exclave.runners.unprivileged import Account, own_tree, reachable_binaries, unprivileged_user

MAJORS = (15, 17)
NAME = Label("postgres")
_QUICK = {
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_wal_senders": "4",
    "wal_keep_size": "0",
    "autovacuum": "off",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
}


def _memory() -> str | None:
    """Where files live in memory, if there is much of it: these tests make thousands of small files."""
    place = Path("/dev/shm")
    if not os.access(place, os.W_OK | os.X_OK):
        return None
    return str(place) if shutil.disk_usage(place).free > 4 << 30 else None


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user can enter (pytest's own can be entered by its user only)."""
    folder = Path(tempfile.mkdtemp(prefix="exclave-test-", dir=_memory()))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def binaries_of(major: int) -> PostgresBinaries:
    """The programs of just that major version."""
    found = find_postgres(major)
    if found.major != major:
        raise AssertionError(f"these tests need PostgreSQL {major}; found only {found}")
    return found


@dataclass
class Server:
    """One PostgreSQL server; ``folder`` holds everything of it."""

    binaries: PostgresBinaries
    bindir: Path
    folder: Path
    port: int
    account: Account | None
    settings: dict[str, str] = field(default_factory=dict)
    pgdata: Path = field(init=False)
    socket_dir: Path = field(init=False)
    run_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.pgdata = self.folder / "data"
        self.socket_dir = self.folder / "sock"
        self.run_dir = self.folder / "run"

    def start(self, *, timeout_s: float = 60.0) -> Running:
        """Starts it and waits until it takes connections."""
        return start_postgres(
            self.bindir,
            self.pgdata,
            self.run_dir,
            name=NAME,
            port=self.port,
            socket_dir=self.socket_dir,
            account=self.account,
            settings=_QUICK | self.settings,
            timeout_s=timeout_s,
        )

    def stop(self) -> bool:
        """Ends it; fine if it does not run."""
        return stop_postgres(self.run_dir, NAME)

    def source(self, user: str = "postgres", dbname: str = "postgres", **options: Path) -> PostgresSource:
        """How to reach it over its socket."""
        return PostgresSource(str(self.socket_dir), self.port, user, dbname, **options)

    def connect(self, user: str = "postgres", dbname: str = "postgres") -> psycopg.Connection:
        """A connection in autocommit mode."""
        return psycopg.connect(
            host=str(self.socket_dir), port=self.port, user=user, dbname=dbname, autocommit=True, connect_timeout=10
        )

    def run(self, *statements: str, dbname: str = "postgres") -> list[tuple]:
        """Runs the statements; the rows of the last one."""
        rows: list[tuple] = []
        with self.connect(dbname=dbname) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows


def make_server(folder: Path, major: int, *, account: Account | None = None, **settings: str) -> Server:
    """A server that is not yet started, without data folder. ``account`` None: whom root runs servers as."""
    binaries = binaries_of(major)
    account = account or unprivileged_user()
    bindir = reachable_binaries(binaries.bindir, account, folder / "programs")
    return Server(binaries, bindir, folder, free_port(), account, settings)


@cache
def _new_cluster(major: int) -> Path:
    """An empty data folder, made once for all tests of a process; copying it is quicker than making another."""
    folder = Path(tempfile.mkdtemp(prefix="exclave-test-", dir=_memory()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    server = make_server(folder, major)
    initdb(server.bindir, server.pgdata, account=server.account)
    return server.pgdata


@contextmanager
def running_server(major: int, *, account: Account | None = None, **settings: str) -> Iterator[Server]:
    """A new, empty server, started; its folder goes away with it."""
    with open_folder() as folder:
        server = make_server(folder, major, account=account, **settings)
        shutil.copytree(_new_cluster(major), server.pgdata, symlinks=True)
        if server.account is not None:
            own_tree(server.pgdata, server.account)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def writer_thread(server: Server) -> Iterator[list[int]]:
    """Writes orders with their lines, in one transaction each, until the block ends; yields the confirmed numbers."""
    confirmed: list[int] = []
    ended = threading.Event()

    def write() -> None:
        number = 0
        with server.connect() as connection:
            while not ended.is_set():
                number += 1
                with connection.transaction():
                    connection.execute("INSERT INTO orders VALUES (%s, %s)", (number, f"order {number}"))
                    connection.execute(
                        "INSERT INTO order_lines SELECT %s, g, repeat(md5(g::text), 8) FROM generate_series(1, 5) g",
                        (number,),
                    )
                confirmed.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield confirmed
    finally:
        ended.set()
        thread.join(30)


ORDERS = (
    "CREATE TABLE orders (id int PRIMARY KEY, what text)",
    "CREATE TABLE order_lines (order_id int REFERENCES orders, line int, what text, PRIMARY KEY (order_id, line))",
)


def is_root() -> bool:
    return os.geteuid() == 0

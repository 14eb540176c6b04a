"""What lives for minutes, on one machine: in memory for one process, in an SQLite file for several.

Nothing here is replicated or must outlast a crash: a log-in that was under way is begun again. ``tickets_postgres.py``
is the same for several machines.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from exclave.errors import ConfigError, UnavailableError
from exclave.ids import Instant

_WAIT_S = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS ticket (
    kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, expires INTEGER NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ticket_expires ON ticket (expires);
"""
_PUT = "INSERT OR REPLACE INTO ticket VALUES (?, ?, ?, ?)"
_ADD = (
    "INSERT INTO ticket VALUES (?, ?, ?, ?) ON CONFLICT (kind, key) DO UPDATE "
    "SET value = excluded.value, expires = excluded.expires WHERE ticket.expires <= ?"
)
_GET = "SELECT value FROM ticket WHERE kind = ? AND key = ? AND expires > ?"
_TAKE = "DELETE FROM ticket WHERE kind = ? AND key = ? RETURNING value, expires"
_SWEEP = "DELETE FROM ticket WHERE expires <= ?"
_RIGHTS = "Let this user write into the folder cache/; what lies there may be thrown away."


class MemoryTickets:
    """``contract.Tickets`` of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, bytes], tuple[bytes, Instant]] = {}

    def put(self, kind: str, key: bytes, value: bytes, expires: Instant) -> None:
        with self._lock:
            self._held[kind, key] = value, expires

    def add(self, kind: str, key: bytes, value: bytes, expires: Instant, *, now: Instant) -> bool:
        with self._lock:
            found = self._held.get((kind, key))
            if found is not None and found[1] > now:
                return False
            self._held[kind, key] = value, expires
            return True

    def get(self, kind: str, key: bytes, *, now: Instant) -> bytes | None:
        with self._lock:
            found = self._held.get((kind, key))
        return found[0] if found is not None and found[1] > now else None

    def take(self, kind: str, key: bytes, *, now: Instant) -> bytes | None:
        with self._lock:
            found = self._held.pop((kind, key), None)
        return found[0] if found is not None and found[1] > now else None

    def sweep(self, *, now: Instant) -> int:
        with self._lock:
            gone = [name for name, (_, expires) in self._held.items() if expires <= now]
            for name in gone:
                del self._held[name]
        return len(gone)

    def close(self) -> None:
        self._held.clear()


class SqliteTickets:
    """``contract.Tickets`` of one machine, in the file ``path`` of a folder that exists.

    Safe from several threads and processes. Writes are not synced: what a power failure takes is asked for again.
    A file that is no longer a database is replaced by an empty one. ``UnavailableError`` if the disk fails or is full.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        try:
            with open(f"{path}.lock", "ab", opener=_private) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time decides whether the file is damaged
                try:
                    self._db = _opened(path)
                except sqlite3.OperationalError as error:
                    raise UnavailableError(f"the tickets in {path} cannot be opened: {error}") from error
                except sqlite3.DatabaseError:
                    for leftover in (path, f"{path}-wal", f"{path}-shm"):
                        with suppress(FileNotFoundError):
                            os.unlink(leftover)
                    self._db = _opened(path)
        except OSError as error:
            raise ConfigError(f"the tickets in {path} cannot be opened: {error.strerror}", hint=_RIGHTS) from error

    def put(self, kind: str, key: bytes, value: bytes, expires: Instant) -> None:
        with self._at_work() as db:
            db.execute(_PUT, (kind, key, value, expires))

    def add(self, kind: str, key: bytes, value: bytes, expires: Instant, *, now: Instant) -> bool:
        with self._at_work() as db:
            return db.execute(_ADD, (kind, key, value, expires, now)).rowcount == 1

    def get(self, kind: str, key: bytes, *, now: Instant) -> bytes | None:
        with self._at_work() as db:
            rows: list[tuple[bytes]] = db.execute(_GET, (kind, key, now)).fetchall()
        return rows[0][0] if rows else None

    def take(self, kind: str, key: bytes, *, now: Instant) -> bytes | None:
        with self._at_work() as db:
            rows: list[tuple[bytes, int]] = db.execute(_TAKE, (kind, key)).fetchall()
        return rows[0][0] if rows and rows[0][1] > now else None

    def sweep(self, *, now: Instant) -> int:
        with self._at_work() as db:
            return db.execute(_SWEEP, (now,)).rowcount

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._db.close()

    @contextmanager
    def _at_work(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise UnavailableError("the tickets are closed")
            try:
                yield self._db
            except sqlite3.Error as error:
                raise UnavailableError(f"the tickets in {self._path} do not answer: {error}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _opened(path: str) -> sqlite3.Connection:
    open(path, "ab", opener=_private).close()  # before SQLite would make it readable for others
    db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        db.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {_SCHEMA}")
        db.execute(_GET, ("", b"", 0)).fetchall()
    except sqlite3.Error:
        db.close()
        raise
    return db

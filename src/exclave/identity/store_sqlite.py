"""The status store of one machine: an SQLite file. One process applies, any number reads without waiting (WAL)."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from exclave.errors import Busy, ConfigError, CorruptObject, ExclaveError, UnavailableError
from exclave.formats.journal import Head
from exclave.identity.contract import IssuerInfo
from exclave.identity.fold import Name, Thing
from exclave.identity.status_log import Stop
from exclave.identity.store import (
    SCHEMA,
    Known,
    StopRow,
    Store,
    decode_issuer,
    encode_issuer,
    serial_key,
    stop_of_row,
    stop_row,
)
from exclave.ids import Digest

_WAIT_S = 30.0
_LOOK_S = 1.0
"""How often a reader looks whether the file was replaced by another one."""
FRESH_S = 0.02
"""So long a thread goes on without asking whether another process has applied something."""
_CREATE = """
CREATE TABLE meta (
    only INTEGER PRIMARY KEY CHECK (only = 0), generation INTEGER NOT NULL, number INTEGER NOT NULL, chain BLOB NOT NULL
);
INSERT INTO meta VALUES (0, 0, 0, zeroblob(32));
CREATE TABLE issuer (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, data BLOB NOT NULL);
CREATE TABLE certificate (
    issuer INTEGER NOT NULL, serial BLOB NOT NULL, since INTEGER, reason INTEGER, PRIMARY KEY (issuer, serial)
) WITHOUT ROWID;
CREATE INDEX stopped ON certificate (issuer, serial, since, reason) WHERE since IS NOT NULL;
CREATE TABLE thing (
    kind TEXT NOT NULL, key BLOB NOT NULL, owner TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE INDEX owned ON thing (kind, owner);
"""
_STATUS = "SELECT since, reason FROM certificate WHERE issuer = ? AND serial = ?"
_STOP = (  # from the index of stopped ones alone, which is small
    "SELECT since, reason FROM certificate INDEXED BY stopped WHERE issuer = ? AND serial = ? AND since IS NOT NULL"
)
_COUNT = (
    "SELECT count(*) FROM (SELECT 1 FROM certificate INDEXED BY stopped WHERE issuer = ? AND since IS NOT NULL LIMIT ?)"
)
_STOPPED = "SELECT serial, since, reason FROM certificate WHERE issuer = ? AND since IS NOT NULL ORDER BY serial"
_SETTLE = (
    "INSERT INTO certificate VALUES (?, ?, ?, ?) ON CONFLICT (issuer, serial) DO UPDATE "
    "SET since = excluded.since, reason = excluded.reason"
)
_RIGHTS = "Let this user write into the folder cache/; what lies there may be thrown away."


def open_sqlite(path: str) -> Store:
    """The store in the file ``path`` of a folder that exists; a new, damaged or older file becomes an empty store, so
    ``sync.catch_up`` comes next. ``ConfigError`` if the folder is not there."""
    return Store(SqliteRows(path))


class _Reader(threading.local):
    """A thread's own connection."""

    db: sqlite3.Connection | None = None
    file: tuple[int, int] = (0, 0)
    looked: float = 0.0
    version: int = -1
    known: Known | None = None
    asked: float = 0.0
    written: int = -1


class SqliteRows:
    """``store.Rows`` in a file. What a power failure takes (the last batches) is applied again from the journal."""

    def __init__(self, path: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._closed = False
        self._reader = _Reader()
        self._writing = threading.Lock()
        self._written = 0
        """Batches that this process has applied: its own are seen at once."""
        try:
            with open(f"{path}.lock", "ab", opener=_private) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time decides whether the file is damaged
                if not _is_good(path):
                    for leftover in (path, f"{path}-wal", f"{path}-shm"):
                        with suppress(FileNotFoundError):
                            os.unlink(leftover)
                    _create(path)
        except OSError as error:
            raise ConfigError(f"the status store {path} cannot be opened: {error.strerror}", hint=_RIGHTS) from error

    # Reading

    def known(self) -> Known:
        reader, written, now = self._reader, self._written, self._monotonic()
        if reader.known is not None and reader.written == written and now - reader.asked < FRESH_S and not self._closed:
            return reader.known
        try:
            db = self._connection()
            (version,) = db.execute("PRAGMA data_version").fetchone()
            if reader.known is None or version != reader.version:
                with _transaction(db, "BEGIN"):
                    reader.known = _read_known(db)
                reader.version = version
        except (OSError, sqlite3.Error) as error:
            raise self._explain(error) from error
        reader.asked, reader.written = now, written
        return reader.known

    def certificate(self, issuer: int, serial: bytes) -> StopRow | None:
        try:
            row: StopRow | None = self._connection().execute(_STATUS, (issuer, serial)).fetchone()
        except (OSError, sqlite3.Error) as error:
            raise self._explain(error) from error
        return row

    def stopped(self, issuer: int) -> Iterator[tuple[bytes, StopRow]]:
        db = self._open()  # of its own: the rows of one moment, however long the caller takes
        try:
            with self._explained():
                for serial, since, reason in db.execute(_STOPPED, (issuer,)):
                    yield serial, (since, reason)
        finally:
            db.close()

    def thing(self, kind: str, key: bytes) -> bytes | None:
        with self._explained():
            query = "SELECT value FROM thing WHERE kind = ? AND key = ?"
            row = self._connection().execute(query, (kind, key)).fetchone()
            return None if row is None else row[0]

    def things(self, kind: str, owner: str | None = None) -> list[tuple[bytes, bytes]]:
        with self._explained():
            query = "SELECT key, value FROM thing WHERE kind = ?1 AND (?2 IS NULL OR owner = ?2) ORDER BY key"
            if owner is not None:
                query = "SELECT key, value FROM thing WHERE kind = ?1 AND owner = ?2 ORDER BY key"
            return self._connection().execute(query, (kind, owner)).fetchall()

    def close(self) -> None:
        self._closed = True
        if self._reader.db is not None:
            self._reader.db.close()
            self._reader.db = None

    def _connection(self) -> sqlite3.Connection:
        reader = self._reader
        if self._closed:
            raise UnavailableError("the status store is closed")
        if reader.db is None or self._monotonic() - reader.looked > _LOOK_S:
            found = os.stat(self._path)
            if reader.db is None or (found.st_dev, found.st_ino) != reader.file:
                reader.db, reader.known = self._open(), None
                reader.file = found.st_dev, found.st_ino
            reader.looked = self._monotonic()
        return reader.db

    def _open(self) -> sqlite3.Connection:
        # Any thread may close a generator of `stopped`; nothing else is used by two.
        return sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> ExclaveError:
        if isinstance(error, OSError):
            return UnavailableError(f"the status store is gone: {error.strerror}")
        if isinstance(error, sqlite3.OperationalError):
            if "locked" in str(error):
                return Busy("another process keeps writing the status store")
            return UnavailableError(f"the status store does not answer: {error}")
        return CorruptObject(
            f"the status store is damaged: {error}", hint=f"Start again: {self._path} is then rebuilt from the journal."
        )

    # Writing

    @contextmanager
    def writing(self) -> Iterator[SqliteWriting]:
        with self._writing, self._explained():
            db = self._open()
            try:
                db.executescript("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536;")
                with _transaction(db, "BEGIN IMMEDIATE"):
                    yield SqliteWriting(db)
            finally:
                self._written += 1
                db.close()


class SqliteWriting:
    """``store.Writing`` on a connection with an open transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._numbers = dict(_read_known(db).numbers)

    def known(self) -> Known:
        return _read_known(self._db)

    def clear(self) -> None:
        for table in ("certificate", "thing", "issuer"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # the names above
        self._db.execute("UPDATE meta SET number = 0, chain = zeroblob(32)")
        self._numbers.clear()

    def states(self, names: Sequence[Name]) -> dict[Name, Stop]:
        found: dict[Name, Stop] = {}
        for issuer, number in self._numbers.items():
            serials = {serial for of, serial in names if of == issuer}
            if len(serials) * 4 > self._count(number, len(serials) * 4):  # reading them all is quicker
                rows = self._db.execute(_STOPPED, (number,))
                found |= {(issuer, k[1:]): stop_of_row((t, r)) for k, t, r in rows if k[1:] in serials}
                continue
            for serial in serials:
                row = self._db.execute(_STOP, (number, serial_key(serial))).fetchone()
                if row is not None:
                    found[issuer, serial] = stop_of_row(row)
        return found

    def _count(self, issuer: int, limit: int) -> int:
        """How many of an issuer's certificates are stopped; not more than ``limit`` are counted."""
        (count,) = self._db.execute(_COUNT, (issuer, limit)).fetchone()
        return int(count)

    def write(
        self,
        head: Head,
        issuers: Mapping[Digest, IssuerInfo],
        issued: Mapping[Digest, Sequence[bytes]],
        settled: Mapping[Name, Stop | None],
        things: Mapping[tuple[str, bytes], Thing | None],
    ) -> None:
        db = self._db
        for id_, info in issuers.items():
            query = "INSERT INTO issuer (id, data) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET data = excluded.data"
            db.execute(query, (id_, encode_issuer(info)))
            (self._numbers[id_],) = db.execute("SELECT number FROM issuer WHERE id = ?", (id_,)).fetchone()
        for id_, serials in issued.items():
            number = self._numbers[id_]
            query = "INSERT OR IGNORE INTO certificate (issuer, serial) VALUES (?, ?)"
            db.executemany(query, ((number, key) for key in sorted(map(serial_key, serials))))
        rows = ((self._numbers[i], serial_key(serial), *stop_row(stop)) for (i, serial), stop in settled.items())
        db.executemany(_SETTLE, rows)
        for (kind, key), thing in things.items():
            if thing is None:
                db.execute("DELETE FROM thing WHERE kind = ? AND key = ?", (kind, key))
            else:
                db.execute("INSERT OR REPLACE INTO thing VALUES (?, ?, ?, ?)", (kind, key, *thing))
        query = "UPDATE meta SET generation = generation + 1, number = ?, chain = ?"
        db.execute(query, (head.number, head.chain))


def _read_known(db: sqlite3.Connection) -> Known:
    generation, number, chain = db.execute("SELECT generation, number, chain FROM meta").fetchone()
    issuers, numbers = {}, {}
    for row, id_, data in db.execute("SELECT number, id, data FROM issuer ORDER BY number"):
        issuers[Digest(id_)] = decode_issuer(data)
        numbers[Digest(id_)] = row
    return Known(generation, Head(number, Digest(chain)), issuers, numbers)


@contextmanager
def _transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_good(path: str) -> bool:
    """Whether the file is a whole store of the form that we write. Two million certificates take half a second."""
    if not os.path.exists(path):
        return False
    db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
    try:
        if db.execute("PRAGMA user_version").fetchone() != (SCHEMA,):
            return False
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            return False
        _read_known(db)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise Busy("another process keeps writing the status store") from error
        return False
    except (sqlite3.DatabaseError, CorruptObject, TypeError):
        return False
    finally:
        db.close()
    return True


def _create(path: str) -> None:
    """A crash on the way leaves a file without its version, which the next opening replaces."""
    open(path, "ab", opener=_private).close()
    db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
    try:
        db.executescript(f"PRAGMA journal_mode = WAL; BEGIN; {_CREATE} PRAGMA user_version = {SCHEMA}; COMMIT;")
    finally:
        db.close()

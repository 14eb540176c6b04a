"""The status store shared by several machines: tables in PostgreSQL, all named ``exclave_…``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from exclave.errors import CorruptObject, UnavailableError
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

_WAIT_S = 2.0
_LOOK_S = 0.15
"""How long it goes unnoticed that another process applied something."""
_LOCK = 0x6578636C61766573
_CREATE = f"""
DROP TABLE IF EXISTS exclave_meta, exclave_issuer, exclave_certificate, exclave_thing;
CREATE TABLE exclave_meta (
    schema int NOT NULL, generation bigint NOT NULL, number bigint NOT NULL, chain bytea NOT NULL
);
INSERT INTO exclave_meta VALUES ({SCHEMA}, 0, 0, decode(repeat('00', 32), 'hex'));
CREATE TABLE exclave_issuer (
    number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id bytea NOT NULL UNIQUE, data bytea NOT NULL
);
CREATE TABLE exclave_certificate (
    issuer int NOT NULL, serial bytea NOT NULL, since bigint, reason smallint, PRIMARY KEY (issuer, serial)
);
CREATE INDEX exclave_stopped ON exclave_certificate (issuer, serial) WHERE since IS NOT NULL;
CREATE TABLE exclave_thing (
    kind text NOT NULL, key bytea NOT NULL, owner text NOT NULL, value bytea NOT NULL, PRIMARY KEY (kind, key)
);
CREATE INDEX exclave_owned ON exclave_thing (kind, owner);
"""  # noqa: S608  # a constant
_STATUS = "SELECT since, reason FROM exclave_certificate WHERE issuer = %s AND serial = %s"
_STOPPED = (
    "SELECT serial, since, reason FROM exclave_certificate WHERE issuer = %s AND since IS NOT NULL ORDER BY serial"
)
_PUT_ISSUER = (
    "INSERT INTO exclave_issuer (id, data) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET data = excluded.data "
    "RETURNING number"
)
_PUT_THING = (
    "INSERT INTO exclave_thing VALUES (%s, %s, %s, %s) ON CONFLICT (kind, key) DO UPDATE "
    "SET owner = excluded.owner, value = excluded.value"
)
_NEW = "CREATE TEMP TABLE IF NOT EXISTS exclave_new (LIKE exclave_certificate) ON COMMIT DELETE ROWS"
_ISSUE = "INSERT INTO exclave_certificate SELECT * FROM exclave_new ORDER BY issuer, serial ON CONFLICT DO NOTHING"
_SETTLE = (
    "INSERT INTO exclave_certificate SELECT * FROM exclave_new ON CONFLICT (issuer, serial) DO UPDATE "
    "SET since = excluded.since, reason = excluded.reason"
)

Connection = psycopg.Connection[Any]


def open_postgres(conninfo: str, *, connections: int = 8) -> Store:
    """The store in the database that ``conninfo`` (libpq) names; tables that are missing or of an older form are made
    anew and empty, so ``sync.catch_up`` comes next. ``UnavailableError`` if it does not answer within 2 s."""
    return Store(PostgresRows(conninfo, connections=connections))


class PostgresRows:
    """``store.Rows`` in a database. Serials are ``bytea``, which sorts by byte, so by number behind its length."""

    def __init__(self, conninfo: str, *, connections: int = 8, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._looking = threading.Lock()
        self._looked = 0.0
        self._known: Known | None = None
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            conninfo, min_size=1, max_size=connections, timeout=_WAIT_S, open=True,
            kwargs={"autocommit": True, "prepare_threshold": 1},
        )  # fmt: skip
        try:
            with self._connection() as db, db.transaction():
                db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                if not _is_good(db):
                    db.execute(_CREATE)
        except UnavailableError:
            self._pool.close()
            raise

    # Reading

    def known(self) -> Known:
        with self._looking:
            if self._known is None or not 0 <= self._monotonic() - self._looked < _LOOK_S:
                at = self._monotonic()
                with self._connection() as db:
                    row = db.execute("SELECT generation FROM exclave_meta").fetchone()
                    if self._known is None or row != (self._known.generation,):
                        self._known = _read_known(db)
                self._looked = at
            return self._known

    def certificate(self, issuer: int, serial: bytes) -> StopRow | None:
        with self._connection() as db:
            row: StopRow | None = db.execute(_STATUS, (issuer, serial), binary=True).fetchone()
            return row

    def stopped(self, issuer: int) -> Iterator[tuple[bytes, StopRow]]:
        with self._connection() as db, db.transaction(), db.cursor("exclave_stopped", binary=True) as cursor:
            cursor.itersize = 10_000
            cursor.execute(_STOPPED, (issuer,))
            for serial, since, reason in cursor:
                yield bytes(serial), (since, reason)

    def thing(self, kind: str, key: bytes) -> bytes | None:
        with self._connection() as db:
            query = "SELECT value FROM exclave_thing WHERE kind = %s AND key = %s"
            row = db.execute(query, (kind, key), binary=True).fetchone()
            return None if row is None else bytes(row[0])

    def things(self, kind: str, owner: str | None = None) -> list[tuple[bytes, bytes]]:
        query = "SELECT key, value FROM exclave_thing WHERE kind = %s"
        with self._connection() as db:
            if owner is None:
                rows = db.execute(query + " ORDER BY key", (kind,), binary=True)
            else:
                rows = db.execute(query + " AND owner = %s ORDER BY key", (kind, owner), binary=True)
            return [(bytes(key), bytes(value)) for key, value in rows]

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with self._pool.connection() as db:
                yield db
        except psycopg.DataError as error:
            raise CorruptObject("the status store's database holds what it cannot hold") from error
        except (psycopg.Error, PoolTimeout) as error:
            raise UnavailableError("the status store's database does not answer") from error

    # Writing

    @contextmanager
    def writing(self) -> Iterator[PostgresWriting]:
        with self._connection() as db, db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))  # one writer; readers do not take it
            yield PostgresWriting(db)
        with self._looking:
            self._known = None


class PostgresWriting:
    """``store.Writing`` on a connection with an open transaction."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._numbers = dict(_read_known(db).numbers)

    def known(self) -> Known:
        return _read_known(self._db)

    def clear(self) -> None:
        # Not TRUNCATE, which would make readers wait until everything is applied again.
        self._db.execute("DELETE FROM exclave_certificate")
        self._db.execute("DELETE FROM exclave_thing")
        self._db.execute("DELETE FROM exclave_issuer")
        self._db.execute("UPDATE exclave_meta SET number = 0, chain = %s", (bytes(32),))
        self._numbers.clear()

    def states(self, names: Sequence[Name]) -> dict[Name, Stop]:
        found: dict[Name, Stop] = {}
        for issuer, number in self._numbers.items():
            serials = [serial_key(serial) for of, serial in names if of == issuer]
            query = (
                "SELECT serial, since, reason FROM exclave_certificate "
                "WHERE issuer = %s AND serial = ANY(%s) AND since IS NOT NULL"
            )
            for key, since, reason in self._db.execute(query, (number, serials), binary=True):
                found[issuer, bytes(key)[1:]] = stop_of_row((since, reason))
        return found

    def write(
        self,
        head: Head,
        issuers: Mapping[Digest, IssuerInfo],
        issued: Mapping[Digest, Sequence[bytes]],
        settled: Mapping[Name, Stop | None],
        things: Mapping[tuple[str, bytes], Thing | None],
    ) -> None:
        for id_, info in issuers.items():
            row = self._db.execute(_PUT_ISSUER, (id_, encode_issuer(info))).fetchone()
            if row is None:
                raise CorruptObject("the status store's database lost an issuer while it was written")
            self._numbers[id_] = row[0]
        news = ((self._numbers[i], serial_key(s), None, None) for i, serials in issued.items() for s in serials)
        self._take_in(news, _ISSUE) if issued else None
        rows = ((self._numbers[i], serial_key(s), *stop_row(stop)) for (i, s), stop in settled.items())
        self._take_in(rows, _SETTLE) if settled else None
        for (kind, key), thing in things.items():
            if thing is None:
                self._db.execute("DELETE FROM exclave_thing WHERE kind = %s AND key = %s", (kind, key))
            else:
                self._db.execute(_PUT_THING, (kind, key, *thing))
        query = "UPDATE exclave_meta SET generation = generation + 1, number = %s, chain = %s"
        self._db.execute(query, (head.number, head.chain))

    def _take_in(self, rows: Iterator[tuple[int, bytes, int | None, int | None]], statement: str) -> None:
        self._db.execute(_NEW)
        with self._db.cursor() as cursor, cursor.copy("COPY exclave_new FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "bytea", "int8", "int2"])
            for row in rows:
                copy.write_row(row)
        self._db.execute(statement)
        self._db.execute("DELETE FROM exclave_new")


def _read_known(db: Connection) -> Known:
    """In one statement, so of one moment."""
    rows = db.execute(
        "SELECT m.generation, m.number, m.chain, i.number, i.id, i.data "
        "FROM exclave_meta m LEFT JOIN exclave_issuer i ON true ORDER BY i.number",
        binary=True,
    ).fetchall()
    if not rows:
        raise CorruptObject("the status store's database has lost its place in the journal")
    generation, number, chain = rows[0][:3]
    issuers = {Digest(bytes(row[4])): decode_issuer(bytes(row[5])) for row in rows if row[3] is not None}
    numbers = {Digest(bytes(row[4])): row[3] for row in rows if row[3] is not None}
    return Known(generation, Head(number, Digest(bytes(chain))), issuers, numbers)


def _is_good(db: Connection) -> bool:
    if db.execute("SELECT to_regclass('exclave_meta')").fetchone() == (None,):
        return False
    try:
        with db.transaction():
            found = db.execute("SELECT schema FROM exclave_meta").fetchall()
    except psycopg.errors.UndefinedColumn:
        return False
    return found == [(SCHEMA,)]

"""What lives for minutes, shared by several machines: the tickets in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from exclave.errors import UnavailableError
from exclave.ids import Instant

_WAIT_S = 5.0
_LOCK = 0x6578636C61766574
# Unlogged: not written ahead and emptied by a crash of the server, which costs people a new log-in.
_SCHEMA = """
CREATE UNLOGGED TABLE IF NOT EXISTS exclave_ticket (
    kind text NOT NULL, key bytea NOT NULL, value bytea NOT NULL, expires bigint NOT NULL, PRIMARY KEY (kind, key)
);
CREATE INDEX IF NOT EXISTS exclave_ticket_expires ON exclave_ticket (expires);
"""
_PUT = (
    "INSERT INTO exclave_ticket VALUES (%s, %s, %s, %s) ON CONFLICT (kind, key) DO UPDATE "
    "SET value = excluded.value, expires = excluded.expires"
)
_ADD = _PUT + " WHERE exclave_ticket.expires <= %s"
_GET = "SELECT value FROM exclave_ticket WHERE kind = %s AND key = %s AND expires > %s"
_TAKE = "DELETE FROM exclave_ticket WHERE kind = %s AND key = %s RETURNING value, expires"
_SWEEP = "DELETE FROM exclave_ticket WHERE expires <= %s"


class PostgresTickets:
    """``contract.Tickets`` in the database that ``conninfo`` (libpq) names; its table is made if it is not there.

    ``UnavailableError`` if the server does not answer within 5 s.
    """

    def __init__(self, conninfo: str, *, connections: int = 4) -> None:
        self._pool: ConnectionPool[psycopg.Connection[Any]] = ConnectionPool(
            conninfo, min_size=1, max_size=connections, timeout=_WAIT_S, kwargs={"autocommit": True}, open=True
        )
        try:
            with self._connection() as db, db.transaction():
                db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))  # two that make one table at once collide
                db.execute(_SCHEMA)
        except UnavailableError:
            self._pool.close()
            raise

    def put(self, kind: str, key: bytes, value: bytes, expires: Instant) -> None:
        with self._connection() as db:
            db.execute(_PUT, (kind, key, value, expires))

    def add(self, kind: str, key: bytes, value: bytes, expires: Instant, *, now: Instant) -> bool:
        with self._connection() as db:
            return db.execute(_ADD, (kind, key, value, expires, now)).rowcount == 1

    def get(self, kind: str, key: bytes, *, now: Instant) -> bytes | None:
        with self._connection() as db:
            row = db.execute(_GET, (kind, key, now)).fetchone()
        return bytes(row[0]) if row is not None else None

    def take(self, kind: str, key: bytes, *, now: Instant) -> bytes | None:
        with self._connection() as db:
            row = db.execute(_TAKE, (kind, key)).fetchone()
        return bytes(row[0]) if row is not None and row[1] > now else None

    def sweep(self, *, now: Instant) -> int:
        with self._connection() as db:
            return db.execute(_SWEEP, (now,)).rowcount

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            with self._pool.connection() as db:
                yield db
        except (psycopg.Error, PoolTimeout) as error:
            # What the server says may name a ticket's key; it goes no further than the cause.
            raise UnavailableError("the tickets' database does not answer") from error

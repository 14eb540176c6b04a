"""A digest of what a PostgreSQL database says, computed by SQL. Page: ``docs/spec/registers.md``.

Two servers give the same digest for the same rows whatever their collations, page layout and settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

from exclave.registers.contract import DatasetDigest
from exclave.registers.digest import TableDigest, dataset_digest
from exclave.registers.postgres_source import PostgresSource, connect, unavailable
from exclave.registers.rows import NOTHING, FormerRows, TableHasher, TableRows

_SESSION = """
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET client_encoding = 'UTF8'; SET search_path = ''; SET row_security = off; SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex';
SET xmloption = 'content'; SET lc_monetary = 'C'; SET quote_all_identifiers = off; SET work_mem = '64MB';
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '60s'; SET jit = off
"""

# Ordinary tables (leaves of partitioned ones among them) and materialized views whose rows a backup keeps: unlogged
# and temporary ones are empty after a restore by design.
_TABLES = """
SELECT c.oid, n.nspname, c.relname
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
"""
_COLUMNS = """
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_PRIMARY_KEY = """
SELECT a.attname, a.atttypid::pg_catalog.int8
FROM pg_catalog.pg_index i CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k(n, at)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n
WHERE i.indrelid = %s AND i.indisprimary AND i.indisvalid AND k.at <= i.indnkeyatts ORDER BY k.at
"""
_PLAIN_TYPES = frozenset({16, 17, 20, 21, 23, 26, 1082, 1083, 1114, 1184, 1700, 2950})
"""bool, bytea, int8, int2, int4, oid, date, time, timestamp, timestamptz, numeric, uuid: their order is the same
everywhere. The order of texts depends on the system's collation library, so it is never used."""


@dataclass(frozen=True, slots=True)
class _Table:
    oid: int
    schema: str
    name: str


def postgres_digest(source: PostgresSource, former: FormerRows = NOTHING) -> DatasetDigest:
    """Digest of ``source.dbname`` at one moment of now; ``exact`` is True, as it is exactly that moment's.

    Reads every row once, in bounded memory here; tables without a plain primary key are sorted on the server, in its
    temporary files. ``SourceUnavailable`` if a table may not be read or is locked for more than 60 s.
    """
    with connect(source) as connection:
        try:
            connection.execute(_SESSION)
            with connection.transaction():
                tables = [_digest_table(connection, table, former) for table in _tables(connection)]
                tables.extend(_large_objects(connection, former))
        except psycopg.Error as error:
            raise unavailable(source, str(error), doing="cannot be digested") from error
    return dataset_digest("postgres", tables, exact=True, former=former)


def _tables(connection: psycopg.Connection[tuple[object, ...]]) -> list[_Table]:
    found = connection.execute(_TABLES).fetchall()
    return [_Table(int(str(oid)), str(schema), str(name)) for oid, schema, name in found]


def _digest_table(connection: psycopg.Connection[tuple[object, ...]], table: _Table, former: FormerRows) -> TableDigest:
    columns = connection.execute(_COLUMNS, (table.oid,)).fetchall()
    key = connection.execute(_PRIMARY_KEY, (table.oid,)).fetchall()
    if key and all(kind in _PLAIN_TYPES for _, kind in key):
        order: sql.Composable = sql.SQL(", ").join(sql.SQL("x.{}").format(sql.Identifier(str(n))) for n, _ in key)
    else:
        order = sql.SQL('ROW(x.*)::pg_catalog.text COLLATE pg_catalog."C"')
    query = sql.SQL("COPY (SELECT x.* FROM ONLY {} AS x ORDER BY {}) TO STDOUT").format(
        sql.Identifier(table.schema, table.name), order
    )
    header = "".join(f"{_escaped(str(name))}\t{_escaped(str(kind))}\n" for name, kind in columns)
    hasher = TableHasher(
        f"{table.schema}.{table.name}", header.encode("utf-8") + b"\n", former,
        kind="postgres", parts=(table.schema, table.name),
    )  # fmt: skip
    done = _digest_copy(connection, query, hasher)
    return TableDigest((table.schema, table.name), done.rows, done.sha256, done)


def _large_objects(connection: psycopg.Connection[tuple[object, ...]], former: FormerRows) -> list[TableDigest]:
    """Large objects live in a system table that only superusers may read; named only if there are any."""
    found = connection.execute("SELECT 1 FROM pg_catalog.pg_largeobject_metadata LIMIT 1").fetchone()
    if found is None:
        return []
    query = sql.SQL("COPY (SELECT loid, pageno, data FROM pg_catalog.pg_largeobject ORDER BY loid, pageno) TO STDOUT")
    only_records = FormerRows(records=former.records)
    hasher = TableHasher(
        "pg_catalog.pg_largeobject", b"loid\toid\npageno\tinteger\ndata\tbytea\n\n", only_records,
        kind="postgres", parts=("pg_catalog", "pg_largeobject"),
    )  # fmt: skip
    done = _digest_copy(connection, query, hasher)
    return [TableDigest(("pg_catalog", "pg_largeobject"), done.rows, done.sha256, done)]


def _digest_copy(
    connection: psycopg.Connection[tuple[object, ...]], query: sql.SQL | sql.Composed, hasher: TableHasher
) -> TableRows:
    """SHA-256 of the header, an empty line and the rows in COPY's text format, one line each."""
    waiting: list[bytes | bytearray | memoryview] = []
    size = 0
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for row in copy:
            waiting.append(row)
            size += len(row)
            if size >= 256 << 10:
                hasher.add(waiting)
                waiting.clear()
                size = 0
    hasher.add(waiting)
    return hasher.done()


def _escaped(name: str) -> str:
    """As COPY writes a text."""
    return name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")

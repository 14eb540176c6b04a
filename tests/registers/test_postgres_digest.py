"""The digest says what the rows say, and nothing of how they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from exclave.registers.postgres_digest import postgres_digest
from support.postgres import Server, running_server

TABLE = "CREATE TABLE t (id {key}, name text, n numeric, at timestamptz, x bytea)"
ROWS = (
    "(2, E'b\\\\\\tc\\nd', 1.50, '2026-01-01 00:00+02', '\\x00ff')",
    "(1, 'Ää', NULL, NULL, '')",
    "(10, '', 0, 'infinity', NULL)",
)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    """Servers 15 and 17."""
    with running_server(15) as old, running_server(17) as new:
        yield old, new


@pytest.fixture
def databases(pair: tuple[Server, Server]) -> Iterator[tuple[Server, Server]]:
    """A new database ``d`` in each, of another collation in the second."""
    pair[0].run("CREATE DATABASE d")
    pair[1].run("CREATE DATABASE d TEMPLATE template0 LOCALE 'C'", "ALTER DATABASE d SET TimeZone = 'Asia/Tokyo'")
    yield pair
    for server in pair:
        server.run("DROP DATABASE d")


def digest(server: Server) -> str:
    return postgres_digest(server.source(dbname="d")).value


@pytest.mark.parametrize("key", ["int PRIMARY KEY", "text PRIMARY KEY", "int"])
def test_same_rows_same_digest(databases: tuple[Server, Server], key: str) -> None:
    """Order of insertion, dead rows, dropped columns, time zone, collation and version do not show."""
    old, new = databases
    old.run(TABLE.format(key=key), *(f"INSERT INTO t VALUES {row}" for row in ROWS), dbname="d")
    new.run(
        TABLE.format(key=key).replace("name text", "gone int, name text"),
        "ALTER TABLE t DROP COLUMN gone",
        *(f"INSERT INTO t VALUES {row}" for row in reversed(ROWS)),
        "INSERT INTO t VALUES (77)",
        "DELETE FROM t WHERE id::text = '77'",
        "ALTER DATABASE d SET DateStyle = 'German'",
        "ALTER DATABASE d SET extra_float_digits = -5",
        dbname="d",
    )
    assert digest(old) == digest(new)
    new.run("UPDATE t SET name = name || ' ' WHERE id::text = '1'", dbname="d")
    assert digest(old) != digest(new)


@pytest.mark.parametrize(
    ("statement", "changes"),
    [
        ("INSERT INTO t VALUES (1), (1)", True),
        ("CREATE TABLE u ()", True),
        ("CREATE SCHEMA s; CREATE TABLE s.t (v int)", True),
        ("ALTER TABLE t RENAME COLUMN x TO y", True),
        ("ALTER TABLE t ALTER COLUMN x TYPE bigint", True),
        ("SELECT lo_from_bytea(0, 'large')", True),
        ("CREATE MATERIALIZED VIEW m AS SELECT 1", True),
        ("CREATE VIEW v AS SELECT 1", False),
        ("CREATE UNLOGGED TABLE u AS SELECT 1", False),
        ("CREATE INDEX ON t (x); VACUUM FULL t", False),
        ("CREATE SEQUENCE s; SELECT nextval('s')", False),
    ],
)
def test_what_shows(databases: tuple[Server, Server], statement: str, changes: bool) -> None:
    """Rows, tables, columns and large objects show; views, unlogged tables, indexes and sequences do not."""
    server = databases[0]
    server.run("CREATE TABLE t (x int)", "INSERT INTO t VALUES (3), (NULL)", dbname="d")
    before = digest(server)
    assert digest(server) == before
    server.run(*statement.split("; "), dbname="d")
    assert (digest(server) != before) == changes


def test_partitions_and_children_count_once(databases: tuple[Server, Server]) -> None:
    """Each row counts in the one table that stores it; names that look like the query's own do no harm."""
    server = databases[0]
    server.run(
        "CREATE TABLE p (x int, y int) PARTITION BY LIST (x)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
        "CREATE TABLE p2 PARTITION OF p DEFAULT",
        "INSERT INTO p SELECT g % 3, g FROM generate_series(1, 9) g",
        "CREATE TABLE parent (v int)",
        "CREATE TABLE child () INHERITS (parent)",
        "INSERT INTO child VALUES (1)",
        'CREATE TABLE "a.b c" (x text, "x.*" text)',
        "INSERT INTO \"a.b c\" VALUES ('1', '2')",
        dbname="d",
    )
    rows = dict(postgres_digest(server.source(dbname="d")).rows)
    assert rows == {
        "public.p1": 3, "public.p2": 6, "public.parent": 0, "public.child": 1, "public.a.b c": 1
    }  # fmt: skip


def test_canonical_text(databases: tuple[Server, Server]) -> None:
    """The digest can be computed by hand from what the page says."""
    databases[1].run(
        "CREATE TABLE \"T 1\" (id int PRIMARY KEY, what text)", "INSERT INTO \"T 1\" VALUES (2, E'a\\tb'), (1, NULL)",
        dbname="d",
    )  # fmt: skip
    table = hashlib.sha256(b"id\tinteger\nwhat\ttext\n\n1\t\\N\n2\ta\\tb\n").hexdigest()
    text = f"exclave/dataset-digest/v1\nkind postgres\ntable public.T%201 2 {table}\n"
    assert digest(databases[1]) == hashlib.sha256(text.encode()).hexdigest()

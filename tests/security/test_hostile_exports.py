"""Exports of databases and folders whose names and schemas were chosen by an enemy."""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from exclave.errors import CorruptObject
from exclave.operations.export_postgres import dump_options
from exclave.registers.bag import payload_name
from exclave.registers.neutral import Form
from exclave.registers.neutral_sqlite import SqliteNeutral
from exclave.registers.postgres_source import PostgresSource
from exclave.registers.sqlite_dump import dump_sqlite


def _database(path: Path, sql: str) -> Path:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t(a)")
    db.execute("INSERT INTO t VALUES ('x;\n.shell y')")
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 't'", (sql,))
    db.commit()
    db.close()
    return path


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t(a);\n.shell touch owned",
        "CREATE TABLE t(a); ATTACH 'owned' AS o; CREATE TABLE o.t(a)",
        "CREATE TABLE t(a) /* ; */ ; ATTACH 'owned' AS o",
        "CREATE TABLE t(a) /* and on",
        "CREATE TABLE t(a) -- and on",
    ],
)
def test_schema_smuggles_nothing_into_a_dump(tmp_path: Path, sql: str) -> None:
    """SQLite opens such a file and runs the first statement alone; a dump would have made the loader run the rest."""
    path = _database(tmp_path / "hostile.db", sql)
    with pytest.raises(CorruptObject, match="not one statement"):
        dump_sqlite(path, io.BytesIO())


def test_honest_schemas_pass(tmp_path: Path) -> None:
    """Semicolons in strings, names, comments and triggers are part of one statement."""
    path = tmp_path / "honest.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE \"a;b\"(c DEFAULT ';' /* ; */, d -- ;\n)")
        db.execute("CREATE TRIGGER u AFTER INSERT ON \"a;b\" BEGIN SELECT CASE WHEN 1 THEN ';' END; SELECT 2; END")
        db.execute("CREATE VIEW v AS SELECT ';' AS x")
    db.close()
    out = io.BytesIO()
    dump_sqlite(path, out)
    copy = sqlite3.connect(":memory:")
    copy.executescript(out.getvalue().decode())
    assert [n for (n,) in copy.execute("SELECT name FROM sqlite_master ORDER BY name")] == ["a;b", "u", "v"]
    copy.close()


@pytest.mark.parametrize(
    "name", ["--file=/etc/cron.d/x", "-f/tmp/x", "x host=evil.example", "postgresql://evil/x", "o'k\\"]
)
def test_database_name_is_no_option_of_pg_dump(name: str) -> None:
    """A version may call its database anything: `pg_dump` takes it for a name, at the private copy alone."""
    *_, last = options = dump_options(PostgresSource("/run/s", 5433, "postgres", name))
    assert all(option.startswith("--") for option in options)
    told = conninfo_to_dict(last.removeprefix("--dbname="))
    assert (told["host"], told["port"], told["dbname"]) == ("/run/s", "5433", name)


def test_long_names_do_not_stop_an_archive() -> None:
    """A file whose escaped name is longer than a file system takes still has a name of its own in a bag."""
    names = [b"%" * 255, b"%" * 254 + b"a", b"\xff" * 200, b"exclave-sha256=" + b"0" * 64, b"a ", b"a", b" ", b"\t"]
    shown = [payload_name(name) for name in names]
    assert len(set(shown)) == len(names)
    assert all(len(name.encode()) <= 255 and name == name.rstrip() for name in shown)


def test_wide_tables_have_a_shape(tmp_path: Path) -> None:
    """A table with as many columns as SQLite allows is not called damaged."""
    path = tmp_path / "wide.db"
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE w({', '.join(f'c{n}' for n in range(2000))})")
        db.execute("INSERT INTO w(c0, c1999) VALUES (7, x'00')")
    db.close()
    source = SqliteNeutral(path)
    (table,) = source.shape().tables
    assert (table.columns[0].form, table.columns[1999].form) == (Form.INTEGER, Form.BINARY)
    source.close()

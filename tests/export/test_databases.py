"""Databases out of versions: as SQL and SIARD, and into another product with the same rows."""

from __future__ import annotations

import contextlib
import errno
import io
import random
import sqlite3
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import UsageError
from exclave.ids import Instant
from exclave.registers.neutral import NeutralSource, RowDigest, sums_text, table_sums
from exclave.registers.neutral_postgres import PostgresNeutral
from exclave.registers.neutral_sqlite import SqliteNeutral
from exclave.registers.siard import LOB_LEAST, write_siard, xml_text
from exclave.registers.siard_header import Provenance
from exclave.registers.sqlite_digest import sqlite_digest
from exclave.registers.sqlite_dump import dump_sqlite
from support.postgres import Server, open_folder, running_server
from support.siard_reading import Archive, into_postgres, into_sqlite
from support.small_home import Register, SmallHome

WHERE = Provenance(
    "a" * 64,
    "land (b)",
    "db",
    "land",
    "Ministry",
    1,
    2,
    Instant(0),
    Instant(0),
    "c" * 64,
    "note",
    Instant(0),
    "Exclave",
)
LAND = (
    "CREATE TABLE owner(id integer PRIMARY KEY, name varchar(80) NOT NULL, born date, alive boolean DEFAULT true)",
    "CREATE TABLE parcel(id bigint, part smallint, owner integer REFERENCES owner ON DELETE CASCADE,"
    " area numeric(12,2), price numeric, note text, scan bytea, at timestamptz, local timestamp, hour time,"
    " ratio double precision, small real, tag uuid, more jsonb, list int[],"
    " PRIMARY KEY(id, part), UNIQUE(tag), CHECK (area >= 0))",
    "CREATE TABLE \"odd \"\" näme\"(\"a b\" text, \"ç\" text)",
    "CREATE TABLE strange(n numeric, d date, t timestamp, f float8)",
    "CREATE SCHEMA other CREATE TABLE nothing(x int)",
    "CREATE VIEW rich AS SELECT name FROM owner",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "INSERT INTO owner SELECT g, 'Owner ' || g, date '1950-01-01' + g, g % 3 > 0 FROM generate_series(1, 300) g",
    "INSERT INTO parcel SELECT g, 1, g % 300 + 1, g * 1.25, g * 1e-7,"
    " repeat('note ' || g || E' <&>\\\\ \\t\\n  ', g % 9),"
    " decode(repeat(md5(g::text), g % 5), 'hex'), timestamptz '2026-11-23 14:22:01.5+02' + g * interval '1 h',"
    " timestamp '1999-12-31 23:59:59' + g * interval '1 s', time '14:22:01.123', g / 3.0, g / 7.0::real,"
    " md5(g::text)::uuid, '{\"a\": [1, null]}', ARRAY[g, NULL] FROM generate_series(1, 2000) g",
    "INSERT INTO parcel(id, part, note, scan) VALUES(0, 0, repeat('long ', 3000), decode(repeat('00ff', 9000), 'hex'))",
    "INSERT INTO \"odd \"\" näme\" VALUES ('', NULL), (E'\\x01\\x7f', ' x '), ('same', 'same'), ('same', 'same')",
    "INSERT INTO strange VALUES ('NaN', 'infinity', '-infinity', 'inf'), (1.50, '0044-03-15 BC', '2026-01-01', '-inf')",
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(17) as running:
        running.run(*LAND)
        yield running


@contextlib.contextmanager
def neutral_postgres(server: Server, dbname: str = "postgres") -> Iterator[PostgresNeutral]:
    with server.connect(dbname=dbname) as connection:
        yield PostgresNeutral(connection)


@contextlib.contextmanager
def neutral_sqlite(path: Path) -> Iterator[SqliteNeutral]:
    with contextlib.closing(SqliteNeutral(path)) as source:
        yield source


def odd_sqlite(path: Path) -> None:
    """A SQLite file with what SQLite allows and others do not."""
    with sqlite3.connect(path) as db:
        db.executescript(
            "PRAGMA user_version = 7; PRAGMA application_id = 99;"
            "CREATE TABLE owner(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, alive BOOLEAN);"
            "CREATE TABLE parcel(id TEXT, part INT, owner INT REFERENCES owner, area REAL, scan BLOB, any,"
            " twice AS (part * 2) STORED, PRIMARY KEY(id, part)) WITHOUT ROWID;"
            'CREATE TABLE "odd "" näme"("a b" TEXT UNIQUE);'
            "CREATE VIRTUAL TABLE words USING fts5(body);"
            "CREATE INDEX by_owner ON parcel(owner); CREATE VIEW v AS SELECT name FROM owner;"
            "CREATE TRIGGER t AFTER INSERT ON owner BEGIN DELETE FROM parcel WHERE part < 0; END;"
        )
        chooser = random.Random(1)
        db.executemany("INSERT INTO owner(name, alive) VALUES(?, ?)", ((f"O'Brien {n}", n % 2) for n in range(300)))
        rows = (
            (
                f"id {n}",
                n,
                n % 300 + 1,
                chooser.uniform(-1e9, 1e-9),
                chooser.randbytes(n % 70),
                [1, "x", 2.5, None][n % 4],
            )
            for n in range(900)
        )
        db.executemany("INSERT INTO parcel(id, part, owner, area, scan, any) VALUES(?, ?, ?, ?, ?, ?)", rows)
        db.execute("INSERT INTO parcel(id, part, area, scan) VALUES('inf', 1, 9e999, ?)", (bytes(LOB_LEAST + 1),))
        db.executemany(
            'INSERT INTO "odd "" näme" VALUES(?)', [("with \0 inside",), ("",), (None,), (None,), ("ÿ\U0001f600",)]
        )
        db.execute("INSERT INTO words VALUES('the law of the land')")
    db.close()


def without_nul(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute('DELETE FROM "odd "" näme" WHERE instr("a b", char(0))')
    db.close()


def siard(source: NeutralSource, path: Path) -> Archive:
    sums = write_siard(source, path, WHERE)
    archive = Archive(path)
    assert [(t.name, t.rows, t.digest) for t in archive.tables()] == [(s.name, s.rows, s.sha256) for s in sums]
    check_xml(archive)
    return archive


def check_xml(archive: Archive) -> None:
    """Every table's XML is valid by the schema beside it, as another implementation of XML schemas judges it."""
    for table in archive.tables():
        base = f"{table.place}/{table.place.rpartition('/')[2]}"
        schema = xmlschema.XMLSchema(io.BytesIO(archive.zip.read(f"{base}.xsd")))
        schema.validate(io.BytesIO(archive.zip.read(f"{base}.xml")))


def test_postgres_to_siard_to_sqlite(server: Server, tmp_path: Path) -> None:
    """A PostgreSQL database lands in SQLite by way of SIARD: rows and digests are equal; what is left out is named."""
    with neutral_postgres(server) as source:
        home = table_sums(source)
        archive = siard(source, tmp_path / "land.siard")
    into_sqlite(archive, tmp_path / "land.db")
    with neutral_sqlite(tmp_path / "land.db") as other:
        assert sums_text(table_sums(other)) == sums_text(home)
    parcel = next(t for t in archive.tables() if t.name == "parcel")
    assert parcel.rows == 2001
    assert parcel.primary == ("id", "part")
    assert parcel.foreign == ((("owner",), "owner", ("id",)),)
    metadata = archive.metadata.decode()
    assert "1 functions" in metadata
    assert "<queryOriginal> SELECT name" in metadata
    assert "DECIMAL(12,2)" in metadata
    assert any(name.endswith("/record2000.txt") for name in archive.zip.namelist())


def test_sqlite_to_siard_to_postgres(server: Server, tmp_path: Path) -> None:
    """A SQLite database lands in PostgreSQL by way of SIARD: tables, rows and digests are equal."""
    odd_sqlite(tmp_path / "land.db")
    without_nul(tmp_path / "land.db")  # which PostgreSQL's texts cannot hold
    with neutral_sqlite(tmp_path / "land.db") as source:
        home = table_sums(source)
        archive = siard(source, tmp_path / "land.siard")
    server.run("CREATE DATABASE arrived")
    with server.connect(dbname="arrived") as connection:
        into_postgres(archive, connection)
    with neutral_postgres(server, "arrived") as other:
        assert sums_text(table_sums(other)) == sums_text(home)


def test_sqlite_to_sql_and_back(tmp_path: Path) -> None:
    """The SQL of a SQLite file makes a database with the same digest, settings, indexes, triggers and full text."""
    odd_sqlite(tmp_path / "land.db")
    with sqlite3.connect(tmp_path / "land.db") as db:
        db.execute("CREATE TABLE raw(x TEXT)")
        db.execute("INSERT INTO raw VALUES(CAST(X'ff00fe' AS TEXT)), (CAST(X'41' AS TEXT))")
    db.close()
    with open(tmp_path / "land.sql", "wb") as out:
        dump_sqlite(tmp_path / "land.db", out)
    with contextlib.closing(sqlite3.connect(tmp_path / "again.db")) as again:
        again.executescript((tmp_path / "land.sql").read_text())
    assert sqlite_digest(tmp_path / "again.db") == sqlite_digest(tmp_path / "land.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "again.db")) as again:
        assert again.execute("SELECT count(*) FROM words WHERE words MATCH 'law'").fetchone() == (1,)
        assert again.execute("PRAGMA user_version").fetchone() == (7,)
        names = {
            row[0] for row in again.execute("SELECT name FROM sqlite_master WHERE type IN ('index', 'trigger', 'view')")
        }
        assert {"by_owner", "v", "t"} <= names


def test_export_of_a_postgres_register(server: Server) -> None:
    """``exclave export`` brings a captured PostgreSQL out as SQL, which a new server takes, and as SIARD; the private
    copy is gone afterwards.
    """
    with open_folder() as root:
        options: dict[str, object] = {"host": str(server.socket_dir), "port": server.port, "user": "postgres"}
        register = Register("land", [("db", "postgres", {**options, "dbname": "postgres"})])
        home = SmallHome(root, [register]).found()
        home.backup()
        granted = home.granted("restore")
        with neutral_postgres(server) as source:
            expected = table_sums(source)
        done = home.ok("export", "db", "--format", "siard", "--out", str(root / "land.siard"), *granted, *home.where())
        assert {(t["name"], t["rows"], t["sha256"]) for t in done["exported"]["tables"]} == {
            (s.name, s.rows, s.sha256) for s in expected
        }
        home.ok("export", "db", "--format", "sql", "--out", str(root / "land.sql"), *granted, *home.where())
        server.run("CREATE DATABASE fromsql")
        psql = [str(server.bindir / "psql"), "-q", "-v", "ON_ERROR_STOP=1", "-h", str(server.socket_dir)]
        psql += ["-p", str(server.port), "-U", "postgres", "-d", "fromsql"]
        with open(root / "land.sql", "rb") as stream:
            subprocess.run(psql, stdin=stream, stdout=subprocess.DEVNULL, check=True)
        with neutral_postgres(server, "fromsql") as other:
            assert table_sums(other) == expected
        assert {path.name for path in root.iterdir() if path.name.startswith("land.")} == {"land.siard", "land.sql"}


def test_export_of_a_sqlite_register(tmp_path: Path) -> None:
    """``exclave export`` brings a captured SQLite file out as SIARD with where it comes from, and as SQL."""
    odd_sqlite(tmp_path / "land.db")
    home = SmallHome(tmp_path, [Register("land", [("db", "sqlite", {"path": str(tmp_path / "land.db")})])]).found()
    home.backup()
    granted = home.granted("restore")
    home.ok("export", "db", "--format", "siard", "--out", str(tmp_path / "land.siard"), *granted, *home.where())
    archive = Archive(tmp_path / "land.siard")
    check_xml(archive)
    assert f"State {home.fingerprint}" in archive.metadata.decode()
    assert "virtual table words" in archive.metadata.decode()
    home.ok("export", "db", "--format", "sql", "--out", str(tmp_path / "land.sql"), *granted, *home.where())
    with contextlib.closing(sqlite3.connect(tmp_path / "again.db")) as again:
        again.executescript((tmp_path / "land.sql").read_text())
    assert sqlite_digest(tmp_path / "again.db") == sqlite_digest(tmp_path / "land.db")
    assert {(tmp_path / f"land.{form}").stat().st_mode & 0o777 for form in ("siard", "sql")} == {0o600}


def test_text_that_no_neutral_format_holds(tmp_path: Path) -> None:
    """A SQLite text that is no UTF-8 is refused for SIARD, with the way out; nothing is silently changed."""
    with sqlite3.connect(tmp_path / "land.db") as db:
        db.execute("CREATE TABLE raw(x TEXT)")
        db.execute("INSERT INTO raw VALUES(CAST(X'ff00fe' AS TEXT))")
    db.close()
    with neutral_sqlite(tmp_path / "land.db") as source, pytest.raises(UsageError) as refused:
        write_siard(source, tmp_path / "land.siard", WHERE)
    assert "--format sql" in refused.value.hint


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written ends as a site's fault does, with a hint, and leaves nothing."""
    odd_sqlite(tmp_path / "land.db")
    home = SmallHome(tmp_path, [Register("land", [("db", "sqlite", {"path": str(tmp_path / "land.db")})])]).found()
    home.backup()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("exclave.operations.export.dump_sqlite", full)
    arguments = ["export", "db", "--format", "sql", "--out", str(tmp_path / "land.sql"), *home.granted("restore")]
    assert "No space left" in home.fails(10, *arguments, *home.where())["message"]
    assert not list(tmp_path.glob("land.sql*"))


def test_a_spoilt_archive_is_noticed(tmp_path: Path) -> None:
    """The message digest of an archive is over all its content."""
    odd_sqlite(tmp_path / "land.db")
    with neutral_sqlite(tmp_path / "land.db") as source:
        write_siard(source, tmp_path / "land.siard", WHERE)
    data = bytearray((tmp_path / "land.siard").read_bytes())
    at = zipfile.ZipFile(tmp_path / "land.siard").infolist()[3].header_offset + 10  # a time in a local header
    data[at] ^= 1
    (tmp_path / "land.siard").write_bytes(data)
    with pytest.raises((AssertionError, zipfile.BadZipFile)):
        Archive(tmp_path / "land.siard")


CELLS: Any = st.one_of(st.none(), st.text(max_size=5), st.binary(max_size=5))


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=12), st.randoms())
def test_digests_know_no_order(rows: list[list[Any]], chooser: random.Random) -> None:
    """Rows in any order give one digest; a row more, less or changed gives another."""

    def digest(some: list[list[Any]]) -> str:
        state = RowDigest()
        for row in some:
            state.add(row)
        return state.value()

    mixed = list(rows)
    chooser.shuffle(mixed)
    assert digest(mixed) == digest(rows)
    assert digest([*rows, ["x" * 9, None]]) != digest(rows)
    if rows:
        assert digest(rows[1:]) != digest(rows)


def test_many_rows_are_sorted_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row digests beyond what is held in memory give the same value by way of a file."""
    held, spilt = RowDigest(), RowDigest()
    rows = [[str(n % 997), None] for n in range(5000)]
    for row in rows:
        held.add(row)
    monkeypatch.setattr("exclave.registers.neutral._SORTED_AT_ONCE", 700)
    for row in reversed(rows):
        spilt.add(row)
    assert held.value() == spilt.value()


@given(st.text())
def test_any_text_survives_xml(text: str) -> None:
    """Whatever a text holds, what is written comes back from an XML parser and the escapes as it was."""
    import re
    import xml.etree.ElementTree as ET

    parsed = ET.fromstring(f"<c>{xml_text(text)}</c>").text or ""
    assert re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), parsed) == text

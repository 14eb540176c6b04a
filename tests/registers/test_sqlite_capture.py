"""Copies of SQLite databases in use, and what their digest sees."""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.synchronize
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from exclave.errors import Bug, SourceUnavailable
from exclave.formats.entry import Kind
from exclave.ids import Instant, now
from exclave.registers.sqlite import SqliteCapture
from exclave.registers.sqlite_digest import sqlite_damage, sqlite_digest
from support.captured import write_items

_SCHEMA = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT, at INTEGER);
CREATE TABLE lines (order_id INTEGER REFERENCES orders, line INTEGER, what TEXT, PRIMARY KEY (order_id, line))
  WITHOUT ROWID;
CREATE TABLE bulk (v BLOB);
"""


def database(path: Path, *, mode: str = "delete", bulk: int = 0) -> Path:
    """A database with the schema above and ``bulk`` rows of 4 KB."""
    with closing(sqlite3.connect(path)) as link:
        link.execute(f"PRAGMA journal_mode = {mode}")
        link.executescript(_SCHEMA)
        link.executemany("INSERT INTO bulk VALUES (?)", ((os.urandom(4000),) for _ in range(bulk)))
        link.commit()
    return path


def _write(path: Path, started: multiprocessing.synchronize.Event, ended: multiprocessing.synchronize.Event) -> None:
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as link:
        link.execute("PRAGMA synchronous = OFF")
        number = 0
        while not ended.is_set():
            number += 1
            link.execute("BEGIN IMMEDIATE")
            link.execute("INSERT INTO orders VALUES (?, 'order', ?)", (number, now()))
            link.executemany("INSERT INTO lines VALUES (?, ?, 'line')", ((number, line) for line in range(5)))
            link.execute("UPDATE bulk SET v = randomblob(4000) WHERE rowid = ?", (number % 500,))
            link.execute("COMMIT")
            if number == 20:
                started.set()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Another process writes orders with their lines without a pause."""
    context = multiprocessing.get_context("fork")
    started, ended = context.Event(), context.Event()
    process = context.Process(target=_write, args=(path, started, ended))
    process.start()
    try:
        assert started.wait(30)
        yield
    finally:
        ended.set()
        process.join(60)
    assert process.exitcode == 0


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as link:
        return int(link.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate"])
def test_copy_of_a_busy_database_is_consistent(tmp_path: Path, mode: str) -> None:
    """While another process writes, the copy is whole, of one moment, and holds all that was committed before it."""
    path = database(tmp_path / "register.db", mode=mode, bulk=6000)
    with writing(path), SqliteCapture(path, tmp_path / "staging", now) as capture:
        written_at_copy = count(path, "orders")
        entries = write_items(capture.items(), tmp_path / "copy")
        found = capture.digest()
        assert found is not None
        assert found.exact
        captured_at = capture.captured_at
    copy = tmp_path / "copy" / "register.db"
    assert [(e.path, e.kind) for e in entries] == [(b"", Kind.FOLDER), (b"register.db", Kind.FILE)]
    assert sqlite_digest(copy) == found
    assert sqlite_damage(copy) == ""
    orders = dict(found.rows)["orders"]
    assert 0 < orders <= written_at_copy < count(path, "orders")
    assert dict(found.rows)["lines"] == orders * 5
    with closing(sqlite3.connect(copy)) as link, closing(sqlite3.connect(path)) as source:
        assert link.execute("PRAGMA foreign_key_check").fetchall() == []
        assert link.execute("PRAGMA journal_mode").fetchone() == ("wal" if mode == "wal" else "delete",)
        # A number is written with the time before its commit, so the one after it was begun when it was committed.
        ((confirmed,),) = source.execute("SELECT coalesce(max(id), 0) - 1 FROM orders WHERE at <= ?", (captured_at,))
        assert orders >= confirmed
    assert list((tmp_path / "staging").iterdir()) == []


def test_entries_are_of_the_source(tmp_path: Path) -> None:
    """Name, mode and owner are the database's own; the time is the captured moment's."""
    path = database(tmp_path / "ä b.sqlite")
    path.chmod(0o640)
    tmp_path.chmod(0o750)
    with SqliteCapture(path, tmp_path / "staging", lambda: Instant(1_700_000_000_000_000)) as capture:
        root, file = (item.entry for item in capture.items())
        assert capture.facts["journal_mode"] == "rollback"
        assert capture.facts["page_size"] == "4096"
    assert (root.path, root.mode) == (b"", 0o750)
    assert (file.path, file.mode, file.uid) == ("ä b.sqlite".encode(), 0o640, os.getuid())
    assert file.mtime_ns == 1_700_000_000_000_000_000
    assert file.size == path.stat().st_size


def test_crashed_writer_is_rolled_back(tmp_path: Path) -> None:
    """What a writer that died had not committed is not in the copy."""
    path = database(tmp_path / "register.db", bulk=50)
    before = sqlite_digest(path)

    def die() -> None:
        link = sqlite3.connect(path, isolation_level=None)
        link.execute("PRAGMA cache_size = 2")
        link.execute("BEGIN")
        link.execute("UPDATE bulk SET v = zeroblob(4000)")
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join(30)
    assert path.with_name("register.db-journal").stat().st_size > 0
    with SqliteCapture(path, tmp_path / "staging", now) as capture:
        list(capture.items())
        assert capture.digest() == before


def test_uncheckpointed_log_is_in_the_copy(tmp_path: Path) -> None:
    """Rows that so far are only in the write-ahead log of a database in use are captured, and nothing is changed."""
    path = database(tmp_path / "register.db", mode="wal")
    with closing(sqlite3.connect(path)) as user:
        user.execute("INSERT INTO orders VALUES (1, 'only in the log', 0)")
        user.commit()
        before = hashlib.sha256(path.read_bytes()).digest()
        with SqliteCapture(path, tmp_path / "staging", now) as capture:
            list(capture.items())
            found = capture.digest()
        assert found is not None
        assert dict(found.rows)["orders"] == 1
        assert hashlib.sha256(path.read_bytes()).digest() == before


def test_damage_is_found(tmp_path: Path) -> None:
    """An overwritten page, or a file that is no database, is the source's own damage: no site is suspected of it."""
    path = database(tmp_path / "register.db", bulk=100)
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 5] = b"\x55" * 8192
    path.write_bytes(data)
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    for damaged in (path, tmp_path / "text.db"):
        with pytest.raises(SourceUnavailable, match="is damaged") as raised:
            SqliteCapture(damaged, tmp_path / "staging", now).__enter__()
        assert str(damaged) in raised.value.message
        assert "staging" not in raised.value.message
        assert "last clean" in raised.value.hint
    assert list((tmp_path / "staging").iterdir()) == []


def test_missing_or_locked_source_is_unavailable(tmp_path: Path) -> None:
    """No file, or one that somebody keeps locked: told apart from damage, within the given patience."""
    with pytest.raises(SourceUnavailable):
        SqliteCapture(tmp_path / "nothing.db", tmp_path / "staging", now).__enter__()
    assert not (tmp_path / "nothing.db").exists()
    path = database(tmp_path / "register.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        with pytest.raises(SourceUnavailable, match="locked"):
            SqliteCapture(path, tmp_path / "staging", now, patience_s=0.2).__enter__()
        assert time.monotonic() - begun < 5


def test_empty_database(tmp_path: Path) -> None:
    """A database without any table, even a file of no bytes, is captured as it is."""
    path = tmp_path / "empty.db"
    path.touch()
    with SqliteCapture(path, tmp_path / "staging", now) as capture:
        with pytest.raises(Bug):
            capture.digest()
        write_items(capture.items(), tmp_path / "copy")
        found = capture.digest()
        assert found is not None
        assert found.rows == ()
    assert sqlite_digest(tmp_path / "copy" / "empty.db") == found


_VALUES = ["1", "1.0", "'1'", "x'31'", "NULL", "''", "x''", "CAST(x'ff' AS TEXT)", "'ÿ'", "'a' || char(0)", "'a'"]


def test_values_of_different_type_differ(tmp_path: Path) -> None:
    """1, 1.0, '1' and x'31' are four values; a text that is not UTF-8 and one with a zero byte are others."""
    digests = set()
    for number, value in enumerate(_VALUES):
        path = tmp_path / f"{number}.db"
        with closing(sqlite3.connect(path)) as link:
            link.execute("CREATE TABLE t (v)")
            link.execute(f"INSERT INTO t VALUES ({value})")
            link.commit()
        digests.add(sqlite_digest(path).value)
    assert len(digests) == len(_VALUES)


def test_layout_does_not_show(tmp_path: Path) -> None:
    """Page size, encoding, indexes, statistics, dead pages and the order of insertion do not change the digest."""
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w AS (v || '!'), x AS (v || '?') STORED)"
    values: list[sqlite3.Connection] = []
    for name in ("a", "b"):
        values.append(sqlite3.connect(tmp_path / name, isolation_level=None))
    first, second = values
    first.execute(schema)
    first.execute("INSERT INTO t (id, v) VALUES (1, 'ä'), (2, NULL)")
    for statement in ("PRAGMA page_size = 1024", "PRAGMA encoding = 'UTF-16'", schema, "CREATE INDEX i ON t (v)"):
        second.execute(statement)
    second.execute("INSERT INTO t (id, v) VALUES (2, NULL), (3, 'gone'), (1, 'ä')")
    second.execute("DELETE FROM t WHERE id = 3")
    second.execute("ANALYZE")
    assert sqlite_digest(tmp_path / "a") == sqlite_digest(tmp_path / "b")
    second.execute("UPDATE t SET id = 5 WHERE id = 2")
    assert sqlite_digest(tmp_path / "a") != sqlite_digest(tmp_path / "b")
    first.close()
    second.close()


def test_unusual_tables(tmp_path: Path) -> None:
    """Names that need quoting, a column named rowid, keys with a collation and full-text tables are all digested."""
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as link:
        link.executescript(
            """
            CREATE TABLE "a ""b" ("select" TEXT, rowid TEXT, _rowid_ TEXT, oid TEXT);
            INSERT INTO "a ""b" VALUES (1, 'x', 'y', 'z');
            CREATE TABLE k (v TEXT COLLATE NOCASE, n INT, PRIMARY KEY (n DESC, v)) WITHOUT ROWID;
            INSERT INTO k VALUES ('B', 1), ('a', 1), ('C', 2);
            CREATE VIRTUAL TABLE words USING fts5(body);
            INSERT INTO words VALUES ('some words');
            CREATE TABLE s (id INTEGER PRIMARY KEY AUTOINCREMENT);
            """
        )
    rows = dict(sqlite_digest(path).rows)
    assert rows['a "b'] == 1
    assert rows["k"] == 3
    assert rows["words_content"] == 1
    assert "words" not in rows
    assert "sqlite_sequence" in rows


def test_canonical_text(tmp_path: Path) -> None:
    """The digest can be computed by hand from what the page says."""
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as link:
        link.execute("CREATE TABLE 'T 1' (id INTEGER PRIMARY KEY, v)")
        link.execute("INSERT INTO 'T 1' VALUES (2, x'00'), (1, 0.5)")
        link.commit()
    encode = msgspec.msgpack.encode
    rows = encode([["id", "INTEGER"], ["v", ""]]) + encode([1, 0.5]) + encode([2, b"\0"])
    text = f"exclave/dataset-digest/v1\nkind sqlite\ntable T%201 2 {hashlib.sha256(rows).hexdigest()}\n"
    assert sqlite_digest(path).value == hashlib.sha256(text.encode()).hexdigest()

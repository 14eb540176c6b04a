"""A SQLite file as SQL that makes the same database again: every value in its storage class, bytes for bytes."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from exclave.errors import CorruptObject
from exclave.registers.neutral_sqlite import name_of

_BATCH_ROWS: Final = 500
_ENCODINGS: Final = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
_MOST_SEMICOLONS: Final = 10_000
"""In one statement of the schema: each costs a look at all that comes before it."""
_OWN: Final = re.compile(r"sqlite_(?!sequence\Z|stat)", re.IGNORECASE)


class _Text(bytes):
    """A text as SQLite gives it: UTF-8, or what somebody stored as such."""


def dump_sqlite(
    database: Path, out: IO[bytes], *, progress: Callable[[str, int, int], None] = lambda table, rows, size: None
) -> None:
    """Writes the SQL to ``out``; tables first, then their rows, then what must not see them come. ``CorruptObject`` if
    the database cannot be read.
    """
    uri = f"file:{quote(str(database.absolute()))}?immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
            for table, rows, text in _statements(db):
                out.write(text.encode("utf-8"))
                if table:
                    progress(table, rows, out.tell())
    except sqlite3.Error as error:
        raise CorruptObject(f"the SQLite database {database.name} cannot be read: {error}") from error


def _statements(db: sqlite3.Connection) -> Iterator[tuple[str, int, str]]:
    """(table, rows so far, SQL)"""
    encoding = str(db.execute("PRAGMA encoding").fetchone()[0])
    yield "", 0, f"PRAGMA encoding = '{encoding}';\nPRAGMA foreign_keys = OFF;\nBEGIN TRANSACTION;\n"
    for name in ("user_version", "application_id"):
        yield "", 0, f"PRAGMA {name} = {db.execute(f'PRAGMA {name}').fetchone()[0]};\n"
    found = db.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master ORDER BY rowid").fetchall()
    tables = [(str(n), str(s)) for kind, n, _, root, s in found if kind == "table" and root and not _OWN.match(n)]
    for name, sql in tables:
        if name.startswith("sqlite_stat"):
            yield "", 0, "ANALYZE sqlite_master;\n"
        elif name != "sqlite_sequence":
            yield "", 0, _statement(name, sql)
    for name, _ in tables:
        if name == "sqlite_sequence" or name.startswith("sqlite_stat"):
            yield "", 0, f"DELETE FROM {name_of(name)};\n"  # noqa: S608
        yield from _rows(db, name, _ENCODINGS[encoding])
    virtual = [row for row in found if row[0] == "table" and not row[3]]
    if virtual:
        yield "", 0, "PRAGMA writable_schema = ON;\n"
        for row in virtual:
            values = ", ".join(_literal(v if not isinstance(v, str) else _Text(v.encode()), "utf-8") for v in row)
            yield "", 0, f"INSERT INTO sqlite_master(type, name, tbl_name, rootpage, sql) VALUES({values});\n"
        yield "", 0, "PRAGMA writable_schema = OFF;\n"
    for kind in ("index", "view", "trigger"):
        yield from (("", 0, _statement(str(name), str(sql))) for k, name, _, _, sql in found if k == kind and sql)
    yield "", 0, "COMMIT;\n"


def _statement(name: str, sql: str) -> str:
    """What the schema says of ``name``, if that is one statement and no more.

    SQLite itself runs only the first one when it opens a file; whoever loads the dump would run them all, and the
    commands of its shell between them.
    """
    ends = [at for at, sign in enumerate(sql, 1) if sign == ";"]
    if (
        "\0" in sql
        or len(ends) > _MOST_SEMICOLONS
        or any(sqlite3.complete_statement(sql[:end]) for end in ends)
        or not sqlite3.complete_statement(f"{sql};")
    ):
        raise CorruptObject(
            f"what the SQLite database says of {name!r} is not one statement: whoever loads it would run the rest too",
            hint="Somebody wrote that into the database's schema. Restore the file, and look at it with care.",
        )
    return f"{sql};\n"


def _rows(db: sqlite3.Connection, table: str, encoding: str) -> Iterator[tuple[str, int, str]]:
    info = db.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (table,)).fetchall()
    names = ", ".join(name_of(str(name)) for name, hidden in info if not hidden)
    db.text_factory = _Text
    cursor = db.execute(f"SELECT {names} FROM {name_of(table)}")  # noqa: S608 - names are quoted
    db.text_factory = str
    count = 0
    while batch := _next(db, cursor):
        count += len(batch)
        lines = (", ".join(_literal(value, encoding) for value in row) for row in batch)
        yield table, count, "".join(f"INSERT INTO {name_of(table)}({names}) VALUES({line});\n" for line in lines)


def _next(db: sqlite3.Connection, cursor: sqlite3.Cursor) -> list[Any]:
    db.text_factory = _Text
    try:
        return cursor.fetchmany(_BATCH_ROWS)
    finally:
        db.text_factory = str


def _literal(value: object, encoding: str) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, _Text):
        return _text(value, encoding)
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, float):
        return repr(value) if abs(value) != float("inf") else ("9e999" if value > 0 else "-9e999")
    return str(value)


def _text(raw: bytes, encoding: str) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"CAST(X'{raw.hex()}' AS TEXT)"
    if "\0" in text:
        return f"CAST(X'{text.encode(encoding).hex()}' AS TEXT)"
    return "'" + text.replace("'", "''") + "'"

"""A digest of what a SQLite database says. Page: ``docs/spec/registers.md``."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec

from exclave.errors import CorruptObject, SourceUnavailable
from exclave.registers.contract import DatasetDigest
from exclave.registers.digest import TableDigest, dataset_digest
from exclave.registers.rows import NOTHING, FormerRows, TableHasher, TableRows

_BATCH_ROWS = 500
_RAW_TEXT = 1
"""MessagePack extension type of a text that is not UTF-8."""


def sqlite_digest(database: Path, *, still: bool = False, former: FormerRows = NOTHING) -> DatasetDigest:
    """Digest of one moment's content. ``still`` promises that nobody has the file open; no lock is taken then.

    ``SourceUnavailable`` if it cannot be opened, ``CorruptObject`` if it cannot be read.
    """
    with contextlib.closing(_open(database, still=still)) as connection:
        try:
            connection.execute("BEGIN")
            tables = [_digest_table(connection, name, has_rowid, former) for name, has_rowid in _tables(connection)]
        except sqlite3.Error as error:
            raise CorruptObject(f"the SQLite database {database} cannot be read: {error}") from error
    return dataset_digest("sqlite", tables, exact=True, former=former)


def sqlite_damage(database: Path, *, still: bool = False) -> str:
    """The first findings of SQLite's own integrity check; empty if there are none."""
    with contextlib.closing(_open(database, still=still)) as connection:
        try:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
        except sqlite3.Error as error:
            return str(error)
    return "" if found == ["ok"] else " ".join("; ".join(found).split())


def _open(database: Path, *, still: bool) -> sqlite3.Connection:
    mode = "immutable=1" if still else "mode=ro"
    if not database.is_file():
        raise SourceUnavailable(f"there is no SQLite database {database}")
    try:
        return sqlite3.connect(f"file:{quote(str(database.absolute()))}?{mode}", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise SourceUnavailable(f"the SQLite database {database} cannot be opened: {error}") from error


def _tables(connection: sqlite3.Connection) -> list[tuple[str, bool]]:
    """(name, has a rowid) of every table with pages of its own; virtual tables show through their shadow tables."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0").fetchall()
    without = {str(row[1]) for row in connection.execute("PRAGMA main.table_list") if row[4]}
    return [(str(n), str(n) not in without) for (n,) in rows if not str(n).startswith("sqlite_stat")]


def _digest_table(connection: sqlite3.Connection, table: str, has_rowid: bool, former: FormerRows) -> TableDigest:
    found = connection.execute("SELECT name, type, pk, hidden FROM pragma_table_xinfo(?)", (table,)).fetchall()
    columns = [(str(name), str(kind)) for name, kind, _, hidden in found if hidden in (0, 3)]
    order = _order([(str(name), int(pk)) for name, _, pk, _ in found], has_rowid)
    query = f"SELECT {', '.join(_name(name) for name, _ in columns)} FROM {_name(table)} ORDER BY {order}"  # noqa: S608
    header = msgspec.msgpack.encode(columns)
    connection.text_factory = str
    try:
        done = _digest_rows(connection, query, _hasher(table, header, former))
    except sqlite3.OperationalError as error:
        if "decode to UTF-8" not in str(error):
            raise
        connection.text_factory = _any_text
        done = _digest_rows(connection, query, _hasher(table, header, former))
        connection.text_factory = str
    return TableDigest((table,), done.rows, done.sha256, done)


def _hasher(table: str, header: bytes, former: FormerRows) -> TableHasher:
    return TableHasher(table, header, former, kind="sqlite", parts=(table,))


def _order(columns: list[tuple[str, int]], has_rowid: bool) -> str:
    if has_rowid:
        taken = {name.lower() for name, _ in columns}
        return next((alias for alias in ("rowid", "_rowid_", "oid") if alias not in taken), "1")
    key = sorted((pk, name) for name, pk in columns if pk)
    return ", ".join(f"{_name(name)} COLLATE BINARY" for _, name in key)


def _digest_rows(connection: sqlite3.Connection, query: str, hasher: TableHasher) -> TableRows:
    """SHA-256 of the columns and then each row, as one MessagePack array each."""
    encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
    cursor = connection.execute(query)
    while batch := cursor.fetchmany(_BATCH_ROWS):
        hasher.add(list(map(encode, batch)))
    return hasher.done()


def _any_text(raw: bytes) -> str | msgspec.msgpack.Ext:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return msgspec.msgpack.Ext(_RAW_TEXT, raw)


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

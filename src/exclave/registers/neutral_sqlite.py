"""A SQLite file in neutral terms. SQLite's columns have no fixed type: what is in them decides."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from exclave.errors import CorruptObject, UsageError
from exclave.registers.neutral import Cell, Column, ForeignKey, Form, Key, Shape, Table, View, float_text

_BATCH_ROWS: Final = 500
_BATCH_COLUMNS: Final = 200
"""Five numbers are asked for each; SQLite gives at most 2000 at once."""
_SCHEMA: Final = "main"
_SQL: Final = {
    Form.INTEGER: "BIGINT",
    Form.FLOAT: "DOUBLE PRECISION",
    Form.BOOLEAN: "BOOLEAN",
    Form.BINARY: "BINARY LARGE OBJECT",
    Form.TEXT: "CHARACTER LARGE OBJECT",
}
_SECRET_TABLES: Final = re.compile(r"sqlite_(?!sequence)", re.IGNORECASE)


class SqliteNeutral:
    """A database file that nobody writes to. ``CorruptObject`` if it cannot be read."""

    def __init__(self, database: Path) -> None:
        uri = f"file:{quote(str(database.absolute()))}?immutable=1"
        try:
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None)
            self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise CorruptObject(f"the SQLite database {database.name} cannot be read: {error}") from error

    def close(self) -> None:
        self._db.close()

    def shape(self) -> Shape:
        try:
            return self._shape()
        except sqlite3.Error as error:
            raise CorruptObject(f"the SQLite database cannot be read: {error}") from error

    def _shape(self) -> Shape:
        found = self._db.execute("SELECT type, name, sql, rootpage FROM sqlite_master ORDER BY name").fetchall()
        tables, views, left_out = [], [], []
        virtual = [str(name) for kind, name, _, root in found if kind == "table" and not root]
        for kind, name, sql, root in found:
            if kind == "table" and root and not _SECRET_TABLES.match(name):
                tables.append(self._table(str(name)))
            elif kind == "view":
                columns = tuple(self._view_column(*row[1:3]) for row in self._info(name))
                views.append(View(_SCHEMA, str(name), str(sql), columns))
            elif kind == "trigger":
                left_out.append(f"trigger {name}")
        left_out += [f"virtual table {name}: its content is in the tables that SQLite keeps for it" for name in virtual]
        return Shape(f"SQLite {sqlite3.sqlite_version}", (_SCHEMA,), tuple(tables), tuple(views), tuple(left_out))

    def _info(self, table: str) -> list[tuple[int, str, str, int, str | None, int, int]]:
        return self._db.execute("SELECT * FROM pragma_table_xinfo(?)", (table,)).fetchall()

    @staticmethod
    def _view_column(name: str, declared: str) -> Column:
        return Column(name, Form.TEXT, _SQL[Form.TEXT], declared)

    def _table(self, name: str) -> Table:
        info = [row for row in self._info(name) if row[6] != 1]
        forms = self._forms(name, [(row[1], row[2]) for row in info])
        columns = tuple(
            Column(row[1], form, _SQL[form], row[2] or "", nullable=not row[3], default=row[4] or "")
            for row, form in zip(info, forms, strict=True)
        )
        keyed = sorted((row[5], row[1]) for row in info if row[5])
        primary = Key(f"pk_{name}", tuple(column for _, column in keyed)) if keyed else None
        return Table(_SCHEMA, name, columns, primary, self._foreign(name), self._candidates(name))

    def _forms(self, table: str, columns: list[tuple[str, str]]) -> list[Form]:
        """What each column's values are, after one look at all of them."""
        parts = (columns[at : at + _BATCH_COLUMNS] for at in range(0, len(columns), _BATCH_COLUMNS))
        return [form for part in parts for form in self._forms_of(table, part)]

    def _forms_of(self, table: str, columns: list[tuple[str, str]]) -> list[Form]:
        counts = ", ".join(
            f"sum(typeof({c})='integer'), sum(typeof({c})='real'), sum(typeof({c})='text'), sum(typeof({c})='blob'),"
            f" sum(typeof({c})='integer' AND {c} IN (0, 1))"
            for c in (name_of(name) for name, _ in columns)
        )
        row = self._db.execute(f"SELECT {counts} FROM {name_of(table)}").fetchone()  # noqa: S608 - names are quoted
        seen = [tuple(n or 0 for n in row[at : at + 5]) for at in range(0, len(row), 5)]
        return [_form(declared.upper(), *found) for (_, declared), found in zip(columns, seen, strict=True)]

    def _foreign(self, table: str) -> tuple[ForeignKey, ...]:
        found: dict[int, list[tuple[str, str, str | None, str, str]]] = {}
        query = (
            'SELECT id, "table", "from", "to", on_update, on_delete FROM pragma_foreign_key_list(?) ORDER BY id, seq'
        )
        for number, other, own, referenced, update, delete in self._db.execute(query, (table,)):
            found.setdefault(number, []).append((other, own, referenced, update, delete))
        keys = []
        for number, rows in sorted(found.items()):
            other, _, _, update, delete = rows[0]
            referenced = tuple(row[2] for row in rows if row[2]) or self._primary_of(other)
            columns = tuple(row[1] for row in rows)
            if len(referenced) == len(columns):
                keys.append(ForeignKey(f"fk_{table}_{number}", columns, _SCHEMA, other, referenced, delete, update))
        return tuple(keys)

    def _primary_of(self, table: str) -> tuple[str, ...]:
        return tuple(name for _, name in sorted((row[5], row[1]) for row in self._info(table) if row[5]))

    def _candidates(self, table: str) -> tuple[Key, ...]:
        query = "SELECT name FROM pragma_index_list(?) WHERE origin = 'u' ORDER BY name"
        keys = []
        for (index,) in self._db.execute(query, (table,)).fetchall():
            columns = self._db.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", (index,)).fetchall()
            keys.append(Key(str(index), tuple(str(name) for (name,) in columns)))
        return tuple(keys)

    def rows(self, table: Table) -> Iterator[Sequence[Cell]]:
        wanted = ", ".join(name_of(column.name) for column in table.columns)
        forms = [column.form for column in table.columns]
        self._db.text_factory = lambda raw: _text(raw, table.name)
        try:
            cursor = self._db.execute(f"SELECT {wanted} FROM {name_of(table.name)}")  # noqa: S608 - names are quoted
            while batch := cursor.fetchmany(_BATCH_ROWS):
                for row in batch:
                    yield [_cell(value, form) for value, form in zip(row, forms, strict=True)]
        except sqlite3.Error as error:
            raise CorruptObject(f"the SQLite table {table.name} cannot be read: {error}") from error
        finally:
            self._db.text_factory = str


def _form(declared: str, integers: int, reals: int, texts: int, blobs: int, bits: int) -> Form:
    if blobs and not (integers or reals or texts):
        return Form.BINARY
    if texts or blobs:
        return Form.TEXT
    if reals:
        return Form.FLOAT if any(word in declared for word in ("REAL", "FLOA", "DOUB")) or not integers else Form.TEXT
    if "BOOL" in declared and bits == integers:
        return Form.BOOLEAN
    if not integers:  # empty, or only NULL: as it was declared
        if "BLOB" in declared or not declared:
            return Form.BINARY if "BLOB" in declared else Form.TEXT
        if any(word in declared for word in ("CHAR", "CLOB", "TEXT", "DATE", "TIME")):
            return Form.TEXT
        return Form.FLOAT if any(word in declared for word in ("REAL", "FLOA", "DOUB")) else Form.INTEGER
    return Form.INTEGER


def _cell(value: object, form: Form) -> Cell:
    if value is None:
        return None
    if form is Form.BOOLEAN:
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value if form is Form.BINARY else f"X'{value.hex().upper()}'"
    if isinstance(value, float) or (form is Form.FLOAT and isinstance(value, int)):
        return float_text(float(value))
    return str(value)


def _text(raw: bytes, table: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"table {table} holds text that is not UTF-8, which no neutral format can hold",
            hint="Export it with --format sql, which keeps every byte.",
        ) from error


def name_of(name: str) -> str:
    """A name as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'

"""A PostgreSQL database in neutral terms, read over one connection in one snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from exclave.errors import CorruptObject
from exclave.registers.neutral import Cell, Column, ForeignKey, Form, Key, Shape, Table, View, float_text

_BATCH_ROWS: Final = 2000
_SESSION: Final = """
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET client_encoding = 'UTF8'; SET search_path = ''; SET row_security = off; SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = 1; SET bytea_output = 'hex';
SET xmloption = 'content'; SET lc_monetary = 'C'; SET statement_timeout = 0; SET jit = off
"""
_OURS: Final = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'"
_RELATIONS: Final = f"""
SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text, c.relispartition
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} AND (c.relkind IN ('r', 'm', 'v') AND c.relpersistence = 'p' OR c.relkind IN ('p', 'f'))
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""  # noqa: S608
_COLUMNS: Final = """
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       CASE WHEN t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace THEN t.typname::text ELSE '' END,
       a.atttypmod, a.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_CONSTRAINTS: Final = """
SELECT k.conname, k.contype::text, pg_catalog.pg_get_constraintdef(k.oid), fn.nspname, f.relname,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(n, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.at),
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u(n, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.at),
       k.confdeltype::text, k.confupdtype::text
FROM pg_catalog.pg_constraint k LEFT JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
LEFT JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
WHERE k.conrelid = %s AND k.contype IN ('p', 'u', 'f', 'c') ORDER BY k.conname
"""
_FURTHER: Final = {
    "functions": f"SELECT count(*) FROM pg_catalog.pg_proc c JOIN pg_catalog.pg_namespace n ON n.oid = c.pronamespace"  # noqa: S608
    f" WHERE {_OURS}",
    "triggers": "SELECT count(*) FROM pg_catalog.pg_trigger WHERE NOT tgisinternal",
    "large objects": "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata",
}
_ACTIONS: Final = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_LOSSY: Final = {Form.DECIMAL, Form.DATE, Form.TIMESTAMP}
_CLOB: Final = "CHARACTER LARGE OBJECT"


class PostgresNeutral:
    """``connection`` belongs to a role that may read everything; it is used for nothing else meanwhile."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._db = connection
        connection.autocommit = True
        connection.execute(_SESSION)
        connection.autocommit = False

    def shape(self) -> Shape:
        """``CorruptObject`` if the catalogue cannot be read."""
        try:
            return self._shape()
        except psycopg.Error as error:
            raise CorruptObject(f"the PostgreSQL database cannot be read: {error}") from error

    def _shape(self) -> Shape:
        tables: list[Table] = []
        views: list[View] = []
        left_out: list[str] = []
        for oid, schema, name, kind, _ in self._db.execute(_RELATIONS).fetchall():
            if kind in ("r", "m"):
                tables.append(self._table(oid, schema, name))
                if kind == "m":
                    left_out.append(f"materialized view {schema}.{name}: how it is made; its rows are a table here")
            elif kind == "v":
                (query,) = self._one("SELECT pg_catalog.pg_get_viewdef(%s::oid)", oid)
                views.append(View(schema, name, str(query), self._columns(oid)))
            elif kind == "f":
                left_out.append(f"foreign table {schema}.{name}: its rows are elsewhere")
            else:
                left_out.append(f"partitioned table {schema}.{name}: each partition is a table here")
        left_out += self._left_out()
        schemas = tuple(dict.fromkeys([t.schema for t in tables] + [v.schema for v in views]))
        product = f"PostgreSQL {self._one('SHOW server_version')[0]}"
        return Shape(product, schemas or ("public",), tuple(tables), tuple(views), tuple(left_out))

    def _one(self, query: str, *arguments: object) -> tuple[Any, ...]:
        row = self._db.execute(query, arguments or None).fetchone()
        return tuple(row) if row is not None else (None,)

    def _left_out(self) -> list[str]:
        counts = {what: self._one(query)[0] for what, query in _FURTHER.items()}
        return [f"{count} {what}" for what, count in counts.items() if count]

    def _columns(self, oid: int) -> tuple[Column, ...]:
        return tuple(
            _column(str(name), str(shown), str(base), int(modifier), bool(required), str(default or ""))
            for name, shown, base, modifier, required, default in self._db.execute(_COLUMNS, (oid,)).fetchall()
        )

    def _table(self, oid: int, schema: str, name: str) -> Table:
        primary: Key | None = None
        candidates, foreign, checks = [], [], []
        for row in self._db.execute(_CONSTRAINTS, (oid,)).fetchall():
            label, kind, text, other_schema, other, columns, referenced, delete, update = row
            if kind == "p":
                primary = Key(label, tuple(columns))
            elif kind == "u":
                candidates.append(Key(label, tuple(columns)))
            elif kind == "c":
                checks.append((label, text))
            else:
                actions = _ACTIONS[delete], _ACTIONS[update]
                foreign.append(ForeignKey(label, tuple(columns), other_schema, other, tuple(referenced), *actions))
        columns = self._settled(schema, name, self._columns(oid))
        return Table(schema, name, columns, primary, tuple(foreign), tuple(candidates), tuple(checks))

    def _settled(self, schema: str, name: str, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """Columns that hold what no neutral type has (infinity, not a number, years before 1) become text."""
        asked = [column for column in columns if column.form in _LOSSY]
        if not asked:
            return columns
        parts = [sql.SQL(_odd(column.form)).format(sql.Identifier(column.name)) for column in asked]
        query = sql.SQL("SELECT {} FROM ONLY {}").format(sql.SQL(", ").join(parts), sql.Identifier(schema, name))
        row = self._db.execute(query).fetchone() or ()
        odd = {column.name for column, found in zip(asked, row, strict=True) if found}
        return tuple(
            Column(c.name, Form.TEXT, _CLOB, c.original, c.nullable, c.default) if c.name in odd else c for c in columns
        )

    def rows(self, table: Table) -> Iterator[Sequence[Cell]]:
        wanted = sql.SQL(", ").join(_expression(column) for column in table.columns) if table.columns else sql.SQL("")
        query = sql.SQL("SELECT {} FROM ONLY {}").format(wanted, sql.Identifier(table.schema, table.name))
        forms = [column.form for column in table.columns]
        try:
            with self._db.cursor(name="exclave") as cursor:
                cursor.itersize = _BATCH_ROWS
                for row in cursor.execute(query):
                    yield [_cell(value, form) for value, form in zip(row, forms, strict=True)]
        except psycopg.Error as error:
            raise CorruptObject(f"the table {table.schema}.{table.name} cannot be read: {error}") from error


def _odd(form: Form) -> str:
    if form is Form.DECIMAL:
        return "bool_or({0}::pg_catalog.text IN ('NaN', 'Infinity', '-Infinity'))"
    return "bool_or(NOT pg_catalog.isfinite({0}) OR {0} < '0001-01-01' OR {0} > '9999-12-31')"


def _column(name: str, shown: str, base: str, modifier: int, required: bool, default: str) -> Column:
    form, text = _TYPES.get(base, (Form.TEXT, _CLOB))
    if base == "numeric" and modifier >= 4:
        precision, scale = (modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF
        if scale <= precision:
            text = f"DECIMAL({precision},{scale})"
    if base in ("varchar", "bpchar") and modifier > 4:
        text = f"{'CHARACTER VARYING' if base == 'varchar' else 'CHARACTER'}({modifier - 4})"
    return Column(name, form, text, shown, not required, default)


_TYPES: Final = {
    "int2": (Form.INTEGER, "SMALLINT"),
    "int4": (Form.INTEGER, "INTEGER"),
    "int8": (Form.INTEGER, "BIGINT"),
    "numeric": (Form.DECIMAL, "DECIMAL"),
    "float4": (Form.FLOAT, "REAL"),
    "float8": (Form.FLOAT, "DOUBLE PRECISION"),
    "bool": (Form.BOOLEAN, "BOOLEAN"),
    "bytea": (Form.BINARY, "BINARY LARGE OBJECT"),
    "date": (Form.DATE, "DATE"),
    "time": (Form.TIME, "TIME(6)"),
    "timestamp": (Form.TIMESTAMP, "TIMESTAMP(6)"),
    "timestamptz": (Form.TIMESTAMP, "TIMESTAMP WITH TIME ZONE(6)"),
    "uuid": (Form.TEXT, "CHARACTER(36)"),
    "xml": (Form.TEXT, "XML"),
}


def _expression(column: Column) -> sql.Composed:
    """Everything but bytes comes as the product's own text."""
    name = sql.Identifier(column.name)
    return sql.SQL("{}").format(name) if column.form is Form.BINARY else sql.SQL("{}::pg_catalog.text").format(name)


_ZONE: Final = re.compile(r"\+00(:00)?\Z")


def _cell(value: Any, form: Form) -> Cell:
    if value is None:
        return None
    if form is Form.BINARY:
        return bytes(value)
    if form is Form.FLOAT:
        return float_text(float(value))
    if form is Form.TIMESTAMP:
        return _ZONE.sub("Z", str(value).replace(" ", "T", 1))
    return str(value)

"""A relational database in terms of no product: tables, keys, views, cells as text or bytes.

Page: ``docs/spec/export.md``.

The digest of a table is over its rows in no order, so two products that hold the same rows give the same digest.
"""

from __future__ import annotations

import hashlib
import heapq
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO, Final, Protocol
from urllib.parse import quote

import msgspec

Cell = str | bytes | None
"""Canonical: see ``Form``. None is SQL's NULL."""

_SORTED_AT_ONCE: Final = 200_000
"""Row digests that are sorted in memory: about 20 MB."""


class Form(Enum):
    """How the cells of a column are written."""

    INTEGER = "integer"
    """Decimal."""
    DECIMAL = "decimal"
    """Decimal with a point, as many digits behind it as the product keeps."""
    FLOAT = "float"
    """The shortest decimal that gives the same IEEE 754 double; ``INF``, ``-INF``, ``NaN``."""
    BOOLEAN = "boolean"
    """``true`` or ``false``."""
    TEXT = "text"
    BINARY = "binary"
    """The only form whose cells are bytes."""
    DATE = "date"
    """``2026-11-23``, years 0001 to 9999."""
    TIME = "time"
    """``14:22:01.5``."""
    TIMESTAMP = "timestamp"
    """``2026-11-23T14:22:01.5``, with ``Z`` at the end where the column knows time zones."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``sql`` is its SQL:2008 type, ``original`` the product's own."""

    name: str
    form: Form
    sql: str
    original: str
    nullable: bool = True
    default: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """A primary or candidate key."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Columns that point at another table's."""

    name: str
    columns: tuple[str, ...]
    schema: str
    table: str
    referenced: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"


@dataclass(frozen=True, slots=True)
class Table:
    """One table's shape."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    primary: Key | None = None
    foreign: tuple[ForeignKey, ...] = ()
    candidates: tuple[Key, ...] = ()
    checks: tuple[tuple[str, str], ...] = ()
    """(name, condition)"""


@dataclass(frozen=True, slots=True)
class View:
    """One view: what it shows is not exported, how it is made is."""

    schema: str
    name: str
    query: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything of a database but its rows."""

    product: str
    schemas: tuple[str, ...]
    tables: tuple[Table, ...]
    views: tuple[View, ...]
    left_out: tuple[str, ...] = ()
    """What is there and has no place here, in words."""


class NeutralSource(Protocol):
    """A database that can be read."""

    def shape(self) -> Shape:
        """Schemas, tables and views, in a fixed order."""

    def rows(self, table: Table) -> Iterator[Sequence[Cell]]:
        """Every row, in an order of the product's. Memory: a batch of rows."""


@dataclass(frozen=True, slots=True)
class TableSum:
    """What a table says, wherever it lies."""

    schema: str
    name: str
    rows: int
    sha256: str


class RowDigest:
    """Takes rows one by one; equal for equal rows in any order. Memory: some 20 MB, beyond that a temporary file."""

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._held: list[bytes] = []
        self._runs: list[tuple[int, int]] = []
        self._file: BinaryIO | None = None
        self.rows = 0

    def add(self, row: Sequence[Cell]) -> None:
        self.rows += 1
        self._held.append(hashlib.sha256(self._encode(row)).digest())
        if len(self._held) >= _SORTED_AT_ONCE:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()
        self._held.sort()
        self._runs.append((self._file.tell(), len(self._held)))
        self._file.write(b"".join(self._held))
        self._held.clear()

    def value(self) -> str:
        """SHA-256 of the rows' digests in rising order, 64 hex digits. Called once."""
        total = hashlib.sha256()
        self._held.sort()
        for digest in heapq.merge(self._held, *(self._run(start, count) for start, count in self._runs)):
            total.update(digest)
        if self._file is not None:
            self._file.close()
        return total.hexdigest()

    def _run(self, start: int, count: int) -> Iterator[bytes]:
        file = self._file
        if file is None:
            return
        for at in range(0, count, 4096):
            file.seek(start + at * 32)
            block = file.read(min(4096, count - at) * 32)
            yield from (block[n : n + 32] for n in range(0, len(block), 32))


def table_sums(source: NeutralSource) -> tuple[TableSum, ...]:
    """Rows and digest of every table."""
    return tuple(_sum(source, table) for table in source.shape().tables)


def _sum(source: NeutralSource, table: Table) -> TableSum:
    digest = RowDigest()
    for row in source.rows(table):
        digest.add(row)
    return TableSum(table.schema, table.name, digest.rows, digest.value())


def sums_text(sums: Iterable[TableSum]) -> str:
    """One line for each table, in byte order; without schemas, as products differ in them."""
    lines = sorted(f"table {quote(s.name, safe='')} {s.rows} {s.sha256}\n" for s in sums)
    return "exclave/neutral-digest/v1\n" + "".join(lines)


def float_text(value: float) -> str:
    """As ``Form.FLOAT`` has it."""
    if value != value:  # noqa: PLR0124 - NaN
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "INF" if value > 0 else "-INF"
    return repr(value)

"""Records: what a version commits to one by one, so that each can be shown without the others. Page:
``docs/spec/proof.md``.

::

    exclave/record/v1
    register <name at home>
    dataset <label>
    file <path, percent-encoded> <bytes> <BLAKE3 of the content>

or, of a database, the same first three lines, then

::

    rows <kind> <table, as in the dataset's digest>
    <empty line>
    <columns of the table and one row, as the dataset's digest takes them>

A version names one hash: the root of a tree over salted hashes of all its records. ``Opening`` leads there from one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

from exclave.errors import MalformedError
from exclave.formats.entry import check_path
from exclave.ids import Digest, Label, parse_count, parse_digest, parse_label

HEADER: Final = "exclave/record/v1"
MAX_RECORD_BYTES: Final = 1 << 20
"""A longer row is committed to like any other, and cannot be shown by a proof."""
MAX_STEPS: Final = 64
"""Of the way to the root."""
SALT_BYTES: Final = 32
_KINDS: Final = ("postgres", "sqlite")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One document as a version has it."""

    register: Label
    dataset: Label
    path: bytes
    size: int
    content: bytes
    """BLAKE3 (32 bytes) of its bytes, as ``b3sum`` prints it."""

    def encode(self) -> bytes:
        return record_head(self.register, self.dataset) + file_line(self.path, self.size, self.content)


@dataclass(frozen=True, slots=True)
class RowRecord:
    """One row of a table as a version has it."""

    register: Label
    dataset: Label
    kind: str
    """``postgres`` or ``sqlite``: how ``row`` is to be read."""
    table: str
    """Its parts percent-encoded and joined by dots."""
    row: bytes
    """Columns and row, as in the table's digest (``docs/spec/registers.md``)."""

    def encode(self) -> bytes:
        return rows_head(self.register, self.dataset, self.kind, self.table) + self.row

    def cells(self) -> tuple[tuple[str, str, str | None], ...]:
        """(column, type, value) of each column; None is SQL's NULL. ``MalformedError`` if the row is none."""
        return _postgres_cells(self.row) if self.kind == "postgres" else _sqlite_cells(self.row)


@dataclass(frozen=True, slots=True)
class Opening:
    """What shows one record: its text, its salt, and the hashes beside its way to the root. Nothing of it is secret to
    whoever may see the record; it tells nothing of any other."""

    record: bytes
    salt: bytes
    path: tuple[Digest, ...]

    def further(self, steps: Sequence[Digest]) -> Opening:
        """The same, with the next part of the way."""
        return Opening(self.record, self.salt, (*self.path, *steps))


def record_head(register: str, dataset: str) -> bytes:
    """What all records of a dataset begin with."""
    return f"{HEADER}\nregister {register}\ndataset {dataset}\n".encode()


def rows_head(register: str, dataset: str, kind: str, table: str) -> bytes:
    """What all records of a table begin with."""
    return record_head(register, dataset) + f"rows {kind} {table}\n\n".encode()


def file_line(path: bytes, size: int, content: bytes) -> bytes:
    """What follows ``record_head`` in the record of a document."""
    return f"file {quote(path, safe='/')} {size} {content.hex()}\n".encode()


def parse_record(data: bytes) -> FileRecord | RowRecord:
    """Strict inverse of ``encode``; of a row, what it holds is read by ``cells``. Raises ``MalformedError``."""
    if len(data) > MAX_RECORD_BYTES:
        raise MalformedError(f"a record is longer than {MAX_RECORD_BYTES} bytes")
    lines = data.split(b"\n", 4)
    if len(lines) != 5:
        raise MalformedError("a record is cut short")
    header, register, dataset, what = (_ascii(line) for line in lines[:4])
    if header != HEADER:
        raise MalformedError("this is no record")
    names = _fields(register, "register", 1)[0], _fields(dataset, "dataset", 1)[0]
    owner, label = parse_label(names[0]), parse_label(names[1])
    record: FileRecord | RowRecord
    if what.startswith("file "):
        path, size, content = _fields(what, "file", 3)
        record = FileRecord(owner, label, _path(path), parse_count(size), parse_digest(content))
    else:
        kind, table = _fields(what, "rows", 2)
        if kind not in _KINDS or lines[4][:1] != b"\n":
            raise MalformedError("a record is neither of a document nor of a row")
        record = RowRecord(owner, label, kind, _table(table), lines[4][1:])
        record.cells()
    if record.encode() != data:
        raise MalformedError("a record is not in its one canonical form")
    return record


def table_name(text: str) -> str:
    """The parts of an encoded table name, decoded and joined by dots, for people."""
    return ".".join(unquote_to_bytes(part).decode("utf-8", "backslashreplace") for part in text.split("."))


def _path(text: str) -> bytes:
    path = unquote_to_bytes(text)
    if not path or quote(path, safe="/") != text:
        raise MalformedError("a record's path is not in its one form")
    return check_path(path)


def _table(text: str) -> str:
    parts = text.split(".")
    # A dot within a part stays a dot (RFC 3986 calls it unreserved), so the parts cannot always be told apart.
    if any(quote(unquote_to_bytes(part), safe="") != part for part in parts):
        raise MalformedError("a record's table is not in its one form")
    return text


def _fields(line: str, keyword: str, count: int) -> list[str]:
    first, *fields = line.split(" ")
    if first != keyword or len(fields) != count or "" in fields:
        raise MalformedError(f"a record: expected {keyword!r} with {count} field(s)")
    return fields


def _ascii(line: bytes) -> str:
    text = line.decode("latin-1")
    if not text.isascii() or not text.isprintable():
        raise MalformedError("a record's first lines hold other than printable ASCII characters")
    return text


_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}


def _postgres_cells(data: bytes) -> tuple[tuple[str, str, str | None], ...]:
    """As ``COPY`` writes it: a line for each column, an empty line, the row; fields separated by tabs."""
    try:
        head, gap, row = data.decode("utf-8").partition("\n\n")
    except UnicodeDecodeError as error:
        raise MalformedError("a record's row is not UTF-8 text") from error
    columns = [line.split("\t") for line in head.split("\n")]
    if not head:
        columns, gap, row = [], "\n\n", data.decode("utf-8")[1:]
    if not gap or not row.endswith("\n") or "\n" in row[:-1] or any(len(column) != 2 for column in columns):
        raise MalformedError("a record's row is not as PostgreSQL writes it")
    values = row[:-1].split("\t") if columns else []
    if len(values) != len(columns) or (not columns and row != "\n"):
        raise MalformedError("a record's row has another number of fields than columns")
    return tuple(
        (_unescaped(name), _unescaped(kind), None if value == "\\N" else _unescaped(value))
        for (name, kind), value in zip(columns, values, strict=True)
    )


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    made, at = [], 0
    while (found := text.find("\\", at)) >= 0:
        escape = _ESCAPES.get(text[found + 1 : found + 2])
        if escape is None:
            raise MalformedError("a record's row holds an escape that PostgreSQL never writes")
        made += [text[at:found], escape]
        at = found + 2
    return "".join((*made, text[at:]))


def _sqlite_cells(data: bytes) -> tuple[tuple[str, str, str | None], ...]:
    """Two MessagePack arrays, one after the other: (name, type) of the columns, and their values."""
    split = _first_value(data)
    try:
        columns = msgspec.msgpack.decode(data[:split], type=tuple[tuple[str, str], ...])
        values = msgspec.msgpack.decode(data[split:], type=tuple[object, ...])
        again = msgspec.msgpack.encode(columns) + msgspec.msgpack.encode(values)
    except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError) as error:
        raise MalformedError("a record's row is not as a SQLite table's digest takes it") from error
    if again != data or len(values) != len(columns):
        raise MalformedError("a record's row has another number of fields than columns, or is not in its one form")
    return tuple((name, kind, _value(value)) for (name, kind), value in zip(columns, values, strict=True))


def _value(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, msgspec.msgpack.Ext):
        return f"x'{bytes(value.data).hex()}' (a text that is not UTF-8)" if value.code == 1 else _no_value()
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(value)
    return _no_value()


def _no_value() -> str:
    raise MalformedError("a record's row holds a value that no SQLite column has")


def _first_value(data: bytes) -> int:
    """Where the first MessagePack value of ``data``, an array of arrays of texts, ends."""
    at, left = 0, 1
    while left:
        left -= 1
        if at >= len(data):
            raise MalformedError("a record's row is cut short")
        byte = data[at]
        if 0x90 <= byte <= 0x9F:
            at, left = at + 1, left + byte - 0x90
        elif byte in (0xDC, 0xDD):
            width = 2 if byte == 0xDC else 4
            at, left = at + 1 + width, left + int.from_bytes(data[at + 1 : at + 1 + width])
        elif 0xA0 <= byte <= 0xBF:
            at += 1 + byte - 0xA0
        elif byte in (0xD9, 0xDA, 0xDB):
            width = 1 << (byte - 0xD9)
            at += 1 + width + int.from_bytes(data[at + 1 : at + 1 + width])
        else:
            raise MalformedError("a record's row does not begin with its columns")
        if left > len(data):
            raise MalformedError("a record's row announces more columns than it has bytes")
    return at

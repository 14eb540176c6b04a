"""Rows of tables from version to version: which tables only grew, and which old rows are lost or altered.

A table's digest is a running SHA-256 over its rows in a fixed order, so on the way it passes the digest that the first
``n`` rows have: comparing that with the former digest costs nothing. Tables whose old rows must never change
(``append_only``) get a summary besides, which needs no order. Page: ``docs/spec/signals.md``.
"""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec

from exclave.formats.record import Opening
from exclave.formats.signals import MAX_TABLES, TableSignal, TableState
from exclave.ids import Digest, Label
from exclave.rules.records import GrowingTree, LevelTree, RecordsKey, commitment

BUCKET_BITS = 16
_BUCKETS = 1 << BUCKET_BITS
_MASK = (1 << 64) - 1
_MAX_FILE = 256 << 20


@dataclass(frozen=True, slots=True)
class Summary:
    """How many rows of a table fall into each bucket, and the sum of their hashes there modulo 2^64."""

    counts: array[int]
    sums: array[int]

    def broken(self, former: Summary) -> int:
        """Rows of ``former`` that are surely not here any more, at least so many."""
        lost = 0
        for now, then, total, total_then in zip(self.counts, former.counts, self.sums, former.sums, strict=True):
            if now < then:
                lost += then - now
            elif now == then and total != total_then:
                lost += 1
        return lost


@dataclass(frozen=True, slots=True)
class TableRows:
    """One table as a version has it."""

    name: str
    """Its parts joined by dots."""
    rows: int
    sha256: str
    """Of header and rows, as in the dataset's digest."""
    header: str
    """SHA-256 of the header: the columns."""
    prefix: str | None = None
    """SHA-256 of header and so many rows as the former version had; None if there are fewer now or it is not known."""
    summary: Summary | None = None
    records: Digest | None = None
    """Root of the table's rows as records, if they are."""


@dataclass(slots=True)
class RowRecords:
    """Makes a database's rows records, and keeps the way of one of them if ``wanted`` says which."""

    key: RecordsKey
    dataset: Label
    wanted: Callable[[str, str, bytes], bool] | None = None
    """(kind, table as in the digest's text, columns and row) → whether to show it (the first such); asked for each."""
    opening: Opening | None = None
    """That row, up to its table's root."""
    table: str = ""
    """The table where it was found."""


@dataclass(frozen=True, slots=True)
class FormerRows:
    """What is known of a database's tables from the version before, and which may only be added to."""

    tables: Mapping[str, TableRows] = field(default_factory=dict)
    append_only: frozenset[str] = frozenset()
    records: RowRecords | None = None
    """If the rows are to be records."""

    def tallied(self, name: str) -> bool:
        """Whether ``name`` is declared: with its schema, or by its last part alone."""
        return name in self.append_only or name.rpartition(".")[2] in self.append_only


NOTHING = FormerRows()


class TableHasher:
    """The digest of one table, fed with encoded rows in its order."""

    def __init__(
        self, name: str, header: bytes, former: FormerRows = NOTHING, *, kind: str = "", parts: tuple[str, ...] = ()
    ) -> None:
        """``kind`` and ``parts`` (of the name): for records."""
        records = former.records
        self._records = None if records is None else TableRecords(records, kind, encoded_name(parts), header)
        self._name, self._state = name, hashlib.sha256(header)
        self._header = self._state.hexdigest()
        known = former.tables.get(name)
        self._until = known.rows if known is not None else -1
        self._prefix = self._header if self._until == 0 else None
        self.rows = 0
        empty = bytes(8 * _BUCKETS)
        self._summary = Summary(array("Q", empty), array("Q", empty)) if former.tallied(name) else None

    def add(self, rows: Sequence[bytes | bytearray | memoryview]) -> None:
        """The next rows."""
        cut = self._until - self.rows
        if 0 < cut <= len(rows):
            self._state.update(b"".join(rows[:cut]))
            self._prefix = self._state.hexdigest()
            self._state.update(b"".join(rows[cut:]))
        else:
            self._state.update(b"".join(rows))
        if self._records is not None:
            self._records.add(rows, self.rows)
        self.rows += len(rows)
        if self._summary is not None:
            self._tally(rows, self._summary.counts, self._summary.sums)

    @staticmethod
    def _tally(rows: Iterable[bytes | bytearray | memoryview], counts: array[int], sums: array[int]) -> None:
        for row in rows:
            value = int.from_bytes(hashlib.blake2b(row, digest_size=16).digest())
            bucket = value >> (128 - BUCKET_BITS)
            counts[bucket] += 1
            sums[bucket] = (sums[bucket] + value) & _MASK

    def done(self) -> TableRows:
        """All rows were given."""
        records = None if self._records is None else self._records.finish()
        return TableRows(
            self._name, self.rows, self._state.hexdigest(), self._header, self._prefix, self._summary, records
        )


class TableRecords:
    """The rows of one table as records, in bounded memory."""

    def __init__(self, records: RowRecords, kind: str, table: str, header: bytes) -> None:
        self._records, self._kind, self._table, self._header = records, kind, table, header
        self._head = records.key.rows_head(records.dataset, kind, table) + header
        self._tree = GrowingTree(records.key.filler)
        self._shown: Opening | None = None

    def add(self, rows: Sequence[bytes | bytearray | memoryview], first: int) -> None:
        """The next rows; ``first``: number of the first of them."""
        records, head, tree = self._records, self._head, self._tree
        salt_of, wanted = records.key.row_salt, records.wanted
        for number, row in enumerate(rows, first):
            record = head + row
            salt = salt_of(number, record)
            keep = wanted is not None and wanted(self._kind, self._table, self._header + row) and self._shown is None
            tree.add(commitment(salt, record), keep=keep)
            if keep:
                self._shown = Opening(record, salt, ())

    def finish(self) -> Digest:
        """The root of all rows."""
        root = self._tree.finish()
        if self._shown is not None and self._records.opening is None:
            self._records.opening = self._shown.further(self._tree.way)
            self._records.table = self._table
        return root


def encoded_name(parts: Sequence[str]) -> str:
    """A table's name in canonical texts: its parts percent-encoded (RFC 3986, unreserved kept) and joined by dots."""
    return ".".join(quote(part, safe="", encoding="utf-8", errors="surrogateescape") for part in parts)


def dataset_records(records: RowRecords, tables: Sequence[tuple[str, Digest]]) -> Digest:
    """Root over the roots of all tables, (encoded name, root) in the digest's order; a shown row is led there."""
    tree = LevelTree([root for _, root in tables], records.key.filler)
    if records.opening is not None:
        at = next(n for n, (name, _) in enumerate(tables) if name == records.table)
        records.opening = records.opening.further(tree.way(at))
    return tree.root


def table_signals(now: Iterable[TableRows], former: FormerRows) -> tuple[TableSignal, ...]:
    """What became of each table, in order of names; at most ``MAX_TABLES``, declared ones and changed ones first."""
    present = {table.name: table for table in now}
    made = [_signal(table, former.tables.get(name)) for name, table in present.items()]
    made += [TableSignal(n, 0, t.rows, TableState.GONE, _if(former, n, t.rows)) for n, t in former.tables.items()
             if n not in present]  # fmt: skip
    known = {*present, *(name.rpartition(".")[2] for name in present), *former.tables}
    made += [TableSignal(name, 0, None, TableState.GONE) for name in former.append_only if name not in known]
    made = [signal for signal in made if len(signal.name) <= 1000]
    made.sort(key=lambda s: (not former.tallied(s.name), s.state is TableState.SAME, s.name))
    return tuple(sorted(made[:MAX_TABLES], key=lambda s: s.name))


def _if(former: FormerRows, name: str, rows: int) -> int:
    return rows if former.tallied(name) else 0


def _signal(now: TableRows, then: TableRows | None) -> TableSignal:
    digest = now.sha256[:16]
    if then is None:
        return TableSignal(now.name, now.rows, None, TableState.NEW, 0, digest)
    if now.header != then.header:
        return TableSignal(now.name, now.rows, then.rows, TableState.RESHAPED, 0, digest)
    broken = now.summary.broken(then.summary) if now.summary is not None and then.summary is not None else 0
    if (now.rows, now.sha256) == (then.rows, then.sha256):
        state = TableState.SAME
    elif now.rows < then.rows:
        state = TableState.SHRUNK
    elif now.prefix == then.sha256:
        state = TableState.GROWN
    else:
        state = TableState.ALTERED
    return TableSignal(now.name, now.rows, then.rows, state, broken, digest)


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    name: str
    rows: int
    sha256: str
    header: str
    counts: bytes
    sums: bytes


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[_Kept, ...])


def encode_rows(tables: Iterable[TableRows]) -> bytes:
    """What the home keeps of a version's tables for the next one: a cache file."""
    kept = [
        _Kept(t.name, t.rows, t.sha256, t.header, *((_bytes(t.summary)) if t.summary is not None else (b"", b"")))
        for t in tables
    ]
    data = zlib.compress(_ENCODER.encode(kept), 1)
    return zlib.crc32(data).to_bytes(4) + data


def decode_rows(data: bytes) -> dict[str, TableRows]:
    """Inverse of ``encode_rows``; empty for a damaged or foreign file: then there is nothing to compare with."""
    if len(data) < 4 or zlib.crc32(data[4:]) != int.from_bytes(data[:4]):
        return {}
    unpacked = zlib.decompressobj()
    try:
        plain = unpacked.decompress(data[4:], _MAX_FILE)
        kept = _DECODER.decode(plain)
    except (zlib.error, msgspec.DecodeError, UnicodeError):
        return {}
    return {k.name: TableRows(k.name, k.rows, k.sha256, k.header, None, _summary(k)) for k in kept}


def _bytes(summary: Summary) -> tuple[bytes, bytes]:
    return summary.counts.tobytes(), summary.sums.tobytes()


def _summary(kept: _Kept) -> Summary | None:
    counts, sums = array("Q", kept.counts), array("Q", kept.sums)
    return Summary(counts, sums) if len(counts) == len(sums) == _BUCKETS else None

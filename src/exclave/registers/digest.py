"""The canonical text of a dataset's digest. Page: ``docs/spec/registers.md``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from exclave.registers.contract import DatasetDigest
from exclave.registers.rows import NOTHING, FormerRows, TableRows, dataset_records, encoded_name

_HEADER = "exclave/dataset-digest/v1"


@dataclass(frozen=True, slots=True)
class TableDigest:
    """One table. ``name`` has one part (SQLite) or two (schema and table)."""

    name: tuple[str, ...]
    rows: int
    sha256: str
    kept: TableRows | None = None
    """What is compared with the next version."""


def canonical_text(kind: str, tables: Iterable[TableDigest]) -> str:
    """One line for each table, in byte order of the names; names percent-encoded (RFC 3986, unreserved kept)."""
    ordered = sorted(tables, key=_sort_key)
    lines = [f"table {encoded_name(t.name)} {t.rows} {t.sha256}\n" for t in ordered]
    return f"{_HEADER}\nkind {kind}\n" + "".join(lines)


def dataset_digest(
    kind: str, tables: Iterable[TableDigest], *, exact: bool, former: FormerRows = NOTHING
) -> DatasetDigest:
    """SHA-256 of the canonical text, with the row counts in its order; ``former`` as for ``Capture.digest``."""
    ordered = sorted(tables, key=_sort_key)
    text = canonical_text(kind, ordered)
    rows = tuple((".".join(table.name), table.rows) for table in ordered)
    kept = tuple(table.kept for table in ordered if table.kept is not None)
    records = None
    if former.records is not None:
        roots = [(encoded_name(t.name), t.kept.records) for t in ordered if t.kept is not None]
        records = dataset_records(former.records, [(name, root) for name, root in roots if root is not None])
    return DatasetDigest(hashlib.sha256(text.encode("ascii")).hexdigest(), rows, exact, kept, records)


def _sort_key(table: TableDigest) -> tuple[bytes, ...]:
    return tuple(part.encode("utf-8", "surrogateescape") for part in table.name)

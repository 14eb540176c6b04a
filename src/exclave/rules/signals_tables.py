"""What became of tables that is not as it should be: rows that never changed before, or never may."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from exclave.formats.signals import TableSignal, TableState

LEARN_GROWN = 10
"""After so many versions in which a table grew and nothing else, its old rows count as never changing."""
LOST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class TableFinding:
    """One table in one version."""

    sequence: int
    code: str
    text: str


@dataclass(slots=True)
class _Past:
    grown: int = 0
    changed: int = 0
    """Versions in which old rows were altered or went away."""
    most_lost: float = 0.0
    findings: list[TableFinding] = field(default_factory=list)


def table_findings(versions: Sequence[tuple[int, tuple[TableSignal, ...]]]) -> Iterator[TableFinding]:
    """``versions``: (number, tables), in order."""
    past: dict[str, _Past] = {}
    for sequence, tables in versions:
        for table in tables:
            yield from _look(sequence, table, past.setdefault(table.name, _Past()))


def _look(sequence: int, table: TableSignal, past: _Past) -> Iterator[TableFinding]:
    """At most one finding; and what is remembered of the table."""
    former = table.former or 0
    lost = (former - table.rows) / former if former > table.rows else 0.0
    steady = past.grown >= LEARN_GROWN and past.changed == 0
    name = table.name
    if table.broken:
        rows = "1 old row is" if table.broken == 1 else f"{table.broken} old rows are"
        text = f"in table {name}, which is only added to, at least {rows} altered or gone"
        yield TableFinding(sequence, "append-only", text)
    elif table.state is TableState.GONE and (table.former is None or former > 0):
        yield TableFinding(
            sequence, "table-gone", f"table {name} is gone" + (f" with its {former} rows" if former else "")
        )
    elif table.state is TableState.ALTERED and steady:
        text = f"old rows of table {name} were altered; in {past.grown} versions before it was only added to"
        yield TableFinding(sequence, "altered", text)
    elif lost > max(LOST_SHARE, 3 * past.most_lost) and former - table.rows >= 10:
        yield TableFinding(
            sequence, "rows-gone", f"{former - table.rows} of {former} rows of table {name} are gone at once"
        )
    elif table.state is TableState.RESHAPED and steady:
        yield TableFinding(sequence, "reshaped", f"table {name} has other columns, so its old rows cannot be compared")
    elif table.state is TableState.SHRUNK and steady:
        yield TableFinding(sequence, "rows-gone", f"rows of table {name} are gone; before it was only added to")
    else:
        past.most_lost = max(past.most_lost, lost)
        past.changed += table.state in (TableState.ALTERED, TableState.SHRUNK)
    past.grown += table.state is TableState.GROWN

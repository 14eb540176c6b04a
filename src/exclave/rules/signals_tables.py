"""What became of tables that is not as it should be: rows that never changed before, or never may."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    versions: int = 0
    grown: int = 0
    changed: int = 0
    """Versions in which old rows were altered or went away."""
    most_lost: float = 0.0

    @property
    def steady(self) -> bool:
        """It was only added to, long enough to rely on it."""
        return self.grown >= LEARN_GROWN and self.changed == 0


def table_findings(versions: Sequence[tuple[int, tuple[TableSignal, ...]]]) -> Iterator[TableFinding]:
    """``versions``: (number, tables), in order."""
    past: dict[str, _Past] = {}
    for sequence, tables in versions:
        for table in tables:
            known = past.setdefault(table.name, _Past())
            found = _look(table, known)
            if found is not None:
                yield TableFinding(sequence, *found)
            known.versions += 1
            known.grown += table.state is TableState.GROWN
            known.changed += table.state in (TableState.ALTERED, TableState.SHRUNK)
            known.most_lost = max(known.most_lost, _lost(table))


def _lost(table: TableSignal) -> float:
    """Share of the former rows that there are fewer now."""
    former = table.former or 0
    return (former - table.rows) / former if former > table.rows else 0.0


def _look(table: TableSignal, past: _Past) -> tuple[str, str] | None:
    """(code, text) of what is wrong with a table in one version."""
    name, former = table.name, table.former or 0
    if table.broken:
        rows = "1 old row is" if table.broken == 1 else f"{table.broken} old rows are"
        return "append-only", f"in table {name}, which is only added to, at least {rows} altered or gone"
    if table.state is TableState.GONE and (table.former is None or former > 0):
        return "table-gone", f"table {name} is gone" + (f" with its {former} rows" if former else "")
    if table.state is TableState.ALTERED and past.steady:
        return "altered", f"old rows of table {name} were altered; in {past.grown} versions before it was only added to"
    fewer = former - table.rows
    if _lost(table) > max(LOST_SHARE, 3 * past.most_lost) and fewer >= 10 and past.versions >= LEARN_GROWN:
        return "rows-gone", f"{fewer} of {former} rows of table {name} are gone at once"
    if table.state is TableState.RESHAPED and past.steady:
        return "reshaped", f"table {name} has other columns, so its old rows cannot be compared"
    if table.state is TableState.SHRUNK and past.steady:
        return "rows-gone", f"rows of table {name} are gone; before it was only added to"
    return None

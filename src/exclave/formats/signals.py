"""What a writer notices of a dataset while it backs it up, against the version before. Page: ``docs/spec/signals.md``.

::

    exclave/signals/v1
    compared yes | no
    files <number>
    …                      (one line for each name of ``NUMBERS``)
    ending <text> | -
    example <number's name> <path, percent-encoded>
    table <name, percent-encoded> <rows> <rows before, or -> <state> <old rows lost or altered, at least> <digest>

It stands as the fact ``signals`` of a dataset in a version's sealed manifest, and in the home's cache. Nothing of it
is ever outside of a seal anywhere else: names and counts of what changes are a register's own matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote_from_bytes, unquote_to_bytes

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader
from exclave.ids import parse_count

HEADER = "exclave/signals/v1"
FACT = "signals"
"""Name of the fact."""
MAX_TEXT = 1 << 20
MAX_TABLES = 4096
EXAMPLES = 3
"""So many paths are kept for each kind."""
MAX_EXAMPLE_BYTES = 400
_MOST = 2**63 - 1
_DIGEST = re.compile(r"[0-9a-f]{16}")

NUMBERS = (
    "files", "new", "changed", "touched", "gone", "old", "silent", "mismatch", "random", "suffix", "sealed",
    "read_bytes", "new_bytes", "stored_bytes", "dense_bytes",
)  # fmt: skip
SHOWN = frozenset({"old", "silent", "mismatch", "random", "suffix", "sealed"})
"""Numbers that come with examples."""


class TableState(StrEnum):
    """What became of a table's rows since the version before."""

    SAME = "same"
    GROWN = "grown"
    """The former rows stand unchanged before the new ones, in key order."""
    ALTERED = "altered"
    """Some rows are not as they were, and there are as many as before or more."""
    SHRUNK = "shrunk"
    RESHAPED = "reshaped"
    """It has other columns, so its rows cannot be compared."""
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class TableSignal:
    """One table of a database."""

    name: str
    rows: int
    former: int | None
    """Rows in the version before; None if it had no such table or is not known."""
    state: TableState
    broken: int = 0
    """Of a table declared ``append_only``: old rows that are surely gone or altered, at least so many."""
    digest: str = "-"
    """First 16 hex digits of the SHA-256 of its rows; ``-`` of a table that is gone."""


@dataclass(frozen=True, slots=True)
class Signals:
    """One dataset in one version. Counts of files; ``…_bytes`` in bytes. All 0 where nothing could be compared."""

    compared: bool = False
    """Whether the version before was at hand."""
    files: int = 0
    new: int = 0
    changed: int = 0
    """Of other content than before."""
    touched: int = 0
    """Read again, and found the same."""
    gone: int = 0
    old: int = 0
    """Changed, after it had been left alone for ``OLD_DAYS`` (``vault/signals.py``)."""
    silent: int = 0
    """Changed without a new modification time."""
    mismatch: int = 0
    """New or changed, and not of the kind that its name says."""
    random: int = 0
    """Changed, and its content looks like noise, which its name does not explain."""
    suffix: int = 0
    """New under the name of a file that is gone, with an ending added."""
    sealed: int = 0
    """Changed or gone, although declared ``immutable``."""
    read_bytes: int = 0
    new_bytes: int = 0
    """Content that no earlier version had, before compression."""
    stored_bytes: int = 0
    """The same, compressed."""
    dense_bytes: int = 0
    """Of it, what compression did not make smaller."""
    ending: str = ""
    """The ending that was added most often."""
    examples: tuple[tuple[str, bytes], ...] = ()
    """(name of a number in ``SHOWN``, path), a few of each."""
    tables: tuple[TableSignal, ...] = field(default=())

    def encode(self) -> str:
        """The text; ``parse_signals`` is its inverse."""
        lines = [HEADER, f"compared {'yes' if self.compared else 'no'}"]
        lines += [f"{name} {getattr(self, name)}" for name in NUMBERS]
        lines.append(f"ending {_quoted(self.ending.encode()) or '-'}")
        lines += [f"example {name} {_quoted(path)}" for name, path in self.examples]
        for t in self.tables:
            former = "-" if t.former is None else str(t.former)
            name = _quoted(t.name.encode("utf-8", "surrogateescape"))
            lines.append(f"table {name} {t.rows} {former} {t.state} {t.broken} {t.digest}")
        return "\n".join(lines) + "\n"


def parse_signals(text: str) -> Signals:
    """Strict inverse of ``Signals.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="signals", limit=MAX_TEXT)
    lines.exactly(HEADER)
    compared = lines.field("compared")
    numbers = {name: parse_count(lines.field(name), limit=_MOST) for name in NUMBERS}
    ending = lines.field("ending")
    examples = []
    while lines.peek() == "example":
        name, path = lines.fields("example", 2)
        if name not in SHOWN:
            raise lines.fail(f"there are no examples of {name!r}")
        examples.append((name, unquote_to_bytes(path)))
    tables = []
    while lines.peek() == "table":
        tables.append(_table(lines))
    lines.end()
    signals = Signals(
        compared == "yes",
        **numbers,
        ending="" if ending == "-" else unquote_to_bytes(ending).decode("utf-8", "replace"),
        examples=tuple(examples),
        tables=tuple(tables),
    )
    if len(tables) > MAX_TABLES or len(examples) > EXAMPLES * len(SHOWN) or signals.encode() != text:
        raise MalformedError("signals are not in their one canonical form")
    return signals


def _table(lines: LineReader) -> TableSignal:
    name, rows, former, state, broken, digest = lines.fields("table", 6)
    if digest != "-" and not _DIGEST.fullmatch(digest):
        raise lines.fail("expected 16 hex digits")
    try:
        known = TableState(state)
    except ValueError as error:
        raise lines.fail(f"{state!r} is no state of a table") from error
    return TableSignal(
        unquote_to_bytes(name).decode("utf-8", "surrogateescape"),
        parse_count(rows, limit=_MOST),
        None if former == "-" else parse_count(former, limit=_MOST),
        known,
        parse_count(broken, limit=_MOST),
        digest,
    )


def _quoted(name: bytes) -> str:
    return quote_from_bytes(name, safe="/")

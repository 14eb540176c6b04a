"""What a register's writer found out about a site, on one line each. Page: ``docs/spec/sitefacts.md``.

::

    site <label> kept <n> of <n> objects <yes|no> heads <yes|no> locked <yes|no>
    site <label> until <date> objects <n> extended <n> short <n>

The first ``say`` line of a fact of kind ``probed``, and of one of kind ``locked``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from exclave.errors import MalformedError
from exclave.ids import Label, parse_count, parse_label

PROBED = Label("probed")
LOCKED = Label("locked")
_PROBE_FIELDS = ("site", "kept", "of", "objects", "heads", "locked")
_LOCK_FIELDS = ("site", "until", "objects", "extended", "short")
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_SAID = {True: "yes", False: "no"}


@dataclass(frozen=True, slots=True)
class ProbeLine:
    """One probe of a site."""

    site: Label
    kept: int
    promises: int
    objects: bool
    """It keeps objects."""
    heads: bool
    """It keeps heads."""
    locked: bool
    """It cannot be deleted from."""

    def encode(self) -> str:
        said = (_SAID[self.objects], _SAID[self.heads], _SAID[self.locked])
        values = (self.site, self.kept, self.promises, *said)
        return " ".join(f"{word} {value}" for word, value in zip(_PROBE_FIELDS, values, strict=True))


@dataclass(frozen=True, slots=True)
class LockLine:
    """One look at the locks of all that a register needs at a site."""

    site: Label
    until: int
    """The day, counted from 1970-01-01, on which the first lock ends; all are held through the day before."""
    objects: int
    extended: int
    """Those whose lock was made longer by this run."""
    short: int
    """Those that are not locked at all, or not for as long as was asked, afterwards."""

    def encode(self) -> str:
        values = (self.site, _date_text(self.until), self.objects, self.extended, self.short)
        return " ".join(f"{word} {value}" for word, value in zip(_LOCK_FIELDS, values, strict=True))


def parse_probe_line(text: str) -> ProbeLine:
    """Strict inverse of ``ProbeLine.encode``. Raises ``MalformedError``."""
    site, kept, promises, *said = _values(text, _PROBE_FIELDS)
    if any(word not in _SAID.values() for word in said):
        raise MalformedError("a line about a probe says neither yes nor no")
    roles = [word == "yes" for word in said]
    line = ProbeLine(parse_label(site), parse_count(kept), parse_count(promises), *roles)
    if line.encode() != text or line.kept > line.promises:
        raise MalformedError("a line about a probe is not in its one canonical form")
    return line


def parse_lock_line(text: str) -> LockLine:
    """Strict inverse of ``LockLine.encode``. Raises ``MalformedError``."""
    site, until, *counts = _values(text, _LOCK_FIELDS)
    line = LockLine(parse_label(site), _parse_date(until), *(parse_count(count) for count in counts))
    if line.encode() != text or line.extended + line.short > line.objects:
        raise MalformedError("a line about locks is not in its one canonical form")
    return line


def _values(text: str, fields: tuple[str, ...]) -> list[str]:
    parts = text.split(" ")
    if len(parts) != 2 * len(fields) or tuple(parts[::2]) != fields:
        raise MalformedError("not a line about a site")
    return parts[1::2]


def _date_text(day: int) -> str:
    return date.fromordinal(day + _EPOCH_ORDINAL).isoformat()


def _parse_date(text: str) -> int:
    try:
        found = date.fromisoformat(text)
    except ValueError as error:
        raise MalformedError("not a day in a line about locks") from error
    day = found.toordinal() - _EPOCH_ORDINAL
    if day < 0 or found.isoformat() != text:
        raise MalformedError("not a day in a line about locks")
    return day

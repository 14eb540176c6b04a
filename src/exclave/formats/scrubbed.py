"""What a scrub says of one register at one site, on one line. Page: ``docs/spec/scrubbed.md``.

::

    site <label> days <n> from <date> through <date> packs <read> of <all> bytes <n> wrong <n> repaired <n>

The first ``say`` line of a fact of kind ``scrubbed``, and a line of a scrub report::

    exclave/scrub-report/v1
    state <fingerprint>
    time <instant>
    register <id> site <label> days …                          (1 to 1000)
    wrong <object> <code> <sha256 of the wrong bytes | none> <site that it was repaired from | none>     (0 to 1000)

A report is a note: whoever scrubbed signs it with his own key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader
from exclave.ids import (
    Digest,
    Fingerprint,
    Instant,
    Key,
    Label,
    RegisterId,
    instant_text,
    parse_count,
    parse_digest,
    parse_fingerprint,
    parse_instant,
    parse_key,
    parse_label,
    parse_positive,
    parse_register_id,
)

KIND = Label("scrubbed")
REPORT_HEADER = "exclave/scrub-report/v1"
MAX_REPORT_CHARS = 1 << 20
MAX_LINES = 1000
MAX_WRONG = 1000
"""Most objects that a report names; its lines count all."""
_FIELDS = ("site", "days", "from", "through", "packs", "of", "bytes", "wrong", "repaired")


@dataclass(frozen=True, slots=True)
class ScrubLine:
    """One run over one register at one site. Days are numbers from 1970-01-01."""

    site: Label
    days: int
    """Within so many days the whole site is read by runs like this one."""
    first: int
    through: int
    """All that fell due up to this day was read."""
    packs_read: int
    packs: int
    bytes_read: int
    wrong: int
    """Objects that were missing or had other bytes than their names say."""
    repaired: int

    def encode(self) -> str:
        values = (
            self.site, self.days, _date_text(self.first), _date_text(self.through), self.packs_read, self.packs,
            self.bytes_read, self.wrong, self.repaired,
        )  # fmt: skip
        return " ".join(f"{word} {value}" for word, value in zip(_FIELDS, values, strict=True))


def parse_scrub_line(text: str) -> ScrubLine:
    """Strict inverse of ``ScrubLine.encode``. Raises ``MalformedError``."""
    parts = text.split(" ")
    if len(parts) != 2 * len(_FIELDS) or tuple(parts[::2]) != _FIELDS:
        raise MalformedError("not a line about a scrub")
    site, days, first, through, *counts = parts[1::2]
    line = ScrubLine(
        parse_label(site), parse_positive(days, limit=3650), _parse_date(first), _parse_date(through),
        *(parse_count(count) for count in counts),
    )  # fmt: skip
    if line.encode() != text or line.packs_read > line.packs or line.repaired > line.wrong:
        raise MalformedError("a line about a scrub is not in its one canonical form")
    return line


@dataclass(frozen=True, slots=True)
class WrongObject:
    """An object that was wrong, and what became of it."""

    key: Key
    fault: Label
    """An error code of ``errors.py``."""
    found: Digest | None
    """SHA-256 of the wrong bytes; None if there were none, or none that could be read."""
    repaired_from: Label | None

    def encode(self) -> str:
        found = "none" if self.found is None else self.found.hex()
        return f"{self.key} {self.fault} {found} {self.repaired_from or 'none'}"


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """A whole run. Its form is right; who signed it is for the reader to check."""

    state: Fingerprint
    time: Instant
    lines: tuple[tuple[RegisterId, ScrubLine], ...]
    wrong: tuple[WrongObject, ...]

    def encode(self) -> str:
        head = f"{REPORT_HEADER}\nstate {self.state}\ntime {instant_text(self.time)}\n"
        lines = "".join(f"register {register} {line.encode()}\n" for register, line in self.lines)
        return head + lines + "".join(f"wrong {wrong.encode()}\n" for wrong in self.wrong)


def parse_scrub_report(text: str) -> ScrubReport:
    """Strict inverse of ``ScrubReport.encode``. Raises ``MalformedError``."""
    reader = LineReader(text, what="scrub report", limit=MAX_REPORT_CHARS)
    reader.exactly(REPORT_HEADER)
    state = parse_fingerprint(reader.field("state"))
    time = parse_instant(reader.field("time"))
    lines: list[tuple[RegisterId, ScrubLine]] = []
    while reader.peek() == "register" and len(lines) < MAX_LINES:
        register, line = reader.fields("register", 2, rest=True)
        lines.append((parse_register_id(register), parse_scrub_line(line)))
    wrong: list[WrongObject] = []
    while reader.peek() == "wrong" and len(wrong) < MAX_WRONG:
        key, fault, found, source = reader.fields("wrong", 4)
        digest = None if found == "none" else parse_digest(found)
        wrong.append(
            WrongObject(parse_key(key), parse_label(fault), digest, None if source == "none" else parse_label(source))
        )
    reader.end()
    report = ScrubReport(state, time, tuple(lines), tuple(wrong))
    if not lines or report.encode() != text:
        raise MalformedError("a scrub report is not in its one canonical form")
    return report


def _date_text(day: int) -> str:
    return date.fromordinal(day + date(1970, 1, 1).toordinal()).isoformat()


def _parse_date(text: str) -> int:
    try:
        found = date.fromisoformat(text)
    except ValueError as error:
        raise MalformedError(f"a day must look like 2026-11-26, not {text[:40]!r}") from error
    day = found.toordinal() - date(1970, 1, 1).toordinal()
    if day < 0 or found.isoformat() != text:
        raise MalformedError(f"a day must look like 2026-11-26, not {text[:40]!r}")
    return day

"""Status orders: which certificates are to be revoked, held or released. Page: ``docs/spec/statusorder.md``.

::

    exclave/status-order/v1
    act revoke | hold | release
    issuer <id of the issuing CA> <number of its lines>       1 to 16 times, sorted, each followed by its lines:
    serial <serial> <reason> <since>                          revoke: a CRLReason that stays, and an instant
    serial <serial>                                           hold, release

Serials of one issuer are sorted and different. An order may name a million certificates, so it is read as a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from exclave.errors import MalformedError
from exclave.formats.extension import parse_serial
from exclave.formats.lines import LineStream
from exclave.formats.warrant import Act
from exclave.ids import Digest, Instant, instant_text, parse_digest, parse_instant, parse_positive

HEADER = "exclave/status-order/v1"
STATUS_ACTS = frozenset({Act.REVOKE, Act.HOLD, Act.RELEASE})
MAX_LINES = 1_000_000
MAX_ISSUERS = 16
MAX_LINE_BYTES = 200
MAX_ORDER_BYTES = MAX_LINES * MAX_LINE_BYTES
REASONS = frozenset(
    {
        "unspecified",
        "keyCompromise",
        "cACompromise",
        "affiliationChanged",
        "superseded",
        "cessationOfOperation",
        "privilegeWithdrawn",
        "aACompromise",
    }
)
"""CRLReason (RFC 5280, section 5.3.1) without certificateHold and removeFromCRL, which are acts of their own."""


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One certificate. ``reason`` and ``since`` are empty and 0 but for a revocation."""

    issuer: Digest
    serial: int
    """0 to 2^160 - 1."""
    reason: str = ""
    since: Instant = Instant(0)


@dataclass(frozen=True, slots=True)
class StatusOrder:
    """What an order asks for, counted; made by ``read_status_order`` once it has read the whole file."""

    act: Act
    counts: dict[Digest, int]
    """Certificates by issuer."""
    digest: Digest
    """SHA-256 of the file."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def read_status_order(file: BinaryIO, each: Callable[[StatusLine], None] = lambda line: None) -> StatusOrder:
    """Reads the order in ``file`` to its end, calling ``each`` for every certificate, in bounded memory.

    ``MalformedError`` names the line; what ``each`` was called for before must not have been carried out yet, so read
    twice: once to check, once to act on the same digest.
    """
    lines = LineStream(file, what="status order", limit=MAX_LINE_BYTES)
    lines.exactly(HEADER)
    (named,) = lines.fields("act", 1)
    if named not in STATUS_ACTS:
        raise lines.fail(f"{named[:40]!r} is no act of a status order")
    act = Act(named)
    counts: dict[Digest, int] = {}
    total = 0
    while lines.more():
        text, number = lines.fields("issuer", 2)
        issuer, count = lines.value(parse_digest, text), lines.value(_line_count, number)
        total += count
        if (counts and issuer <= max(counts)) or len(counts) >= MAX_ISSUERS or total > MAX_LINES:
            raise lines.fail(f"issuers must be sorted and different, 1 to {MAX_ISSUERS}, with {MAX_LINES} lines in all")
        counts[issuer] = count
        _read_issuer(lines, act, issuer, count, each)
    if not counts:
        raise lines.fail("the order names no certificate")
    return StatusOrder(act, counts, lines.digest)


def write_status_order(act: Act, lines: Iterable[StatusLine]) -> Iterator[bytes]:
    """The order's bytes, piece by piece. ``lines`` in any order; a certificate that is named twice alike counts once.

    Holds about 150 bytes for each. Raises ``MalformedError`` for what ``read_status_order`` would refuse.
    """
    if act not in STATUS_ACTS:
        raise MalformedError(f"there is no status order to {act}")
    found: dict[Digest, list[str]] = {}
    for total, line in enumerate(lines, 1):
        if total > MAX_LINES:
            raise MalformedError(f"an order names at most {MAX_LINES} certificates; make several")
        # Padded, so that text sorts as numbers do.
        found.setdefault(line.issuer, []).append(_fields(act, line))
    if not 1 <= len(found) <= MAX_ISSUERS:
        raise MalformedError(f"an order names certificates of 1 to {MAX_ISSUERS} issuers")
    yield f"{HEADER}\nact {act}\n".encode()
    for issuer in sorted(found):
        once = sorted(set(found.pop(issuer)))
        for one, other in pairwise(once):
            if one[:40] == other[:40]:
                raise MalformedError(f"serial {one[:40].lstrip('0')} is named twice, in different ways")
        yield f"issuer {issuer.hex()} {len(once)}\n".encode()
        for text in once:
            yield f"serial {text[:40].lstrip('0') or '0'}{text[40:]}\n".encode()


def _line_count(text: str) -> int:
    return parse_positive(text, limit=MAX_LINES)


def _fields(act: Act, line: StatusLine) -> str:
    if act is not Act.REVOKE:
        return f"{line.serial:040x}"
    if line.reason not in REASONS:
        raise MalformedError(f"{line.reason[:40]!r} is no reason for a revocation")
    return f"{line.serial:040x} {line.reason} {instant_text(line.since)}"


def _read_issuer(lines: LineStream, act: Act, issuer: Digest, count: int, each: Callable[[StatusLine], None]) -> None:
    before, known, moment = -1, "", Instant(0)
    for _ in range(count):
        if act is Act.REVOKE:
            text, reason, since = lines.fields("serial", 3)
            if reason not in REASONS:
                raise lines.fail(f"{reason[:40]!r} is no reason for a revocation")
            if since != known:  # most lines of a bulk order have the same
                moment, known = lines.value(parse_instant, since), since
            line = StatusLine(issuer, lines.value(parse_serial, text), reason, moment)
        else:
            (text,) = lines.fields("serial", 1)
            line = StatusLine(issuer, lines.value(parse_serial, text))
        if line.serial <= before:
            raise lines.fail("serials must be sorted and different")
        before = line.serial
        each(line)

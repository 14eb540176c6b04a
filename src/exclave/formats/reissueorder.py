"""Re-issue orders: which certified keys get a new certificate, in which order. Page: ``docs/spec/reissue.md``.

::

    exclave/reissue-order/v1
    ca <id of the CA that signs>
    until <instant>                                           no new certificate is valid after it
    group <n> <number of its lines>                           n = 1, 2, …: worked off in this order; each followed by:
    certificate <sha256 of the former certificate, DER>       sorted and different within its group
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from exclave.errors import MalformedError
from exclave.formats.lines import LineStream
from exclave.ids import Digest, Instant, instant_text, parse_digest, parse_instant, parse_positive

HEADER = "exclave/reissue-order/v1"
MAX_LINES = 1_000_000
MAX_GROUPS = 100
MAX_LINE_BYTES = 100
MAX_ORDER_BYTES = MAX_LINES * MAX_LINE_BYTES


@dataclass(frozen=True, slots=True)
class ReissueLine:
    """One former certificate."""

    group: int
    certificate: Digest
    """SHA-256 of its DER."""


@dataclass(frozen=True, slots=True)
class ReissueOrder:
    """What an order asks for, counted; made by ``read_reissue_order`` once it has read the whole file."""

    ca: Digest
    """``crypto.crl.issuer_id`` of the CA that signs."""
    until: Instant
    counts: tuple[int, ...]
    """Certificates in group 1, 2, …"""
    digest: Digest
    """SHA-256 of the file."""

    @property
    def total(self) -> int:
        return sum(self.counts)


def read_reissue_order(file: BinaryIO, each: Callable[[ReissueLine], None] = lambda line: None) -> ReissueOrder:
    """Reads the order in ``file`` to its end, calling ``each`` for every certificate, in bounded memory.

    ``MalformedError`` names the line; what ``each`` was called for before must not have been carried out yet.
    """
    lines = LineStream(file, what="re-issue order", limit=MAX_LINE_BYTES)
    lines.exactly(HEADER)
    ca = lines.value(parse_digest, lines.fields("ca", 1)[0])
    until = lines.value(parse_instant, lines.fields("until", 1)[0])
    counts: list[int] = []
    while lines.more():
        number, text = lines.fields("group", 2)
        count = lines.value(_line_count, text)
        if number != str(len(counts) + 1) or len(counts) >= MAX_GROUPS or sum(counts) + count > MAX_LINES:
            raise lines.fail(f"groups are 1, 2, … to {MAX_GROUPS}, with {MAX_LINES} lines in all")
        counts.append(count)
        before = b""
        for _ in range(count):
            certificate = lines.value(parse_digest, lines.fields("certificate", 1)[0])
            if certificate <= before:
                raise lines.fail("certificates must be sorted and different")
            before = certificate
            each(ReissueLine(len(counts), certificate))
    if not counts:
        raise lines.fail("the order names no certificate")
    return ReissueOrder(ca, until, tuple(counts), lines.digest)


def write_reissue_order(ca: Digest, until: Instant, groups: list[set[Digest]]) -> bytes:
    """The order's text; ``groups`` in their priority."""
    if not 1 <= len(groups) <= MAX_GROUPS or not all(groups) or sum(map(len, groups)) > MAX_LINES:
        raise MalformedError(f"an order has 1 to {MAX_GROUPS} groups, none empty, with {MAX_LINES} certificates in all")
    parts = [f"{HEADER}\nca {ca.hex()}\nuntil {instant_text(until)}\n"]
    for number, group in enumerate(groups, 1):
        parts.append(f"group {number} {len(group)}\n")
        parts += [f"certificate {digest.hex()}\n" for digest in sorted(group)]
    return "".join(parts).encode()


def _line_count(text: str) -> int:
    return parse_positive(text, limit=MAX_LINES)

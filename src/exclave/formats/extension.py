"""Extension lists: certificates that are accepted beyond their end, and the order that ends such a list early.

Page: ``docs/spec/extension.md``. ::

    exclave/extension/v1
    state <fingerprint>
    issuer <id of the issuing CA>
    not-before <instant>
    not-after <instant>                        the list itself counts no longer
    until <instant>                            no certificate is accepted after it
    reason <free text>
    basis <free text>                          the law or decision that allows it
    rule <instant> <instant>                   0 or 1: certificates that end from the one to the other, both included
    except <serial>                            0 or more, sorted: certificates that the rule does not cover
    key <sha256>                               0 or more, sorted: SubjectPublicKeyInfo, whatever certificate names it

    exclave/extension-end/v1
    state <fingerprint>
    list <sha256 of the list's text>
    reason <free text>

The custodians see the text and sign a warrant that names its digest; the machine that enters the list into the identity
journal signs it as a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader, plain_text
from exclave.ids import (
    Digest,
    Fingerprint,
    Instant,
    instant_text,
    parse_digest,
    parse_fingerprint,
    parse_instant,
    sha256,
)

HEADER = "exclave/extension/v1"
END_HEADER = "exclave/extension-end/v1"
MAX_KEYS = 10_000
"""In one list, so that it fits into an entry of the journal; further keys stand in further lists."""
MAX_EXCEPTIONS = 5_000
MAX_LIST_CHARS = 1_000_000
MAX_LENGTH_S = 3 * 366 * 86_400
"""No list accepts a certificate for longer than about three years after its end."""
_SERIAL = re.compile(r"(0|[1-9a-f][0-9a-f]{0,39})\Z")
Value = TypeVar("Value", Digest, int)


@dataclass(frozen=True, slots=True)
class EndedBetween:
    """Certificates whose notAfter lies from ``first`` to ``last``, both included."""

    first: Instant
    last: Instant


@dataclass(frozen=True, slots=True)
class ExtensionList:
    """A list whose form is right; the warrant that ordered it is checked where it is entered."""

    state: Fingerprint
    issuer: Digest
    """``crypto.crl.issuer_id``."""
    not_before: Instant
    not_after: Instant
    """The last moment at which the list still counts."""
    until: Instant
    """The last moment at which it lets any certificate pass."""
    reason: str
    basis: str
    rule: EndedBetween | None = None
    exceptions: frozenset[int] = frozenset()
    """Serials that ``rule`` does not cover."""
    keys: frozenset[Digest] = frozenset()
    """SHA-256 of SubjectPublicKeyInfo (DER)."""

    def encode(self) -> str:
        rule = [] if self.rule is None else [f"rule {instant_text(self.rule.first)} {instant_text(self.rule.last)}"]
        lines = [
            HEADER,
            f"state {self.state}",
            f"issuer {self.issuer.hex()}",
            f"not-before {instant_text(self.not_before)}",
            f"not-after {instant_text(self.not_after)}",
            f"until {instant_text(self.until)}",
            f"reason {self.reason}",
            f"basis {self.basis}",
            *rule,
            *(f"except {serial_text(serial)}" for serial in sorted(self.exceptions)),
            *(f"key {key.hex()}" for key in sorted(self.keys)),
        ]
        return "\n".join(lines) + "\n"

    @property
    def digest(self) -> Digest:
        """SHA-256 of the text: what the warrant names, and by which the list is ended."""
        return sha256(self.encode().encode())


@dataclass(frozen=True, slots=True)
class ExtensionEnd:
    """The order that a list counts no longer, from the moment at which it is entered."""

    state: Fingerprint
    list: Digest
    reason: str

    def encode(self) -> str:
        return f"{END_HEADER}\nstate {self.state}\nlist {self.list.hex()}\nreason {self.reason}\n"


def parse_extension(text: str) -> ExtensionList:
    """Strict inverse of ``ExtensionList.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="extension list", limit=MAX_LIST_CHARS)
    lines.exactly(HEADER)
    found = ExtensionList(
        state=parse_fingerprint(lines.field("state")),
        issuer=parse_digest(lines.field("issuer")),
        not_before=parse_instant(lines.field("not-before")),
        not_after=parse_instant(lines.field("not-after")),
        until=parse_instant(lines.field("until")),
        reason=plain_text(lines.fields("reason", 1, rest=True)[0]),
        basis=plain_text(lines.fields("basis", 1, rest=True)[0]),
        rule=_rule(lines),
        exceptions=frozenset(_sorted(lines, "except", parse_serial, MAX_EXCEPTIONS)),
        keys=frozenset(_sorted(lines, "key", parse_digest, MAX_KEYS)),
    )
    lines.end()
    _check(found)
    if found.encode() != text:
        raise MalformedError("an extension list is not in its one canonical form")
    return found


def parse_extension_end(text: str) -> ExtensionEnd:
    """Strict inverse of ``ExtensionEnd.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="end of an extension list", limit=2000)
    lines.exactly(END_HEADER)
    found = ExtensionEnd(
        parse_fingerprint(lines.field("state")),
        parse_digest(lines.field("list")),
        plain_text(lines.fields("reason", 1, rest=True)[0]),
    )
    lines.end()
    if found.encode() != text:
        raise MalformedError("the end of an extension list is not in its one canonical form")
    return found


def serial_text(serial: int) -> str:
    """A certificate's number in lower-case hex without leading zeros; zero is ``0``."""
    return f"{serial:x}"


def parse_serial(text: str) -> int:
    """Strict inverse of ``serial_text``, 0 to 2^160 - 1."""
    if not _SERIAL.match(text):
        raise MalformedError(f"a serial has 1 to 40 lower-case hex digits without leading zeros, not {text[:60]!r}")
    return int(text, 16)


def _rule(lines: LineReader) -> EndedBetween | None:
    if lines.peek() != "rule":
        return None
    first, last = lines.fields("rule", 2)
    return EndedBetween(parse_instant(first), parse_instant(last))


def _sorted(lines: LineReader, keyword: str, parse: Callable[[str], Value], limit: int) -> list[Value]:
    found: list[Value] = []
    while lines.peek() == keyword:
        found.append(parse(lines.field(keyword)))
        if len(found) > limit:
            raise lines.fail(f"more than {limit} lines {keyword!r}")
    if any(a >= b for a, b in pairwise(found)):
        raise lines.fail(f"the lines {keyword!r} must be sorted and different")
    return found


def _check(found: ExtensionList) -> None:
    if found.not_before >= found.not_after or found.until <= found.not_before:
        raise MalformedError("an extension list ends before it begins")
    if found.rule is None:
        if found.exceptions:
            raise MalformedError("an extension list makes exceptions from no rule")
        if not found.keys:
            raise MalformedError("an extension list names neither keys nor a rule")
        return
    if found.rule.first > found.rule.last:
        raise MalformedError("an extension list's rule ends before it begins")
    if found.until - found.rule.first > MAX_LENGTH_S * 1_000_000:
        raise MalformedError("an extension list accepts certificates for more than three years after their end")

"""Warrants: orders that let one act happen at one place, on one machine, for a time. Page: ``docs/spec/warrant.md``.

::

    exclave/warrant/v1
    state <fingerprint>
    charter <sha256 of the newest charter's text>
    act restore | drill | failover | failback | delete | rekey | revoke | hold | release | extend | reissue
    register <id>                                              1 or more, sorted
    place <site label>
    machine <card sha256>
    object none | object <sha256>                              the exact order file that the custodians saw
    not-before <instant>
    not-after <instant>
    reason <free text>
    nonce <32 hex digits>

The machine signs it as a request; the custodians' signatures make it an order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader, plain_text
from exclave.ids import (
    Digest,
    Fingerprint,
    Instant,
    Label,
    RegisterId,
    instant_text,
    parse_digest,
    parse_fingerprint,
    parse_instant,
    parse_label,
    parse_register_id,
    sha256,
)

HEADER = "exclave/warrant/v1"
MAX_REGISTERS = 500
"""So that an answer with one share for each of them still fits into a note."""
MAX_WARRANT_CHARS = 32 << 10
_NONCE = re.compile(r"[0-9a-f]{32}\Z")


class Act(StrEnum):
    """What a warrant may allow."""

    RESTORE = "restore"
    DRILL = "drill"
    FAILOVER = "failover"
    FAILBACK = "failback"
    DELETE = "delete"
    REKEY = "rekey"
    REVOKE = "revoke"
    HOLD = "hold"
    RELEASE = "release"
    EXTEND = "extend"
    REISSUE = "reissue"


IDENTITY_ACTS = frozenset({Act.REVOKE, Act.HOLD, Act.RELEASE, Act.EXTEND, Act.REISSUE})
"""Decisions about certificates, entered into the identity journal."""
STANDING_ACTS = frozenset({Act.REVOKE, Act.HOLD})
"""May be allowed without an object, for the warrant's time: they only take trust away, and must not wait."""
OBJECT_ACTS = IDENTITY_ACTS | {Act.DELETE}
"""Carry out an order file: what is to be done stands there, and the warrant names it by its SHA-256."""
SHARELESS_ACTS = IDENTITY_ACTS | {Act.DELETE}
"""Open nothing, so custodians send no shares."""


@dataclass(frozen=True, slots=True)
class ParsedWarrant:
    """A warrant whose form is right and whose signatures nobody has checked yet."""

    state: Fingerprint
    charter: Digest
    act: Act
    registers: tuple[RegisterId, ...]
    place: Label
    machine: Digest
    """Digest of the key card to which shares are re-sealed, and which becomes the writer of a new epoch."""
    object: Digest | None
    """SHA-256 of the order file that the custodians saw. None: the act needs none, or it is a standing order."""
    not_before: Instant
    not_after: Instant
    """The last moment at which it still holds."""
    reason: str
    nonce: str

    def encode(self) -> str:
        lines = [
            HEADER,
            f"state {self.state}",
            f"charter {self.charter.hex()}",
            f"act {self.act}",
            *(f"register {register}" for register in self.registers),
            f"place {self.place}",
            f"machine {self.machine.hex()}",
            f"object {'none' if self.object is None else self.object.hex()}",
            f"not-before {instant_text(self.not_before)}",
            f"not-after {instant_text(self.not_after)}",
            f"reason {self.reason}",
            f"nonce {self.nonce}",
        ]
        return "\n".join(lines) + "\n"

    @property
    def digest(self) -> Digest:
        """SHA-256 of the text."""
        return sha256(self.encode().encode())


def parse_warrant(text: str) -> ParsedWarrant:
    """Strict inverse of ``ParsedWarrant.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="warrant", limit=MAX_WARRANT_CHARS)
    lines.exactly(HEADER)
    warrant = ParsedWarrant(
        state=parse_fingerprint(lines.field("state")),
        charter=parse_digest(lines.field("charter")),
        act=_act(lines),
        registers=_registers(lines),
        place=parse_label(lines.field("place")),
        machine=parse_digest(lines.field("machine")),
        object=_object(lines),
        not_before=parse_instant(lines.field("not-before")),
        not_after=parse_instant(lines.field("not-after")),
        reason=plain_text(lines.fields("reason", 1, rest=True)[0]),
        nonce=lines.field("nonce"),
    )
    lines.end()
    if not _NONCE.match(warrant.nonce):
        raise MalformedError("warrant: a nonce has 32 lower-case hex digits")
    if warrant.not_before >= warrant.not_after:
        raise MalformedError("warrant: it ends before it begins")
    check_object(warrant.act, warrant.object)
    if warrant.encode() != text:
        raise MalformedError("a warrant is not in its one canonical form")
    return warrant


def check_object(act: Act, object: Digest | None) -> None:
    """``MalformedError`` if a warrant to ``act`` must name an order file and names none, or the other way round."""
    if object is None and act in OBJECT_ACTS - STANDING_ACTS:
        raise MalformedError(f"a warrant to {act} must name the order file that the custodians saw")
    if object is not None and act not in OBJECT_ACTS:
        raise MalformedError(f"a warrant to {act} has no order file")


def _object(lines: LineReader) -> Digest | None:
    value = lines.field("object")
    return None if value == "none" else parse_digest(value)


def _act(lines: LineReader) -> Act:
    value = lines.field("act")
    try:
        return Act(value)
    except ValueError as error:
        raise lines.fail(f"{value[:40]!r} is no act") from error


def _registers(lines: LineReader) -> tuple[RegisterId, ...]:
    found: list[RegisterId] = []
    while lines.peek() == "register" and len(found) <= MAX_REGISTERS:
        found.append(parse_register_id(lines.field("register")))
    if not 1 <= len(found) <= MAX_REGISTERS:
        raise lines.fail(f"needs 1 to {MAX_REGISTERS} registers")
    if any(a >= b for a, b in pairwise(found)):
        raise lines.fail("registers must be sorted and different")
    return tuple(found)

"""Facts: what happened to a register, besides its versions, as entries of its ledger. Page: ``docs/spec/leaf.md``.

::

    exclave/fact/v1
    register <id>
    epoch <n>
    time <instant>
    kind <label>
    warrant none | warrant <sha256 of the warrant's text>
    say <free text>                                           (0 to 20)

Facts are public: no names of persons, no secrets, no register names that are not public anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader, plain_text, text_of
from exclave.formats.tile import MAX_ENTRY_BYTES
from exclave.ids import (
    Digest,
    Epoch,
    Instant,
    Label,
    RegisterId,
    instant_text,
    parse_digest,
    parse_instant,
    parse_label,
    parse_positive,
    parse_register_id,
)

HEADER = "exclave/fact/v1"
MAX_SAY_LINES = 20
MAX_SAY_CHARS = 500


@dataclass(frozen=True, slots=True)
class Fact:
    """One event of ``kind``, at ``time``, under ``warrant`` (its text's SHA-256) if it needed one."""

    register: RegisterId
    epoch: Epoch
    time: Instant
    kind: Label
    warrant: Digest | None = None
    say: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """At most 4096 bytes; ``MalformedError`` if it would be more."""
        warrant = "none" if self.warrant is None else self.warrant.hex()
        text = (
            f"{HEADER}\nregister {self.register}\nepoch {self.epoch}\ntime {instant_text(self.time)}\n"
            f"kind {self.kind}\nwarrant {warrant}\n"
        )
        data = (text + "".join(f"say {plain_text(line, limit=MAX_SAY_CHARS)}\n" for line in self.say)).encode()
        if len(self.say) > MAX_SAY_LINES or len(data) > MAX_ENTRY_BYTES:
            raise MalformedError(f"a fact has at most {MAX_SAY_LINES} lines and {MAX_ENTRY_BYTES} bytes")
        return data


def parse_fact(data: bytes) -> Fact:
    """Strict inverse of ``Fact.encode``. Raises ``MalformedError``."""
    lines = LineReader(entry_text(data), what="fact", limit=MAX_ENTRY_BYTES)
    lines.exactly(HEADER)
    register = parse_register_id(lines.field("register"))
    epoch = Epoch(parse_positive(lines.field("epoch")))
    time = parse_instant(lines.field("time"))
    kind = parse_label(lines.field("kind"))
    named = lines.field("warrant")
    warrant = None if named == "none" else parse_digest(named)
    say: list[str] = []
    while lines.peek() == "say" and len(say) < MAX_SAY_LINES:
        say.append(plain_text(lines.fields("say", 1, rest=True)[0], limit=MAX_SAY_CHARS))
    lines.end()
    fact = Fact(register, epoch, time, kind, warrant, tuple(say))
    if fact.encode() != data:
        raise MalformedError("a fact is not in its one canonical form")
    return fact


def entry_text(data: bytes) -> str:
    """A ledger entry as text. Raises ``MalformedError`` if it is too long or not UTF-8."""
    return text_of(data, MAX_ENTRY_BYTES, "a ledger entry")

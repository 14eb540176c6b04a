"""The revocation gap: what an embassy that took over cannot know, said in public. Page: ``docs/spec/statements.md``.

::

    exclave/gap/v1
    state <fingerprint>
    register <id>
    epoch <n>                          the embassy's
    place <label>
    warrant <sha256 of the warrant's text>
    last-entry <number> <instant>      the last decision of home that is known here, and when it was made
    complete-until <instant>           every decision that home made before it is known here
    lost <instant>                     when home was lost, as far as is known
    authority-from <instant>           from when this place decides
    gap-s <seconds>                    from complete-until to lost; 0 if nothing can be missing
    say <free text>                    what to do (1 to 20)

A note, signed by the writer of the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader, plain_text
from exclave.ids import (
    Digest,
    Epoch,
    Fingerprint,
    Instant,
    Label,
    RegisterId,
    instant_text,
    parse_count,
    parse_digest,
    parse_fingerprint,
    parse_instant,
    parse_label,
    parse_positive,
    parse_register_id,
)

HEADER = "exclave/gap/v1"
MAX_GAP_CHARS = 16 << 10
MAX_SAY_LINES = 20


@dataclass(frozen=True, slots=True)
class GapStatement:
    """One take-over. Its form is right; who signed it is for the reader to check."""

    state: Fingerprint
    register: RegisterId
    epoch: Epoch
    place: Label
    warrant: Digest
    last_number: int
    last_time: Instant
    """0 with number 0: nothing was ever replicated."""
    complete_until: Instant
    lost: Instant
    authority_from: Instant
    say: tuple[str, ...]

    @property
    def gap_s(self) -> int:
        """Whole seconds, rounded up, in which home may have decided what nobody here knows."""
        return max(0, -((self.complete_until - self.lost) // 1_000_000))

    def encode(self) -> str:
        head = (
            f"{HEADER}\nstate {self.state}\nregister {self.register}\nepoch {self.epoch}\nplace {self.place}\n"
            f"warrant {self.warrant.hex()}\nlast-entry {self.last_number} {instant_text(self.last_time)}\n"
            f"complete-until {instant_text(self.complete_until)}\nlost {instant_text(self.lost)}\n"
            f"authority-from {instant_text(self.authority_from)}\ngap-s {self.gap_s}\n"
        )
        return head + "".join(f"say {plain_text(line)}\n" for line in self.say)


def parse_gap(text: str) -> GapStatement:
    """Strict inverse of ``GapStatement.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="gap statement", limit=MAX_GAP_CHARS)
    lines.exactly(HEADER)
    state = parse_fingerprint(lines.field("state"))
    register = parse_register_id(lines.field("register"))
    epoch = Epoch(parse_positive(lines.field("epoch"), limit=2**32 - 1))
    place = parse_label(lines.field("place"))
    warrant = parse_digest(lines.field("warrant"))
    number, time = lines.fields("last-entry", 2)
    found = GapStatement(
        state, register, epoch, place, warrant, parse_count(number, limit=2**53 - 1), parse_instant(time),
        parse_instant(lines.field("complete-until")), parse_instant(lines.field("lost")),
        parse_instant(lines.field("authority-from")), _say(lines),
    )  # fmt: skip
    lines.end()
    if not found.say or found.encode() != text:
        raise MalformedError("a gap statement is not in its one canonical form")
    return found


def _say(lines: LineReader) -> tuple[str, ...]:
    parse_count(lines.field("gap-s"))  # compared when the whole is encoded again
    said: list[str] = []
    while lines.peek() == "say" and len(said) < MAX_SAY_LINES:
        said.append(plain_text(lines.fields("say", 1, rest=True)[0]))
    return tuple(said)

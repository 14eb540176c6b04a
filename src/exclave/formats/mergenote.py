"""What home took in when it came back, in numbers, said in public. Page: ``docs/spec/statements.md``.

::

    exclave/merge/v1
    state <fingerprint>
    register <id>
    epoch <n>                          home's new one
    place <label>
    warrant <sha256 of the warrant's text>
    time <instant>
    fork <number> <sha256>             the last entry that home and exile share, and its chain
    exile-entries <n>                  what was decided in exile since then
    home-entries <n>                   what home had entered since then, and nobody abroad knew
    taken <n>                          of these, entered again
    listed <n>                         differences that people have to look at
    report <sha256>                    of the whole report, which stays at home: it names certificates

A note, signed by the writer of the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.journal import Head
from exclave.formats.lines import LineReader
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

HEADER = "exclave/merge/v1"


@dataclass(frozen=True, slots=True)
class MergeNote:
    """One return. Its form is right; who signed it is for the reader to check."""

    state: Fingerprint
    register: RegisterId
    epoch: Epoch
    place: Label
    warrant: Digest
    time: Instant
    fork: Head
    exile_entries: int
    home_entries: int
    taken: int
    listed: int
    report: Digest

    def encode(self) -> str:
        return (
            f"{HEADER}\nstate {self.state}\nregister {self.register}\nepoch {self.epoch}\nplace {self.place}\n"
            f"warrant {self.warrant.hex()}\ntime {instant_text(self.time)}\n"
            f"fork {self.fork.number} {self.fork.chain.hex()}\nexile-entries {self.exile_entries}\n"
            f"home-entries {self.home_entries}\ntaken {self.taken}\nlisted {self.listed}\nreport {self.report.hex()}\n"
        )


def parse_merge(text: str) -> MergeNote:
    """Strict inverse of ``MergeNote.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="merge note", limit=4096)
    lines.exactly(HEADER)
    state = parse_fingerprint(lines.field("state"))
    register = parse_register_id(lines.field("register"))
    epoch = Epoch(parse_positive(lines.field("epoch"), limit=2**32 - 1))
    place, warrant = parse_label(lines.field("place")), parse_digest(lines.field("warrant"))
    time = parse_instant(lines.field("time"))
    number, chain = lines.fields("fork", 2)
    counts = [parse_count(lines.field(name)) for name in ("exile-entries", "home-entries", "taken", "listed")]
    report = parse_digest(lines.field("report"))
    lines.end()
    fork = Head(parse_count(number, limit=2**53 - 1), parse_digest(chain))
    found = MergeNote(state, register, epoch, place, warrant, time, fork, counts[0], counts[1], counts[2], counts[3],
                      report)  # fmt: skip
    if found.encode() != text:
        raise MalformedError("a merge note is not in its one canonical form")
    return found

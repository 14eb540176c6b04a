"""What a state says in public about its data: up to when it is safe, and who looked. Page: ``docs/spec/statement.md``.

::

    exclave/statement/v1
    state <fingerprint>
    name <the state's name>
    charter <n> <sha256 of the charter's text>
    verified <instant>                                  when the sites had been read
    next-by <instant>                                   a later statement is made by then; within 31 days
    signer witness | custodian | writer <label> <card sha256>
    sample <n>                                          packs of each version that were read whole at each site
    public <register> <rpo s> <copies> <countries> <sequence> <instant> <leaf sha256> <title>        0 or more, sorted
    sealed <register> <rpo s> <copies> <countries> <sequence> <instant> <leaf sha256>                0 or more, sorted
    sealed-total <registers> <within rpo> <copies> <countries> <instant>                             0 or 1

A note. ``public`` and ``sealed``: the newest version that the register's placement rule is met for; of a register that
has none, zeros. ``sealed-total``: all sealed registers together: how many, how many of them are within their RPO, the
fewest copies and countries of any, and the oldest moment; zeros if one of them has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from exclave.errors import MalformedError
from exclave.formats.charter import MAX_REGISTERS, MAX_SECONDS, MAX_SITES
from exclave.formats.leaf import MAX_SEQUENCE
from exclave.formats.lines import LineReader, plain_text
from exclave.formats.note import MAX_NOTE_BYTES
from exclave.ids import (
    Digest,
    Fingerprint,
    Instant,
    Label,
    RegisterId,
    Sequence,
    instant_text,
    parse_count,
    parse_digest,
    parse_fingerprint,
    parse_instant,
    parse_label,
    parse_positive,
    parse_register_id,
)

HEADER = "exclave/statement/v1"
MAX_STATEMENT_CHARS = MAX_NOTE_BYTES - (16 << 10)
MAX_SAMPLE = 10_000
MAX_NEXT_US = 31 * 86_400 * 1_000_000
"""No statement is a present one for longer: who stole a key must not speak for years."""
_NO_LEAF = Digest(bytes(32))


class Role(StrEnum):
    """What makes the signer somebody whom the charter knows."""

    WITNESS = "witness"
    CUSTODIAN = "custodian"
    WRITER = "writer"


@dataclass(frozen=True, slots=True)
class RegisterLine:
    """One register. All zero but ``rpo_s``: nothing of it is safe by its rule."""

    register: RegisterId
    rpo_s: int
    copies: int
    countries: int
    sequence: Sequence
    time: Instant
    """The moment whose state that version holds."""
    leaf: Digest
    """SHA-256 of the version's ledger entry."""
    title: str | None = None
    """Of a public register; None: it is sealed."""

    def encode(self) -> str:
        word, title = ("sealed", "") if self.title is None else ("public", f" {self.title}")
        return (
            f"{word} {self.register} {self.rpo_s} {self.copies} {self.countries} {self.sequence}"
            f" {instant_text(self.time)} {self.leaf.hex()}{title}\n"
        )


@dataclass(frozen=True, slots=True)
class SealedTotal:
    """All sealed registers together."""

    registers: int
    within_rpo: int
    copies: int
    """The fewest that any of them has; 0 if one has none."""
    countries: int
    time: Instant
    """Up to this moment all of them are safe; 0: not all are."""

    def encode(self) -> str:
        numbers = f"{self.registers} {self.within_rpo} {self.copies} {self.countries}"
        return f"sealed-total {numbers} {instant_text(self.time)}\n"


@dataclass(frozen=True, slots=True)
class PublicStatement:
    """One statement. Its form is right; who signed it and whether it is true is for the reader to check."""

    state: Fingerprint
    name: str
    charter: int
    charter_digest: Digest
    verified: Instant
    next_by: Instant
    role: Role
    signer: Label
    card: Digest
    sample: int
    lines: tuple[RegisterLine, ...]
    """Public ones first."""
    total: SealedTotal | None

    def encode(self) -> str:
        head = (
            f"{HEADER}\nstate {self.state}\nname {self.name}\ncharter {self.charter} {self.charter_digest.hex()}\n"
            f"verified {instant_text(self.verified)}\nnext-by {instant_text(self.next_by)}\n"
            f"signer {self.role} {self.signer} {self.card.hex()}\nsample {self.sample}\n"
        )
        total = self.total.encode() if self.total is not None else ""
        return head + "".join(line.encode() for line in self.lines) + total


def parse_public_statement(text: str) -> PublicStatement:
    """Strict inverse of ``PublicStatement.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="statement", limit=MAX_STATEMENT_CHARS)
    lines.exactly(HEADER)
    state = parse_fingerprint(lines.field("state"))
    name = plain_text(lines.fields("name", 1, rest=True)[0], limit=200)
    number, digest = lines.fields("charter", 2)
    verified, next_by = parse_instant(lines.field("verified")), parse_instant(lines.field("next-by"))
    role, signer, card = lines.fields("signer", 3)
    if role not in set(Role):
        raise lines.fail("the signer is a witness, a custodian or a writer")
    sample = parse_count(lines.field("sample"), limit=MAX_SAMPLE)
    found = PublicStatement(
        state, name, parse_positive(number, limit=99_999_999), parse_digest(digest), verified, next_by, Role(role),
        parse_label(signer), parse_digest(card), sample, (*_registers(lines, "public"), *_registers(lines, "sealed")),
        _total(lines),
    )  # fmt: skip
    lines.end()
    if next_by <= verified:
        raise MalformedError("a statement: the next one would be made before it")
    if next_by - verified > MAX_NEXT_US:
        raise MalformedError("a statement: the next one would come more than 31 days after it")
    if found.encode() != text:
        raise MalformedError("a statement is not in its one canonical form")
    return found


def _registers(lines: LineReader, word: str) -> tuple[RegisterLine, ...]:
    found: list[RegisterLine] = []
    while lines.peek() == word and len(found) < MAX_REGISTERS:
        register, rpo, copies, countries, sequence, time, last, *title = (
            lines.fields(word, 8, rest=True) if word == "public" else lines.fields(word, 7)
        )
        line = RegisterLine(
            parse_register_id(register), parse_positive(rpo, limit=MAX_SECONDS), parse_count(copies, limit=MAX_SITES),
            parse_count(countries, limit=MAX_SITES), Sequence(parse_count(sequence, limit=MAX_SEQUENCE)),
            parse_instant(time), parse_digest(last), plain_text(title[0], limit=200) if title else None,
        )  # fmt: skip
        zeros = (line.copies == 0, line.countries == 0, line.sequence == 0, line.time == 0, line.leaf == _NO_LEAF)
        if len(set(zeros)) != 1 or line.countries > line.copies:
            raise lines.fail("it says something and nothing of one register, or more countries than copies")
        found.append(line)
    if any(a.register >= b.register for a, b in pairwise(found)):
        raise MalformedError("a statement: registers must be sorted and different")
    return tuple(found)


def _total(lines: LineReader) -> SealedTotal | None:
    if lines.peek() != "sealed-total":
        return None
    registers, within, copies, countries, time = lines.fields("sealed-total", 5)
    total = SealedTotal(
        parse_positive(registers, limit=MAX_REGISTERS), parse_count(within, limit=MAX_REGISTERS),
        parse_count(copies, limit=MAX_SITES), parse_count(countries, limit=MAX_SITES), parse_instant(time),
    )  # fmt: skip
    zeros = (total.copies == 0, total.countries == 0, total.time == 0)
    if len(set(zeros)) != 1 or total.within_rpo > total.registers or total.countries > total.copies:
        raise lines.fail("its numbers contradict each other")
    return total

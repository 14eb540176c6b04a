"""From verdicts to a statement: nothing goes in but what the watch found, so it cannot say more than that. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from exclave.errors import NotAuthorised, UsageError
from exclave.formats.card import Card
from exclave.formats.charter import ParsedCharter
from exclave.formats.publicstatement import MAX_NEXT_US, PublicStatement, RegisterLine, Role, SealedTotal
from exclave.ids import Digest, Fingerprint, Instant, Label
from exclave.ids import Sequence as VersionNumber
from exclave.rules.watch import RegisterVerdict

SealedShown = Literal["total", "each", "none"]
"""What is said of sealed registers: all together, one by one under their ids, or nothing."""
_NOTHING = Digest(bytes(32))


def role_of(charter: ParsedCharter, writers: Iterable[Card], card: Card) -> Role:
    """Why ``card``'s holder may speak: the charter names him. ``NotAuthorised`` if it does not.

    ``writers``: those of the registers' newest epochs.
    """
    if any(w.card == card.digest and w.label == card.name for w in charter.witnesses):
        return Role.WITNESS
    if any(c.card == card.digest and c.label == card.name for c in charter.custodians):
        return Role.CUSTODIAN
    if any(w.digest == card.digest for w in writers):
        return Role.WRITER
    raise NotAuthorised(
        f"the charter in force does not know the key of {card.name}",
        hint="Sign with the key of a witness, a custodian or a register's writer; nobody else would be believed.",
    )


def statement_of(
    state: Fingerprint,
    charter: ParsedCharter,
    verdicts: Sequence[RegisterVerdict],
    *,
    verified: Instant,
    next_by: Instant,
    role: Role,
    signer: Label,
    card: Digest,
    sample: int,
    sealed: SealedShown = "total",
) -> PublicStatement:
    """What is true of all registers of ``charter`` by ``verdicts``, found by a look that ended at ``verified``.

    ``UsageError`` if a register has no verdict: a statement is about all of them.
    """
    if {v.register for v in verdicts} != {r.id for r in charter.registers}:
        raise UsageError("not every register was looked at; a statement is about all of them")
    if next_by <= verified:
        raise UsageError("the next statement must come after this one")
    if next_by - verified > MAX_NEXT_US:
        raise UsageError("the next statement must come within 31 days")
    by_id = sorted(verdicts, key=lambda verdict: verdict.register)
    hidden = [v for v in by_id if v.public_name is None]
    lines = [_line(v) for v in by_id if v.public_name is not None]
    lines += [_line(v) for v in hidden] if sealed == "each" else []
    total = _total(hidden, verified) if sealed == "total" and hidden else None
    return PublicStatement(
        state, charter.state_name, charter.number, charter.digest, verified, next_by, role, signer, card, sample,
        tuple(lines), total,
    )  # fmt: skip


def _line(verdict: RegisterVerdict) -> RegisterLine:
    if not verdict.time or verdict.leaf is None:
        nothing = (0, 0, VersionNumber(0), Instant(0), _NOTHING)
        return RegisterLine(verdict.register, verdict.rpo_s, *nothing, verdict.public_name)
    return RegisterLine(
        verdict.register, verdict.rpo_s, verdict.copies, verdict.countries, verdict.sequence, verdict.time,
        verdict.leaf, verdict.public_name,
    )  # fmt: skip


def _total(hidden: Sequence[RegisterVerdict], verified: Instant) -> SealedTotal:
    within = sum(is_within(v.time, v.rpo_s, verified) for v in hidden)
    if not all(v.time for v in hidden):
        return SealedTotal(len(hidden), within, 0, 0, Instant(0))
    return SealedTotal(
        len(hidden),
        within,
        min(v.copies for v in hidden),
        min(v.countries for v in hidden),
        min(v.time for v in hidden),
    )


def is_within(time: Instant, rpo_s: int, verified: Instant) -> bool:
    """Whether data up to ``time`` is not older than the RPO at ``verified``."""
    return time != 0 and verified - time <= rpo_s * 1_000_000

"""Whether an order to delete may be carried out now, from what is public. Pure; page: ``docs/spec/deletion.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from exclave.formats.charter import CharterRegister
from exclave.formats.deletion import DeletionOrder, Objection
from exclave.ids import Digest, Instant, Label, instant_text
from exclave.rules.charters import VerifiedCharter
from exclave.rules.retention import Made, Standing, decide, terms_of


class OrderState(StrEnum):
    """How far an order is."""

    WAITING = "waiting"
    """It lies open, and its delay is not over."""
    DUE = "due"
    """It may be carried out."""
    STOPPED = "stopped"
    """Objected to, a legal hold, retention, or what is known is not enough."""
    DONE = "done"
    """The ledger says that it was carried out."""
    VOID = "void"
    """A later epoch has another writer, who never agreed to leave these packs alone."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``judge_order`` says."""

    state: OrderState
    why: str
    """One sentence for people."""
    due: Instant | None
    """When the delay ends; None if it has not begun."""


@dataclass(frozen=True, slots=True)
class Before:
    """Everything that an order is judged by."""

    versions: Sequence[Made]
    """All that exist, in the ledger's order, the ordered ones among them."""
    charters: Sequence[tuple[int, CharterRegister]]
    """Number and block of each charter that lists the register."""
    objectors: frozenset[Label]
    """Custodians who object to this order."""
    holders: frozenset[Label]
    """Custodians who object to every order, under the newest charter."""
    public_since: Instant | None
    """Since when the order lies open, by clocks that whoever gives it does not set; None if it does not."""


def judge_order(order: DeletionOrder, before: Before, now: Instant) -> Verdict:
    """Whether ``order`` may be carried out at ``now``: (1) legal hold, (2) retention, (3) objections, (4) the delay.

    The delay is the longest and the objections are the fewest that any charter has asked for since the oldest ordered
    version was made, and no less than the order itself says.
    """
    charters = before.charters
    if not charters:
        return Verdict(OrderState.STOPPED, "no charter lists the register", None)
    wanted = {version.sequence for version in order.versions}
    oldest = min((made.charter for made in before.versions if made.sequence in wanted), default=1)
    delay_s, objections = terms_of(charters, oldest)
    delay_s, objections = max(delay_s, order.delay_s), min(objections, order.objections)
    due = None if before.public_since is None else Instant(before.public_since + delay_s * 1_000_000)
    hold = charters[-1][1].hold
    if hold is not None:  # (1)
        return Verdict(OrderState.STOPPED, f"legal hold by the charter: {hold}", due)
    if len(before.holders) >= objections:
        return Verdict(OrderState.STOPPED, f"legal hold by {', '.join(sorted(before.holders))}", due)
    kept = first_kept(decide(before.versions, charters, now), wanted)  # (2)
    if kept is not None:
        until = "" if kept.rule == "newest" else f" until {instant_text(kept.until)}"
        return Verdict(OrderState.STOPPED, f"version {kept.version.sequence} is kept{until} (rule: {kept.rule})", due)
    if len(before.objectors) >= objections:  # (3)
        return Verdict(OrderState.STOPPED, f"objected to by {', '.join(sorted(before.objectors))}", due)
    if due is None:  # (4)
        return Verdict(OrderState.WAITING, "it does not lie open yet, so its delay has not begun", None)
    if now < due:
        return Verdict(OrderState.WAITING, f"it may be carried out from {instant_text(due)} on", due)
    return Verdict(OrderState.DUE, f"its delay ended at {instant_text(due)}", due)


def first_kept(standings: Iterable[Standing], wanted: Iterable[int]) -> Standing | None:
    """The first of the versions ``wanted`` that is still kept, or None."""
    names = set(wanted)
    return next((s for s in standings if s.version.sequence in names and s.kept), None)


def objecting(
    objections: Iterable[Objection], order: Digest, under: VerifiedCharter, newest: VerifiedCharter
) -> tuple[frozenset[Label], frozenset[Label]]:
    """Who of those whose signatures were verified objects to ``order``, and who to all orders.

    Heard are the custodians of the charter ``under`` which its warrant was given and those of the ``newest`` one.
    Against all orders counts what was said under the newest charter: a later one is the quorum's word on it.
    """
    heard = {c.label for c in (*under.charter.custodians, *newest.charter.custodians)}
    now = {c.label for c in newest.charter.custodians}
    found = list(objections)
    against = frozenset(o.custodian for o in found if o.order == order and o.custodian in heard)
    everything = frozenset(
        o.custodian for o in found if o.order is None and o.custodian in now and o.charter == newest.digest
    )
    return against, everything

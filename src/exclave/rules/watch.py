"""What the evidence at the sites means: for each register and site, and for each register as a whole. Pure.

Evidence is what was found *there* and proven, and when. Nothing else goes in: no word of the writer's about his
shipping, no cache of home. A cell (register × site) has one state, the first of these that fits:

=============== ================================================================================================
damaged         the site was read, and what it shows is not whole, not true, or less than it showed before
unknown         it could not be read now, or what was proven there was proven too long ago
late            it holds no version, or the last one that was proven there is older than the RPO
ahead-of-clock  that version's time lies in the future: it proves nothing about its age
fresh           it holds a proven version that is not older than the RPO
=============== ================================================================================================

A register as a whole is judged by its placement rule: by the newest moment whose state is held, proven, by enough sites
in enough countries, under enough administrators. A damaged or unread site counts as no copy, nor does one whose lease
or legal basis has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from exclave.formats.charter import CharterRegister, ParsedCharter
from exclave.ids import Country, Digest, Instant, Label, RegisterId, instant_text
from exclave.ids import Sequence as VersionNumber
from exclave.rules.placement import placement_of

CLOCK_TOLERANCE_US = 5 * 60 * 1_000_000
"""So much may the writer's clock be ahead of the watch's."""
_US = 1_000_000


class State(StrEnum):
    """Of a cell or a register; in order of badness."""

    FRESH = "fresh"
    UNKNOWN = "unknown"
    LATE = "late"
    AHEAD = "ahead-of-clock"
    DAMAGED = "damaged"


_BADNESS = {state: place for place, state in enumerate(State)}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one register at one site."""

    site: Label
    sequence: VersionNumber = VersionNumber(0)
    """The newest version whose objects were found there; 0: none."""
    time: Instant = Instant(0)
    """The moment whose state that version holds."""
    proven: Instant = Instant(0)
    """When its objects were last found there; 0: never."""
    silent: str = ""
    """Why it could not be read now; empty if it was."""
    wrong: str = ""
    """What it shows that is not whole or not true; empty if nothing."""
    leaf: Digest | None = None
    """SHA-256 of that version's ledger entry: which version it is, whatever else bears its number."""


@dataclass(frozen=True, slots=True)
class Before:
    """The state that a cell or register had when it was last judged, and since when."""

    state: State
    since: Instant


@dataclass(frozen=True, slots=True)
class Cell:
    """One register at one site, judged."""

    site: Label
    country: Country
    state: State
    since: Instant
    """Since when it is in this state, as far as is known."""
    sequence: VersionNumber
    time: Instant
    age_s: int | None
    """Age of the state that the last proven version there holds; None: there is none. Negative: it lies ahead."""
    proven: Instant
    why: str
    """In words; empty if fresh."""
    leaf: Digest | None = None


@dataclass(frozen=True, slots=True)
class RegisterVerdict:
    """One register over its sites."""

    register: RegisterId
    public_name: str | None
    rpo_s: int
    state: State
    since: Instant
    sequence: VersionNumber
    """The newest version that the placement rule's sites hold, it or a later one; 0: none."""
    time: Instant
    """The moment up to which the register is safe by its rule; 0: there is none."""
    age_s: int | None
    copies: int
    """Sites that hold it, proven; and in how many countries they lie."""
    countries: int
    why: str
    cells: tuple[Cell, ...]
    leaf: Digest | None = None
    """Of that version: the SHA-256 of its ledger entry."""

    @property
    def worst(self) -> State:
        """The worst state of the register and its cells."""
        return max((self.state, *(cell.state for cell in self.cells)), key=_BADNESS.__getitem__)


def judge_cell(
    evidence: Evidence, country: Country, *, rpo_s: int, proof_s: int, now: Instant, before: Before | None = None
) -> Cell:
    """The state of one cell at ``now``. ``proof_s``: so long stays proven what was proven."""
    state, since, why = _state_of(evidence, rpo_s, proof_s, now)
    if since is None:
        since = before.since if before is not None and before.state is state else now
    age_s = (now - evidence.time) // _US if evidence.sequence else None
    return Cell(
        evidence.site, country, state, since, evidence.sequence, evidence.time, age_s, evidence.proven, why,
        evidence.leaf,
    )  # fmt: skip


def _state_of(evidence: Evidence, rpo_s: int, proof_s: int, now: Instant) -> tuple[State, Instant | None, str]:
    """State, since when if the evidence itself says so, and why."""
    if evidence.wrong:
        return State.DAMAGED, None, evidence.wrong
    if evidence.silent:
        return State.UNKNOWN, None, evidence.silent
    if not evidence.sequence:
        return State.LATE, None, "it holds no version"
    if now - evidence.proven > proof_s * _US:
        return State.UNKNOWN, None, f"nothing was proven there since {instant_text(evidence.proven)}"
    if evidence.time > now + CLOCK_TOLERANCE_US:
        ahead = (evidence.time - now) // _US
        return State.AHEAD, None, f"the time of version {evidence.sequence} lies {ahead} s ahead of this clock"
    due = Instant(evidence.time + rpo_s * _US)
    if now > due:
        why = f"version {evidence.sequence} is {(now - evidence.time) // _US} s old; {rpo_s} s are allowed"
        return State.LATE, due, why
    return State.FRESH, None, ""


def judge_register(
    charter: ParsedCharter,
    rule: CharterRegister,
    evidence: Sequence[Evidence],
    *,
    proof_s: int,
    now: Instant,
    before: Mapping[Label | None, Before] | None = None,
) -> RegisterVerdict:
    """``rule``'s register at ``now``. ``before``: how its cells (by site) and it as a whole (None) stood before."""
    known = before or {}
    placement = placement_of(charter, rule, now=now)
    countries = placement.countries
    cells = tuple(
        judge_cell(
            one, countries[one.site], rpo_s=rule.rpo_s, proof_s=proof_s, now=now, before=known.get(one.site)
        )
        for one in evidence
        if one.site in countries
    )  # fmt: skip
    able = {cell.site for cell in cells if cell.site not in placement.ended}
    good = {c.site: c for c in cells if c.site in able and c.sequence and c.state in (State.FRESH, State.LATE)}

    def safe_until(times: Mapping[Label, Instant]) -> Instant:
        """The newest moment that enough of these sites reach; 0 if too few are there at all."""
        for time in sorted(set(times.values()), reverse=True):
            if not placement.missing(site for site, reached in times.items() if reached >= time):
                return time
        return Instant(0)

    reached = {site: cell.time for site, cell in good.items()}
    time = safe_until(reached)
    holders = [cell for cell in good.values() if time and cell.time >= time]
    state, since, why = State.FRESH, None, ""
    if not time or now - time > rule.rpo_s * _US:
        due = Instant(time + rule.rpo_s * _US)
        hoped = reached | {cell.site: now for cell in cells if cell.state is State.UNKNOWN}
        ahead = reached | {cell.site: now for cell in cells if cell.state is State.AHEAD}
        lacks = placement.missing(site for site, cell in good.items() if cell.state is State.FRESH)
        why = f"within {rule.rpo_s} s there are only {lacks}" if lacks else ""
        state = State.LATE
        if now - safe_until(ahead) <= rule.rpo_s * _US:
            state, why = State.AHEAD, f"{why}; others lie ahead of this clock, or this clock is slow"
        elif now - safe_until(hoped) <= rule.rpo_s * _US:
            state, why = State.UNKNOWN, f"{why}; of others nothing is known now"
        elif time:
            since = due
    if since is None:
        earlier = known.get(None)
        since = earlier.since if earlier is not None and earlier.state is state else now
    oldest = min(holders, key=lambda cell: cell.sequence, default=None)
    return RegisterVerdict(
        rule.id, rule.public_name, rule.rpo_s, state, since,
        oldest.sequence if oldest is not None else VersionNumber(0), time,
        (now - time) // _US if time else None, len(holders), len({cell.country for cell in holders}), why, cells,
        oldest.leaf if oldest is not None else None,
    )  # fmt: skip


def worst_of(verdicts: Iterable[RegisterVerdict]) -> State:
    """The worst state anywhere; fresh if there are no registers."""
    return max((verdict.worst for verdict in verdicts), key=_BADNESS.__getitem__, default=State.FRESH)

"""How long versions are kept: decided from the charters and the ledger alone. Pure; page: ``docs/spec/retention.md``.

A rule that was in force when a version was made protects it until that rule's own time is over, whatever later
charters say; later charters can only keep it longer. Which charter was in force is told by the ledger's order and not
by any clock: a version stands behind the first entry that names a charter, or it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from exclave.formats.charter import CharterRegister
from exclave.ids import Epoch, Instant
from exclave.ids import Sequence as VersionNumber

FOREVER = Instant(253_402_300_799_000_000)
"""The last second of the year 9999: what no calendar of ours goes beyond."""
_EPOCH_0 = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000


class Rule(StrEnum):
    """What keeps a version. The order is that in which they are named if several keep it equally long."""

    HOLD = "hold"
    NEWEST = "newest"
    ALL = "all"
    DAILY = "daily"
    MONTHLY = "monthly"
    YEARLY = "yearly"


@dataclass(frozen=True, slots=True)
class Made:
    """One version that exists, as its ledger tells it."""

    sequence: VersionNumber
    epoch: Epoch
    time: Instant
    """By its writer's clock: claimed, not proven."""
    charter: int
    """Number of the newest charter that the ledger names before it; 1 if it names none."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a version is kept, by which rule, until when."""

    version: Made
    rule: Rule
    """The rule that keeps it longest; of one that nothing keeps, the rule that kept it last."""
    until: Instant
    """When that ends. ``FOREVER`` for a hold, and for the newest version, which nobody knows the end of."""
    kept: bool


def decide(
    versions: Sequence[Made], charters: Sequence[tuple[int, CharterRegister]], now: Instant, *, held: bool = False
) -> tuple[Standing, ...]:
    """Says of each of ``versions`` (in the ledger's order, without those erased) how long it is kept.

    ``charters``: number and block of each charter that lists the register, in order; the newest one last. ``held``: a
    legal hold besides that of the newest charter. ``now`` only turns ``until`` into ``kept``, and tells which versions'
    times lie in the future: such a time binds no other version.

    A version's age counts from the latest of its own time and the times of all entered before it, so that a clock that
    went back makes nothing old. The first version entered of a day, month or year stands for it, so that nothing that
    is entered later takes its place; it may be first by its own time or by that latest one. What lay ahead of a version
    when it was entered does not count there: nobody takes the places of days to come.
    """
    if not charters:
        return ()
    hold = held or charters[-1][1].hold is not None
    own, aged = _Firsts(), _Firsts()
    standings: list[Standing] = []
    latest = Instant(0)
    for place, version in enumerate(versions):
        if version.time <= now:
            latest = max(latest, version.time)
        since = max(version.time, latest)
        ranks = own.of(version.time) | aged.of(since)
        found = [(FOREVER, Rule.HOLD)] if hold else []
        if place == len(versions) - 1:
            found.append((FOREVER, Rule.NEWEST))
        for number, rule in charters:
            if number >= version.charter or rule is charters[-1][1]:
                found += _ends(rule, since, ranks)
        order = list(Rule)
        until, by = max(found, key=lambda item: (item[0], -order.index(item[1])))
        standings.append(Standing(version, by, until, until > now or by in (Rule.HOLD, Rule.NEWEST)))
    return tuple(standings)


def terms_of(charters: Sequence[tuple[int, CharterRegister]], oldest: int) -> tuple[int, int]:
    """Delay in seconds and number of objections of an order about versions of which the first was made under charter
    ``oldest``: the longest delay and the fewest objections since then. No later charter takes away time to object.
    """
    rules = [rule.deletion for number, rule in charters if number >= oldest] or [charters[-1][1].deletion]
    return max(rule.delay_s for rule in rules), min(rule.objections for rule in rules)


class _Firsts:
    """Which periods have a version already, of those that do not lie ahead of the last one asked about."""

    def __init__(self) -> None:
        self._taken: dict[Rule, list[tuple[int, ...]]] = {Rule.YEARLY: [], Rule.MONTHLY: [], Rule.DAILY: []}
        """Ascending."""

    def of(self, time: Instant) -> frozenset[Rule]:
        """The periods of ``time`` (UTC) that have none yet; they have one from now on, and later ones have none."""
        moment = _moment(time)
        names = {
            Rule.YEARLY: (moment.year,),
            Rule.MONTHLY: (moment.year, moment.month),
            Rule.DAILY: (moment.year, moment.month, moment.day),
        }
        new: set[Rule] = set()
        for rule, name in names.items():
            taken = self._taken[rule]
            while taken and taken[-1] > name:
                taken.pop()
            if not taken or taken[-1] != name:
                taken.append(name)
                new.add(rule)
        return frozenset(new)


def _ends(rule: CharterRegister, since: Instant, ranks: frozenset[Rule]) -> list[tuple[Instant, Rule]]:
    """When each of the rules that apply ends, for a version of ``since`` that is the first of the periods ``ranks``."""
    keep = rule.keep
    ends = [(_days(since, rule.retention_days), Rule.ALL)]
    if Rule.DAILY in ranks and keep.daily_days:
        ends.append((_days(since, keep.daily_days), Rule.DAILY))
    if Rule.MONTHLY in ranks and keep.monthly_months:
        ends.append((_months(since, keep.monthly_months), Rule.MONTHLY))
    if Rule.YEARLY in ranks and keep.yearly_years:
        ends.append((_months(since, 12 * keep.yearly_years), Rule.YEARLY))
    return ends


def _days(since: Instant, count: int) -> Instant:
    return min(Instant(since + count * _DAY_US), FOREVER)


def _months(since: Instant, count: int) -> Instant:
    """The same day and time ``count`` months later; where that month has no such day, the first of the next month."""
    moment = _moment(since)
    years, month = divmod(moment.month - 1 + count, 12)
    year = moment.year + years
    try:
        later = moment.replace(year=year, month=month + 1)
    except ValueError:
        if year >= 9999:
            return FOREVER
        following = datetime(year, month + 1, 28, tzinfo=UTC) + timedelta(days=4)
        later = moment.replace(year=following.year, month=following.month, day=1)
    return min(Instant((later - _EPOCH_0) // timedelta(microseconds=1)), FOREVER)


def _moment(time: Instant) -> datetime:
    return _EPOCH_0 + timedelta(microseconds=min(time, FOREVER))

"""Which objects of a site are read on which day, so that all of it is read in each period and no host foresees when.

Days are counted from 1970-01-01 (UTC), in periods of ``days``. In each period an object falls on one day, by
HMAC-SHA-256 under a secret that hosts do not know. Nothing needs to be remembered but the day of the last run.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from exclave.errors import UsageError
from exclave.ids import Digest, Instant, Label

DAY_US = 86_400_000_000
MAX_DAYS = 3650
LEAST_SAMPLE = 16
"""Objects that each run reads beside its part, chosen at random among all others."""
SAMPLE_SHARE = 200
"""One in so many, if that is more."""
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def day_of(now: Instant) -> int:
    """The day of ``now``: 0 is 1970-01-01, UTC."""
    return now // DAY_US


def day_text(day: int) -> str:
    """``2026-11-26``."""
    return date.fromordinal(day + _EPOCH_ORDINAL).isoformat()


def order_secret(seed: bytes, site: Label) -> bytes:
    """What orders the objects of ``site``, from ``seed`` (32 bytes that no host knows); 32 bytes."""
    return hmac.digest(seed, b"exclave/scrub-order/v1\n" + site.encode(), "sha256")


@dataclass(frozen=True, slots=True)
class Part:
    """What one run reads: what falls on the days ``first`` to ``through``, or ``everything``."""

    days: int
    first: int
    through: int
    everything: bool = False


def part_of(days: int, since: int | None, today: int, *, left_wrong: bool = False) -> Part:
    """The part that is due ``today`` after a last run that read through the day ``since`` (None: there was none).

    Missed days are caught up. Everything is read after ``days`` or more of them, always if ``days`` is 1, and while
    something is ``left_wrong`` by a former run: nobody remembers which objects those were. A last run that lies in
    the future was told by a wrong clock and does not count. ``first`` is after ``through`` if today's part was read
    already.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"a site can be read in 1 to {MAX_DAYS} days, not {days}")
    everything = days == 1 or left_wrong
    if since is None or since > today:
        return Part(days, today, today, everything)
    if today - since >= days:
        return Part(days, today - days + 1, today, everything=True)
    return Part(days, since + 1, today, everything)


def falls_due(part: Part, secret: bytes) -> Callable[[Digest], bool]:
    """Whether an object, by its name, belongs to ``part``. A window of days touches at most two periods."""
    periods = {
        period: hmac.digest(secret, b"%d %d" % (part.days, period), "sha256")
        for period in range(part.first // part.days, part.through // part.days + 1)
    }

    def due(name: Digest) -> bool:
        if part.everything:
            return True
        for period, key in periods.items():
            place = int.from_bytes(hmac.digest(key, name, "sha256")[:8], "big") % part.days
            if part.first <= period * part.days + place <= part.through:
                return True
        return False

    return due


def sample_of(names: Sequence[Digest], choose: Callable[[int], int]) -> list[Digest]:
    """Some of ``names`` at random; ``choose(n)`` gives a number from 0 to n - 1 that nobody foresees."""
    left = list(names)
    wanted = min(len(left), max(LEAST_SAMPLE, len(left) // SAMPLE_SHARE))
    for place in range(wanted):
        other = place + choose(len(left) - place)
        left[place], left[other] = left[other], left[place]
    return left[:wanted]


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the ledger tells of the last scrub of a register at a site."""

    days: int
    through: int
    """All that fell on a day up to this one was read."""
    wrong: int
    repaired: int
    left: int = 0
    """Objects that it or a former run left wrong, since which no run has read everything and found it right."""
    left_on: int = 0
    """The day of that run."""


def due_by(last: LastRun | None, promised: int, held_since: int | None) -> int | None:
    """The last day on which a site's next scrub is in time, by the measure of ``overdue``; None if there is none."""
    if last is not None:
        return last.through + (promised or last.days)
    return held_since + promised if promised and held_since is not None else None


def overdue(last: LastRun | None, *, promised: int, held_since: int | None, today: int) -> str:
    """What is to be told about a site's scrubs; empty if nothing is.

    ``promised``: within how many days it shall be read, by the configuration; 0: go by the last run's own number.
    ``held_since``: the day of the oldest version there; None: it holds none.
    """
    if last is None:
        if promised and held_since is not None and today - held_since > promised:
            return f"never scrubbed, though it is to be read every {promised} days"
        return ""
    days = promised or last.days
    if last.through > today + 1:  # a clock may be ahead by hours
        return f"the last scrub says that it was on {day_text(last.through)}, which is yet to come"
    if today - last.through > days:
        return f"not scrubbed since {day_text(last.through)}: more than {days} days"
    if last.wrong > last.repaired:
        return f"the scrub of {day_text(last.through)} left {_objects(last.wrong - last.repaired)} wrong or missing"
    if last.left:
        return (
            f"the scrub of {day_text(last.left_on)} left {_objects(last.left)} wrong or missing; all has to be read"
            " again (exclave scrub --days 1)"
        )
    return ""


def _objects(number: int) -> str:
    return "1 object" if number == 1 else f"{number} objects"

"""A ladder of short, overlapping certificates for one key's work: what is covered, what is missing, which one to use.

A responder's certificate cannot be revoked (nocheck), so each is short; and after the loss of home nobody makes new
ones, so many lie ready, dated into the future. Pure; times are ``Instant``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exclave.errors import UsageError
from exclave.ids import Instant

DAY_S = 86_400
RUNGS, LASTS_DAYS, OVERLAP_DAYS = 12, 45, 15
ALARM_DAYS = 90
"""A ladder that reaches less far needs its home's CA soon."""
SETTLE_S = 3600
"""So far from its begin and end a certificate is left alone if another will do: clocks differ."""


@dataclass(frozen=True, slots=True)
class Window:
    """A certificate's validity, its first and last moment."""

    begin: Instant
    end: Instant


@dataclass(frozen=True, slots=True)
class LadderState:
    """How far a ladder reaches, seen from one moment."""

    covered_until: Instant | None
    """Without a gap from now on; None: nothing is valid now."""
    gaps: tuple[Window, ...]
    """Times between now and ``ends`` that no certificate covers, in order."""
    ends: Instant | None
    """The end of the last one; None: there is none that has not ended."""
    alarm: bool
    """Covered for less than the alarm's days, or not at all."""
    request_due: Instant
    """By then further certificates must be asked for: when the alarm would begin, or now."""


def look(windows: Sequence[Window], *, now: Instant, alarm_days: int = ALARM_DAYS) -> LadderState:
    """What the certificates of one key and issuer cover from ``now`` on."""
    waiting = sorted((w for w in windows if w.end >= now and w.begin <= w.end), key=lambda w: (w.begin, w.end))
    reach, gaps = now, list[Window]()
    covered: Instant | None = None
    for window in waiting:
        if window.begin > reach:
            if not gaps:
                covered = reach if reach > now else None
            gaps.append(Window(reach, window.begin))
        reach = max(reach, window.end)
    if not gaps:
        covered = reach if waiting else None
    alarm_us = alarm_days * DAY_S * 1_000_000
    due = now if covered is None else Instant(max(now, covered - alarm_us))
    alarm = covered is None or covered - now < alarm_us
    return LadderState(covered, tuple(gaps), reach if waiting else None, alarm, due)


def plan(
    begin: Instant, *, rungs: int = RUNGS, lasts_days: int = LASTS_DAYS, overlap_days: int = OVERLAP_DAYS
) -> tuple[Window, ...]:
    """The windows to ask for: the first begins at ``begin`` (rounded down to a second), each overlaps the next.

    ``UsageError`` unless there are 1 to 100 rungs of 1 to 400 days that overlap by less than they last.
    """
    if not 1 <= rungs <= 100 or not 1 <= lasts_days <= 400 or not 0 <= overlap_days < lasts_days:
        raise UsageError("a ladder has 1 to 100 rungs of 1 to 400 days, which overlap by less than they last")
    first = begin // 1_000_000 * 1_000_000
    step_us, lasts_us = (lasts_days - overlap_days) * DAY_S * 1_000_000, lasts_days * DAY_S * 1_000_000
    return tuple(Window(Instant(first + n * step_us), Instant(first + n * step_us + lasts_us)) for n in range(rungs))


def next_begin(windows: Sequence[Window], *, now: Instant, overlap_days: int = OVERLAP_DAYS) -> Instant:
    """Where the next ladder should begin: so much before this one's cover ends, but not before now."""
    covered = look(windows, now=now).covered_until
    return now if covered is None else Instant(max(now, covered - overlap_days * DAY_S * 1_000_000))


def choose(windows: Sequence[Window], *, now: Instant, settle_s: int = SETTLE_S) -> int | None:
    """Which one to sign with at ``now``: its place in ``windows``, or None if none is valid.

    Of those that began and will end at least ``settle_s`` away, the one that ends last; else of all that are valid.
    """
    settle_us = settle_s * 1_000_000
    valid = [place for place, window in enumerate(windows) if window.begin <= now <= window.end]
    settled = [p for p in valid if windows[p].begin + settle_us <= now <= windows[p].end - settle_us]
    return max(settled or valid, key=lambda place: (windows[place].end, -place), default=None)

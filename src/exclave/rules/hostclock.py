"""Whether a host may trust its own clock: delays of orders to delete run by it. Pure.

A wall clock that is set is compared with one that only runs on, and with the last time that was written down before.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.ids import Instant, instant_text

TOLERANCE_US = 120_000_000
"""So much may the wall clock be corrected in one go."""


@dataclass(frozen=True, slots=True)
class ClockMark:
    """Both clocks at one moment of this process."""

    wall: Instant
    running_us: int
    """Of a clock that nobody sets; microseconds since whenever."""


def clock_fault(first: ClockMark, now: ClockMark, written: Instant) -> str:
    """Why the wall clock cannot be trusted; empty if nothing speaks against it.

    ``first``: when the process began. ``written``: the latest time that was written down by any process, 0 if none.
    """
    if now.wall + TOLERANCE_US < written:
        return f"it shows {instant_text(now.wall)}, and was at {instant_text(written)} already"
    drift = (now.wall - first.wall) - (now.running_us - first.running_us)
    if abs(drift) > TOLERANCE_US:
        return f"it was set {'forward' if drift > 0 else 'back'} by {abs(drift) // 1_000_000} s since the start"
    return ""

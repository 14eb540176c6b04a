"""How fast objects may go to and from a site at a moment."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, tzinfo

from exclave.formats.limits import LimitWindow
from exclave.ids import Instant


def rate_at(windows: Iterable[LimitWindow], zone: tzinfo, now: Instant) -> int | None:
    """Bytes per second that ``windows`` allow at ``now``, by the clocks of ``zone``; None: as fast as it goes.

    When clocks are put forward or back, windows follow the clock on the wall.
    """
    moment = datetime.fromtimestamp(now / 1_000_000, zone)
    minute = moment.hour * 60 + moment.minute
    for window in windows:
        inside = (
            window.start <= minute < window.end
            if window.start < window.end
            else minute >= window.start or minute < window.end
        )
        if inside:
            return window.bytes_per_s
    return None

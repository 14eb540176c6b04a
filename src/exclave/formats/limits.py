"""Bandwidth limits by hour, as ``exclave.toml`` says them. Page: ``docs/spec/config.md``.

::

    HH:MM-HH:MM NUMBER kbit/s | Mbit/s | Gbit/s          08:00-18:00 20 Mbit/s

Half-open: 18:00 itself is no longer limited. The end may be ``24:00``; an end before the start goes past midnight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from exclave.errors import MalformedError
from exclave.ids import parse_positive

DAY_MIN = 24 * 60
MAX_WINDOWS = 48
_WINDOW = re.compile(r"([0-9]{2}):([0-5][0-9])-([0-9]{2}):([0-5][0-9]) ([0-9]{1,12}) (kbit/s|Mbit/s|Gbit/s)\Z")
_UNIT = {"kbit/s": 1_000, "Mbit/s": 1_000_000, "Gbit/s": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class LimitWindow:
    """From minute ``start`` of the day (0 to 1439) up to minute ``end`` (0 to 1440), exclusive."""

    start: int
    end: int
    """If smaller than ``start``: on the next day."""
    bytes_per_s: int

    def minutes(self) -> Iterable[int]:
        """Every minute of the day that it covers."""
        if self.start < self.end:
            return range(self.start, self.end)
        return (*range(self.start, DAY_MIN), *range(self.end))


def parse_limit(text: str) -> LimitWindow:
    """One window. ``MalformedError`` for anything else than the grammar above."""
    match = _WINDOW.match(text)
    if not match:
        raise MalformedError(f"a limit looks like '08:00-18:00 20 Mbit/s', not {text[:60]!r}")
    start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if start >= DAY_MIN or not 0 <= end <= DAY_MIN or start == end:
        raise MalformedError(f"the hours of the limit {text!r} are none of a day")
    rate = parse_positive(match[5]) * _UNIT[match[6]] // 8
    return LimitWindow(start, end, rate)


def parse_limits(texts: Iterable[str]) -> tuple[LimitWindow, ...]:
    """All windows of one site. ``MalformedError`` if two of them cover the same minute."""
    windows = tuple(parse_limit(text) for text in texts)
    if len(windows) > MAX_WINDOWS:
        raise MalformedError(f"a site has at most {MAX_WINDOWS} limits")
    seen: set[int] = set()
    for window in windows:
        for minute in window.minutes():
            if minute in seen:
                raise MalformedError(f"two limits cover {minute // 60:02}:{minute % 60:02}")
            seen.add(minute)
    return windows


def parse_zone(name: str) -> tzinfo:
    """``UTC``, or a zone of the IANA database such as ``Europe/Tallinn``. ``MalformedError`` if unknown here."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise MalformedError(f"this machine knows no time zone {name[:60]!r}; install tzdata, or use UTC") from error

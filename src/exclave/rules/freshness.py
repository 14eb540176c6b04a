"""Whether a certificate's status is recent enough for the service that relies on it.

Page: docs/spec/ocsp.md. Only "good" is judged here: who reads "revoked" or "held" refuses, however old it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from exclave.errors import ConfigError
from exclave.ids import Instant, instant_text

Policy = Literal["fail-closed", "grace", "fail-open"]
"""What happens where the status is older than the service asks for: refuse; accept for a while longer; accept."""

CLOCK_SKEW_S = 300
"""How far the clock of whoever dated the status may be ahead of ours."""


MOST_AHEAD_US = 3600 * 1_000_000
"""How far what is signed may be dated ahead of its reader's clock: further, and one of the two clocks is wrong, or
somebody wants it to seem fresh for ever."""


def dated_ahead(time: Instant, now: Instant) -> str:
    """Why something of ``time`` does not count at ``now``, as the rest of a sentence; empty if it does."""
    if time <= now + MOST_AHEAD_US:
        return ""
    hours = (time - now) / 3_600_000_000
    return f"is dated {instant_text(time)}, {hours:.1f} h ahead of this clock: one of the clocks is wrong, or it lies"


class Verdict(StrEnum):
    ACCEPT = "accept"
    ACCEPT_WITH_WARNING = "accept-with-warning"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Freshness:
    """The verdict, and what is logged of it. No personal data."""

    verdict: Verdict
    age_s: int
    """Whole seconds from ``this_update`` to ``now``, rounded up; 0 if it is not in the past."""
    text: str
    """One line for the log; empty for ``ACCEPT``, which needs none."""

    @property
    def accepted(self) -> bool:
        return self.verdict is not Verdict.REFUSE


def judge_freshness(policy: Policy, *, this_update: Instant, now: Instant, max_age_s: int, grace_s: int) -> Freshness:
    """May a status that was right at ``this_update`` be relied upon at ``now``?

    It is fresh up to and with ``max_age_s``. Older: ``fail-closed`` refuses, ``grace`` accepts for ``grace_s`` more
    with a warning, ``fail-open`` accepts with a warning however old it is. A time that is further in the future than
    clocks differ proves nothing, so neither ``fail-closed`` nor ``grace`` accept it. ``this_update`` 0: the issuer's
    status was never confirmed. ``ConfigError`` for a negative limit or an unknown policy.
    """
    if max_age_s < 0 or grace_s < 0:
        raise ConfigError(f"a status may not be at most {max_age_s} s old with {grace_s} s of grace")
    age_s = -((this_update - now) // 1_000_000)
    shown_s = max(0, age_s)
    future = age_s < -CLOCK_SKEW_S
    if not future and age_s <= max_age_s:
        return Freshness(Verdict.ACCEPT, shown_s, "")
    told = _told(this_update, age_s, max_age_s, future=future)
    match policy:
        case "fail-closed":
            return Freshness(Verdict.REFUSE, shown_s, f"refused, fail-closed: {told}")
        case "grace" if not future and age_s <= max_age_s + grace_s:
            left_s = max_age_s + grace_s - age_s
            return Freshness(Verdict.ACCEPT_WITH_WARNING, shown_s, f"accepted, grace for {left_s} s more: {told}")
        case "grace":
            return Freshness(Verdict.REFUSE, shown_s, f"refused, beyond {grace_s} s of grace: {told}")
        case "fail-open":
            return Freshness(Verdict.ACCEPT_WITH_WARNING, shown_s, f"accepted, fail-open: {told}")
        case _:
            raise ConfigError(f"{str(policy)[:40]!r} is no policy for old status; fail-closed, grace and fail-open are")


def _told(this_update: Instant, age_s: int, max_age_s: int, *, future: bool) -> str:
    if this_update <= 0:
        return "the issuer's certificate status was never confirmed"
    when = instant_text(this_update)
    if future:
        return f"the certificate status is of {when}, {-age_s} s in the future"
    return f"the certificate status is of {when}, {age_s} s old, {max_age_s} s are asked for"

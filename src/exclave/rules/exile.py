"""Where a place of the identity services stands. Only a warrant moves it, through an epoch; silence moves nothing.

A place holds the authority if it is the writer of the identity register's newest epoch **and** has taken that epoch up:
an embassy has every entry that could be had, home has taken in what exile decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from exclave.ids import Digest, Instant


class IdentityState(StrEnum):
    """Where a place stands."""

    HOME = "home"
    """This is home, and home is the authority."""
    STANDBY = "standby"
    """This is an embassy, and the authority is elsewhere: answers carry the time of the last replicated entry."""
    EXILE = "exile"
    """This is an embassy, and the quorum has made it the authority."""
    RETURNING = "returning"
    """This is home, and it is not known to be the authority: nothing is answered until it has merged."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a place knows of the authority."""

    writer: Digest
    """Card of the newest epoch's writer, as the sites prove it."""
    epoch: int
    by_charter: bool
    """The epoch was granted by a charter: nothing was before it that would have to be taken in."""
    verified: Instant | None
    """When more than half of the charter's sites were read last; None: never since the process started."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The decision, and why, for people."""

    state: IdentityState
    epoch: int
    why: str


def stands(
    *, home: bool, me: Digest, seen: Seen | None, taken_up: int, now: Instant, lease_s: int, doubt: str = ""
) -> Standing:  # fmt: skip
    """Where a place stands at ``now``.

    ``home``: whether it is home. ``seen``: None until a site has been read since the process started; a place that
    comes back trusts nothing that it knew before. ``taken_up``: the epoch that this place has taken up by warrant.
    ``lease_s``: so long home goes on without reading more than half of the charter's sites: one of them may stand in
    home's own cellar and be cut off together with it, another one may show the past. An embassy in exile goes on: it
    was made the authority because others are silent. A clock that was set back by more than the lease ends it too.
    ``doubt``: why nothing may be decided here all the same: the journal is known to be an older copy, or the newest
    epoch was granted twice, so that another place may believe the same of itself.
    """
    waiting = IdentityState.RETURNING if home else IdentityState.STANDBY
    if seen is None:
        return Standing(waiting, 0, "no site has been read since this process started")
    if seen.writer != me:
        return Standing(waiting, seen.epoch, f"epoch {seen.epoch} belongs to another place")
    if not seen.by_charter and taken_up != seen.epoch:
        return Standing(waiting, seen.epoch, f"epoch {seen.epoch} is this place's, but it has not taken it up yet")
    if doubt:
        return Standing(waiting, seen.epoch, doubt)
    if home and (seen.verified is None or abs(now - seen.verified) > lease_s * 1_000_000):
        ago = 0 if seen.verified is None else abs(now - seen.verified) // 1_000_000
        since = "since this process started" if seen.verified is None else f"for {ago} s"
        why = f"not more than half of the charter's sites could be read {since}: another place may be the authority now"
        return Standing(waiting, seen.epoch, why)
    return Standing(IdentityState.HOME if home else IdentityState.EXILE, seen.epoch, "")

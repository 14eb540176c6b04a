"""From when to when an answer about certificates' status may claim to hold. Pure; page: docs/spec/ocsp.md."""

from __future__ import annotations

from dataclasses import dataclass

from exclave.identity.contract import Authority, IdentityState, IssuerInfo
from exclave.ids import Instant

_SECOND = 1_000_000
ANSWER_LASTS_S = 12 * 3600
"""From ``this_update`` to ``next_update`` where the issuer promised nothing else; so long a captured answer lives."""
SILENT_S = 150
"""A source that is followed confirms every minute that it still says the same; after so long it does so no more."""


@dataclass(frozen=True, slots=True)
class Window:
    """RFC 6960, section 2.4."""

    this_update: Instant
    """The most recent moment at which the status is known to have been right."""
    next_update: Instant
    """At or before it newer information comes. It lies after the moment for which the window was made."""


def known_until(authority: Authority, issuer: IssuerInfo, *, now: Instant) -> Instant:
    """The moment up to which this place knows what was decided about ``issuer``'s certificates; 0: nothing is known.

    In exile every decision is made here: it is now. At home it is so for an issuer whose decisions arrive as they are
    made; another is known as of its last list, and so is one whose source was confirmed before and then fell silent. In
    standby it is when the last entry arrived, and no later than that. A clock that is behind makes it older, not newer.
    """
    known = now
    if authority.state is IdentityState.EXILE:
        return known
    if authority.state is IdentityState.STANDBY:
        known = min(known, authority.as_of)
    silent = issuer.as_of and known - issuer.as_of > SILENT_S * _SECOND
    return min(known, issuer.as_of) if silent or not issuer.live else known


def window(
    authority: Authority, issuer: IssuerInfo, *, now: Instant, key_ends: Instant, lasts_s: int = ANSWER_LASTS_S
) -> Window | None:
    """What an answer for ``issuer`` may claim at ``now``; None if what is known has run out.

    ``next_update`` is what the issuer promised with its last list, else ``lasts_s`` after ``this_update``; never beyond
    ``key_ends``, since nothing that a key signed is believed once its certificate has expired.
    """
    known = known_until(authority, issuer, now=now)
    following = Instant(known + lasts_s * _SECOND)
    if authority.state is not IdentityState.EXILE and not issuer.live and issuer.next_update:
        following = issuer.next_update
    following = min(following, key_ends)
    if known <= 0 or following // _SECOND <= now // _SECOND:  # the wire has whole seconds
        return None
    return Window(known, following)

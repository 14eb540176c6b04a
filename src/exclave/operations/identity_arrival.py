"""Whether what the deciding place sends arrives at an embassy that stands by; looked at without changing anything."""

from __future__ import annotations

from exclave.errors import ExclaveError
from exclave.formats.journal import Head
from exclave.identity.contract import IdentityState
from exclave.identity.feed_read import read_tail
from exclave.operations.identity_place import PLACE_NAME, IdentityPlace, is_served
from exclave.verify.feeds import FeedHeads

_SITES = f"correct the [[site]]s of {PLACE_NAME}, or wait for the sites"
_SEND = "start `exclave serve identity` where it is decided, and name this place's card there as an [[embassy]]"
_CARD = f"name this place's machine.card as an [[embassy]] in the {PLACE_NAME} of home"
_SERVE = "start `exclave serve identity` here"
_LOOK = "read what `exclave serve identity` says here"


def arrival_problem(place: IdentityPlace) -> str:
    """Why the journal here is not the one that is sent, and what to do; empty: it is, or nothing is awaited here.

    Reads the feed as the serving process does. After ``begin``.
    """
    if place.authority().state is not IdentityState.STANDBY:
        return ""
    have = place.journal.head()
    why, do = _problem(place, have)
    if not why:
        return ""
    return f"{'' if have.number else 'nothing has arrived here yet: '}{why}; {do}"


def _problem(place: IdentityPlace, have: Head) -> tuple[str, str]:
    """(why, what to do)"""
    if place.watch.problem:
        return place.watch.problem, _SITES
    try:
        heads = place.watch.look_at_feed(have)
    except ExclaveError as error:
        return error.message, error.hint
    if heads is None:
        return "no site has been read", _SITES
    if heads.best is None:
        each = "; ".join(f"{site}: {problem}" for site, problem in heads.problems.items())
        return f"no site shows the identity feed ({each})", _SEND
    best = heads.best.head
    if best.number > have.number:
        return _behind(place, heads, have)
    if place.journal.at(best.number) != best:
        return f"entry {best.number} of the journal here is another one than the feed's", _LOOK
    return ("", "") if have.number else ("nothing was entered there", "run `exclave identity enter` at home")


def _behind(place: IdentityPlace, heads: FeedHeads, have: Head) -> tuple[str, str]:
    chain, best = place.watch.chain(), heads.best
    if chain is None or best is None:
        return "no site has been read", _SITES
    opening = place.key.opening()
    keys = {epoch.number: opening for epoch in chain.epochs}
    try:
        next(read_tail(place.state, chain, place.sites, keys, have, best=best), None)
    except ExclaveError as error:
        return f"the identity feed cannot be read here: {error.message}", _CARD if not have.number else _LOOK
    if have.number and is_served(place.folder):
        return "", ""  # they come this second
    return f"the feed ends at entry {best.head.number}, the journal here at {have.number}", _SERVE

"""Brings the members of a coded site what they lack or have wrong, from each other, without any key.

Every object is read once, from any k members, and each member's shard compared with it. A run that dies is begun again:
what was brought stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from exclave.errors import NotAuthorised, UsageError
from exclave.sites.coded import CodedSite
from exclave.sites.coded_mending import mend as mend_site
from exclave.sites.contract import Site

MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class Mended:
    """What a run did."""

    brought: dict[str, int]
    """Objects by member's address."""
    lacking: dict[str, str]
    """Members that did not take all that they lack, and why: the first reason of each."""
    refused: dict[str, str]
    """Hosts that hold some of it against their rules, as what belongs to an epoch that is over; the first reason."""
    beyond: tuple[str, ...]
    """Why objects cannot be mended by anybody, the first ``MOST_TOLD``: too few shards, or a name that was made up."""
    beyond_count: int
    faults: tuple[str, ...]
    """Members that showed what cannot be right, and where; the newest ones."""


def mend(site: Site, progress: Callable[[int], None] = lambda done: None) -> Mended:
    """``UsageError`` if it is no coded site; ``SiteUnavailable`` if too few members answer."""
    if not isinstance(site, CodedSite):
        raise UsageError("only a coded site is mended like this", hint="Write its address: coded:2?member=…&member=…")
    brought: Counter[str] = Counter()
    lacking, refused = dict[str, str](), dict[str, str]()
    beyond, beyond_count = list[str](), 0
    for key, at, error in mend_site(site):
        if at is None:
            beyond_count += 1
            if error is not None and len(beyond) < MOST_TOLD:
                beyond.append(f"{key}: {error.message}")
            continue
        member = site.members[at].address
        if error is not None:
            (refused if isinstance(error, NotAuthorised) else lacking).setdefault(member, error.message)
            continue
        brought[member] += 1
        progress(brought.total())
    return Mended(
        {m.address: brought[m.address] for m in site.members},
        lacking, refused, tuple(beyond), beyond_count, tuple(site.faults),
    )  # fmt: skip

"""Brings the members of a coded site what they lack or have wrong, from each other, without any key.

Every object is read once, from any k members, and each member's shard compared with it. A run that dies is begun again:
what was brought stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from exclave.errors import UsageError
from exclave.sites.coded import CodedSite
from exclave.sites.contract import Site
from exclave.sites.locking import is_head


@dataclass(frozen=True, slots=True)
class Mended:
    """What a run did."""

    brought: dict[str, int]
    """Objects by member's address."""
    faults: tuple[str, ...]
    """Members that showed what cannot be right, and where; the newest ones."""


def mend(site: Site, progress: Callable[[int], None] = lambda done: None) -> Mended:
    """``UsageError`` if it is no coded site; ``CorruptObject`` at an object of which too few shards are left."""
    if not isinstance(site, CodedSite):
        raise UsageError("only a coded site is mended like this", hint="Write its address: coded:2?member=…&member=…")
    brought: Counter[str] = Counter()
    for done, (_, member) in enumerate(site.mend(is_head), 1):
        brought[member] += 1
        progress(done)
    return Mended({member.address: brought[member.address] for member in site.members}, tuple(site.faults))

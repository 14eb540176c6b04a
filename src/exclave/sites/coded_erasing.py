"""Taking objects away from a coded site: at each member its shard, then the name that says which shard that is.

In that order a run that dies leaves names whose shards are gone, which the next run finds and ends; never a shard that
no name leads to. Where a member's own host alone can erase (a gateway), the object stays pending until he has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exclave.errors import IntegrityError, MalformedError, MissingObject, UnavailableError
from exclave.ids import Instant, Key
from exclave.sites.coded_form import (
    MAX_MEMBERS,
    Descriptor,
    descriptor_bytes,
    most_shown,
    named_digest,
    parse_descriptor,
    part_key,
)
from exclave.sites.contract import Readable, Site
from exclave.sites.erasing import ErasingSite, Locked

_NOT_YET = Instant(1 << 62)
"""For an object of which no store that answers says since when it is there."""


@dataclass(frozen=True, slots=True)
class MemberEraser:
    """For one member alone, on its host's machine: ``power`` over what ``site`` reads."""

    site: Readable
    power: ErasingSite

    def shown_since(self, key: Key) -> Instant | None:
        return self.power.shown_since(key)

    def erase(self, key: Key) -> Locked | None:
        plan = _plan(key, _shown(self.site, key))
        names = [part_key(key, shard) for shard in plan.shards] if plan is not None else []
        return _erase(self.power, [*names, key])


@dataclass(frozen=True, slots=True)
class Member:
    """One member, and the power over it if there is any from here."""

    site: Site
    power: ErasingSite | None


class CodedEraser:
    """For all ``members``, in the order of the address; ``need`` of them hold what counts as written."""

    def __init__(self, members: Sequence[Member], need: int) -> None:
        self._members, self._need = tuple(members), need

    def shown_since(self, key: Key) -> Instant | None:
        """Since when ``need`` members have it, by their own clocks; while fewer do, since the latest of them."""
        times, away = list[Instant](), list[UnavailableError]()
        for member in self._members:
            try:
                if member.power is not None:
                    since = member.power.shown_since(key)
                else:
                    since = _NOT_YET if member.site.stat(key) is not None else None
            except UnavailableError as error:
                away.append(error)
                continue
            if since is not None:
                times.append(since)
        if times:
            return sorted(times)[min(self._need, len(times)) - 1]
        if away:
            raise away[0]
        return None

    def erase(self, key: Key) -> Locked | None:
        """``SiteUnavailable`` if a member is away, after all others were done."""
        shown = [data for member in self._members if (data := _shown(member.site, key)) is not None]
        plan = _plan(key, most_shown(shown)) if shown else None
        locked, away = list[Locked](), list[UnavailableError]()
        for at, member in enumerate(self._members):
            names = [*([part_key(key, plan.shards[at])] if plan is not None and at < len(plan.shards) else []), key]
            try:
                locked += _refusals(member, names)
            except UnavailableError as error:
                away.append(error)
        if away:
            raise away[0]
        return max(locked, key=lambda one: (one.until is None, one.until or 0), default=None)


def _refusals(member: Member, names: Sequence[Key]) -> Iterator[Locked]:
    if member.power is not None:
        refused = _erase(member.power, names)
        if refused is not None:
            yield Locked(refused.until, f"at {member.site.address}: {refused.why}")
    elif any(member.site.stat(name) is not None for name in names):
        yield Locked(None, f"at {member.site.address} its host erases it, by the same order")


def _erase(power: ErasingSite, names: Sequence[Key]) -> Locked | None:
    for name in names:
        # Killed before this: the shard or the name; the next run finds the name, and goes on.
        refused = power.erase(name)
        if refused is not None:
            return refused
    return None


def _shown(site: Readable, key: Key) -> bytes | None:
    """A short object, or a descriptor; None of all else."""
    try:
        return site.get(key, limit=descriptor_bytes(MAX_MEMBERS))
    except (MissingObject, IntegrityError, UnavailableError):
        return None


def _plan(key: Key, data: bytes | None) -> Descriptor | None:
    """The descriptor of the object that is named so. One that names another object's hash erases nothing."""
    try:
        plan = parse_descriptor(data or b"")
    except MalformedError:
        return None
    return plan if plan.digest == named_digest(key) else None

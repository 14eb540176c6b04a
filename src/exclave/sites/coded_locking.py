"""A coded site of which k members at least lock what is written: nobody can leave fewer than k.

An object is locked until the k-th last of its members' locks ends: of each, the earlier of its shard's and its name's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from exclave.errors import MissingObject, SiteUnavailable
from exclave.ids import Instant, Key
from exclave.sites.coded import CodedSite
from exclave.sites.coded_form import part_key
from exclave.sites.contract import Site
from exclave.sites.locking import Locking, locking_of

T = TypeVar("T")


class LockingCodedSite(CodedSite):
    """Opened where ``locks_enough`` says so."""

    def lock_end(self) -> Instant:
        return self._k_th([one.lock_end() for _, one in self._locking()])

    def locked_until(self, key: Key) -> Instant | None:
        names = self._names(key)
        until = self._each(lambda at, one: _earliest(one, names[at]), "asked for their locks")
        return self._k_th([end or Instant(0) for end in until]) or None

    def extend(self, key: Key, until: Instant) -> None:
        """At every member that locks. ``SiteUnavailable`` if fewer than k did it."""
        names = self._names(key)

        def lengthen(at: int, one: Locking) -> None:
            for name in names[at]:
                one.extend(name, until)

        self._each(lengthen, "made to lock it")

    def _locking(self) -> list[tuple[int, Locking]]:
        found = [(at, locking_of(member)) for at, member in enumerate(self.members)]
        return [(at, one) for at, one in found if one is not None]

    def _k_th(self, ends: Sequence[Instant]) -> Instant:
        return sorted(ends, reverse=True)[self.k - 1]

    def _each(self, call: Callable[[int, Locking], T], what: str) -> list[T]:
        done, failed = list[T](), list[SiteUnavailable | MissingObject]()
        for at, one in self._locking():
            try:
                done.append(call(at, one))
            except (SiteUnavailable, MissingObject) as error:
                failed.append(error)
        if len(done) < self.k:
            raise SiteUnavailable(f"only {len(done)} members could be {what}; {self.k} are needed") from failed[0]
        return done

    def _names(self, key: Key) -> list[tuple[Key, ...]]:
        """What each member holds of an object."""
        named = self.named(key)
        if named is None:
            raise MissingObject(f"{key} is not at {self.address}", key=key)
        plan = self.plan(key, named)
        if plan is None:
            return [(key,)] * len(self.members)
        return [(part_key(key, shard), key) for shard in plan.shards]


def locks_enough(members: Sequence[Site], k: int) -> bool:
    """Whether ``k`` of them lock what is written once."""
    return sum(locking_of(member) is not None for member in members) >= k


def _earliest(one: Locking, names: Sequence[Key]) -> Instant | None:
    ends = [one.locked_until(name) for name in names]
    return None if None in ends else min(end for end in ends if end is not None)

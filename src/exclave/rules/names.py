"""Which records of a zone must change so that a place serves, and whether they may. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exclave.errors import HeadMoved

Spot = tuple[str, str]
"""Name and type of a record set."""


@dataclass(frozen=True, slots=True)
class RecordSet:
    """All records of one name and type, as the authoritative server has them."""

    name: str
    type: str
    ttl_s: int
    values: tuple[str, ...]
    """Sorted."""

    @property
    def spot(self) -> Spot:
        return self.name, self.type

    def says(self) -> str:
        """For people: ``tara.ria.ee A 192.0.2.1 (60 s)``."""
        return f"{self.name} {self.type} {' '.join(self.values)} ({self.ttl_s} s)"


@dataclass(frozen=True, slots=True)
class Change:
    """One record set from what it is to what it shall be; the server is told to refuse unless it is so."""

    before: RecordSet
    after: RecordSet


def changes_to(
    current: Mapping[Spot, RecordSet],
    wanted: Sequence[RecordSet],
    known: Mapping[Spot, Sequence[tuple[str, ...]]],
    *,
    with_ttl: bool,
) -> tuple[Change, ...]:
    """What remains to be changed for ``wanted``; nothing if it is so already.

    ``known``: the values that a record set may have before, other than the wanted ones. ``with_ttl``: a set with the
    right values and another time to live is changed, too. ``HeadMoved`` if a set has values that nobody here wrote, or
    is gone: a person must look who else writes this zone.
    """
    found: list[Change] = []
    for target in wanted:
        held = current.get(target.spot)
        if held is None:
            raise HeadMoved(
                f"{target.name} has no {target.type} record",
                hint="Create it at home first; moving never creates names.",
            )
        if held.values == target.values:
            if with_ttl and held.ttl_s != target.ttl_s:
                found.append(Change(held, target))
            continue
        if held.values not in known.get(target.spot, ()):
            raise HeadMoved(
                f"{target.name} {target.type} is {' '.join(held.values)[:200]}, which no place of the plan has",
                hint="Somebody else changes this zone. Find out who, then correct the zone or the plan.",
            )
        found.append(Change(held, target))
    return tuple(found)

"""What a site may offer beyond the contract: locks that nobody can lift, and the states that it keeps of one name.

Wrappers keep what they wrap as ``inner``; ``locking_of`` and ``remembering_of`` look below them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from exclave.ids import Instant, Key
from exclave.sites.contract import MAX_OBJECT_BYTES, Readable

HEAD_NAMES = frozenset({"checkpoint", "head", "carried.txt"})
"""Last parts of the names of all objects that are ever replaced. All others are written once."""


@runtime_checkable
class Locking(Protocol):
    """A site that holds what is written once against everybody, its own writer too, until a time."""

    def lock_end(self) -> Instant:
        """Until when it locks what is put now."""

    def locked_until(self, key: Key) -> Instant | None:
        """Until when what a reader gets under ``key`` is locked; None if it is not. ``MissingObject``."""

    def extend(self, key: Key, until: Instant) -> None:
        """Locks it until ``until`` at least. May be repeated; a lock is never shortened. ``MissingObject``."""


@runtime_checkable
class Remembering(Protocol):
    """A site that keeps more than one state of a name."""

    def states(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Iterator[bytes]:
        """What was put under ``key``, the newest first; only so many of the newest and the oldest. Which one is right
        is for those to say who can verify it. Those longer than ``limit`` are left out."""


@runtime_checkable
class Spread(Protocol):
    """A site whose objects lie at several members, of which some may be away while it is written to."""

    @property
    def lacking(self) -> dict[str, int]:
        """Each member's address, and how many writes of this process counted although it did not take them."""


def is_head(key: Key) -> bool:
    """Whether the object is one that is replaced."""
    return key.rpartition("/")[2] in HEAD_NAMES


def locking_of(source: Readable) -> Locking | None:
    """``source``, or what it wraps, if that locks."""
    found: Any = source
    while found is not None and not isinstance(found, Locking):
        found = getattr(found, "inner", None)
    return found


def remembering_of(source: Readable) -> Remembering | None:
    """``source``, or what it wraps, if that keeps former states."""
    found: Any = source
    while found is not None and not isinstance(found, Remembering):
        found = getattr(found, "inner", None)
    return found


def lacking_of(source: Readable) -> dict[str, int]:
    """Members of ``source``, or of what it wraps, that lack something since this process began; how many writes."""
    found: Any = source
    while found is not None and not isinstance(found, Spread):
        found = getattr(found, "inner", None)
    return {} if found is None else {member: count for member, count in found.lacking.items() if count}

"""The head that a source shows, or a larger one that it was given before and cannot have lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from exclave.errors import IntegrityError, MalformedError, NotAuthorised
from exclave.ids import Key
from exclave.sites.contract import Readable
from exclave.sites.locking import remembering_of

T = TypeVar("T")
_NONE_OF_HIS = (IntegrityError, MalformedError, NotAuthorised)


def newest_head(
    source: Readable, key: Key, limit: int, verify: Callable[[bytes], T], rank: Callable[[T], Any]
) -> T:  # fmt: skip
    """What ``verify`` makes of the head under ``key``. Raises what it raises, and as ``get`` does.

    A source that remembers its former states is asked for them too: the newest that ``verify`` takes counts if its
    ``rank`` is higher, or if what is shown is missing or refused.
    """
    kept = _kept(source, key, limit, verify)
    try:
        shown = verify(source.get(key, limit=limit))
    except _NONE_OF_HIS:
        if kept is None:
            raise
        return kept
    return kept if kept is not None and rank(kept) > rank(shown) else shown


def _kept(source: Readable, key: Key, limit: int, verify: Callable[[bytes], T]) -> T | None:
    remembering = remembering_of(source)
    if remembering is None:
        return None
    for data in remembering.states(key, limit=limit):
        try:
            return verify(data)
        except _NONE_OF_HIS:
            continue
    return None

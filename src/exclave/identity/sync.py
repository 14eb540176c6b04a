"""Keeps a status store in step with its journal, and enters decisions into both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Protocol

from exclave.errors import NotAuthorised
from exclave.formats.journal import Entry, Head
from exclave.identity.contract import AuthorityNow, Clock, StatusStore
from exclave.identity.fold import check_body
from exclave.identity.journal import Journal


class Replaceable(StatusStore, Protocol):
    """A store that can begin anew."""

    def replace(self, entries: Iterable[tuple[Entry, Head]]) -> None: ...


def catch_up(journal: Journal, store: StatusStore) -> Head:
    """Applies what the store lacks of the journal; the head that both have then. Safe in several processes at once.

    ``Forked`` or ``RolledBack`` if the store knows entries that the journal does not have: then the journal is not the
    one that was answered from. That is for a person to look at; ``rebuild`` is how it ends.
    """
    head = store.head()
    entries = _entries(journal, head)
    first = next(entries, None)
    if first is None:
        return head
    store.apply(chain((first,), entries))
    return store.head()


def rebuild(journal: Journal, store: Replaceable) -> Head:
    """Makes the store anew from the whole journal. Readers get answers from the old one until it is done."""
    store.replace(_entries(journal, Head()))
    return store.head()


def _entries(journal: Journal, after: Head) -> Iterator[tuple[Entry, Head]]:
    for entry, _, head in journal.read_after(after):
        yield entry, head


class Pen:
    """``contract.JournalWriter``: decisions go into ``journal``, then into ``store``, as ``authority`` allows."""

    def __init__(self, journal: Journal, store: StatusStore, authority: AuthorityNow, clock: Clock) -> None:
        self._journal = journal
        self._store = store
        self._authority = authority
        self._clock = clock

    def enter(self, bodies: Iterable[object], *, warrant: bytes = b"") -> Head:
        """As in the contract. ``MalformedError`` for a body that a store could not read, ``Fenced`` if a later epoch
        wrote here meanwhile; nothing is entered then. ``OutcomeUnknown`` if the disk failed: look before repeating."""
        checked = [check_body(body) for body in bodies]
        authority = self._authority()
        if not authority.decides:
            raise NotAuthorised(
                f"{authority.place} is {authority.state} and decides nothing now: {authority.why}".rstrip(": "),
                hint="Enter it where the authority is, or have the quorum move it here.",
            )
        before, entries = self._journal.enter(checked, time=self._clock(), epoch=authority.epoch, warrant=warrant)
        if self._store.head() == before:
            self._store.apply(entries)
        else:  # another process entered something first
            catch_up(self._journal, self._store)
        return entries[-1][1] if entries else before

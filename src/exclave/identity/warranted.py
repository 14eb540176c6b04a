"""Which entries of the identity journal a warrant has allowed: how far an order was carried out before a crash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from exclave.errors import CorruptObject
from exclave.formats.journal import Entry, Head
from exclave.ids import Digest, Instant

MARGIN_S = 86_400
"""How far the clocks of two machines that wrote into one journal may differ."""


class Readable(Protocol):
    """A journal that can be read; ``identity.journal.Journal`` is one."""

    def head(self) -> Head: ...

    def at(self, number: int) -> Head | None: ...

    def read_after(self, after: Head) -> Iterator[tuple[Entry, bytes, Head]]: ...


def entries_under(journal: Readable, warrant: Digest, since: Instant) -> Iterator[Entry]:
    """The entries that name ``warrant``, from shortly before ``since`` (when it began to hold) to the end."""
    for entry, _, _ in journal.read_after(_before(journal, Instant(since - MARGIN_S * 1_000_000))):
        if entry.warrant == warrant:
            yield entry


def _before(journal: Readable, time: Instant) -> Head:
    """A head before which every entry is older than ``time``; by halving, since times grow from entry to entry."""
    low, high = 0, journal.head().number
    while low < high:
        middle = (low + high + 1) // 2
        entry = next((entry for entry, _, _ in journal.read_after(_head(journal, middle - 1))), None)
        if entry is not None and entry.time < time:
            low = middle
        else:
            high = middle - 1
    return _head(journal, low)


def _head(journal: Readable, number: int) -> Head:
    head = journal.at(number)
    if head is None:
        raise CorruptObject(f"the identity journal has no entry {number}", entry=number)
    return head

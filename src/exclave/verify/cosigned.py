"""Heads that witnesses cosigned and that a source keeps beside its present one, so that a later head with fewer
cosignatures takes nothing away: neither one written while witnesses were down, nor one by a writer who is fenced.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from exclave.errors import CorruptObject, IntegrityError, UnavailableError
from exclave.formats.card import Card
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES
from exclave.formats.policy import WitnessPolicy
from exclave.formats.tile import cosigned_key, cosigned_prefix, cosigned_size
from exclave.ids import Key
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.verify.logs import LogReader

MAX_KEPT_LISTED = 1 << 20
"""Most names that are looked at; one is added with each cosigned head."""
MAX_KEPT_READ = 64
"""Most of them that are read: whoever may write to a site can put names there that mean nothing."""


def newest_cosigned(
    reader: LogReader, witnesses: Iterable[Card], policy: WitnessPolicy, *, near: int | None = None
) -> VerifiedCheckpoint | None:
    """The largest head kept at ``reader``'s source that a quorum of ``witnesses`` by ``policy`` cosigned.

    ``near``: size of the head that the source shows. Of names without end, those closest below it are read too, so
    that names of sizes that never were cannot hide it. Raises what the listing does; a kept head that cannot be read
    is passed over.
    """
    cards = tuple(witnesses)
    for key in _candidates(reader, near):
        try:
            data = reader.source.get(key, limit=MAX_CHECKPOINT_BYTES)
            head = reader.verify(data, cards)
            if head.counts_by(policy) and cosigned_key(reader.prefix, head.size, data) == key:
                return head
        except (IntegrityError, UnavailableError):
            continue  # Anybody may have put it there; a good one may be elsewhere.
    return None


def _candidates(reader: LogReader, near: int | None) -> Iterator[Key]:
    """Names worth reading, the largest size first."""
    found: list[tuple[int, Key]] = []
    for place, stat in enumerate(reader.source.list(cosigned_prefix(reader.prefix))):
        if place >= MAX_KEPT_LISTED:
            raise CorruptObject(f"more than {MAX_KEPT_LISTED} heads are kept in {reader.prefix}")
        size = cosigned_size(reader.prefix, stat.key)
        if size is not None:
            found.append((size, stat.key))
    chosen = set(heapq.nlargest(MAX_KEPT_READ, found))
    if near is not None:
        chosen |= set(heapq.nlargest(MAX_KEPT_READ, (item for item in found if item[0] <= near)))
    for _, key in sorted(chosen, reverse=True):
        yield key

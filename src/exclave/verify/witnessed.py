"""Since when witnesses vouch that an entry stands in a ledger: a time that whoever entered it does not set."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from exclave.errors import IntegrityError, UnavailableError
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES
from exclave.formats.tile import cosigned_key, cosigned_prefix, cosigned_size
from exclave.ids import Instant, Key
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.rules.policy import met_since
from exclave.sites.contract import Sources
from exclave.verify.cosigned import MAX_KEPT_LISTED, MAX_KEPT_READ
from exclave.verify.history import CountedFact, RegisterHistory
from exclave.verify.logs import LogReader, ProvenTree
from exclave.verify.state import StateView


def witnessed_since(
    view: StateView, sources: Sources, history: RegisterHistory, counted: CountedFact
) -> Instant | None:
    """When a quorum of the charter's witnesses had first cosigned a head with the entry of ``counted``.

    The beginning of time if the charter needs none; None if no source shows enough cosignatures. Of several heads the
    earliest is taken: each is signed by its witnesses, and is a former state of the very log that counts.
    """
    policy = view.chain.newest.charter.policy
    if policy.quorum is None:
        return Instant(0)
    log = history.epochs[counted.epoch - 1]
    times: list[Instant] = []
    for source in sources.values():
        reader = view.log_reader(log.epoch, source)
        for head in _heads(view, reader, counted.index):
            since = met_since(policy, dict(head.cosigners))
            if since is not None and _is_former_state(reader, head, log.freshest):
                times.append(since)
                break
    return min(times, default=None)


def _heads(view: StateView, reader: LogReader, index: int) -> Iterator[VerifiedCheckpoint]:
    """Cosigned heads that cover entry ``index``, as the source keeps them: the smallest first, the shown one last."""
    cards = tuple(view.witness_cards().values())
    try:
        for key in _kept(reader, index):
            data = reader.source.get(key, limit=MAX_CHECKPOINT_BYTES)
            try:
                head = reader.verify(data, cards)
            except IntegrityError:
                continue  # Anybody may have put it there.
            if cosigned_key(reader.prefix, head.size, data) == key:
                yield head
        shown = reader.head(cards)
        if shown.size > index:
            yield shown
    except (IntegrityError, UnavailableError):
        return  # `verify` says so; another source may do


def _kept(reader: LogReader, index: int) -> list[Key]:
    found: list[tuple[int, Key]] = []
    for place, stat in enumerate(reader.source.list(cosigned_prefix(reader.prefix))):
        if place >= MAX_KEPT_LISTED:
            break
        size = cosigned_size(reader.prefix, stat.key)
        if size is not None and size > index:
            found.append((size, stat.key))
    return [key for _, key in heapq.nsmallest(MAX_KEPT_READ, found)]


def _is_former_state(reader: LogReader, head: VerifiedCheckpoint, freshest: VerifiedCheckpoint | None) -> bool:
    if freshest is None or head.size > freshest.size:
        return False
    try:
        return ProvenTree(reader.source, reader.prefix, freshest).root_at(head.size) == head.root
    except (IntegrityError, UnavailableError):
        return False

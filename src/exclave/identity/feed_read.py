"""Following the identity feed: from what sites show to entries of the journal. Heads: ``verify/feeds.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exclave.crypto.hpke import OpeningKey
from exclave.errors import CorruptObject, Forked, MissingObject
from exclave.formats.feed import (
    ParsedBatch,
    ParsedFeedHead,
    parse_batch,
)
from exclave.formats.journal import Head, parse_entry
from exclave.identity.feed_batch import open_batch
from exclave.ids import Digest, Epoch, Fingerprint
from exclave.rules.epochs import EpochChain, VerifiedEpoch
from exclave.sites.contract import Sources
from exclave.verify.feeds import MAX_BATCHES, fetch_bytes, read_heads


@dataclass(frozen=True, slots=True)
class _Piece:
    """A batch on the way back from the newest one, and the entry that it follows."""

    epoch: VerifiedEpoch
    batch: Digest
    before: Head


def read_tail(
    state: Fingerprint, chain: EpochChain, sources: Sources, keys: Mapping[Epoch, OpeningKey], have: Head,
    *, best: ParsedFeedHead,
) -> Iterator[list[bytes]]:  # fmt: skip
    """The entries behind ``have`` up to ``best``, encoded, a batch at a time; each list follows the one before.

    ``keys``: by epoch, the key that its batches are opened with. The walk goes back from the newest batch, through
    former epochs where one began later, until ``have`` is reached; then the entries come in order. ``Forked`` if the
    feed does not contain ``have``, before anything is given out; ``MissingObject`` if no site has a good copy of a
    batch.
    """
    if best.head.number < have.number:
        raise Forked(f"the feed ends at entry {best.head.number}, the journal here at {have.number}")
    pieces: list[_Piece] = []
    epoch, last, until = chain.find(best.epoch), best.last, best.head
    while epoch is not None:
        before = until
        for piece in _walk(state, epoch, sources, last, have, _key(keys, epoch)):
            if piece.before.number < until.number:  # what a former epoch's writer entered later was cut off
                pieces.append(piece)
            before = piece.before
        if before.number <= have.number:
            break
        # This epoch went on from an entry that is not here yet: the former one's feed has it.
        epoch, until = chain.find(Epoch(epoch.number - 1)), before
        last = _last_of(state, epoch, sources, until) if epoch is not None else None
    yield from _entries(state, sources, pieces[::-1], keys, have, best.head)


def _last_of(state: Fingerprint, epoch: VerifiedEpoch, sources: Sources, until: Head) -> Digest | None:
    best = read_heads(state, epoch, sources).best
    if best is None or best.head.number < until.number:
        raise MissingObject(f"no site shows the feed of epoch {epoch.number} up to entry {until.number}")
    return best.last


def _walk(
    state: Fingerprint, epoch: VerifiedEpoch, sources: Sources, last: Digest | None, have: Head, key: OpeningKey
) -> Iterator[_Piece]:
    """Batches of ``epoch`` from the newest back, to the first that begins at or before ``have``."""
    for _ in range(MAX_BATCHES):
        if last is None:
            return
        parsed = fetch_batch(state, epoch, sources, last)
        before = open_batch(parsed, key, epoch.register, epoch.number).before
        yield _Piece(epoch, last, before)
        if before.number <= have.number:
            return
        last = parsed.previous
    raise CorruptObject("the identity feed has more batches than any good one")


def _entries(
    state: Fingerprint, sources: Sources, pieces: Sequence[_Piece], keys: Mapping[Epoch, OpeningKey], have: Head,
    wanted: Head,
) -> Iterator[list[bytes]]:  # fmt: skip
    """The entries of ``pieces`` behind ``have``, each checked against the chain."""
    at = have
    for number, piece in enumerate(pieces):
        # The next one may begin before this one ends: a former writer was cut off there.
        end = pieces[number + 1].before if number + 1 < len(pieces) else wanted
        parsed = fetch_batch(state, piece.epoch, sources, piece.batch)
        batch = open_batch(parsed, _key(keys, piece.epoch), piece.epoch.register, piece.epoch.number)
        before, found = batch.before, []
        for data in batch.entries:
            if before.number == at.number:
                if before.chain != at.chain:
                    raise Forked(f"entry {at.number} of the journal here is not the one in the feed")
                if at.number == end.number:
                    break
                _check_epoch(data, piece.epoch)
                found.append(data)
                at = before.after(data)
            before = before.after(data)
        if before.number == at.number and before.chain != at.chain:
            raise Forked(f"entry {at.number} of the journal here is not the one in the feed")
        if found:
            yield found
    if at != wanted:
        raise Forked(f"the feed does not lead from entry {have.number} to its head, entry {wanted.number}")


def _check_epoch(data: bytes, epoch: VerifiedEpoch) -> None:
    """An entry of a later epoch than its writer's would fence every writer that comes after."""
    entry = parse_entry(data)
    if entry.epoch > epoch.number:
        raise CorruptObject(
            f"entry {entry.number} in the feed of epoch {epoch.number} says that it is of epoch {entry.epoch}",
            entry=entry.number,
        )


def _key(keys: Mapping[Epoch, OpeningKey], epoch: VerifiedEpoch) -> OpeningKey:
    found = keys.get(epoch.number)
    if found is None:
        raise MissingObject(f"there is no key here to the feed of epoch {epoch.number}")
    return found


def fetch_batch(state: Fingerprint, epoch: VerifiedEpoch, sources: Sources, batch: Digest) -> ParsedBatch:
    """A batch from whichever site has it unharmed."""
    return parse_batch(fetch_bytes(state, epoch, sources, batch))

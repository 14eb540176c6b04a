"""Following the identity feed: from what sites show to entries of the journal. Heads: ``verify/feeds.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exclave.crypto.hpke import OpeningKey
from exclave.errors import CorruptObject, ExclaveError, Forked, MissingObject
from exclave.formats.feed import Batch, ParsedBatch, ParsedFeedHead, parse_batch
from exclave.formats.journal import Head, parse_entry
from exclave.identity.feed_batch import open_batch
from exclave.ids import Digest, Epoch, Fingerprint
from exclave.rules.epochs import EpochChain, VerifiedEpoch
from exclave.sites.contract import Sources
from exclave.verify.feeds import MAX_BATCHES, fetch_bytes, shown_heads


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
    former epochs where one began later, until ``have`` is reached; then the entries come in order. Each batch on the
    way must lead to what follows it, so a former writer can hide entries and make none. ``Forked`` if the newest
    writer's word contradicts ``have``, before anything is given out; ``MissingObject`` or ``CorruptObject`` if no site
    has a good copy of a batch or of a former feed.
    """
    if best.head.number < have.number:
        raise Forked(f"the feed ends at entry {best.head.number}, the journal here at {have.number}")
    epoch = chain.find(best.epoch)
    if epoch is None:
        raise MissingObject(f"epoch {best.epoch} of the identity feed is not known")
    pieces = _Walk(state, chain, sources, keys, have).back(epoch, best.last, best.head)
    yield from _entries(state, sources, pieces[::-1], keys, have, best.head)


@dataclass(frozen=True, slots=True)
class _Walk:
    """From an entry that the newest writer vouches for back to ``have``."""

    state: Fingerprint
    chain: EpochChain
    sources: Sources
    keys: Mapping[Epoch, OpeningKey]
    have: Head

    def back(self, epoch: VerifiedEpoch, last: Digest | None, until: Head) -> list[_Piece]:
        """Batches that lead to ``until``, the newest first: of ``epoch`` from ``last`` back, then of former epochs."""
        pieces: list[_Piece] = []
        key = _key(self.keys, epoch)
        for _ in range(MAX_BATCHES):
            if last is None or until.number <= self.have.number:
                break
            parsed = fetch_batch(self.state, epoch, self.sources, last)
            batch = open_batch(parsed, key, epoch.register, epoch.number)
            if batch.before.number < until.number:  # what a former epoch's writer entered later was cut off
                _check_leads(batch, until, epoch)
                pieces.append(_Piece(epoch, last, batch.before))
                until = batch.before
            last = parsed.previous
        else:
            raise CorruptObject("the identity feed has more batches than any good one")
        if until.number > self.have.number:
            # This epoch went on from an entry that is not here yet: the former one's feed has it.
            pieces += self._former(Epoch(epoch.number - 1), until)
        return pieces

    def _former(self, number: Epoch, until: Head) -> list[_Piece]:
        """Its writer is fenced, and may show a site what never was: each site's word is tried."""
        epoch = self.chain.find(number)
        if epoch is None:
            raise CorruptObject(f"nothing in the identity feed leads to entry {until.number}")
        heads = sorted(shown_heads(self.state, epoch, self.sources)[0].values(), key=lambda h: -h.head.number)
        failed: ExclaveError | None = None
        for last in dict.fromkeys(head.last for head in heads if head.head.number >= until.number):
            try:
                return self.back(epoch, last, until)
            except ExclaveError as error:
                failed = failed or error
        raise failed or MissingObject(f"no site shows the feed of epoch {number} up to entry {until.number}")


def _check_leads(batch: Batch, until: Head, epoch: VerifiedEpoch) -> None:
    """Whether ``until`` is an entry of ``batch``; by its chain value, all that stands before is then true as well."""
    at = batch.before
    for data in batch.entries[: until.number - at.number]:
        at = at.after(data)
    if at != until:
        raise CorruptObject(f"the identity feed of epoch {epoch.number} does not lead to entry {until.number}")


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

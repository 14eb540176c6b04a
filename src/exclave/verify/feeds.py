"""The identity feed as anybody can check it, without a key: who signed its heads, and whether its batches are there.

Every site is asked, since any may be behind, spoilt or lying. A head counts that the epoch's writer signed; of two that
count, the one that goes further; two that cannot both be true are a fork. Page: ``docs/spec/feed.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exclave.errors import CorruptObject, ExclaveError, Forked, MissingObject, UnavailableError
from exclave.formats.feed import MAX_BATCH_BYTES, ParsedFeedHead, parse_batch, parse_feed_head
from exclave.formats.journal import Head
from exclave.formats.note import parse_note
from exclave.formats.paths import feed_prefix
from exclave.ids import Digest, Fingerprint, Instant, Key, sha256
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.freshness import dated_ahead
from exclave.rules.signatures import verify_signed_by
from exclave.sites.contract import MAX_HEAD_BYTES, Readable, Sources
from exclave.verify.remembered import newest_head

MAX_BATCHES = 1_000_000


@dataclass(frozen=True, slots=True)
class FeedHeads:
    """What the sites show of one epoch's feed."""

    best: ParsedFeedHead | None
    """The one that goes furthest; verified."""
    by_site: Mapping[str, ParsedFeedHead]
    problems: Mapping[str, str]
    """Sites that show none that counts, and why."""


def head_key(state: Fingerprint, epoch: VerifiedEpoch) -> Key:
    """Where the head of an epoch's feed lies."""
    return Key(feed_prefix(state, epoch.register, epoch.number, epoch.digest) + "head")


def batch_key(state: Fingerprint, epoch: VerifiedEpoch, batch: Digest) -> Key:
    return Key(feed_prefix(state, epoch.register, epoch.number, epoch.digest) + batch.hex())


def verify_feed_head(data: bytes, epoch: VerifiedEpoch, now: Instant | None = None) -> ParsedFeedHead:
    """The head in ``data`` if the writer of ``epoch`` signed it, and, with ``now``, did not date it more than an hour
    ahead. ``MalformedError``, ``NotAuthorised``, ``CorruptObject`` otherwise."""
    note = parse_note(data)
    head = parse_feed_head(note.text)
    if head.register != epoch.register or head.epoch != epoch.number:
        raise CorruptObject("a feed's head speaks of another register or epoch")
    verify_signed_by(note, epoch.writer)
    if now is not None and (ahead := dated_ahead(head.time, now)):
        raise CorruptObject(f"the identity feed's head {ahead}", hint="Compare both clocks; nothing was taken over.")
    return head


def read_heads(
    state: Fingerprint, epoch: VerifiedEpoch, sources: Sources, *, now: Instant | None = None
) -> FeedHeads:  # fmt: skip
    """The heads that ``sources`` show. ``Forked`` if two that count cannot both be true.

    ``now``: for whoever goes by their times; None for whoever only asks how far a feed went.
    """
    found, problems = shown_heads(state, epoch, sources, now=now)
    chains: dict[int, Digest] = {}
    for name, head in found.items():
        if chains.setdefault(head.head.number, head.head.chain) != head.head.chain:
            raise Forked(
                f"{name} shows another entry {head.head.number} of the identity feed than other sites", site=name
            )
    best = max(found.values(), key=lambda h: (h.head.number, h.time), default=None)
    return FeedHeads(best, found, problems)


def shown_heads(
    state: Fingerprint, epoch: VerifiedEpoch, sources: Sources, *, now: Instant | None = None
) -> tuple[dict[str, ParsedFeedHead], dict[str, str]]:
    """By site: the verified head that it shows, or why none counts. They may contradict each other."""
    found: dict[str, ParsedFeedHead] = {}
    problems: dict[str, str] = {}
    key = head_key(state, epoch)
    for name, source in sources.items():
        try:
            found[str(name)] = newest_head(
                source, key, MAX_HEAD_BYTES, lambda data: verify_feed_head(data, epoch, now),
                lambda head: (head.head.number, head.time),
            )  # fmt: skip
        except MissingObject:
            problems[str(name)] = "it has none"
        except ExclaveError as error:
            problems[str(name)] = error.message
    return found, problems


def fetch_bytes(state: Fingerprint, epoch: VerifiedEpoch, sources: Sources, batch: Digest) -> bytes:
    """A batch's bytes from whichever source has them unharmed. ``MissingObject`` if none has; its cause is an
    ``UnavailableError`` if one of them could not be asked."""
    key = batch_key(state, epoch, batch)
    last: ExclaveError = MissingObject(f"no site has the batch {batch.hex()[:16]}… of the identity feed")
    for source in sources.values():
        try:
            data = source.get(key, limit=MAX_BATCH_BYTES)
        except (UnavailableError, MissingObject, CorruptObject) as error:
            last = last if isinstance(last, UnavailableError) else error
            continue
        if sha256(data) == batch:
            return data
        if not isinstance(last, UnavailableError):
            last = CorruptObject(f"the batch {batch.hex()[:16]}… of the identity feed does not have its hash")
    raise MissingObject(f"no site has a good copy of batch {batch.hex()[:16]}… of the identity feed") from last


def as_of(heads: FeedHeads, have: Head, now: Instant | None = None) -> Instant:
    """The moment up to which a journal that stands at ``have`` is complete, as far as the heads tell; 0: not known.
    With ``now``, heads that are dated more than an hour ahead tell nothing of it."""
    times = (h.time for h in heads.by_site.values() if h.head == have)
    return max((time for time in times if now is None or not dated_ahead(time, now)), default=Instant(0))


def absent_batches(
    state: Fingerprint, epoch: VerifiedEpoch, source: Readable, head: ParsedFeedHead
) -> Iterator[ExclaveError]:
    """What is wrong with the batches that ``head`` leads to at ``source``; the walk ends where one cannot be read."""
    last = head.last
    for _ in range(MAX_BATCHES):
        if last is None:
            return
        try:
            last = parse_batch(fetch_bytes(state, epoch, {"": source}, last)).previous
        except ExclaveError as error:
            yield error
            return
    yield CorruptObject("the identity feed has more batches than any good one")

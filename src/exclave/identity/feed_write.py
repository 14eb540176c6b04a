"""Sending the identity journal abroad: new entries as sealed batches, then a head that says how recent they are.

(1) where the feed stands · (2) batches to every site · (3) that is written down here · (4) at each site, what it missed
while it was away, then the head. Until (4) nothing names a batch, so a crash leaves at most objects that nobody reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from exclave.crypto.hpke import SealingKey
from exclave.crypto.sign import SigningPair
from exclave.errors import ExclaveError, HeadMoved, IntegrityError, MalformedError, RolledBack, UnavailableError
from exclave.formats.feed import MAX_CONTENT_BYTES, Batch, ParsedFeedHead
from exclave.formats.journal import Head
from exclave.formats.note import ParsedNote
from exclave.identity.feed_batch import recipient_of, seal_batch
from exclave.identity.feed_read import fetch_batch
from exclave.ids import Digest, Fingerprint, Instant, Label, sha256
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.signatures import sign_text
from exclave.sites.contract import Site
from exclave.verify.feeds import batch_key, fetch_bytes, head_key, read_heads, verify_feed_head

_OLDER = "This journal is an older copy: bring it up to date from the feed before anything is decided here."
_ENTRY_OVERHEAD = 8
_CONTENT_OVERHEAD = 64

ReadAfter = Callable[[Head], Iterator[tuple[bytes, Head]]]
"""From a head to the encoded entries behind it, each with the head after it."""


class _Position(msgspec.Struct, frozen=True):
    """How far the feed of an epoch was sent; kept in a file of the writer's."""

    epoch: bytes
    number: int
    chain: bytes
    last: bytes


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did."""

    head: Head
    time: Instant
    entries: int
    sites: tuple[Label, ...]
    """Sites that show the head now."""
    failed: Mapping[Label, str]


@dataclass(slots=True)
class FeedWriter:
    """Sends the journal of one epoch, whose writer this place is. One at a time; not for several threads."""

    state: Fingerprint
    epoch: VerifiedEpoch
    pair: SigningPair
    recipients: Mapping[Digest, SealingKey]
    start: Head
    """The entry after which this epoch's feed begins: the one that the epoch goes on from, or none of them, if what was
    sent before does not reach every machine of ``recipients``."""
    file: Path
    """Where it keeps how far it has come."""
    save: Callable[[Path, bytes], None]
    """Replaces a file durably."""
    random: Callable[[int], bytes] = os.urandom
    _position: _Position | None = None
    _tags: dict[Label, tuple[str, bytes]] = field(default_factory=dict)
    """By site: the tag of its head and the head's bytes, as this writer left them."""

    def push(self, sites: Mapping[Label, Site], read_after: ReadAfter, ends: Head, now: Instant) -> Pushed:
        """Sends what the feed lacks, and a head of ``now``, to every site that works.

        ``now`` was taken before the journal's head ``ends`` was read, so all that was decided before it is in the feed.
        If no site takes a batch, no head is shown, and what the sites show grows old. Raises ``RolledBack`` if the
        sites show entries that the journal here does not have.
        """
        at = self._position = self._position or self._find(sites, ends)  # (1)
        if at.number > ends.number:
            raise RolledBack(f"the feed was sent up to entry {at.number}, the journal here ends at {ends.number}",
                             hint=_OLDER)  # fmt: skip
        failed: dict[Label, str] = {}
        sent, whole = 0, True
        for batch in _batches(Head(at.number, Digest(at.chain)), read_after):  # (2)
            previous = Digest(at.last) if at.last else None
            data = seal_batch(
                batch, previous, self.recipients, self.epoch.register, self.epoch.number, random=self.random
            )
            name = sha256(data)
            if not self._put(sites, name, data, failed):
                whole = False
                break
            head = batch.before
            for entry in batch.entries:
                head = head.after(entry)
            at = _Position(self.epoch.digest, head.number, head.chain, name)
            # A restart goes on from here. Before: it seals the same entries anew; nothing names the first try.
            self.save(self.file, msgspec.msgpack.encode(at))  # (3)
            self._position, sent = at, sent + len(batch.entries)
        # Without its last entries the feed is not complete up to ``now``: a head that said so would be believed.
        shown = self._show(sites, at, now, failed) if whole else ()  # (4)
        return Pushed(Head(at.number, Digest(at.chain)), now, sent, shown, failed)

    def _put(self, sites: Mapping[Label, Site], name: Digest, data: bytes, failed: dict[Label, str]) -> bool:
        """Whether at least one site has the batch now."""
        key, good = batch_key(self.state, self.epoch, name), False
        for label, site in sites.items():
            try:
                site.put_same(key, data)
                good = True
            except (UnavailableError, IntegrityError) as error:
                failed[label] = error.message
        return good

    def _find(self, sites: Mapping[Label, Site], ends: Head) -> _Position:
        """(1) From the file, or from what the sites show of this writer's own; anew from the first entry if the last
        batch is not sealed to every recipient, or no site has it: a machine that was named since then could not read
        it, nor any before it."""
        kept = self._read()
        best = read_heads(self.state, self.epoch, sites).best
        if best is not None and best.head.number > ends.number:
            raise RolledBack(
                f"the feed was sent up to entry {best.head.number}, the journal here ends at {ends.number}", hint=_OLDER
            )
        if best is not None and (kept is None or best.head.number > kept.number):
            kept = _Position(self.epoch.digest, best.head.number, best.head.chain, best.last or b"")
        if kept is None or not kept.last:
            return _Position(self.epoch.digest, self.start.number, self.start.chain, b"")
        if self.recipients.keys() <= recipients_of(self.state, self.epoch, sites, Digest(kept.last)):
            return kept
        return _Position(self.epoch.digest, 0, Head().chain, b"")

    def _read(self) -> _Position | None:
        try:
            kept = msgspec.msgpack.decode(self.file.read_bytes(), type=_Position)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeError):
            return None  # a cache: the sites tell the same
        return kept if kept.epoch == self.epoch.digest and len(kept.chain) == 32 else None

    def _show(
        self, sites: Mapping[Label, Site], at: _Position, now: Instant, failed: dict[Label, str]
    ) -> tuple[Label, ...]:
        head = ParsedFeedHead(
            self.epoch.register, self.epoch.number, now, Head(at.number, Digest(at.chain)),
            Digest(at.last) if at.last else None,
        )  # fmt: skip
        text = head.encode()
        note = ParsedNote(text, sign_text(text, self.epoch.writer.name, self.pair)).encode()
        done = []
        for label, site in sites.items():
            try:
                self._bring(sites, label, site, head)
                self._replace(label, site, note, head)
            except ExclaveError as error:
                failed[label] = error.message
                self._tags.pop(label, None)
            else:
                failed.pop(label, None)
                done.append(label)
        return tuple(done)

    def _bring(self, sites: Mapping[Label, Site], label: Label, site: Site, head: ParsedFeedHead) -> None:
        """The batches that ``site`` missed, the newest last, so that what it shows is always whole.

        All that its own head leads to is there. That the newest batch is there says nothing of those before it: a site
        that comes back in the middle of a push has taken that one already.
        """
        known = self._known(label, site)
        missing: list[Digest] = []
        name = head.last
        while name is not None and (known is None or name != known.last):
            missing.append(name)
            name = fetch_batch(self.state, self.epoch, sites, name).previous
        for lacking in reversed(missing):
            key = batch_key(self.state, self.epoch, lacking)
            if site.stat(key) is None:
                site.put_same(key, fetch_bytes(self.state, self.epoch, sites, lacking))

    def _known(self, label: Label, site: Site) -> ParsedFeedHead | None:
        """The head that ``site`` shows: this writer's last, or what it has if that is not known. None: none that
        counts."""
        if label in self._tags:
            data = self._tags[label][1]
        else:
            there = site.read_head(head_key(self.state, self.epoch))
            data = there.data if there is not None else b""
        try:
            return verify_feed_head(data, self.epoch)
        except ExclaveError:
            return None

    def _replace(self, label: Label, site: Site, note: bytes, head: ParsedFeedHead) -> None:
        key = head_key(self.state, self.epoch)
        if label in self._tags:
            with suppress(HeadMoved):  # somebody else wrote there: look at what
                self._tags[label] = (site.replace_if(key, note, self._tags[label][0]), note)
                return
        there = site.read_head(key)
        if there is not None:
            self._check_there(there.data, head)
        self._tags[label] = (site.replace_if(key, note, there.tag if there else None), note)

    def _check_there(self, data: bytes, head: ParsedFeedHead) -> None:
        """What stands at the site may be replaced: it is nothing of ours, or no further than what we know."""
        try:
            shown = verify_feed_head(data, self.epoch)
        except ExclaveError:
            return  # not ours: whoever can write there can do this, and it is undone by writing again
        if shown.head.number > head.head.number:
            raise RolledBack(
                f"a site shows entry {shown.head.number} of the identity feed; the journal here ends at"
                f" {head.head.number}",
                hint=_OLDER,
            )


def _batches(before: Head, read_after: ReadAfter) -> Iterator[Batch]:
    """The entries behind ``before`` in pieces that fit."""
    entries: list[bytes] = []
    size, first, head = _CONTENT_OVERHEAD, before, before
    for data, after in read_after(before):
        if entries and size + len(data) + _ENTRY_OVERHEAD > MAX_CONTENT_BYTES:
            yield Batch(first, tuple(entries))
            entries, size, first = [], _CONTENT_OVERHEAD, head
        entries.append(data)
        size, head = size + len(data) + _ENTRY_OVERHEAD, after
    if entries:
        yield Batch(first, tuple(entries))


def recipients_of(state: Fingerprint, epoch: VerifiedEpoch, sites: Mapping[Label, Site], batch: Digest) -> set[Digest]:
    """To whom ``batch`` is sealed, and so all before it in its epoch: a writer only goes on from a batch that all of
    its own recipients can read. Empty if no site has it unharmed; ``UnavailableError`` if one could not be asked."""
    try:
        return set(fetch_batch(state, epoch, sites, batch).keys)
    except IntegrityError as error:
        if isinstance(error.__cause__, UnavailableError):
            raise error.__cause__ from error
        return set()
    except MalformedError:
        return set()


def recipients(opening: SealingKey, machines: Mapping[Label, SealingKey]) -> dict[Digest, SealingKey]:
    """Who can read the feed: the quorum by the epoch's opening key, and the machines that stand by."""
    return {recipient_of(key): key for key in (opening, *machines.values())}

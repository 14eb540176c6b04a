"""Appends to the log of one epoch at its primary site, so that a crash at any moment neither forks nor blocks it.

An append is three steps:

(1) *claim*: ``put_new`` of ``stage/<size>``, signed: what follows the tree of that size. Write-once, so of all that are
    ever tried exactly one is decided, whoever tried and however often the writer died.
(2) *lay out*: ``put_same`` of bundles and tiles. They depend on the decided entries alone, so every attempt to finish
    writes the same bytes under the same names.
(3) *head*: ``replace_if`` of the checkpoint. Only now does the log have the entries.

Opening a log finishes what it finds claimed. So once ``append`` has failed, its entries may or may not come to be in
the log: call ``reload`` and look, before composing other ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exclave.crypto.sign import SigningPair
from exclave.errors import (
    AlreadyExists,
    CorruptObject,
    Forked,
    HeadMoved,
    MalformedError,
    MissingObject,
    NotAuthorised,
    OutcomeUnknown,
    RolledBack,
    SiteUnavailable,
)
from exclave.formats.card import Card
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint
from exclave.formats.note import ParsedNote, Signature, parse_note
from exclave.formats.stage import MAX_STAGE_BYTES, MAX_STAGE_ENTRIES, Stage, parse_stage
from exclave.formats.tile import (
    TILE_WIDTH,
    bundle_key,
    check_entry,
    checkpoint_key,
    encode_bundle,
    encode_tile,
    stage_key,
    tile_key,
)
from exclave.ids import Digest, Instant, Key
from exclave.ledger.own_memory import LaidOver, Remembered
from exclave.rules.checkpoints import VerifiedCheckpoint, merge_signatures, sign_checkpoint
from exclave.rules.signatures import sign_text, verify_signed_by
from exclave.rules.tree import EMPTY_ROOT, Edge, leaf_hash
from exclave.sites.contract import Readable, Site
from exclave.verify.logs import LogReader

MAX_APPEND = MAX_STAGE_ENTRIES
"""Most entries of one append."""
_HEAD_TRIES = 8


@dataclass(frozen=True, slots=True)
class AppendedCheckpoint:
    """Entries ``first`` to ``first + count - 1`` are in the log, as ``checkpoint`` (or any later one) proves."""

    first: int
    count: int
    checkpoint: VerifiedCheckpoint


class Log:
    """One epoch's log at its primary site, open for its writer. Not for several threads; several processes are safe."""

    def __init__(self, site: Site, prefix: str, origin: str, writer: Card, pair: SigningPair) -> None:
        """Use ``Log.open``."""
        if (pair.ed25519_public, pair.mldsa44_public) != (writer.ed25519, writer.mldsa44):
            raise NotAuthorised(f"this key is not {writer.name}'s, the writer of {origin}")
        self._site = site
        self._prefix = prefix
        self._pair = pair
        self._reader = LogReader(site, prefix, origin, writer)
        self._checkpoint: VerifiedCheckpoint | None = None
        self._tag: str | None = None
        self._edge = Edge()
        self._partial: tuple[bytes, ...] = ()
        self._laid: dict[Key, bytes] = {}

    @classmethod
    def open(
        cls,
        site: Site,
        prefix: str,
        origin: str,
        writer: Card,
        pair: SigningPair,
        *,
        now: Instant,
        least: VerifiedCheckpoint | None = None,
        known: Remembered | None = None,
    ) -> Log:
        """The log as the site has it, after finishing appends that were claimed there; an empty one if there is none.

        ``least`` is the latest checkpoint known from elsewhere (other sites, witnesses, memory): ``RolledBack`` if
        the site shows less, ``Forked`` if it shows another history. Pass it whenever there is one: a site that hides
        its latest objects could otherwise make the writer sign a second history.

        ``known`` are entries that the writer remembers. A site that lacks some of them gets them, provided that they
        lead from what it shows to the very tree of ``least``: then nobody else is needed to have them.
        """
        log = cls(site, prefix, origin, writer, pair)
        log._load()
        log._check_least(least, known)
        log._finish_claimed(now, known)
        log._go_on(known, now)
        return log

    @property
    def size(self) -> int:
        return self._edge.size

    @property
    def root(self) -> Digest:
        return self._checkpoint.root if self._checkpoint else EMPTY_ROOT

    @property
    def checkpoint(self) -> VerifiedCheckpoint | None:
        """The head, as last read or written; None while the log is empty."""
        return self._checkpoint

    @property
    def reader(self) -> LogReader:
        """Reads this log at its primary site."""
        return self._reader

    def reader_over(self, source: Readable) -> tuple[LogReader, LaidOver]:
        """Reads what this object laid out from memory and what was there before from ``source``, which is told too."""
        over = LaidOver(self._laid, source)
        return LogReader(over, self._prefix, self._reader.origin, self._reader.writer), over

    def reload(self, now: Instant) -> None:
        """Takes over what happened at the site meanwhile, and finishes what was claimed there."""
        self._load()
        self._finish_claimed(now)

    def append(self, entries: Sequence[bytes], now: Instant) -> AppendedCheckpoint:
        """Appends 1 to 128 entries behind the head that this object knows, all or none.

        ``HeadMoved`` if somebody else appended or claimed meanwhile. After any other failure ``reload`` first; or
        call again with the same entries, which goes on where it stopped and appends them once.
        """
        if not 1 <= len(entries) <= MAX_APPEND:
            raise MalformedError(f"an append has 1 to {MAX_APPEND} entries, not {len(entries)}")
        stage = Stage(self._reader.origin, self.size, self.root, tuple(check_entry(entry) for entry in entries))
        self._claim(stage)
        return self._complete(stage, now)

    def attach(self, signatures: Iterable[Signature]) -> VerifiedCheckpoint:
        """Adds cosignatures on the head to the head; returns it. ``HeadMoved`` if the log has grown meanwhile."""
        if self._checkpoint is None:
            raise MissingObject("an empty log has no checkpoint to be cosigned")
        more, size = tuple(signatures), self.size
        for _ in range(_HEAD_TRIES):
            merged = merge_signatures(self._checkpoint.note, more)
            try:
                # A restart finds the head with or without the cosignatures: the same tree either way.
                return self._set_head(merged)
            except HeadMoved:
                self._load()
                if self.size != size:
                    raise
        raise SiteUnavailable(f"{self._site.address} keeps saying that the head of {self._prefix} was replaced")

    def _load(self) -> None:
        """Reads head, edge and partial bundle, and verifies them against the writer's own signature."""
        tagged = self._site.read_head(checkpoint_key(self._prefix))
        if tagged is None:
            if self._checkpoint is not None:
                raise RolledBack(f"{self._site.address} no longer shows the log {self._reader.origin}")
            return
        checkpoint = self._reader.verify(tagged.data)
        tree = self._reader.tree(checkpoint)
        if self._checkpoint is not None:
            if checkpoint.size < self.size:
                raise RolledBack(f"{self._site.address} shows {checkpoint.size} entries instead of {self.size}")
            tree.check_extends(self._checkpoint)
        edge = tree.edge()
        self._partial = tree.bundle(edge.size // TILE_WIDTH) if edge.size % TILE_WIDTH else ()
        self._edge, self._checkpoint, self._tag = edge, checkpoint, tagged.tag

    def _check_least(self, least: VerifiedCheckpoint | None, known: Remembered | None) -> None:
        if least is None or least.size == 0:
            return
        if self._checkpoint is not None and self._checkpoint.size >= least.size:
            self._reader.tree(self._checkpoint).check_extends(least)
            return
        lacking = known.between(self.size, least.size) if known is not None else None
        if lacking is None:
            raise RolledBack(f"{self._site.address} shows {self.size} entries of a log that has {least.size}")
        if self._edge.grow([leaf_hash(entry) for entry in lacking])[0].root != least.root:
            raise Forked(
                f"{self._site.address} shows another log than the one of {least.size} entries", size=least.size
            )

    def _finish_claimed(self, now: Instant, known: Remembered | None = None) -> None:
        """Finishes claimed appends. More than one only if the site fell back to an older head: it is led forward."""
        while (stage := self._claimed()) is not None:
            if known is not None:
                known.require_same(stage.size, stage.entries)
            self._complete(stage, now)

    def _go_on(self, known: Remembered | None, now: Instant) -> None:
        """Appends what the writer remembers and the site does not show."""
        if known is None:
            return
        if self.size < known.first:
            raise RolledBack(f"{self._site.address} shows {self.size} entries of a log that has {known.first}")
        rest = known.between(self.size, known.end) or ()
        for at in range(0, len(rest), MAX_APPEND):
            self.append(rest[at : at + MAX_APPEND], now)

    def _claimed(self) -> Stage | None:
        """What is decided to follow the present tree. Signed, because the site might have made it up."""
        key = stage_key(self._prefix, self.size)
        try:
            data = self._site.get(key, limit=MAX_STAGE_BYTES)
        except MissingObject:
            return None
        try:
            note = parse_note(data)
            verify_signed_by(note, self._reader.writer)
            stage = parse_stage(note.text)
        except (MalformedError, NotAuthorised) as error:
            raise CorruptObject(f"{key} is not what the writer put there") from error
        if (stage.origin, stage.size, stage.root) != (self._reader.origin, self.size, self.root):
            raise Forked(f"what is staged in {self._prefix} belongs to another tree of {stage.size} entries")
        return stage

    def _claim(self, stage: Stage) -> None:
        """Step (1). Returns once it is durably decided that ``stage`` comes next."""
        text = stage.encode()
        note = ParsedNote(text, sign_text(text, self._reader.writer.name, self._pair))
        try:
            # A restart finds the stage, and finishes it before anything else; or does not, and nothing has happened.
            self._site.put_new(stage_key(self._prefix, stage.size), note.encode())
        except (AlreadyExists, OutcomeUnknown) as error:
            # Ours from an earlier try, or from this one whose answer was lost: go on with it.
            found = self._claimed()
            if found is None and isinstance(error, OutcomeUnknown):
                raise
            if found is None:
                key = stage_key(self._prefix, stage.size)
                raise MissingObject(f"{self._site.address} says that {key} is taken, and does not show it") from error
            if found != stage:
                raise HeadMoved(f"other entries are to follow entry {stage.size} of {self._prefix}") from error

    def _complete(self, stage: Stage, now: Instant) -> AppendedCheckpoint:
        """Steps (2) and (3)."""
        row = (*self._partial, *stage.entries)
        first = self.size // TILE_WIDTH
        for at in range(0, len(row), TILE_WIDTH):
            part = row[at : at + TILE_WIDTH]
            # A restart finds the stage, and writes these bytes again under this name: fine for put_same. Nobody
            # reads a bundle or tile beyond the head, so a half laid out append is not seen.
            self._lay(bundle_key(self._prefix, first + at // TILE_WIDTH, len(part)), encode_bundle(part))
        edge, tiles = self._edge.grow([leaf_hash(entry) for entry in stage.entries])
        for tile, hashes in tiles:
            # As above.
            self._lay(tile_key(self._prefix, tile), encode_tile(hashes))
        checkpoint = self._advance(edge, row[len(row) - edge.size % TILE_WIDTH :], now)
        return AppendedCheckpoint(stage.size, len(stage.entries), checkpoint)

    def _lay(self, key: Key, data: bytes) -> None:
        self._site.put_same(key, data)
        self._laid[key] = data

    def _advance(self, edge: Edge, partial: tuple[bytes, ...], now: Instant) -> VerifiedCheckpoint:
        """Step (3): makes the tree of ``edge`` the head, or finds that it or a later one is the head already."""
        note, size = sign_checkpoint(Checkpoint(self._reader.origin, edge.size, edge.root), self._pair, now), self.size
        for _ in range(_HEAD_TRIES):
            try:
                # A restart finds the old head and the stage, and comes here again; or the new head, and is done.
                checkpoint = self._set_head(note)
            except (HeadMoved, OutcomeUnknown):
                self._load()
                if self._checkpoint is not None and self.size >= edge.size:
                    return self._check_decided(self._checkpoint, edge)
                if self.size != size:
                    raise
                # The head has its old size still: cosignatures were added, or the write was lost, or comes late.
                # Trying again with the tag just read is safe: whichever is applied first, it is the same tree.
                continue
            self._edge, self._partial = edge, partial
            return checkpoint
        raise SiteUnavailable(f"{self._site.address} keeps saying that the head of {self._prefix} was replaced")

    def _check_decided(self, head: VerifiedCheckpoint, edge: Edge) -> VerifiedCheckpoint:
        if self._reader.tree(head).root_at(edge.size) != edge.root:
            raise Forked(f"{self._prefix} shows other entries than the ones that were decided", size=edge.size)
        return head

    def _set_head(self, note: ParsedNote) -> VerifiedCheckpoint:
        data = note.encode()
        if len(data) > MAX_CHECKPOINT_BYTES:
            raise MalformedError("a checkpoint with so many cosignatures is too long")
        self._tag = self._site.replace_if(checkpoint_key(self._prefix), data, self._tag)
        self._checkpoint = self._reader.verify(data)
        return self._checkpoint

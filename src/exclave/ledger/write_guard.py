"""Which writes a host lets into a state's folder: decided by what is public there, without any key.

Credentials to write are a thief's, too. So a host takes only names of the layout, only bytes that a name's hash
allows, notes in their form, and in a ledger only what the epoch's writer signed and what makes it grow, as the tiles
prove that lie here. An epoch that a warrant has ended is closed: its log is completed up to its cut, no further.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from exclave.errors import (
    ConflictError,
    CorruptObject,
    Forked,
    HeadMoved,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    RolledBack,
    SiteFull,
)
from exclave.formats.note import parse_note
from exclave.formats.objectname import REPLACED, ObjectName, Part, parse_object_name
from exclave.formats.stage import MAX_STAGE_BYTES, parse_stage
from exclave.formats.tile import HASH_BYTES, MAX_BUNDLE_BYTES, TILE_WIDTH, Tile, parse_bundle
from exclave.formats.timestamp import MAX_TOKEN_BYTES
from exclave.ids import Instant, Key
from exclave.ledger.coded_guard import Wanted, check_vote, is_descriptor, require_spoilt
from exclave.ledger.public_notes import NOTES, check_form, is_vouched_for
from exclave.rules.checkpoints import VerifiedCheckpoint, cosigners
from exclave.rules.freshness import dated_ahead
from exclave.rules.signatures import verify_signed_by
from exclave.rules.tree import leaf_hash
from exclave.sites.contract import ObjectStat, Readable, Site
from exclave.verify.feeds import verify_feed_head
from exclave.verify.hosted import HostedView, KnownEpoch
from exclave.verify.logs import LogReader, LogTree

GUARDED_BYTES = 1 << 20
"""Larger objects are decided by their name's hash alone."""
MAX_UNVOUCHED = 1000
"""Notes and cards of one kind that nobody of the state vouches for, of one register or state: more are refused."""
_SCRATCH = "probe/"
_SCRATCH_DEPTH = 8


class WriteGuard:
    """The guard of one state's folder. For many threads."""

    def __init__(self, site: Site, view: HostedView, folder: str, clock: Callable[[], Instant]) -> None:
        """``clock``: the host's own; nothing that is dated far ahead of it may stand in the way of what comes later."""
        self._site, self._view, self._folder, self._clock = site, view, folder, clock

    def check_put(self, wanted: Wanted) -> None:
        """A write-once object. ``MalformedError``, ``CorruptObject``, ``NotAuthorised``, ``Fenced``, ``SiteFull``."""
        if _is_scratch(wanted.key):
            return
        name = self._named(wanted)
        if name.part in REPLACED:
            raise NotAuthorised(f"{wanted.key} is a head: it is replaced where it is as expected, and not put")
        if name.part in NOTES:
            self._check_note(name, wanted)
        elif name.part in (Part.STAGE, Part.COSIGNED, Part.TIMESTAMP, Part.TILE, Part.BUNDLE, Part.BATCH):
            known = self._epoch(name)
            if name.part is not Part.BATCH:
                self._check_log_object(name, known, wanted)

    def check_head(self, wanted: Wanted, expected: str | None) -> None:
        """A new head, in the place of the one with the tag ``expected``.

        ``RolledBack``, ``Forked`` and ``CorruptObject`` if the tiles here do not prove that the log only grows.
        """
        if _is_scratch(wanted.key):
            return
        name = self._named(wanted)
        if name.part not in REPLACED:
            raise NotAuthorised(f"{wanted.key} is write-once: nothing replaces it")
        if name.part is Part.VOTE:
            check_vote(self, self._site, wanted, expected)
            return
        known = self._epoch(name)
        if name.part is Part.FEED_HEAD and not known.same_pen:
            known.require_open()
        if wanted.data is None:
            return
        shown = self._site.read_head(wanted.key)
        if (shown.tag if shown else None) != expected:
            raise HeadMoved(f"{wanted.key} is no longer what it was when it was read", key=wanted.key)
        old = shown.data if shown else None
        if name.part is Part.FEED_HEAD:
            _check_feed_head(known, wanted.data, old, self._clock())
        else:
            self._check_checkpoint(known, wanted.data, old)

    def check_spoilt(self, wanted: Wanted) -> None:
        """Right bytes in the place of wrong ones: only bytes that a hash or a signed head proves to be right."""
        if _is_scratch(wanted.key):
            return
        name = self._named(wanted)
        if name.part in REPLACED:
            raise NotAuthorised(f"{wanted.key} is a head: it is replaced where it is as expected, and not repaired")
        if name.digest is not None:
            if name.digest != wanted.digest:
                require_spoilt(self._site, wanted.key, name.digest)
            return
        known = self._epoch(name)
        if wanted.data is None:
            return
        self._check_log_object(name, known, wanted, repair=True)
        if name.part in (Part.TILE, Part.BUNDLE):
            self._check_proven(name, known, wanted.key, wanted.data)
        elif name.part is Part.STAGE and self._is_stage_of(known, name, wanted.key):
            raise NotAuthorised(f"{wanted.key} is what its writer decided: it is not replaced")

    # Names and notes

    def _named(self, wanted: Wanted) -> ObjectName:
        name = parse_object_name(wanted.key)
        if name.state != self._view.state:
            raise NotAuthorised(f"{wanted.key[:80]} belongs to another state")
        if name.digest is not None and name.digest != wanted.digest and not is_descriptor(name, wanted):
            raise CorruptObject(f"the bytes do not have the hash that {wanted.key} is named by", key=wanted.key)
        return name

    def _check_note(self, name: ObjectName, wanted: Wanted) -> None:
        if wanted.data is None:
            return
        check_form(name.part, wanted.data)
        folder = os.path.join(self._folder, wanted.key.rpartition("/")[0])
        if _count(folder, MAX_UNVOUCHED) < MAX_UNVOUCHED:
            return
        try:
            view = self._view.view(register=name.register)
        except (IntegrityError, NotAuthorised) as error:
            raise SiteFull(f"there are {MAX_UNVOUCHED} notes here already, and no charter that holds") from error
        if not is_vouched_for(name, wanted.data, view):
            raise SiteFull(
                f"there are {MAX_UNVOUCHED} objects in {wanted.key.rpartition('/')[0]} already: from now on only those"
                " that somebody of the state has signed or named",
                hint="Look who writes here: somebody floods this site with notes of no worth.",
            )

    # Logs

    def _epoch(self, name: ObjectName) -> KnownEpoch:
        if name.register is None:
            raise MalformedError("only a register has a ledger")
        try:
            return self._view.find(name.register, name.epoch, name.note_start)
        except MissingObject as error:
            raise NotAuthorised(error.message, hint=error.hint) from error

    def _check_log_object(self, name: ObjectName, known: KnownEpoch, wanted: Wanted, *, repair: bool = False) -> None:
        if name.part is Part.STAGE:
            known.require_open()
        elif name.part in (Part.TILE, Part.BUNDLE):
            if name.part is Part.TILE and wanted.size_bytes != name.width * HASH_BYTES:
                raise MalformedError(f"a tile of {name.width} hashes has {name.width * HASH_BYTES} bytes")
            if not repair:
                self._require_unfinished(known)
        longest = {Part.STAGE: MAX_STAGE_BYTES, Part.BUNDLE: MAX_BUNDLE_BYTES, Part.TIMESTAMP: MAX_TOKEN_BYTES}
        limit = longest.get(name.part, GUARDED_BYTES)
        if wanted.size_bytes > limit:
            raise MalformedError(f"{wanted.size_bytes} bytes; at most {limit} can be right under {wanted.key}")
        if wanted.data is None:
            return
        if name.part is Part.STAGE:
            self._check_stage(name, known, wanted.data)
        elif name.part is Part.COSIGNED:
            size, start = wanted.key.rpartition("/")[2].split("-")
            if self._verified(known, wanted.data).size != int(size) or not wanted.digest.hex().startswith(start):
                raise CorruptObject(f"{wanted.key} is not named by the head's size and hash", key=wanted.key)
        elif name.part is Part.TIMESTAMP:
            # What it proves is for its readers to say; here it takes no more room than a token.
            if not wanted.digest.hex().startswith(wanted.key.rpartition("-")[2]):
                raise CorruptObject(f"{wanted.key} is not named by the token's hash", key=wanted.key)
        elif name.part is Part.BUNDLE:
            parse_bundle(wanted.data, name.width)

    def _check_stage(self, name: ObjectName, known: KnownEpoch, data: bytes) -> None:
        note = parse_note(data)
        verify_signed_by(note, known.epoch.writer)
        stage = parse_stage(note.text)
        if stage.origin != self._view.log(known).origin or stage.size != name.number:
            raise CorruptObject("a stage belongs to another log or place")

    def _is_stage_of(self, known: KnownEpoch, name: ObjectName, key: Key) -> bool:
        try:
            self._check_stage(name, known, self._site.get(key, limit=MAX_STAGE_BYTES))
        except (IntegrityError, NotAuthorised, MalformedError):
            return False
        return True

    def _require_unfinished(self, known: KnownEpoch) -> None:
        """``Fenced`` if the epoch is over, and its log here reaches to its cut already."""
        if known.cut is None:
            return
        head = self._head(known)
        if head is not None and head.size >= known.cut.size:
            known.require_open()

    def _check_checkpoint(self, known: KnownEpoch, data: bytes, old: bytes | None) -> None:
        reader = self._view.log(known)
        new = self._verified(known, data)
        former = None if old is None else _readable(reader, old)
        if former is not None and new.size == former.size:
            self._check_same_size(former, new)
            return
        if former is not None and new.size < former.size:
            raise RolledBack(f"the log here has {former.size} entries; a head of {new.size} would roll it back")
        self._require_unfinished(known)
        if new.size == 0:
            return
        tree = reader.tree(new)
        tree.edge()
        tree.bundle((new.size - 1) // TILE_WIDTH)
        if former is not None:
            tree.check_extends(former)
        if known.cut is None:
            return
        if new.size < known.cut.size:
            known.require_open()
        if tree.root_at(known.cut.size) != known.cut.root:
            raise Forked(f"the log of {new.size} entries is not the one that its successor goes on from")

    def _check_same_size(self, former: VerifiedCheckpoint, new: VerifiedCheckpoint) -> None:
        """Only what a witness of the state signed counts: other lines anybody could add, or put in its place."""
        if former.root != new.root:
            raise Forked(f"there are two logs of {new.size} entries", size=new.size)
        view = self._view.view()
        named = {witness.card for charter in view.chain.charters for witness in charter.charter.witnesses}
        cards = [view.cards[digest] for digest in named if digest in view.cards]
        lost = cosigners(former.note, cards).keys() - cosigners(new.note, cards).keys()
        if lost:
            raise ConflictError(f"a head of the same size would lose the cosignature of {min(lost)}")

    def _verified(self, known: KnownEpoch, data: bytes) -> VerifiedCheckpoint:
        try:
            return self._view.log(known).verify(data)
        except IntegrityError as error:
            raise NotAuthorised(error.message) from error

    def _head(self, known: KnownEpoch) -> VerifiedCheckpoint | None:
        try:
            return self._view.log(known).head()
        except IntegrityError:
            return None

    def _check_proven(self, name: ObjectName, known: KnownEpoch, key: Key, data: bytes) -> None:
        """The bytes are what the head here promises; beyond the head nothing is promised yet.

        There, bytes come in the place of wrong ones as they would in the place of none: of an epoch that is over, until
        its log here reaches to its cut.
        """
        head = self._head(known)
        width = 0 if head is None else min(TILE_WIDTH, (head.size >> (8 * name.level)) - name.number * TILE_WIDTH)
        if head is None or width < 1:
            self._require_unfinished(known)
            return
        if name.width > width:
            self._require_unfinished(known)
            if not _same_start(name, data, LogTree(self._site, name.prefix, head), width):
                raise Forked(f"{key} does not begin with what the head here promises")
            return
        # A former, narrower one is proven by the one that the head has.
        if not _same_start(name, data, LogTree(self._site, name.prefix, head), name.width):
            tree = LogTree(_Instead(self._site, key, data), name.prefix, head)
            if name.width != width or not _same_start(name, data, tree, width):
                raise Forked(f"{key} is not what the head here promises")


def _same_start(name: ObjectName, data: bytes, tree: LogTree, width: int) -> bool:
    """Whether ``data`` begins with the first ``width`` hashes or entries of its place in ``tree``."""
    have = min(TILE_WIDTH, (tree.size >> (8 * name.level)) - name.number * TILE_WIDTH)
    try:
        if name.part is Part.TILE:
            hashes = tree.tile(Tile(name.level, name.number, have))
            return data[: width * HASH_BYTES] == b"".join(hashes[:width])
        hashes = tree.tile(Tile(0, name.number, have))
        return tuple(leaf_hash(entry) for entry in parse_bundle(data, name.width)[:width]) == hashes[:width]
    except IntegrityError:
        return False


class _Instead(Readable):
    """``inner``, with other bytes under one name."""

    def __init__(self, inner: Readable, key: Key, data: bytes) -> None:
        self._inner, self._key, self._data = inner, key, data

    def get(self, key: Key, *, limit: int = GUARDED_BYTES) -> bytes:
        return self._data if key == self._key else self._inner.get(key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return self._inner.get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        return self._inner.stat(key)

    def list(self, prefix: str):  # type: ignore[no-untyped-def]
        return self._inner.list(prefix)


def _readable(reader: LogReader, data: bytes) -> VerifiedCheckpoint | None:
    """The head that is there; None if it is no checkpoint of this log: a damaged one is replaced by a right one."""
    try:
        return reader.verify(data)
    except IntegrityError:
        return None


def _check_feed_head(known: KnownEpoch, data: bytes, old: bytes | None, now: Instant) -> None:
    head = verify_feed_head(data, known.epoch)
    if ahead := dated_ahead(head.time, now):
        raise NotAuthorised(f"the feed's head {ahead}", hint="Compare the clocks of writer and host.")
    if old is None:
        return
    try:
        former = verify_feed_head(old, known.epoch)
    except (MalformedError, NotAuthorised, CorruptObject):
        return  # A damaged head is replaced by a right one.
    # One that was dated far ahead, while this clock was wrong, holds up nobody until that time has come.
    earlier = head.time < former.time and not dated_ahead(former.time, now)
    if head.head.number < former.head.number or earlier:
        raise RolledBack(f"the feed here has {former.head.number} entries up to a later time")
    if head.head.number == former.head.number and head.head != former.head:
        raise Forked(f"there are two feeds of {head.head.number} entries")


def _is_scratch(key: Key) -> bool:
    """What a probe of the site may write. Not deep: folders are counted against no quota."""
    if not key.startswith(_SCRATCH):
        return False
    if key.count("/") > _SCRATCH_DEPTH:
        raise MalformedError(f"a name below {_SCRATCH} has at most {_SCRATCH_DEPTH} slashes")
    return True


def _count(folder: str, most: int) -> int:
    """Names in ``folder``, counted up to ``most``."""
    count = 0
    try:
        with os.scandir(folder) as names:
            for _ in names:
                count += 1
                if count >= most:
                    break
    except FileNotFoundError:
        return 0
    return count

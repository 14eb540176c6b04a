"""A mirror of logs (C2SP tlog-mirror): it cosigns a head only if all that the head promises lies durably at its site.

The site is the copy: what a state's writer puts there, or uploads by ``add_entries``. A witness beside it, with a key
and a name of its own, keeps the pending head. Every entry is proven by a head that the log's writer signed.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from exclave.crypto.sign import SigningPair
from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Fenced,
    Forked,
    HeadMoved,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    RolledBack,
    SiteFull,
    SiteUnavailable,
    UnavailableError,
)
from exclave.formats.card import Card
from exclave.formats.mirror import INFO_TYPE, AddEntries, EntryPackage, encode_info, parse_add_entries
from exclave.formats.tile import (
    MAX_BUNDLE_BYTES,
    TILE_WIDTH,
    bundle_key,
    checkpoint_key,
    encode_bundle,
    encode_tile,
    parse_bundle,
    tile_key,
)
from exclave.formats.witness import AddCheckpoint, parse_add_checkpoint, parse_size
from exclave.ids import Digest, Instant, Key, sha256
from exclave.ledger.hosted_logs import HostedLog, HostedLogs
from exclave.ledger.witness import FENCED_PREFIX, TEXT, Witness, WitnessAnswer
from exclave.ledger.witness_store import WitnessStore, log_name
from exclave.rules.checkpoints import VerifiedCheckpoint, verify_cosigned_by
from exclave.rules.subtree import verify_subtree
from exclave.rules.tree import Edge, leaf_hash, new_tiles, root_of
from exclave.sites.contract import Site

TOO_FAR_BELOW = 32 * TILE_WIDTH
"""So many entries may an upload begin before those that are here already."""
PROVEN_AT_ONCE = 1024
"""Bundles that one request reads to prove that they lie here: it holds a turn at the disk, and others wait for one."""
_TRIES = 3


class Mirror:
    """For many threads. ``witness``: keeps the pending heads, with the key of ``witness_card``."""

    def __init__(
        self, logs: HostedLogs, witness: Witness, witness_card: Card, store: WitnessStore, card: Card, pair: SigningPair
    ) -> None:
        if card.name == witness_card.name:
            raise NotAuthorised("a mirror and the witness beside it are two cosigners: give them two keys and names")
        self._logs, self._witness, self._witness_card = logs, witness, witness_card
        self._cosigner = Witness(store, card, pair, logs.writer)
        self._finishing: dict[str, threading.Lock] = {}
        """Of each state: whether an upload is being finished, which reads all that came since the head."""
        self._held: dict[str, int] = {}
        """Entries of each log that are proven to lie here; begins anew with the process."""
        self._next: dict[str, int] = {}
        """Entries of each log that were uploaded and proven, but have no head here yet."""

    def latest(self, log: Digest) -> bytes | None:
        """The last head that it cosigned of the log whose origin has the SHA-256 ``log``; None if none."""
        return self._cosigner.latest(log)

    def add_checkpoint(self, body: bytes, now: Instant) -> WitnessAnswer:
        """A new pending head. The answer carries the witness's cosignatures, not the mirror's."""
        return self._witness.add_checkpoint(body, now)

    def add_held(self, body: bytes, now: Instant) -> WitnessAnswer:
        """Asked as a witness is; cosigns as a mirror, and only what lies here. 503: it does not (yet)."""
        try:
            request = parse_add_checkpoint(body)
        except MalformedError as error:
            return _refuse(400, error.message)
        try:
            log = self._logs.find(request.checkpoint.origin)
        except MissingObject:
            return _refuse(404, "unknown log")
        except ExclaveError:
            return _refuse(503, "the mirror cannot tell now whose log this is; try again")
        try:
            self._require_held(log, request)
        except Forked as error:
            return _refuse(422, error.message)
        except (UnavailableError, IntegrityError, NotAuthorised) as error:
            return _refuse(503, f"not held here: {error.message}")
        return self._cosigner.add_checkpoint(body, now)

    def note_head(self, origin: str, now: Instant) -> None:
        """Cosigns the head that the site shows now, if all of it is here: called when a head was replaced."""
        with suppress(ExclaveError):
            log = self._logs.find(origin)
            self._cosign(log, log.reader.head(), now)

    def add_entries(self, body: bytes, now: Instant) -> WitnessAnswer:
        """One upload. Statuses as C2SP tlog-mirror has them; 507 if there is no room."""
        try:
            request = parse_add_entries(body)
            log = self._logs.find(request.origin)
            log.known.require_open()
        except MalformedError as error:
            return _refuse(400, error.message)
        except MissingObject:
            return _refuse(404, "unknown log")
        except Fenced as error:
            return _refuse(403, FENCED_PREFIX + error.message)
        except (UnavailableError, IntegrityError, NotAuthorised):
            return _refuse(503, "the mirror cannot tell now whose log this is; try again")
        try:
            return self._upload(log, request, now)
        except SiteFull as error:
            return _refuse(507, error.message)
        except ExclaveError as error:
            return _refuse(503, error.message)

    # Uploads

    def _upload(self, log: HostedLog, request: AddEntries, now: Instant) -> WitnessAnswer:
        head = _head(log)
        size = head.size if head else 0
        pending = self._pending(log, head)
        if pending is None:
            return WitnessAnswer(409, INFO_TYPE, encode_info(0, 0, b""))
        if head is not None and request.start == request.end == size > 0:
            return self._cosign(log, head, now)
        target = pending if request.end == pending.size else self._by_ticket(log, request)
        reached = max(size, self._next.get(request.origin, 0))
        conflict = WitnessAnswer(409, INFO_TYPE, encode_info((target or pending).size, reached, pending.encode()))
        if target is None or target.size < size or request.start > reached or request.start < size - TOO_FAR_BELOW:
            return conflict
        saved, wrong = 0, ""
        try:
            for package in request.packages():
                _save(log, head, package, target)
                saved, reached = saved + 1, max(reached, package.end)
        except CorruptObject as error:
            return _refuse(422, error.message)
        except MalformedError as error:
            wrong = error.message
        self._next[request.origin] = reached
        if reached < target.size:
            if not saved:
                return _refuse(400, wrong or "no whole package came")
            return WitnessAnswer(202, INFO_TYPE, encode_info(target.size, reached, target.encode()))
        finishing = self._finishing.setdefault(request.origin.split("/")[1], threading.Lock())
        if not finishing.acquire(blocking=False):
            return _refuse(503, "another upload of this state is being finished; come again")
        try:
            if not _commit(log, target):
                return conflict
        finally:
            finishing.release()
        return self._cosign(log, target, now)

    def _pending(self, log: HostedLog, head: VerifiedCheckpoint | None) -> VerifiedCheckpoint | None:
        """The pending head; the site's own if the writer published further by itself."""
        data = self._witness.latest(log_name(log.reader.origin))
        pending = None if data is None else log.reader.verify(data)
        return head if pending is None or (head is not None and pending.size < head.size) else pending

    def _by_ticket(self, log: HostedLog, request: AddEntries) -> VerifiedCheckpoint | None:
        """A former pending head: the ticket is that head itself, with the witness's cosignature to prove it."""
        try:
            found = log.reader.verify(request.ticket)
            verify_cosigned_by(found.note, found.checkpoint, self._witness_card)
        except (IntegrityError, MalformedError, NotAuthorised):
            return None
        return found if found.size == request.end else None

    # What is here

    def _require_held(self, log: HostedLog, request: AddCheckpoint) -> None:
        """The site's head covers the request's, and all that the head promises is here."""
        head = log.reader.head()
        wanted = request.checkpoint
        if head.size < wanted.size:
            raise MissingObject(f"the head here has {head.size} entries, not {wanted.size}")
        shown = head.root if head.size == wanted.size else log.reader.tree(head).root_at(wanted.size)
        if shown != wanted.root:
            raise Forked(f"the log here has other entries among its first {wanted.size}", size=wanted.size)
        self._prove(log, head)

    def _prove(self, log: HostedLog, head: VerifiedCheckpoint) -> None:
        """Every bundle and tile that ``head`` promises is here and right. Those proven before are not read again.

        ``SiteUnavailable`` after ``PROVEN_AT_ONCE`` bundles: who asks again has the next ones read.
        """
        origin, tree = log.reader.origin, log.reader.tree(head)
        since = min(self._held.get(origin, 0), head.size)
        if since == head.size:
            return
        tree.edge()  # with it all partial tiles
        until = min(head.size, (since // TILE_WIDTH + PROVEN_AT_ONCE) * TILE_WIDTH)
        for index in range(since // TILE_WIDTH, -(-until // TILE_WIDTH)):
            tree.bundle(index)
        for tile in new_tiles(since, until):
            if tile.width == TILE_WIDTH:
                tree.tile(tile)
        self._held[origin] = max(self._held.get(origin, 0), until)
        if until < head.size:
            raise SiteUnavailable(f"{until} of {head.size} entries have been read so far; ask again")

    def _cosign(self, log: HostedLog, head: VerifiedCheckpoint, now: Instant) -> WitnessAnswer:
        """The mirror's cosignatures on ``head``, which the site holds; durable before they leave."""
        shown = log.reader.head()
        if shown.size < head.size:
            raise RolledBack(f"the site shows {shown.size} entries, not {head.size}")
        self._prove(log, shown)
        tree, old = log.reader.tree(head), 0
        for _ in range(_TRIES):
            proof = tree.consistency(old)
            answer = self._cosigner.add_checkpoint(AddCheckpoint(old, proof, head.note, head.checkpoint).encode(), now)
            if answer.status != 409:
                return answer
            seen = parse_size(answer.body)
            if seen == old or seen > head.size:
                return WitnessAnswer(409, INFO_TYPE, encode_info(seen, max(seen, shown.size), b""))
            old = seen
        raise HeadMoved("the mirror's own memory of this log keeps changing")


def _head(log: HostedLog) -> VerifiedCheckpoint | None:
    try:
        return log.reader.head()
    except MissingObject:
        return None


def _save(log: HostedLog, head: VerifiedCheckpoint | None, package: EntryPackage, target: VerifiedCheckpoint) -> None:
    """Proves a package by ``target``, then stores its bundle. ``CorruptObject`` if it is not part of the log."""
    entries = (*_before(log, head, package), *package.entries)
    subtree = root_of([leaf_hash(entry) for entry in entries])
    verify_subtree(subtree, package.first, package.end, target.size, target.root, package.proof)
    if head is None or package.end > head.size:
        # A restart finds the bundle, beyond the head, and asks for it again.
        _put(log.site, bundle_key(log.reader.prefix, package.first // TILE_WIDTH, len(entries)), encode_bundle(entries))


def _before(log: HostedLog, head: VerifiedCheckpoint | None, package: EntryPackage) -> tuple[bytes, ...]:
    """The entries between the last multiple of 256 and the package."""
    width, index = package.start - package.first, package.first // TILE_WIDTH
    if width == 0:
        return ()
    if head is not None and head.size >= package.start:
        return log.reader.tree(head).bundle(index)[:width]
    data = log.site.get(bundle_key(log.reader.prefix, index, width), limit=MAX_BUNDLE_BYTES)
    return parse_bundle(data, width)


def _commit(log: HostedLog, target: VerifiedCheckpoint) -> bool:
    """Tiles, then the head. False if the head here is larger than ``target`` by now."""
    prefix, key = log.reader.prefix, checkpoint_key(log.reader.prefix)
    for _ in range(_TRIES):
        shown = log.site.read_head(key)
        head = log.reader.verify(shown.data) if shown else None
        if head is not None and head.size >= target.size:
            return head.size == target.size
        size = head.size if head else 0
        edge = log.reader.tree(head).edge() if head else Edge()
        wanted = set(new_tiles(size, target.size))
        tree = log.reader.tree(target)
        for index in range(size // TILE_WIDTH, -(-target.size // TILE_WIDTH)):
            leaves = [leaf_hash(entry) for entry in tree.unproven_entries(index)]
            edge, tiles = edge.grow(leaves[max(0, size - index * TILE_WIDTH) :])
            for tile, hashes in tiles:
                if tile in wanted:
                    # A restart finds them beyond the head, and makes the same again.
                    _put(log.site, tile_key(prefix, tile), encode_tile(hashes))
        if edge.root != target.root:
            raise CorruptObject("the entries that were uploaded do not lead to the checkpoint")
        try:
            # A restart finds the former head, or this one and all that it promises.
            log.site.replace_if(key, target.encode(), shown.tag if shown else None)
        except HeadMoved:
            continue
        return True
    raise HeadMoved("the head keeps being replaced")


def _put(site: Site, key: Key, data: bytes) -> None:
    """Stores what is proven, also in the place of what somebody planted under its name."""
    try:
        site.put_same(key, data)
    except CorruptObject:
        site.replace_spoilt(key, data, sha256(site.get(key)))


def _refuse(status: int, reason: str) -> WitnessAnswer:
    return WitnessAnswer(status, TEXT, f"{reason}\n".encode())

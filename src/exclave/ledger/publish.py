"""Copies a log from its primary site to another one: what it says first, the head last.

Everything copied is proven by the checkpoint before it is put. A site that shows more, or something else, is never
overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import CorruptObject, HeadMoved, IntegrityError, WrongFingerprint
from exclave.formats.tile import bundle_key, checkpoint_key, cosigned_key, encode_bundle, encode_tile, tile_key
from exclave.ids import Key
from exclave.rules.checkpoints import VerifiedCheckpoint, merge_signatures
from exclave.rules.tree import new_tiles
from exclave.sites.contract import Site, Tagged, digest_of
from exclave.verify.logs import LogReader


@dataclass(frozen=True, slots=True)
class Published:
    """What ``publish`` did: sizes of the log at the target, before and after, and the number of objects sent."""

    before: int
    after: int
    objects: int
    head: VerifiedCheckpoint
    """What the target shows now."""


def publish(
    reader: LogReader, checkpoint: VerifiedCheckpoint, target: Site, *, everything: bool = False, mend: bool = False
) -> Published:
    """Brings the log at ``target`` forward to ``checkpoint``, which ``reader``'s source holds.

    A head of the same size gets the signatures of both. With ``everything``, objects that the target should have
    already are sent too, and a head that is no checkpoint of this log is replaced (a lost or damaged site). With
    ``mend``, other bytes under the name of what is sent are replaced too.
    ``Forked`` if the target shows another history, ``HeadMoved`` if it shows more entries, ``CorruptObject`` if its
    head is no checkpoint of this log or it holds other bytes under a name; site errors as they come. May be repeated.
    """
    shown = target.read_head(checkpoint_key(reader.prefix))
    theirs = _verify(reader, shown, everything) if shown else None
    before = theirs.size if theirs else 0
    if theirs is not None:
        _check_behind(reader, checkpoint, theirs, target)
    objects = _copy(reader, checkpoint, target, 0 if everything else before, mend)
    head = _replace_head(reader, checkpoint, theirs, shown, target)
    return Published(before, checkpoint.size, objects, head)


def keep_cosigned(site: Site, prefix: str, head: VerifiedCheckpoint) -> None:
    """Keeps ``head`` at ``site`` under a name of its own if anybody cosigned it, whatever replaces the head later.

    How many cosignatures are enough is for those who read it to say.
    """
    if all(signature.name == head.origin for signature in head.note.signatures):
        return
    data = head.encode()
    # A restart finds it or puts it again: the name follows from the bytes.
    site.put_same(cosigned_key(prefix, head.size, data), data)


def _verify(reader: LogReader, shown: Tagged, everything: bool) -> VerifiedCheckpoint | None:
    try:
        return reader.verify(shown.data)
    except (CorruptObject, WrongFingerprint):
        # Not signed for this log, so it proves nothing against anybody: a repair may replace it.
        if everything:
            return None
        raise


def _check_behind(reader: LogReader, ours: VerifiedCheckpoint, theirs: VerifiedCheckpoint, target: Site) -> None:
    if theirs.size <= ours.size:
        reader.tree(ours).check_extends(theirs)
        return
    LogReader(target, reader.prefix, reader.origin, reader.writer).tree(theirs).check_extends(ours)
    raise HeadMoved(f"{target.address} shows {theirs.size} entries of {reader.origin}, more than {ours.size}")


def _copy(reader: LogReader, checkpoint: VerifiedCheckpoint, target: Site, before: int, mend: bool) -> int:
    """Bundles and tiles beyond ``before``. A restart finds some of them under their names, and puts all again."""
    tree = reader.tree(checkpoint)
    count = 0
    for tile in new_tiles(before, checkpoint.size):
        if tile.level == 0:
            bundle = encode_bundle(tree.bundle(tile.index))
            _put(target, bundle_key(reader.prefix, tile.index, tile.width), bundle, mend)
            count += 1
        _put(target, tile_key(reader.prefix, tile), encode_tile(tree.tile(tile)), mend)
        count += 1
    return count


def _put(target: Site, key: Key, data: bytes, mend: bool) -> None:
    try:
        target.put_same(key, data)
    except CorruptObject:
        if not mend:
            raise
        try:
            there = digest_of(target, key).digest
        except IntegrityError:
            there = None  # too long, or no plain file
        # Killed before: the wrong bytes, and the next run finds them again. After: the right ones, durably.
        target.replace_spoilt(key, data, there)


def _replace_head(
    reader: LogReader,
    ours: VerifiedCheckpoint,
    theirs: VerifiedCheckpoint | None,
    shown: Tagged | None,
    target: Site,
) -> VerifiedCheckpoint:
    """The head, once all that it promises is there. A restart finds the old head or the new one: both are true."""
    note = ours.note
    if theirs is not None and theirs.size == ours.size:
        note = merge_signatures(theirs.note, ours.note.signatures)
        if set(note.signatures) == set(theirs.note.signatures):
            keep_cosigned(target, reader.prefix, theirs)
            return theirs
    data = note.encode()
    made = reader.verify(data)
    # Before the head says it, and before any head with fewer cosignatures can take its place.
    for head in (theirs, made):
        if head is not None:
            keep_cosigned(target, reader.prefix, head)
    target.replace_if(checkpoint_key(reader.prefix), data, shown.tag if shown else None)
    return made

"""One source's copy of a log, object by object: what is missing or wrong in it, and whether it was rolled back."""

from __future__ import annotations

import re
from dataclasses import dataclass

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, UnavailableError
from exclave.formats.note import parse_note
from exclave.formats.stage import MAX_STAGE_BYTES, parse_stage
from exclave.formats.tile import TILE_WIDTH, bundle_key, stage_key, tile_key
from exclave.ids import Digest
from exclave.rules.signatures import verify_signed_by
from exclave.rules.tree import leaf_hash, new_tiles, root_of
from exclave.sites.contract import Readable
from exclave.verify.ahead import each_ahead
from exclave.verify.copies import LogCopies, named
from exclave.verify.logs import ProvenTree
from exclave.verify.state import Finding, finding

MAX_LOG_OBJECTS = 1 << 20
"""Most objects of one log that are listed at one source."""
_PLACE = re.compile(r"((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?\Z")
_STAGES_CHECKED = 4


def known_leaves(copies: LogCopies) -> list[Digest] | None:
    """Hashes of all entries that count, proven; None if no source can show them all."""
    try:
        return [leaf_hash(entry) for _, entry in copies.entries()]
    except (IntegrityError, UnavailableError):
        return None


def audit_copy(copies: LogCopies, source: Readable, name: str, leaves: list[Digest] | None) -> list[Finding]:
    """Every bundle and tile that ``name``'s own head promises, compared with what they must be.

    ``leaves``: see ``known_leaves``. A head that contradicts what counts is another finding, and not gone into.
    """
    head = copies.heads[name]
    if head.size == 0 or copies.agreed.get(name, 0) < min(head.size, copies.size):
        return []
    register, found = copies.epoch.register, list[Finding]()
    tree = ProvenTree(source, copies.prefix, head)
    own: list[Digest] = []
    for index in each_ahead(range(-(-head.size // TILE_WIDTH)), tree.foresee):
        first = index * TILE_WIDTH
        width = min(TILE_WIDTH, head.size - first)
        wanted = leaves[first : first + width] if leaves is not None else []
        try:
            hashes = _bundle_hashes(tree, index, width, wanted)
        except (IntegrityError, UnavailableError) as error:
            found.append(finding(name, named(error, bundle_key(copies.prefix, index, width)), error, register))
            hashes = wanted
        own += hashes
        if len(own) < first + width:
            return found  # Without the entries nothing can be said about tiles that the finding does not say.
    row = own
    for tile in new_tiles(0, head.size):
        if tile.index == 0 and tile.level:
            row = [root_of(row[i : i + TILE_WIDTH]) for i in range(0, len(row) - TILE_WIDTH + 1, TILE_WIDTH)]
        key = tile_key(copies.prefix, tile)
        first = tile.index * TILE_WIDTH
        try:
            if tree.unproven_tile(tile) != tuple(row[first : first + tile.width]):
                wrong = CorruptObject("this tile does not hold the hashes of the log's entries")
                found.append(finding(name, key, wrong, register))
        except (IntegrityError, UnavailableError) as error:
            found.append(finding(name, named(error, key), error, register))
    return found


def _bundle_hashes(tree: ProvenTree, index: int, width: int, wanted: list[Digest]) -> list[Digest]:
    """Leaf hashes of the source's own bundle; entries that ``wanted`` does not cover are proven by its own tiles."""
    if len(wanted) < width:
        return [leaf_hash(entry) for entry in tree.bundle(index)]
    hashes = [leaf_hash(entry) for entry in tree.unproven_entries(index)]
    if hashes != wanted:
        raise CorruptObject("this bundle does not hold the entries that the checkpoint vouches for")
    return hashes


@dataclass(frozen=True, slots=True)
class Beyond:
    """What a source holds of a log beyond the head that it shows."""

    size: int
    """Number of entries that its tiles and bundles reach to."""
    was: int
    """The log had at least so many entries at this very source once: its writer's signed stage says so."""
    pending: int
    """Size of the log once what is staged after the head is appended; 0 if nothing is staged."""


def look_beyond(copies: LogCopies, source: Readable, name: str, found: list[Finding]) -> Beyond:
    """Reads the names of a log's objects at ``source``; what is odd about the listing is added to ``found``."""
    head = copies.heads.get(name)
    size = head.size if head else 0
    reach, pending, later = 0, False, list[int]()
    try:
        for place, stat in enumerate(source.list(copies.prefix)):
            if place >= MAX_LOG_OBJECTS:
                long = CorruptObject(f"there are more than {MAX_LOG_OBJECTS} objects; the rest was not looked at")
                found.append(finding(name, copies.prefix, long, copies.epoch.register))
                break
            path = stat.key.removeprefix(copies.prefix)
            if path.startswith("tile/entries/"):
                index, width = _place(path.removeprefix("tile/entries/"))
                reach = max(reach, index * TILE_WIDTH + width)
            elif path.startswith("stage/"):
                number, _ = _place(path.removeprefix("stage/"))
                pending = pending or number == size
                if number > size:
                    later = sorted([*later, number])[-_STAGES_CHECKED:]
    except (IntegrityError, UnavailableError) as error:
        found.append(finding(name, copies.prefix, error, copies.epoch.register))
    was = [number for number in later if _staged(copies, source, number)]
    return Beyond(reach, max(was, default=0), _staged(copies, source, size) if pending else 0)


def _place(text: str) -> tuple[int, int]:
    """Number and width in the last part of a tile's path; (-1, 0) if it is none."""
    match = _PLACE.match(text)
    if not match:
        return -1, 0
    return int(match[1].replace("x", "").replace("/", "")), int(match[2]) if match[2] else TILE_WIDTH


def _staged(copies: LogCopies, source: Readable, number: int) -> int:
    """The log's size after the stage at ``number``, if the writer signed it for this log; else 0."""
    try:
        note = parse_note(source.get(stage_key(copies.prefix, number), limit=MAX_STAGE_BYTES))
        verify_signed_by(note, copies.epoch.writer)
        stage = parse_stage(note.text)
    except ExclaveError:
        return 0  # Anybody may have put it there.
    origin = copies.counts.origin if copies.counts else next((h.origin for h in copies.heads.values()), stage.origin)
    return stage.size + len(stage.entries) if (stage.size, stage.origin) == (number, origin) else 0

"""Records to leaves to branches: the sealed tree of one dataset.

Where a node ends depends on its last name or id alone, so a change writes only the nodes around it anew.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence

import msgspec

from exclave.errors import Bug
from exclave.formats.entry import Entry, Kind, Stamp, digest_line
from exclave.formats.manifest import (
    HOLE,
    MAX_LEVEL,
    VERSION,
    Branch,
    Extent,
    ExtentNode,
    Leaf,
    Record,
    Ref,
    encode_node,
)
from exclave.ids import Digest
from exclave.rules.records import LevelTree
from exclave.vault.catalogue import (
    CatalogueWriter,
    FlatRecord,
    FormerLeaf,
    Frame,
    Part,
    are_comparable,
    decode_leaf,
    encode_marks,
)
from exclave.vault.records import FileCommitter
from exclave.vault.sealer import HERE, Slot

LEAF_LEAST = 64
LEAF_MOST = 2048
LEAF_MASK = 0x7F
LEAF_MOST_CHUNKS = 8192
LEAF_MOST_BYTES = 2 << 20
"""A leaf is closed when its records are longer than this; readers refuse a node of more than 8 MiB."""
BRANCH_CUT = 8
BRANCH_MOST = 1024
BRANCH_MOST_PATHS = 1 << 20
"""Bytes of the paths in a branch: paths of 64 KiB must not make it longer than a node may be."""


_FILE = int(Kind.FILE)


class Tables:
    """A node's tables of packs and chunks while it is being built."""

    def __init__(self) -> None:
        self._packs: dict[bytes, int] = {}
        self._chunks: dict[tuple[bytes, int], int] = {}
        self.rows: list[tuple[int, int, int, int, bytes]] = []
        self._slots: dict[Slot, int] = {}

    def position(self, pack: bytes, offset: int, length: int, raw: int, chunk: bytes) -> int:
        """Where that chunk stands in these tables."""
        key = (pack, offset)
        at = self._chunks.get(key)
        if at is None:
            at = self._chunks[key] = len(self.rows)
            self.rows.append((self._packs.setdefault(pack, len(self._packs)), offset, length, raw, chunk))
        return at

    def position_of(self, slot: Slot) -> int:
        """Where the chunk of ``slot``, which is ready, stands in these tables."""
        at = self._slots.get(slot)
        if at is None:
            ref = slot.ref()
            at = self._slots[slot] = self.position(ref.pack, ref.offset, ref.length, ref.raw, ref.id)
        return at

    def extent(self, part: Part) -> Extent:
        """``part`` by positions in these tables."""
        ref = part.ref
        if ref is None:
            return Extent(HOLE, 0, part.length)
        return Extent(self.position(ref.pack, ref.offset, ref.length, ref.raw, ref.id), part.start, part.length)

    def packs(self) -> tuple[bytes, ...]:
        return tuple(self._packs)

    def chunks(self) -> tuple[tuple[int, int, int, int, bytes], ...]:
        return tuple(self.rows)


def encode_extents(parts: Sequence[Part]) -> bytes:
    """An extent node of ``parts``."""
    tables = Tables()
    extents = tuple(tables.extent(part) for part in parts)
    return encode_node(ExtentNode(VERSION, tables.packs(), tables.chunks(), extents))


class _Open:
    """The leaf that is being filled."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.records: list[Record] = []
        self.stamps: list[Stamp | None] = []
        self.lines: list[bytes] = []
        self.listed: dict[int, tuple[bytes, ...]] = {}
        self.count = 0
        self.bytes = 0
        """About its length when encoded."""

    def add(self, record: Record, stamp: Stamp | None, line: bytes, listed: tuple[bytes, ...]) -> bool:
        """Whether the leaf ends with this record."""
        count = self.count
        if listed:
            self.listed[count] = listed
        self.records.append(record)
        self.stamps.append(stamp)
        self.lines.append(line)
        self.count = count = count + 1
        self.bytes = size = self.bytes + len(line) + 64 + 12 * len(record.extents)
        if count >= LEAF_MOST or size >= LEAF_MOST_BYTES or len(self.tables.rows) >= LEAF_MOST_CHUNKS:
            return True
        return count >= LEAF_LEAST and zlib.crc32(record.entry.path) & LEAF_MASK == LEAF_MASK

    def add_former(self, former: FormerLeaf, start: int, stop: int) -> tuple[int, bool]:
        """Records of a former leaf, up to the end of this one; the first that was not taken, and whether it ends.

        When one file in a hundred changed, nearly all others go through here.
        """
        former.open()
        leaf, stamps, listed = former.leaf, former.stamps, former.frame.listed
        moved = {HOLE: HOLE}
        for at in range(start, stop):
            record = leaf.records[at]
            if record.extents:
                record = self._moved(leaf, record, moved)
            if self.add(record, stamps[at], digest_line(record.entry, record.hash), listed.get(at, ())):
                return at + 1, True
        return stop, False

    def _moved(self, leaf: Leaf, record: Record, moved: dict[int, int]) -> Record:
        """``record`` of ``leaf`` with this leaf's positions; ``moved`` keeps what is known of them."""
        extents = record.extents
        same = True
        for extent in extents:
            old = extent.chunk
            if old not in moved:
                pack, offset, length, raw, name = leaf.chunks[old]
                moved[old] = self.tables.position(leaf.packs[pack], offset, length, raw, name)
            same = same and moved[old] == old
        if same:
            return record
        return Record(
            record.entry, tuple([Extent(moved[e.chunk], e.start, e.length) for e in extents]), record.hash, record.lists
        )

    def frame(self) -> Frame:
        packs = dict.fromkeys(self.tables.packs())
        for record in self.records:
            for ref in record.lists:
                packs[ref.pack] = None
        for names in self.listed.values():
            packs |= dict.fromkeys(names)
        entries = [record.entry for record in self.records]
        paths = [entry.path for entry in entries]
        leaf = Leaf(VERSION, self.tables.packs(), self.tables.chunks(), tuple(self.records))
        return Frame(
            first=paths[0] if paths else b"",
            last=paths[-1] if paths else b"",
            entries=len(paths),
            files=[entry.kind for entry in entries].count(_FILE),
            size_bytes=sum([entry.size for entry in entries]),
            comparable=are_comparable(self.stamps),
            packs=tuple(packs),
            listed=self.listed,
            marks=encode_marks(paths, self.stamps),
            lines=b"".join(self.lines),
            node=encode_node(leaf),
        )


class TreeBuilder:
    """Takes records in walk order; ``store`` seals a node and returns its slot."""

    def __init__(
        self,
        store: Callable[[bytes], Slot],
        needs: set[bytes],
        cache: CatalogueWriter | None,
        committer: FileCommitter | None = None,
    ) -> None:
        """``needs`` collects the names of all packs that the tree refers to; ``cache`` gets its leaves. ``committer``:
        if the dataset's documents are to be records."""
        self._store = store
        self._needs = needs
        self._cache = cache
        self._open = _Open()
        self._leaves: list[tuple[Slot, bytes]] = []
        """Each leaf, and the path of its first record."""
        self._digest = hashlib.sha256()
        self._committer = committer
        self._roots: list[Digest] = []
        """Of the records of each leaf."""
        self.entries = 0
        self.bytes = 0

    @property
    def digest(self) -> str:
        """SHA-256 of all entries' lines (``digest_line``), in hex; once ``finish`` was called."""
        return self._digest.hexdigest()

    def add(self, flat: FlatRecord) -> None:
        """A new record."""
        extents = tuple([self._open.tables.extent(part) for part in flat.parts])
        record = Record(flat.entry, extents, flat.hash, flat.lists)
        if self._open.add(record, flat.stamp, digest_line(flat.entry, flat.hash), flat.listed_packs):
            self._close_leaf()

    def add_stored(self, entry: Entry, stamp: Stamp | None, content: bytes, slot: Slot, start: int) -> None:
        """A new record of a file with the hash ``content``, in one chunk from its byte ``start`` on."""
        extent = Extent(self._open.tables.position_of(slot), start, entry.size)
        if self._open.add(Record(entry, (extent,), content), stamp, digest_line(entry, content), ()):
            self._close_leaf()

    def add_former(self, former: FormerLeaf, start: int, stop: int) -> None:
        """The records ``start`` … ``stop`` - 1 of a leaf of the last version; a whole leaf goes in as it is if it can.

        Where leaves end depends on names alone: soon after a change they end where they did.
        """
        frame = former.frame
        if start == 0 and stop == frame.entries and former.whole and not self._open.records:
            if self._committed(frame) is frame:
                self._add_leaf(frame)
                if self._cache is not None:
                    self._cache.add_encoded(former.encoded)
            else:
                self._keep(self._committed(frame))
            return
        while start < stop:
            start, full = self._open.add_former(former, start, stop)
            if full:
                self._close_leaf()

    def _close_leaf(self) -> None:
        frame = self._open.frame()
        self._open = _Open()
        self._keep(self._committed(frame))

    def _keep(self, frame: Frame) -> None:
        self._add_leaf(frame)
        if self._cache is not None:
            self._cache.add(frame)

    def _committed(self, frame: Frame) -> Frame:
        """``frame`` with the root of its records, if such are kept: itself if it has it, or none is needed."""
        committer = self._committer
        if committer is None or frame.records.startswith(committer.tag):
            return frame
        root = committer.tree(decode_leaf(frame.node)).root
        return msgspec.structs.replace(frame, records=committer.tag + root)

    def _add_leaf(self, frame: Frame) -> None:
        self._needs.update(frame.packs)
        self._digest.update(frame.lines)
        self.entries += frame.entries
        self.bytes += frame.size_bytes
        self._leaves.append((self._store(frame.node), frame.first))
        if self._committer is not None:
            self._roots.append(Digest(frame.records[len(self._committer.tag) :]))

    def records_root(self) -> Digest | None:
        """Root of all its records, once ``finish`` was called; None if none are kept."""
        committer = self._committer
        return None if committer is None else LevelTree(self._roots, committer.key.filler).root

    def finish(self, place: Callable[[list[Slot], int], tuple[Ref, ...]]) -> tuple[Slot, int]:
        """Slot and level of the top node.

        ``place(slots, reserve)`` gives the references of ``slots`` for a node of at most ``reserve`` bytes to come.
        """
        if self._open.records or not self._leaves:
            self._close_leaf()
        nodes, level = self._leaves, 0
        while len(nodes) > 1:
            level += 1
            if level > MAX_LEVEL:
                raise Bug("a manifest's tree grows without end")
            above: list[tuple[Slot, bytes]] = []
            for group in _groups(nodes):
                firsts = tuple(first for _, first in group)
                refs = place([slot for slot, _ in group], 256 + 104 * len(group) + sum(map(len, firsts)))
                self._needs.update(ref.pack for ref in refs if ref.pack != HERE)
                above.append((self._store(encode_node(Branch(VERSION, level, refs, firsts))), firsts[0]))
            nodes = above
        return nodes[0][0], level


def _groups(nodes: list[tuple[Slot, bytes]]) -> list[list[tuple[Slot, bytes]]]:
    groups: list[list[tuple[Slot, bytes]]] = [[]]
    paths = 0
    for slot, first in nodes:
        groups[-1].append((slot, first))
        paths += len(first)
        full = len(groups[-1]) >= BRANCH_MOST or paths >= BRANCH_MOST_PATHS
        if len(groups[-1]) >= 2 and (slot.id[-1] < BRANCH_CUT or full):
            groups.append([])
            paths = 0
    if not groups[-1]:
        groups.pop()
    return groups

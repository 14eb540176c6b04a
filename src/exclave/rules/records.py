"""The tree over a version's records: one root, and ways to it that betray no more. Page: ``docs/spec/proof.md``.

Commitment: SHA-256(0x00 || salt || record). Node: SHA-256(0x01 || smaller child || larger child): so a way needs no
directions, which would tell a record's place among the others. Where a row has an odd end, that node is paired with a
*filler*, which only the holder of the records' key can tell from a hash: so all ways of a tree are equally long, and
tell no more than how many bits the number of its records has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from exclave.crypto.keyed import derived_key
from exclave.errors import CorruptObject
from exclave.formats.record import MAX_STEPS, SALT_BYTES, Opening, file_line, record_head, rows_head
from exclave.ids import Digest, Label

Filler = Callable[[bytes], Digest]
"""From a node without a sibling to what stands in its place; of an empty tree, from nothing to its root."""


def commitment(salt: bytes, record: bytes) -> Digest:
    return Digest(hashlib.sha256(b"\x00" + salt + record).digest())


def join(one: bytes, other: bytes) -> Digest:
    """The node above two."""
    return Digest(hashlib.sha256(b"\x01" + one + other if one < other else b"\x01" + other + one).digest())


def verify_opening(opening: Opening, root: Digest) -> None:
    """Returns if ``opening``'s record is one of those that ``root`` commits to; else ``CorruptObject``."""
    if len(opening.salt) != SALT_BYTES or len(opening.path) > MAX_STEPS or any(len(s) != 32 for s in opening.path):
        raise CorruptObject("a record's salt or way to the root has a wrong length")
    found = commitment(opening.salt, opening.record)
    for step in opening.path:
        found = join(found, step)
    if found != root:
        raise CorruptObject("the record does not lead to the root that its version names: it is not of this version")


class LevelTree:
    """A tree that is kept as a whole, so that the way of any of its nodes is at hand."""

    def __init__(self, nodes: Sequence[Digest], filler: Filler) -> None:
        self._levels: list[list[Digest]] = [list(nodes)]
        while len(row := self._levels[-1]) > 1:
            if len(row) & 1:
                row.append(filler(row[-1]))
            self._levels.append([join(row[at], row[at + 1]) for at in range(0, len(row), 2)])
        self.root = self._levels[-1][0] if nodes else filler(b"")

    def way(self, place: int) -> tuple[Digest, ...]:
        """The hashes beside the way of node number ``place``, from 0, up to the root."""
        found = []
        for row in self._levels[:-1]:
            found.append(row[place ^ 1])
            place >>= 1
        return tuple(found)


class GrowingTree:
    """The same tree in bounded memory: nodes are added one by one, and the way of one of them can be kept."""

    def __init__(self, filler: Filler) -> None:
        self._filler = filler
        self._rows: list[Digest | None] = []
        """At each height, a perfect subtree that waits for its neighbour."""
        self._count = 0
        self._kept: Digest | None = None
        self.way: list[Digest] = []
        """Of the node that was added with ``keep``: complete once ``finish`` was called."""

    def add(self, node: Digest, *, keep: bool = False) -> None:
        if keep:
            self._kept, self.way = node, []
        self._count += 1
        height, rows = 0, self._rows
        while height < len(rows) and (waiting := rows[height]) is not None:
            node = self._join(waiting, node)
            rows[height] = None
            height += 1
        if height == len(rows):
            rows.append(node)
        else:
            rows[height] = node

    def finish(self) -> Digest:
        """The root over all nodes."""
        if not self._count:
            return self._filler(b"")
        carried: Digest | None = None
        for waiting in self._rows[: (self._count - 1).bit_length()]:
            if waiting is not None and carried is not None:
                carried = self._join(waiting, carried)
            elif (alone := waiting or carried) is not None:
                carried = self._join(alone, self._filler(alone))
        top = carried or self._rows[-1]
        if top is None:
            raise CorruptObject("a tree of records has no root")
        return top

    def _join(self, one: Digest, other: Digest) -> Digest:
        made = join(one, other)
        if self._kept is not None and self._kept in (one, other):
            self.way.append(other if self._kept == one else one)
            self._kept = made
        return made


class RecordsKey:
    """All that is secret about one register's commitments: whoever opens one of its versions has it, and its writer."""

    def __init__(self, id_key: bytes, register: str) -> None:
        """``id_key``: as in a manifest's secrets. ``register``: the name at home, which each record bears."""
        self._key = derived_key(id_key, b"exclave/records/v1")
        self.register = register

    def filler(self, node: bytes) -> Digest:
        """See ``Filler``."""
        return Digest(derived_key(self._key, b"filler" + node))

    def open_file(self, head: bytes, path: bytes, size: int, content: bytes) -> Opening:
        """The commitment to one document, opened. ``head``: ``file_head`` of its dataset."""
        record = head + file_line(path, size, content)
        return Opening(record, derived_key(self._key, b"file" + record), ())

    def file_head(self, dataset: Label) -> bytes:
        return record_head(self.register, dataset)

    def rows_head(self, dataset: Label, kind: str, table: str) -> bytes:
        """``table``: as in the dataset's digest, percent-encoded."""
        return rows_head(self.register, dataset, kind, table)

    def row_salt(self, number: int, record: bytes) -> bytes:
        """``number``: of the row in its table, from 0: two equal rows have different commitments."""
        return derived_key(self._key, b"row" + number.to_bytes(8) + record)

    def version_step(self, sequence: int) -> Digest:
        """The last step of every way of a version: equal contents of two versions do not show in their roots."""
        return Digest(derived_key(self._key, b"version" + sequence.to_bytes(8)))

    def tag(self, dataset: Label) -> bytes:
        """Tells whether roots that were kept of ``dataset``'s documents were made with this key and name."""
        return derived_key(self._key, b"tag" + self.file_head(dataset))[:8]


class VersionTree:
    """The top of a version's tree, over the roots of those of its datasets that take part."""

    def __init__(self, key: RecordsKey, sequence: int, roots: Mapping[Label, Digest]) -> None:
        self._labels = sorted(roots)
        self._tree = LevelTree([roots[label] for label in self._labels], key.filler)
        self._step = key.version_step(sequence)
        self.root = join(self._tree.root, self._step)

    def extend(self, dataset: Label, opening: Opening) -> Opening:
        """``opening`` up to the dataset's root, made to lead to the version's."""
        return opening.further((*self._tree.way(self._labels.index(dataset)), self._step))

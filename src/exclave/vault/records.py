"""A dataset's documents as records: their tree, leaf by leaf of the manifest.

The commitments of one manifest leaf make a small tree whose root the writer keeps beside that leaf in its catalogue; so
a version costs the leaves that changed, and one hash for each other. Content is not read: the manifest has its hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exclave.errors import MissingObject
from exclave.formats.entry import Kind
from exclave.formats.manifest import Leaf, Record
from exclave.formats.record import Opening
from exclave.ids import Digest, Label
from exclave.rules.records import LevelTree, RecordsKey, commitment

_FILE = int(Kind.FILE)


class FileCommitter:
    """Commits to the documents of one dataset."""

    def __init__(self, key: RecordsKey, dataset: Label) -> None:
        self.key = key
        self.head = key.file_head(dataset)
        self.tag = key.tag(dataset)

    def open(self, record: Record) -> Opening:
        """The document ``record``, up to its own commitment."""
        entry = record.entry
        return self.key.open_file(self.head, entry.path, entry.size, record.hash)

    def tree(self, leaf: Leaf) -> LevelTree:
        """Over the leaf's files, in its order; folders, links and the like are no records."""
        return LevelTree(
            [
                commitment(opening.salt, opening.record)
                for record in leaf.records
                if record.entry.kind == _FILE
                for opening in (self.open(record),)
            ],
            self.key.filler,
        )


class DocumentBook:
    """Every document of one dataset of one version, ready to be shown. Memory: some 300 bytes for each."""

    def __init__(self, key: RecordsKey, dataset: Label, leaves: Iterable[Leaf]) -> None:
        """``leaves``: all of the dataset's, in order."""
        self._committer = FileCommitter(key, dataset)
        self._places: dict[bytes, tuple[int, int, int, bytes]] = {}
        """By path: number of its leaf, its place among the files there, its size and hash."""
        self._trees: list[LevelTree] = []
        for number, leaf in enumerate(leaves):
            files = [record for record in leaf.records if record.entry.kind == _FILE]
            for place, record in enumerate(files):
                self._places[record.entry.path] = number, place, record.entry.size, record.hash
            self._trees.append(self._committer.tree(leaf))
        self._top = LevelTree([tree.root for tree in self._trees], key.filler)

    @property
    def root(self) -> Digest:
        """As the version commits to it."""
        return self._top.root

    @property
    def paths(self) -> Iterable[bytes]:
        """Of all documents, in walk order."""
        return self._places.keys()

    def documents(self) -> Iterator[tuple[bytes, int]]:
        """Path and size of each, in walk order."""
        return ((path, size) for path, (_, _, size, _) in self._places.items())

    def open(self, path: bytes) -> Opening:
        """The document at ``path``, up to the dataset's root. ``MissingObject`` if there is none."""
        found = self._places.get(path)
        if found is None:
            raise MissingObject(
                f"there is no document {path.decode('utf-8', 'backslashreplace')!r} in this version",
                hint="Write its path as it is below the dataset's folder. Of a link, name what it leads to.",
            )
        number, place, size, content = found
        head = self._committer.key.open_file(self._committer.head, path, size, content)
        return head.further((*self._trees[number].way(place), *self._top.way(number)))

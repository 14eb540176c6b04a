"""Mount: every version of an opened register as folders and files, each read when somebody asks for it.

``/000012_2026-11-26T21-05-00Z/DATASET/…`` for each version that counts, and ``latest``, a link to the newest. Nothing
of a version is opened before somebody enters its folder. The keys and what was read live in this process alone.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from exclave.errors import CorruptObject, ExclaveError
from exclave.formats.entry import Entry, Kind
from exclave.formats.manifest import Root
from exclave.ids import Fingerprint, Instant, instant_text
from exclave.operations.custody import OpenedRegister
from exclave.operations.restore import open_version
from exclave.sites.contract import Sources
from exclave.vault.lookup import Found, TreeLookup
from exclave.vault.opener import PackReader
from exclave.vault.reading import ChunkCache, FaultLog, OpenFile
from exclave.verify.history import CountedVersion

LATEST: Final = b"latest"
CACHE_BYTES: Final = 128 << 20
_MOST_OPEN: Final = 8
"""Versions whose nodes stay in memory (``vault/lookup.py``): somebody who searches all of them must not fill it."""
_FORMS: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.FOLDER: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHAR_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True)
class Attributes:
    """What ``stat`` says of a name."""

    mode: int
    """Kind and permission bits."""
    inode: int
    links: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    device: int = 0


@dataclass(frozen=True, slots=True)
class _Version:
    """A version whose root was read."""

    reader: PackReader
    root: Root
    trees: dict[bytes, TreeLookup]


def version_name(version: CountedVersion) -> bytes:
    """``000012_2026-11-26T21-05-00Z``: sorts by number, and no shell or web server stumbles over it."""
    time = instant_text(version.leaf.time)[:19].replace(":", "-")
    return f"{version.leaf.sequence:06d}_{time}Z".encode()


class MountedRegister:
    """The tree that is shown. Paths are bytes, relative, the empty one being the top. Safe for several threads.

    ``None`` stands for what is not there. What cannot be read for another reason raises: ``MissingObject`` if no site
    has a good copy, ``CorruptObject`` for a manifest that lies, ``UnavailableError``. ``tell`` is given a line for each
    fault of a site, once.
    """

    def __init__(
        self,
        state: Fingerprint,
        sources: Sources,
        opened: OpenedRegister,
        versions: tuple[CountedVersion, ...],
        *,
        tell: Callable[[str], None],
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._state, self._sources, self._opened = state, sources, opened
        self._versions = {version_name(version): version for version in versions}
        self._latest = version_name(versions[-1]) if versions else b""
        self._open: OrderedDict[bytes, _Version] = OrderedDict()
        self._lock = threading.Lock()
        self._cache = ChunkCache(cache_bytes)
        self._faults = FaultLog(tell)
        self._own = os.geteuid(), os.getegid()

    def close(self) -> None:
        """Forgets the keys and what was read; reads that are under way end."""
        self._cache.close()
        self._open.clear()
        self._opened.keys.clear()

    @property
    def newest(self) -> Instant:
        """The state that the newest version holds."""
        return self._versions[self._latest].leaf.time if self._latest else Instant(0)

    def attributes(self, path: bytes) -> Attributes | None:
        """Of one name."""
        name, _, rest = path.partition(b"/")
        if not name:
            return self._folder(b"", self.newest)
        if name == LATEST and not rest and self._latest:
            return self._plain(stat.S_IFLNK | 0o777, LATEST, len(self._latest), self.newest)
        version = self._versions.get(name)
        if version is None:
            return None
        if not rest:
            return self._folder(name, version.leaf.time)
        tree, inner = self._tree(name, rest)
        if tree is None:
            return None
        found = tree.find(inner)
        return None if found is None else self._of_entry(tree, path[: len(path) - len(inner)], found)

    def names(self, folder: bytes) -> Iterator[tuple[bytes, Attributes]]:
        """What lies in a folder, with its attributes."""
        name, _, rest = folder.partition(b"/")
        if not name:
            for version, counted in self._versions.items():
                yield version, self._folder(version, counted.leaf.time)
            if self._latest:
                yield LATEST, self._plain(stat.S_IFLNK | 0o777, LATEST, len(self._latest), self.newest)
            return
        if not rest:
            for label in self._version(name).trees:
                found = self.attributes(name + b"/" + label)
                if found is not None:
                    yield label, found
            return
        tree, inner = self._tree(name, rest)
        if tree is None:
            return
        base = folder[: len(folder) - len(inner)] if inner else folder + b"/"
        for item in tree.children(inner):
            yield item.entry.path.rpartition(b"/")[2], self._of_entry(tree, base, item)

    def target(self, path: bytes) -> bytes | None:
        """What a symbolic link points at."""
        if path == LATEST and self._latest:
            return self._latest
        found = self._found(path)
        return found.entry.target if found is not None and found.entry.kind == Kind.SYMLINK else None

    def xattrs(self, path: bytes) -> tuple[tuple[bytes, bytes], ...] | None:
        """Extended attributes, access lists among them."""
        found = self._found(path)
        if found is not None:
            return found.entry.xattrs
        return () if self.attributes(path) is not None else None

    def open(self, path: bytes) -> OpenFile | None:
        """The content of a file."""
        name, _, rest = path.partition(b"/")
        tree, inner = self._tree(name, rest) if name in self._versions and rest else (None, b"")
        found = tree.origin(inner) if tree is not None else None
        if tree is None or found is None or found.entry.kind != Kind.FILE:
            return None
        return tree.open(found)

    def note_faults(self, error: ExclaveError | None = None, path: bytes = b"") -> None:
        """Tells what readers found wrong since the last time, and why ``path`` could not be read."""
        with self._lock:
            versions = list(self._open.values())
        for version in versions:
            self._faults.look(version.reader)
        if error is not None:
            # As a literal: a name from a version must not write to the operator's terminal.
            self._faults.once("all sites", ascii(os.fsdecode(path)), error.message)

    def _found(self, path: bytes) -> Found | None:
        """The entry with the content and attributes that ``path`` shows, if it lies in a dataset."""
        name, _, rest = path.partition(b"/")
        if name not in self._versions or not rest:
            return None
        tree, inner = self._tree(name, rest)
        return None if tree is None else tree.origin(inner)

    def _version(self, name: bytes) -> _Version:
        """A version, opened when it is first asked for."""
        with self._lock:
            known = self._open.get(name)
            if known is not None:
                self._open.move_to_end(name)
                return known
        reader, root = open_version(self._state, self._sources, self._opened, self._versions[name])
        trees = {d.label.encode(): TreeLookup(self._cache, reader, d) for d in root.datasets}
        with self._lock:
            made = self._open.setdefault(name, _Version(reader, root, trees))
            gone = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - _MOST_OPEN)]
        for version in gone:  # files of it that are open go on being read
            self._faults.look(version.reader)
            self._faults.forget(version.reader)
        return made

    def _tree(self, name: bytes, rest: bytes) -> tuple[TreeLookup | None, bytes]:
        """The dataset that ``rest`` begins with, and the path in it."""
        label, _, inner = rest.partition(b"/")
        return self._version(name).trees.get(label), inner

    def _folder(self, name: bytes, time: Instant) -> Attributes:
        return self._plain(stat.S_IFDIR | 0o555, name, 0, time)

    def _plain(self, mode: int, name: bytes, size: int, time: Instant) -> Attributes:
        return Attributes(mode, _inode(name), 1, *self._own, size, time * 1000)

    def _of_entry(self, tree: TreeLookup, base: bytes, found: Found) -> Attributes:
        """``base``: path of the dataset's folder, with a slash at the end unless the entry is that folder itself."""
        entry, links = found.entry, 1
        if entry.kind == Kind.HARDLINK:
            # How many names a file has stands nowhere: its first one says 1, every further one 2.
            origin, links = tree.origin(entry.path), 2
            if origin is None:
                raise CorruptObject(f"a hard link leads to nothing: {entry.path[:80]!r}")
            entry = origin.entry
        return _attributes(entry, base + entry.path, links)


def _attributes(entry: Entry, path: bytes, links: int) -> Attributes:
    kind = Kind(entry.kind)
    size = len(entry.target) if kind is Kind.SYMLINK else entry.size
    mode = _FORMS[kind] | entry.mode
    return Attributes(mode, _inode(path), links, entry.uid, entry.gid, size, entry.mtime_ns, entry.device)


def _inode(path: bytes) -> int:
    """A number for a path, the same at each mount; above those that a file system keeps for itself."""
    return int.from_bytes(hashlib.blake2b(path, digest_size=8).digest(), "big") >> 1 | 1 << 32

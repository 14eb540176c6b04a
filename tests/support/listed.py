"""A tree of small files that exists on no disk: listed, read and changed as a folder would be, but quickly."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import cast

from exclave.formats.entry import Captured, Entry, Kind, Listed, Stamp

FILES_IN_FOLDER = 100
RUN = 512


class MadeTree:
    """``folders`` of ``FILES_IN_FOLDER`` files each, of 0 to ``most_bytes`` bytes. ``edit`` changes a file."""

    def __init__(self, folders: int, *, most_bytes: int) -> None:
        self.folders, self.most_bytes = folders, most_bytes
        self._editions: dict[bytes, int] = {}
        self.read_files = 0

    def edit(self, path: bytes) -> None:
        """Other bytes, another time; it may be a new path."""
        self._editions[path] = self._editions.get(path, 0) + 1

    def paths(self) -> Iterator[bytes]:
        """In walk order; folders end in a slash."""
        more: dict[bytes, list[bytes]] = {}
        for path in self._editions:
            more.setdefault(path.partition(b"/")[0], []).append(path)
        yield b"/"
        for folder in range(self.folders):
            name = b"%06d" % folder
            yield name + b"/"
            own = {b"%s/%03d" % (name, n) for n in range(FILES_IN_FOLDER)}
            yield from sorted(own.union(more.get(name, ())))

    def items(self) -> Iterator[Captured | Listed]:
        """Runs of ``RUN`` entries."""
        paths: list[bytes] = []
        for path in self.paths():
            paths.append(path)
            if len(paths) == RUN:
                yield self._run(paths)
                paths = []
        yield self._run(paths)

    def _run(self, paths: list[bytes]) -> Listed:
        stamps: list[Stamp | None] = [self._stamp(path) for path in paths]
        infos = [cast("os.stat_result", path) for path in paths]
        return Listed([path.rstrip(b"/") for path in paths], stamps, infos, self)

    def _stamp(self, path: bytes) -> Stamp:
        if path.endswith(b"/"):
            return (0o040755, 1, 2, 0, 0, 4096, 10**18, 10**18, 0)
        edition = self._editions.get(path, 0)
        return (0o100644, 2, 1, 0, 0, self._size(path), 10**18 + edition, 10**18 + edition, 0)

    def _size(self, path: bytes) -> int:
        return zlib.crc32(path) % (self.most_bytes + 1)

    def data(self, path: bytes) -> bytes:
        """Content of a file as it is now: noise that no other file has."""
        return hashlib.shake_128(path + b"%d" % self._editions.get(path, 0)).digest(self._size(path))

    def open(self, path: bytes, info: os.stat_result, *, again: bool) -> Captured | None:
        if cast("bytes", info).endswith(b"/"):
            return Captured(Entry(path, int(Kind.FOLDER), 0o755, 0, 0, 10**18))
        entry, stamp, data = self._read(path)
        return Captured(entry, stamp, _Bytes(data))

    def read(
        self, paths: Sequence[bytes], infos: Sequence[os.stat_result]
    ) -> Iterator[tuple[Entry, Stamp | None, bytes] | None]:
        for path, info in zip(paths, infos, strict=True):
            yield None if cast("bytes", info).endswith(b"/") else self._read(path)

    def _read(self, path: bytes) -> tuple[Entry, Stamp, bytes]:
        self.read_files += 1
        data, stamp = self.data(path), self._stamp(path)
        return Entry(path, 0, 0o644, 0, 0, stamp[6], len(data)), stamp, data


class _Bytes:
    """Content in one piece."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def blocks(self) -> Iterator[bytes | memoryview | int]:
        if self._data:
            yield self._data

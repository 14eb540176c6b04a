"""A dataset of a version into a sink, in windows of bounded size, with all cores busy.

A window takes records in walk order, notes which chunks they need, and fetches them pack by pack; each chunk is
opened once and written to every place of the window that needs it. While one window is written, the next is planned.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from exclave.errors import CorruptObject
from exclave.formats.entry import Entry, FileSink, Kind, Sink, check_path, walk_order
from exclave.formats.manifest import Dataset, Ref
from exclave.vault.opener import PackReader

WINDOW_BYTES = 24 << 20
WINDOW_RECORDS = 4096
WINDOW_PLACES = 1 << 16
"""Each takes some hundred bytes of memory: a manifest of one-byte extents must not fill it."""
WORKERS = max(2, os.cpu_count() or 2)


class _Pieces:
    """A file that comes in several pieces: whoever writes the last one finishes it."""

    __slots__ = ("_lock", "_missing", "sink")

    def __init__(self, sink: FileSink, size: int) -> None:
        self.sink = sink
        self._missing = size
        self._lock = threading.Lock()

    def wrote(self, length: int) -> None:
        with self._lock:
            self._missing -= length
            last = self._missing == 0
        if last:
            self.sink.finish()


@dataclass(slots=True)
class _Window:
    """What one window needs: pack → offset → (chunk, places of its content)."""

    needs: dict[bytes, dict[int, tuple[Ref, list[tuple[Entry | _Pieces, int, int, int]]]]] = field(default_factory=dict)
    raw: int = 0
    records: int = 0
    places: int = 0

    def want(self, ref: Ref, place: Entry | _Pieces, offset: int, start: int, length: int) -> None:
        chunk = self.needs.setdefault(ref.pack, {}).setdefault(ref.offset, (ref, []))
        chunk[1].append((place, offset, start, length))
        self.raw += length
        self.places += 1

    @property
    def full(self) -> bool:
        return self.raw >= WINDOW_BYTES or self.records >= WINDOW_RECORDS or self.places >= WINDOW_PLACES


class Restorer:
    """Restores datasets of one version. ``progress(entries, bytes)`` is called after each window."""

    def __init__(
        self, reader: PackReader, *, progress: Callable[[int, int], None] = lambda entries, size: None
    ) -> None:
        self._reader = reader
        self._progress = progress
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="open")
        self._window = _Window()
        self._flying: list[Future[None]] = []
        self._entries = 0
        self._bytes = 0

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def restore(self, dataset: Dataset, sink: Sink) -> None:
        """Writes every entry of ``dataset``. Raises ``CorruptObject`` for a tree that is not one, before writing it.

        After a failure the target holds a part, and this object is of no further use.
        """
        try:
            self._restore(dataset, sink)
        except BaseException:
            self.close()  # no thread writes any more
            sink.abandon()
            raise

    def _restore(self, dataset: Dataset, sink: Sink) -> None:
        guard = _WalkGuard()
        for leaf in self._reader.leaves(dataset):
            for record in leaf.records:
                entry = record.entry
                guard.check(entry)
                self._window.records += 1
                self._entries += 1
                self._bytes += entry.size
                if entry.kind != Kind.FILE:
                    sink.place(entry)
                elif entry.size == 0:
                    sink.write_whole(entry, b"")
                elif not record.lists and len(record.extents) == 1 and record.extents[0].chunk >= 0:
                    extent = record.extents[0]
                    self._window.want(leaf.ref(extent.chunk), entry, 0, extent.start, extent.length)
                else:
                    self._pieces(entry, self._reader.content(leaf, record), sink)
                if self._window.full:
                    self._turn(sink)
        self._turn(sink)
        self._land(sink)
        sink.close()
        if guard.count != dataset.entries:
            raise CorruptObject("a dataset's tree has another number of entries than its root says")

    def _pieces(self, entry: Entry, extents: object, sink: Sink) -> None:
        pieces = _Pieces(sink.begin(entry), entry.size)
        offset = 0
        for ref, start, length in extents:  # type: ignore[attr-defined]
            if ref is None:
                pieces.wrote(length)
            else:
                self._window.want(ref, pieces, offset, start, length)
            offset += length
            if self._window.full:
                self._turn(sink)

    def _turn(self, sink: Sink) -> None:
        """Starts the present window once the former one has landed."""
        window, self._window = self._window, _Window()
        self._land(sink)
        sink.mark()
        for pack, chunks in window.needs.items():
            # Halves of a pack's chunks, so that a window that needs one pack still uses two cores.
            wanted = sorted(chunks.values(), key=lambda c: c[0].offset)
            middle = (len(wanted) + 1) // 2
            parts = [wanted] if len(wanted) < 8 or len(window.needs) >= WORKERS else [wanted[:middle], wanted[middle:]]
            for part in parts:
                self._flying.append(self._pool.submit(self._write, pack, part, sink))

    def _land(self, sink: Sink) -> None:
        for flight in self._flying:
            flight.result()
        self._flying.clear()
        sink.barrier()
        self._progress(self._entries, self._bytes)

    def _write(
        self, pack: bytes, chunks: list[tuple[Ref, list[tuple[Entry | _Pieces, int, int, int]]]], sink: Sink
    ) -> None:
        places = {ref.offset: targets for ref, targets in chunks}
        for ref, data in self._reader.chunks(pack, [ref for ref, _ in chunks]):
            view = memoryview(data)
            for place, offset, start, length in places[ref.offset]:
                piece = view[start : start + length]
                if isinstance(place, _Pieces):
                    place.sink.write(offset, piece)
                    place.wrote(length)
                else:
                    sink.write_whole(place, piece)


class _WalkGuard:
    """A manifest may be an enemy's: entries must be in walk order, each in a folder that came before it."""

    def __init__(self) -> None:
        self._folders: list[bytes] = []
        self._last: tuple[bytes, ...] | None = None
        self.count = 0

    def check(self, entry: Entry) -> None:
        path = check_path(entry.path)
        order = walk_order(path)
        if self._last is not None and order <= self._last:
            raise CorruptObject(f"a manifest's entries are out of order at {path[:80]!r}")
        self._last = order
        self.count += 1
        if order:
            depth = len(order) - 1
            del self._folders[depth + 1 :]
            parent = path.rpartition(b"/")[0]
            if len(self._folders) <= depth or self._folders[depth] != parent:
                raise CorruptObject(f"a manifest's entry is not in a folder: {path[:80]!r}")
        elif entry.kind != Kind.FOLDER:
            raise CorruptObject("a dataset's root is not a folder")
        if entry.kind == Kind.FOLDER:
            del self._folders[len(order) :]
            self._folders.append(path)
        elif entry.kind == Kind.HARDLINK:
            check_path(entry.target)

"""A dataset of a version into a sink, in windows of bounded size, with all cores and the link to the sites busy.

A window takes records in walk order and notes which chunks they need. These are fetched in runs of neighbours by
threads that do nothing but wait for sites, then opened and written by one thread for each core; each chunk is opened
once in a window and written to every place of the window that needs it. Meanwhile the next windows are planned and
fetched. What is on its way or waits to be opened is at most ``FLYING_BYTES``.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from exclave.errors import CorruptObject
from exclave.formats.entry import Entry, FileSink, Kind, Sink, check_path, walk_order
from exclave.formats.manifest import Dataset, Ref
from exclave.vault.opener import Fetched, PackReader, runs

WINDOW_BYTES = 24 << 20
WINDOW_RECORDS = 4096
WINDOW_PLACES = 1 << 16
"""Each takes some hundred bytes of memory: a manifest of one-byte extents must not fill it."""
WINDOWS = 3
"""So many are fetched and written while the next is planned."""
RUN_BYTES = 8 << 20
"""Longest run that is asked for at once. A site may have to read more than it is asked for at both ends."""
FLYING_BYTES = 64 << 20
FETCHERS = 8
"""Requests on their way. One run alone would fill a link of 40 ms and 1 Gbit/s, but for the time that its connection
takes to come to speed, that the site takes to begin, and that we take to write it."""
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


class _Room:
    """Bytes that may be on their way: whoever wants more waits until others have landed."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._freed = threading.Condition()

    def take(self, size: int) -> None:
        with self._freed:
            self._freed.wait_for(lambda: self._taken == 0 or self._taken + size <= self._most)
            self._taken += size

    def give(self, size: int) -> None:
        with self._freed:
            self._taken -= size
            self._freed.notify()


@dataclass(slots=True)
class _Flight:
    """A window on its way: what is being written of it, and how far the dataset is when it has landed."""

    parts: list[Future[None]]
    entries: int
    bytes: int


_Places = list[tuple[Entry | _Pieces, int, int, int]]
"""Where a chunk goes: (file, offset in it, start in the chunk, length)."""


class Restorer:
    """Restores datasets of one version. ``progress(entries, bytes)`` is called after each window."""

    def __init__(
        self,
        reader: PackReader,
        *,
        progress: Callable[[int, int], None] = lambda entries, size: None,
        has: Callable[[Entry], bool] = lambda entry: False,
    ) -> None:
        """``has``: whether a file is in its place already, from a restore that was interrupted."""
        self._reader = reader
        self._progress = progress
        self._has = has
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="open")
        self._room = _Room(FLYING_BYTES)
        self._window = _Window()
        self._flying: deque[_Flight] = deque()
        self._entries = 0
        self._bytes = 0

    def close(self) -> None:
        self._fetchers.shutdown(cancel_futures=True)
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
        for leaf in self._reader.leaves(dataset, ahead=self._fetchers):
            for record in leaf.records:
                entry = record.entry
                guard.check(entry)
                self._window.records += 1
                self._entries += 1
                self._bytes += entry.size
                if entry.kind != Kind.FILE:
                    sink.place(entry)
                elif self._has(entry):
                    pass
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
        while self._flying:
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
        """Starts the present window once there is one less on its way than may be."""
        window, self._window = self._window, _Window()
        if len(self._flying) >= WINDOWS:
            self._land(sink)
        sink.mark()
        flight = _Flight([], self._entries, self._bytes)
        self._flying.append(flight)
        for chunks in window.needs.values():
            wanted = sorted((ref for ref, _ in chunks.values()), key=lambda ref: ref.offset)
            for run in runs(wanted, most=RUN_BYTES):
                flight.parts.append(self._start(run, [chunks[ref.offset][1] for ref in run], sink))

    def _start(self, run: Sequence[Ref], places: Sequence[_Places], sink: Sink) -> Future[None]:
        """One run on its way: fetched, then opened and written."""
        size = run[-1].offset + run[-1].length - run[0].offset
        self._room.take(size)
        done: Future[None] = Future()
        fetch = self._fetchers.submit(self._reader.fetch, run)

        def opened(fetched: Future[Fetched]) -> None:
            """In whichever thread; only hands on."""
            try:
                self._pool.submit(self._write, fetched, places, sink, size, done)
            except RuntimeError as error:  # closed meanwhile
                done.set_exception(error)

        fetch.add_done_callback(opened)
        return done

    def _land(self, sink: Sink) -> None:
        """Waits for the oldest window."""
        flight = self._flying.popleft()
        for part in flight.parts:
            part.result()
        sink.barrier()
        self._progress(flight.entries, flight.bytes)

    def _write(
        self, fetched: Future[Fetched], places: Sequence[_Places], sink: Sink, size: int, done: Future[None]
    ) -> None:
        try:
            for (_, data), targets in zip(self._reader.opened(fetched.result()), places, strict=True):
                _put(memoryview(data), targets, sink)
        except BaseException as error:  # noqa: BLE001 - raised again where the window lands
            done.set_exception(error)
        else:
            done.set_result(None)
        finally:
            self._room.give(size)


def _put(data: memoryview, places: _Places, sink: Sink) -> None:
    for place, offset, start, length in places:
        piece = data[start : start + length]
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

"""Single chunks and places of files, on demand and in bounded memory: what a mounted version reads through.

A chunk is opened and checked as in a restore (``PackReader``), kept for as long as there is room, and fetched once
however many readers wait for it. A file that is read in order is read ahead, neighbours of a pack together.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Final

from exclave.errors import CorruptObject, ExclaveError, UnavailableError
from exclave.formats.manifest import Extent, ExtentNode, Leaf, Record, Ref, parse_extents
from exclave.vault.opener import PackReader

WORKERS: Final = max(8, 2 * (os.cpu_count() or 1))
"""More than cores: most of the time of a fetch is waiting for a site."""
BATCH_BYTES: Final = 4 << 20
"""Most bytes of chunks that one fetch ahead brings."""
AHEAD_LEAST: Final = 1 << 20
AHEAD_MOST: Final = 24 << 20
"""How far ahead of an orderly reader chunks are fetched, in bytes of content: doubled from the least to the most."""
_NEAR: Final = 1 << 20
"""The kernel asks for neighbouring pieces from several threads: so far out of order still counts as in order."""

_TOLD: Final = 10_000
"""Most lines that are written about faults: after so many the state of the sites is known to be bad."""
_NODES: Final = 8
"""Parsed extent nodes of one open file that are kept; each some 200 KB."""

Place = tuple[bytes, int, bytes]
"""Pack, offset and id of a chunk."""


def _place(ref: Ref) -> Place:
    return ref.pack, ref.offset, ref.id


class ChunkCache:
    """Opened chunks of any versions of one register, the least recently used ones dropped first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[Place, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[Place, Future[bytes]] = {}
        self._ahead: dict[Place, int] = {}
        """Lengths of chunks on their way that nobody has asked for yet: together at most half of what is kept."""
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="read")

    def close(self) -> None:
        """Ends the threads; whoever still waits for a chunk is told."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(cancel_futures=True)
        with self._lock:
            for waiting in self._coming.values():
                waiting.set_exception(_ended())
            self._coming.clear()
            self._kept.clear()

    def chunk(self, reader: PackReader, ref: Ref) -> bytes:
        """The opened chunk. ``MissingObject`` if no site has a good copy."""
        place = _place(ref)
        with self._lock:
            data = self._kept.get(place)
            if data is not None:
                self._kept.move_to_end(place)
                return data
            coming = self._coming.get(place)
            if coming is None and self._closed:
                raise _ended()
            if coming is None:
                coming = self._coming[place] = Future()
                self._pool.submit(self._fetch, reader, ref.pack, [ref])
        return coming.result()

    def ahead(self, reader: PackReader, refs: Iterable[Ref]) -> None:
        """Begins to fetch those chunks that are neither here nor on their way, as far as there is room for them.

        A failure is noticed by who needs the chunk.
        """
        batches: list[list[Ref]] = []
        size = 0
        with self._lock:
            room = self.limit_bytes // 2 - sum(self._ahead.values())
            for ref in refs:
                if ref.raw > room:
                    break  # many read in order at once: what is fetched too early would be dropped unread
                place = _place(ref)
                if self._closed or place in self._kept or place in self._coming:
                    continue
                self._coming[place] = Future()
                self._ahead[place] = ref.raw
                room -= ref.raw
                if not batches or batches[-1][0].pack != ref.pack or size + ref.length > BATCH_BYTES:
                    batches.append([])
                    size = 0
                batches[-1].append(ref)
                size += ref.length
            for batch in batches:
                self._pool.submit(self._fetch, reader, batch[0].pack, batch)

    def _fetch(self, reader: PackReader, pack: bytes, refs: list[Ref]) -> None:
        """Opens ``refs``, all of one pack, and hands each to who waits for it, the failure included."""
        left = {_place(ref): ref for ref in refs}
        try:
            for ref, data in reader.chunks(pack, refs):
                del left[_place(ref)]
                self._arrived(ref, data)
        except BaseException as error:  # noqa: BLE001 - whatever it is, those who wait are told
            with self._lock:
                if len(left) > 1 and isinstance(error, ExclaveError) and not self._closed:
                    for ref in left.values():  # one bad chunk is not its neighbours' fault
                        self._pool.submit(self._fetch, reader, pack, [ref])
                    return
                for place in left:
                    self._ahead.pop(place, None)
                    self._coming.pop(place).set_exception(error)

    def _arrived(self, ref: Ref, data: bytes) -> None:
        place = _place(ref)
        with self._lock:
            self._kept[place] = data
            self._kept_bytes += len(data)
            while self._kept_bytes > self.limit_bytes and len(self._kept) > 1:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
            self._ahead.pop(place, None)
            waiting = self._coming.pop(place)
        waiting.set_result(data)


def _ended() -> UnavailableError:
    return UnavailableError("nothing is read any more: the mount is being taken down")


class OpenFile:
    """A file's content by place. Safe to call from several threads."""

    def __init__(self, cache: ChunkCache, reader: PackReader, leaf: Leaf, record: Record) -> None:
        self._cache, self._reader = cache, reader
        self.size = record.entry.size
        self._lock = threading.Lock()
        self._lists = record.lists
        self._whole = None if record.lists else _Extents(leaf, record.extents, 0)
        self._ends: list[int] = []
        """Of extent nodes, as far as they were read: where each one's content ends in the file."""
        self._nodes: OrderedDict[int, _Extents] = OrderedDict()
        """Extent nodes used last, by number: orderly readers and what is fetched ahead are at several places."""
        self._next = 0
        self._streak = 0
        self._window = AHEAD_LEAST
        self._asked = 0

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``, fewer only at the end. ``MissingObject`` if no site has a good copy,
        ``CorruptObject`` for extents that do not add up.
        """
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        self._read_ahead(offset, end)
        parts: list[bytes | memoryview] = []
        at = offset
        while at < end:
            ref, start, length = self._at(at)
            length = min(length, end - at)
            if ref is None:
                parts.append(bytes(length))
            else:
                parts.append(memoryview(self._cache.chunk(self._reader, ref))[start : start + length])
            at += length
        return b"".join(parts)

    def _read_ahead(self, offset: int, end: int) -> None:
        with self._lock:
            orderly = self._next - _NEAR <= offset <= self._next + _NEAR and end > self._next
            if orderly:
                self._streak += 1
            elif not self._next - _NEAR <= offset <= self._next:
                self._streak, self._window, self._asked = 0, AHEAD_LEAST, 0
            self._next = end if not orderly else max(self._next, end)
            if self._streak < 3:
                return
            begin = max(end, self._asked)
            if begin - end >= self._window // 4 or begin >= self.size:
                return
            until = self._asked = min(end + self._window, self.size)
            self._window = min(self._window * 2, AHEAD_MOST, self._cache.limit_bytes // 4)
        self._cache.ahead(self._reader, self._refs(begin, until))

    def _refs(self, begin: int, until: int) -> list[Ref]:
        """Chunks of the content from ``begin`` to ``until``, as far as it is known where they are."""
        found: list[Ref] = []
        while begin < until:
            if self._lists and (not self._ends or begin >= self._ends[-1]):
                break  # whoever reads there will find out
            ref, _, length = self._at(begin)
            if ref is not None and (not found or found[-1] != ref):
                found.append(ref)
            begin += length
        return found

    def _at(self, offset: int) -> tuple[Ref | None, int, int]:
        """Chunk (None: a hole), start in it, and how many bytes it gives from ``offset`` on."""
        return (self._whole or self._extents_at(offset)).at(offset)

    def _extents_at(self, offset: int) -> _Extents:
        """The extent node that holds ``offset``. How long a node's content is stands in it alone, so nodes before it
        are read once.
        """
        with self._lock:
            ends = list(self._ends)
            known = self._nodes.get(bisect_right(ends, offset))
        if known is not None:
            return known
        # About where it will be, so that the nodes before it come together and not one by one.
        about = min(offset * len(self._lists) // max(self.size, 1), len(self._lists) - 1)
        self._cache.ahead(self._reader, self._lists[len(ends) : about + 1])
        while True:
            number = bisect_right(ends, offset)
            if number >= len(self._lists):
                raise CorruptObject("a file's listed extents are shorter than its size")
            node = parse_extents(self._cache.chunk(self._reader, self._lists[number]))
            begin = ends[number - 1] if number else 0
            extents = _Extents(node, node.extents, begin)
            if number == len(ends):
                if extents.end > self.size or extents.end == begin:
                    raise CorruptObject("a file's listed extents do not add up to its size")
                if number + 1 == len(self._lists) and extents.end != self.size:
                    raise CorruptObject("a file's listed extents do not add up to its size")
                ends.append(extents.end)
            if offset < ends[number]:
                break
        with self._lock:
            if len(ends) > len(self._ends):
                self._ends = ends
            self._nodes[number] = extents
            while len(self._nodes) > _NODES:
                self._nodes.popitem(last=False)
        return extents


class _Extents:
    """A run of extents and where each ends in the file."""

    __slots__ = ("_begin", "_ends", "_extents", "_node")

    def __init__(self, node: Leaf | ExtentNode, extents: Sequence[Extent], begin: int) -> None:
        self._node, self._extents, self._begin = node, extents, begin
        self._ends = list(accumulate((extent.length for extent in extents), initial=begin))[1:]

    @property
    def end(self) -> int:
        return self._ends[-1] if self._ends else self._begin

    def at(self, offset: int) -> tuple[Ref | None, int, int]:
        number = bisect_right(self._ends, offset)
        extent = self._extents[number]
        skip = offset - (self._ends[number] - extent.length)
        ref = None if extent.chunk < 0 else self._node.ref(extent.chunk)
        return ref, extent.start + skip, extent.length - skip


class FaultLog:
    """Tells what a ``PackReader`` found wrong at which site, each once, as it comes up."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: set[tuple[str, str]] = set()
        self._looked: dict[int, int] = {}
        self._lock = threading.Lock()

    def look(self, reader: PackReader) -> None:
        """Called after a read; costs nothing while nothing new is wrong."""
        if len(reader.faults) == self._looked.get(id(reader), 0):
            return
        self._looked[id(reader)] = len(reader.faults)
        for (site, pack), error in list(reader.faults.items()):
            self.once(str(site), f"pack {pack}", error.message)

    def forget(self, reader: PackReader) -> None:
        """It is used no more."""
        self._looked.pop(id(reader), None)

    def once(self, site: str, what: str, message: str) -> None:
        with self._lock:
            if (site, what) in self._told or len(self._told) >= _TOLD:
                return
            self._told.add((site, what))
        self._tell(f"{site}: {what}: {message}")

"""A dataset's entries into chunks and records, with all cores busy and bounded memory.

The content of all small files is one stream, cut by content, so a chunk may hold many small files, and compresses as
well as they do together; each large file starts a stream of its own. The caller's thread walks and reads; two threads
hash, look up and compress; the shipper's threads hash and store packs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from exclave.crypto.keyed import ContentHash, chunk_id, content_hash
from exclave.errors import Bug, SourceUnavailable
from exclave.formats.entry import Captured, Content, Entry, Kind, Listed, LiveContent, Stamp
from exclave.formats.manifest import MAX_INLINE_EXTENTS, Record
from exclave.formats.pack import MAX_RAW_BYTES
from exclave.ids import ChunkId
from exclave.vault.catalogue import FlatRecord, FormerLeaf, Part, Prior
from exclave.vault.chunker import Chunker
from exclave.vault.compression import Effort, pack_chunk
from exclave.vault.index import ChunkIndex
from exclave.vault.largefile import ROOM_BYTES, LargeBlock, LargeFile, hash_hole
from exclave.vault.matching import Matcher
from exclave.vault.room import Rooms
from exclave.vault.sealer import PackSealer, Slot
from exclave.vault.signals import SAMPLE_BYTES, Watch
from exclave.vault.stream import Block, Job, Stream
from exclave.vault.tree import encode_extents

BLOCK_BYTES = 4 << 20
LARGE_BYTES = 1 << 20
BLOCKS_IN_FLIGHT = 4
READ_ATTEMPTS = 3
MOST_WAITING = 16384
"""Records that may wait for their chunks' pack before it is closed early: bounds memory."""
MOST_WAITING_BYTES = 32 << 20
"""The same for what is reused of the last version; in memory it is a few times as long."""
EMPTY_HASH = content_hash(b"")

T = TypeVar("T")


class ChunkStore:
    """Gives each chunk its slot: an earlier place, one found in this run, or a new one in a pack."""

    def __init__(self, index: ChunkIndex, id_key: bytes) -> None:
        self._index = index
        self._id_key = id_key
        self._lock = threading.Lock()
        self._pending: dict[ChunkId, Slot] = {}
        self.new_chunks = 0
        self.new_raw_bytes = 0
        self.new_frame_bytes = 0
        """Of ``new_raw_bytes``, compressed."""
        self.dense_raw_bytes = 0
        """Of ``new_raw_bytes``, what compression did not make smaller by a thirty-second."""

    def store(
        self,
        views: list[memoryview],
        slots: list[Slot],
        sealer: PackSealer,
        effort: Effort = Effort.SMALL_FILES,
    ) -> None:
        """Fills ``slots`` for the chunks ``views``."""
        claimed: list[tuple[Slot, memoryview]] = []
        key = self._id_key
        for slot, view in zip(slots, views, strict=True):
            if len(view) > MAX_RAW_BYTES:
                raise Bug(f"a chunk of {len(view)} bytes was made, which no reader would take")
            slot.id = chunk_id(key, view)
        with self._lock:
            # Pending before index: a chunk leaves `pending` only after the index knows it, so none is missed.
            for slot, view in zip(slots, views, strict=True):
                other = self._pending.get(slot.id)
                if other is None:
                    self._pending[slot.id] = slot
                    claimed.append((slot, view))
                else:
                    slot.same = other
        known = self._index.lookup([slot.id for slot, _ in claimed])
        for slot, view in claimed:
            ref = known.get(slot.id)
            if ref is not None:
                slot.place(ref)
                with self._lock:
                    del self._pending[slot.id]
            else:
                frame = pack_chunk(view, effort)
                with self._lock:
                    self.new_chunks += 1
                    self.new_raw_bytes += len(view)
                    self.new_frame_bytes += len(frame)
                    self.dense_raw_bytes += len(view) if len(frame) * 32 > len(view) * 31 else 0
                sealer.add(slot, frame)

    def tally(self) -> tuple[int, int, int]:
        """Bytes of new chunks so far: raw, compressed, and raw of those that did not compress."""
        with self._lock:
            return self.new_raw_bytes, self.new_frame_bytes, self.dense_raw_bytes

    def settled(self, slots: list[Slot]) -> None:
        """The index knows these chunks now."""
        with self._lock:
            for slot in slots:
                self._pending.pop(slot.id, None)


class Sink(Protocol):
    """Takes the records of one dataset."""

    def add(self, flat: FlatRecord) -> None:
        """A new one."""

    def add_stored(self, entry: Entry, stamp: Stamp | None, content: bytes, slot: Slot, start: int) -> None:
        """A file with the hash ``content`` that lies in one chunk, from the byte ``start`` of it on."""

    def add_former(self, former: FormerLeaf, start: int, stop: int) -> None:
        """Those from ``start`` to ``stop`` - 1 of a leaf of the last version."""


class _Reused:
    """Records of a former leaf that wait for those before them."""

    __slots__ = ("bytes", "former", "start", "stop")

    def __init__(self, former: FormerLeaf, start: int, stop: int, size_bytes: int) -> None:
        """``size_bytes``: what it adds to the memory that is waiting."""
        self.former, self.start, self.stop, self.bytes = former, start, stop, size_bytes


class Ingest:
    """Feeds one dataset. ``sink`` gets the finished records, in the order of ``add``."""

    def __init__(
        self,
        *,
        store: ChunkStore,
        sealer: PackSealer,
        pool: ThreadPoolExecutor,
        chunkers: tuple[Chunker, Chunker],
        prior: Prior | None,
        sink: Sink,
        need: Callable[[set[bytes]], None],
        flush: Callable[[], None],
        watch: Watch | None = None,
    ) -> None:
        """``chunkers``: for the stream of small files and for large ones. ``flush`` finishes the open pack and waits
        until all packs are durable."""
        self._store, self._sealer, self._pool = store, sealer, pool
        self._sink, self._need = sink, need
        self._matcher = None if prior is None else Matcher(prior, self._reuse, self._add, self._take)
        self._flush, self._watch = flush, watch
        self._chunkers = chunkers
        self._stream = Stream(chunkers[0])
        self._rooms = Rooms(ROOM_BYTES, kept=BLOCKS_IN_FLIGHT)
        self._jobs: deque[Job | FlatRecord | _Reused] = deque()
        self._waiting_bytes = 0
        self._last_reused: FormerLeaf | None = None
        self._flights: deque[Future[None]] = deque()
        self.read_bytes = 0
        self.reused_files = 0
        self.files = 0
        self.entries = 0

    def add(self, item: Captured | Listed) -> None:
        """Takes one entry, or many, and reads what is not known to be unchanged."""
        if isinstance(item, Captured):
            former = self._matcher.find(item.entry.path) if self._matcher is not None else None
            self._add(item, item.stamp, former)
        elif self._matcher is not None:
            self._matcher.feed(item)
        else:
            self._take(item)

    def _take(self, listed: Listed) -> None:
        """Entries of which the last version has none."""
        stream = self._stream
        for n, found in enumerate(listed.source.read(listed.paths, listed.infos)):
            if found is None:
                item = listed.source.open(listed.paths[n], listed.infos[n], again=False)
                if item is not None:
                    self._add(item, listed.stamps[n], None)
                continue
            entry, stamp, data = found
            self.entries += 1
            self.files += 1
            job = Job(entry, stamp)
            job.complete = True
            self._jobs.append(job)
            if not data:
                job.hash = EMPTY_HASH
                continue
            if self._watch is not None and self._watch.wants():
                self._look(job, data)
            stream.add(job, data)
            self.read_bytes += len(data)
            if stream.length >= BLOCK_BYTES:
                self._cut(final=False)
        if len(self._jobs) > MOST_WAITING:
            self._catch_up()

    def _look(self, job: Job, data: bytes) -> None:
        if self._watch is not None:
            half = len(data) // 2
            parts = data[:SAMPLE_BYTES], data[half : half + SAMPLE_BYTES], data[-SAMPLE_BYTES:]
            job.look = self._watch.look(job.entry.path, *parts, job.former)

    def _add(self, item: Captured, stamp: Stamp | None, former: Record | None) -> None:
        """One entry that is not known to be unchanged; ``former``: what had its path before."""
        self.entries += 1
        entry = item.entry
        if entry.kind != Kind.FILE:
            self._add_done(FlatRecord(entry, stamp))
            return
        self.files += 1
        job = Job(entry, stamp)
        job.former = former
        if item.live is not None:
            if not self._read_live(job, item.live):
                return
        else:
            self._jobs.append(job)
            if item.content is not None and entry.size:
                self._read(job, item.content)
        job.complete = True
        if len(self._jobs) > MOST_WAITING:
            self._catch_up()

    def _reuse(self, former: FormerLeaf, start: int, stop: int, files: int) -> None:
        """Records of the last version that hold now too."""
        self.entries += stop - start
        self.files += files
        self.reused_files += files
        jobs = self._jobs
        if not jobs:
            self._sink.add_former(former, start, stop)
            return
        last = jobs[-1]
        if isinstance(last, _Reused) and last.former is former and last.stop == start:
            last.stop = stop
            return
        size = 0 if self._last_reused is former else len(former.encoded)
        self._last_reused = former
        self._waiting_bytes += size
        jobs.append(_Reused(former, start, stop, size))
        if len(jobs) > MOST_WAITING or self._waiting_bytes > MOST_WAITING_BYTES:
            self._catch_up()

    def _add_done(self, record: FlatRecord) -> None:
        """A record that waits for nothing but those before it."""
        if not self._jobs:
            self._sink.add(record)
            return
        self._jobs.append(record)
        if len(self._jobs) > MOST_WAITING:
            self._catch_up()

    def _read_live(self, job: Job, live: LiveContent) -> bool:
        """Reads a file that may change meanwhile, again if it did; false if it is gone."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            now = live.begin()
            if now is None:
                if attempt > 1:
                    self._jobs.pop()  # nothing was added after it
                return False
            job.entry, job.stamp = now
            if attempt == 1:
                self._jobs.append(job)
            data = live.whole() if 0 < job.entry.size < LARGE_BYTES else None
            if data is not None:
                if self._watch is not None and self._watch.wants():
                    self._look(job, data)
                self._stream.add(job, data)
                self.read_bytes += len(data)
                if self._stream.length >= BLOCK_BYTES:
                    self._cut(final=False)
            elif job.entry.size:
                self._read(job, live)
            else:
                job.hash = EMPTY_HASH
            if live.unchanged():
                return True
            if attempt < READ_ATTEMPTS:
                self._cut(final=True)
                while self._flights:
                    # A block that is still on its way would write its hash of the former content over the next one.
                    self._flights.popleft().result()
                job.start_again()
        job.stamp = None  # so that the next run reads it again
        live.give_up()
        return True

    def _read(self, job: Job, content: Content) -> None:
        """Content that comes in pieces. A large file is a stream of its own, so that copies of it are found again."""
        job.own_hash = True
        if job.entry.size >= LARGE_BYTES:
            self._cut(final=True)
            large = LargeFile(job, self._rooms, self._chunkers[1], self._send_large)
            large.read(content)
            self.read_bytes += large.read_bytes
            total, samples = large.total_bytes, large.samples
        else:
            total, samples = self._read_small(job, content)
        if self._watch is not None and self._watch.wants():
            job.look = self._watch.look(job.entry.path, samples[0], samples[1], samples[2], job.former)
        self._check_length(job, total)

    def _read_small(self, job: Job, content: Content) -> tuple[int, list[bytes]]:
        """Its length in bytes, and what it looks like at the beginning, about the middle, and the end."""
        hasher = ContentHash()
        total = 0
        half, samples = job.entry.size // 2, [b"", b"", b""]
        for block in content.blocks():
            if isinstance(block, int):
                hash_hole(hasher, block)
            else:
                samples[0] = samples[0] or bytes(block[:SAMPLE_BYTES])
                samples[1] = bytes(block[:SAMPLE_BYTES]) if total <= half else samples[1]
                samples[2] = bytes(block[-SAMPLE_BYTES:])
                hasher.update(block)
            total += self._append(job, block)
            if self._stream.length >= BLOCK_BYTES:
                self._cut(final=False)
        job.hash = hasher.digest()
        return total, samples

    def _append(self, job: Job, block: bytes | memoryview | int) -> int:
        """Adds a block to the stream; its length in bytes."""
        if not block:
            return 0  # an extent of no bytes is not in the format
        if isinstance(block, int):
            # Parts are in file order only if what was read before has its slots.
            self._cut(final=True)
            job.parts.append((None, 0, block))
            return block
        self._stream.add(job, block)
        self.read_bytes += len(block)
        return len(block)

    @staticmethod
    def _check_length(job: Job, total: int) -> None:
        if total != job.entry.size:
            raise SourceUnavailable(
                f"a file gave {total} bytes where {job.entry.size} were announced: {job.entry.path!r}",
                hint="It changes faster than it can be read; capture it through its own system, or exclude it.",
            )

    def _cut(self, *, final: bool) -> None:
        """Sends the next block on its way and emits what has landed meanwhile."""
        block = self._stream.cut(final=final)
        if block is None:
            return
        self._start(self._process, block)

    def _send_large(self, block: LargeBlock) -> None:
        self._start(self._process_large, block)

    def _start(self, process: Callable[[T], None], block: T) -> None:
        """Has ``block`` processed in another thread; waits while too many are on their way."""
        while len(self._flights) >= BLOCKS_IN_FLIGHT:
            self._flights.popleft().result()
        self._flights.append(self._pool.submit(process, block))
        self.drain()

    def _process(self, block: Block) -> None:
        # Hashes first: once a chunk has its place, the records that wait for it may go.
        block.hash_files()
        self._store.store(block.views, block.slots, self._sealer)

    def _process_large(self, block: LargeBlock) -> None:
        self._store.store(block.views, block.slots, self._sealer, block.effort)
        block.views.clear()
        self._rooms.give_back(block.room)

    def drain(self) -> None:
        """Emits the records at the head whose chunks all have their place."""
        jobs, sink, watch = self._jobs, self._sink, self._watch
        cut_next = self._stream.oldest
        while jobs:
            job = jobs[0]
            if not isinstance(job, Job):
                if isinstance(job, FlatRecord):
                    sink.add(job)
                else:
                    sink.add_former(job.former, job.start, job.stop)
                    self._waiting_bytes -= job.bytes
                jobs.popleft()
                continue
            if not job.complete or job is cut_next:
                break
            parts = job.parts
            if len(parts) == 1 and not job.lists and (slot := parts[0][0]) is not None:
                if not slot.ready:
                    return
                sink.add_stored(job.entry, job.stamp, job.hash, slot, parts[0][1])
                if watch is not None:
                    watch.read(job.former, job, job.look)
                jobs.popleft()
                continue
            if not self._drain_long(job):
                return
            jobs.popleft()
        if jobs and isinstance(job := jobs[0], Job) and len(job.parts) > MAX_INLINE_EXTENTS:
            self._spill(job)

    def _drain_long(self, job: Job) -> bool:
        """Whether a job could be emitted that has more than one part, or none."""
        if job.lists or len(job.parts) > MAX_INLINE_EXTENTS:
            self._spill(job)
        if not _ready(job.parts) or not all(slot.ready for slot in job.lists) or (job.lists and job.parts):
            return False
        self._sink.add(self._flat(job))
        return True

    def _settled(self, job: Job) -> bool:
        """All content of the oldest job was read and cut."""
        return job.complete and self._stream.oldest is not job

    def _spill(self, job: Job) -> None:
        """Moves parts of a long file to extent nodes, so that a file's length does not show in memory."""
        while job.parts and (len(job.parts) > MAX_INLINE_EXTENTS or (job.lists and self._settled(job))):
            first = job.parts[:MAX_INLINE_EXTENTS]
            if not _ready(first):
                return
            parts = [_part(*item) for item in first]
            packs = {part.ref.pack for part in parts if part.ref is not None}
            self._need(packs)
            job.listed_packs |= packs
            del job.parts[:MAX_INLINE_EXTENTS]
            job.lists.append(self._store_node(parts))

    def _store_node(self, parts: list[Part]) -> Slot:
        data = encode_extents(parts)
        slot = Slot(len(data))
        self._store.store([memoryview(data)], [slot], self._sealer)
        return slot

    def _flat(self, job: Job) -> FlatRecord:
        parts = tuple([_part(*item) for item in job.parts])
        lists = tuple(slot.ref() for slot in job.lists)
        record = FlatRecord(job.entry, job.stamp, parts, job.hash, lists, tuple(sorted(job.listed_packs)))
        if self._watch is not None:
            self._watch.read(job.former, record, job.look)
        return record

    def _catch_up(self) -> None:
        """Makes everything read so far durable, so that the records that wait for it can go."""
        self._cut(final=True)
        while self._flights:
            self._flights.popleft().result()
        self._flush()
        self.drain()

    def finish(self) -> None:
        """Cuts what is left and waits until every record is out."""
        if self._matcher is not None:
            self._matcher.finish()
        self._catch_up()
        while self._jobs:
            # What still waits are long files whose last extent nodes have just been stored.
            before = len(self._jobs)
            self._flush()
            self.drain()
            self._flush()
            self.drain()
            if len(self._jobs) == before:
                raise Bug("records were left without their chunks")


def _ready(parts: list[tuple[Slot | None, int, int]]) -> bool:
    return all(slot is None or slot.ready for slot, _, _ in parts)


def _part(slot: Slot | None, start: int, length: int) -> Part:
    return Part(None if slot is None else slot.ref(), start, length)

"""The content of many files as one stream, cut by content into chunks.

Bytes are copied once, from the pieces that were read into the block that is cut. What the last chunk of a block still
lacks moves on to the next block.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from exclave.crypto.keyed import ContentHash, content_hash
from exclave.formats.entry import Entry, Stamp
from exclave.formats.manifest import Record
from exclave.vault.chunker import Chunker
from exclave.vault.sealer import Slot
from exclave.vault.signals import Look


class Job:
    """One entry whose content is on its way."""

    __slots__ = (
        "complete", "entry", "former", "hash", "hasher", "listed_packs", "lists", "look", "own_hash", "parts", "stamp",
    )  # fmt: skip

    def __init__(self, entry: Entry, stamp: Stamp | None) -> None:
        self.entry = entry
        self.stamp = stamp
        self.parts: list[tuple[Slot | None, int, int]] = []
        """(chunk or None for a hole, start in it, length), in order."""
        self.lists: list[Slot] = []
        self.listed_packs: set[bytes] = set()
        self.hash = b""
        self.hasher: ContentHash | None = None
        self.own_hash = False
        """The reader hashes the content itself, since it does not come in one piece."""
        self.complete = False
        self.former: Record | None = None
        """What stood under its path in the version before."""
        self.look: Look | None = None

    def start_again(self) -> None:
        """Forgets what was read."""
        self.parts.clear()
        self.lists.clear()
        self.listed_packs.clear()
        self.hasher, self.own_hash, self.hash = None, False, b""


@dataclass(frozen=True, slots=True)
class Block:
    """Chunks to be stored, and files to be hashed, in whatever thread has time."""

    views: list[memoryview]
    slots: list[Slot]
    whole: list[tuple[Job, memoryview]]

    def hash_files(self) -> None:
        """The content hash of each file that lies in this block as a whole."""
        for job, view in self.whole:
            job.hash = content_hash(view)


class Stream:
    """Takes pieces of content in the order of their jobs, gives blocks."""

    def __init__(self, chunker: Chunker) -> None:
        self.chunker = chunker
        self._pieces: list[bytes | memoryview] = []
        self._segments: deque[tuple[Job, int, int]] = deque()
        self.length = 0
        """Bytes that were added and not cut yet."""

    def add(self, job: Job, piece: bytes | memoryview) -> None:
        start = self.length
        self._pieces.append(piece)
        self.length = start + len(piece)
        self._segments.append((job, start, self.length))

    @property
    def oldest(self) -> Job | None:
        """The oldest job of which bytes are still to be cut."""
        return self._segments[0][0] if self._segments else None

    def cut(self, *, final: bool) -> Block | None:
        """Cuts what is there; unless ``final``, the last chunk stays, since more may belong to it."""
        if not self.length:
            return None
        whole = b"".join(self._pieces)
        ends = self.chunker.cut(whole)
        if not final:
            ends.pop()
        end = ends[-1] if ends else 0
        view = memoryview(whole)
        rest = whole[end:]
        self._pieces = [rest] if rest else []
        self.length = len(rest)
        if not ends:
            return None
        slots: list[Slot] = []
        views: list[memoryview] = []
        start = 0
        for stop in ends:
            slots.append(Slot(stop - start))
            views.append(view[start:stop])
            start = stop
        return Block(views, slots, self._assign(view, ends, slots))

    def _assign(self, view: memoryview, ends: list[int], slots: list[Slot]) -> list[tuple[Job, memoryview]]:
        """Gives each segment its chunks; returns the files that lie in the block as a whole."""
        segments = self._segments
        whole: list[tuple[Job, memoryview]] = []
        chunks = iter(zip([0, *ends], ends, slots, strict=False))
        start, stop, slot = next(chunks)
        end = ends[-1]
        while segments:
            job, first, last = segments[0]
            if first >= end:
                break
            while first >= stop:
                start, stop, slot = next(chunks)
            if last <= stop:  # nearly always
                job.parts.append((slot, first - start, last - first))
            else:
                job.parts.append((slot, first - start, stop - first))
                while last > stop and stop < end:
                    start, stop, slot = next(chunks)
                    job.parts.append((slot, 0, min(last, stop) - start))
                if last > stop:
                    break
            segments.popleft()
            if not job.own_hash:
                if job.hasher is None:
                    whole.append((job, view[first:last]))
                else:
                    self._hash(job, view[first:last])
        self._carry(view, end)
        return whole

    @staticmethod
    def _hash(job: Job, rest: memoryview) -> None:
        """The last part of a file that a block's end divided."""
        if job.hasher is not None:
            job.hasher.update(rest)
            job.hash = job.hasher.digest()

    def _carry(self, view: memoryview, cut: int) -> None:
        """What lies behind the cut moves to the new start; a file that the cut divides is hashed in two parts."""
        segments = self._segments
        for _ in range(len(segments)):
            job, first, last = segments.popleft()
            if first < cut and not job.own_hash:
                job.hasher = job.hasher or ContentHash()
                job.hasher.update(view[first:cut])
            segments.append((job, max(first - cut, 0), last - cut))

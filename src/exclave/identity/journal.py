"""The folder that keeps an identity journal: appended to by one process at a time, read by any number at any time.

Format: docs/spec/journal.md. What a crash leaves: at the end of the last segment, entries that were never acknowledged,
the last of which may be torn. Readers pass over a torn one, the next writer cuts it off; whole ones stay.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time as clocks
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from exclave.errors import (
    ConfigError,
    CorruptObject,
    Fenced,
    Forked,
    MalformedError,
    OutcomeUnknown,
    RolledBack,
)
from exclave.formats.journal import (
    HEAD_BYTES,
    Body,
    Entry,
    Head,
    Record,
    encode_entry,
    encode_record,
    encode_segment_head,
    entry_at,
    parse_entry,
    read_records,
)
from exclave.identity.segments import Place, SegmentFolder
from exclave.ids import Instant

SEGMENT_BYTES = 4 << 20
"""A segment that has so many is not written to any more."""


class Journal:
    """The journal in a folder. ``open`` makes one; safe to use from several threads.

    ``append`` and ``extend`` hold the folder's lock while they write; between two calls others may write.
    """

    def __init__(self, folder: str, *, captured: bool, sleep: Callable[[float], None]) -> None:
        self._folder = SegmentFolder(folder, sleep)
        self._captured = captured
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._end: Place | None = None
        self._last_epoch: tuple[int, int] = (0, 0)  # (number, its epoch)
        self._broken = ""
        self._inode = 0
        self._writer = 0  # the thread that holds the folder's lock

    @classmethod
    def open(cls, folder: str, *, captured: bool = False, sleep: Callable[[float], None] = clocks.sleep) -> Journal:
        """The journal in the existing ``folder``; an empty folder is an empty journal.

        ``captured``: a copy that was taken while it was written to; it ends where its first gap is. ``ConfigError`` if
        there is no such folder, ``CorruptObject`` if its last segment is damaged.
        """
        if not os.path.isdir(folder):
            raise ConfigError(
                f"there is no folder {folder} for the identity journal", hint="Create it, then try again."
            )
        journal = cls(folder, captured=captured, sleep=sleep)
        journal.head()
        return journal

    # Reading

    def head(self) -> Head:
        """Where it stands now, what other processes appended included."""
        with self._lock:
            self._notice_another_folder()
            end = self._end
        for place in self._scan(end):
            end = place
        if end is None:
            return Head()
        self._note(end)
        return end.head

    def _notice_another_folder(self) -> None:
        """Somebody put another journal in this one's place (home returned): what is remembered is of the old one."""
        inode = self._folder.inode()
        if inode != self._inode:
            self._inode, self._end, self._last_epoch = inode, None, (0, 0)

    def read_after(self, after: Head) -> Iterator[tuple[Entry, bytes, Head]]:
        """Each entry behind ``after`` with its bytes and the head after it, as far as there are any now.

        ``Forked`` if this journal says something else up to there, ``RolledBack`` if it ends before it;
        ``CorruptObject`` where it is damaged.
        """
        for place, record in self._walk(self._locate(after)):
            yield _parsed(record), record.data, record.head
            self._note(place)  # so that the next call finds its place without a search

    def at(self, number: int) -> Head | None:
        """Number and chain of entry ``number`` (0: of the empty journal); None if it does not go as far."""
        if number == 0:
            return Head()
        start = self._segment_before(number)
        if start is None:
            return None
        return next((record.head for record in self._records(start) if record.head.number == number), None)

    def _locate(self, after: Head) -> Place | None:
        """The place behind ``after``; None: at the very beginning."""
        with self._lock:
            self._notice_another_folder()
            end = self._end
        if end is not None and end.head == after:
            return end
        if after.number == 0:
            if after != Head():
                raise Forked("an empty journal has no other chain than zeros")
            return None
        begin = self._segment_before(after.number)
        behind = self._places(begin) if begin is not None else iter(())
        place = next((place for place in behind if place.head.number == after.number), None)
        if place is None:
            raise RolledBack(f"the identity journal ends before entry {after.number}", entry=after.number)
        if place.head != after:
            raise Forked(f"the identity journal has another entry {after.number}", entry=after.number)
        return place

    def _note(self, place: Place) -> None:
        with self._lock:
            if self._end is None or place.head.number >= self._end.head.number:
                self._end = place

    def _segment_before(self, number: int) -> Place | None:
        """The beginning of the segment that holds entry ``number``, if there is one that could."""
        firsts = [first for first in self._folder.firsts() if first <= number]
        if not firsts:
            return None
        return self._folder.begin(firsts[-1])

    def _scan(self, start: Place | None) -> Iterator[Place]:
        """Places from ``start`` to the end; from None, only of the last segment that has a head."""
        if start is None:
            for first in reversed(self._folder.firsts()):
                start = self._folder.begin(first)
                if start is not None:
                    yield start
                    break
            else:
                return
        yield from self._places(start)

    def _places(self, start: Place | None) -> Iterator[Place]:
        for place, _ in self._walk(start):
            yield place

    def _records(self, start: Place | None) -> Iterator[Record]:
        for _, record in self._walk(start):
            yield record

    def _walk(self, place: Place | None) -> Iterator[tuple[Place, Record]]:
        """Record by record from ``place`` (None: the first segment's) to the end, across segments."""
        if place is None:
            firsts = self._folder.firsts()
            if not firsts or (place := self._folder.begin(firsts[0])) is None:
                return
            if place.head != Head():
                raise CorruptObject("the identity journal's beginning is missing")
        while True:
            offset, done = place.offset, 0
            with self._no_writer():
                following = [first for first in self._folder.firsts() if first > place.first]
                data = self._folder.rest(place)
            for record in read_records(data, place.head):
                done = record.end
                place = Place(place.first, offset + done, record.head)
                yield place, record
            begin = self._folder.begin(following[0]) if following else None
            if begin is None and len(following) < 2:
                return
            if begin is None or begin.head != place.head or done != len(data):
                if self._captured and (begin is None or begin.head.number >= place.head.number):
                    return
                raise CorruptObject(f"the identity journal's entry {place.head.number + 1} is missing or damaged")
            place = begin

    # Writing

    def append(self, bodies: Iterable[Body], *, time: Instant, epoch: int, warrant: bytes = b"") -> Head:
        """Enters ``bodies`` in order, together; they are durable when it returns the head after them.

        ``Fenced`` if the journal holds an entry of a later epoch, ``Busy`` if another process keeps writing,
        ``OutcomeUnknown`` if the disk failed on the way: the entries may be there or a part of them; this object then
        writes no more. ``MalformedError`` for a body beyond the format's limits; nothing is written then.
        """
        before, entries = self.enter(bodies, time=time, epoch=epoch, warrant=warrant)
        return entries[-1][1] if entries else before

    def enter(
        self, bodies: Iterable[Body], *, time: Instant, epoch: int, warrant: bytes = b""
    ) -> tuple[Head, list[tuple[Entry, Head]]]:
        """As ``append``; the head before, and the new entries with the head after each."""
        with self._alone() as (place, last_epoch):
            if epoch < last_epoch:
                raise Fenced(f"the identity journal has entries of epoch {last_epoch}", epoch=last_epoch)
            before = head = place.head if place else Head()
            records, entries = [], []
            for body in bodies:
                entry = entry_at(head, time, epoch, body, warrant)
                data = encode_entry(entry)
                head = head.after(data)
                records.append((data, head))
                entries.append((entry, head))
            self._write(place, records, epoch)
            return before, entries

    def extend(self, entries: Iterable[bytes], *, to: Head, newest: int = 2**32 - 1) -> Head:
        """Adopts encoded entries that come from elsewhere and must lead from here to ``to``; all or none.

        ``MalformedError`` or ``CorruptObject`` for an entry that cannot follow or is of a later epoch than ``newest``,
        ``Forked`` if they end elsewhere. Otherwise as ``append``.
        """
        with self._alone() as (place, last_epoch):
            head, records, epoch = place.head if place else Head(), [], last_epoch
            for data in entries:
                entry = parse_entry(data)
                if entry.number != head.number + 1 or entry.epoch < epoch:
                    raise CorruptObject(f"entry {entry.number} cannot follow entry {head.number}", entry=entry.number)
                if entry.epoch > newest:
                    raise CorruptObject(
                        f"entry {entry.number} says that it is of epoch {entry.epoch}, which is yet to come",
                        hint="Somebody with the writer's key made it. Go on from an earlier version (--version).",
                        entry=entry.number,
                    )
                head, epoch = head.after(data), entry.epoch
                records.append((data, head))
            if head != to:
                raise Forked(f"the entries lead to another entry {head.number} than they should", entry=head.number)
            self._write(place, records, epoch)
            return head

    def adopt(self, source: Journal, *, newest: int = 2**32 - 1, batch_bytes: int = SEGMENT_BYTES) -> Head:
        """Extends this one by all that ``source`` has beyond it, of epochs up to ``newest``. ``Forked`` or
        ``RolledBack`` if it does not continue this one; else as ``extend``. In batches: a crash leaves a part, and the
        next call adopts the rest."""
        taken: list[bytes] = []
        start = head = self.head()
        size = 0
        for _, data, head in source.read_after(start):
            taken.append(data)
            size += len(data)
            if size >= batch_bytes:
                self.extend(taken, to=head, newest=newest)
                taken, size = [], 0
        return self.extend(taken, to=head, newest=newest) if taken else head

    @contextmanager
    def _alone(self) -> Iterator[tuple[Place | None, int]]:
        """Alone among threads and processes, with the place behind the last whole entry and its epoch."""
        if self._captured:
            raise ConfigError("a captured copy of an identity journal is not written to")
        with self._writing, self._folder.locked():
            if self._broken:
                raise OutcomeUnknown(f"the identity journal must be opened again: {self._broken}")
            self._writer = threading.get_ident()
            try:
                head = self.head()
                place = self._end
                number, epoch = self._last_epoch
                if head.number not in (0, number):
                    epoch = self._epoch_of_last(place)
                self._last_epoch = (head.number, epoch)
                yield place, epoch
            finally:
                self._writer = 0

    def _no_writer(self) -> AbstractContextManager[None]:
        """Waits until what is being written is durable: an entry that a power failure may yet take is not seen, so no
        store is ahead of its journal afterwards."""
        if self._captured or self._writer == threading.get_ident():
            return nullcontext()
        return self._folder.locked(fcntl.LOCK_SH)

    def _epoch_of_last(self, place: Place | None) -> int:
        """Reads the last entry; a segment may end in a head alone, so its predecessor is asked then."""
        if place is None:
            return 0
        last: Record | None = None
        for first in [first for first in self._folder.firsts() if first <= place.head.number][-1:]:
            for record in self._records(self._folder.begin(first)):
                last = record
        return _parsed(last).epoch if last is not None else 0

    def _write(self, place: Place | None, records: list[tuple[bytes, Head]], epoch: int) -> None:
        """Durably, segment by segment; a crash leaves a prefix of ``records``, its last one perhaps torn."""
        at = 0
        try:
            while at < len(records):
                fresh = place is None or place.offset >= SEGMENT_BYTES
                if place is None or fresh:
                    before = place.head if place is not None else Head()
                    place = Place(before.number + 1, 0, before)
                offset = place.offset or HEAD_BYTES
                pieces = [encode_segment_head(place.head)] if fresh else []
                while at < len(records) and offset < SEGMENT_BYTES:
                    data, head = records[at]
                    pieces.append(encode_record(data, head))
                    offset += len(pieces[-1])
                    at += 1
                self._folder.write(place, b"".join(pieces))
                place = Place(place.first, offset, records[at - 1][1])
                with self._lock:
                    self._end = place
        except OSError as error:
            self._broken = error.strerror or "the disk failed"
            raise OutcomeUnknown(
                f"the identity journal could not be written: {self._broken}",
                hint="Make room or mend the disk, then look whether the entries are there before repeating them.",
            ) from error
        if records:
            self._last_epoch = (records[-1][1].number, epoch)


def _parsed(record: Record) -> Entry:
    try:
        entry = parse_entry(record.data)
    except MalformedError as error:
        raise CorruptObject(
            f"the journal's entry {record.head.number} is not in the format: {error.message}"
        ) from error
    if entry.number != record.head.number:
        raise CorruptObject(f"the journal's entry {record.head.number} says that it is number {entry.number}")
    return entry


def fork_point(one: Journal, other: Journal) -> Head:
    """The last entry up to which both are the same; by halving, so long journals are compared in moments."""
    low, high = 0, min(one.head().number, other.head().number)
    while low < high:
        middle = (low + high + 1) // 2
        if one.at(middle) == other.at(middle):
            low = middle
        else:
            high = middle - 1
    found = one.at(low)
    if found is None:
        raise CorruptObject("the identity journal became shorter while it was read")
    return found

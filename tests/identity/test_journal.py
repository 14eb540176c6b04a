"""The folder of a journal: appending, reading from other processes, segments, crashes, copies, forks."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import exclave.identity.journal as module
from exclave.errors import (
    Busy,
    ConfigError,
    CorruptObject,
    Fenced,
    Forked,
    MalformedError,
    OutcomeUnknown,
    RolledBack,
)
from exclave.formats.journal import Head, Issued, ServiceGone, Stopped, serial_bytes
from exclave.identity.journal import Journal, fork_point
from exclave.ids import Instant
from support.hostile import Killed

ISSUER = bytes(range(32))
T = Instant(1_790_000_000_000_000)


def stop(number: int) -> Stopped:
    return Stopped(ISSUER, serial_bytes(number), T, "superseded")


def fill(journal: Journal, first: int, last: int, *, epoch: int = 1) -> Head:
    return journal.append([stop(n) for n in range(first, last + 1)], time=T, epoch=epoch)


def numbers(journal: Journal, after: Head = Head()) -> list[int]:  # noqa: B008  # frozen
    found = []
    for entry, data, head in journal.read_after(after):
        after = after.after(data)
        assert head == after
        assert isinstance(entry.body, Stopped)
        found.append(int.from_bytes(entry.body.serial, "big"))
    return found


def made(folder: Path) -> Journal:
    folder.mkdir(exist_ok=True)
    return Journal.open(str(folder))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of a few entries."""
    monkeypatch.setattr(module, "SEGMENT_BYTES", 400)


def test_append_and_read(tmp_path: Path) -> None:
    """Entries come out in order with their heads, from any point, in this and in another opening."""
    journal = made(tmp_path)
    assert journal.head() == Head()
    assert numbers(journal) == []
    first = fill(journal, 1, 3)
    last = fill(journal, 4, 5)
    other = Journal.open(str(tmp_path))
    assert journal.head() == other.head() == last
    assert numbers(other) == [1, 2, 3, 4, 5]
    assert numbers(other, first) == [4, 5]
    assert numbers(other, last) == []
    assert other.at(3) == first
    assert other.at(6) is None
    entry = next(iter(other.read_after(first)))[0]
    assert (entry.number, entry.time, entry.epoch, entry.warrant) == (4, T, 1, b"")
    assert journal.append([], time=T, epoch=1) == last


def test_readers_see_what_others_append(tmp_path: Path) -> None:
    """A reader that is open sees new entries at once; two writers take turns."""
    one, two = made(tmp_path), made(tmp_path)
    for n in range(1, 20):
        head = fill((one, two)[n % 2], n, n)
        assert one.head() == two.head() == head
    assert numbers(one) == list(range(1, 20))


def test_segments(tmp_path: Path, small: None) -> None:
    """Segments begin where the one before is full, named by their first number, and are read as one."""
    journal = made(tmp_path)
    heads = [fill(journal, n, n) for n in range(1, 21)]
    end = fill(journal, 21, 60)
    names = sorted(os.listdir(tmp_path))
    assert len(names) > 5
    assert names[0] == "0000000000000001.journal"
    reopened = Journal.open(str(tmp_path))
    assert reopened.head() == end
    assert numbers(reopened) == list(range(1, 61))
    for head in heads:
        assert numbers(reopened, head) == list(range(head.number + 1, 61))
        assert reopened.at(head.number) == head
    (tmp_path / names[2]).unlink()
    with pytest.raises(CorruptObject):
        numbers(Journal.open(str(tmp_path)))
    (tmp_path / names[0]).unlink()
    with pytest.raises(CorruptObject):
        numbers(Journal.open(str(tmp_path)))


def test_large_entries(tmp_path: Path) -> None:
    """A batch of many segments' size is written and read back."""
    journal = made(tmp_path)
    chunks = [
        Issued(ISSUER, tuple(serial_bytes(2**150 + n * 20_000 + k)
                             for k in range(20_000)))
        for n in range(15)
    ]  # fmt: skip
    head = journal.append(chunks, time=T, epoch=1)
    assert len(os.listdir(tmp_path)) == 2
    assert [entry.body for entry, _, _ in Journal.open(str(tmp_path)).read_after(Head())] == chunks
    assert head.number == 15


def test_refusals(tmp_path: Path) -> None:
    """A former epoch, a body beyond the limits, a copy: nothing is written."""
    journal = made(tmp_path)
    head = fill(journal, 1, 2, epoch=5)
    for opened in (journal, Journal.open(str(tmp_path))):
        with pytest.raises(Fenced):
            fill(opened, 3, 3, epoch=4)
    with pytest.raises(MalformedError):
        journal.append([stop(1), ServiceGone("")], time=T, epoch=5)
    with pytest.raises(ConfigError):
        Journal.open(str(tmp_path), captured=True).append([stop(1)], time=T, epoch=5)
    with pytest.raises(ConfigError):
        Journal.open(str(tmp_path / "missing"))
    assert Journal.open(str(tmp_path)).head() == head


def test_busy(tmp_path: Path) -> None:
    """A writer that keeps the folder's lock makes others wait and then give up."""
    journal = made(tmp_path)
    waits: list[float] = []
    other = Journal.open(str(tmp_path), sleep=waits.append)
    with journal._folder.locked(), pytest.raises(Busy):
        fill(other, 1, 1)
    assert 9 < sum(waits) < 11
    fill(other, 1, 1)


def test_forks_and_rollback(tmp_path: Path) -> None:
    """A head that this journal never had, or does not have any more, is told apart."""
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    common = fill(one, 1, 5)
    assert two.adopt(one) == common
    mine, theirs = fill(one, 6, 9), fill(two, 7, 8)
    assert fork_point(one, two) == fork_point(two, one) == common
    assert fork_point(one, made(tmp_path / "three")) == Head()
    with pytest.raises(Forked):
        numbers(one, theirs)
    with pytest.raises(RolledBack):
        numbers(two, mine)
    with pytest.raises(Forked):
        one.adopt(two) if mine.number < theirs.number else two.adopt(one) and fill(two, 1, 1)
    with pytest.raises(Forked):
        numbers(one, Head(0, theirs.chain))


def test_another_journal_in_its_place(tmp_path: Path, small: None) -> None:
    """Whoever has a journal open goes on with the one that was put into its place, and forgets the old one's end."""
    place, other = made(tmp_path / "here"), made(tmp_path / "other")
    old = fill(place, 1, 20, epoch=9)
    fill(other, 101, 130)
    (tmp_path / "here").rename(tmp_path / "aside")
    (tmp_path / "other").rename(tmp_path / "here")
    with pytest.raises(Forked):
        numbers(place, old)
    assert numbers(place) == list(range(101, 131))
    fill(place, 131, 132)
    assert numbers(Journal.open(str(tmp_path / "here"))) == list(range(101, 133))
    assert numbers(Journal.open(str(tmp_path / "aside"))) == list(range(1, 21))


def test_adopting(tmp_path: Path, small: None) -> None:
    """A follower takes over entries in batches, byte for byte, and refuses what does not lead where it should."""
    source, follower = made(tmp_path / "source"), made(tmp_path / "follower")
    fill(source, 1, 30)
    assert follower.adopt(source, batch_bytes=500) == source.head()
    end = fill(source, 31, 33, epoch=2)
    data = [data for _, data, _ in source.read_after(follower.head())]
    for bad, error in (
        (data[1:], CorruptObject),
        (data[:2], Forked),
        (data[::-1], CorruptObject),
        ([*data[:2], data[2][:-1]], MalformedError),
        (data[:2] + data[:1], CorruptObject),
    ):
        with pytest.raises(error):
            follower.extend(bad, to=end)
    assert follower.extend(data, to=end) == end
    assert numbers(follower) == list(range(1, 34))
    with pytest.raises(Fenced):
        fill(follower, 34, 34, epoch=1)


def test_copies_taken_while_writing(tmp_path: Path, small: None) -> None:
    """A copy whose files were read at different moments is good up to its first gap, and a follower adopts it."""
    journal = made(tmp_path / "live")
    fill(journal, 1, 60)
    names = sorted(os.listdir(tmp_path / "live"))
    for cut in range(0, 300, 7):
        copy = tmp_path / f"copy{cut}"
        shutil.copytree(tmp_path / "live", copy)
        os.truncate(copy / names[3], cut)
        captured = Journal.open(str(copy), captured=True)
        found = numbers(captured)
        assert found == list(range(1, len(found) + 1))
        assert int(names[3][:16]) - 1 <= len(found) < int(names[4][:16])
        follower = made(tmp_path / f"follower{cut}")
        assert follower.adopt(captured).number == len(found)
        with pytest.raises(CorruptObject):
            numbers(Journal.open(str(copy)))


def test_damage_is_not_a_torn_end(tmp_path: Path) -> None:
    """A changed byte before the end is reported and never cut off."""
    fill(made(tmp_path), 1, 5)
    path = tmp_path / "0000000000000001.journal"
    data = bytearray(path.read_bytes())
    data[150] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptObject):
        Journal.open(str(tmp_path))
    assert path.read_bytes() == data


CALLS = ("pwrite", "fsync", "ftruncate")


class Interceptor:
    """Spoils the ``nth`` system call that changes the disk."""

    def __init__(self, nth: int, mode: str) -> None:
        self.nth, self.mode, self.seen = nth, mode, 0
        self.real = {name: getattr(os, name) for name in CALLS}

    def call(self, name: str, *args: object) -> object:
        self.seen += 1
        if self.seen > self.nth and self.mode.startswith("killed"):
            raise Killed
        if self.seen != self.nth:
            return self.real[name](*args)
        if self.mode.endswith("half") and name == "pwrite":
            file, data, offset = args
            self.real[name](file, bytes(data)[: len(data) // 2], offset)  # type: ignore[arg-type,call-overload]
        elif self.mode.endswith("after"):
            self.real[name](*args)
        if self.mode.startswith("killed"):
            raise Killed
        raise OSError(errno.EIO, "spoilt on purpose")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        try:
            for name in CALLS:
                setattr(os, name, lambda *a, _name=name: self.call(_name, *a))
            yield
        finally:
            for name, real in self.real.items():
                setattr(os, name, real)


@pytest.mark.parametrize("mode", ["before", "half", "after", "killed-before", "killed-half", "killed-after"])
def test_crash_matrix(tmp_path: Path, small: None, mode: str) -> None:
    """Whichever call fails or is the last: all that was acknowledged is there, a prefix of the rest, and it goes on."""
    nth = 0
    while True:
        nth += 1
        folder = tmp_path / f"{nth}"
        journal = made(folder)
        known = fill(journal, 1, 3)
        (folder / "0000000000000001.journal").open("ab").write(b"\0\0\0\x50torn")
        interceptor = Interceptor(nth, mode)
        outcome: BaseException | None = None
        with interceptor.at_work():
            try:
                fill(Journal.open(str(folder)), 4, 15)
            except (Killed, OutcomeUnknown) as error:
                outcome = error
        found = numbers(Journal.open(str(folder)), known)
        assert found == list(range(4, 4 + len(found)))
        assert numbers(Journal.open(str(folder), captured=True), known) == found
        if outcome is None:
            assert found == list(range(4, 16))
            break
        again = Journal.open(str(folder))
        fill(again, 4 + len(found), 20)
        assert numbers(Journal.open(str(folder))) == list(range(1, 21))
    assert nth > 8, "the matrix has lost its rows"


def test_a_failed_writer_stops(tmp_path: Path) -> None:
    """After a failed sync nobody knows what the disk holds; the same object refuses to build on it."""
    journal = made(tmp_path)
    with Interceptor(2, "before").at_work(), pytest.raises(OutcomeUnknown):
        fill(journal, 1, 1)
    with pytest.raises(OutcomeUnknown):
        fill(journal, 2, 2)
    assert numbers(Journal.open(str(tmp_path))) in ([], [1])


WRITER = """
import sys
from exclave.formats.journal import Stopped, serial_bytes
from exclave.identity.journal import Journal
journal = Journal.open(sys.argv[1])
for n in range(1, 100000):
    bodies = [Stopped(bytes(32), serial_bytes(n * 3 + k), 1, "superseded") for k in range(3)]
    head = journal.append(bodies, time=1, epoch=1)
    print(head.number, flush=True)
"""


def test_killed_process_and_live_reader(tmp_path: Path) -> None:
    """A reader follows a writer of another process entry by entry; what a killed one told is there, and whole."""
    journal = made(tmp_path)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        head, seen = Head(), 0
        while seen < 300:
            told = int(writer.stdout.readline())
            for entry, _, following in journal.read_after(head):
                seen, head = seen + 1, following
                assert entry.number == seen
            assert seen >= told
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
    told = int(rest[-1]) if rest and rest[-1].isdigit() else told
    after = Journal.open(str(tmp_path))
    assert told <= after.head().number <= told + 3
    fill(after, 1, 1)
    assert after.head() == journal.head()


def test_threads_append_together(tmp_path: Path) -> None:
    """Several threads on one object and on several lose nothing."""
    shared = made(tmp_path)

    def work(first: int) -> None:
        journal = shared if first % 200 else Journal.open(str(tmp_path))
        for n in range(first, first + 20):
            fill(journal, n, n)

    threads = [threading.Thread(target=work, args=(n * 100,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(shared)) == [n * 100 + k for n in range(1, 7) for k in range(20)]

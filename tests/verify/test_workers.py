"""Threads that read packs beside the caller: order, ends, and faults of our own."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from exclave.errors import SiteUnavailable
from exclave.ids import Key
from exclave.sites.contract import MAX_OBJECT_BYTES
from exclave.sites.memory import MemorySite
from exclave.verify.embassy import _one_behind
from exclave.verify.guard import MAX_FAILURES, GuardedSource
from exclave.verify.workers import Job, Told, Workers
from support.hostile import PassThrough


def test_what_jobs_find_is_noted_by_the_caller_batch_by_batch() -> None:
    """Nothing is noted before its batch is finished, and no other thread notes anything."""
    noted: list[tuple[str, int, threading.Thread]] = []

    def note(batch: str, number: int) -> None:
        noted.append((batch, number, threading.current_thread()))

    def job(batch: str, number: int) -> Told | None:
        assert threading.current_thread() is not threading.main_thread()
        return partial(note, batch, number) if number % 2 else None

    with Workers(3) as threads:
        first = threads.begin([partial(job, "a", n) for n in range(50)], 50)
        second = threads.begin([partial(job, "b", n) for n in range(50)], 50)
        threads.finish(first)
        assert {batch for batch, _, _ in noted} == {"a"}
        threads.finish(second)
    assert sorted(number for batch, number, _ in noted if batch == "b") == list(range(1, 50, 2))
    assert {thread for _, _, thread in noted} == {threading.main_thread()}


@pytest.mark.parametrize("count", [0, 1, 99])
def test_a_batch_without_jobs_ends(count: int) -> None:
    """Whatever number of threads was asked for, nothing to do is done at once."""
    with Workers(count) as threads:
        threads.finish(threads.begin([], 0))
        assert threads.total == 0


def test_an_error_in_a_job_reaches_the_caller() -> None:
    """A fault of our own is not swallowed with its thread, and no further job is taken."""
    ran: list[int] = []

    def job(number: int) -> None:
        ran.append(number)
        if number == 3:
            raise ZeroDivisionError

    jobs: list[Job] = [partial(job, number) for number in range(1000)]
    with Workers(1) as threads, pytest.raises(ZeroDivisionError):
        threads.finish(threads.begin(jobs, len(jobs)))
    assert ran == [0, 1, 2, 3]


def test_who_is_interrupted_waits_for_no_more_than_what_is_on_its_way() -> None:
    """Jobs that nobody has begun are not begun any more."""
    gate, begun = threading.Event(), threading.Semaphore(0)
    ran: list[int] = []

    def job(number: int) -> None:
        ran.append(number)
        begun.release()
        assert gate.wait(60)

    def open_gate(threads: Workers) -> None:
        while not threads._ended:
            time.sleep(0.001)
        gate.set()

    def interrupted() -> None:
        with Workers(2) as threads:
            threads.begin([partial(job, number) for number in range(1000)], 1000)
            for _ in range(2):
                assert begun.acquire(timeout=60)
            threading.Thread(target=open_gate, args=(threads,), daemon=True).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(ran) == [0, 1]


def test_registers_follow_each_other_one_behind() -> None:
    """A register is settled once the next one was looked at: no more than two are ever in memory."""
    log: list[str] = []

    def begun() -> object:
        for number in range(3):
            log.append(f"begin {number}")
            yield number

    for number in _one_behind(begun()):  # type: ignore[arg-type, var-annotated]
        log.append(f"settle {number}")
    assert log == ["begin 0", "begin 1", "settle 0", "begin 2", "settle 1", "settle 2"]


def test_what_fails_while_packs_are_read_does_not_end_the_reading_of_ledgers() -> None:
    """But what was given up for ledgers is not asked for packs."""

    class Dead(PassThrough):
        def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
            raise SiteUnavailable("dead")

    ledgers = GuardedSource("site", Dead(MemorySite()))
    packs = GuardedSource("site", Dead(MemorySite()), beside=ledgers)
    for _ in range(MAX_FAILURES):
        with pytest.raises(SiteUnavailable, match="dead"):
            packs.get(Key("a"))
    assert (packs.given_up, ledgers.given_up) == (True, False)
    for _ in range(MAX_FAILURES):
        with pytest.raises(SiteUnavailable, match="dead"):
            ledgers.get(Key("a"))
    again = GuardedSource("site", MemorySite(), beside=ledgers)
    with pytest.raises(SiteUnavailable, match="not asked again: dead"):
        list(again.list(""))

"""Threads that read packs while the caller goes on with ledgers and lists."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

MAX_WORKERS = 8
"""Each holds one pack, at most 16 MiB, at a time; of a source that digests by itself, a small buffer."""
_LOOK_S = 0.1
"""So often a waiting caller is told how far it has come."""

Told = Callable[[], None]
"""What a job found, to be noted by the caller's own thread."""
Job = Callable[[], Told | None]


@dataclass(slots=True)
class Batch:
    """Jobs that were begun together. Only the jobs on their way are in memory, and what they found."""

    jobs: Iterator[Job]
    taken: bool = False
    """Whether ``jobs`` has come to its end."""
    running: int = 0
    found: list[Told] = field(default_factory=list)


class Workers:
    """1 to 8 threads that take jobs one by one, batch after batch. Started with the first batch; use it in ``with``.

    An error in a job is a bug: it ends all threads, and the next ``finish`` raises it.
    """

    def __init__(self, count: int, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """``progress(jobs done, jobs of all batches begun)`` is called by the caller's thread alone."""
        self._count = max(1, min(count, MAX_WORKERS))
        self._progress = progress
        self._turn = threading.Condition()
        self._waiting: deque[Batch] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._ended = False
        self._error: BaseException | None = None
        self.total = self._done = 0
        """Jobs of all batches begun."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes no more jobs, and waits for those on their way."""
        with self._turn:
            self._ended = True
            self._turn.notify_all()
        if self._pool is not None:
            self._pool.shutdown()

    def begin(self, jobs: Iterable[Job], total: int) -> Batch:
        """Starts on ``jobs``, of which there are ``total``. They are taken from the iterator in any thread."""
        batch = Batch(iter(jobs))
        self.total += total
        self._progress(self._done, self.total)
        with self._turn:
            self._waiting.append(batch)
            self._turn.notify_all()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="verify")
            for _ in range(self._count):
                self._pool.submit(self._work)
        return batch

    def finish(self, batch: Batch) -> None:
        """Waits for all jobs of ``batch``, then notes what they found."""
        while not self._over(batch):
            self._progress(self._done, self.total)
        for told in batch.found:
            told()
        batch.found.clear()
        self._progress(self._done, self.total)

    def _over(self, batch: Batch) -> bool:
        with self._turn:
            over = self._turn.wait_for(lambda: self._error or (batch.taken and not batch.running), _LOOK_S)
        if self._error is not None:
            raise self._error
        return bool(over)

    def _work(self) -> None:
        batch, told = None, None
        try:
            while True:
                with self._turn:
                    if batch is not None:
                        self._settle(batch, told)
                    batch, job = self._next()
                if batch is None or job is None:
                    return
                told = job()
        except BaseException as error:  # noqa: BLE001 - a bug, raised by ``finish``
            with self._turn:
                self._error, self._ended = error, True
                self._turn.notify_all()

    def _settle(self, batch: Batch, told: Told | None) -> None:
        batch.running -= 1
        self._done += 1
        if told is not None:
            batch.found.append(told)
        if batch.taken and not batch.running:
            self._turn.notify_all()

    def _next(self) -> tuple[Batch, Job] | tuple[None, None]:
        """The next job of the first batch that has one; waits for a batch. None at the end."""
        while not self._ended:
            while self._waiting:
                batch = self._waiting[0]
                job = next(batch.jobs, None)
                if job is not None:
                    batch.running += 1
                    return batch, job
                batch.taken = True
                self._waiting.popleft()
                self._turn.notify_all()
            self._turn.wait()
        return None, None

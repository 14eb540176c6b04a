"""The members of a coded site, asked side by side, each by threads of its own: one that hangs holds up no other.

Answers are kept by the member's number in the address. A failure is an answer, too.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from exclave.errors import Bug, ExclaveError, IntegrityError, MissingObject, NotAuthorised, SiteUnavailable
from exclave.ids import Key
from exclave.sites.contract import Site

T = TypeVar("T")

MAX_FAULTS = 1000
_THREADS = 8
_MAX_WAITING = 64
"""Calls that one member has not answered yet; it is taken for away while there are so many."""
_STEP_S = 0.05
"""Members whose answers take as long, to this, are asked in the order of the address."""
_FORGET = 0.98


@dataclass(slots=True)
class Asked(Generic[T]):
    """What the members said, by number."""

    good: dict[int, T] = field(default_factory=dict)
    bad: dict[int, ExclaveError] = field(default_factory=dict)


class Members:
    """``sites`` in the order of the address. Safe for several threads."""

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        clock: Callable[[], float],
        late_s: float,
        executors: Sequence[Executor] | None = None,
    ) -> None:
        """``late_s``: so long a read waits before another member is asked too. ``executors``: one for each member."""
        self.sites = tuple(sites)
        self._pools = executors or [ThreadPoolExecutor(_THREADS, thread_name_prefix="coded") for _ in sites]
        self._clock, self._late_s = clock, late_s
        self._lock = threading.Lock()
        self._waiting = [0] * len(self.sites)
        self._took_s = [0.0] * len(self.sites)
        self.faults: deque[str] = deque(maxlen=MAX_FAULTS)
        """Members that showed what cannot be right, and where; the newest last."""
        self.lacking: Counter[int] = Counter()
        """Writes that counted although this member did not take them, by member."""

    def __len__(self) -> int:
        return len(self.sites)

    def fault(self, at: int, key: Key, what: str) -> None:
        self.faults.append(f"{self.sites[at].address}: {key}: {what}")

    def by_speed(self) -> list[int]:
        """All, those first that answered the soonest of late."""
        with self._lock:
            return sorted(range(len(self)), key=lambda at: (int(self._took_s[at] / _STEP_S), at))

    def ask(self, call: Callable[[int], T], which: Iterable[int] | None = None) -> Asked[T]:
        """Asks all of ``which`` (every member), and waits until each has answered or failed."""
        asked: Asked[T] = Asked()
        for future, at in [(self._start(call, at), at) for at in (range(len(self)) if which is None else which)]:
            _enter(asked, at, future)
        return asked

    def some(
        self, order: Sequence[int], count: int, call: Callable[[int], T], *, enough: Callable[[Asked[T]], bool]
    ) -> Asked[T]:
        """Asks the first ``count`` of ``order``, and one more for each that fails or is late, until it is ``enough`` or
        all have answered. A late answer counts if it comes meanwhile."""
        left, asked, waiting = deque(order), Asked[T](), dict[Future[T], int]()
        while True:
            wanted = count - len(asked.good) - len(waiting)
            for _ in range(min(len(left), max(wanted, 0))):
                at = left.popleft()
                waiting[self._start(call, at)] = at
            if not waiting:
                if enough(asked) or not left:
                    return asked
                count += 1
                continue
            done, _ = wait(waiting, timeout=self._late_s if left else None, return_when=FIRST_COMPLETED)
            for future in done:
                _enter(asked, waiting.pop(future), future)
            if done and enough(asked):
                self._passed_over([*left, *waiting.values()])
                return asked
            if not done:
                self._note_late(waiting.values())
                count += len(waiting)

    def _start(self, call: Callable[[int], T], at: int) -> Future[T]:
        with self._lock:
            self._waiting[at] += 1
            crowded = self._waiting[at] > _MAX_WAITING

        def timed() -> T:
            began = self._clock()
            try:
                if crowded:
                    raise SiteUnavailable(f"{self.sites[at].address} has not answered {_MAX_WAITING} calls")
                return call(at)
            finally:
                with self._lock:
                    self._waiting[at] -= 1
                    self._took_s[at] = (self._took_s[at] + self._clock() - began) / 2

        if crowded:
            future: Future[T] = Future()
            try:
                timed()
            except SiteUnavailable as error:
                future.set_exception(error)
            return future
        return self._pools[at].submit(timed)

    def _note_late(self, which: Iterable[int]) -> None:
        with self._lock:
            for at in which:
                self._took_s[at] = max(self._took_s[at], self._late_s)

    def _passed_over(self, which: Iterable[int]) -> None:
        """One that was slow is tried again after a while."""
        with self._lock:
            for at in which:
                self._took_s[at] *= _FORGET

    def unmet(self, need: int, asked: Asked[T], what: str) -> ExclaveError:
        """Why fewer than ``need`` took a write: what forbids it, before what is wrong, before who is away."""
        errors = [error for _, error in sorted(asked.bad.items())]
        for kind in (NotAuthorised, IntegrityError, ExclaveError):
            first = next((error for error in errors if isinstance(error, kind)), None)
            if first is not None:
                break
        else:
            return SiteUnavailable(f"{what} is at {len(asked.good)} members; {need} are needed")
        if not isinstance(first, SiteUnavailable):
            return first
        told = "; ".join(f"{self.sites[at].address}: {e.message}" for at, e in sorted(asked.bad.items()))
        return type(first)(
            f"{what} is at {len(asked.good)} of {len(self)} members and {need} are needed: {told}",
            hint="Bring a member back, or put another one in its place and run `exclave coded mend`.", **first.facts,
        )  # fmt: skip

    def wrong(self, asked: Asked[T], key: Key) -> None:
        """Names those whose answers cannot be right."""
        for at, error in asked.bad.items():
            if isinstance(error, IntegrityError) and not isinstance(error, MissingObject):
                self.fault(at, key, error.message)

    def count_lacking(self, which: Iterable[int]) -> None:
        """A write counted without these."""
        self.lacking.update(list(which))


def _enter(asked: Asked[T], at: int, future: Future[T]) -> None:
    try:
        asked.good[at] = future.result()
    except Bug:
        raise
    except ExclaveError as error:
        asked.bad[at] = error

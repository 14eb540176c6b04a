"""Fair turns at disk and processor between the states of one host.

A turn is a short piece of work: a megabyte hashed and written, a file made durable, a page of a list. Each state has at
most half of all turns at once, and whoever waits is served in the round of states, not of requests: a state with a
thousand requests waits for its own, and one that comes with a single request waits for one turn to end.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Turns:
    """``at_work`` turns at once, over all states."""

    def __init__(self, at_work: int) -> None:
        self._free = at_work
        self._share = max(1, at_work // 2)
        self._held: dict[str, int] = {}
        self._waiting: OrderedDict[str, deque[Lock]] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def of(self, state: str) -> Iterator[None]:
        """Waits until it is the turn of ``state``."""
        self._take(state)
        try:
            yield
        finally:
            self._give_back(state)

    def _take(self, state: str) -> None:
        with self._lock:
            if self._free and self._held.get(state, 0) < self._share and state not in self._waiting:
                self._grant(state)
                return
            mine = Lock()
            mine.acquire()
            self._waiting.setdefault(state, deque()).append(mine)
        mine.acquire()  # released by whoever grants the turn

    def _give_back(self, state: str) -> None:
        with self._lock:
            self._free += 1
            self._held[state] -= 1
            if not self._held[state]:
                del self._held[state]
            while self._free and (following := self._next()) is not None:
                self._grant(following)
                line = self._waiting[following]
                line.popleft().release()
                if line:
                    self._waiting.move_to_end(following)
                else:
                    del self._waiting[following]

    def _grant(self, state: str) -> None:
        self._free -= 1
        self._held[state] = self._held.get(state, 0) + 1

    def _next(self) -> str | None:
        """The state that has waited longest since its last turn and has not its whole share."""
        return next((state for state in self._waiting if self._held.get(state, 0) < self._share), None)

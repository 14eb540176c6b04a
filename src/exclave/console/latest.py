"""The last look at the sites, kept for a few seconds, so that reloading a page does not hammer them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from exclave.errors import ExclaveError
from exclave.ids import Instant
from exclave.operations.status import StateStatus

FRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look found."""

    at: Instant
    """When it began."""
    found: StateStatus | ExclaveError


class Latest:
    """Looks again when the last look is older than ``FRESH_S``; one at a time, however many ask."""

    def __init__(
        self, look: Callable[[], StateStatus], clock: Callable[[], Instant], ticks: Callable[[], float]
    ) -> None:
        """``look`` reads the sites; ``ticks`` are seconds that never go back (``time.monotonic``)."""
        self._look, self._clock, self._ticks = look, clock, ticks
        self._lock = threading.Lock()
        self._last: tuple[float, Looked] | None = None

    def get(self) -> Looked:
        """The last look if it is fresh; if another thread is looking just now, the one before; else a new one.

        A failure is a result too, and is kept as long: sites that are down are not asked more often.
        """
        before = self._last
        if before is not None and not self._lock.acquire(blocking=False):
            return before[1]
        if before is None:
            self._lock.acquire()
        try:
            return self._fresh() or self._renew()
        finally:
            self._lock.release()

    def _fresh(self) -> Looked | None:
        last = self._last
        return last[1] if last is not None and self._ticks() - last[0] < FRESH_S else None

    def _renew(self) -> Looked:
        began = self._clock()
        found: StateStatus | ExclaveError
        try:
            found = self._look()
        except ExclaveError as error:
            found = error
        looked = Looked(began, found)
        self._last = (self._ticks(), looked)  # from its end on: a slow look is not followed by the next at once
        return looked

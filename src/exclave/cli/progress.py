"""How far long work has come, how fast it goes and how long it may take: two lines on a terminal, nothing elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.live import Live
from rich.text import Text

from exclave.cli.output import duration, err, size_text, visible
from exclave.ids import Label
from exclave.sites.contract import Site
from exclave.sites.recording import RecordingSite

_WINDOW_S = 20.0
"""Rates are those of so many last seconds."""
_SETTLED_S = 3.0
"""Before that nothing is said of the time that is left."""
_REFRESH_HZ = 4
_BAR = 20


class Meter:
    """A rate over the last ``_WINDOW_S`` seconds, from totals that only grow. Times are passed in, in seconds."""

    def __init__(self, at: float) -> None:
        self._seen: deque[tuple[float, int]] = deque([(at, 0)])

    def note(self, at: float, total: int) -> float:
        """Units per second, now that ``total`` is reached."""
        self._seen.append((at, total))
        while len(self._seen) > 2 and self._seen[1][0] <= at - _WINDOW_S:
            self._seen.popleft()
        first, before = self._seen[0]
        return max(total - before, 0) / (at - first) if at > first else 0.0


@dataclass(slots=True)
class Work:
    """What is known of some work at one moment."""

    what: str
    """Its name: a register, a site."""
    text: str = ""
    """The step that it is at."""
    done: int = 0
    total: int | None = None
    """In the same unit as ``done``; None: not known."""
    estimated: bool = False
    """``total`` is that of an earlier run."""
    read: int | None = None
    """Bytes, or None where nothing counts them."""
    shipped: int | None = None


def describe(work: Work, *, passed_s: float, read_rate: float, shipped_rate: float, width: int) -> tuple[str, str]:
    """Two lines of at most ``width`` characters.

    ``passed_s``: seconds since it began; rates in bytes per second.
    """
    share = min(work.done / work.total, 1.0) if work.total else None
    bar = ""
    if share is not None:
        full = int(share * _BAR)
        drawn = f" [{'#' * full}{'.' * (_BAR - full)}]" if width >= 2 * _BAR else ""
        bar = f"{drawn} {'~' if work.estimated else ''}{share:.0%}"
    head = visible(f"{work.what}: {work.text}" if work.text else work.what)
    room = max(width - len(bar), 1)
    first = (head if len(head) <= room else head[: room - 1] + "…") + bar
    parts = []
    if work.read is not None:
        parts.append(f"read {size_text(work.read)} at {size_text(read_rate)}/s")
    if work.shipped is not None:
        parts.append(f"shipped {size_text(work.shipped)} at {size_text(shipped_rate)}/s")
    if share and share < 1 and passed_s >= _SETTLED_S:
        parts.append(f"{duration(passed_s / share - passed_s)} left")
    else:
        parts.append(duration(passed_s))
    return first, ("  " + ", ".join(parts))[:width]


@dataclass(slots=True)
class WorkBar:
    """Told from any thread how far the work has come."""

    work: Work
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _read_from: Callable[[], int] | None = None
    _shipped_from: Callable[[], int] | None = None

    def begin(self, text: str) -> None:
        """A new step with a total of its own."""
        with self._lock:
            self.work.text, self.work.done, self.work.total = text, 0, None

    def at(
        self, text: str, done: int, total: int | None = None, *, estimated: bool = False, read: int | None = None
    ) -> None:
        """It is at ``done`` of ``total``; ``read``: bytes read until now."""
        with self._lock:
            self.work.text, self.work.done = text, done
            self.work.total, self.work.estimated = total, estimated
            self.work.read = self.work.read if read is None else read

    def read(self, size: int, *, counts: bool = False) -> None:
        """``size`` more bytes were read; with ``counts``, it has come that much further."""
        with self._lock:
            self.work.read = (self.work.read or 0) + size
            self.work.done += size if counts else 0

    def ship(self, size: int, *, counts: bool = False) -> None:
        """``size`` more bytes were written; as ``read``."""
        with self._lock:
            self.work.shipped = (self.work.shipped or 0) + size
            self.work.done += size if counts else 0

    def poll(self, *, read: Callable[[], int] | None = None, shipped: Callable[[], int] | None = None) -> None:
        """Totals in bytes are asked of these whenever the lines are drawn."""
        with self._lock:
            self._read_from, self._shipped_from = read or self._read_from, shipped or self._shipped_from

    def now(self) -> Work:
        """What is known now."""
        with self._lock:
            if self._read_from is not None:
                self.work.read = self._read_from()
            if self._shipped_from is not None:
                self.work.shipped = self._shipped_from()
            work = self.work
            return Work(
                work.what, work.text, work.done, work.total, work.estimated, work.read, work.shipped
            )  # fmt: skip


def counting(sites: Mapping[Label, Site]) -> dict[Label, RecordingSite]:
    """``sites``, counting what goes to them and comes from them."""
    return {label: RecordingSite(site) for label, site in sites.items()}


def read_of(sites: Mapping[Label, RecordingSite]) -> Callable[[], int]:
    """Bytes read from all of them together."""
    return lambda: sum(site.totals.read_bytes for site in sites.values())


def shipped_of(sites: Mapping[Label, RecordingSite]) -> Callable[[], int]:
    """Bytes written to all of them together."""
    return lambda: sum(site.totals.written_bytes for site in sites.values())


@contextmanager
def work_bar(what: str, *, quiet: bool) -> Iterator[WorkBar]:
    """Shows the work on standard error while it runs; silent with ``quiet``, or where nobody looks."""
    bar = WorkBar(Work(what))
    if quiet or not err.is_terminal:
        yield bar
        return
    began = time.monotonic()
    read, shipped = Meter(began), Meter(began)

    def draw() -> Text:
        work, at = bar.now(), time.monotonic()
        lines = describe(
            work, passed_s=at - began, read_rate=read.note(at, work.read or 0),
            shipped_rate=shipped.note(at, work.shipped or 0), width=err.width - 1,
        )  # fmt: skip
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    with Live(console=err, transient=True, refresh_per_second=_REFRESH_HZ, get_renderable=draw):
        yield bar

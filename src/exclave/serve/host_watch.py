"""What a host looks after by himself: clock, disk, daily erasures, reading all bytes; and what his page shows of it.

Everything remembered is a hint: the folder ``memory`` lost, a scrub is due at once and the clock is believed.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from exclave.errors import ExclaveError, MalformedError
from exclave.ids import Fingerprint, Instant, instant_text, parse_instant
from exclave.operations.host_erasure import HostErasure
from exclave.operations.host_scrub import HostScrub, scrub_host
from exclave.rules.hostclock import ClockMark, clock_fault
from exclave.serve.site_contract import HostedState

_log = logging.getLogger("exclave.site")
DAY_US = 86_400_000_000
LOOK_S = 60.0
"""Between two looks at clock and duties."""
SCRUB_BYTES_PER_S = 32 << 20
"""So fast are bytes read when a scrub is due: less than any disk gives, so that writers feel little."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A state's file system."""

    free_bytes: int
    total_bytes: int
    free_files: int
    writable: bool


@dataclass(frozen=True, slots=True)
class StateLook:
    """One state, as its host sees it; by number, never by name."""

    number: int
    bytes_used: int
    quota_bytes: int
    objects_used: int
    quota_objects: int
    counting: bool
    disk: Disk | None
    """None: the folder cannot be read."""
    scrubbed_at: Instant
    """When all of it was read last; 0 if never."""
    scrub_due: bool
    wrong: int
    """Objects that were wrong then."""
    unread: bool
    """The last reading did not come to its end."""
    orders_open: int
    """Orders to delete that wait, or of which something is left here, by the last look; -1 if none was made."""
    erase_fault: str


@dataclass(frozen=True, slots=True)
class HostLook:
    """All that the page shows."""

    at: Instant
    clock_fault: str
    states: tuple[StateLook, ...]
    broken: str = ""
    """What the host himself does no more as it should; empty if nothing."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the host is not well, in words; empty if it is."""
        found = [f"clock: {self.clock_fault}"] if self.clock_fault else []
        found += [self.broken] if self.broken else []
        for one in self.states:
            if one.disk is None:
                found.append(f"state {one.number}: its folder cannot be read")
            elif not one.disk.writable:
                found.append(f"state {one.number}: its folder takes no writes")
            elif one.disk.free_bytes * 20 < one.disk.total_bytes:
                found.append(f"state {one.number}: its disk is nearly full")
            if one.bytes_used * 10 > one.quota_bytes * 9 or one.objects_used * 10 > one.quota_objects * 9:
                found.append(f"state {one.number}: more than 90 % of its quota is used")
            if one.wrong:
                found.append(f"state {one.number}: {one.wrong} objects have wrong bytes")
            if one.unread:
                found.append(f"state {one.number}: its objects cannot all be read")
            if one.erase_fault:
                found.append(f"state {one.number}: orders to delete: {one.erase_fault}")
        return tuple(found)


@dataclass(slots=True)
class HostWatch:
    """For many threads. ``running_us``: a clock that nobody sets."""

    states: Sequence[HostedState]
    erasures: Mapping[Fingerprint, HostErasure]
    memory: Path | None
    scrub_days: int
    daily: bool
    clock: Callable[[], Instant]
    running_us: Callable[[], int]
    _first: ClockMark = field(init=False)
    _written: Instant = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)
    _scrubs: dict[Fingerprint, HostScrub] = field(default_factory=dict)
    _tried: dict[Fingerprint, Instant] = field(default_factory=dict)
    _faults: dict[Fingerprint, str] = field(default_factory=dict)
    _unread: set[Fingerprint] = field(default_factory=set)
    _broken: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._first = ClockMark(self.clock(), self.running_us())
        self._written = self._read("clock")

    def clock_fault(self) -> str:
        """Why this machine's clock cannot be trusted; empty if nothing speaks against it."""
        return clock_fault(self._first, ClockMark(self.clock(), self.running_us()), self._written)

    def look(self) -> HostLook:
        """Everything as it is now."""
        now = self.clock()
        states = tuple(self._look(i, s, now) for i, s in enumerate(self.states, 1))
        return HostLook(now, self.clock_fault(), states, "; ".join(self._broken.values()))

    def step(self) -> None:
        """One look at the clock, and the orders that may be due; each state's fail by themselves."""
        now, fault = self.clock(), self.clock_fault()
        if not fault:
            self._write("clock", now)
        for state in self.states:
            self._erase(state, now, fault)

    def run(self) -> None:
        """Steps until ``stop``."""
        while not self._stop.is_set():
            self._lasting("looking after clock and orders", self.step)
            self._stop.wait(LOOK_S)

    def run_scrubs(self) -> None:
        """Reads all bytes of each state whose time has come, until ``stop``: hours, so in a thread of its own."""
        while not self._stop.is_set():
            self._lasting("reading what is kept", self._scrub_all)
            self._stop.wait(LOOK_S)

    def _scrub_all(self) -> None:
        for state in self.states:
            if self._scrub_due(state, self.clock()):
                self._scrub(state)

    def _lasting(self, what: str, act: Callable[[], None]) -> None:
        """A thread that ended by a fault of ours would leave a host who believes that all is well."""
        try:
            act()
        except Exception:  # noqa: BLE001  an entry point: the next look is made all the same
            _log.exception("%s failed; please report it", what)
            self._broken[what] = f"{what} failed: the journal of the service says why"
        else:
            self._broken.pop(what, None)

    def stop(self) -> None:
        self._stop.set()

    def _look(self, number: int, state: HostedState, now: Instant) -> StateLook:
        erasure, scrub = self.erasures.get(state.fingerprint), self._scrubs.get(state.fingerprint)
        orders = -1 if erasure is None or not erasure.last_at else sum(one.open for one in erasure.last)
        return StateLook(
            number, state.usage.bytes_used, state.config.quota_bytes, state.usage.objects_used,
            state.config.quota_objects, state.usage.counting, read_disk(state.folder),
            self._read(f"scrubbed-{state.fingerprint}"), self._scrub_due(state, now), scrub.wrong if scrub else 0,
            state.fingerprint in self._unread, orders, self._faults.get(state.fingerprint, ""),
        )  # fmt: skip

    def _erase(self, state: HostedState, now: Instant, fault: str) -> None:
        erasure = self.erasures.get(state.fingerprint)
        if not self.daily or erasure is None or (erasure.last_at and now - erasure.last_at < DAY_US):
            return
        try:
            erasure.run(now, clock_fault=fault)
        except ExclaveError as error:
            self._faults[state.fingerprint] = error.message
        else:
            self._faults.pop(state.fingerprint, None)

    def _scrub_due(self, state: HostedState, now: Instant) -> bool:
        last = max(self._read(f"scrubbed-{state.fingerprint}"), self._tried.get(state.fingerprint, 0))
        return self.scrub_days > 0 and now - last >= self.scrub_days * DAY_US

    def _scrub(self, state: HostedState) -> None:
        """One that found something wrong is tried again the next day, and by the next process."""
        try:
            found = scrub_host(state.site, self._pause)
        except InterruptedError:
            return
        except ExclaveError:
            found = None
            self._unread.add(state.fingerprint)
        now = self.clock()
        if found is not None:
            self._unread.discard(state.fingerprint)
            self._scrubs[state.fingerprint] = found
        if found is not None and not found.wrong:
            self._write(f"scrubbed-{state.fingerprint}", now)
            self._tried[state.fingerprint] = now
        else:
            self._tried[state.fingerprint] = Instant(now - (self.scrub_days - 1) * DAY_US)

    def _pause(self, size: int) -> None:
        if self._stop.wait(size / SCRUB_BYTES_PER_S):
            raise InterruptedError

    def _read(self, name: str) -> Instant:
        if self.memory is None:
            return Instant(0)
        try:
            return parse_instant((self.memory / name).read_text(encoding="ascii").strip())
        except (OSError, ValueError, MalformedError):
            return Instant(0)

    def _write(self, name: str, at: Instant) -> None:
        if self.memory is None:
            return
        with suppress(OSError):
            fresh = self.memory / f"{name}.new"
            # A restart finds the former time or this one; without either it believes the clock.
            fresh.write_text(f"{instant_text(at)}\n", encoding="ascii")
            fresh.replace(self.memory / name)


def read_disk(folder: str) -> Disk | None:
    """The file system of ``folder``; None if it cannot be read."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    size = found.f_frsize
    read_only = bool(found.f_flag & os.ST_RDONLY)
    writable = not read_only and os.access(folder, os.W_OK)
    return Disk(found.f_bavail * size, found.f_blocks * size, found.f_favail, writable)

"""The processes that carry bytes for the gateway, as the one that decides sees them.

TLS and pieces of large objects keep a processor busy each, and one interpreter uses one. So connections are given to
several processes (``site_carrier.py``); who may what, names, quotas, turns, guards and duties stay in one. A carrier
that dies takes its connections with it, as a cut line would, and another one is started in its place. One that lives
and answers nothing any more is ended.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Final

from exclave.serve.site_carried_pipe import CarriedPipe
from exclave.serve.site_carrier import READY
from exclave.serve.site_pipe import OwnPipe, Pipe
from exclave.serve.site_tls import TlsFiles

MOST_PROCESSES: Final = 4
_log = logging.getLogger("exclave.site")
_START_S: Final = 60.0
STILL_S: Final = 10.0
"""A carrier whose answer is overdue has so long to answer anything, on any of its connections."""
_LOOK_S: Final = 0.1
_AGAIN_S: Final = 1.0
_GIVE_S: Final = 1.0


def processes_of(asked: int) -> int:
    """How many processes carry bytes. ``asked``: as the host's file says; 0: as many as processors, up to four."""
    return asked or min(MOST_PROCESSES, len(os.sched_getaffinity(0)))


class _Carrier:
    """One process, and the connections that it has."""

    def __init__(self, tls: TlsFiles) -> None:
        """Starts it; ``OSError`` if that is not possible."""
        self.open = 0
        self.moved_at = time.monotonic()
        """When it last answered anything, or ended a connection."""
        self.looking = Lock()
        """Held by the one who looks whether it stands still."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-P", "-m", "exclave.serve.site_carrier", str(theirs.fileno())]
        try:
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=(theirs.fileno(),))
        except OSError:
            self._control.close()
            raise
        finally:
            theirs.close()
        with suppress(OSError):
            self._tell(tls)

    def wait_ready(self) -> bool:
        """Whether it can be given connections now."""
        self._control.settimeout(_START_S)
        try:
            ready = self._control.recv(len(READY)) == READY
        except OSError:
            ready = False
        self._control.settimeout(_GIVE_S)
        return ready

    def give(self, asking: socket.socket, client: socket.socket) -> None:
        """``OSError`` if it takes no more."""
        socket.send_fds(self._control, [b"+"], [asking.fileno(), client.fileno()])

    def close(self) -> None:
        """Ends it, with what it has under way then; what was answered is sent."""
        self._control.close()
        try:
            self.process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _tell(self, tls: TlsFiles) -> None:
        if self.process.stdin is not None:
            with self.process.stdin as stdin:
                stdin.write(tls.encode())


class Carriers:
    """All of them. Any number of threads."""

    def __init__(self, count: int, tls: TlsFiles, context: ssl.SSLContext) -> None:
        """Nothing is started yet. With a ``count`` of one, the process that decides carries by itself."""
        self._count = count if count > 1 else 0
        self._tls, self._context = tls, context
        self._lock = Lock()
        self._living: list[_Carrier] = []
        self._stopping = Event()
        self._keepers: list[Thread] = []

    @property
    def pids(self) -> list[int]:
        """Of those that take connections now."""
        with self._lock:
            return [carrier.process.pid for carrier in self._living]

    def start(self) -> None:
        """Returns when each takes connections, or has failed once."""
        tried = [Event() for _ in range(self._count)]
        for event in tried:
            keeper = Thread(target=self._keep, args=(event,), name="carrier", daemon=True)
            keeper.start()
            self._keepers.append(keeper)
        for event in tried:
            event.wait()

    def stop(self) -> None:
        """Ends them all, with what they have under way."""
        self._stopping.set()
        with self._lock:
            ending, self._living = self._living, []
        for carrier in ending:
            carrier.close()
        for keeper in self._keepers:
            keeper.join(_START_S)

    def pipe(self, client: socket.socket) -> Pipe:
        """The pipe to a client; the socket is its own then. ``OSError``, ``ValueError``: the socket is still the
        caller's."""
        with self._lock:
            carrier = min(self._living, key=lambda one: one.open, default=None)
            if carrier is not None:
                carrier.open += 1
        if carrier is None:  # none was asked for, or all have died just now: the gateway goes on
            return OwnPipe(client, self._context)
        return self._give(carrier, client)

    def _give(self, carrier: _Carrier, client: socket.socket) -> Pipe:
        carrying = _Carrying(self, carrier)
        try:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                try:
                    carrier.give(theirs, client)
                except OSError:
                    mine.close()
                    raise
        except OSError:
            carrying.left()
            raise
        return CarriedPipe(mine, client, carrying)

    def leave(self, carrier: _Carrier) -> None:
        """One of its connections is closed."""
        with self._lock:
            carrier.open -= 1

    def end_if_still(self, carrier: _Carrier, since: float) -> None:
        """Ends ``carrier`` if nothing at all has come from it since ``since``, nor comes within ``STILL_S``. All its
        connections break off then, and another one takes its place."""
        if not carrier.looking.acquire(blocking=False):
            return  # somebody looks already
        try:
            if not _stands_still(carrier, since):
                return
            with self._lock:
                if carrier not in self._living:
                    return
                self._living.remove(carrier)  # it is given nothing more, however long the kernel takes to end it
            _log.warning(
                "carrier %d answers nothing any more: it is ended, and another one started", carrier.process.pid
            )
            carrier.process.kill()
        finally:
            carrier.looking.release()

    def _keep(self, tried: Event) -> None:
        """Starts one, and another whenever it has died, until ``stop``."""
        while not self._stopping.is_set():
            try:
                carrier = _Carrier(self._tls)
            except OSError as error:
                _log.warning("a carrier cannot be started: %s", error)
            else:
                self._live(carrier, tried)
            tried.set()
            self._stopping.wait(_AGAIN_S)

    def _live(self, carrier: _Carrier, tried: Event) -> None:
        """Until it has died."""
        ready = carrier.wait_ready()
        with self._lock:
            taken = ready and not self._stopping.is_set()
            if taken:
                self._living.append(carrier)
        tried.set()
        if not taken:
            carrier.close()
            return
        code = carrier.process.wait()
        with self._lock:
            if carrier in self._living:
                self._living.remove(carrier)
        if not self._stopping.is_set():
            _log.warning("a carrier ended with %d; another one is started", code)
        carrier.close()


@dataclass(frozen=True, slots=True)
class _Carrying:
    """One connection of one of the ``Carriers``."""

    carriers: Carriers
    carrier: _Carrier

    def moved(self) -> None:
        self.carrier.moved_at = time.monotonic()

    def is_late(self, since: float) -> None:
        self.carriers.end_if_still(self.carrier, since)

    def left(self) -> None:
        self.carriers.leave(self.carrier)


def _stands_still(carrier: _Carrier, since: float) -> bool:
    """Looks for ``STILL_S`` whether it answers anything, on any of its connections."""
    ends = time.monotonic() + STILL_S
    while carrier.moved_at <= since and carrier.process.poll() is None:
        if time.monotonic() >= ends:
            return True
        time.sleep(_LOOK_S)
    return False

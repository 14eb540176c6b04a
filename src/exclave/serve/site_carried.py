"""The processes that carry bytes for the gateway, as the one that decides sees them.

TLS and pieces of large objects keep a processor busy each, and one interpreter uses one. So connections are given to
several processes (``site_carrier.py``); who may what, names, quotas, turns, guards and duties stay in one. A carrier
that dies takes its connections with it, as a cut line would, and another one is started in its place.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from threading import Event, Lock, Thread
from typing import Final

from exclave.serve.site_carrier import READY
from exclave.serve.site_carrying import MESSAGE_BYTES, RECEIVE_BYTES, Act, Asked, End, Told
from exclave.serve.site_pipe import OwnPipe, Pipe
from exclave.serve.site_tls import TlsFiles

MOST_PROCESSES: Final = 4
_log = logging.getLogger("exclave.site")
_START_S: Final = 60.0
_GRACE_S: Final = 5.0
"""So much later than its own deadline an answer of a carrier may come."""
_DISK_S: Final = 600.0
"""So long an act on the disk may take; a carrier that stands still must not hold a turn for ever."""
_AGAIN_S: Final = 1.0
_GIVE_S: Final = 1.0


def processes_of(asked: int) -> int:
    """How many processes carry bytes. ``asked``: as the host's file says; 0: as many as processors, up to four."""
    return asked or min(MOST_PROCESSES, len(os.sched_getaffinity(0)))


class CarriedPipe:
    """A ``Pipe`` whose client another process holds."""

    def __init__(self, asking: socket.socket, client: socket.socket, left: Callable[[], None]) -> None:
        """``client``: to end the connection by; not a byte of it is read here. ``left``: called once, at the end."""
        self._asking, self._client, self._left = asking, client, left
        self._answer = memoryview(bytearray(RECEIVE_BYTES))

    def shake_hands(self, deadline: float) -> bytes | None:
        return bytes(self._ask(Asked(Act.SHAKE_HANDS), deadline).data) or None

    def read_into(self, view: memoryview, deadline: float) -> int:
        told = self._ask(Asked(Act.READ, min(len(view), MESSAGE_BYTES)), deadline)
        if told.number != len(told.data) or told.number > len(view):
            raise ConnectionError("a carrier told another length than it sent")
        view[: told.number] = told.data
        return told.number

    def write(self, data: bytes | memoryview, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            self._tell(Asked(Act.WRITE, data=rest[:MESSAGE_BYTES]), deadline)
            rest = rest[MESSAGE_BYTES:]

    def fill(self, length: int, before: bytes, deadline: float) -> None:
        self._ask(Asked(Act.FILL, length, data=before), deadline)

    def send(self, length: int, deadline: float) -> None:
        self._ask(Asked(Act.SEND, length), deadline)

    def use(self, fd: int, offset: int = 0) -> None:
        self._ask(Asked(Act.USE, at=offset), None, fd)

    def store(self, length: int) -> None:
        self._ask(Asked(Act.STORE, length), None)

    def digest(self) -> bytes:
        return bytes(self._ask(Asked(Act.DIGEST), None).data)

    def load(self, at: int, length: int) -> int:
        count = self._ask(Asked(Act.LOAD, length, at), None).number
        if not 0 <= count <= length:
            raise ConnectionError("a carrier loaded more than it was asked for")
        return count

    def release(self) -> None:
        with suppress(OSError):  # then it lets go by itself
            self._ask(Asked(Act.RELEASE), None)

    def end_writing(self) -> None:
        with suppress(OSError):
            self._ask(Asked(Act.END_WRITING), None)

    def wake(self) -> None:
        # Not for writing: an answer may be on its way through the carrier. What the client does not take has an end.
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._asking.close()  # the carrier closes its side of all then
        self._client.close()
        self._left()

    def _ask(self, asked: Asked, deadline: float | None, *fds: int) -> Told:
        """``deadline``: None where the disk is asked. The answer's data hold until the next act."""
        self._tell(asked, deadline, *fds)
        count = self._asking.recv_into(self._answer)
        if not count:
            raise ConnectionError("the process that carried the connection is gone")
        return _believed(Told.parse(self._answer[:count]))

    def _tell(self, asked: Asked, deadline: float | None, *fds: int) -> None:
        within_s = 0.0 if deadline is None else deadline - time.monotonic()
        if deadline is not None and within_s <= 0:
            raise TimeoutError("timed out")
        message = replace(asked, within_s=within_s).encode()
        self._asking.settimeout(_DISK_S if deadline is None else within_s + _GRACE_S)
        if fds:
            socket.send_fds(self._asking, [message], list(fds))
        else:
            self._asking.sendall(message)


def _believed(told: Told) -> Told:
    match told.end:
        case End.DONE:
            return told
        case End.LATE:
            raise TimeoutError("timed out")
        case End.LOST:
            raise ConnectionError(bytes(told.data).decode("utf-8", "replace"))
        case End.FAILED:
            raise OSError(told.number, bytes(told.data).decode("utf-8", "replace"))


class _Carrier:
    """One process, and the connections that it has."""

    def __init__(self, tls: TlsFiles) -> None:
        """Starts it; ``OSError`` if that is not possible."""
        self.open = 0
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
        def left() -> None:
            with self._lock:
                carrier.open -= 1

        try:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                try:
                    carrier.give(theirs, client)
                except OSError:
                    mine.close()
                    raise
        except OSError:
            left()
            raise
        return CarriedPipe(mine, client, left)

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
            ended = carrier not in self._living
            if not ended:
                self._living.remove(carrier)
        if not ended:
            _log.warning("a carrier ended with %d; another one is started", code)
            carrier.close()

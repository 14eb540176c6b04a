"""A client's connection that another process holds, as the one that decides uses it: act by act over a socket pair."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

from exclave.serve.site_carrying import MESSAGE_BYTES, RECEIVE_BYTES, Act, Asked, End, Told

_GRACE_S: Final = 5.0
"""So much later than its own deadline an answer of a carrier may come."""
_DISK_S: Final = 600.0
"""So long an act on the disk may take; a carrier that stands still must not hold a turn for ever."""


class Carrying(Protocol):
    """What a ``CarriedPipe`` tells of the process that carries it."""

    def moved(self) -> None:
        """It has answered."""

    def is_late(self, since: float) -> None:
        """What it was asked for at ``since`` (by the monotonic clock) is overdue. May take ``STILL_S``."""

    def left(self) -> None:
        """The connection is closed. Called once."""


class CarriedPipe:
    """A ``Pipe`` whose client another process holds."""

    def __init__(self, asking: socket.socket, client: socket.socket, carrier: Carrying) -> None:
        """``client``: to end the connection by; not a byte of it is read here."""
        self._asking, self._client, self._carrier = asking, client, carrier
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
        self._carrier.left()

    def _ask(self, asked: Asked, deadline: float | None, *fds: int) -> Told:
        """``deadline``: None where the disk is asked. The answer's data hold until the next act."""
        self._tell(asked, deadline, *fds)
        since = time.monotonic()
        try:
            count = self._asking.recv_into(self._answer)
        except TimeoutError:
            self._carrier.is_late(since)
            raise
        self._carrier.moved()
        if not count:
            raise ConnectionError("the process that carried the connection is gone")
        return _believed(Told.parse(self._answer[:count]))

    def _tell(self, asked: Asked, deadline: float | None, *fds: int) -> None:
        within_s = 0.0 if deadline is None else deadline - time.monotonic()
        if deadline is not None and within_s <= 0:
            raise TimeoutError("timed out")
        message = replace(asked, within_s=within_s).encode()
        self._asking.settimeout(_DISK_S if deadline is None else within_s + _GRACE_S)
        since = time.monotonic()
        try:
            if fds:
                socket.send_fds(self._asking, [message], list(fds))
            else:
                self._asking.sendall(message)
        except TimeoutError:
            self._carrier.is_late(since)
            raise


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

"""One client's connection to the gateway, in a thread of its own: TLS, whole heads, bodies in pieces.

Every wait has an end. A head has ``HEAD_S`` from its first byte to its last, a body ``BODY_S`` and the time that
``SLOWEST_BYTES_S`` needs for it, a piece of an answer ``SEND_S``, a connection between requests ``IDLE_S``. So whoever
sends a byte a minute holds one thread of the few that his class of clients may have, and not for long.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from exclave.serve.site_contract import ANYBODY, Answer
from exclave.serve.site_message import END, MAX_HEAD_BYTES, BadRequest, Head, encode_head, parse_head, told
from exclave.serve.site_pipe import Pipe

HANDSHAKE_S: Final = 10.0
HEAD_S: Final = 10.0
IDLE_S: Final = 75.0
BODY_S: Final = 30.0
SEND_S: Final = 30.0
SLOWEST_BYTES_S: Final = 32 << 10
_READ_BYTES = 16 << 10
_LINGER_S, _LINGER_BYTES = 2.0, 4 << 20


class Gone(Exception):
    """The client went away, or took too long; there is nobody to answer. No ``OSError``: those are the disk's here."""


class Connection:
    """A connection, from the accepted socket on. One thread uses it; ``end`` may be called by any."""

    def __init__(self, pipe: Pipe, address: str) -> None:
        """``address``: the client's network address, without port."""
        self.address = address
        self.who = ANYBODY
        self.idle_since = 0.0
        """When the last request ended, by the monotonic clock; 0: one is under way."""
        self._pipe = pipe
        self._small = memoryview(bytearray(_READ_BYTES))
        self._read = b""
        self._ended = False

    def shake_hands(self, known: Container[str]) -> None:
        """``Gone`` if this is not TLS 1.3, or a certificate came that is not itself one of the ``known``."""
        try:
            certificate = self._pipe.shake_hands(time.monotonic() + HANDSHAKE_S)
        except (OSError, ValueError) as error:
            raise Gone from error
        self.who = hashlib.sha256(certificate).hexdigest() if certificate else ANYBODY
        if certificate and self.who not in known:
            raise Gone  # another that a pinned certificate vouches for

    def next_head(self) -> Head | None:
        """The next request; None if there is none, or the connection is to end. ``BadRequest``, ``Gone``."""
        self.idle_since = time.monotonic()
        if not self._read:
            try:
                self._read = self._some(self.idle_since + IDLE_S)
            except (OSError, ValueError):
                return None
        # What had come before the end can still be read: a client who never stops sending must not stay by that.
        if not self._read or self._ended:
            return None
        self.idle_since = 0.0
        deadline = time.monotonic() + HEAD_S
        while (end := self._read.find(END, 0, MAX_HEAD_BYTES)) < 0:
            if len(self._read) >= MAX_HEAD_BYTES:
                raise BadRequest(431, "head-too-long", f"a head has at most {MAX_HEAD_BYTES} bytes")
            more = self._receive(deadline)
            if more is None:
                raise BadRequest(408, "too-slow", f"a head must be whole within {HEAD_S:.0f} s")
            if not more:
                raise Gone
            self._read += more
        head = parse_head(self._read[:end])
        self._read = self._read[end + len(END) :]
        return head

    @contextmanager
    def using(self, fd: int, offset: int = 0) -> Iterator[Pipe]:
        """The pipe with a file in use: what is stored and loaded is that file's. ``offset`` as for ``Pipe.use``."""
        self._pipe.use(fd, offset)
        try:
            yield self._pipe
        finally:
            self._pipe.release()

    def fill_piece(self, length: int, deadline: float) -> None:
        """The piece is a body's next ``length`` bytes. ``Gone``."""
        before, self._read = self._read[:length], self._read[length:]
        try:
            self._pipe.fill(length, before, deadline)
        except (OSError, ValueError) as error:
            raise Gone from error

    def send_piece(self, length: int) -> None:
        """``Gone`` if the client does not take it."""
        try:
            self._pipe.send(length, time.monotonic() + SEND_S)
        except (OSError, ValueError) as error:
            raise Gone from error

    def fill(self, view: memoryview, deadline: float) -> None:
        """Fills the buffer with the next bytes of a body. ``Gone``."""
        at = min(len(view), len(self._read))
        if at:
            view[:at] = self._read[:at]
            self._read = self._read[at:]
        try:
            while at < len(view):
                count = self._pipe.read_into(view[at:], deadline)
                if not count:
                    raise Gone
                at += count
        except (OSError, ValueError) as error:
            raise Gone from error

    def send(self, data: bytes | memoryview) -> None:
        """``Gone`` if the client does not take it."""
        try:
            self._pipe.write(data, time.monotonic() + SEND_S)
        except (OSError, ValueError) as error:
            raise Gone from error

    def _some(self, deadline: float) -> bytes:
        count = self._pipe.read_into(self._small, deadline)
        return bytes(self._small[:count])

    def _receive(self, deadline: float) -> bytes | None:
        """None if nothing came in time. ``Gone``."""
        try:
            return self._some(deadline)
        except TimeoutError:
            return None
        except (OSError, ValueError) as error:
            raise Gone from error

    def linger(self) -> None:
        """Reads a little more of what was refused, so that the answer is not lost with the connection's reset."""
        deadline, left = time.monotonic() + _LINGER_S, _LINGER_BYTES
        self._pipe.end_writing()
        with suppress(Gone):
            while left > 0 and (data := self._receive(deadline)):
                left -= len(data)

    def end(self) -> None:
        """Wakes the thread that uses the connection; it takes no further request."""
        self._ended = True
        self._pipe.wake()

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self._pipe.close()


class Exchange:
    """A request and the way to answer it."""

    def __init__(self, connection: Connection, head: Head, *, keep: Callable[[], bool]) -> None:
        """``keep``: whether the server goes on with connections at all."""
        self.connection = connection
        self.head = head
        self.status = 0
        """Of the answer; 0: none yet."""
        self.bytes_in = self.bytes_out = 0
        self._keep = keep
        self._left = head.length
        self._going = not head.waits
        self._deadline = 0.0

    @property
    def who(self) -> str:
        return self.connection.who

    @property
    def keeps(self) -> bool:
        """The connection can take another request after this answer."""
        return self.head.keep and self._keep() and not self._left

    @property
    def left(self) -> int:
        """Bytes of the body that have not been taken."""
        return self._left

    def take(self, view: memoryview) -> None:
        """Fills the buffer with the body's next bytes. ``Gone``."""
        self.connection.fill(view, self._body_deadline())
        self._took(len(view))

    def take_piece(self, length: int) -> None:
        """The pipe's piece is the body's next bytes. ``Gone``."""
        self.connection.fill_piece(length, self._body_deadline())
        self._took(length)

    def _body_deadline(self) -> float:
        """Asks for the body first, if the client waits for that."""
        if not self._going:
            self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._going = True
        if not self._deadline:
            self._deadline = time.monotonic() + BODY_S + self.head.length / SLOWEST_BYTES_S
        return self._deadline

    def _took(self, length: int) -> None:
        self._left -= length
        self.bytes_in += length

    def whole_body(self, limit: int) -> bytes:
        """``BadRequest`` if it is longer than ``limit``, ``Gone``."""
        if self._left > limit:
            raise BadRequest(413, "too-large", f"at most {limit} bytes are taken here")
        data = bytearray(self._left)
        if data:
            self.take(memoryview(data))
        return bytes(data)

    def answer(self, answer: Answer) -> None:
        """A whole answer. ``Gone``."""
        headers = {"Content-Type": answer.content_type, **dict(answer.headers)}
        body = b"" if self.head.method == "HEAD" else answer.body
        self.begin(answer.status, len(answer.body), headers, body)

    def begin(self, status: int, length: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """The head of an answer, with its body if that is short."""
        self.status = status
        self.connection.send(encode_head(status, length, headers, keep=self.keeps) + body)
        self.bytes_out += len(body)

    def send(self, data: bytes) -> None:
        self.connection.send(data)
        self.bytes_out += len(data)

    def send_piece(self, length: int) -> None:
        self.connection.send_piece(length)
        self.bytes_out += length


def refuse(connection: Connection, error: BadRequest) -> None:
    """Answers a request that has no head to go by, and ends the connection."""
    answer = told(error.status, error.code, error.message)
    headers = {"Content-Type": answer.content_type, **dict(answer.headers)}
    with suppress(Gone):
        connection.send(encode_head(answer.status, len(answer.body), headers, keep=False) + answer.body)
        connection.linger()

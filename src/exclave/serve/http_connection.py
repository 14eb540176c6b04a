"""One client's connection to the edge of ``http_edge.py``, and what the connections of a process share.

``httptools`` parses; here are the limits and the order. One request of a connection is at work at a time; pipelined
ones wait and are answered in order. A connection has ``request_s`` from the first byte of a request to its last,
however many bytes it sends in between, ``idle_s`` between requests, and ``write_s`` for each ``write_bytes`` that it
has to take. One that is refused is told so and read for a moment more, so that the answer is not lost with the
connection's reset.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, cast

import httptools

from exclave.serve.http_message import Handler, Limits, Meter, Request, Response, Unmetered

_log = logging.getLogger("exclave.http")
_READ_BYTES = 4 << 10
"""At once; so a read holds few pipelined requests, and others wait little."""
_LINGER_S, _LINGER_BYTES = 2.0, 256 << 10
_STATUS_LINES: Final = {int(s): f"HTTP/1.1 {int(s)} {s.phrase}\r\n".encode() for s in HTTPStatus}


@dataclass(slots=True)
class Edge:
    """What the connections of one process share."""

    handler: Handler
    limits: Limits = field(default_factory=Limits)
    meter: Meter = field(default_factory=Unmetered)
    executor: Executor | None = None
    """Where the handler runs if it may wait (a token, a database); None: in the event loop."""
    open: dict[Connection, None] = field(default_factory=dict, init=False, repr=False)
    """The oldest first."""
    stopping: bool = field(default=False, init=False)
    date: bytes = field(default=b"", init=False)

    def tick(self, now: float) -> None:
        """Once a second: the Date header, and whoever has used up his time."""
        self.date = b"Date: " + formatdate(usegmt=True).encode() + b"\r\n"
        self.meter.connections(len(self.open))
        for connection in [c for c in self.open if c.deadline < now]:
            connection.time_out()

    def make_room(self) -> bool:
        """Whether a further connection may stay."""
        if len(self.open) < self.limits.connections:
            return True
        idle = min((c for c in self.open if c.idle), key=lambda c: c.deadline, default=None)
        if idle is None:
            return False
        idle.drop()
        return True


class _Refusal(Exception):
    """A request that is answered before it is whole."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Connection(asyncio.BufferedProtocol):
    """One client. The ``on_…`` methods are called by the parser."""

    __slots__ = (
        "_body",
        "_buffer",
        "_closing",
        "_declined",
        "_edge",
        "_head_bytes",
        "_headers",
        "_held",
        "_in_head",
        "_lingered_bytes",
        "_loop",
        "_parser",
        "_paused",
        "_queue",
        "_raw_head_bytes",
        "_reading",
        "_target",
        "_transport",
        "_unsent_limit_bytes",
        "_working",
        "deadline",
    )  # fmt: skip

    def __init__(self, edge: Edge, loop: asyncio.AbstractEventLoop) -> None:
        self._edge = edge
        self._loop = loop
        self._buffer = bytearray(_READ_BYTES)
        self._parser = httptools.HttpRequestParser(self)
        self._unsent_limit_bytes = -1
        self._declined: httptools.HttpRequestParser | None = None
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[Request, bool, bool]] = deque()
        self._working = False
        self._paused = False
        self._held = False
        self._closing = False
        self._in_head = False
        self._reading = False
        self._head_bytes = self._raw_head_bytes = self._lingered_bytes = 0
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = b""
        self.deadline = loop.time() + edge.limits.request_s

    @property
    def idle(self) -> bool:
        """Between two requests, before the first, or after the last."""
        return self._closing or not (self._reading or self._working or self._paused)

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a TCP listener makes no other
        if not self._edge.make_room() or self._edge.stopping:
            self._edge.meter.refused(503)
            self._edge.open[self] = None
            self._refuse(503)
            return
        self._edge.open[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._closing = True
        self._queue.clear()
        self._edge.open.pop(self, None)
        del self._parser  # it refers back to this object; thousands a second are not left to the collector

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:  # it was refused and goes on sending
            self._lingered_bytes += nbytes
            if self._lingered_bytes > _LINGER_BYTES:
                self.drop()
            return
        data = memoryview(self._buffer)[:nbytes]
        while data and not self._closing:
            data = self._feed(data) if self._declined is None else self._read_body(data, self._declined)
        if self._in_head:
            # The parser holds back a header until it is whole, so what it may hold is counted here; of the first read,
            # a part may belong to requests before.
            self._raw_head_bytes += nbytes
            if self._raw_head_bytes > self._edge.limits.head_bytes + _READ_BYTES:
                self._refuse_early(431)

    def _feed(self, data: memoryview) -> memoryview:
        """Lets the parser read; what it has left over."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refusal):
                raise
            self._refuse_early(error.__context__.status)
        except httptools.HttpParserUpgrade as upgrade:
            return self._decline(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_early(400)
        return data[:0]

    # The parser stops where a client offers another protocol, before the request's body; Java's clients offer HTTP/2
    # with every first request. We stay with HTTP/1.1 (RFC 9110, section 7.8): the body is read here, the rest by a new
    # parser.

    def _decline(self, rest: memoryview) -> memoryview:
        parser, self._parser = self._parser, httptools.HttpRequestParser(self)
        if parser.get_method() == b"CONNECT" or b"transfer-encoding" in self._headers:
            self._refuse_early(400)
            return rest[:0]
        self._declined = parser
        return self._read_body(rest, parser)

    def _read_body(self, data: memoryview, parser: httptools.HttpRequestParser) -> memoryview:
        missing = int(self._headers.get(b"content-length", b"0")) - len(self._body)
        self._body += data[:missing]
        if len(data) >= missing:
            self._declined = None
            self._take(parser)
        return data[missing:]

    def eof_received(self) -> bool:
        """A client that closes its side after its request still gets the answer."""
        self._closing = True
        return self._working

    def pause_writing(self) -> None:
        self._paused = True
        self._expect_to_write()
        self._pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self.deadline = self._loop.time() + self._edge.limits.idle_s
        self._work()

    # What the parser tells

    def on_message_begin(self) -> None:
        self._in_head = self._reading = True
        self._head_bytes = self._raw_head_bytes = 0
        self._target = self._body = b""
        self._headers = {}
        if not (self._working or self._paused):
            self.deadline = self._loop.time() + self._edge.limits.request_s

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._edge.limits.target_bytes:
            raise _Refusal(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self._edge.limits.head_bytes:
            raise _Refusal(431)
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        headers = self._headers
        if b"host" not in headers and self._parser.get_http_version() == "1.1":
            raise _Refusal(400)
        length = headers.get(b"content-length")
        if length is not None:
            if not length.isdigit():
                raise _Refusal(400)
            if len(length) > 9 or int(length) > self._edge.limits.body_bytes:
                raise _Refusal(413)
        elif b"transfer-encoding" not in headers and self._parser.get_method() == b"POST":
            raise _Refusal(411)
        if headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > self._edge.limits.body_bytes:
            raise _Refusal(413)

    def on_message_complete(self) -> None:
        if not self._parser.should_upgrade():
            self._take(self._parser)

    # Answering

    def _take(self, parser: httptools.HttpRequestParser) -> None:
        """A request is whole."""
        self._reading = False
        request = Request(parser.get_method(), self._target, self._headers, self._body)
        self._queue.append((request, parser.should_keep_alive(), parser.get_http_version() == "1.0"))
        self._work()

    def _work(self) -> None:
        """Answers what is in the queue until it is empty, the client does not take more, or a thread is asked."""
        while self._queue and not (self._working or self._paused) and self._transport is not None:
            request, keep, old = self._queue.popleft()
            if self._edge.executor is None:
                self._answer(self._edge.handler(request), request.method, keep=keep, old=old)
                continue
            self._working = True
            self._pause_reading()
            future = self._loop.run_in_executor(self._edge.executor, self._edge.handler, request)
            future.add_done_callback(lambda done, r=request, k=keep, o=old: self._worked(done, r, k, o))  # type: ignore[misc]
        if self._held and not (self._working or self._paused or self._closing) and self._transport is not None:
            self._held = False
            self._transport.resume_reading()

    def _worked(self, done: asyncio.Future[Response], request: Request, keep: bool, old: bool) -> None:
        self._working = False
        if done.cancelled() or done.exception() is not None:
            _log.error("a handler failed", exc_info=None if done.cancelled() else done.exception())
            self._refuse(500)
            return
        self._answer(done.result(), request.method, keep=keep, old=old)
        self._work()

    def _answer(self, response: Response, method: bytes, *, keep: bool, old: bool) -> None:
        keep = keep and not (self._closing or self._edge.stopping)
        connection = b"" if keep and not old else b"Connection: keep-alive\r\n" if keep else b"Connection: close\r\n"
        self._write(response, connection, body=method != b"HEAD")
        if not keep:
            self._close()
        elif not self._paused:
            self.deadline = self._loop.time() + self._edge.limits.idle_s

    def _write(self, response: Response, connection: bytes, *, body: bool) -> None:
        if self._transport is None:
            return
        content = response.body if body else b""
        length = b"" if response.status == 304 else b"Content-Length: %d\r\n" % len(response.body)
        lines = (_STATUS_LINES[response.status], response.head, length, self._edge.date, connection, b"\r\n")
        if len(content) > 1 << 16:
            self._transport.write(b"".join(lines))
            self._transport.write(content)  # not copied
        else:
            self._transport.write(b"".join((*lines, content)))

    # Ending

    def _refuse_early(self, status: int) -> None:
        """A request that is not read to its end; what was asked before it is still answered, if it is at work."""
        self._edge.meter.refused(status)
        if self._working or self._queue:
            self.drop()
        else:
            self._refuse(status)

    def _refuse(self, status: int) -> None:
        self._write(Response(status, HTTPStatus(status).phrase.encode() + b"\n"), b"Connection: close\r\n", body=True)
        self._close(linger=True)

    def _close(self, *, linger: bool = False) -> None:
        self._closing = True
        self._queue.clear()
        if self._transport is None:
            return
        if linger and self._transport.can_write_eof():
            self._transport.write_eof()
            self._unsent_limit_bytes = -1
            self.deadline = self._loop.time() + _LINGER_S
        else:
            self._transport.close()  # once everything is sent
            self._expect_to_write()

    def time_out(self) -> None:
        """Its time is over: a request that never became whole is told so, all else just ends."""
        if self._reading and not (self._closing or self._working or self._paused):
            self._edge.meter.refused(408)
            self._refuse(408)
        elif self._working:
            self.deadline = self._loop.time() + self._edge.limits.request_s  # it waits for us, not we for it
        elif self._unsent_bytes() <= self._unsent_limit_bytes:
            self._expect_to_write()  # a long answer, and it is being taken
        else:
            self.drop()

    def _expect_to_write(self) -> None:
        self._unsent_limit_bytes = self._unsent_bytes() - self._edge.limits.write_bytes
        self.deadline = self._loop.time() + self._edge.limits.write_s

    def _unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def drop(self) -> None:
        self._closing = True
        self._edge.open.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def finish(self) -> None:
        """The process is going: what waits between requests ends now, the rest after its answer."""
        if self.idle:
            self._close()

    def _pause_reading(self) -> None:
        if self._transport is not None and not (self._closing or self._held):
            self._held = True
            self._transport.pause_reading()

"""An HTTP proxy between a client and an S3 engine that shows objects as a hostile host would, when it is told to."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_HOPS = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"})


class LyingProxy(ThreadingHTTPServer):
    """``port`` leads to ``target``; ``manner`` says how the answers to reads are changed (empty: not at all)."""

    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.manner = target, ""
        self.heads: dict[str, bytes] = {}
        """Former contents of what moves, by the end of the path."""
        self.last = b"nothing was read before"
        """The object that was read last."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are usual here."""

    def changed(self, path: str, body: bytes) -> bytes | None:
        """What is shown instead of an object's ``body``; None: there is none."""
        before, self.last = self.last, body
        if self.manner == "flips" and body:
            return body[:-1] + bytes([body[-1] ^ 1])
        if self.manner == "cuts short":
            return body[: len(body) // 2]
        if self.manner == "hides":
            return None
        if self.manner == "swaps":
            return before
        if self.manner == "shows the past":
            return next((data for end, data in self.heads.items() if path.endswith(end)), body)
        return body


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LyingProxy

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length) if length else None
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.target)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    upstream.putheader(name, value)
            upstream.endheaders(sent)
            answer = upstream.getresponse()
            body = answer.read()
        except OSError:
            self.close_connection = True
            return
        finally:
            upstream.close()
        self._answer(answer, body)

    def _answer(self, answer: http.client.HTTPResponse, body: bytes) -> None:
        parts = urlsplit(self.path)
        length = len(body)
        if self.command == "HEAD":
            length = int(answer.headers.get("Content-Length") or 0)
        status, of_object = answer.status, "list-type" not in parts.query and self.command in ("GET", "HEAD")
        if of_object and status in (200, 206):
            if self.command == "HEAD":
                status = 404 if self.server.manner == "hides" else status
            else:
                shown = self.server.changed(unquote(parts.path), body)
                status, body = (404, b"") if shown is None else (status, shown)
                length = len(body)
        self.send_response_only(status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOPS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@contextmanager
def lying_proxy(target: int) -> Iterator[LyingProxy]:
    """A proxy to a port of loopback while the block runs."""
    proxy = LyingProxy(target)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join(10)
        with suppress(OSError):
            proxy.server_close()

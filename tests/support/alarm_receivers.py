"""Who hears alarms, on loopback: an HTTP server and an SMTP server (with STARTTLS or TLS), each on a free port."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Heard:
    """What arrived; ``status`` is what the server answers, ``hold`` keeps it from answering while it is not set."""

    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 204
    hold: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def __post_init__(self) -> None:
        self.hold.set()


@contextmanager
def http_receiver() -> Iterator[Heard]:
    heard = Heard()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.arrived.set()
            heard.hold.wait(60)
            if heard.status < 300:
                heard.bodies.append(body)
                heard.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(heard.status)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield heard
    finally:
        heard.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Letters(socketserver.StreamRequestHandler):
    """As much of SMTP (RFC 5321, 3207, 4954) as a client needs to hand over a letter."""

    server: _Post

    def handle(self) -> None:
        self._secure = False
        if self.server.tls is not None and self.server.implicit:
            self._encrypt()
        self._say("220 test ready")
        while line := self.rfile.readline(4096):
            if not self._command(line.decode("latin-1").strip()):
                return

    def _command(self, line: str) -> bool:
        word = line.upper()
        if word.startswith("EHLO"):
            more = "250-STARTTLS\r\n" if self.server.tls is not None and not self._secure else ""
            self._say(f"250-test\r\n{more}250 AUTH PLAIN")
        elif word == "STARTTLS":
            self._say("220 go on")
            self._encrypt()
        elif word.startswith("AUTH PLAIN"):
            self.server.logins.append(line.split(" ", 2)[2])
            self._say(self.server.welcome)
        elif word == "DATA":
            self._say("354 go on")
            self._letter()
        elif word == "QUIT":
            self._say("221 bye")
            return False
        elif word.startswith("RCPT") and self.server.refuses:
            self._say("550 nobody of that name")
        else:
            self._say("250 fine")
        return True

    def _letter(self) -> None:
        lines: list[bytes] = []
        while (line := self.rfile.readline(65_536)) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b"..") else line)
        self.server.letters.append((b"".join(lines), self._secure))
        self._say("250 taken")

    def _encrypt(self) -> None:
        assert self.server.tls is not None
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.rfile, self._secure = self.request.makefile("rb"), True

    def _say(self, text: str) -> None:
        self.request.sendall(text.encode() + b"\r\n")


class _Post(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, tls: ssl.SSLContext | None, implicit: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Letters)
        self.tls, self.implicit = tls, implicit
        self.letters: list[tuple[bytes, bool]] = []
        """Each letter, and whether it came encrypted."""
        self.logins: list[str] = []
        self.refuses = False
        self.welcome = "235 welcome"
        """Answer to a log-in."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@contextmanager
def mail_receiver(tls: ssl.SSLContext | None = None, *, implicit: bool = False) -> Iterator[_Post]:
    server = _Post(tls, implicit)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def mute() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def endless() -> Iterator[int]:
    """A port where a mail server greets without ever coming to the last line."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)

        def greet() -> None:
            with suppress(OSError):
                taken, _ = server.accept()
                with taken:
                    while True:
                        taken.sendall(b"220-and another thing\r\n" * 100)

        thread = threading.Thread(target=greet)
        thread.start()
        yield server.getsockname()[1]
    thread.join()

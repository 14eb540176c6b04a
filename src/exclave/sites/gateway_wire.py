"""HTTP/1.1 over TLS 1.3 as the gateway speaks it, from the client's side: one request at a time, nothing followed.

No redirects, no proxies, no cookies, no compression, no chunks: an answer that is not a status, plain headers and a
body of the told length is refused. Every wait ends: connecting, and each request as a whole. Connections are kept for
the next request, by any thread.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock

from exclave.sites.tls_pipe import TlsPipe

MAX_HEAD_BYTES = 16 << 10
_READ_BYTES = 16 << 10
_END = b"\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\x20-\x7e]{0,100}\Z")
_HEADER = re.compile(rb"([A-Za-z0-9-]{1,60}): ?([\x20-\x7e]{0,1000})\Z")
_LENGTH = re.compile(r"(0|[1-9][0-9]{0,14})\Z")
_MOST_INTERIM = 3
_IDLE_S = 50.0  # the gateway ends connections that wait for longer
_SEND_BYTES = 1 << 20
_PATIENT_S = 10.0
"""So long a body waits for the 100 that asks for it, before it is sent unasked."""


class Broken(Exception):
    """The exchange did not come to its end."""

    def __init__(self, why: str, *, sent: bool, silent: bool, permanent: bool = False, hint: str = "") -> None:
        """``sent``: the server may have the request. ``silent``: nothing of an answer came. ``permanent``: it will not
        be otherwise until somebody changes something. ``hint``: what to do."""
        super().__init__(why)
        self.why, self.sent, self.silent, self.permanent, self.hint = why, sent, silent, permanent, hint

    @classmethod
    def by(cls, error: Exception, *, sent: bool, silent: bool) -> Broken:
        """What the system or TLS said."""
        permanent = isinstance(error, ssl.SSLCertVerificationError) or _is_alert(error)
        return cls(_why(error), sent=sent, silent=silent, permanent=permanent, hint=_hint(error))


@dataclass(frozen=True, slots=True)
class Peer:
    """Where the gateway is."""

    host: str
    port: int
    context: ssl.SSLContext = field(repr=False)
    connect_s: float


@dataclass(frozen=True, slots=True)
class AnswerHead:
    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    length: int


class Wire:
    """One connection."""

    def __init__(self, peer: Peer) -> None:
        """Connects. ``Broken``."""
        self.keeps = True
        self.used_s = time.monotonic()
        self._read = b""
        self._small = memoryview(bytearray(_READ_BYTES))
        self._deadline = self.used_s + peer.connect_s
        try:
            sock = socket.create_connection((peer.host, peer.port), timeout=peer.connect_s)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pipe = TlsPipe(sock, peer.context, server=peer.host)
                self._pipe.shake_hands(self._deadline)
            except BaseException:
                sock.close()
                raise
        except (OSError, ValueError) as error:
            raise Broken.by(error, sent=False, silent=not isinstance(error, ssl.SSLError)) from error

    @property
    def stale(self) -> bool:
        """The server has ended it, or will soon; or it says what nobody asked for."""
        if self._read or time.monotonic() - self.used_s > _IDLE_S:
            return True
        return self._pipe.has_more

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], host: str, timeout_s: float, body: bytes = b""
    ) -> None:
        """Sends a head, with a small body at once. ``Broken``."""
        self._deadline = time.monotonic() + timeout_s
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{n}: {v}" for n, v in headers.items())]
        self._send("\r\n".join(lines).encode("ascii") + _END + body)

    def send_body(self, body: memoryview) -> None:
        """``Broken``, but not where the server answers before it has all: then the answer tells why."""
        for at in range(0, len(body), _SEND_BYTES):
            try:
                self._send(body[at : at + _SEND_BYTES])
            except Broken:
                self.keeps = False
                return

    def asked_to_go_on(self) -> AnswerHead | None:
        """None if the server wants the body now, or says nothing about it; else the answer that it has already."""
        if not self._read:
            try:
                self._read = self._receive(min(self._deadline, time.monotonic() + _PATIENT_S))
            except TimeoutError:
                return None
            except (OSError, ValueError) as error:
                raise Broken.by(error, sent=False, silent=True) from error
            if not self._read:
                raise Broken("it ended the connection", sent=False, silent=True)
        head = self._head()
        return None if head.status == 100 else head

    def answer(self) -> AnswerHead:
        """The head of the final answer. ``Broken``."""
        for _ in range(_MOST_INTERIM):
            head = self._head()
            if head.status >= 200:
                return head
        raise Broken("it sends one interim answer after the other", sent=True, silent=False)

    def body_into(self, view: memoryview) -> None:
        """Fills the buffer with the body's next bytes. ``Broken``."""
        at = min(len(view), len(self._read))
        view[:at] = self._read[:at]
        self._read = self._read[at:]
        while at < len(view):
            try:
                count = self._pipe.read_into(view[at:], self._deadline)
            except (OSError, ValueError) as error:
                raise Broken.by(error, sent=True, silent=False) from error
            if not count:
                raise Broken(f"its answer ended {len(view) - at} bytes too early", sent=True, silent=False)
            at += count

    def close(self) -> None:
        with suppress(OSError):
            self._pipe.close()

    def _receive(self, deadline: float) -> bytes:
        count = self._pipe.read_into(self._small, deadline)
        return bytes(self._small[:count])

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._pipe.write(data, self._deadline)
        except (OSError, ValueError) as error:
            raise Broken.by(error, sent=True, silent=True) from error

    def _head(self) -> AnswerHead:
        while (end := self._read.find(_END)) < 0:
            if len(self._read) > MAX_HEAD_BYTES:
                raise Broken("the head of its answer has no end", sent=True, silent=False)
            try:
                more = self._receive(self._deadline)
            except (OSError, ValueError) as error:
                raise Broken.by(error, sent=True, silent=not self._read) from error
            if not more:
                raise Broken("it ended the connection without an answer", sent=True, silent=not self._read)
            self._read += more
        head = _parse(self._read[:end])
        self._read = self._read[end + len(_END) :]
        if head.headers.get("connection", "").lower() == "close":
            self.keeps = False
        return head


def _parse(data: bytes) -> AnswerHead:
    first, *lines = data.split(b"\r\n")
    status = _STATUS_LINE.match(first)
    headers: dict[str, str] = {}
    for line in lines:
        one = _HEADER.match(line)
        if one is None or one[1].decode().lower() in headers:
            raise Broken("its answer is not HTTP/1.1 as a gateway speaks it", sent=True, silent=False)
        headers[one[1].decode().lower()] = one[2].decode().strip()
    length = headers.get("content-length", "0" if status and status[1] == b"100" else "")
    if status is None or "transfer-encoding" in headers or not _LENGTH.match(length):
        raise Broken("its answer is not HTTP/1.1 as a gateway speaks it", sent=True, silent=False)
    return AnswerHead(int(status[1]), headers, int(length))


def _why(error: Exception) -> str:
    """On one line of plain characters."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, ssl.SSLCertVerificationError):
        text: object = f"its certificate is not accepted: {error.verify_message}"
    elif _is_alert(error):
        text = f"it does not accept this client's certificate ({error.reason})"  # type: ignore[attr-defined]
    else:
        text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return "".join(c for c in str(text) if c.isprintable())[:200]


def _hint(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                "Ask the host's operator for its certificate's SHA-256 by telephone, and compare; authorities= in the"
                " address names the file of the certificate or authority, and the host's name must stand in it."
            )
        case ssl.SSLError() if _is_alert(error):
            return (
                "Send the certificate named in the address to the host's operator: it must stand in the host's"
                " host.toml, and the gateway be restarted."
            )
        case ssl.SSLError():
            return "What listens there does not speak TLS 1.3 as a gateway does: check the address's port."
        case socket.gaierror():
            return "Correct the host's name in the address, or look why this machine cannot resolve names."
        case ConnectionRefusedError():
            return "Nothing listens there: check host and port in the address, or ask the operator whether it runs."
        case TimeoutError():
            return "Look whether this machine reaches the host at all: its name, its port, firewalls in between."
    return ""


def _is_alert(error: Exception) -> bool:
    """Whether the gateway turned the client away: a TLS alert about its certificate."""
    reason = error.reason if isinstance(error, ssl.SSLError) and isinstance(error.reason, str) else ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "ACCESS_DENIED" in reason)


class Pool:
    """Connections that wait for their next request; any number of threads."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._lock = Lock()
        self._idle: list[Wire] = []

    @contextmanager
    def wire(self) -> Iterator[Wire]:
        """A connection for one exchange. ``Broken`` from it, and whatever else leaves the block, ends it."""
        wire = self._take() or Wire(self._peer)
        try:
            yield wire
        except BaseException:
            wire.close()
            raise
        if not wire.keeps:
            wire.close()
            return
        wire.used_s = time.monotonic()
        with self._lock:
            self._idle.append(wire)

    def close(self) -> None:
        """Ends what waits."""
        while (wire := self._take()) is not None:
            wire.close()

    def _take(self) -> Wire | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                wire = self._idle.pop()
            if not wire.stale:
                return wire
            wire.close()

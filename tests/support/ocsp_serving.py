"""A place's status service on a real port, in a thread of the test."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop
from prometheus_client import CollectorRegistry

from exclave.identity.crl_publisher import CrlPublisher
from exclave.identity.responder import Responder
from exclave.serve.http_message import Limits
from exclave.serve.ocsp import LIMITS, Listen, OcspMetrics, OcspSite, start_ocsp
from support.ocsp_place import Place, make_place
from support.soft_signer import SoftSigner


class Served:
    """A site that listens, in a thread of its own."""

    def __init__(
        self, place: Place, *, limits: Limits = LIMITS, threads: int = 0, answer: object = None, crls: object = None
    ) -> None:
        place.delegates.crl_keys[place.first] = (SoftSigner(place.pki.first.key), place.pki.first.der)
        self.place = place
        self.crls = CrlPublisher(place.store, place.delegates, lambda: place.authority, place.clock)
        self.crls.refresh()
        self.metrics = OcspMetrics(CollectorRegistry())
        self.healthy = True
        responder: Responder = answer or place.responder()  # type: ignore[assignment]
        self.site = OcspSite(responder, place.clock, self.metrics, crls or self.crls, lambda: self.healthy)  # type: ignore[arg-type]
        self._listen = Listen("127.0.0.1", 0, threads=threads, limits=limits)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._thread.start()
        self.running = self.run(start_ocsp(self.site, self._listen))
        self.port = self.running.port

    def run(self, coroutine: object) -> object:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)  # type: ignore[arg-type]

    def stop(self) -> None:
        self.run(self.running.stop(within_s=1))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data

    def raw(self, *pieces: bytes) -> bytes:
        """What comes back until the server ends the connection or says nothing for a second."""
        with self.connect() as sock:
            sock.settimeout(1)
            try:
                for piece in pieces:
                    sock.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return received(sock)

    def alive(self) -> bool:
        return self.ask("GET", "/health")[0] == 200


def received(sock: socket.socket) -> bytes:
    found = b""
    try:
        while piece := sock.recv(65536):
            found += piece
    except (TimeoutError, ConnectionResetError):
        pass
    return found


@contextmanager
def serving(place: Place | None = None, **options: object) -> Iterator[Served]:
    served = Served(place or make_place(), **options)  # type: ignore[arg-type]
    served.start()
    try:
        yield served
    finally:
        served.stop()

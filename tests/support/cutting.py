"""Lines that break: a site whose calls are cut at random, and a TCP proxy that cuts connections in mid-stream."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from exclave.errors import OutcomeUnknown, SiteUnavailable
from exclave.ids import Digest, Key
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat, Site, Tagged

T = TypeVar("T")


class CutSite:
    """``inner`` behind a line that is cut ``cuts`` times, each time before or after a call took effect.

    ``accepted`` counts the bytes of writes that took effect, by name.
    """

    def __init__(self, inner: Site, *, cuts: int, chance: random.Random, share: float = 0.3) -> None:
        self.inner, self.left, self._chance, self._share = inner, cuts, chance, share
        self.accepted: dict[Key, list[int]] = {}
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return self.inner.address

    def _fate(self) -> str:
        with self._lock:
            if self.left and self._chance.random() < self._share:
                self.left -= 1
                return self._chance.choice(("before", "after"))
        return ""

    def _call(self, call: Callable[[], T], error: type[SiteUnavailable | OutcomeUnknown] = SiteUnavailable) -> T:
        fate = self._fate()
        if fate == "before":
            raise error("the line was cut")
        result = call()
        if fate == "after":
            raise error("the line was cut")
        return result

    def _put(self, key: Key, data: bytes, put: Callable[[], None]) -> None:
        new = self.inner.stat(key) is None
        put()
        if new:
            with self._lock:
                self.accepted.setdefault(key, []).append(len(data))

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self._call(lambda: self.inner.get(key, limit=limit))

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return self._call(lambda: self.inner.get_range(key, offset, length))

    def stat(self, key: Key) -> ObjectStat | None:
        return self._call(lambda: self.inner.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        for item in self._call(lambda: list(self.inner.list(prefix))):
            self._call(lambda: None)
            yield item

    def put_new(self, key: Key, data: bytes) -> None:
        self._call(lambda: self._put(key, data, lambda: self.inner.put_new(key, data)), OutcomeUnknown)

    def put_same(self, key: Key, data: bytes) -> None:
        self._call(lambda: self._put(key, data, lambda: self.inner.put_same(key, data)))

    def read_head(self, key: Key) -> Tagged | None:
        return self._call(lambda: self.inner.read_head(key))

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        return self._call(lambda: self.inner.replace_if(key, data, expected), OutcomeUnknown)

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        self._call(lambda: self.inner.replace_spoilt(key, data, spoilt))


class Cutter:
    """A proxy on a port of loopback to another one. ``cuts`` connections are cut after a random number of bytes."""

    def __init__(self, target: int, *, cuts: int, most_bytes: int, chance: random.Random) -> None:
        self.target, self.left, self.most_bytes, self._chance = target, cuts, most_bytes, chance
        self.sent = 0
        """Bytes that clients have sent through it."""
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open = True

    def run(self) -> None:
        while self._open:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._open = False
        self._server.close()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        with self._lock:
            limit = self._chance.randrange(self.most_bytes) if self.left > 0 else None
        back = threading.Thread(target=self._pump, args=(server, client, None), daemon=True)
        back.start()
        self._pump(client, server, limit)

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while piece := source.recv(16384):
                if limit is not None and passed + len(piece) > limit:
                    sink.sendall(piece[: limit - passed])
                    with self._lock:
                        self.left -= 1
                        self.sent += limit - passed
                    break
                sink.sendall(piece)
                passed += len(piece)
                if (source is not sink and limit is not None) or passed:
                    with self._lock:
                        self.sent += len(piece) if sink.getpeername()[1] == self.target else 0
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def cutting_proxy(target: int, *, cuts: int, most_bytes: int, chance: random.Random) -> Iterator[Cutter]:
    """A ``Cutter`` while the block runs."""
    cutter = Cutter(target, cuts=cuts, most_bytes=most_bytes, chance=chance)
    thread = threading.Thread(target=cutter.run, daemon=True)
    thread.start()
    try:
        yield cutter
    finally:
        cutter.close()
        thread.join(5)

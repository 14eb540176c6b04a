"""Tells relying services of logouts (OpenID Connect Back-Channel Logout 1.0, section 2.5), beside the requests.

A bounded queue and one thread: a service that does not answer costs a few seconds of that thread and nobody's log-in.
What does not fit is dropped and counted; the service's own session limit is what ends its session then.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import httpx

from exclave.identity.op.settings import LogoutNotice

MAX_WAITING = 1000
TIMEOUT_S = 3.0
_ATTEMPTS = 2
ATTEMPT_S = 6.0
"""For all of a request and its answer: a service that answers byte by byte keeps nobody's notices waiting longer."""
_MAX_ANSWER_BYTES = 64 << 10


class BackChannel:
    """``LogoutSink``. ``start`` it, and ``stop`` it before the process ends."""

    def __init__(self, client: Callable[[], httpx.Client] | None = None, *, waiting: int = MAX_WAITING) -> None:
        self._client = client or _new_client
        self._queue: queue.Queue[LogoutNotice | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None
        self.sent = self.failed = self.dropped = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="back-channel-logout", daemon=True)
        self._thread.start()

    def offer(self, notice: LogoutNotice) -> bool:
        try:
            self._queue.put_nowait(notice)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def stop(self, timeout_s: float = 5.0) -> None:
        """What still waits is sent, as far as the time suffices."""
        if self._thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        with self._client() as client:
            while (notice := self._queue.get()) is not None:
                if any(_sent(client, notice) for _ in range(_ATTEMPTS)):
                    self.sent += 1
                else:
                    self.failed += 1


def _new_client() -> httpx.Client:
    """Each notice has a connection of its own, so that each can be ended."""
    none_kept = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False, limits=none_kept)


def _sent(client: httpx.Client, notice: LogoutNotice) -> bool:
    """Whether the service took it (200 or 204). Its answer is not read further than a sane one is long."""
    ending = _Ending()
    clock = threading.Timer(ATTEMPT_S, ending.end)
    clock.daemon = True
    clock.start()
    try:
        form = {"logout_token": notice.token}
        with client.stream("POST", notice.uri, data=form, extensions={"trace": ending.trace}) as answer:
            length = 0
            for piece in answer.iter_raw():
                length += len(piece)
                if length > _MAX_ANSWER_BYTES:
                    return False
            return answer.status_code in (200, 204)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False
    finally:
        clock.cancel()


class _Ending:
    """Ends a request from another thread: the library's times are for single reads, of which there may be many."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._ended = False

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Called by httpcore; with TLS the second stream takes the first one's place."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self._ended:
                self.end()

    def end(self) -> None:
        self._ended = True
        for one in self._sockets:
            with contextlib.suppress(OSError):  # it is closed already
                one.shutdown(socket.SHUT_RDWR)

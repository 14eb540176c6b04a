"""``exclave serve identity``: certificate status, OpenID provider and log-in pages of one place, in one process.

Status has a listener of its own (AIA addresses are plain HTTP); the rest stands behind a web server with TLS. Beside
them a thread sends the journal abroad, or follows it. SIGTERM: nothing new is taken, what runs ends, then the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from exclave.errors import ConfigError, ExclaveError, UsageError
from exclave.identity.contract import Tickets
from exclave.identity.crl_publisher import CrlPublisher
from exclave.identity.feeding.source import Source
from exclave.identity.op.backchannel import BackChannel
from exclave.identity.responder import Responder
from exclave.operations.identity_feed import Feed
from exclave.operations.identity_follow import SOURCES_S, Follower
from exclave.operations.identity_place import IdentityPlace
from exclave.serve.identity_app import IdentityApp
from exclave.serve.ocsp import Listen, OcspMetrics, OcspSite, raise_file_limit, start_ocsp

_log = logging.getLogger("exclave.identity")
_GRACE_S = 10
_CONNECTIONS = 1000
_SWEEP_S = 10.0
_CRL_S = 5.0


@dataclass(frozen=True, slots=True)
class Served:
    """What one process serves, opened and not listening yet."""

    place: IdentityPlace
    tickets: Tickets
    say: Callable[[str], None]
    sources: tuple[Source, ...] = ()
    """At home: what the CAs' software keeps."""
    follow: bool = True
    """False for further workers: one process of a place sends and follows."""


def run(served: Served, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serves until SIGTERM or SIGINT. ``ready`` is called once all addresses are listened at.

    ``RuntimeError`` if a thread died of a fault of ours: without the one that reads the sites, a place would go on by
    what it knew when it died, and decide beside the place that took over.
    """
    stop = threading.Event()
    died: list[threading.ExceptHookArgs] = []
    registry = CollectorRegistry()
    feed = Feed(served.sources, served.place.store, served.place.writer, served.place.clock) if served.sources else None
    follower = Follower(served.place, served.say, feed=feed)
    logouts = BackChannel()
    app = IdentityApp(served.place, follower, served.tickets, logouts, registry)
    crls = CrlPublisher(served.place.store, served.place.keyring, served.place.authority, served.place.clock)
    threads = [threading.Thread(target=_every, args=(stop, _SWEEP_S, lambda: _sweep(served)), name="sweep")]
    threads.append(threading.Thread(target=_every, args=(stop, _CRL_S, crls.refresh), name="crl"))
    if served.follow:
        threads.append(threading.Thread(target=follower.run, args=(stop,), name="follow"))
        threads.append(threading.Thread(target=_every, args=(stop, SOURCES_S, follower.read_sources), name="sources"))
    else:
        threads.append(threading.Thread(target=_every, args=(stop, served.place.config.verify_s,
                                                             served.place.watch.refresh), name="watch"))  # fmt: skip
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, _ending_with_threads(died):
            runner.run(_serve(served, app, registry, crls, [logouts, *threads], ready))
    finally:
        stop.set()
        logouts.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join(_GRACE_S)
    if died:
        raise RuntimeError(f"the thread {died[0].thread.name if died[0].thread else '?'} died") from died[0].exc_value


@contextmanager
def _ending_with_threads(died: list[threading.ExceptHookArgs]) -> Iterator[None]:
    """A thread that dies takes the process with it; what it died of is added to ``died``."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        before(args)
        died.append(args)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


async def _serve(
    served: Served, app: IdentityApp, registry: CollectorRegistry, crls: CrlPublisher,
    threads: Iterable[threading.Thread | BackChannel], ready: Callable[[], None],
) -> None:  # fmt: skip
    place, serve = served.place, served.place.config.serve
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    for thread in threads:  # only now: one that dies at once must find the handler
        thread.start()
    raise_file_limit(2 * _CONNECTIONS)
    responder = Responder(place.store, place.keyring, place.authority, place.clock)
    site = OcspSite(
        responder, place.clock, OcspMetrics(registry), crls, lambda: place.authority().answers
    )  # fmt: skip
    host, port = _address(serve.status)
    answering = 16 if serve.state else 0
    with _bound(serve.status):
        status = await start_ocsp(site, Listen(host, port, reuse_port=serve.workers > 1, threads=answering))
    servers = [_server(app.app, serve.login)]
    sockets = [_listen(serve.login, reuse=serve.workers > 1)]
    if serve.card_socket:
        servers.append(_server(app.door, serve.card_socket))
        sockets.append(_listen(serve.card_socket, reuse=False))
    tasks = [asyncio.create_task(s.serve(sockets=[at])) for s, at in zip(servers, sockets, strict=True)]
    while not all(server.started for server in servers) and not stopped.is_set():
        await asyncio.sleep(0.01)
    ready()
    await stopped.wait()
    for server in servers:
        server.should_exit = True
    await status.stop()
    await asyncio.gather(*tasks)


class _Quiet(uvicorn.Server):
    """Signals are the whole process's, not one server's."""

    def install_signal_handlers(self) -> None:
        """Nothing."""


def _server(app: ASGIApp, address: str) -> uvicorn.Server:
    """The caller's address is what the web server in front says: that on this machine, or whoever opens the socket."""
    trusted = "*" if address.startswith("unix:") else "127.0.0.1"
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=15, timeout_graceful_shutdown=_GRACE_S, lifespan="off", http="httptools", loop="none",
        interface="asgi3",
        proxy_headers=True, forwarded_allow_ips=trusted,
    )  # fmt: skip
    return _Quiet(config)


def _listen(address: str, *, reuse: bool) -> socket.socket:
    """A listening socket at ``host:port`` or ``unix:/path``; that of a dead process is taken over."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        at = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _bound(address):
            with suppress(FileNotFoundError):
                os.unlink(path)
            at.bind(path)
            os.chmod(path, 0o660)
    else:
        host, port = _address(address)
        at = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse:
            at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with _bound(address):
            at.bind((host, port))
    at.listen(_CONNECTIONS)
    at.setblocking(False)
    return at


_ELSEWHERE = "Name another address under [serve] of place.toml, or end the process that listens there."


@contextmanager
def _bound(address: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(f"cannot listen at {address}: {why}", hint=_ELSEWHERE) from error


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port is None:
        raise ConfigError(f"{text} is no address:port", hint=_ELSEWHERE)
    return parts.hostname, parts.port


def _every(stop: threading.Event, seconds: float, step: Callable[[], object]) -> None:
    """What one step meets is told and does not end the others."""
    while not stop.is_set():
        try:
            step()
        except ExclaveError as error:
            _log.error("%s: %s", threading.current_thread().name, error.message)
        stop.wait(seconds)


def _sweep(served: Served) -> None:
    served.tickets.sweep(now=served.place.clock())

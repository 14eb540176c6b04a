"""``exclave serve site``: the gateway of a host that keeps copies for one or more states.

A thread for each connection and blocking calls: hashing, TLS and the disk let go of the interpreter's lock, and each
step reads as it happens. How many threads there can be is a limit of the host's file, by class of client: a state's own
connections, and those without a certificate, never take each other's place. Page: ``docs/spec/gateway.md``.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import ssl
import stat
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from threading import BoundedSemaphore, Event, Lock, Thread
from typing import Final

from exclave.crypto.tls_certificate import read_pinned, read_tls
from exclave.errors import Bug, ConfigError, KeyFileExposed, MalformedError, SiteUnavailable
from exclave.formats.hostconfig import HostConfig, HostedConfig, listen_address
from exclave.ids import Fingerprint, Label
from exclave.serve.ocsp import raise_file_limit
from exclave.serve.site_carried import Carriers, processes_of
from exclave.serve.site_carrier import SWITCH_S
from exclave.serve.site_connection import Connection, Gone, refuse
from exclave.serve.site_contract import ANYBODY, Duties, HostedState
from exclave.serve.site_counts import GatewayCounts
from exclave.serve.site_message import BadRequest
from exclave.serve.site_objects import Tenant
from exclave.serve.site_places import Places
from exclave.serve.site_requests import Requests
from exclave.serve.site_tls import TlsFiles
from exclave.serve.site_turns import Turns
from exclave.serve.site_usage import FolderUsage
from exclave.sites.arriving import ArrivingSite
from exclave.sites.throttle import TokenBucket

_log = logging.getLogger("exclave.site")
_BACKLOG: Final = 512
_FILES_EACH: Final = 6
"""Of a connection, at most: two sockets, an object, a folder or two, a lock."""
_FINISH_S: Final = 30.0
_MAX_PEM_BYTES = 256 << 10
_LARGE_BODIES: Final = 4
"""Bodies for duties (33 MB at most) in memory at once: of each state, and of all strangers together."""
_STRANGERS: Final = "/strangers"


@dataclass(frozen=True, slots=True)
class Hosting:
    """All that is read before anything listens."""

    config: HostConfig
    states: Sequence[HostedState]
    tls: TlsFiles
    context: ssl.SSLContext


def read_hosting(config: HostConfig, folder: str) -> Hosting:
    """Reads and checks what the host's file names; ``folder`` is the one it lies in. Counts the folders of states that
    are new here. ``ConfigError`` for the first thing that is wrong, ``KeyFileExposed`` for a key that others can read.
    """
    certificate, key = os.path.join(folder, config.certificate), os.path.join(folder, config.key)
    duties = config.duties
    own = (".", config.key, duties.memory, duties.witness_key, duties.mirror_key)
    _check_hidden(config.state, folder, [os.path.join(folder, name) for name in own if name])
    pinned: list[bytes] = []
    states: list[HostedState] = []
    owner: dict[str, str] = {}
    for hosted in config.state:
        try:
            found = [read_pinned(_read(os.path.join(folder, name))) for name in hosted.certificates]
        except MalformedError as error:
            raise _wrong(f"state {hosted.name}: {error.message}") from error
        for one in found:
            if owner.setdefault(one.digest, hosted.name) != hosted.name:
                raise _wrong(f"states {owner[one.digest]} and {hosted.name} have the same certificate")
            pinned.append(one.pem)
        states.append(_hosted(hosted, folder, config.limits.free_bytes, frozenset(one.digest for one in found)))
    _check_apart(states)
    tls = TlsFiles(certificate, key, b"".join(pinned).decode("ascii"))
    return Hosting(config, states, tls, _checked(tls))


def _hosted(hosted: HostedConfig, base: str, free_bytes: int, certificates: frozenset[str]) -> HostedState:
    folder = os.path.normpath(os.path.join(base, hosted.folder))
    if not os.path.isdir(folder):
        raise ConfigError(
            f"host.toml: the folder of state {hosted.name}, {folder}, is not there",
            hint=f"Mount its disk; for a state that is new here: mkdir -m 700 {folder}",
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise _wrong(f"this account cannot write to {folder} of state {hosted.name}")
    site = ArrivingSite(folder)
    usage = FolderUsage(folder, site, hosted, free_bytes)
    usage.begin()
    name, fingerprint = Label(hosted.name), Fingerprint(hosted.fingerprint)
    return HostedState(name, fingerprint, folder, site, hosted, usage, certificates)


def _check_apart(states: Sequence[HostedState]) -> None:
    """No state's folder is another's, or lies in it."""
    real = sorted((os.path.realpath(state.folder) + os.sep, state.name) for state in states)
    for (outer, first), (inner, second) in pairwise(real):
        if inner.startswith(outer):
            raise _wrong(f"the folder of state {second} lies in that of state {first}")


def _check_hidden(states: Sequence[HostedConfig], base: str, own: Sequence[str]) -> None:
    """Nothing of the host's own lies where a state's objects do: whoever may read those would be given his keys."""
    for state in states:
        shown = os.path.join(os.path.realpath(os.path.join(base, state.folder)), "")
        for path in own:
            real = os.path.realpath(path)
            if (real + os.sep).startswith(shown):
                raise _wrong(f"{real} lies in the folder of state {state.name}, which readers are shown")


def _checked(tls: TlsFiles) -> ssl.SSLContext:
    """Of files that are what they should be."""
    with suppress(OSError):
        if os.stat(tls.key).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeyFileExposed(f"{tls.key} can be read by others", path=tls.key)
    try:
        facts = read_tls(_read(tls.certificate), _read(tls.key))
    except MalformedError as error:
        raise _wrong(error.message) from error
    if not facts.key_matches:
        raise _wrong("the TLS key does not belong to the TLS certificate")
    try:
        return tls.context()
    except (OSError, ValueError) as error:
        raise _wrong(f"the certificates cannot be used: {error}") from error


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_PEM_BYTES + 1)
    except OSError as error:
        raise _wrong(f"cannot read {path}: {error.strerror}") from error


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"host.toml: {what}", hint="Correct host.toml and run the command again; nothing was changed.")


class Gateway:
    """A listener and its connections. ``start`` and ``stop`` are called once each."""

    def __init__(
        self, hosting: Hosting, duties: Duties, counts: GatewayCounts, carriers: Carriers | None = None
    ) -> None:
        """``carriers``: started; without them all is done in this process."""
        limits = hosting.config.limits
        turns = Turns(limits.at_work)
        self._carriers = carriers or Carriers(1, hosting.tls, hosting.context)
        self._counts = counts
        self._states = hosting.states
        self._stopping = Event()
        self._lock = Lock()
        self._open: set[Connection] = set()
        self._places = Places(limits, {state.fingerprint: state.config.connections for state in hosting.states})
        self._owner = {digest: state.fingerprint for state in hosting.states for digest in state.certificates}
        own: dict[str, Tenant] = {state.fingerprint: _tenant(state, turns, duties) for state in hosting.states}
        bodies = BoundedSemaphore(_LARGE_BODIES)
        others = {name: _strangers(tenant, bodies) for name, tenant in own.items()}
        self._requests = Requests(own, others, counts, lambda: not self._stopping.is_set())
        self._listener: socket.socket | None = None

    def start(self, address: tuple[str, int]) -> int:
        """Listens; the port that was bound (0 asks for any). ``SiteUnavailable`` if it cannot."""
        try:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self._listener = socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            raise SiteUnavailable(
                f"cannot listen at {address[0]}:{address[1]}: {error.strerror}",
                hint="Stop what listens there, or change listen in host.toml.",
            ) from error
        Thread(target=self._accept, args=(self._listener,), name="accept", daemon=True).start()
        return int(self._listener.getsockname()[1])

    def stop(self, *, within_s: float = _FINISH_S) -> None:
        """Takes no more connections, ends idle ones, lets running requests finish for ``within_s``, then ends all."""
        self._stopping.set()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        deadline = time.monotonic() + within_s
        while self._ended(idle=True) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._ended(idle=False)
        for state in self._states:
            if isinstance(state.usage, FolderUsage):
                state.usage.close()

    def _ended(self, *, idle: bool) -> int:
        """Ends idle connections, or all; how many there were that were not idle."""
        with self._lock:
            found = list(self._open)
        for connection in found:
            if not idle or connection.idle_since:
                connection.end()
        return sum(1 for connection in found if not connection.idle_since)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                sock, peer = listener.accept()
            except OSError:
                if self._stopping.is_set():
                    return
                time.sleep(0.05)  # no file descriptor left for the moment
                continue
            self._take(sock, network_of(str(peer[0])))

    def _take(self, sock: socket.socket, address: str) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pipe = self._carriers.pipe(sock)
        except (OSError, ValueError):
            sock.close()
            return
        connection = Connection(pipe, address)
        oldest = self._places.come(connection)
        if oldest is not None:
            self._counts.refused("handshake")
            oldest.end()
        try:
            Thread(target=self._serve, args=(connection,), name="connection", daemon=True).start()
        except RuntimeError:  # no thread left
            self._counts.refused("thread")
            self._places.leave(connection)
            connection.close()

    def _serve(self, connection: Connection) -> None:
        with self._lock:
            self._open.add(connection)
        state: str = ANYBODY
        shaken = False
        try:
            connection.shake_hands(self._owner)
            state = self._owner.get(connection.who, ANYBODY)
            idle = self._places.settle(connection, state)
            if idle is not None:
                idle.end()
            self._counts.connection(state, 1)
            shaken = True
            self._converse(connection)
        except Gone:
            if not shaken:
                self._counts.refused("tls")
        except BadRequest as error:
            self._counts.refused(error.code)
            refuse(connection, error)
        except Exception:  # noqa: BLE001  an entry point: one connection ends, the others go on
            _log.exception("a connection failed; please report it")
        finally:
            if shaken:
                self._counts.connection(state, -1)
            with self._lock:
                self._open.discard(connection)
            self._places.leave(connection)
            connection.close()

    def _converse(self, connection: Connection) -> None:
        while not self._stopping.is_set():
            head = connection.next_head()
            if head is None or not self._requests.answer(connection, head):
                return


def network_of(address: str) -> str:
    """Whose address it is: of IPv6 the network of 64 bits, which is the least that one customer gets."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))


def _tenant(state: HostedState, turns: Turns, duties: Duties) -> Tenant:
    if not isinstance(state.usage, FolderUsage):
        raise Bug("a hosted state without its own count")
    limit = state.config
    return Tenant(
        state,
        state.usage,
        turns,
        state.fingerprint,
        BoundedSemaphore(limit.uploads),
        BoundedSemaphore(_LARGE_BODIES),
        _bucket(limit.bytes_per_s),
        _bucket(limit.requests_per_s),
        duties,
    )


def _strangers(own: Tenant, bodies: BoundedSemaphore) -> Tenant:
    """What those without the state's certificate share: a line and a rate of their own, so that no flood of theirs
    holds up the state's writer. ``bodies``: the same for the whole host."""
    limit = own.state.config
    return replace(
        own,
        line=own.line + _STRANGERS,
        bodies=bodies,
        bytes_left=_bucket(-(-limit.bytes_per_s // 2)),
        requests_left=_bucket(-(-limit.requests_per_s // 2)),
    )


def _bucket(rate: int) -> TokenBucket:
    """``rate``: for each second; 0: no limit."""
    return TokenBucket(lambda: rate or None, clock=time.monotonic, sleep=time.sleep)


def run(
    hosting: Hosting, duties: Duties, counts: GatewayCounts, *, ready: Callable[[int], None], wait: Callable[[], object]
) -> None:
    """Serves until ``wait`` returns, then lets running requests end. ``ready`` is told the port."""
    limits = hosting.config.limits
    raise_file_limit(_FILES_EACH * limits.connections)
    sys.setswitchinterval(SWITCH_S)
    carriers = Carriers(processes_of(limits.processes), hosting.tls, hosting.context)
    carriers.start()
    try:
        gateway = Gateway(hosting, duties, counts, carriers)
        ready(gateway.start(listen_address(hosting.config)))
        try:
            wait()
        finally:
            gateway.stop()
    finally:
        carriers.stop()

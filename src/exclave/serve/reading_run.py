"""A reading room at work: it looks at its sources, builds what is new, and keeps nginx and the search running.

Readers depend on files alone. If every source is gone, or this process dies, nginx goes on with what was built last.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from exclave.errors import Busy, ConfigError, ExclaveError, RolledBack, ServiceFailed, UsageError
from exclave.ids import Digest, Fingerprint, Instant, RegisterId, instant_text
from exclave.operations.reading_room import look
from exclave.serve.reading_admission import Admission, Limits
from exclave.serve.reading_app import SearchApp
from exclave.serve.reading_build import Builder
from exclave.serve.reading_files import write
from exclave.serve.reading_nginx import RoomSettings, nginx_config
from exclave.serve.reading_pages import Pages, Room
from exclave.serve.reading_status import Proven, band, proven_of
from exclave.sites.contract import Readable
from exclave.verify.published import fetch_bundle

NGINX: Final = ("nginx", "/usr/sbin/nginx")
SOCKET: Final = "search.sock"
_REST_S: Final = 1.0
"""Before a part that ended is started again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last look that succeeded found: in ``seen.json``, for the search process and for restarts."""

    name: str
    state_name: str
    fingerprint: str
    register: str
    origin: str
    proven: Proven

    def room(self) -> Room:
        return Room(self.name, self.state_name, Fingerprint(self.fingerprint), RegisterId(self.register), self.origin)


def read_seen(folder: str) -> Seen | None:
    """None if nothing was seen yet, or what is there is no such file any more."""
    try:
        with open(os.path.join(folder, "seen.json"), "rb") as file:
            return msgspec.json.decode(file.read(), type=Seen)
    except (OSError, msgspec.DecodeError, UnicodeError):
        return None


class Follower:
    """Looks at ``sources`` and brings the room in ``folder`` up to date. One process at a time (``alone``)."""

    def __init__(
        self,
        folder: str,
        sources: Mapping[Any, Readable],
        pinned: Fingerprint,
        register: RegisterId | str,
        *,
        origin: str,
        place: str,
        clock: Callable[[], Instant],
        tell: Callable[[str], None],
        progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    ) -> None:
        self._folder, self._sources, self._pinned, self._register = folder, sources, pinned, register
        self._origin, self._place, self._clock, self._tell, self._progress = origin, place, clock, tell, progress
        self._seen = read_seen(folder)
        self._told = ""
        self._writing = threading.Lock()
        os.makedirs(os.path.join(folder, "status"), mode=0o755, exist_ok=True)

    def once(self, *, strict: bool = False) -> bool:
        """One look; True if a new version is shown. What fails is told (``strict``: raised), and changes nothing.

        That goes for this machine too: a full disk, or a room's store that cannot be read, ends no room.
        """
        changed = False
        try:
            changed = self._follow()
            self._told = ""
        except ExclaveError as error:
            if strict:
                raise
            if error.message != self._told:  # once, not each half minute
                self._tell(f"{error.message}; what was shown before is shown on")
                self._told = error.message
        self.tell_status()
        return changed

    def _follow(self) -> bool:
        view, shown = look(self._sources, self._pinned, self._register)
        edition = shown.published.edition
        if self._seen is not None and edition.sequence < self._seen.proven.sequence:
            raise RolledBack(
                f"{', '.join(shown.sources)}: version {edition.sequence} is the newest that is public there;"
                f" version {self._seen.proven.sequence} was, before",
                sequence=edition.sequence,
            )
        answering = {name: source for name, source in self._sources.items() if str(name) in shown.sources}

        def fetch(name: Digest) -> bytes:
            return fetch_bundle(view, answering, shown.register, name)

        seen = Seen(
            shown.name, shown.state_name, self._pinned, shown.register, self._origin, proven_of(shown, self._clock())
        )
        try:
            builder = Builder(self._folder, Pages(seen.room()), fetch, self._progress)
            try:
                changed = builder.build(edition)
            finally:
                builder.close()
            write(os.path.join(self._folder, "seen.json"), msgspec.json.encode(seen), 0)
        except (OSError, sqlite3.Error) as error:
            raise ServiceFailed(f"version {edition.sequence} cannot be built in {self._folder}: {error}") from error
        self._seen = seen
        return changed

    def tell_status(self) -> None:
        """Writes the page about the copy's age. A restart writes it anew; the former one says of when it is."""
        if self._seen is None:
            return
        seen, now, where = self._seen, self._clock(), os.path.join(self._folder, "status")
        line, proven = band(seen.proven, now, self._place), seen.proven
        told = {
            "format": "exclave/reading-status/v1", "level": line.level, "says": f"{line.headline} {line.detail}",
            "place": self._place, "version": proven.sequence, "time": instant_text(Instant(proven.time)),
            "newest_version": proven.newest, "checked": instant_text(Instant(proven.checked)),
            "exile": proven.exile or None, "sources": proven.sources, "away": proven.away,
        }  # fmt: skip
        page = Pages(seen.room()).status(line.level, line.headline, line.detail)
        try:
            with self._writing:
                write(os.path.join(where, "status.html"), page, now // 1_000_000, packed=True)
                write(os.path.join(where, "status.json"), msgspec.json.encode(told) + b"\n", now // 1_000_000)
        except OSError as error:
            self._tell(f"the page about the copy's age cannot be written: {error.strerror}")

    @contextmanager
    def telling(self, every_s: float) -> Iterator[None]:
        """Renews that page by a thread of its own: a source that holds a look up, for hours, must not keep it green."""
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(every_s):
                self.tell_status()

        teller = threading.Thread(target=tell, name="status", daemon=True)
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()


@contextmanager
def alone(folder: str) -> Iterator[None]:
    """Holds the room until the process ends; ``Busy`` if another one has it."""
    os.makedirs(os.path.join(folder, "run"), mode=0o755, exist_ok=True)
    with open(os.path.join(folder, "run", "lock"), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another process serves the room in {folder}") from error
        yield


class Part:
    """A child process that is started again when it ends, and ended with us."""

    def __init__(self, name: str, argv: Sequence[str], tell: Callable[[str], None]) -> None:
        self._name, self._argv, self._tell = name, argv, tell
        self._ended = threading.Event()
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, name=name, daemon=True)
        self._keeper.start()

    def _start(self) -> subprocess.Popen[bytes]:
        # Dies with us, however we die: what is left alone would hold the port against the next one.
        tied = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        return subprocess.Popen([*tied, *self._argv], stdin=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _keep(self) -> None:
        while True:
            code = self._process.wait()
            if self._ended.is_set():
                return
            self._tell(f"{self._name} ended with {code}; it is started again")
            if self._ended.wait(_REST_S):
                return
            self._process = self._start()

    def end(self) -> None:
        self._ended.set()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._keeper.join(10)


def find_nginx() -> str:
    """``ConfigError`` if there is none on this machine."""
    for name in NGINX:
        if (found := shutil.which(name)) is not None:
            return found
    raise ConfigError(
        "there is no nginx on this machine",
        hint="Install it (Debian: apt-get install nginx-light), and run this again.",
    )


def search_argv(folder: str, limits: Limits) -> list[str]:
    """The command of the search process."""
    return [
        sys.executable, "-m", "exclave.cli.main", "serve", "public", "--dir", folder, "--search-only",
        "--searches", str(limits.at_work),
    ]  # fmt: skip


@contextmanager
def served(settings: RoomSettings, tell: Callable[[str], None], *, wait_s: float = 30.0) -> Iterator[None]:
    """nginx and the search, running and reachable. ``ServiceFailed`` if nginx does not come up."""
    folder = settings.folder
    config = os.path.join(folder, "run", "nginx.conf")
    write(config, nginx_config(settings, root=os.geteuid() == 0).encode(), int(time.time()))
    argv = [find_nginx(), "-p", folder, "-e", os.path.join(folder, "run", "error.log"), "-c", config]
    tried = subprocess.run([*argv, "-t", "-q"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise ServiceFailed(f"nginx refuses its configuration: {tried.stderr.strip()[:500]}")
    socket_path = os.path.join(folder, "run", SOCKET)
    if os.path.exists(socket_path):
        os.unlink(socket_path)
    search = Part("the search", search_argv(folder, settings.limits), tell)
    front = Part("nginx", argv, tell)
    try:
        _await("the search", wait_s, lambda: os.path.exists(socket_path))
        _await("nginx", wait_s, lambda: _listens(settings.listen))
        yield
    finally:
        front.end()
        search.end()


def _await(what: str, wait_s: float, ready: Callable[[], bool]) -> None:
    until = time.monotonic() + wait_s
    while not ready():
        if time.monotonic() > until:
            raise ServiceFailed(f"{what} does not come up", hint="Read what it printed; then run this again.")
        time.sleep(0.05)


def _listens(listen: str) -> bool:
    """Whether somebody answers at ``listen``, or on loopback where that means every address."""
    host, _, port = listen.rpartition(":")
    at = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - compared only
    try:
        socket.create_connection((at, int(port)), 1).close()
    except OSError:
        return False
    return True


def run_search(folder: str, limits: Limits) -> None:
    """The search process: serves until it is told to stop."""
    import uvicorn  # noqa: PLC0415 - not needed by the follower

    seen = read_seen(folder)
    if seen is None:
        raise UsageError(
            f"{folder} is no reading room yet", hint="`exclave serve public` without --search-only makes it."
        )
    path = os.path.join(folder, "run", SOCKET)
    if os.path.exists(path):
        os.unlink(path)
    app = SearchApp(folder, Pages(seen.room()), Admission(limits))
    uvicorn.run(
        app, uds=path, log_level="warning", access_log=False, server_header=False, date_header=False,
        timeout_keep_alive=60, backlog=1024, limit_concurrency=2048,
    )  # fmt: skip

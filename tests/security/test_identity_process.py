"""What ends or delays the threads beside the requests, and what a place does then."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from exclave.errors import ConfigError, UnavailableError
from exclave.formats.identityconfig import parse_place_config
from exclave.identity.login_settings import LoginSettings
from exclave.identity.op.backchannel import BackChannel
from exclave.identity.op.settings import LogoutNotice
from exclave.identity.tickets import MemoryTickets
from exclave.ids import Instant, now
from exclave.operations.acting import REFRESH_S
from exclave.operations.identity_follow import Follower
from exclave.operations.identity_place import IdentityPlace
from exclave.operations.identity_return import SETTLE_S
from exclave.rules.exile import Seen
from exclave.serve import identity
from exclave.serve.identity_app import IdentityApp
from support.login_nginx import client_context, free_ports, running_front
from support.login_site import Site
from support.moving_places import MovingPlaces


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> MovingPlaces:
    return MovingPlaces(tmp_path_factory.mktemp("process") / "state").made()


def _served(place: IdentityPlace) -> identity.Served:
    config = msgspec.structs.replace(
        place.config, serve=msgspec.structs.replace(place.config.serve, status="127.0.0.1:0", login="127.0.0.1:0")
    )
    return identity.Served(replace(place, config=config), MemoryTickets(), lambda text: None)


def test_a_process_whose_watch_died_ends(state: MovingPlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not learn that another place took over, and decide beside it for ever."""

    def broken(self: Follower) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Follower, "step", broken)
    monkeypatch.setattr(identity, "_address", lambda text: ("127.0.0.1", 0))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with state.place("home") as place:
                identity.run(_served(place))
        except RuntimeError as error:
            code = 7 if isinstance(error.__cause__, ZeroDivisionError) and "follow" in str(error) else 2
        finally:
            os._exit(code)
    ends = time.monotonic() + 20
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > ends:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            pytest.fail("the process goes on")
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == 7


def test_a_database_that_is_away_for_a_moment_ends_no_thread() -> None:
    """Expired tickets are removed again once it is back."""
    stop, calls = threading.Event(), []

    def sweep() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise UnavailableError("the tickets' database does not answer")
        stop.set()

    identity._every(stop, 0.01, sweep)
    assert len(calls) == 2


def test_a_clock_that_is_set_back_does_not_keep_a_place_from_reading_the_sites(state: MovingPlaces) -> None:
    """An embassy in exile learns within seconds that home decides again, whatever its own clock says."""
    times = [now()]
    with state.place("home", lambda: times[-1]) as place:
        follower = Follower(place)
        follower.step()
        times.append(Instant(times[-1] - 86_400_000_000))
        reads: list[int] = []
        object.__setattr__(place, "watch", _Counting(place.watch, reads))
        follower.step()
        assert reads


class _Counting:
    def __init__(self, watch: object, reads: list[int]) -> None:
        self._watch, self._reads = watch, reads

    def refresh(self) -> None:
        self._reads.append(1)

    def __getattr__(self, name: str) -> object:
        return getattr(self._watch, name)


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"])
def test_a_service_that_answers_byte_by_byte_delays_nobody(begin: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its notice is given up; the others' go out."""
    monkeypatch.setattr("exclave.identity.op.backchannel.ATTEMPT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as slow, socket.create_server(("127.0.0.1", 0)) as good:
        threading.Thread(target=_drip, args=(slow, begin), daemon=True).start()
        threading.Thread(target=_take, args=(good,), daemon=True).start()
        channel = BackChannel()
        channel.start()
        for server in (slow, good):
            channel.offer(LogoutNotice(f"http://127.0.0.1:{server.getsockname()[1]}/out", "token"))
        ends = time.monotonic() + 8
        while channel.sent == 0 and time.monotonic() < ends:
            time.sleep(0.05)
        channel.stop(1.0)
        assert (channel.sent, channel.failed) == (1, 1)


def _drip(server: socket.socket, begin: bytes) -> None:
    while True:
        try:
            client, _ = server.accept()
            client.sendall(begin)
            for _ in range(200):
                client.sendall(b"x")
                time.sleep(0.1)
        except OSError:
            if server.fileno() < 0:
                return


def _take(server: socket.socket) -> None:
    client, _ = server.accept()
    client.recv(65536)
    client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    client.close()


def test_files_of_a_place_are_its_own(state: MovingPlaces, tmp_path: Path) -> None:
    """Nobody else on the machine reads journal, store or what was taken up."""
    state.step("home")
    for path in [*state.at_home.glob("journal/*"), *state.at_home.glob("cache/*"), *state.at_home.glob("state/*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_place_reads_the_sites_before_another_decides() -> None:
    """Home waits twice the longest time between two readings before it decides again; no place may read them later."""
    text = f'place = "lux"\nrole = "embassy"\nfingerprint = "{"11" * 32}"\nregister = "{"ab" * 16}"\nkey = "k"\n'
    site = '[[site]]\nname = "lux"\nurl = "dir:/srv"\n'
    assert parse_place_config(f"{text}verify_s = 6.0\n{site}".encode()).verify_s * 2 <= SETTLE_S
    with pytest.raises(ConfigError, match="verify_s"):
        parse_place_config(f"{text}verify_s = 6.1\n{site}".encode())
    assert REFRESH_S <= SETTLE_S


@pytest.mark.parametrize("path", ["metrics", "health/ready", "health", "push/v1"])
def test_the_web_server_shows_nobody_what_operators_see(
    front: tuple[httpx.Client, LoginSettings], path: str
) -> None:  # fmt: skip
    """Metrics and health name sites and their faults; nginx answers for them itself."""
    client, settings = front
    answer = client.get(f"{settings.origin}/{path}")
    assert answer.status_code == 404
    assert "nginx" in answer.text
    assert "nginx" not in client.get(f"{settings.origin}/login").text


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, LoginSettings]]:
    """The log-in pages behind a real nginx, with the configuration that the product writes."""
    port, card_port = free_ports(2)
    settings = LoginSettings(f"https://localhost:{port}", f"https://localhost:{card_port}")
    with (
        running_front(Site(settings, now()), tmp_path_factory.mktemp("n"), port, card_port) as running,
        httpx.Client(verify=client_context(running, None)) as client,
    ):
        yield client, settings


def test_a_database_that_is_away_takes_no_page_away(state: MovingPlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process says that it lives, and whoever asks for more is asked to come again; there is no traceback."""
    with state.place("home") as place:
        app = IdentityApp(place, Follower(place), MemoryTickets(), BackChannel(), CollectorRegistry())

        def away() -> int:
            raise UnavailableError("the status store does not answer")

        assert _asked(app).status_code == 200
        monkeypatch.setattr(place.store, "generation", away)
        assert _asked(app).status_code == 200
        app._made = None
        answer = _asked(app)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def _asked(app: IdentityApp) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app.app), base_url="http://127.0.0.1") as client:
            return await client.get("/health/live")

    return asyncio.run(ask())


def test_a_damaged_mark_takes_nothing_up(state: MovingPlaces) -> None:
    """Whoever asks who decides gets an answer, and it is no."""
    with state.place("home") as place:
        (place.folder / "state" / "taken-up").write_bytes(b"\xc1")
        assert place.authority().decides, "the first epoch needs no mark"
        place.watch._seen = Seen(place.watch.me.digest, 3, False, now())
        assert not place.authority().decides
        (place.folder / "state" / "taken-up").unlink()

"""Several processes carry a gateway's bytes: what one decides holds for all, and one that dies loses nothing."""

from __future__ import annotations

import base64
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Lock
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import AlreadyExists, HeadMoved, OutcomeUnknown, SiteFull, SiteUnavailable
from exclave.formats.hostconfig import HostLimits
from exclave.ids import Key, sha256
from exclave.serve import site_carried, site_carried_pipe, site_connection
from exclave.serve.site import read_hosting
from exclave.serve.site_carried import MOST_PROCESSES, Carriers, processes_of
from exclave.serve.site_carrying import Act, Asked, End, Told
from exclave.serve.site_contract import Duties, Refusal, Write
from exclave.serve.site_pipe import OwnPipe
from exclave.serve.site_tls import TlsFiles
from exclave.serve.site_usage import FolderUsage
from exclave.sites.gateway_wire import Wire
from support.gateway import NORTH, SOUTH, HostPlace, Running, host_place, running_gateway, wait_until
from support.small_home import start

MIB = 1 << 20
WRITERS, TURNS = 8, 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> HostPlace:
    return host_place(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def gateway(place: HostPlace) -> Iterator[Running]:
    with running_gateway(place, processes=2) as running:
        yield running


def _usage(gateway: Running) -> FolderUsage:
    return gateway.gateway._requests._tenants[NORTH].usage


def _begun(gateway: Running, key: str, data: bytes, sent: int) -> Wire:
    """An upload of which ``sent`` bytes have gone."""
    wire = Wire(gateway.site()._pool._peer)
    digest = base64.b64encode(sha256(data)).decode()
    headers = {"Exclave-Write": "new", "Repr-Digest": f"sha-256=:{digest}:", "Content-Length": str(len(data))}
    wire.begin("PUT", f"/v1/{NORTH}/o/{key}", headers, "127.0.0.1", 60)
    wire.send_body(memoryview(data)[:sent])
    return wire


def test_one_of_many_writers_wins(gateway: Running) -> None:
    """Writers at both carriers want the same new name: one has it, with all its bytes, and the others are told so."""
    sites, together = [gateway.site() for _ in range(WRITERS)], Barrier(WRITERS)
    for large in (False, True):
        key = Key(f"race/{int(large)}")
        bodies = [bytes([number]) * (3 * MIB if large else 1000) for number in range(WRITERS)]

        def put(number: int, key: Key = key, bodies: list[bytes] = bodies) -> bool:
            together.wait(60)
            try:
                sites[number].put_new(key, bodies[number])
            except AlreadyExists:
                return False
            return True

        with ThreadPoolExecutor(WRITERS) as pool:
            won = list(pool.map(put, range(WRITERS)))
        assert sum(won) == 1
        assert gateway.site().get(key) == bodies[won.index(True)]


def test_no_heads_update_is_lost(gateway: Running) -> None:
    """Writers at both carriers count up one head by compare-and-swap: it comes to the sum of what they added."""
    key = Key("race/head")

    def count(_number: int) -> None:
        site, left = gateway.site(), TURNS
        while left:
            head = site.read_head(key)
            value, tag = (int(head.data), head.tag) if head else (0, None)
            try:
                site.replace_if(key, str(value + 1).encode(), tag)
            except HeadMoved:
                continue
            left -= 1

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(count, range(WRITERS)))
    assert gateway.site().get(key) == str(WRITERS * TURNS).encode()


def test_quota_is_one_for_all_carriers(tmp_path: Path) -> None:
    """Large objects that race for the last room through both carriers get no more than there is."""
    place = host_place(tmp_path, north="quota_bytes = 10_000_000")
    with running_gateway(place, processes=2) as gateway:

        def put(number: int) -> bool:
            try:
                gateway.site().put_new(Key(f"o/{number}"), bytes([number]) * 3_000_000)
            except SiteFull:
                return False
            return True

        with ThreadPoolExecutor(WRITERS) as pool:
            stored = sum(pool.map(put, range(WRITERS)))
        assert 1 <= stored <= 3
        assert sum(item.size_bytes for item in gateway.site().list("")) == _usage(gateway).bytes_used
        gateway.site("south").put_new(Key("o/1"), b"x" * 3_000_000)
        # Counted once the answer is on its way, so a client may be ahead of it.
        for state, count in ((NORTH, stored), (SOUTH, 1)):
            wait_until(
                lambda state=state, count=count: gateway.counts.now().answers.get((state, "PUT", 201)) == count,
                "the answers are counted",
            )


def test_a_killed_carrier_loses_nothing(tmp_path: Path) -> None:
    """Killed in the middle of uploads: their room is free again, they go on where they broke off, another takes its
    place, and what the other carrier has goes on."""
    place, data = host_place(tmp_path), [os.urandom(8 * MIB) for _ in range(2)]
    with running_gateway(place, processes=2) as gateway:
        killed, other = gateway.carriers.pids
        wires = [_begun(gateway, f"killed/{number}", one, 5 * MIB) for number, one in enumerate(data)]
        wait_until(lambda: all(_kept(place, one) == 5 * MIB for one in data), "both are under way")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: _usage(gateway)._reserved_bytes == 8 * MIB, "of one upload the room is free")
        for wire, one in zip(wires, data, strict=True):
            wire.send_body(memoryview(one)[5 * MIB :])
        wait_until(lambda: _usage(gateway)._reserved_bytes == 0, "nothing is under way")
        assert _usage(gateway).bytes_used == 8 * MIB
        for wire in wires:
            wire.close()
        site = gateway.site()
        for number, one in enumerate(data):
            site._broken[sha256(one)] = None
            site.put_same(Key(f"killed/{number}"), one)
            assert site.get(Key(f"killed/{number}")) == one
        # Of what was there nothing was sent again.
        wait_until(lambda: gateway.counts.now().bytes_in[NORTH] == 16 * MIB, "all that was sent is counted")
        assert _usage(gateway).bytes_used == 16 * MIB
        wait_until(lambda: len(set(gateway.carriers.pids) - {killed}) == 2, "there are two again")
        assert other in gateway.carriers.pids


def _kept(place: HostPlace, data: bytes) -> int:
    try:
        return (place.folder / "disk-north" / ".tmp" / f"upload-{sha256(data).hex()}").stat().st_size
    except FileNotFoundError:
        return 0


def test_all_carriers_killed_while_clients_ask(gateway: Running) -> None:
    """With both gone at once the gateway still answers, and no good answer was given for what is not there."""
    stored: list[Key] = []
    ended = Event()

    def put(first: int) -> None:
        site, number = gateway.site(), first
        while not ended.is_set():
            key = Key(f"storm/{number}")
            try:
                site.put_new(key, number.to_bytes(4, "big") * 300_000)
            except (SiteUnavailable, OutcomeUnknown):
                continue  # that name is not asked for again
            else:
                stored.append(key)
            finally:
                number += 2

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(put, first) for first in range(2)]
        for _ in range(2):
            wait_until(lambda: len(gateway.carriers.pids) == 2, "two are there")
            enough = len(stored) + 4
            wait_until(lambda enough=enough: len(stored) >= enough, "some are stored")  # type: ignore[misc]
            for pid in gateway.carriers.pids:
                os.kill(pid, signal.SIGKILL)
        ended.set()
        for one in running:
            one.result(120)
    site = gateway.site()
    for key in stored:
        assert site.get(key) == int(key.rpartition("/")[2]).to_bytes(4, "big") * 300_000


def test_a_carrier_that_stands_still_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives and answers nothing: its clients' lines are cut, another takes its place, and everybody is served."""
    monkeypatch.setattr(site_connection, "HANDSHAKE_S", 1.0)
    monkeypatch.setattr(site_carried_pipe, "_GRACE_S", 1.0)
    monkeypatch.setattr(site_carried, "STILL_S", 1.0)
    with running_gateway(host_place(tmp_path), processes=2) as gateway, ThreadPoolExecutor(4) as pool:

        def served(_number: int) -> bool:
            try:
                gateway.site().stat(Key("a"))
            except SiteUnavailable:
                return False
            return True

        still = gateway.carriers.pids[0]
        os.kill(still, signal.SIGSTOP)
        answers: list[bool] = []

        def replaced() -> bool:
            answers.extend(pool.map(served, range(4)))
            return still not in gateway.carriers.pids and len(gateway.carriers.pids) == 2

        try:
            wait_until(replaced, "another carrier is there")
        finally:
            if still in gateway.carriers.pids:
                os.kill(still, signal.SIGCONT)
        assert False in answers
        wait_until(lambda: all(pool.map(served, range(4))), "everybody is served")


@pytest.mark.parametrize("moves", [True, False])
def test_only_a_carrier_that_answers_nobody_is_ended(moves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection that hangs in it takes nothing from the others."""
    monkeypatch.setattr(site_carried, "STILL_S", 0.0)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        carrier = SimpleNamespace(process=process, looking=Lock(), moved_at=5.0 if moves else 4.0)
        carriers = Carriers(2, cast(TlsFiles, None), cast(ssl.SSLContext, None))
        carriers._living.append(cast(site_carried._Carrier, carrier))
        carriers.end_if_still(cast(site_carried._Carrier, carrier), 4.0)
        assert bool(carriers.pids) is moves
        assert (process.poll() is None) is moves or process.wait(60) == -signal.SIGKILL
        process.kill()


def test_a_stop_takes_no_answer_back(tmp_path: Path) -> None:
    """The answer to a write that was done is still sent by its carrier when the gateway has stopped meanwhile."""
    reached, go_on = Event(), Event()

    def guard(write: Write) -> Refusal | None:
        reached.set()
        assert go_on.wait(60)
        return None

    with (
        running_gateway(host_place(tmp_path), Duties(guards=[guard]), processes=2) as gateway,
        ThreadPoolExecutor(1) as pool,
    ):
        put = pool.submit(gateway.site().put_new, Key("a/b"), b"x")
        assert reached.wait(60)
        pids = gateway.carriers.pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            go_on.set()
            wait_until(lambda: all(one.idle_since for one in gateway.gateway._open), "it is answered, but not sent")
            gateway.gateway.stop(within_s=0)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        put.result(60)


def test_a_neighbours_crowd_at_every_carrier(tmp_path: Path) -> None:
    """All of a state's connections wait in a guard, at both carriers: its neighbour is served."""
    reached, go_on = Barrier(WRITERS + 1), Event()

    def guard(write: Write) -> Refusal | None:
        if write.state == NORTH and not go_on.is_set():
            reached.wait(60)
            assert go_on.wait(120)
        return None

    place = host_place(tmp_path, north=f"connections = {WRITERS}\nuploads = {WRITERS}")
    with (
        running_gateway(place, Duties(guards=[guard]), processes=2) as gateway,
        ThreadPoolExecutor(WRITERS) as pool,
    ):
        puts = [pool.submit(gateway.site().put_new, Key(f"n/{n}"), b"x" * 2 * MIB) for n in range(WRITERS)]
        reached.wait(60)
        south = gateway.site("south")
        south.put_new(Key("s/large"), b"y" * 3 * MIB)
        assert south.get(Key("s/large")) == b"y" * 3 * MIB
        with pytest.raises(SiteUnavailable, match="no-place"):
            gateway.site().stat(Key("n/0"))  # of all carriers together it has no more connections than one would give
        go_on.set()
        for one in puts:
            one.result(60)


def test_without_any_carrier_the_gateway_carries_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no further process can be started, everything is slower and nothing is refused."""
    monkeypatch.setattr(site_carried.sys, "executable", "/bin/false")
    with running_gateway(host_place(tmp_path), processes=2) as gateway:
        assert gateway.carriers.pids == []
        gateway.site().put_new(Key("a"), b"x" * 2 * MIB)
        assert gateway.site().get(Key("a")) == b"x" * 2 * MIB


def test_carriers_end_with_the_gateway(tmp_path: Path) -> None:
    """Killed, the process that decides leaves none of its carriers behind."""
    host_place(tmp_path, limits='processes = 2\n[duties]\npage = ""')
    process = start("serve", "site", "--config", str(tmp_path / "host.toml"))
    try:
        assert process.stderr is not None
        while b"listening" not in (line := process.stderr.readline()):
            assert line
        children = Path(f"/proc/{process.pid}/task")
        pids = [int(pid) for task in children.iterdir() for pid in (task / "children").read_text().split()]
        assert len(pids) == 2
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: not any(_lives(pid) for pid in pids), "they have ended")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_carrier_needs_no_site_of_ours() -> None:
    """What meets the clients' bytes first knows nothing of formats, keys or the verbs."""
    code = "import sys, exclave.serve.site_carrier; print(sorted(m for m in sys.modules if m.startswith('exclave.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    for package in ("formats", "crypto", "rules", "verify", "ledger", "vault", "operations", "app", "cli", "keys"):
        assert f"exclave.{package}" not in found


def test_an_idle_connection_holds_no_piece(tmp_path: Path) -> None:
    """The megabyte through which an object passes is there only while it does."""
    with running_gateway(host_place(tmp_path)) as gateway:
        site = gateway.site()
        site.put_new(Key("a/b"), b"x" * 3 * MIB)
        assert len(site.get(Key("a/b"))) == 3 * MIB
        (connection,) = gateway.gateway._open
        wait_until(lambda: connection.idle_since > 0, "it is idle")
        pipe = connection._pipe
        assert isinstance(pipe, OwnPipe)
        assert pipe._piece is None


def test_how_many() -> None:
    """As many as processors, up to four, unless the host's file says a number."""
    assert processes_of(HostLimits().processes) == min(MOST_PROCESSES, len(os.sched_getaffinity(0)))
    assert processes_of(1) == 1
    assert processes_of(7) == 7


@given(st.sampled_from(Act), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.floats(0, 1e6), st.binary())
def test_messages_come_back(act: Act, length: int, at: int, within_s: float, data: bytes) -> None:
    """What one process encodes is what the other one parses."""
    asked = Asked(act, length, at, within_s, data)
    assert Asked.parse(memoryview(asked.encode())) == asked
    told = Told(End.FAILED, -length, data)
    assert Told.parse(memoryview(told.encode())) == told


@given(st.binary())
def test_what_is_no_message(data: bytes) -> None:
    """Anything else is refused or encodes to the same bytes."""
    for kind in (Asked, Told):
        try:
            found = kind.parse(memoryview(data))
        except ValueError:
            continue
        assert found.encode() == data


def test_what_a_carrier_is_told_of_certificates(place: HostPlace) -> None:
    """It comes over as it was checked at the start."""
    told = read_hosting(place.config, str(place.folder)).tls
    assert told.pinned.count("BEGIN CERTIFICATE") == 2
    assert TlsFiles.decode(told.encode()) == told

"""Floods at the gateway: what strangers and thieves take never is what a state's own writer needs."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event, Semaphore
from types import SimpleNamespace
from typing import cast

import pytest

from exclave.errors import Busy, ConflictError, HeadMoved, MalformedError, SiteUnavailable
from exclave.formats.charter import CharterWitness
from exclave.formats.hostconfig import HostLimits
from exclave.formats.note import parse_note
from exclave.formats.paths import ledger_origin
from exclave.formats.tile import Tile, tile_key
from exclave.ids import Digest, Fingerprint, Instant, Key, Label
from exclave.ledger.hosted_logs import HostedLogs
from exclave.ledger.mirror import Mirror
from exclave.ledger.witness_store import log_name
from exclave.operations.host_erasure import REST_US, HostErasure
from exclave.rules.checkpoints import cosign, merge_signatures
from exclave.serve import site_connection
from exclave.serve.host_cosigners import MirrorDuty
from exclave.serve.host_duties import HostedViews, prefix_of
from exclave.serve.site import network_of
from exclave.serve.site_connection import Connection
from exclave.serve.site_contract import ANYBODY, Answer, Asked, Duties, HostedState
from exclave.serve.site_message import BadRequest
from exclave.serve.site_places import Places
from exclave.sites.directory import DirectorySite
from exclave.sites.erasing import DirectoryEraser
from exclave.verify.hosted import HostedView
from support.custody import actor
from support.gateway import NORTH, SOUTH, Running, host_place, running_gateway, wait_until
from support.hosted import Hosted


@dataclass(eq=False)
class Caller:
    """What ``Places`` sees of a connection."""

    address: str = "192.0.2.1"
    idle_since: float = 0.0


def caller() -> Connection:
    return cast(Connection, Caller())


def test_one_customer_counts_once() -> None:
    """All IPv6 addresses of one network of 64 bits are one address to the limits; IPv4 addresses are each their own."""
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth0")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")


def test_whoever_finds_no_place_still_counts_as_a_handshake() -> None:
    """Refused connections, which wait for their answer to be read, never are more than the handshakes allow."""
    places = Places(HostLimits(anonymous_connections=1, handshakes=4), {})
    first, refused = caller(), [caller() for _ in range(8)]
    places.come(first)
    places.settle(first, ANYBODY)
    gone = []
    for one in refused:
        gone.append(places.come(one))
        with pytest.raises(BadRequest):
            places.settle(one, ANYBODY)
    assert [one for one in gone if one is not None] == refused[:6]


@dataclass
class Stuck:
    """A duty whose answers wait until the end of the test."""

    waits: bool
    name: str = "stuck"
    body_bytes: int = 3 << 20
    anybody: bool = True
    here: Semaphore = field(default_factory=lambda: Semaphore(0))
    go: Event = field(default_factory=Event)

    def answer(self, state: HostedState, asked: Asked) -> Answer:
        self.here.release()
        self.go.wait()
        return Answer(200)


def _connect(gateway: Running, name: str | None) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=gateway.place.folder / "ca.pem")
    if name is not None:
        context.load_cert_chain(gateway.place.folder / f"{name}.pem", gateway.place.folder / f"{name}.key")
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
    return context.wrap_socket(plain, server_hostname="localhost")


@contextmanager
def _asked(gateway: Running, name: str | None, count: int, length: int = 0, state: str = NORTH) -> Iterator[None]:
    """So many requests to the duty that is stuck; of a body nothing is sent."""
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(_connect(gateway, name))
            sock.sendall(f"POST /v1/{state}/stuck HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode())
        yield


@pytest.mark.parametrize("name", [None, "south"])
def test_strangers_do_not_stand_in_the_line_of_the_states_writer(tmp_path: Path, name: str | None) -> None:
    """Requests of strangers at a state's address, all of them stuck, hold none of the state's own turns or rates."""
    duty = Stuck(waits=False)
    with running_gateway(host_place(tmp_path, limits="at_work = 2"), Duties(duties=(duty,))) as gateway:
        try:
            with _asked(gateway, name, 5):
                assert duty.here.acquire(timeout=60)
                gateway.site().put_new(Key("during/flood"), b"x")
        finally:
            duty.go.set()
        requests = gateway.gateway._requests
        own, others = requests._tenants[NORTH], requests._strangers[NORTH]
        assert own.requests_left is not others.requests_left
        assert own.bytes_left is not others.bytes_left


def test_a_duty_that_waits_for_others_holds_no_turn(tmp_path: Path) -> None:
    """An erasure that waits for other machines, at each state of the host, stops neither readers nor writers."""
    duty = Stuck(waits=True)
    with running_gateway(host_place(tmp_path, limits="at_work = 2"), Duties(duties=(duty,))) as gateway:
        try:
            with _asked(gateway, None, 3), _asked(gateway, None, 3, state=SOUTH):
                for _ in range(6):
                    assert duty.here.acquire(timeout=60)
                gateway.site().put_new(Key("during/wait"), b"x")
                assert gateway.site(anonymous=True).get(Key("during/wait")) == b"x"
        finally:
            duty.go.set()


def test_few_large_bodies_are_in_memory(tmp_path: Path) -> None:
    """Bodies that are announced and never come take a bounded part of the memory; the state's own have their places."""
    duty = Stuck(waits=True)
    duty.go.set()
    with running_gateway(host_place(tmp_path), Duties(duties=(duty,))) as gateway:
        bodies = gateway.gateway._requests._strangers[NORTH].bodies
        with _asked(gateway, None, 2, 3 << 20), _asked(gateway, None, 2, 3 << 20, state=SOUTH):
            wait_until(lambda: bodies._value == 0, "four bodies are under way")
            with _connect(gateway, None) as late:
                late.sendall(f"POST /v1/{NORTH}/stuck HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n".encode())
                assert late.recv(100).startswith(b"HTTP/1.1 503 ")
            with _connect(gateway, "north") as own:
                own.sendall(f"POST /v1/{NORTH}/stuck HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n".encode())
                own.sendall(bytes(3_000_000))
                assert own.recv(100).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: bodies._value == 4, "places are free again")


def test_a_write_that_fails_makes_no_folder(tmp_path: Path) -> None:
    """Replacing what is not there leaves no folders behind, which no quota would count."""
    with running_gateway(host_place(tmp_path)) as gateway:
        site, folder = gateway.site(), tmp_path / "disk-north"
        for number in range(3):
            with pytest.raises(HeadMoved):
                site.replace_if(Key(f"a{number}/b/c/d"), b"x", "0" * 64)
            for spoilt in (None, Digest(bytes(32))):
                with pytest.raises(HeadMoved):
                    site.replace_spoilt(Key(f"b{number}/c/d"), b"x", spoilt)
    assert [one.name for one in folder.iterdir() if one.name != ".tmp"] == []


def test_asking_to_erase_costs_little_however_often(tmp_path: Path) -> None:
    """One run at a time, and a rest also after one that failed; the folder is counted again only when it ended so."""
    runs, counted = [], []

    def others() -> dict[Label, DirectorySite]:
        runs.append(1)
        with pytest.raises(Busy):
            host.run(at)
        raise SiteUnavailable("the other site does not answer")

    at = Instant(10**15)
    host = HostErasure(
        Label("lux"), DirectorySite(str(tmp_path)), DirectoryEraser(str(tmp_path)), Fingerprint(NORTH), others,
        lambda: counted.append(1),
    )  # fmt: skip
    with pytest.raises(SiteUnavailable):
        host.run(at)
    for _ in range(5):
        with pytest.raises(Busy):
            host.run(Instant(at + REST_US - 1))
    assert (len(runs), len(counted)) == (1, 1)
    with suppress(SiteUnavailable):
        host.run(Instant(at + REST_US))
    assert len(runs) == 2


def test_forged_cosignatures_take_no_true_ones_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head of the same size whose cosignatures have the right names and wrong bytes is refused; junk that is here
    binds nobody."""
    hosted = Hosted(tmp_path)
    witness = actor("witness")
    view = hosted.view.view()
    newest = view.chain.charters[-1]
    named = (CharterWitness(witness.card.name, witness.card.digest),)
    charters = (*view.chain.charters[:-1], replace(newest, charter=replace(newest.charter, witnesses=named)))
    shown = replace(view, chain=replace(view.chain, charters=charters), cards={witness.card.digest: witness.card})
    monkeypatch.setattr(hosted.view, "view", lambda **_: shown)

    bare = parse_note(hosted.site.get(hosted.head_key))
    head = hosted.view.log(hosted.view.find(hosted.state.register, hosted.state.epochs[0].note.epoch)).verify(
        bare.encode()
    )
    true = cosign(head.checkpoint, witness.card.name, witness.pair, hosted.state.time)
    good = merge_signatures(bare, true)
    forged = merge_signatures(bare, [replace(one, blob=hashlib.sha256(one.blob).digest() * 3) for one in true])
    hosted.replace(hosted.head_key, forged.encode())
    hosted.replace(hosted.head_key, bare.encode())
    hosted.replace(hosted.head_key, good.encode())
    for worse in (forged, bare):
        with pytest.raises(ConflictError):
            hosted.replace(hosted.head_key, worse.encode())
    assert hosted.site.get(hosted.head_key) == good.encode()


def test_probes_leave_no_deep_folders(tmp_path: Path) -> None:
    """What a probe may write is not deep: a folder is counted against no quota."""
    hosted = Hosted(tmp_path)
    hosted.put(Key("probe/token/name/object"), b"x")
    with pytest.raises(MalformedError):
        hosted.put(Key("probe" + "/a" * 100), b"x")


def test_tiles_of_a_mirror_are_read_as_the_state_allows(tmp_path: Path) -> None:
    """A state that lets nobody read without a certificate does not let them read by way of the mirror."""
    hosted = Hosted(tmp_path)
    view = HostedView(str(hosted.folder), hosted.site, hosted.state.state)
    place = cast(HostedState, SimpleNamespace(
        fingerprint=hosted.state.state, site=hosted.site, config=SimpleNamespace(anonymous_reads=False),
        certificates={"c" * 64},
    ))  # fmt: skip
    views = HostedViews({hosted.state.state: view}, {}, HostedLogs({hosted.state.state: (hosted.site, view)}))
    duty = MirrorDuty(cast(Mirror, None), partial(prefix_of, views), lambda: hosted.state.time)
    log = log_name(ledger_origin(hosted.state.state, hosted.state.register, hosted.state.epochs[0].note.epoch)).hex()
    path = tile_key("", Tile(0, 0, 3))
    for who, status in ((ANYBODY, 401), ("d" * 64, 401), ("c" * 64, 200)):
        assert duty.answer(place, Asked("GET", f"{log}/{path}", {}, {}, b"", who)).status == status


def test_an_answer_that_is_taken_slowly_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who takes a little all the time holds his place no longer than a piece of an answer may take."""
    monkeypatch.setattr(site_connection, "SEND_S", 0.5)
    with running_gateway(host_place(tmp_path)) as gateway:
        gateway.site().put_new(Key("large"), bytes(24 << 20))
        with _connect(gateway, None) as sock:
            sock.sendall(f"GET /v1/{NORTH}/o/large HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            taken, wait = 0, Event()
            with suppress(OSError):
                while taken < 24 << 20 and (piece := sock.recv(16384)):
                    taken += len(piece)
                    wait.wait(0.05)
        assert taken < 24 << 20

"""What the gateway does with clients who do not keep to HTTP, or to anything: answered or dropped, and never stuck."""

from __future__ import annotations

import base64
import os
import random
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from exclave.ids import Key, sha256
from exclave.serve import site_connection
from exclave.serve.site_carried import Carriers
from exclave.serve.site_message import BadRequest, parse_head
from support.fault_table import FaultTable
from support.gateway import NORTH, SOUTH, HostPlace, Running, host_place, running_carriers, running_gateway, wait_until

HOST = b"Host: h\r\n"
LAST = HOST + b"Connection: close\r\n\r\n"
MANY = b"".join(b"A%d: b\r\n" % n for n in range(99))
STATE = f"/v1/{NORTH}".encode()
FUZZ_ROUNDS = 150
HANDSHAKES = 20


@pytest.fixture(scope="module", params=[1, 2], ids=["one-process", "two-carriers"])
def processes(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture(scope="module")
def place(processes: int, tmp_path_factory: pytest.TempPathFactory) -> HostPlace:
    limits = "connections_per_address = 8\nanonymous_connections = 8\nhandshakes = 8"
    return host_place(tmp_path_factory.mktemp("host"), limits=limits, north="connections = 6\nuploads = 2")


@pytest.fixture(scope="module")
def carriers(place: HostPlace, processes: int) -> Iterator[Carriers]:
    with running_carriers(place, processes) as running:
        yield running


@pytest.fixture
def gateway(place: HostPlace, carriers: Carriers) -> Iterator[Running]:
    with running_gateway(place, carriers=carriers) as running:
        yield running


def _raw(gateway: Running, *, anonymous: bool = False) -> ssl.SSLSocket:
    folder = gateway.place.folder
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if not anonymous:
        context.load_cert_chain(folder / "north.pem", folder / "north.key")
    sock = context.wrap_socket(
        socket.create_connection(("127.0.0.1", gateway.port), timeout=60), server_hostname="localhost"
    )
    sock.settimeout(60)
    return sock


def _all(sock: ssl.SSLSocket) -> bytes:
    found = b""
    with suppress(OSError):
        while piece := sock.recv(65536):
            found += piece
    return found


def _ask(gateway: Running, data: bytes) -> bytes:
    """Everything that comes back until the server ends the connection, for a request that makes it do so."""
    with _raw(gateway) as sock:
        with suppress(OSError):
            sock.sendall(data)
        return _all(sock)


def _put(body: bytes, *more: str, key: str = "a", told: bytes | None = None, kind: str = "new") -> bytes:
    digest = base64.b64encode(sha256(body if told is None else told)).decode()
    lines = [f"PUT /v1/{NORTH}/o/{key} HTTP/1.1", "Host: h", f"Exclave-Write: {kind}", "Connection: close"]
    lines += [f"Repr-Digest: sha-256=:{digest}:", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


AT = f"/v1/{NORTH}/o/a".encode()
BAD = {
    "no http": (b"hello\r\n\r\n", 400),
    "http 1.0": (b"GET " + AT + b" HTTP/1.0\r\n" + HOST + b"\r\n", 505),
    "http 2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "two spaces": (b"GET  " + AT + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "bare line feeds": (b"GET " + AT + b" HTTP/1.1\nHost: h\n\r\n\r\n", 400),
    "no host": (b"GET " + AT + b" HTTP/1.1\r\nA: b\r\n\r\n", 400),
    "host twice": (b"GET " + AT + b" HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "folded header": (b"GET " + AT + b" HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n", 400),
    "space before colon": (b"GET " + AT + b" HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    "null in header": (b"GET " + AT + b" HTTP/1.1\r\n" + HOST + b"A: \0\r\n\r\n", 400),
    "absolute form": (b"GET http://h" + AT + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "percent": (b"GET " + AT + b"%2e HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "dots": (b"GET " + AT + b"/../../../etc/passwd HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", 400),
    "hidden name": (
        b"GET " + STATE + b"/o/.tmp/usage HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        400,
    ),
    "chunks": (b"PUT " + AT + b" HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "both lengths": (b"PUT " + AT + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "signed length": (b"PUT " + AT + b" HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\n", 400),
    "huge length": (_put(b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999"), 413),
    "long head": (b"GET " + AT + b" HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 20_000, 431),
    "many headers": (
        b"GET " + AT + b" HTTP/1.1\r\n" + HOST + MANY + b"\r\n",
        431,
    ),
    "expects more": (b"GET " + AT + b" HTTP/1.1\r\n" + HOST + b"Expect: tea\r\n\r\n", 417),
    "no length": (b"PUT " + AT + b" HTTP/1.1\r\n" + HOST + b"Exclave-Write: new\r\nConnection: close\r\n\r\n", 411),
    "no kind": (_put(b"x").replace(b"Exclave-Write: new\r\n", b""), 400),
    "delete": (b"DELETE " + AT + b" HTTP/1.1\r\n" + LAST, 405),
    "other digest": (_put(b"x", told=b"y"), 422),
    "no digest": (_put(b"x").replace(b"Repr-Digest: sha-256", b"Repr-Digest: md5"), 400),
    "long head object": (_put(b"x" * 65_537, "Exclave-Expected: none", kind="replace"), 413),
    "odd offset": (_put(b"x", "Upload-Offset: 17"), 400),
    "offset of nothing": (_put(b"x", f"Upload-Offset: {8 << 20}"), 412),
    "another state": (_put(b"x").replace(NORTH.encode(), SOUTH.encode()), 403),
    "unknown state": (_put(b"x").replace(NORTH.encode(), b"c3" * 32), 404),
    "no path": (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", 404),
    "bad range": (b"GET " + AT + b" HTTP/1.1\r\n" + HOST + b"Range: bytes=-5\r\nConnection: close\r\n\r\n", 400),
    "long page": (
        b"GET " + STATE + b"/list?most=5000 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        400,
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_requests_are_refused(gateway: Running, what: str, fault_table: FaultTable) -> None:
    """Each gets the status of its mistake, the connection ends, and nothing is stored."""
    data, status = BAD[what]
    found = _ask(gateway, data)
    assert found.startswith(b"HTTP/1.1 %d " % status), found[:200]
    assert b"Exclave-Code: " in found
    assert gateway.site().stat(Key("a")) is None
    fault_table.suite("gateway", "fuzzed protocol", 1)


def test_requests_in_one_packet_are_answered_in_order(gateway: Running) -> None:
    """Pipelined requests get their answers one after the other, and a body is never taken for a request."""
    inner = b"GET " + AT + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    first = _put(inner, key="smuggled").replace(b"Connection: close\r\n", b"")
    last = b"HEAD " + STATE + b"/o/smuggled HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    found = _ask(gateway, first + last)
    assert [line for line in found.split(b"\r\n") if line.startswith(b"HTTP/1.1")] == [
        b"HTTP/1.1 201 Created", b"HTTP/1.1 200 OK"
    ]  # fmt: skip
    assert b"Content-Length: %d" % len(inner) in found


def test_slow_clients_end(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head, a body and a handshake that do not come are given up; the upload's place is free again."""
    for name in ("HEAD_S", "BODY_S", "HANDSHAKE_S"):
        monkeypatch.setattr(site_connection, name, 0.3)
    with _raw(gateway) as sock:
        sock.sendall(b"GET /")
        assert _all(sock).startswith(b"HTTP/1.1 408 ")
    with _raw(gateway) as sock:
        sock.sendall(_put(b"x" * 100)[:-50])
        assert _all(sock) == b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as plain:
        assert plain.recv(100) == b""
    gateway.site().put_new(Key("after/slow"), b"x")


def test_own_places_stay_free_while_anybody_floods(gateway: Running) -> None:
    """Connections without certificate fill their own places and no others; in their class an idle one makes room."""
    held = [_raw(gateway, anonymous=True) for _ in range(8)]
    for sock in held:
        sock.sendall(b"GET " + AT + b" HTTP/1.1\r\n")
    wait_until(lambda: _busy(gateway) == 8, "all are in, and none of them is idle")
    with _raw(gateway, anonymous=True) as late:
        late.sendall(b"GET " + AT + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert _all(late).startswith(b"HTTP/1.1 503 ")
    gateway.site().put_new(Key("during/flood"), b"x")
    assert gateway.site("south").stat(Key("during/flood")) is None
    for sock in held:
        sock.close()


def _busy(gateway: Running) -> int:
    return sum(not connection.idle_since for connection in gateway.gateway._open)


def test_handshakes_that_never_end_make_room(gateway: Running) -> None:
    """Sockets that say nothing cost their own places: the oldest goes, and a good client gets in."""
    held = [socket.create_connection(("127.0.0.1", gateway.port), timeout=60) for _ in range(30)]
    gateway.site().put_new(Key("during/handshakes"), b"x")
    assert gateway.counts.now().refused_connections.get("handshake", 0) >= 1
    for sock in held:
        sock.close()


def test_one_states_uploads_do_not_take_anothers(gateway: Running) -> None:
    """A state with all its uploads stuck is told to come again; its neighbour writes."""
    stuck = []
    for number in range(2):
        sock = _raw(gateway)
        sock.sendall(_put(b"x" * 100, key=f"stuck/{number}")[:-50])
        stuck.append(sock)
    north = gateway.site()
    uploads = gateway.gateway._requests._tenants[NORTH].uploads
    wait_until(lambda: uploads._value == 0, "both are under way")
    assert north._send(Key("x/y"), memoryview(b""), _empty()).status == 429
    gateway.site("south").put_new(Key("free"), b"x")
    for sock in stuck:
        sock.close()
    wait_until(lambda: north._send(Key("x/y"), memoryview(b""), _empty()).status != 429, "places are free again")


def _empty() -> dict[str, str]:
    return {"Exclave-Write": "same", "Repr-Digest": f"sha-256=:{base64.b64encode(sha256(b'')).decode()}:"}


def test_random_bytes(gateway: Running, fault_table: FaultTable) -> None:
    """Requests with parts cut, doubled, swapped and flipped: each connection ends, and the gateway goes on."""
    chance = random.Random(7)
    seeds = [data for data, _ in BAD.values() if len(data) < 2000] + [_put(b"body")]
    for number in range(FUZZ_ROUNDS):
        data = _mangled(chance, chance.choice(seeds))
        with _raw(gateway, anonymous=bool(number % 2)) as sock:
            with suppress(OSError):
                sock.sendall(data)
                sock.unwrap() if number % 3 == 0 else socket.socket.shutdown(sock, socket.SHUT_WR)
            found = _all(sock)
        assert not found or found.startswith(b"HTTP/1.1 "), found[:100]
        assert not found.startswith(b"HTTP/1.1 5") or found[9:12] in (b"503", b"505"), (data, found[:200])
    gateway.site().put_new(Key("after/fuzz"), b"x")
    assert gateway.site().get(Key("after/fuzz")) == b"x"
    fault_table.suite("gateway", "fuzzed protocol", FUZZ_ROUNDS)


def _mangled(chance: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(chance.randrange(4)):
        at, end = sorted(chance.randrange(len(found) + 1) for _ in range(2))
        match chance.randrange(5):
            case 0:
                del found[at:end]
            case 1:
                found[at:at] = found[at:end]
            case 2:
                found[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3 if at < len(found):
                found[at] ^= 1 << chance.randrange(8)
            case 4:
                found[at:at] = chance.choice((b"\r\n", b"\r\n\r\n", b" ", b":", b"\0", b"?", b"..", b"//"))
        found = found or bytearray(b"x")
    return bytes(found)


def test_random_handshakes(gateway: Running, fault_table: FaultTable) -> None:
    """Bytes that are no TLS end the connection at once."""
    chance = random.Random(11)
    for _ in range(HANDSHAKES):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock, suppress(OSError):
            sock.sendall(b"\x16\x03\x01" + chance.randbytes(chance.randrange(1, 600)))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    gateway.site().put_new(Key("after/tls"), b"x")
    fault_table.suite("gateway", "fuzzed protocol", HANDSHAKES)


def test_heads_parse_or_are_refused() -> None:
    """The parser of heads raises one error and nothing else, whatever the bytes are."""
    chance = random.Random(13)
    seeds = [data.split(b"\r\n\r\n")[0] for data, _ in BAD.values()]
    for _ in range(20_000):
        with suppress(BadRequest):
            parse_head(_mangled(chance, chance.choice(seeds)[:400] or b"x"))


def test_many_pieces_of_a_head(gateway: Running) -> None:
    """A head that comes byte by byte is the same head."""
    site, data = gateway.site(), os.urandom(10)
    site.put_new(Key("bytewise"), data)
    with _raw(gateway) as sock:
        for byte in b"GET " + STATE + b"/o/bytewise HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert _all(sock).endswith(b"\r\n\r\n" + data)


def test_folder_is_left_without_strays(gateway: Running, tmp_path: Path) -> None:
    """After all that, nothing but a record and locks is in the temporary folder."""
    with _raw(gateway) as sock:
        sock.sendall(_put(b"x" * 1000, key="stray")[:-500])
    temps = gateway.place.folder / "disk-north" / ".tmp"
    allowed = ("lock-", "usage")
    wait_until(
        lambda: all(f.name.startswith(allowed) for f in temps.iterdir()), f"nothing else is in {list(temps.iterdir())}"
    )

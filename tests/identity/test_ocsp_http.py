"""The HTTP edge of certificate status, over real sockets: requests good and bad, floods, slow clients."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import quote

import pytest
from cryptography.x509 import ocsp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from exclave.identity.contract import IdentityState
from exclave.identity.responder import Reply
from exclave.identity.status_log import Reason, Revoked
from exclave.ids import Instant
from exclave.serve.ocsp import LIMITS, request_in_path
from support.ocsp_place import make_place, request_for
from support.ocsp_serving import Served, received, serving

TYPE = {"Content-Type": "application/ocsp-request"}


@pytest.fixture(scope="module")
def site() -> Iterator[Served]:
    with serving() as served:
        yield served


def asked(site: Served, nonce: bytes | None = None) -> bytes:
    return request_for(site.place.good, site.place.pki.first, nonce=nonce)


def post(body: bytes, *, head: bytes = b"") -> bytes:
    return (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/ocsp-request\r\n" + head
        + b"Content-Length: %d\r\n\r\n" % len(body) + body
    )  # fmt: skip


def good(data: bytes) -> bool:
    return ocsp.load_der_ocsp_response(data).certificate_status is ocsp.OCSPCertStatus.GOOD


@pytest.mark.parametrize("path", ["/", "/esteid-2018", "/esteid-2018/", "/ocsp/v1"])
def test_post(site: Served, path: str) -> None:
    """At the root or behind a prefix."""
    status, headers, data = site.ask("POST", path, asked(site, b"n"), TYPE)
    assert (status, headers["content-type"]) == (200, "application/ocsp-response")
    assert headers["cache-control"] == "max-age=0, must-revalidate"
    assert int(headers["content-length"]) == len(data)
    assert "server" not in headers
    assert good(data)


@pytest.mark.parametrize("prefix", ["/", "/esteid-2018/", "/ocsp/", "/Ma/Mb/", "//", "/a/"])
@pytest.mark.parametrize("encode", [quote, lambda text: quote(text, safe=""), lambda text: text])
def test_get(site: Served, prefix: str, encode: Callable[[str], str]) -> None:
    """Base64 in the path, percent-encoded or not, behind any prefix."""
    text = base64.b64encode(asked(site)).decode()
    status, headers, data = site.ask("GET", prefix + encode(text))
    assert status == 200
    assert good(data)
    assert headers["content-type"] == "application/ocsp-response"


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=60, max_size=300), st.sampled_from(["/", "/ocsp/", "/M/", "/MM/MM/"]), st.booleans())
def test_a_request_in_a_path_is_found_whatever_its_base64(content: bytes, prefix: str, encoded: bool) -> None:
    """Slashes within base64 are not taken for the path's."""
    from exclave.crypto.der import tlv

    der = tlv(0x30, content)
    text = base64.b64encode(der).decode()
    assert request_in_path((prefix + (quote(text, safe="") if encoded else text)).encode()) == der


def test_caching_headers_of_a_get(site: Served) -> None:
    """RFC 9919, section 7.2: they end with the answer's freshness, and a client that has it gets 304."""
    path = "/" + quote(base64.b64encode(asked(site)).decode(), safe="")
    status, headers, data = site.ask("GET", path)
    assert status == 200
    assert headers["cache-control"] == "max-age=60, public, no-transform, must-revalidate"
    assert {"etag", "last-modified", "expires", "date"} <= headers.keys()
    for told in (headers["etag"], f'"x", W/{headers["etag"]}', "*"):
        status, again, nothing = site.ask("GET", path, headers={"If-None-Match": told})
        assert (status, nothing, again["etag"]) == (304, b"", headers["etag"])
    assert site.ask("GET", path, headers={"If-None-Match": '"other"'})[2] == data
    status, headed, nothing = site.ask("HEAD", path)
    assert (status, nothing, headed["content-length"]) == (200, b"", str(len(data)))


def test_answers_with_a_nonce_are_not_for_caches(site: Served) -> None:
    """A GET may carry one; nobody else gets that answer."""
    _, headers, data = site.ask("GET", "/" + quote(base64.b64encode(asked(site, b"n" * 9)).decode(), safe=""))
    assert headers["cache-control"] == "max-age=0, must-revalidate"
    assert good(data)


def test_a_list_is_served_with_caching(site: Served) -> None:
    """At /crl/<issuer>.crl; another name is 404."""
    status, headers, data = site.ask("GET", "/crl/esteid-2018.crl")
    assert (status, headers["content-type"]) == (200, "application/pkix-crl")
    assert headers["cache-control"].startswith("max-age=300, public")
    published = site.crls.latest("esteid-2018")  # type: ignore[arg-type]
    assert published is not None
    assert data == published.data
    assert site.ask("GET", "/crl/esteid-2018.crl", headers={"If-None-Match": headers["etag"]})[0] == 304
    assert site.ask("GET", "/crl/esteid-2025.crl")[0] == 404
    assert site.ask("GET", "/crl/../../etc/passwd.crl")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/", {}, None, 404),
        ("GET", "/favicon.ico", {}, None, 404),
        ("GET", "/MFEwTzBNMEswSTAJBgUrDg", {}, None, 400),
        ("GET", "/esteid-2018/M!!!", {}, None, 400),
        ("GET", "/" + base64.b64encode(b"\x30\x82\x04\xfc" + b"a" * 1276).decode(), {}, None, 400),
        ("GET", "/" + "M" * 3000, {}, None, 414),
        ("POST", "/a/b/c", TYPE, b"x", 404),
        ("POST", "/?q", TYPE, b"x", 404),
        ("POST", "/", {}, b"x", 415),
        ("POST", "/", {"Content-Type": "text/plain"}, b"x", 415),
        ("POST", "/", TYPE, b"x" * 8193, 413),
        ("PUT", "/", TYPE, b"x", 405),
        ("DELETE", "/", {}, None, 405),
        ("OPTIONS", "/", {}, None, 405),
        ("GET", "/health", {"X-Long": "x" * 9000}, None, 431),
    ],
)
def test_http_that_is_refused(
    site: Served, method: str, path: str, headers: dict[str, str], body: bytes | None, status: int
) -> None:
    """Each with its own status."""
    found, told, _ = site.ask(method, path, body, headers)
    assert found == status
    assert told["cache-control"] == "no-store"
    if status == 405:
        assert told["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("body", [b"", b"\x30", b"\x30\x80\0\0", b"x" * 8192, b"\x30\x03\x0a\x01\x00"])
def test_ocsp_that_is_malformed(site: Served, body: bytes) -> None:
    """Whole HTTP with foreign content: the protocol's own answer."""
    status, _, data = site.ask("POST", "/", body, {**TYPE, "Content-Length": str(len(body))})
    assert (status, data) == (200, bytes.fromhex("30030a0101"))


@pytest.mark.parametrize("size", [0, 129])
def test_nonces_beyond_the_limits(site: Served, size: int) -> None:
    """RFC 9654: 0 and 129 bytes are malformed."""
    from support.ocsp_requests import CERT_ID, nonce_of, written

    data = site.ask("POST", "/", written(CERT_ID, extensions=(nonce_of(size),)), TYPE)[2]
    assert data == bytes.fromhex("30030a0101")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", b"4"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2100\r\n" + b"x" * 0x2100, b"413"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"400",
        ),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 60_000, b"431"),
        (b"GET /" + b"x" * 60_000, b"414"),
    ],
)
def test_bytes_that_are_refused_and_end_the_connection(site: Served, sent: bytes, status: bytes) -> None:
    """Foreign protocols, smuggling, endless headers: an HTTP status, the end, and the next client is served."""
    answer = site.raw(sent)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in answer
    assert site.alive()


def test_keep_alive_pipelining_and_chunks(site: Served) -> None:
    """Many requests in one piece, one in many pieces, and one in chunks: all answered in order on one connection."""
    body = asked(site, b"n")
    chunked = (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/ocsp-request\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    )  # fmt: skip
    health = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    with site.connect() as sock:
        sock.settimeout(1)
        sock.sendall((post(body) + health) * 50 + chunked)
        for at in range(0, len(post(body)), 9):
            sock.sendall(post(body)[at : at + 9])
            time.sleep(0.001)
        answers = received(sock).split(b"HTTP/1.1 ")[1:]
    assert len(answers) == 102
    assert {answer[:30] for answer in answers if not answer.startswith(b"200 OK")} == set()
    assert [answer.endswith(b"ok\n") for answer in answers] == [False, True] * 50 + [False, False]


def test_an_offer_of_another_protocol_is_declined(site: Served) -> None:
    """As Java's clients make with each first request: answered as HTTP/1.1, in one piece, in many, and the next too."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    offered, plain = post(asked(site, b"n"), head=offer), post(asked(site, b"n"))
    health = b"GET /health HTTP/1.1\r\nHost: a\r\n" + offer + b"\r\n"
    with site.connect() as sock:
        sock.settimeout(1)
        sock.sendall((offered + plain + health) * 30)
        for at in range(0, len(offered), 30):
            sock.sendall(offered[at : at + 30])
            time.sleep(0.001)
        answers = received(sock).split(b"HTTP/1.1 ")[1:]
    assert [len(answer.partition(b"\r\n\r\n")[2]) > 100 for answer in answers] == [True, True, False] * 30 + [True]
    assert {answer[:6] for answer in answers} == {b"200 OK"}
    too_long = offered.replace(b"Content-Length: ", b"Content-Length: 9999")
    assert site.raw(too_long).startswith(b"HTTP/1.1 413")


def test_http_1_0(site: Served) -> None:
    """It ends the connection, unless the client asks to keep it."""
    old = post(asked(site)).replace(b"HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.0\r\n", 1)
    begin = time.monotonic()
    assert b"Connection: close" in site.raw(old)
    assert time.monotonic() - begin < 0.9
    kept = old.replace(b"HTTP/1.0\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n", 1)
    assert site.raw(kept + kept).count(b"Connection: keep-alive") == 2


def test_other_ways_to_ask(site: Served) -> None:
    """Through a proxy (absolute form), waiting for 100 Continue, and half-closed after the request."""
    assert site.raw(post(asked(site)).replace(b"POST / ", b"POST http://aia.example/ca ")).startswith(b"HTTP/1.1 200")
    waited = site.raw(post(asked(site), head=b"Expect: 100-continue\r\n"))
    assert waited.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    with site.connect() as sock:
        sock.sendall(post(asked(site)))
        sock.shutdown(socket.SHUT_WR)
        assert received(sock).startswith(b"HTTP/1.1 200")


def test_health_and_counters(site: Served) -> None:
    """A load balancer is told, and each answer and refusal is counted."""
    site.healthy = False
    assert site.ask("GET", "/health")[0] == 503
    site.healthy = True
    assert site.alive()
    site.ask("POST", "/", asked(site), TYPE)
    site.ask("POST", "/", b"x", {})
    told = generate_latest(site.metrics.registry).decode()
    assert 'exclave_ocsp_answers_total{outcome="good"}' in told
    assert 'exclave_ocsp_refused_total{status="415"}' in told
    assert "exclave_ocsp_answer_seconds_count" in told


@pytest.mark.parametrize(("why", "status"), [("returning", 503), ("no delegate", 500), ("stale", 503)])
def test_clients_with_a_second_responder_turn_to_it(why: str, status: int) -> None:
    """They do so when the HTTP status is not 200; the body is the protocol's error."""
    place = make_place()
    with serving(place) as site:
        match why:
            case "returning":
                place.become(IdentityState.RETURNING)
            case "stale":
                place.become(IdentityState.STANDBY, as_of=Instant(place.now - 86_400_000_000))
            case _:
                place.delegates.ocsp_keys.clear()
        found, headers, data = site.ask("POST", "/", asked(site, b"n"), TYPE)
        assert found == status
        assert ("retry-after" in headers) is (status == 503)
        assert headers["cache-control"] == "no-store"
        assert len(data) == 5


def test_a_revocation_is_told_at_once_by_get(site: Served) -> None:
    """The cached answer of a path gives way."""
    place = make_place()
    with serving(place) as served:
        path = "/" + quote(base64.b64encode(asked(served)).decode(), safe="")
        assert good(served.ask("GET", path)[2])
        place.store.stop(place.first, place.good.serial, Revoked(place.now, Reason.KEY_COMPROMISE))
        assert not good(served.ask("GET", path)[2])


def test_answers_from_threads() -> None:
    """Where signing waits for a token, clients do not wait for each other, and pipelined answers keep their order."""
    place = make_place()
    responder = place.responder()

    class Slow:
        def answer(self, request: bytes) -> Reply:
            time.sleep(0.1)
            return responder.answer(request)

    with serving(place, threads=20, answer=Slow()) as site:
        begin = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            found = list(pool.map(lambda _: site.ask("POST", "/", asked(site, b"n"), TYPE)[0], range(40)))
        assert found == [200] * 40
        assert time.monotonic() - begin < 2
        answers = site.raw(post(asked(site)) + post(b"x") + b"GET /health HTTP/1.0\r\n\r\n").split(b"HTTP/1.1 ")[1:]
        assert [len(answer.partition(b"\r\n\r\n")[2]) > 5 for answer in answers] == [True, False, False]
        assert b"Connection: close" in answers[-1]
        with site.connect() as sock:  # one that leaves while its answer is made
            sock.sendall(post(asked(site)))
        with site.connect() as sock:
            sock.sendall(post(asked(site)))
            sock.shutdown(socket.SHUT_WR)
            assert received(sock).startswith(b"HTTP/1.1 200")
        assert site.alive()


# Clients that mean harm

QUICK = replace(LIMITS, request_s=0.5, idle_s=1.0, write_s=0.5, connections=20)


def test_slow_clients_are_ended() -> None:
    """A request must be whole in time, however it drips; an idle connection ends; both without anybody waiting."""
    with serving(limits=QUICK) as site:
        drips, idle, half = site.connect(), site.connect(), site.connect()
        half.sendall(post(b"x" * 100)[:-50])
        begin = time.monotonic()
        try:
            while time.monotonic() - begin < 4:
                drips.sendall(b"P")
                time.sleep(0.05)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert time.monotonic() - begin < 4
        for sock in (half, idle):
            sock.settimeout(4)
            told = received(sock)
            assert told == b"" or told.startswith(b"HTTP/1.1 408")
            sock.close()
        drips.close()
        assert site.alive()


def test_a_client_that_does_not_read_is_ended() -> None:
    """Pipelined requests whose answers nobody takes stop being read, then the connection goes."""
    with serving(limits=QUICK) as site:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", site.port))
        sock.settimeout(3)
        piece, sent = post(asked(site)) * 100, 0
        try:
            while sent < 32 << 20:
                sock.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass
        assert sent < 32 << 20
        sock.close()
        assert site.alive()


@pytest.mark.parametrize("ending", [b"", b"Connection: close\r\n"])
def test_a_long_list_reaches_a_client_that_takes_it_slowly(ending: bytes) -> None:
    """It may take longer than one limit of time as long as it takes enough within each; who stops taking is ended."""

    class Long:
        data, tag, this_update, next_update = b"x" * 8_000_000, "tag", Instant(0), Instant(2**60)

        def latest(self, label: str) -> Long:
            return self

    limits = replace(LIMITS, idle_s=0.5, write_s=1.2, write_bytes=100_000)
    with serving(limits=limits, crls=Long()) as site:
        asked_for = b"GET /crl/a.crl HTTP/1.1\r\nHost: a\r\n" + ending + b"\r\n"
        with site.connect() as sock:
            sock.sendall(asked_for)
            found, begin = 0, time.monotonic()
            while found < 8_000_000 and (piece := sock.recv(200_000)):
                found += len(piece)
                time.sleep(0.06)
        assert found > 8_000_000
        assert time.monotonic() - begin > 2
        with site.connect() as sock:
            sock.sendall(asked_for * 500)
            deadline = time.monotonic() + 8
            while site.running.edge.open and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not site.running.edge.open
        assert site.alive()


def test_a_flood_of_connections_does_not_shut_others_out() -> None:
    """Beyond the limit idle ones make room; if none is idle, the new one is told so at once."""
    with serving(limits=replace(QUICK, request_s=1.5)) as site:
        idle = []
        for _ in range(60):
            idle.append(site.connect())
        assert site.alive()
        busy = [site.connect() for _ in range(20)]
        for sock in busy:
            sock.sendall(b"POST / HT")
        time.sleep(0.2)
        assert site.raw(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 503")
        time.sleep(2.5)
        assert site.alive()
        for sock in (*idle, *busy):
            sock.close()


def test_a_flood_of_garbage_leaves_it_alive(site: Served) -> None:
    """A thousand connections of noise, a few at a time; then it still answers."""
    import random

    noise = random.Random(7)

    def one(_: int) -> None:
        with site.connect() as sock:
            sock.settimeout(0.01)
            try:
                sock.sendall(noise.randbytes(noise.randint(1, 5000)))
            except (BrokenPipeError, ConnectionResetError):
                return
            received(sock)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(1000)))
    assert good(site.ask("POST", "/", asked(site, b"n"), TYPE)[2])


HTTP_PARTS = [
    b"POST ", b"GET ", b"/", b" HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n", b"\r\n\r\n", b":", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"Connection: close\r\n", b"\0", b"MA==",
]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(HTTP_PARTS), max_size=14))
def test_any_order_of_http_parts_is_survived(site: Served, parts: list[bytes]) -> None:
    """Whatever comes: an HTTP answer or silence, and the next client is served."""
    with site.connect() as sock:
        sock.settimeout(0.02)
        try:
            sock.sendall(b"".join(parts))
        except (BrokenPipeError, ConnectionResetError):
            return
        answer = received(sock)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert site.alive()


def test_stopping_lets_answers_end() -> None:
    """An answer that is being made is given; idle connections end; no new ones are taken."""
    place = make_place()
    responder = place.responder()

    class Slow:
        def answer(self, request: bytes) -> Reply:
            time.sleep(0.4)
            return responder.answer(request)

    served = Served(place, threads=2, answer=Slow())
    served.start()
    idle, busy = served.connect(), served.connect()
    busy.sendall(post(asked(served)))
    time.sleep(0.1)
    stopping = threading.Thread(target=served.stop)
    stopping.start()
    told = received(busy)
    assert told.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in told
    assert received(idle) == b""
    stopping.join()
    with pytest.raises(ConnectionRefusedError):
        served.connect()

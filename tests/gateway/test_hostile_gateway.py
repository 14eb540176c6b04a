"""The gateway's client against servers that lie, stall, flood and break off: named errors, bounded waits."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from exclave.errors import (
    AlreadyExists,
    ConfigError,
    CorruptObject,
    ExclaveError,
    HeadMoved,
    KeyFileExposed,
    MissingObject,
    OutcomeUnknown,
    SiteFull,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.ids import Key, sha256
from exclave.sites.gateway import GatewaySite
from exclave.sites.open_gateway import read_gateway
from exclave.sites.opening import open_site
from exclave.sites.patience import Patience
from support.fault_table import FaultTable
from support.gateway import NORTH, client_certificate
from support.loopback_tls import loopback_tls

K = Key("a/b")
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    loopback_tls(made)
    client_certificate(made, "north")
    return made


@contextmanager
def server(folder: Path, act: Callable[[ssl.SSLSocket], None]) -> Iterator[int]:
    """Serves each connection by ``act`` after its first bytes came; the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    ended, taken = threading.Event(), list[ssl.SSLSocket]()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    plain, _ = listener.accept()
                    plain.settimeout(30)
                    with context.wrap_socket(plain, server_side=True) as sock:
                        taken.append(sock)
                        sock.recv(65536)
                        act(sock)
                        socket.socket.shutdown(sock, socket.SHUT_WR)
                        while sock.recv(65536):  # a reset would take the answer away again
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            ended.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for sock in taken:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
            thread.join(60)


def says(data: bytes) -> Callable[[ssl.SSLSocket], None]:
    return lambda sock: sock.sendall(data)


def floods(head: bytes, piece: bytes) -> Callable[[ssl.SSLSocket], None]:
    """Sends without end, until the client goes."""

    def act(sock: ssl.SSLSocket) -> None:
        with suppress(OSError):
            sock.sendall(head)
            while True:
                sock.sendall(piece)

    return act


def stalls(data: bytes) -> Callable[[ssl.SSLSocket], None]:
    def act(sock: ssl.SSLSocket) -> None:
        with suppress(OSError):
            sock.sendall(data)
            while sock.recv(65536):
                pass

    return act


def site(folder: Path, port: int, *, timeout_s: float = 20) -> GatewaySite:
    names = {"authorities": "ca.pem", "certificate": "north.pem", "key": "north.key"}
    query = urlencode({name: str(folder / file) for name, file in names.items()}, safe="/")
    patience = Patience(small_timeout_s=timeout_s, large_timeout_s=timeout_s)
    return read_gateway(urlsplit(f"https://127.0.0.1:{port}/{NORTH}?{query}"), patience)


def _answer(status: int, code: str = "", body: bytes = b"") -> bytes:
    told = f"Exclave-Code: {code}\r\n" if code else ""
    return f"HTTP/1.1 {status} X\r\n{told}Content-Length: {len(body)}\r\n\r\n".encode() + body


LIES = {
    "shorter than told": (says(OK + b"Content-Length: 10\r\n\r\nshort"), SiteUnavailable),
    "longer than can be": (says(OK + b"Content-Length: 99999999999\r\n\r\n"), CorruptObject),
    "no length": (says(OK + b"\r\nbody"), SiteUnavailable),
    "two lengths": (says(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), SiteUnavailable),
    "chunks": (says(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"), SiteUnavailable),
    "no http": (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), SiteUnavailable),
    "nothing": (says(b""), SiteUnavailable),
    "half a head": (says(OK + b"Content-Le"), SiteUnavailable),
    "endless head": (floods(OK, b"A: b\r\n" * 1000), SiteUnavailable),
    "endless interim answers": (floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), SiteUnavailable),
    "redirect": (
        says(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"),
        SiteUnavailable,
    ),
    "control characters": (says(OK + b"A: \x1b[2J\r\nContent-Length: 0\r\n\r\n"), SiteUnavailable),
    "404 of another server": (says(_answer(404)), SiteUnavailable),
    "404 of a gateway": (says(_answer(404, "missing-object")), MissingObject),
    "unknown state": (says(_answer(404, "unknown-state")), SiteUnavailable),
    "long refusal": (floods(b"HTTP/1.1 500 X\r\nContent-Length: 9999999\r\n\r\n", b"x" * 1000), SiteUnavailable),
    "silence": (stalls(b""), SiteUnavailable),
    "drops": (stalls(OK + b"Content-Length: 100\r\n\r\nx"), SiteUnavailable),
}


@pytest.mark.parametrize("what", LIES)
def test_reading_from_a_liar(folder: Path, what: str, fault_table: FaultTable) -> None:
    """Each lie ends in its error, soon, whatever is read."""
    act, error = LIES[what]
    with server(folder, act) as port:
        reader = site(folder, port, timeout_s=1 if what in ("silence", "drops") else 20)
        with pytest.raises(error) as caught:
            reader.get(K)
        assert caught.value.message.isprintable()
        with pytest.raises(ExclaveError):
            reader.digest(K)
        if error is not MissingObject:
            with pytest.raises(ExclaveError):
                list(reader.list("a/"))
    fault_table.suite("gateway", "hostile protocol", 1)


def test_lost_answers_to_writes(folder: Path) -> None:
    """A write whose answer is lost may have happened; where that makes no difference it may be repeated."""
    with server(folder, says(b"")) as port:
        writer = site(folder, port)
        for call in (lambda: writer.put_new(K, b"x"), lambda: writer.replace_if(K, b"x", None)):
            with pytest.raises(OutcomeUnknown):
                call()
        for call in (lambda: writer.put_same(K, b"x"), lambda: writer.replace_spoilt(K, b"x", None)):
            with pytest.raises(SiteUnavailable):
                call()


ANSWERS = [
    (507, "site-full", SiteFull),
    (403, "site-read-only", SiteReadOnly),
    (401, "no-certificate", SiteReadOnly),
    (409, "already-exists", AlreadyExists),
    (500, "outcome-unknown", OutcomeUnknown),
    (503, "unavailable", SiteUnavailable),
    (204, "", SiteUnavailable),
    (302, "", SiteUnavailable),
]


@pytest.mark.parametrize(("status", "code", "error"), ANSWERS)
def test_answers_to_writes(
    folder: Path, status: int, code: str, error: type[ExclaveError], fault_table: FaultTable
) -> None:
    """Each refusal is the error of the contract, and a good answer is only the one that was agreed on."""
    body = b'{"code": "x", "message": "why \\u001b[2J"}' if code else b""
    with server(folder, says(_answer(status, code, body))) as port, pytest.raises(error) as caught:
        site(folder, port).put_new(K, b"x")
    assert caught.value.message.isprintable()
    fault_table.suite("gateway", "hostile protocol", 1)


def test_lists_that_lie(folder: Path) -> None:
    """Names out of order, outside the prefix, illegal, or without end are refused; a list always ends."""
    lies = [
        b"1 a/b\n1 a/a\nend\n", b"1 a/b\n1 a/b\nend\n",
        b"1 z/b\nend\n", b"1 a/../b\nend\n", b"x a/b\nend\n", b"1 a/b\n",
        b"", b"more\n", b"1 a/b\nend", b"-1 a/b\nend\n", b"1 a/b\nend\nmore\nx", b"\xff\nend\n",
    ]  # fmt: skip
    for lie in lies:
        with server(folder, says(_answer(200, "", lie))) as port, pytest.raises(SiteUnavailable):
            list(site(folder, port).list("a/"))
    with server(folder, says(_answer(200, "", b"1 a/b\nmore\n"))) as port, pytest.raises(SiteUnavailable):
        list(site(folder, port).list("a/"))  # one name a page would be a listing of many years
    full = "".join(f"1 a/{number:04}\n" for number in range(1000)).encode() + b"more\n"
    with server(folder, says(_answer(200, "", full))) as port, pytest.raises(SiteUnavailable):
        list(site(folder, port).list("a/"))  # the second page is the first once more
    over = full.replace(b"more", b"1 a/1000\nend")
    with server(folder, says(_answer(200, "", over))) as port, pytest.raises(SiteUnavailable):
        list(site(folder, port).list("a/"))


def test_ranges_that_lie(folder: Path) -> None:
    """A whole object instead of a range, or another length, is not taken."""
    for lie in (_answer(200, "", b"abc"), _answer(206, "", b"ab"), _answer(206, "", b"abcd")):
        with server(folder, says(lie)) as port, pytest.raises(CorruptObject):
            site(folder, port).get_range(K, 0, 3)


def test_offsets_that_lie(folder: Path) -> None:
    """An upload does not go on from an offset that cannot be."""
    data = b"x" * (4 << 20)
    for lie in ("99999999999", "-1", "x", str(5 << 20)):
        with server(
            folder, says(f"HTTP/1.1 204 X\r\nContent-Length: 0\r\nUpload-Offset: {lie}\r\n\r\n".encode())
        ) as port:
            writer = site(folder, port)
            writer._broken[sha256(data)] = None
            with pytest.raises((SiteUnavailable, OutcomeUnknown)):
                writer.put_new(K, data)


def test_head_that_moved(folder: Path) -> None:
    """412 is a head that moved, and nothing else."""
    with server(folder, says(_answer(412, "head-moved"))) as port:
        with pytest.raises(HeadMoved):
            site(folder, port).replace_if(K, b"x", "0" * 64)
        with pytest.raises(SiteUnavailable):
            site(folder, port).put_same(K, b"x")


def test_another_hosts_certificate(folder: Path, tmp_path: Path) -> None:
    """A host whose certificate is not vouched for gets no request."""
    loopback_tls(tmp_path)
    seen: list[bytes] = []
    with server(tmp_path, lambda sock: seen.append(sock.recv(10))) as port, pytest.raises(SiteUnavailable):
        site(folder, port).get(K)
    assert seen == []


def test_nobody_listens(folder: Path) -> None:
    """A refused connection is told as silence, which the retries go by."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    with pytest.raises(SiteUnavailable) as caught:
        site(folder, port).stat(K)
    assert caught.value.facts["silent"]


@pytest.mark.parametrize(
    "address",
    [
        "https://h/", "https://h/abc", f"https:///{NORTH}", f"https://u@h/{NORTH}", f"https://h:99999/{NORTH}", f"https://h/{NORTH}#x",
        f"https://h/{NORTH}?key=/k", f"https://h/{NORTH}?certificate=/c", f"https://h/{NORTH}?other=1", f"https://h/{NORTH}/x",
        f"https://h/{NORTH}?authorities=relative.pem", f"https://h/{NORTH}?authorities=/nowhere.pem", f"https://h/{NORTH}?authorities=/etc/hostname",
    ],
)  # fmt: skip
def test_addresses_that_cannot_be(address: str) -> None:
    """Each is refused before anything is contacted."""
    with pytest.raises(ConfigError):
        open_site(address)


def test_key_that_others_can_read(folder: Path, tmp_path: Path) -> None:
    """The writer's key is private."""
    client_certificate(tmp_path, "north")
    (tmp_path / "north.key").chmod(0o644)
    with pytest.raises(KeyFileExposed):
        open_site(f"https://h/{NORTH}?certificate={tmp_path}/north.pem&key={tmp_path}/north.key")

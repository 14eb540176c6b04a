"""A real witness over HTTP on the loopback interface, and a log that asks it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import uvicorn

import exclave
from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Fenced,
    Forked,
    MissingObject,
    NotAuthorised,
    RolledBack,
    SiteUnavailable,
)
from exclave.formats.card import Card
from exclave.formats.witness import MAX_ANSWER_BYTES, SIZE_TYPE, encode_signatures
from exclave.ids import Instant
from exclave.ledger.publish import publish
from exclave.ledger.witness import Witness
from exclave.ledger.witness_client import WitnessClient
from exclave.ledger.witness_store import WitnessStore
from exclave.rules.checkpoints import cosign, verify_checkpoint
from exclave.serve.witness import build_app
from exclave.sites.memory import MemorySite
from support.ledger import NOW, ORIGIN, WITNESSES, WRITER, entries, fill, open_log, reader_of, verified

OURS = WITNESSES[0]


class Known:
    """Decides which logs the running witness takes; a test may change it."""

    error: ExclaveError | None = None

    def __call__(self, origin: str) -> Card:
        if self.error is not None:
            raise self.error
        if origin != ORIGIN:
            raise MissingObject("unknown")
        return WRITER.card


class Running:
    """A witness served by uvicorn in a thread, on a free port."""

    def __init__(self, folder: Path) -> None:
        self.known = Known()
        witness = Witness(WitnessStore(folder), OURS.card, OURS.pair, self.known)
        config = uvicorn.Config(build_app(witness, lambda: NOW), host="127.0.0.1", port=0, log_level="error")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 10
        while not self.server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """One witness for one test."""
    found = Running(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def client(running: Running) -> Iterator[WitnessClient]:
    """Asks the running witness."""
    asking = WitnessClient(running.url, OURS.card)
    yield asking
    asking.close()


def log_of(size: int, tag: str = "entry") -> MemorySite:
    site = MemorySite()
    fill(open_log(site), size, tag)
    return site


def ask(client: WitnessClient, site: MemorySite, old: int = 0) -> int:
    """Has the head cosigned and attaches the cosignatures; the size."""
    log = open_log(site)
    signatures = client.cosign(log.reader.tree(log.reader.head()), old)
    return log.attach(signatures).size


def test_append_cosign_publish(client: WitnessClient) -> None:
    """The whole way: entries, cosignatures, a second site, and a verified witnessed head there."""
    site, abroad = MemorySite(), MemorySite()
    for size in (3, 260):
        log = open_log(site)
        fill(log, size - log.size)
        assert ask(client, site) == size
        reader = reader_of(site)
        publish(reader, reader.head(), abroad)
        head = reader_of(abroad).head([OURS.card])
        assert (head.size, head.cosigners) == (size, ((OURS.card.name, NOW),))
    tree = reader_of(abroad).tree(reader_of(abroad).head())
    assert [data for _, data in tree.entries()] == entries(260)


def test_a_wrong_guess_of_the_size_is_corrected(client: WitnessClient) -> None:
    """From whatever size the client starts, the witness's answer leads to the right proof."""
    site = log_of(5)
    assert ask(client, site, old=4) == 5
    fill(open_log(site), 4)
    assert ask(client, site, old=7) == 9
    assert ask(client, site, old=9) == 9


def test_a_rolled_back_log_is_told(client: WitnessClient) -> None:
    """A log that shows less than the witness saw learns so."""
    ask(client, log_of(9))
    with pytest.raises(RolledBack, match="has seen 9 entries"):
        ask(client, log_of(5))


@pytest.mark.parametrize("size", [9, 12])
def test_a_forked_log_is_told(client: WitnessClient, size: int) -> None:
    """A log with another history learns so, at the same size and beyond."""
    ask(client, log_of(9))
    with pytest.raises(Forked):
        ask(client, log_of(size, "other"))


def test_a_fenced_writer_is_told(running: Running, client: WitnessClient) -> None:
    """The reason of the fence arrives."""
    running.known.error = Fenced("epoch 2 holds the pen since 2026-11-23T10:00:00.000000Z")
    with pytest.raises(Fenced, match="epoch 2 holds the pen since 2026-11-23T10:00"):
        ask(client, log_of(3))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MissingObject("who?"), SiteUnavailable),
        (SiteUnavailable("sites are down"), SiteUnavailable),
    ],
)
def test_an_unknown_log_or_a_witness_in_doubt(
    running: Running, client: WitnessClient, error: ExclaveError, expected: type[ExclaveError]
) -> None:
    """A witness that does not know (yet) is asked again later."""
    running.known.error = error
    with pytest.raises(expected):
        ask(client, log_of(3))


def test_http_surface(running: Running, client: WitnessClient) -> None:
    """Health, monitoring path, content types, and plain refusals of everything else."""
    ask(client, log_of(3))
    with httpx.Client(base_url=running.url, trust_env=False) as http:
        assert http.get("/health").text == "ok\n"
        shown = http.get(f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint")
        assert shown.headers["content-type"] == "text/plain; charset=utf-8"
        assert verify_checkpoint(shown.content, ORIGIN, WRITER.card, [OURS.card]).cosigners
        assert http.get(f"/{'0' * 64}/checkpoint").status_code == 404
        assert http.get("/lock/checkpoint").status_code == 404
        assert http.get("/..%2f..%2fetc/checkpoint").status_code == 404
        assert http.get("/add-checkpoint").status_code == 405
        assert http.post("/add-checkpoint", content=b"junk").status_code == 400
        conflict = http.post("/add-checkpoint", content=b"old 0\n\n" + verified(3).encode())
        assert (conflict.status_code, conflict.headers["content-type"], conflict.text) == (409, SIZE_TYPE, "3\n")


def test_a_body_that_is_too_long_is_cut_off(running: Running) -> None:
    """The witness stops reading at its limit, also when no length was announced."""

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * 4096

    with httpx.Client(base_url=running.url, trust_env=False) as http:
        assert http.post("/add-checkpoint", content=endless()).status_code == 413


def test_a_fault_of_the_witness_shows_no_insides(tmp_path: Path) -> None:
    """An unforeseen failure is answered 500 without a word about the code."""

    def broken(origin: str) -> Card:
        raise RuntimeError("secret detail")

    app = build_app(Witness(WitnessStore(tmp_path), OURS.card, OURS.pair, broken), lambda: NOW)

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://witness") as http:
            return await http.post("/add-checkpoint", content=b"old 0\n\n" + verified(3).encode())

    answer = asyncio.run(post())
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


SERVER = """
import sys
from pathlib import Path
from exclave.ids import Instant
from exclave.ledger.witness import Witness
from exclave.ledger.witness_store import WitnessStore
from exclave.serve.witness import build_app, run
from support.ledger import NOW, WITNESSES, WRITER
witness = Witness(WitnessStore(Path(sys.argv[1])), WITNESSES[0].card, WITNESSES[0].pair, lambda origin: WRITER.card)
run(build_app(witness, lambda: NOW), "127.0.0.1", int(sys.argv[2]))
"""


def start_process(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A witness in a process of its own, once it answers."""
    roots = os.pathsep.join([str(Path(exclave.__file__).parents[1]), str(Path(__file__).parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder), str(port)], env={**os.environ, "PYTHONPATH": roots}
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                return process
        except httpx.HTTPError:
            time.sleep(0.02)
    process.kill()
    raise AssertionError("the witness did not come up")


def test_a_killed_witness_remembers(tmp_path: Path) -> None:
    """After SIGKILL a new process holds the log to what the old one cosigned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asking = WitnessClient(f"http://127.0.0.1:{port}/", OURS.card)
    process = start_process(tmp_path, port)
    try:
        ask(asking, log_of(5))
        process.kill()
        process.wait(10)
        process = start_process(tmp_path, port)
        with pytest.raises(RolledBack):
            ask(asking, log_of(3))
        with pytest.raises(Forked):
            ask(asking, log_of(6, "other"))
        assert ask(asking, log_of(6)) == 6
    finally:
        process.kill()
        process.wait(10)
        asking.close()


class Liar(BaseHTTPRequestHandler):
    """Answers every request with what the test set."""

    status, kind, body = 200, "text/plain", b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        self.send_header("content-type", self.kind)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def liar() -> Iterator[tuple[type[Liar], str]]:
    """A server that says anything, and its address."""
    handler = type("OneLiar", (Liar,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def cosigned_by(which: int, size: int, now: Instant = NOW) -> bytes:
    witness = WITNESSES[which]
    return encode_signatures(cosign(verified(size).checkpoint, witness.card.name, witness.pair, now))


@pytest.mark.parametrize(
    ("status", "kind", "body", "error"),
    [
        (200, "text/plain", b"", CorruptObject),
        (200, "text/plain", b"hello\n", CorruptObject),
        (200, "text/plain", cosigned_by(0, 4), CorruptObject),
        (200, "text/plain", cosigned_by(1, 3), CorruptObject),
        (200, "text/plain", cosigned_by(0, 3).split(b"\n")[0] + b"\n", CorruptObject),
        (200, "text/plain", b"x" * (MAX_ANSWER_BYTES + 1), SiteUnavailable),
        (409, "text/plain", b"2\n", CorruptObject),
        (409, SIZE_TYPE, b"02\n", CorruptObject),
        (409, SIZE_TYPE, b"2", CorruptObject),
        (409, SIZE_TYPE, b"0\n", Forked),
        (409, SIZE_TYPE, b"4\n", RolledBack),
        (403, "text/plain", b"no\x1b[31m\n", NotAuthorised),
        (403, "text/plain", b"fenced: epoch 7\n", Fenced),
        (422, "text/plain", b"no\n", Forked),
        (500, "text/plain", b"oops\n", SiteUnavailable),
        (302, "text/plain", b"", SiteUnavailable),
    ],
)
def test_a_lying_witness_gets_nowhere(
    liar: tuple[type[Liar], str], status: int, kind: str, body: bytes, error: type[ExclaveError]
) -> None:
    """Whatever a witness answers, either both its cosignatures verify or the caller gets a named error."""
    handler, url = liar
    handler.status, handler.kind, handler.body = status, kind, body
    site = log_of(3)
    reader = reader_of(site)
    asking = WitnessClient(url, OURS.card)
    with pytest.raises(error) as caught:
        asking.cosign(reader.tree(reader.head()))
    assert "\x1b" not in caught.value.message
    asking.close()


def test_extra_lines_of_unknown_keys_are_dropped(liar: tuple[type[Liar], str]) -> None:
    """Cosignatures of others in the same answer are not passed on."""
    handler, url = liar
    handler.body = cosigned_by(0, 3) + cosigned_by(1, 3)
    reader = reader_of(log_of(3))
    asking = WitnessClient(url, OURS.card)
    assert {s.name for s in asking.cosign(reader.tree(reader.head()))} == {OURS.card.name}
    asking.close()


def test_a_witness_that_never_makes_up_its_mind(liar: tuple[type[Liar], str]) -> None:
    """A witness that names another size each time is given up."""
    handler, url = liar
    once: list[bytes] = []

    def do_post(self: Liar) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        once.append(b"2\n" if len(once) % 2 else b"1\n")
        self.send_response(409)
        self.send_header("content-type", SIZE_TYPE)
        self.send_header("content-length", str(len(once[-1])))
        self.end_headers()
        self.wfile.write(once[-1])

    handler.do_POST = do_post  # type: ignore[method-assign]
    reader = reader_of(log_of(3))
    asking = WitnessClient(url, OURS.card)
    with pytest.raises(SiteUnavailable, match="keeps changing its mind"):
        asking.cosign(reader.tree(reader.head()))
    assert len(once) == 4
    asking.close()


def test_a_witness_that_is_not_there() -> None:
    """Nobody listening is an unavailable site."""
    reader = reader_of(log_of(3))
    asking = WitnessClient("http://127.0.0.1:1", OURS.card)
    with pytest.raises(SiteUnavailable):
        asking.cosign(reader.tree(reader.head()))
    asking.close()

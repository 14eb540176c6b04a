"""Full log-ins with a card per second: Exclave's OpenID provider and npm's oidc-provider, side by side, same cores.

    python bench/login.py [--seconds 5] [--rounds 5] [--browsers 16]

A log-in is what a browser and a relying service do, on kept connections, without TLS: authorization request with PKCE,
log-in page, challenge, Web eID token (P-384, signed by the load client), redirect with the code, token request with
the client's secret, ID token (RS256, 2048 bits). Ours keeps its state in SQLite files, the peer in memory; the peer
checks the same certificate and signature with node's crypto. Two settings:

- ``core``: each server is one process and has core 0 for itself; the load client has core 1.
- ``machine``: each server and the load client share both cores. Ours runs as two workers, as ``exclave serve identity``
  can; the peer stays one process, because its own store is in one process's memory.

``cpu_ms`` is what the server's processes used for each log-in: a figure that other work on the machine hardly moves.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urlsplit

import httptools
import uvicorn
import uvloop
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc.jwk import RSAKey
from starlette.applications import Starlette

from exclave.crypto.crl import issuer_id
from exclave.crypto.jwk import thumbprint
from exclave.crypto.signer_file import FileSigner, parse_private_key
from exclave.demo.pki import Card, IssuingCa, make_pki, pem
from exclave.formats import journal
from exclave.formats.relying import RelyingService, encode_service
from exclave.identity.card import Cards
from exclave.identity.challenge import Challenges
from exclave.identity.contract import Authority, IdentityState
from exclave.identity.extensions import Extensions
from exclave.identity.login import LoginDesk
from exclave.identity.login_settings import LoginSettings
from exclave.identity.op.backchannel import BackChannel
from exclave.identity.op.interactions import OpInteractions
from exclave.identity.op.provider import Provider
from exclave.identity.op.settings import OpParts, OpSettings
from exclave.identity.own_page import OwnPage
from exclave.identity.passkey import Passkeys, RelyingParty
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.tickets import SqliteTickets
from exclave.identity.tls_card import Handover
from exclave.ids import Label, b64, now
from exclave.serve.login import OWN_PATH, LoginPages
from exclave.serve.oidc import routes
from exclave.serve.page_set import Pages

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.node import node_folder  # noqa: E402

SECRET = "the-secret-of-the-relying-service-0123456789"
REDIRECT = "http://127.0.0.1:1/cb"
CARDS = 200


# Our server


def serve(folder: Path, port: int) -> None:
    """The whole provider with log-in pages, as ``exclave serve identity`` has it, in one process."""
    signer = parse_private_key((folder / "token.key").read_bytes())
    kid = thumbprint(signer.public_der)

    class Keys:
        def token(self, algorithm: str) -> tuple[str, FileSigner]:
            return kid, signer

    origin = f"http://localhost:{port}"
    store, tickets = open_sqlite(str(folder / "status.db")), SqliteTickets(str(folder / "tickets.db"))

    def authority() -> Authority:
        return Authority(IdentityState.HOME, Label("home"), 1, now())

    settings = LoginSettings(origin, cookie_name="exclave", secure_cookies=False)
    parts = OpParts(
        OpSettings(origin, secure_cookies=False), store, tickets, Keys(), authority, now, os.urandom, BackChannel()
    )
    own = OwnPage(OpInteractions(parts), tickets, now, OWN_PATH)
    challenges, handover = Challenges(tickets, os.urandom), Handover(tickets, os.urandom)
    cards = Cards(store, authority, Extensions(store), origin)
    passkeys = Passkeys(
        RelyingParty("localhost", "Demo", origin, "substantial"), store, None, tickets, challenges, authority
    )
    desk = LoginDesk(settings, own, cards, passkeys, challenges, handover, authority, now)
    pages = LoginPages(desk, own, Pages({}, settings.languages, settings.login_path, OWN_PATH))
    app = Starlette(routes=[*routes(Provider(parts)), *pages.routes()])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(app, log_level="error", access_log=False, loop="uvloop", http="httptools", lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def prepare(folder: Path) -> tuple[list[Card], IssuingCa, rsa.RSAPrivateKey]:
    """The status store of a state with one issuer and one relying service, in ``folder``; the citizens' cards."""
    ca = make_pki(now()).second
    cards = [ca.card(code=f"{38001085700 + n}") for n in range(CARDS)]
    client = RelyingService(
        "rp", {"en": "The service"}, (REDIRECT,), (hashlib.sha256(SECRET.encode()).hexdigest(),), require_pkce=True
    )
    issuer = issuer_id(ca.der)
    bodies = [
        journal.Issuer("demo", ca.der, True),
        journal.Issued(issuer, tuple(sorted(journal.serial_bytes(card.serial) for card in cards))),
        journal.Confirmed(issuer, now(), 0),
        journal.Service("rp", encode_service(client)),
    ]
    store, head, entries = open_sqlite(str(folder / "status.db")), journal.Head(), []
    for body in bodies:
        entry = journal.entry_at(head, now(), 0, body)
        head = head.after(journal.encode_entry(entry))
        entries.append((entry, head))
    store.apply(entries)
    store.close()
    key = rsa.generate_private_key(65537, 2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "token.key").write_bytes(key.private_bytes(*form))
    return cards, ca, key


# The load


class Connection(asyncio.Protocol):
    """One kept HTTP/1.1 connection; one request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.transport: asyncio.WriteTransport
        self.parser: httptools.HttpResponseParser
        self.waiting: asyncio.Future[None]
        self.headers: dict[str, str]
        self.cookies: list[str]
        self.body: bytearray

    async def open(self) -> Connection:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.port)
        return self

    async def ask(
        self, method: str, target: str, headers: str = "", body: bytes = b""
    ) -> tuple[int, dict[str, str], list[str], bytes]:
        """(status, headers, cookies set, body)."""
        self.headers, self.cookies, self.body = {}, [], bytearray()
        self.parser = httptools.HttpResponseParser(self)
        self.waiting = asyncio.get_running_loop().create_future()
        length = f"content-length: {len(body)}\r\n" if method == "POST" else ""
        head = f"{method} {target} HTTP/1.1\r\nhost: localhost:{self.port}\r\n{headers}{length}\r\n"
        self.transport.write(head.encode() + body)
        await self.waiting
        return self.parser.get_status_code(), self.headers, self.cookies, bytes(self.body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.waiting.done():
            self.waiting.set_exception(exc or ConnectionError("the server closed the connection"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"set-cookie":
            self.cookies.append(value.decode().partition(";")[0])
        else:
            self.headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.waiting.set_result(None)


class Peer:
    """Where one provider has its things."""

    def __init__(self, name: str, port: int, authorize: str, token: str) -> None:
        self.name, self.port, self.authorize, self.token = name, port, authorize, token
        self.origin = f"http://localhost:{port}"
        self.ours = name == "exclave"


def web_eid(card: Card, origin: str, nonce: str) -> dict[str, str]:
    """What the browser extension and the card make of a challenge."""
    message = b"".join(hashlib.sha384(text.encode()).digest() for text in (origin, nonce))
    r, s = decode_dss_signature(card.key.sign(message, ec.ECDSA(hashes.SHA384())))
    signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    return {
        "unverifiedCertificate": b64(card.der),
        "algorithm": "ES384",
        "signature": b64(signature),
        "format": "web-eid:1.0",
    }


async def log_in(browser: Connection, service: Connection, peer: Peer, card: Card) -> str:
    """One whole log-in by a browser without cookies; the ID token."""
    jar: dict[str, str] = {}

    async def ask(method: str, target: str, value: object = None) -> tuple[int, dict[str, str], bytes]:
        headers = f"cookie: {'; '.join(f'{k}={v}' for k, v in jar.items())}\r\n" if jar else ""
        body = b"" if value is None else json.dumps(value).encode()
        if method == "POST":
            headers += f"content-type: application/json\r\norigin: {peer.origin}\r\n"
        status, found, cookies, data = await browser.ask(method, target, headers, body)
        jar.update(cookie.split("=", 1) for cookie in cookies)
        if status >= 400:
            raise RuntimeError(f"{peer.name} {method} {target}: {status} {data[:300]!r}")
        return status, found, data

    verifier = secrets.token_urlsafe(40)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = urlencode({
        "response_type": "code", "client_id": "rp", "redirect_uri": REDIRECT, "scope": "openid",
        "state": secrets.token_urlsafe(16), "nonce": secrets.token_urlsafe(16), "code_challenge": challenge,
        "code_challenge_method": "S256",
    })  # fmt: skip
    _, found, _ = await ask("GET", f"{peer.authorize}?{query}")
    page = found["location"]
    await ask("GET", page)
    uid = parse_qs(urlsplit(page).query)["i"][0] if peer.ours else page.rpartition("/")[2]
    steps = ("/login/web-eid/challenge", "/login/web-eid") if peer.ours else (f"{page}/challenge", f"{page}/login")
    _, _, data = await ask("POST", steps[0], {"i": uid})
    token = web_eid(card, peer.origin, json.loads(data)["nonce"])
    _, _, data = await ask("POST", steps[1], {"i": uid, "token": token})
    where = json.loads(data)["location"]
    if not where.startswith(REDIRECT):  # the peer goes on by one more redirect
        _, found, _ = await ask("GET", urlsplit(where).path)
        where = found["location"]
    code = parse_qs(urlsplit(where).query)["code"][0]
    form = urlencode(
        {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": verifier}
    )
    basic = base64.b64encode(f"rp:{SECRET}".encode()).decode()
    headers = f"content-type: application/x-www-form-urlencoded\r\nauthorization: Basic {basic}\r\n"
    status, _, _, body = await service.ask("POST", peer.token, headers, form.encode())
    if status != 200:
        raise RuntimeError(f"{peer.name} token: {status} {body[:300]!r}")
    return str(json.loads(body)["id_token"])


async def load(peer: Peer, cards: list[Card], seconds: float, browsers: int) -> list[float]:
    """The seconds that each log-in took, of as many as ended in time."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        browser, service = await Connection(peer.port).open(), await Connection(peer.port).open()
        while (begin := time.perf_counter()) < end:
            await log_in(browser, service, peer, cards[(number * 17 + len(took)) % len(cards)])
            took.append(time.perf_counter() - begin)

    await asyncio.gather(*(one(number) for number in range(browsers)))
    return took


# The measurement


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, cwd: Path, cores: set[int], workers: int) -> Iterator[list[int]]:
    """The process ids of ``workers`` servers at one port."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    servers = [
        subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(workers)
    ]
    os.sched_setaffinity(0, before)
    try:
        until = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if any(server.poll() is not None for server in servers) or time.monotonic() > until:
                raise SystemExit(f"{command[0]} does not start")
            time.sleep(0.05)
        time.sleep(1)  # the second worker
        yield [server.pid for server in servers]
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(15)


def cpu_s(pids: list[int]) -> float:
    """User and system time of the processes until now."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def measured(peer: Peer, pids: list[int], cards: list[Card], asked: argparse.Namespace) -> dict[str, float]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load(peer, cards, 1.5, asked.browsers))  # caches, and the just-in-time compiler of the peer
        begin, cpu = time.perf_counter(), cpu_s(pids)
        took = sorted(runner.run(load(peer, cards, asked.seconds, asked.browsers)))
        wall = time.perf_counter() - begin
    return {
        "per_s": len(took) / wall, "p50_ms": 1000 * took[len(took) // 2], "p99_ms": 1000 * took[len(took) * 99 // 100],
        "cpu_ms": 1000 * (cpu_s(pids) - cpu) / len(took), "log_ins": len(took),
    }  # fmt: skip


def compared(
    setting: str, peers: list[tuple[Peer, list[str]]], cards: list[Card], cwd: Path, asked: argparse.Namespace
) -> dict[str, Any]:
    """One setting, round by round, the servers in turn, so that other work on the machine meets both."""
    os.sched_setaffinity(0, {1} if setting == "core" else {0, 1})
    found: dict[str, list[dict[str, float]]] = {peer.name: [] for peer, _ in peers}
    for _ in range(asked.rounds):
        for peer, command in peers:
            cores, workers = ({0}, 1) if setting == "core" else ({0, 1}, 2 if peer.ours else 1)
            with running(command, peer.port, cwd, cores, workers) as pids:
                figures = measured(peer, pids, cards, asked)
            found[peer.name].append(figures)
            print(
                f"{setting:8} {peer.name:14} {figures['per_s']:7.1f} log-ins/s   p50 {figures['p50_ms']:6.1f} ms   "
                f"p99 {figures['p99_ms']:6.1f} ms   cpu {figures['cpu_ms']:5.2f} ms", flush=True,
            )  # fmt: skip
    ours, other = (found[peer.name] for peer, _ in peers)
    ratio = median(a["per_s"] / b["per_s"] for a, b in zip(ours, other, strict=True))
    cpu_ratio = median(b["cpu_ms"] / a["cpu_ms"] for a, b in zip(ours, other, strict=True))
    rates = [median(one["per_s"] for one in rounds) for rounds in (ours, other)]
    print(
        f"{setting:8} medians: {rates[0]:.0f} against {rates[1]:.0f} log-ins/s; round by round {ratio:.2f} times as "
        f"many, with {1 / cpu_ratio:.2f} of the processor time\n", flush=True,
    )  # fmt: skip
    return {"ratio": ratio, "cpu_ratio": cpu_ratio, "rounds": found}


def main() -> None:
    parser = argparse.ArgumentParser(description="Card log-ins per second, side by side.")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--browsers", type=int, default=16)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(Path(asked.serve[0]), int(asked.serve[1]))
        return
    nodes = node_folder()
    (nodes / "login_peer.mjs").write_bytes((ROOT / "bench" / "login_peer.mjs").read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        cards, ca, key = prepare(Path(folder))
        ours = Peer("exclave", free_port(), "/oidc/authorize", "/oidc/token")
        other = Peer("oidc-provider", free_port(), "/auth", "/token")
        given = {
            "issuer": other.origin, "origin": other.origin, "port": other.port, "secret": SECRET,
            "redirect_uri": REDIRECT, "issuer_pem": pem(ca.certificate).decode(),
            "good": [str(card.serial) for card in cards],
            "jwk": {**RSAKey.import_key(key).as_dict(private=True), "use": "sig", "alg": "RS256", "kid": "k"},
        }  # fmt: skip
        peers = [
            (ours, [sys.executable, str(Path(__file__).resolve()), "--serve", folder, str(ours.port)]),
            (other, ["node", "login_peer.mjs", json.dumps(given)]),
        ]
        figures = {name: compared(name, peers, cards, nodes, asked) for name in ("core", "machine")}
    print(json.dumps({"login": {"browsers": asked.browsers, "seconds": asked.seconds, **figures}}))


if __name__ == "__main__":
    main()

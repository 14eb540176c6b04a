"""An OpenID provider for the tests: its parts in memory, clients that ask it, a server with a log-in page."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from exclave.crypto.jose import jwk_of
from exclave.crypto.jwk import public_jwks, thumbprint
from exclave.errors import NotAuthorised
from exclave.formats.relying import RelyingService, check_service
from exclave.identity.contract import Authentication, Authority, IdentityState, Person, Tickets
from exclave.identity.op.interactions import OpInteractions
from exclave.identity.op.provider import Provider
from exclave.identity.op.settings import LogoutNotice, OpParts, OpSettings
from exclave.identity.op.wire import Call, Reply, b64url, browser_of
from exclave.identity.tickets import MemoryTickets
from exclave.ids import Instant, Label, now
from exclave.serve.oidc import routes
from support.soft_signer import SoftSigner

T = Instant(1_790_000_000_000_000)
ISSUER = "https://login.demo.test"
RP = "https://rp.demo.test/cb"
SECRET = "s3cret-of-the-relying-service-0123456789"
MARI = Person("EE38001085718", "MARI", "MAASIKAS", "1980-01-08")
RSA_KEY = SoftSigner(rsa.generate_private_key(65537, 2048))
EC_KEY = SoftSigner(ec.generate_private_key(ec.SECP256R1()))


def secret_hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def relying(client_id: str = "rp", **more: Any) -> RelyingService:
    """A client with ``SECRET``."""
    given: dict[str, Any] = {
        "name": {"en": "The service"}, "redirect_uris": (RP,), "secret_sha256": (secret_hash(SECRET),), **more,
    }  # fmt: skip
    service = RelyingService(client_id=client_id, **given)
    check_service(service)
    return service


CLIENT_KEY = SoftSigner(rsa.generate_private_key(65537, 2048))
CLIENT_EC = SoftSigner(ec.generate_private_key(ec.SECP256R1()))
_FREE = {name: value for name, value in jwk_of(CLIENT_KEY, "one").items() if name != "alg"}
JWT_CLIENT = relying(
    "signs", auth_methods=("private_key_jwt",), secret_sha256=(),
    jwks=json.dumps({"keys": [_FREE, jwk_of(CLIENT_EC, "two")]}),
)  # fmt: skip
"""Signs assertions with ``CLIENT_KEY`` (kid ``one``, any RSA algorithm) or ``CLIENT_EC`` (kid ``two``, ES256)."""


class Known:
    """The two things that a provider asks a status store for."""

    def __init__(self, *clients: RelyingService) -> None:
        self.clients = {client.client_id: client for client in clients}
        self.keys: dict[Label, bytes] = {}

    def service(self, client_id: str) -> RelyingService | None:
        return self.clients.get(client_id)

    def place_keys(self) -> Mapping[Label, bytes]:
        return self.keys


class Keys:
    """``Delegates`` with the token keys of one place."""

    def __init__(self, rsa_key: SoftSigner = RSA_KEY, ec_key: SoftSigner = EC_KEY) -> None:
        self.signers = {"RS256": rsa_key, "ES256": ec_key}

    def token(self, algorithm: str) -> tuple[str, SoftSigner]:
        signer = self.signers[algorithm]
        return thumbprint(signer.public_der), signer

    def jwks(self) -> bytes:
        """The public halves, as the journal has them."""
        return public_jwks(signer.public_der for signer in self.signers.values())


class Outbox:
    """``LogoutSink`` that keeps what it is given."""

    def __init__(self) -> None:
        self.notices: list[LogoutNotice] = []

    def offer(self, notice: LogoutNotice) -> bool:
        self.notices.append(notice)
        return True


@dataclass
class Place:
    """A provider at a time that the test sets."""

    store: Known
    settings: OpSettings = field(default_factory=lambda: OpSettings(ISSUER))
    time: Instant = T
    state: IdentityState = IdentityState.HOME
    epoch: int = 1
    tickets: Tickets = field(default_factory=MemoryTickets)
    outbox: Outbox = field(default_factory=Outbox)
    withdrawn: frozenset[Label] = frozenset()
    wall: bool = False
    keys: Keys = field(default_factory=Keys)
    label: str = "home"

    def __post_init__(self) -> None:
        self.parts = OpParts(
            self.settings, self.store, self.tickets, self.keys, self._authority,
            lambda: now() if self.wall else self.time,  # type: ignore[arg-type]
            secrets.token_bytes, self.outbox, lambda: self.withdrawn,
        )  # fmt: skip
        self.provider = Provider(self.parts)
        self.interactions = OpInteractions(self.parts)

    def _authority(self) -> Authority:
        return Authority(self.state, Label(self.label), self.epoch, self.time)

    def wait(self, seconds: float) -> None:
        self.time = Instant(self.time + int(seconds * 1_000_000))

    def authentication(self, **more: Any) -> Authentication:
        return replace(Authentication(MARI, ("idcard",), "high", self.parts.clock()), **more)

    # What a browser does

    def authorize(self, browser: Browser | None = None, **parameters: str | None) -> Reply:
        """A GET of the authorization endpoint; None leaves a parameter out."""
        browser = browser or Browser(self)
        return browser.send(self.provider.authorize(browser.get(query(**parameters))))

    def log_in(self, browser: Browser | None = None, **parameters: str | None) -> dict[str, str]:
        """The parameters with which the browser comes back to the client after a log-in."""
        browser = browser or Browser(self)
        reply = self.authorize(browser, **parameters)
        where = location(reply)
        if not where.startswith("/login"):
            return answer(where)
        return answer(self.interactions.complete(query_of(where)["i"], browser.cookie, self.authentication()))

    # What a client does

    def post(self, path: str, form: Mapping[str, str] | str, **more: Any) -> Reply:
        """A form to the token, PAR or UserInfo endpoint."""
        body = form if isinstance(form, str) else urlencode(form)
        call = Call("POST", body=body.encode(), content_type="application/x-www-form-urlencoded", **more)
        ends = {
            "/oidc/token": self.provider.token,
            "/oidc/par": self.provider.push,
            "/oidc/profile": self.provider.profile,
        }
        return ends[path](call)

    def redeem(self, code: str, **more: str | None) -> Reply:
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": RP, "client_id": "rp",
            "client_secret": SECRET, **more,
        }  # fmt: skip
        return self.post("/oidc/token", {name: value for name, value in form.items() if value is not None})

    def userinfo(self, token: str) -> Reply:
        return self.provider.profile(Call("GET", authorization=(f"Bearer {token}",)))


class Browser:
    """Keeps the provider's cookie."""

    def __init__(self, place: Place, cookie: str = "") -> None:
        self.name = place.settings.cookie_name
        self.cookie = cookie

    def get(self, text: str) -> Call:
        cookies = (f"{self.name}={self.cookie}",) if self.cookie else ()
        return Call("GET", query=text.encode(), cookies=cookies)

    def post(self, form: Mapping[str, str]) -> Call:
        return replace(
            self.get(""), method="POST", body=urlencode(form).encode(),
            content_type="application/x-www-form-urlencoded",
        )  # fmt: skip

    def send(self, reply: Reply) -> Reply:
        for key, value in reply.headers:
            if key == "set-cookie":
                self.cookie = browser_of((value.partition(";")[0],), self.name)
        return reply


def query(**parameters: str | None) -> str:
    """A good request of the client ``rp``, changed."""
    asked = {
        "response_type": "code", "client_id": "rp", "redirect_uri": RP, "scope": "openid", "state": "st", "nonce": "n0",
        **parameters,
    }  # fmt: skip
    return urlencode({name: value for name, value in asked.items() if value is not None})


def header(reply: Reply, name: str) -> str:
    return dict(reply.headers).get(name, "")


def location(reply: Reply) -> str:
    assert reply.status == 303, (reply.status, reply.body)
    return header(reply, "location")


def query_of(url: str) -> dict[str, str]:
    found = parse_qs(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
    assert all(len(values) == 1 for values in found.values())
    return {name: values[0] for name, values in found.items()}


def answer(url: str) -> dict[str, str]:
    """The parameters of an answer to ``RP``, which must come from this issuer."""
    assert url.startswith(RP + "?"), url
    found = query_of(url)
    assert found.pop("iss") == ISSUER
    return found


def pkce() -> tuple[str, str]:
    """(verifier, challenge)."""
    verifier = secrets.token_urlsafe(48)
    return verifier, b64url(hashlib.sha256(verifier.encode()).digest())


# As a server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def application(place: Place) -> Starlette:
    """The endpoints and a log-in page that logs MARI in at once."""

    async def login(request: Request) -> Response:
        cookie = browser_of(tuple(request.headers.getlist("cookie")), place.settings.cookie_name)
        try:
            url = place.interactions.complete(request.query_params["i"], cookie, place.authentication())
        except NotAuthorised as error:
            return PlainTextResponse(error.message, status_code=400)
        return RedirectResponse(url, status_code=303)

    return Starlette(routes=[*routes(place.provider), Route("/login", login)])


@contextlib.contextmanager
def served(app: Starlette, port: int, *, tls: tuple[Path, Path] | None = None) -> Iterator[None]:
    """``app`` under uvicorn on loopback; ``tls``: its certificate and key files."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="warning", access_log=False,
        ssl_certfile=str(tls[0]) if tls else None, ssl_keyfile=str(tls[1]) if tls else None,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < until, "the server does not start"
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)

"""A whole log-in service in one process for the tests: cards, status, waiting log-ins, pages, door."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from exclave.crypto.crl import issuer_id
from exclave.demo.pki import Card, IssuingCa, Pki, make_pki
from exclave.errors import NotAuthorised
from exclave.formats.journal import Head, Passkey, PasskeyGone
from exclave.formats.relying import RelyingService
from exclave.identity.card import Cards
from exclave.identity.challenge import Challenges
from exclave.identity.contract import (
    Authentication,
    Authority,
    IdentityState,
    Interaction,
    Interactions,
    IssuerInfo,
    Person,
    StoredPasskey,
)
from exclave.identity.login import LoginDesk
from exclave.identity.login_settings import LoginSettings
from exclave.identity.own_page import OwnPage
from exclave.identity.passkey import Passkeys, RelyingParty
from exclave.identity.status_log import CertificateStatus, Good, Serial, Unknown
from exclave.identity.tickets import MemoryTickets
from exclave.identity.tls_card import Handover
from exclave.ids import Digest, Instant, Label, b64
from exclave.rules.extensions import Extended, NotExtended
from exclave.serve.card_door import build_card_door
from exclave.serve.login import OWN_PATH, LoginPages
from exclave.serve.page_set import Pages

NOW = Instant(1_790_000_000_000_000)
ORIGIN = "https://login.demo.test"
CLIENT = RelyingService(
    client_id="tax-board",
    name={"en": "Tax and Customs Board", "et": "Maksu- ja Tolliamet", "ar": "هيئة الضرائب والجمارك"},
    redirect_uris=("https://tax.demo.test/callback",),
)


def software_sign(card: Card, message: bytes, algorithm: str = "ES384") -> bytes:
    """As a card signs: raw R || S, PSS or PKCS #1."""
    digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[algorithm[2:]]
    if isinstance(card.key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(card.key.sign(message, ec.ECDSA(digest)))
        size = (card.key.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if algorithm.startswith("PS"):
        return card.key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return card.key.sign(message, padding.PKCS1v15(), digest)


def web_eid_token(
    card: Card, nonce: str, origin: str = ORIGIN, algorithm: str = "ES384", **more: Any
) -> dict[str, Any]:  # fmt: skip
    """What the browser extension gives to a page; ``more`` replaces or adds fields."""

    def hashed(text: str) -> bytes:
        return hashlib.new(f"sha{algorithm[2:]}", text.encode()).digest()

    signature = software_sign(card, hashed(origin) + hashed(nonce), algorithm)
    return {
        "unverifiedCertificate": b64(card.der), "algorithm": algorithm, "signature": b64(signature),
        "format": "web-eid:1.0", "appVersion": "https://web-eid.eu/web-eid-app/releases/2.5.0+0", **more,
    }  # fmt: skip


def token_bytes(*args: Any, **more: Any) -> bytes:
    return json.dumps(web_eid_token(*args, **more)).encode()


def info(ca: IssuingCa, label: str, as_of: Instant = NOW, live: bool = True) -> IssuerInfo:
    return IssuerInfo(issuer_id(ca.der), Label(label), (ca.der,), live, as_of, Instant(0), True)


@dataclass
class FakeStore:
    """What the log-in asks of ``contract.StatusStore`` and ``contract.JournalWriter``, in memory."""

    infos: tuple[IssuerInfo, ...] = ()
    statuses: dict[tuple[Digest, int], CertificateStatus] = field(default_factory=dict)
    keys: dict[bytes, StoredPasskey] = field(default_factory=dict)
    number: int = 1

    def generation(self) -> int:
        return self.number

    def issuers(self) -> tuple[IssuerInfo, ...]:
        return self.infos

    def status(self, issuer: Digest, serial: Serial) -> CertificateStatus:
        return self.statuses.get((issuer, serial), Unknown())

    def say(self, card: Card, status: CertificateStatus, ca: IssuingCa) -> Card:
        self.statuses[issuer_id(ca.der), card.serial] = status
        self.number += 1
        return card

    def passkey(self, credential: bytes) -> StoredPasskey | None:
        return self.keys.get(credential)

    def passkeys_of(self, subject: str) -> tuple[StoredPasskey, ...]:
        return tuple(one for one in self.keys.values() if json.loads(one.person)["subject"] == subject)

    def enter(self, bodies: Iterable[object], *, warrant: bytes = b"") -> Head:
        for body in bodies:
            match body:
                case Passkey(credential, public, person, handle):
                    self.keys[credential] = StoredPasskey(credential, public, person, handle)
                case PasskeyGone(credential):
                    del self.keys[credential]
        self.number += 1
        return Head()


@dataclass
class FakeInteractions:
    """One relying service's waiting log-ins."""

    waiting: dict[str, tuple[str, Interaction]] = field(default_factory=dict)
    done: list[Authentication] = field(default_factory=list)
    to: str = "https://tax.demo.test/callback"

    def begin(
        self, browser: str, *, acr: str = "substantial", methods: frozenset[str] = frozenset({"idcard", "passkey"}),
        client: RelyingService = CLIENT, ui_locales: tuple[str, ...] = (),
    ) -> str:  # fmt: skip
        name = base64.urlsafe_b64encode(os.urandom(24)).decode()
        self.waiting[name] = browser, Interaction(name, client, acr, methods, ui_locales)
        return name

    def find(self, interaction: str, browser: str) -> Interaction | None:
        whose, found = self.waiting.get(interaction, ("", None))
        return found if whose == browser else None

    def complete(self, interaction: str, browser: str, done: Authentication) -> str:
        if self.find(interaction, browser) is None:
            raise NotAuthorised("gone", reason="interaction")
        del self.waiting[interaction]
        self.done.append(done)
        return f"{self.to}?code=fresh"

    def cancel(self, interaction: str, browser: str, error: str) -> str:
        del self.waiting[interaction]
        return f"{self.to}?error={error}"


class Site:
    """Everything but the network. ``now`` and ``state`` may be set."""

    def __init__(
        self, settings: LoginSettings | None = None, now: Instant = NOW, pki: Pki | None = None,
        interactions: Interactions | None = None,
    ) -> None:  # fmt: skip
        self.now = now
        self.state = IdentityState.HOME
        self.pki = pki or make_pki(now)
        self.settings = settings or LoginSettings(ORIGIN, "https://card.demo.test", {"en": "Republic of Demo"})
        self.store = FakeStore((info(self.pki.first, "first", now), info(self.pki.second, "second", now)))
        self.extended: dict[bytes, Instant] = {}
        self.interactions = FakeInteractions()
        self.tickets = MemoryTickets()
        clock, authority = (lambda: self.now), (lambda: Authority(self.state, Label("home"), 1, self.now))
        own = OwnPage(interactions or self.interactions, self.tickets, clock, OWN_PATH)
        challenges = Challenges(self.tickets, os.urandom)
        self.handover = Handover(self.tickets, os.urandom)
        self.cards = Cards(self.store, authority, self._extended, self.settings.origin)  # type: ignore[arg-type]
        party = RelyingParty(
            self.settings.party_id, "Republic of Demo", self.settings.origin, self.settings.passkey_acr
        )  # fmt: skip
        self.passkeys = Passkeys(party, self.store, self.store, self.tickets, challenges, authority)  # type: ignore[arg-type]
        self.desk = LoginDesk(
            self.settings, own, self.cards, self.passkeys, challenges, self.handover, authority, clock
        )  # fmt: skip
        self.pages = Pages(
            self.settings.state_name, self.settings.languages, self.settings.login_path, OWN_PATH
        )  # fmt: skip
        self.own = own
        self.app = Starlette(routes=[*LoginPages(self.desk, own, self.pages).routes(), Route("/callback", _landed)])
        self.door = build_card_door(self.handover, clock, f"{self.settings.origin}{self.settings.login_path}/card")

    def _extended(
        self, *, issuer: Digest, spki_sha256: Digest, serial: int, ended: Instant, now: Instant
    ) -> Extended | NotExtended:
        until = self.extended.get(spki_sha256)
        return NotExtended("no list speaks of it") if until is None or now > until else Extended(issuer, until)

    def card(self, ca: IssuingCa | None = None, **wanted: Any) -> Card:
        """A citizen's good card."""
        issuer = ca or self.pki.second
        return self.store.say(issuer.card(**wanted), Good(), issuer)


async def _landed(_: object) -> PlainTextResponse:
    """The relying service's own page."""
    return PlainTextResponse("welcome to the tax board")


def person(code: str = "38001085718") -> Person:
    return Person(f"EE{code}", "MARI", "MAASIKAS", "1980-01-08")


class Served:
    """An application behind uvicorn in a thread, at a free loopback port or a Unix socket."""

    def __init__(self, app: Any, *, uds: str = "", sock: socket.socket | None = None) -> None:
        config = uvicorn.Config(
            app, uds=uds or None, log_level="warning", access_log=False, proxy_headers=False, lifespan="off"
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [sock] if sock else None})

    def __enter__(self) -> Served:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def free_socket() -> tuple[socket.socket, int]:
    sock = socket.create_server(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]


def cookie_header(cookies: Mapping[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())

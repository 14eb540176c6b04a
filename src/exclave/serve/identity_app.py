"""The identity services of a place as one ASGI application: OpenID provider, log-in pages, health, metrics.

The settings travel in the journal, so they may come or change while the process runs; the application is then made
anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from exclave.errors import ExclaveError
from exclave.formats.identityconfig import IdentityConfig, parse_identity_config
from exclave.identity.card import Cards
from exclave.identity.challenge import Challenges
from exclave.identity.contract import IdentityState, Tickets
from exclave.identity.extensions import Extensions
from exclave.identity.login import LoginDesk
from exclave.identity.login_settings import LoginSettings
from exclave.identity.op.backchannel import BackChannel
from exclave.identity.op.interactions import OpInteractions
from exclave.identity.op.provider import Provider
from exclave.identity.op.settings import OpParts, OpSettings
from exclave.identity.own_page import OwnPage
from exclave.identity.passkey import Passkeys, RelyingParty
from exclave.identity.tls_card import Handover
from exclave.ids import Label
from exclave.operations.identity_follow import Follower
from exclave.operations.identity_place import DECIDES_PATH, HOME, LIVE_PATH, IdentityPlace
from exclave.operations.identity_push import PlacePushDesk
from exclave.operations.identity_takeup import GAP_FILE
from exclave.serve import login as login_pages
from exclave.serve import oidc
from exclave.serve.card_door import build_card_door
from exclave.serve.page_set import Pages
from exclave.serve.push import routes as push_routes
from exclave.serve.threads import in_thread

READY_PATH = "/health/ready"
_STALE_S = 60
_NEVER = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(slots=True)
class IdentityApp:
    """``app`` answers on the log-in address, ``door`` on the socket to which nginx hands TLS client certificates."""

    place: IdentityPlace
    follower: Follower
    tickets: Tickets
    logouts: BackChannel
    registry: CollectorRegistry
    _made: tuple[bytes | None, ASGIApp, ASGIApp | None] | None = None
    _generation: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        place = self.place
        age = Gauge(
            "exclave_identity_age_seconds", "Age of the last moment that is known whole", registry=self.registry
        )
        age.set_function(lambda: max(0.0, (place.clock() - place.authority().as_of) / 1e6))
        entries = Gauge("exclave_identity_entries", "Entries of the journal", registry=self.registry)
        entries.set_function(lambda: place.store.head().number)
        state = Gauge("exclave_identity_state", "1 for the state of this place", ["state"], registry=self.registry)
        for one in IdentityState:
            state.labels(one.value).set_function(lambda one=one: float(place.authority().state is one))  # type: ignore[misc]
        epoch = Gauge("exclave_identity_epoch", "Newest epoch of the identity register", registry=self.registry)
        epoch.set_function(lambda: place.authority().epoch)
        failing = Gauge("exclave_identity_failing", "1 if the last step of following met a problem",
                        registry=self.registry)  # fmt: skip
        failing.set_function(lambda: float(bool(self.follower.state.problem)))
        told = Gauge("exclave_identity_logouts", "Logout notices to relying services", ["fate"], registry=self.registry)
        for fate in ("sent", "failed", "dropped"):
            told.labels(fate).set_function(lambda fate=fate: float(getattr(self.logouts, fate)))  # type: ignore[misc]

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole application, as the settings are now."""
        _, app, _ = await self._looked_up()
        await app(scope, receive, send)

    async def door(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log-in by TLS client certificate; 404 where that is not offered."""
        _, _, door = await self._looked_up()
        await (door or PlainTextResponse("not offered here\n", 404))(scope, receive, send)

    async def _looked_up(self) -> tuple[bytes | None, ASGIApp, ASGIApp | None]:
        """A database that is away holds up no other request, and the last settings go on until it is back."""
        try:
            return await in_thread(self._current) if self.place.config.serve.state else self._current()
        except ExclaveError:
            made = self._made
            if made is not None:
                return made
            return None, PlainTextResponse("not now\n", 503, headers=_NEVER | {"retry-after": "5"}), None

    def _current(self) -> tuple[bytes | None, ASGIApp, ASGIApp | None]:
        """Made anew when the settings in the journal have changed."""
        generation = self.place.store.generation()
        made = self._made
        if made is not None and generation == self._generation:
            return made
        with self._lock:
            data = self.place.store.settings()
            if self._made is None or self._made[0] != data:
                self._made = self._make(data)
            self._generation = generation
            return self._made

    def _make(self, data: bytes | None) -> tuple[bytes | None, ASGIApp, ASGIApp | None]:
        if data is None:
            return None, Starlette(routes=[*self._own_routes()]), None
        try:
            desk, own, pages, provider = _login(self, parse_identity_config(data))
        except ExclaveError as error:
            self.follower.say(f"the settings in the journal cannot be used: {error.message}")
            return data, Starlette(routes=[*self._own_routes()]), None
        routes: list[BaseRoute] = [
            *oidc.routes(provider), *login_pages.LoginPages(desk, own, pages).routes(), *self._own_routes()
        ]  # fmt: skip
        back = f"{desk.settings.origin}{desk.settings.login_path}/card"
        return data, Starlette(routes=routes), build_card_door(desk.handover, self.place.clock, back)

    # Health, metrics, the statement to the public

    def _own_routes(self) -> list[Route]:
        async def live(_: Request) -> Response:
            return PlainTextResponse("ok\n", headers=_NEVER)

        async def ready(_: Request) -> Response:
            problem = self.not_ready()
            return JSONResponse(self.told(problem), 503 if problem else 200, headers=_NEVER)

        async def decides(_: Request) -> Response:
            decides = self.place.authority().decides
            return JSONResponse(self.told(""), 200 if decides else 503, headers=_NEVER)

        async def metrics(_: Request) -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST, headers=_NEVER)

        async def gap(_: Request) -> Response:
            try:
                note = (self.place.folder / "state" / GAP_FILE).read_bytes()
            except OSError:
                return PlainTextResponse("no gap was stated here\n", 404, headers=_NEVER)
            return Response(note, media_type="text/plain; charset=utf-8", headers=_NEVER)

        push = push_routes(PlacePushDesk(self.place)) if self.place.config.sender else []
        return [
            *push, Route(LIVE_PATH, live), Route(READY_PATH, ready), Route(DECIDES_PATH, decides),
            Route("/metrics", metrics), Route("/statement/gap", gap),
        ]  # fmt: skip

    def not_ready(self) -> str:
        """Why clients should be sent elsewhere; empty: they should not."""
        authority = self.place.authority()
        if not authority.answers:
            return authority.why or "this place does not answer now"
        if self._made is not None and self._made[0] is None:
            return "the services' settings have not arrived here yet"
        age_s = (self.place.clock() - authority.as_of) / 1e6
        if authority.state is IdentityState.STANDBY and age_s > _STALE_S:
            return f"home's last word is {age_s:.0f} s old"
        return ""

    def told(self, problem: str) -> dict[str, object]:
        """For load balancers and people; names no secret."""
        authority = self.place.authority()
        return {
            "place": authority.place, "state": authority.state, "epoch": authority.epoch, "decides": authority.decides,
            "entries": self.place.store.head().number, "problem": problem or self.follower.state.problem,
        }  # fmt: skip


def _login(app: IdentityApp, settings: IdentityConfig) -> tuple[LoginDesk, OwnPage, Pages, Provider]:
    place, tickets = app.place, app.tickets
    authority, clock = place.authority, place.clock
    login = LoginSettings(
        settings.issuer, settings.card_origin, settings.state_name, settings.languages, settings.rp_id,
        settings.passkey_acr, settings.say_exile, cookie_name=_cookie(settings), secure_cookies=settings.secure_cookies,
    )  # fmt: skip
    parts = OpParts(
        OpSettings(settings.issuer, settings.languages, login.login_path, secure_cookies=settings.secure_cookies),
        place.store, tickets, place.keyring, authority, clock, os.urandom, app.logouts, _withdrawn(place, settings),
        place.places,
    )  # fmt: skip
    own = OwnPage(OpInteractions(parts), tickets, clock, login_pages.OWN_PATH)
    challenges, handover = Challenges(tickets, os.urandom), Handover(tickets, os.urandom)
    disallowed = frozenset(settings.disallowed_policies)
    cards = Cards(
        place.store, authority, Extensions(place.store), login.origin,
        **({"disallowed": disallowed} if disallowed else {}),
    )  # fmt: skip
    name = next(iter(settings.state_name.values()), settings.host)
    party = RelyingParty(login.party_id, name, login.origin, login.passkey_acr)
    passkeys = Passkeys(party, place.store, place.writer, tickets, challenges, authority)
    desk = LoginDesk(login, own, cards, passkeys, challenges, handover, authority, clock)
    pages = Pages(settings.state_name, settings.languages, login.login_path, login_pages.OWN_PATH)
    return desk, own, pages, Provider(parts)


def _cookie(settings: IdentityConfig) -> str:
    return "__Host-exclave" if settings.secure_cookies else "exclave"


def _withdrawn(place: IdentityPlace, settings: IdentityConfig) -> Callable[[], frozenset[Label]]:
    """In exile home's token keys leave the JWK set, since whoever took home may have them."""

    def withdrawn() -> frozenset[Label]:
        exile = place.authority().state is IdentityState.EXILE
        return frozenset({HOME}) if exile and settings.drop_home_keys else frozenset()

    return withdrawn

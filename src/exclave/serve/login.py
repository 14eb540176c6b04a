"""The log-in pages over HTTP: ``/login`` and below, ``/passkeys`` and below. Page: docs/spec/login.md.

A post counts only from a page of this origin (its Origin header) and only for a log-in that this browser began (its
cookie). Answers to the page's script are JSON, errors carry the sentence that it shows.
"""

from __future__ import annotations

import base64
import binascii
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from exclave.errors import ExclaveError, MalformedError, NotAuthorised
from exclave.identity.card import CARD_METHOD
from exclave.identity.contract import IdentityState
from exclave.identity.login import LoginDesk
from exclave.identity.op.wire import parse_parameters
from exclave.identity.own_page import OwnPage, is_own, own_id
from exclave.identity.tls_card import INTERACTION
from exclave.serve.card_door import DOOR_PATH
from exclave.serve.page_set import ASSETS, HEADERS, Pages, PageText, asset, kind_of, status_of
from exclave.serve.threads import in_thread

OWN_PATH = "/passkeys"
MAX_BODY_BYTES = 48 << 10
_MAX_COOKIE = 200
_log = logging.getLogger("exclave.login")


class _Ask(msgspec.Struct):
    i: str = ""
    token: msgspec.Raw = msgspec.Raw(b"")
    credential: msgspec.Raw = msgspec.Raw(b"")


@dataclass(frozen=True, slots=True)
class LoginPages:
    """The handlers. ``desk.interactions`` must be ``own`` (``OwnPage`` around the OpenID provider's)."""

    desk: LoginDesk
    own: OwnPage
    pages: Pages

    def routes(self) -> list[Route]:
        """For the application that also has the OpenID provider's endpoints."""
        login = self.desk.settings.login_path

        def get(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
            return Route(path, handler, methods=["GET"])

        def post(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
            return Route(path, handler, methods=["POST"])

        return [
            get(login, self.choose),
            get(f"{login}/card", self.card_shown),
            get(login + "/assets/{name}", self.assets),
            post(f"{login}/web-eid/challenge", self.web_eid_challenge),
            post(f"{login}/web-eid", self.web_eid),
            post(f"{login}/passkey/challenge", self.passkey_challenge),
            post(f"{login}/passkey", self.passkey),
            post(f"{login}/cancel", self.cancel),
            get(OWN_PATH, self.own_page),
            post(f"{OWN_PATH}/challenge", self.own_challenge),
            post(f"{OWN_PATH}/add", self.own_add),
            post(f"{OWN_PATH}/remove", self.own_remove),
            post(f"{OWN_PATH}/leave", self.own_leave),
        ]

    # Pages

    async def choose(self, request: Request) -> Response:
        """The ways to log in."""
        return await self._page(request, self._choose)

    def _choose(self, request: Request) -> Response:
        settings = self.desk.settings
        interaction = _interaction(request.query_params.get("i", ""))
        offer = self.desk.offer(interaction, self._browser(request, interaction))
        page = self._text(
            request, offer.interaction.ui_locales, f"{settings.login_path}?{urlencode({'i': interaction})}"
        )
        card = f"{settings.card_origin}{DOOR_PATH}?{urlencode({'i': interaction})}"
        html = self.pages.choose(page, offer, card, own_page=is_own(interaction))
        return self._remember(request, _html(html))

    async def card_shown(self, request: Request) -> Response:
        """Where the door sends a browser that showed a certificate, or none."""
        return await self._page(request, self._card_shown)

    def _card_shown(self, request: Request) -> Response:
        interaction = _interaction(request.query_params.get("i", ""))
        name = request.query_params.get("shown", "")
        if not name:
            raise NotAuthorised("the browser showed no certificate", reason="no-certificate")
        return _redirect(self.desk.tls_card(interaction, self._browser(request, interaction), name))

    async def cancel(self, request: Request) -> Response:
        """The person goes back to the service without a log-in."""
        body = await _body(request)
        return await self._page(request, lambda _: self._cancel(request, body))

    def _cancel(self, request: Request, body: bytes) -> Response:
        self._check_origin(request)
        interaction = _interaction(_form(body).get("i", ""))
        where = self.desk.cancel(interaction, self._browser(request, interaction))
        if is_own(interaction):
            return _redirect(where)
        if urlsplit(where).scheme in ("javascript", "data", "vbscript", ""):
            raise MalformedError("the service has no address to go back to", reason="request")
        return _html(self.pages.leaving(self._text(request), where))

    async def assets(self, request: Request) -> Response:
        """Style, script, icon."""
        name = request.path_params["name"]
        if name not in ASSETS:
            return _html(self.pages.error(self._text(request), "missing"), 404)
        headers = {**HEADERS, "cache-control": "public, max-age=600"}
        return Response(asset(name), media_type=ASSETS[name], headers=headers)

    # The script's requests

    async def web_eid_challenge(self, request: Request) -> Response:
        return await self._json(request, lambda ask, browser: {"nonce": self.desk.web_eid_challenge(ask.i, browser)})

    async def web_eid(self, request: Request) -> Response:
        return await self._json(
            request, lambda ask, browser: {"location": self.desk.web_eid(ask.i, browser, bytes(ask.token))}
        )

    async def passkey_challenge(self, request: Request) -> Response:
        return await self._json(
            request, lambda ask, browser: msgspec.Raw(self.desk.passkey_options(ask.i, browser))
        )  # fmt: skip

    async def passkey(self, request: Request) -> Response:
        return await self._json(
            request, lambda ask, browser: {"location": self.desk.passkey(ask.i, browser, bytes(ask.credential))}
        )

    # A person's own passkeys

    async def own_page(self, request: Request) -> Response:
        """The list; or the log-in to it, for a browser in which nobody is logged in."""
        return await self._page(request, self._own_page)

    def _own_page(self, request: Request) -> Response:
        settings = self.desk.settings
        browser = self._own_browser(request)
        try:
            owner = self.own.owner(browser)
        except NotAuthorised:
            fresh = browser or secrets.token_urlsafe(32)
            answer = _redirect(f"{settings.login_path}?{urlencode({'i': own_id(fresh)})}")
            if not browser:
                self._set_cookie(answer, settings.own_cookie, fresh)
            return answer
        passkeys = self.desk.passkeys.of(owner, now=self.desk.clock())
        name = f"{owner.person.given_name} {owner.person.family_name}".strip()
        done = request.query_params.get("done", "")
        html = self.pages.passkeys(
            self._text(request, address=OWN_PATH), name, passkeys, own_id(browser),
            may_add=CARD_METHOD in owner.amr, done=done,
        )  # fmt: skip
        return self._remember(request, _html(html))

    async def own_challenge(self, request: Request) -> Response:
        def options(_: _Ask, browser: str) -> msgspec.Raw:
            return msgspec.Raw(
                self.desk.passkeys.enrol_options(self.own.owner(browser), browser, now=self.desk.clock())
            )  # fmt: skip

        return await self._json(request, options)

    async def own_add(self, request: Request) -> Response:
        def add(ask: _Ask, browser: str) -> Mapping[str, str]:
            owner = self.own.owner(browser)
            self.desk.passkeys.enrol(owner, bytes(ask.credential), browser, now=self.desk.clock())
            return {"location": f"{OWN_PATH}?done=added"}

        return await self._json(request, add)

    async def own_remove(self, request: Request) -> Response:
        body = await _body(request)
        return await self._page(request, lambda _: self._own_remove(request, body))

    def _own_remove(self, request: Request, body: bytes) -> Response:
        self._check_origin(request)
        owner = self.own.owner(self._own_browser(request))
        self.desk.passkeys.remove(owner, _credential(_form(body).get("credential", "")), now=self.desk.clock())
        return _redirect(f"{OWN_PATH}?done=removed")

    async def own_leave(self, request: Request) -> Response:
        return await self._page(request, self._own_leave)

    def _own_leave(self, request: Request) -> Response:
        self._check_origin(request)
        self.own.leave(self._own_browser(request))
        answer = _html(self.pages.logged_out(self._text(request)))
        self._set_cookie(answer, self.desk.settings.own_cookie, "")
        return answer

    # Common to all

    async def _page(self, request: Request, make: Callable[[Request], Response]) -> Response:
        """A page, or the page of what went wrong."""
        try:
            return await in_thread(make, request)
        except ExclaveError as error:
            _log_own(request, error)
            interaction = request.query_params.get("i", "")
            kind = kind_of(error)
            again = ""
            if INTERACTION.match(interaction) and kind in ("refused", "no_card"):
                again = f"{self.desk.settings.login_path}?{urlencode({'i': interaction})}"
            elif request.url.path.startswith(OWN_PATH) and kind in ("expired", "refused"):
                again = OWN_PATH
            return _html(self.pages.error(self._text(request), kind, again=again), status_of(error))

    async def _json(self, request: Request, make: Callable[[_Ask, str], object]) -> Response:
        """What the script asked for, or ``{"error": kind, "text": sentence}``."""
        try:
            ask = self._asked(request, await _body(request))
            found = await in_thread(make, ask, self._browser(request, ask.i))
        except ExclaveError as error:
            _log_own(request, error)
            kind = kind_of(error)
            wrong = {"error": kind, "text": self.pages.text(kind, self._text(request).language)}
            return _json(wrong, status_of(error))
        return _json(found, 200)

    def _asked(self, request: Request, body: bytes) -> _Ask:
        self._check_origin(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise MalformedError("the request is not JSON", reason="request")
        try:
            ask = msgspec.json.decode(body, type=_Ask)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise MalformedError("the request is not in the format", reason="request") from error
        _interaction(ask.i)
        return ask

    def _check_origin(self, request: Request) -> None:
        """Another site's page cannot post here in a citizen's name: browsers tell where a post comes from."""
        if request.headers.getlist("origin") != [self.desk.settings.origin]:
            raise NotAuthorised("the request does not come from the log-in pages", reason="origin")

    def _browser(self, request: Request, interaction: str) -> str:
        if is_own(interaction):
            return self._own_browser(request)
        return _short(request.cookies.get(self.desk.settings.cookie_name, ""))

    def _own_browser(self, request: Request) -> str:
        return _short(request.cookies.get(self.desk.settings.own_cookie, ""))

    def _text(self, request: Request, wished: tuple[str, ...] = (), address: str = "") -> PageText:
        """A choice on the page wins, then an earlier one, then what the service asked for, then the browser."""
        asked = (request.query_params.get("lang", ""), request.cookies.get(self.desk.settings.language_cookie, ""))
        language = self.pages.language((*asked, *wished), request.headers.get("accept-language", ""))
        exile = self.desk.settings.say_exile and self.desk.authority().state is IdentityState.EXILE
        return PageText(language, exile, address)

    def _remember(self, request: Request, answer: Response) -> Response:
        chosen = request.query_params.get("lang", "")
        if chosen in self.desk.settings.languages:
            self._set_cookie(answer, self.desk.settings.language_cookie, chosen)
        return answer

    def _set_cookie(self, answer: Response, name: str, value: str) -> None:
        secure = self.desk.settings.secure_cookies
        age = 0 if not value else None
        answer.set_cookie(name, value, max_age=age, path="/", secure=secure, httponly=True, samesite="lax")


def _log_own(request: Request, error: ExclaveError) -> None:
    """What the desk does not see: a person's own page. The path holds nothing of the person."""
    if request.url.path.startswith(OWN_PATH):
        _log.warning("own passkeys refused: reason=%s", error.facts.get("reason", error.code))


def _interaction(text: str) -> str:
    if not INTERACTION.match(text):
        raise NotAuthorised("this is no log-in's id", reason="interaction")
    return text


def _short(cookie: str) -> str:
    return cookie if len(cookie) <= _MAX_COOKIE else ""


def _credential(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MalformedError("this names no passkey", reason="request") from error


async def _body(request: Request) -> bytes:
    """The request's body. ``MalformedError`` as soon as it is longer than any good one, or if it breaks off."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise MalformedError("the request is too long", reason="request")
    except ClientDisconnect as error:
        raise MalformedError("the request broke off", reason="request") from error
    return bytes(body)


def _form(body: bytes) -> dict[str, str]:
    try:
        return parse_parameters(body, limit=4096)
    except MalformedError as error:
        raise MalformedError(error.message, reason="request") from error


def _html(page: str, status: int = 200) -> Response:
    return Response(page, status, media_type="text/html", headers=HEADERS)


def _json(value: object, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json", headers=HEADERS)


def _redirect(where: str) -> Response:
    """303: a browser repeats no post there."""
    return Response(b"", 303, headers={**HEADERS, "location": where})

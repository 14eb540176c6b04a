"""The authorization endpoint: a browser comes with a request and goes to the log-in page, or back with an answer."""

from __future__ import annotations

import logging

import msgspec

from exclave.crypto.jose import verify_jwt
from exclave.errors import CorruptObject, MalformedError
from exclave.formats.relying import RelyingService
from exclave.identity.op import sessions
from exclave.identity.op.authorization import (
    AuthorizationRequest,
    accept,
    refuse_secrets,
    safe_state,
    trusted_redirect,
)
from exclave.identity.op.interactions import answer_url, begin, granted
from exclave.identity.op.keys import ALGORITHMS, verifying
from exclave.identity.op.par import URN, pulled
from exclave.identity.op.refusal import Refusal, Untrusted
from exclave.identity.op.settings import OpParts
from exclave.identity.op.wire import (
    MAX_QUERY_BYTES,
    Call,
    Reply,
    b64url,
    browser_of,
    form_of,
    parse_parameters,
    redirect,
    with_parameters,
)
from exclave.ids import Instant

_log = logging.getLogger("exclave.oidc")
PATH = "/oidc/authorize"


class Hint(msgspec.Struct, frozen=True):
    """What is read of an ID token that comes back as a hint; it may have expired."""

    iss: str
    sub: str
    aud: str
    sid: str = ""


def authorize(parts: OpParts, call: Call, now: Instant) -> Reply:
    """The endpoint's answer. Raises ``Untrusted`` where the browser may not be sent anywhere."""
    try:
        asked = form_of(call) if call.method == "POST" else parse_parameters(call.query, limit=MAX_QUERY_BYTES)
        if call.method == "POST" and call.query:
            raise Untrusted("request")
    except MalformedError as error:
        raise Untrusted("request") from error
    refuse_secrets(asked)
    client = parts.store.service(asked.get("client_id", ""))
    if asked.get("request_uri", "").startswith(URN):
        if client is None or not client.enabled:
            raise Untrusted("client")
        return _answered(parts, client, pulled(parts, client, asked["request_uri"], now), call, now)
    uri = trusted_redirect(asked, client)
    assert client is not None
    try:
        request = accept(asked, client, parts.settings, pushed=False)
    except Refusal as refusal:
        return redirect(_error_url(parts, uri, safe_state(asked), refusal))
    return _answered(parts, client, request, call, now)


def _answered(parts: OpParts, client: RelyingService, request: AuthorizationRequest, call: Call, now: Instant) -> Reply:
    try:
        subject = _hinted(parts, client, request.hint)
    except Refusal as refusal:
        return redirect(_error_url(parts, request.redirect_uri, request.state, refusal))
    name = parts.settings.cookie_name
    browser = browser_of(call.cookies, name)
    session = sessions.current(parts, browser, now) if parts.settings.single_sign_on else None
    if session is not None and sessions.suffices(session, request, subject, now):
        sid = sessions.opened(parts, browser, session.who, client, now)
        return redirect(granted(parts, request, session.who, sid, now))
    if request.prompt == "none":
        return redirect(answer_url(parts, request, {"error": "login_required"}))
    fresh = browser or b64url(parts.randomness(32))
    secure = "; Secure" if parts.settings.secure_cookies else ""
    cookie = ("set-cookie", f"{name}={fresh}; Path=/{secure}; HttpOnly; SameSite=Lax")
    return redirect(begin(parts, request, fresh, subject, now), *(() if browser else (cookie,)))


def _error_url(parts: OpParts, uri: str, state: str, refusal: Refusal) -> str:
    _log.warning("authorize refused: %s, %s", refusal.error, refusal.description)
    answer = {"error": refusal.error, "error_description": refusal.description}
    return with_parameters(uri, {**answer, **({"state": state} if state else {}), "iss": parts.settings.issuer})


def _hinted(parts: OpParts, client: RelyingService, token: str) -> str:
    """Whom ``id_token_hint`` names, empty without one. ``Refusal`` if it is no token that ``client`` got from here."""
    if not token:
        return ""
    hint = read_hint(parts, token)
    if hint is None or hint.aud != client.client_id:
        raise Refusal("invalid_request", "id_token_hint is no ID token of this client")
    return hint.sub


def read_hint(parts: OpParts, token: str) -> Hint | None:
    """The claims of an ID token that any place of this provider signed, however old; None for anything else."""
    try:
        claims = msgspec.json.decode(verify_jwt(token, verifying(parts), ALGORITHMS), type=Hint)
    except (MalformedError, CorruptObject, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return claims if claims.iss == parts.settings.issuer else None

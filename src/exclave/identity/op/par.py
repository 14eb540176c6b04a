"""Pushed authorization requests (RFC 9126): the client itself brings the request, and the browser only its name."""

from __future__ import annotations

from exclave.formats.relying import RelyingService
from exclave.identity.op.authorization import AuthorizationRequest, accept, trusted_redirect
from exclave.identity.op.clients import authenticated
from exclave.identity.op.codes import PUSHED, encode, parse_pushed
from exclave.identity.op.refusal import Refusal, Untrusted
from exclave.identity.op.settings import OpParts
from exclave.identity.op.token import client_form
from exclave.identity.op.wire import Call, Reply, b64url, hashed, json_reply
from exclave.ids import Instant

PATH = "/oidc/par"
URN = "urn:ietf:params:oauth:request_uri:"
_OF_CLIENT = frozenset({"client_secret", "client_assertion", "client_assertion_type"})


def push(parts: OpParts, call: Call, now: Instant) -> Reply:
    """The endpoint's answer. Raises ``Refusal``: whatever would be refused later is refused at once."""
    form = client_form(call)
    client = authenticated(parts, call, form, now, here=parts.settings.url(PATH))
    asked = {name: value for name, value in form.items() if name not in _OF_CLIENT}
    if "request_uri" in asked:
        raise Refusal("invalid_request", "request_uri must not be pushed")
    try:
        trusted_redirect(asked, client)
    except Untrusted as error:
        raise Refusal("invalid_request", "redirect_uri is not one that this client registered") from error
    request = accept(asked, client, parts.settings, pushed=True)
    name, lasts_s = b64url(parts.randomness(32)), parts.settings.pushed_s
    parts.tickets.put(PUSHED, hashed(name), encode(request), Instant(now + lasts_s * 1_000_000))
    return json_reply(201, {"request_uri": URN + name, "expires_in": lasts_s})


def pulled(parts: OpParts, client: RelyingService, uri: str, now: Instant) -> AuthorizationRequest:
    """The request that ``client`` pushed under ``uri``; once. ``Untrusted`` if there is none, or another client's."""
    data = parts.tickets.take(PUSHED, hashed(uri.removeprefix(URN)), now=now)
    request = None if data is None else parse_pushed(data)
    if request is None or request.client_id != client.client_id or request.redirect_uri not in client.redirect_uris:
        raise Untrusted("pushed")
    return request

"""The token endpoint (OpenID Connect Core, section 3.1.3): a code for an ID token and an access token."""

from __future__ import annotations

import hashlib
import hmac
import re

from exclave.errors import MalformedError
from exclave.formats.relying import RelyingService
from exclave.identity.op.clients import authenticated
from exclave.identity.op.codes import ACCESS, CODE, Access, Code, access_name, encode, parse_code
from exclave.identity.op.refusal import Refusal
from exclave.identity.op.settings import OpParts
from exclave.identity.op.tokens import id_token
from exclave.identity.op.wire import Call, Reply, b64url, form_of, hashed, json_reply
from exclave.ids import Instant

PATH = "/oidc/token"
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}\Z")


def token(parts: OpParts, call: Call, now: Instant) -> Reply:
    """The endpoint's answer. Raises ``Refusal``."""
    form = client_form(call)
    client = authenticated(parts, call, form, now, here=parts.settings.url(PATH))
    if "grant_type" not in form:
        raise Refusal("invalid_request", "grant_type is missing")
    if form["grant_type"] != "authorization_code":
        raise Refusal("unsupported_grant_type", "only grant_type=authorization_code is supported")
    if "code" not in form:
        raise Refusal("invalid_request", "code is missing")
    return _redeemed(parts, client, form, now)


def client_form(call: Call) -> dict[str, str]:
    """The form that a client posted. ``Refusal`` if it is none, or if anything stands in the address: what is secret
    there would end in logs (RFC 6749, section 2.3.1)."""
    if call.query:
        raise Refusal("invalid_request", "parameters belong into the body and not into the address")
    try:
        return form_of(call)
    except MalformedError as error:
        raise Refusal("invalid_request", error.message) from error


def _redeemed(parts: OpParts, client: RelyingService, form: dict[str, str], now: Instant) -> Reply:
    """(1) look at the code, (2) make and keep the tokens, (3) take the code. Only one of several racers takes it; any
    other, now or later, ends the access token of whoever did. If the process dies before (3), the code goes on."""
    key = hashed(form["code"])
    name = access_name(key)
    data = parts.tickets.get(CODE, key, now=now)
    if data is None:
        parts.tickets.take(ACCESS, name, now=now)
        raise Refusal("invalid_grant", "the code is unknown, has expired or was used before")
    code = parse_code(data)
    if fault := _fault(parts, client, code, form):
        parts.tickets.take(CODE, key, now=now)  # somebody has it who should not: it is good for nobody now
        raise Refusal("invalid_grant", fault)
    access_token = f"{b64url(name)}.{b64url(parts.randomness(32))}"
    signed = id_token(parts, client, code, access_token, now)
    lasts_s = parts.settings.access_token_s
    access = encode(Access(hashed(access_token), client.client_id, code.who))
    parts.tickets.put(ACCESS, name, access, Instant(now + lasts_s * 1_000_000))
    if parts.tickets.take(CODE, key, now=now) is None:
        parts.tickets.take(ACCESS, name, now=now)
        raise Refusal("invalid_grant", "the code was used before")
    return json_reply(
        200, {"access_token": access_token, "token_type": "Bearer", "expires_in": lasts_s, "id_token": signed}
    )


def _fault(parts: OpParts, client: RelyingService, code: Code, form: dict[str, str]) -> str:
    """Why this client may not have what the code stands for; empty: it may."""
    if code.client_id != client.client_id:
        return "the code was given to another client"
    if code.epoch != parts.authority().epoch:
        return "the authority moved since the code was given"
    if form.get("redirect_uri") != code.redirect_uri or code.redirect_uri not in client.redirect_uris:
        return "redirect_uri is not the one that the code was asked for with"
    verifier = form.get("code_verifier", "")
    if bool(verifier) != bool(code.challenge):  # either half alone is a downgrade (RFC 9700, section 4.8.2)
        return "code_verifier is missing, or the code was asked for without code_challenge"
    if not code.challenge:
        return "this client must use PKCE" if client.require_pkce or "none" in client.auth_methods else ""
    if not _VERIFIER.match(verifier):
        return "code_verifier has other than 43 to 128 unreserved characters"
    made = b64url(hashlib.sha256(verifier.encode("ascii")).digest())
    return "" if hmac.compare_digest(made, code.challenge) else "code_verifier does not fit"

"""UserInfo (OpenID Connect Core, section 5.3), which TARA calls ``profile``."""

from __future__ import annotations

import base64
import binascii
import hmac

import msgspec

from exclave.errors import MalformedError
from exclave.identity.op.codes import ACCESS, parse_access
from exclave.identity.op.refusal import Refusal
from exclave.identity.op.settings import OpParts
from exclave.identity.op.wire import Call, Reply, form_of, hashed, json_reply
from exclave.ids import Instant

PATH = "/oidc/profile"


class UserInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """The claims, beside each other as TARA writes them."""

    sub: str
    given_name: str
    family_name: str
    amr: tuple[str, ...]
    acr: str
    auth_time: int
    date_of_birth: str = ""


def profile(parts: OpParts, call: Call, now: Instant) -> Reply:
    """The endpoint's answer to a GET or POST with a bearer token (RFC 6750). Raises ``Refusal``."""
    token = _bearer(call)
    name = _name(token)
    data = parts.tickets.get(ACCESS, name, now=now) if name else None
    if data is None:
        raise _invalid()
    access = parse_access(data)
    client = parts.store.service(access.client_id)
    if client is None or not client.enabled or not hmac.compare_digest(access.secret, hashed(token)):
        raise _invalid()
    who = access.who
    return json_reply(
        200,
        UserInfo(
            who.subject, who.given_name, who.family_name, who.amr, who.acr, who.time // 1_000_000, who.date_of_birth
        ),
    )


def _bearer(call: Call) -> str:
    """The token of the header or, failing that, of a posted form; never of the address (RFC 9700, section 4.3.2)."""
    if call.query:
        raise Refusal("invalid_request", "an access token must not stand in the address")
    try:
        posted = form_of(call).get("access_token", "") if call.body else ""
    except MalformedError as error:
        raise Refusal("invalid_request", error.message) from error
    if len(call.authorization) + bool(posted) > 1:
        raise Refusal("invalid_request", "a request has one access token")
    if not call.authorization:
        if not posted:
            raise Refusal("invalid_request", "no access token", status=401, challenge='Bearer realm="oidc"')
        return posted
    scheme, _, token = call.authorization[0].partition(" ")
    if scheme.lower() != "bearer":
        raise Refusal("invalid_request", "no access token", status=401, challenge='Bearer realm="oidc"')
    return token.strip()


def _name(token: str) -> bytes:
    """Where the token's ticket would lie: its first half; empty for a text that is no token of ours."""
    half, dot, _ = token.partition(".")
    if not dot or len(half) != 22 or len(token) > 200:
        return b""
    try:
        return base64.b64decode(half + "==", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _invalid() -> Refusal:
    challenge = 'Bearer realm="oidc", error="invalid_token"'
    return Refusal("invalid_token", "the access token is unknown or has expired", status=401, challenge=challenge)

"""Who calls the token and PAR endpoints (RFC 6749, section 2.3; RFC 7523, section 3): one method, and no other.

Nothing tells an unknown client from a wrong secret: the same work is done and the same answer given.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import unquote_plus

import msgspec

from exclave.crypto.jose import VERIFIED, parse_jwks, verify_jwt
from exclave.errors import CorruptObject, MalformedError
from exclave.formats.relying import RelyingService
from exclave.identity.op.codes import ASSERTION
from exclave.identity.op.refusal import Refusal
from exclave.identity.op.settings import OpParts
from exclave.identity.op.wire import Call, hashed
from exclave.ids import Instant

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_ASSERTION_S = 300
"""How far ahead an assertion may expire; so long its ``jti`` is remembered."""
_SKEW_S = 30
_NOBODY = (hashlib.sha256(b"the secret of nobody").hexdigest(),)


class _Assertion(msgspec.Struct, frozen=True):
    iss: str
    sub: str
    aud: str | tuple[str, ...]
    exp: float
    jti: str
    iat: float = 0
    nbf: float = 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """Who the caller says he is, and how he means to show it; nothing is verified yet."""

    client_id: str
    method: str
    proof: str = ""
    """The secret or the assertion."""


def claimed(call: Call, form: dict[str, str]) -> Claimed:
    """The one method of the request. ``Refusal`` (``invalid_request``) for two, ``invalid_client`` for none."""
    basic, post, jwt = bool(call.authorization), "client_secret" in form, "client_assertion" in form
    if basic + post + jwt > 1 or len(call.authorization) > 1:
        raise Refusal("invalid_request", "a request authenticates its client in one way only")
    if jwt != ("client_assertion_type" in form):
        raise Refusal("invalid_request", "client_assertion and client_assertion_type belong together")
    if basic:
        found = _basic(call.authorization[0])
    elif jwt:
        if form["client_assertion_type"] != ASSERTION_TYPE:
            raise Refusal("invalid_request", "client_assertion_type is not that of RFC 7523")
        found = Claimed(_subject(form["client_assertion"]), "private_key_jwt", form["client_assertion"])
    elif "client_id" not in form:
        raise _refused("basic")
    elif post:
        found = Claimed(form["client_id"], "client_secret_post", form["client_secret"])
    else:
        found = Claimed(form["client_id"], "none")
    if form.get("client_id", found.client_id) != found.client_id:
        raise Refusal("invalid_request", "client_id is not the client that authenticates")
    return found


def authenticated(parts: OpParts, call: Call, form: dict[str, str], now: Instant, *, here: str) -> RelyingService:
    """The client, as it is registered at this moment. ``here``: the URL of the endpoint, which an assertion may name.

    Raises ``Refusal``: ``invalid_client`` (401) where the client is unknown, disabled, does not use that method or does
    not prove it, and where the request comes from a network that it did not register.
    """
    claim = claimed(call, form)
    client = parts.store.service(claim.client_id)
    known = client is not None and client.enabled and claim.method in client.auth_methods
    if claim.method in ("client_secret_basic", "client_secret_post"):
        proven = _secret_fits(claim.proof, client.secret_sha256 if known and client is not None else _NOBODY)
    elif claim.method == "private_key_jwt":
        proven = known and client is not None and _assertion_fits(parts, client, claim.proof, now, here)
    else:
        proven = True
    if client is None or not known or not proven:
        raise _refused(claim.method)
    if not from_registered_network(client.addresses, call.address):
        raise Refusal("invalid_client", "this client does not call from this network", status=401)
    return client


def _basic(header: str) -> Claimed:
    """RFC 6749, section 2.3.1: both halves are form-encoded before they are joined."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic" or len(text) > 4096:
        raise _refused("basic")
    try:
        user, colon, secret = base64.b64decode(text.strip(), validate=True).decode("utf-8").partition(":")
        client_id, proof = unquote_plus(user, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise _refused("basic") from error
    if not colon or not client_id or not proof:
        raise _refused("basic")
    return Claimed(client_id, "client_secret_basic", proof)


def _secret_fits(secret: str, hashes: tuple[str, ...]) -> bool:
    """In a time that depends on how many secrets the client has and on nothing else."""
    given = hashlib.sha256(secret.encode("utf-8")).hexdigest()
    fits = False
    for good in hashes or _NOBODY:
        fits |= hmac.compare_digest(given, good)
    return fits


def _subject(assertion: str) -> str:
    """Whose assertion it says it is; that is proven later."""
    try:
        payload = assertion.split(".")[1]
        data = base64.b64decode(payload + "=" * (-len(payload) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(data, type=_Assertion).sub
    except (IndexError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise _refused("private_key_jwt") from error


def _assertion_fits(parts: OpParts, client: RelyingService, token: str, now: Instant, here: str) -> bool:
    try:
        payload = verify_jwt(
            token, parse_jwks(client.jwks.encode()), VERIFIED, typ=("JWT", "client-authentication+jwt")
        )
        claims = msgspec.json.decode(payload, type=_Assertion)
    except (MalformedError, CorruptObject, msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    seconds = now / 1_000_000
    audience = (claims.aud,) if isinstance(claims.aud, str) else claims.aud
    ours = {parts.settings.issuer, parts.settings.url("/oidc/token"), here}
    if claims.iss != client.client_id or claims.sub != client.client_id or len(audience) != 1:
        return False
    if audience[0] not in ours or not 1 <= len(claims.jti) <= 256:
        return False
    if not seconds - _SKEW_S < claims.exp <= seconds + MAX_ASSERTION_S + _SKEW_S:
        return False
    if claims.iat > seconds + _SKEW_S or claims.nbf > seconds + _SKEW_S:
        return False
    until = Instant(now + (MAX_ASSERTION_S + 2 * _SKEW_S) * 1_000_000)
    return parts.tickets.add(ASSERTION, hashed(f"{client.client_id}\n{claims.jti}"), b"", until, now=now)


@lru_cache(maxsize=4096)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text)


def from_registered_network(networks: tuple[str, ...], address: str) -> bool:
    """Whether ``address`` lies in one of ``networks``; none registered: any does."""
    if not networks:
        return True
    try:
        caller = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(caller, "ipv4_mapped", None)
    caller = mapped if mapped is not None else caller
    return any(caller.version == net.version and caller in net for net in map(_network, networks))


def _refused(method: str) -> Refusal:
    challenge = 'Basic realm="oidc", charset="UTF-8"' if "basic" in method else ""
    return Refusal(
        "invalid_client", "the client is unknown or does not prove who it is", status=401, challenge=challenge
    )

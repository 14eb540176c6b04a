"""What the provider signs: ID tokens as TARA writes them, and logout tokens."""

from __future__ import annotations

import base64
import hashlib

import msgspec

from exclave.crypto.jose import sign_jwt
from exclave.formats.relying import RelyingService
from exclave.identity.op.codes import Code, Who
from exclave.identity.op.settings import OpParts
from exclave.identity.op.wire import b64url
from exclave.ids import Instant

LOGOUT_TYPE = "logout+jwt"
_LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_LOGOUT_S = 120
_json = msgspec.json.Encoder().encode


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """TARA's ``profile_attributes``; the date of birth is left out where it is not known."""

    given_name: str
    family_name: str
    date_of_birth: str = ""


class IdToken(msgspec.Struct, frozen=True, omit_defaults=True):
    """The claims of an ID token; times are seconds since 1970."""

    iss: str
    sub: str
    aud: str
    exp: int
    iat: int
    nbf: int
    jti: str
    auth_time: int
    acr: str
    amr: tuple[str, ...]
    at_hash: str
    sid: str
    profile_attributes: Profile
    state: str = ""
    nonce: str = ""


def profile_of(who: Who) -> Profile:
    return Profile(who.given_name, who.family_name, who.date_of_birth)


def at_hash(access_token: str, *, standard: bool) -> str:
    """The left half of the SHA-256 of an access token, base64url (OpenID Connect Core, section 3.1.3.6); ``standard``:
    in standard base64 with padding, as TARA writes it."""
    half = hashlib.sha256(access_token.encode("ascii")).digest()[:16]
    return base64.b64encode(half).decode("ascii") if standard else b64url(half)


def id_token(parts: OpParts, client: RelyingService, code: Code, access_token: str, now: Instant) -> str:
    """The signed ID token for what ``code`` stands for. ``UnavailableError`` if the key does not answer."""
    who, seconds = code.who, now // 1_000_000
    claims = IdToken(
        iss=parts.settings.issuer,
        sub=who.subject,
        aud=client.client_id,
        exp=seconds + parts.settings.id_token_s,
        iat=seconds,
        nbf=seconds,
        jti=b64url(parts.randomness(16)),
        auth_time=who.time // 1_000_000,
        acr=who.acr,
        amr=who.amr,
        at_hash=at_hash(access_token, standard="tara-at-hash" in client.quirks),
        sid=code.sid,
        profile_attributes=profile_of(who),
        state=code.state,
        nonce=code.nonce,
    )
    kid, signer = parts.delegates.token(client.signing_alg)
    return sign_jwt(signer, kid, _json(claims))


def logout_token(parts: OpParts, client: RelyingService, subject: str, sid: str, now: Instant) -> str:
    """Tells ``client`` that the session ``sid`` is over (OpenID Connect Back-Channel Logout, section 2.4)."""
    seconds = now // 1_000_000
    claims = {
        "iss": parts.settings.issuer,
        "sub": subject,
        "aud": client.client_id,
        "iat": seconds,
        "exp": seconds + _LOGOUT_S,
        "jti": b64url(parts.randomness(16)),
        "sid": sid,
        "events": {_LOGOUT_EVENT: {}},
    }
    kid, signer = parts.delegates.token(client.signing_alg)
    return sign_jwt(signer, kid, _json(claims), typ=LOGOUT_TYPE)

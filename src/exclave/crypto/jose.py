"""JSON Web Tokens, signed with a ``Signer`` and verified against a closed list of algorithms (RFC 7515, 7517, 7519).

What a token says of its own key is never believed: a header holds ``alg``, ``kid`` and ``typ``, and nothing else; the
key comes from a set that was registered before, and must be of the algorithm's kind (RFC 8725, sections 3.1 to 3.5).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from exclave.crypto.jwk import public_jwks
from exclave.crypto.signer import Algorithm, Signer
from exclave.errors import CorruptObject, MalformedError

MAX_TOKEN_CHARS = 8192
MAX_JWKS_BYTES = 64 << 10
MAX_KEYS = 32
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 4096
_KINDS = {"RS256": "RSA", "PS256": "RSA", "ES256": "P-256", "ES384": "P-384"}
VERIFIED = tuple(_KINDS)
"""What other people's tokens may be signed with."""
_WIDTHS = {Algorithm.ES256: 32, Algorithm.ES384: 48}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: str | None = None
    typ: str | None = None


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """A JWK set that was read: by kid, each key with its kind (``RSA``, ``P-256``, ``P-384``) and pinned algorithm."""

    keys: tuple[tuple[str, str, str, RSAKey | ECKey], ...] = field(repr=False)
    """(kid or empty, kind, alg or empty, key)."""


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


# Signing


@lru_cache(maxsize=64)
def _header(algorithm: str, kid: str, typ: str) -> str:
    return _b64url(msgspec.json.encode({"alg": algorithm, "kid": kid, "typ": typ}))


def sign_jwt(signer: Signer, kid: str, claims: bytes, *, typ: str = "JWT") -> str:
    """The compact form of a token over ``claims`` (JSON). ``UnavailableError`` if the key does not answer."""
    algorithm = signer.algorithm
    body = f"{_header(algorithm.value, kid, typ)}.{_b64url(claims)}"
    signature = signer.sign(body.encode("ascii"))
    width = _WIDTHS.get(algorithm)
    if width is not None:  # JOSE wants R || S of full width (RFC 7518, section 3.4)
        r, s = decode_dss_signature(signature)
        signature = r.to_bytes(width, "big") + s.to_bytes(width, "big")
    return f"{body}.{_b64url(signature)}"


@lru_cache(maxsize=64)
def _jwk(public_der: bytes) -> dict[str, str]:
    return msgspec.json.decode(public_jwks([public_der]), type=dict[str, list[dict[str, str]]])["keys"][0]


def jwk_of(signer: Signer, kid: str) -> dict[str, str]:
    """The public half as a JWK, pinned to its algorithm."""
    return {**_jwk(signer.public_der), "kid": kid}


# Verifying


@lru_cache(maxsize=1024)
def parse_jwks(data: bytes) -> PublicKeys:
    """The signature keys of a JWK set; those of other uses and kinds are left out (RFC 7517, section 5).

    ``MalformedError`` for other content, a private or secret key, an RSA key of other than 2048 to 4096 bits, a point
    that is not on its curve, or a kid that occurs twice.
    """
    if len(data) > MAX_JWKS_BYTES:
        raise MalformedError(f"a JWK set takes more than {MAX_JWKS_BYTES} bytes")
    try:
        held: dict[str, list[dict[str, object]]] = msgspec.json.decode(data, type=dict[str, list[dict[str, object]]])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedError("not a JWK set") from error
    listed = held.get("keys", [])
    if not 1 <= len(listed) <= MAX_KEYS:
        raise MalformedError(f"a JWK set has 1 to {MAX_KEYS} keys")
    read = [key for key in (_parse_jwk(jwk) for jwk in listed) if key is not None]
    kids = [kid for kid, _, _, _ in read if kid]
    if len(set(kids)) != len(kids):
        raise MalformedError("a JWK set gives one kid to two keys")
    return PublicKeys(tuple(read))


def _parse_jwk(jwk: Mapping[str, object]) -> tuple[str, str, str, RSAKey | ECKey] | None:
    if not _PRIVATE.isdisjoint(jwk):
        raise MalformedError("a JWK set holds a private or secret key; it must be replaced, since it was shown")
    kind = {"RSA": "RSA", "EC": str(jwk.get("crv"))}.get(str(jwk.get("kty")), "")
    if kind not in _KINDS.values() or jwk.get("use", "sig") != "sig":
        return None
    names = ("kty", "n", "e") if kind == "RSA" else ("kty", "crv", "x", "y")
    plain = {name: str(jwk.get(name, "")) for name in names}
    key: RSAKey | ECKey
    try:
        key = RSAKey.import_key(plain) if kind == "RSA" else ECKey.import_key(plain)  # type: ignore[arg-type]
        size = key.raw_value.key_size
    except (JoseError, ValueError, TypeError, UnicodeError) as error:
        raise MalformedError("a key of a JWK set cannot be read") from error
    if kind == "RSA" and not MIN_RSA_BITS <= size <= MAX_RSA_BITS:
        raise MalformedError(f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    return str(jwk.get("kid", "")), kind, str(jwk.get("alg", "")), key


def verify_jwt(token: str, keys: PublicKeys, algorithms: tuple[str, ...], *, typ: tuple[str, ...] = ("JWT",)) -> bytes:
    """The claims (JSON, not yet looked at) of a token that one of ``keys`` signed with one of ``algorithms``.

    ``MalformedError`` for what is no such token, ``CorruptObject`` if no key fits or the signature does not verify.
    ``typ`` may be missing.
    """
    parts = token.split(".")
    if len(token) > MAX_TOKEN_CHARS or not token.isascii() or len(parts) != 3:
        raise MalformedError("not a signed token")
    try:
        padded = parts[0] + "=" * (-len(parts[0]) % 4)
        header = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=_Header)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise MalformedError("a token's header has more than alg, kid and typ, or is none") from error
    if header.alg not in algorithms or header.alg not in _KINDS:
        raise MalformedError("a token is signed with an algorithm that is not accepted")
    if header.typ is not None and header.typ.lower() not in {t.lower() for t in typ}:
        raise MalformedError("a token is of another type")
    key = _chosen(keys, header)
    try:
        return jws.deserialize_compact(token, key, algorithms=[header.alg]).payload
    except (JoseError, ValueError, TypeError) as error:
        raise CorruptObject("a token's signature does not verify") from error


def _chosen(keys: PublicKeys, header: _Header) -> RSAKey | ECKey:
    """The key with the header's kid; without one, the only key that fits."""
    fit = [
        (kid, key)
        for kid, kind, alg, key in keys.keys
        if kind == _KINDS[header.alg] and alg in ("", header.alg) and (header.kid is None or kid == header.kid)
    ]
    if len(fit) != 1:
        raise CorruptObject("no key fits a token, or several do")
    return fit[0][1]

"""The token keys that are published: this place's own and, since years before they are needed, every other place's.

Relying services keep a JWK set for up to a day, so a key that an embassy will sign with must stand in it long before.
"""

from __future__ import annotations

import msgspec

from exclave.crypto.jose import PublicKeys, jwk_of, parse_jwks
from exclave.errors import ExclaveError, MalformedError, UnavailableError
from exclave.identity.op.settings import OpParts

ALGORITHMS = ("RS256", "ES256")
MAX_PUBLISHED = 32
_json = msgspec.json.Encoder().encode
_SHOWN = ("kid", "kty", "use", "alg", "n", "e", "crv", "x", "y")


def published(parts: OpParts) -> bytes:
    """The JWK set, JSON: own keys first, then those of places in the order of their labels. A kid that stands there
    already is left out, and so is all of a place whose keys are withdrawn, or that the charter does not know.
    ``UnavailableError`` if no key is left."""
    here, withdrawn, places = parts.authority().place, parts.withdrawn(), parts.places()
    keys: dict[str, dict[str, str]] = {}
    for algorithm in ALGORITHMS:
        try:
            kid, signer = parts.delegates.token(algorithm)
        except ExclaveError:  # this place has no such key, or its token is out: its public half is in the journal
            continue
        keys[kid] = jwk_of(signer, kid)
    for place, data in sorted(parts.store.place_keys().items()):
        if place != here and (place in withdrawn or (places is not None and place not in places)):
            continue
        for jwk in _public(data):
            keys.setdefault(jwk["kid"], jwk)
    if not keys:
        raise UnavailableError("there is no token key to publish")
    return _json({"keys": list(keys.values())[:MAX_PUBLISHED]})


def verifying(parts: OpParts) -> PublicKeys:
    """The same keys, to check a token that this provider gave, at whatever place."""
    return parse_jwks(published(parts))


def _public(data: bytes) -> list[dict[str, str]]:
    """The keys of a place as the journal has them, with known members only. A set that cannot be read, or that shows a
    private key, is left out: one place's fault must not take every place's keys away."""
    try:
        parse_jwks(data)
        listed = msgspec.json.decode(data, type=dict[str, list[dict[str, object]]])["keys"]
    except MalformedError:
        return []
    return [{name: str(jwk[name]) for name in _SHOWN if name in jwk} for jwk in listed if jwk.get("kid")]

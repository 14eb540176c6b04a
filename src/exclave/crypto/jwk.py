"""Public keys as JWK (RFC 7517) and their thumbprints (RFC 7638)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from exclave.crypto.signer import Algorithm
from exclave.crypto.signer_file import public_key_algorithm
from exclave.errors import MalformedError

MAX_JWKS_BYTES = 256 << 10
MAX_KEYS = 100


def _key(public_der: bytes) -> ECKey | RSAKey:
    kind = RSAKey if public_key_algorithm(public_der) is Algorithm.RS256 else ECKey
    return kind.import_key(public_der)


def thumbprint(public_der: bytes) -> str:
    """Base64url of SHA-256 over the key's canonical JSON: our ``kid``. ``MalformedError`` for no such key."""
    return _key(public_der).thumbprint()


def public_jwks(public_ders: Iterable[bytes]) -> bytes:
    """A JWK set of signing keys (JSON), sorted by kid."""
    keys: list[dict[str, str]] = []
    for der in public_ders:
        values = {name: str(value) for name, value in _key(der).as_dict(private=False).items()}
        keys.append({**values, "kid": thumbprint(der), "use": "sig", "alg": public_key_algorithm(der).value})
    return json.dumps(
        {"keys": sorted(keys, key=lambda key: key["kid"])}, sort_keys=True, separators=(",", ":")
    ).encode()


def kids_of(jwks: bytes) -> Mapping[str, str]:
    """Of a JWK set from elsewhere: thumbprint by the ``kid`` that it gives, for the keys that are of our kinds.

    ``MalformedError`` for what is no JWK set. Keys of other kinds are left out, as RFC 7517, section 5, has it.
    """
    if len(jwks) > MAX_JWKS_BYTES:
        raise MalformedError(f"a JWK set of more than {MAX_JWKS_BYTES} bytes")
    try:
        keys = json.loads(jwks)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedError("not a JWK set") from error
    if not isinstance(keys, list) or len(keys) > MAX_KEYS or not all(isinstance(key, dict) for key in keys):
        raise MalformedError(f"a JWK set must be a list of at most {MAX_KEYS} keys")
    found: dict[str, str] = {}
    for key in keys:
        kid = key.get("kid")
        if key.get("kty") not in ("EC", "RSA") or not isinstance(kid, str):
            continue
        try:
            found[kid] = (ECKey if key["kty"] == "EC" else RSAKey).import_key(key).thumbprint()
        except (JoseError, ValueError, TypeError):
            continue  # a key that is broken is no key of ours
    return found

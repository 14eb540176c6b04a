"""Messages signed by other people's software: JWS compact serialization (RFC 7515), Ed25519 or ES256, known keys.

The header holds ``alg`` and ``kid`` and nothing else but ``typ``; which algorithm is right follows from the key, never
from the header (RFC 8725, section 3.1).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey

from exclave.errors import CorruptObject, MalformedError

MAX_HEADER_CHARS = 512
MAX_KEY_BYTES = 8192
MAX_MESSAGE_BYTES = 8 << 20
_NOT_ONE = "not a signed message: three parts of base64url, joined by dots"
_NOT_KNOWN = "the message is not signed by a key that is known here"


class _Registry(jws.JWSRegistry):
    max_payload_length = MAX_MESSAGE_BYTES


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: str
    typ: str | None = None


@dataclass(frozen=True, slots=True)
class SenderKey:
    """A sender's public key and the names of the one algorithm that it signs with: ``Ed25519`` (RFC 9864; ``EdDSA`` in
    older libraries) or ``ES256``."""

    algorithms: tuple[str, ...]
    _key: OKPKey | ECKey = field(repr=False)


def parse_sender_key(data: bytes) -> SenderKey:
    """A public key in PEM (SubjectPublicKeyInfo): Ed25519 or P-256. Raises ``MalformedError``."""
    try:
        key = serialization.load_pem_public_key(data[: MAX_KEY_BYTES + 1])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("this is not a public key in PEM") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return SenderKey(("Ed25519", "EdDSA"), OKPKey.import_key(_pem(key)))
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return SenderKey(("ES256",), ECKey.import_key(_pem(key)))
    raise MalformedError("a sender's key is Ed25519 or ECDSA on P-256")


def _pem(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def verify_message(data: bytes, keys: Mapping[str, SenderKey]) -> tuple[str, bytes]:
    """(kid, payload) of a message that the owner of ``keys[kid]`` signed.

    ``MalformedError`` for what is no such message; ``CorruptObject`` for an unknown kid, another algorithm than the
    key's, or a signature that does not verify: which of them is for nobody to know.
    """
    if len(data) > MAX_MESSAGE_BYTES or data.count(b".") != 2 or not data.isascii():
        raise MalformedError(_NOT_ONE)
    told = _known_header(data, keys)
    key = keys[told.kid]
    try:
        return told.kid, jws.deserialize_compact(data, key._key, registry=_Registry(algorithms=[told.alg])).payload
    except (JoseError, ValueError, TypeError) as error:
        raise CorruptObject(_NOT_KNOWN) from error


def check_sender(start: bytes, keys: Mapping[str, SenderKey]) -> None:
    """Whether a message that begins with ``start``, its header and perhaps more, says that a known key signed it: who
    sends rubbish need not be listened to. It proves nothing. Errors as ``verify_message``."""
    _known_header(start, keys)


def _known_header(data: bytes, keys: Mapping[str, SenderKey]) -> _Header:
    part = data[: MAX_HEADER_CHARS + 1].split(b".", 1)[0]
    if len(part) > MAX_HEADER_CHARS or not part.isascii():
        raise MalformedError(_NOT_ONE)
    try:
        header = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
        told = msgspec.json.decode(header, type=_Header)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise MalformedError("the header of a signed message has alg and kid, and at most typ beside them") from error
    key = keys.get(told.kid)
    if key is None or told.alg not in key.algorithms:
        raise CorruptObject(_NOT_KNOWN)
    return told

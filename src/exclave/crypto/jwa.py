"""Signatures as JSON Web Algorithms name them (RFC 7518, sections 3.3 to 3.5), without an envelope."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from exclave.errors import CorruptObject, MalformedError

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
ALGORITHMS = frozenset(kind + size for kind in ("ES", "PS", "RS") for size in _HASHES)


def digest_of(algorithm: str, data: bytes) -> bytes:
    """The hash of ``data`` that ``algorithm`` names."""
    return hashlib.new(f"sha{algorithm[2:]}", data).digest()


def verify_jwa(algorithm: str, spki: bytes, signature: bytes, message: bytes) -> None:
    """``signature`` over ``message`` by the key ``spki`` (DER).

    ECDSA: R || S of the curve's own size, and the curve that RFC 7518 binds to the name; PS…: salt as long as the hash.
    ``MalformedError`` for an unknown algorithm or one that does not fit the key, ``CorruptObject`` unless it verifies.
    """
    if algorithm not in ALGORITHMS:
        raise MalformedError("the signature's algorithm is not one of ES, PS and RS 256, 384 and 512")
    digest = _HASHES[algorithm[2:]]
    try:
        key = serialization.load_der_public_key(spki)
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES.get(algorithm, ())):
            key.verify(_der(signature, (key.curve.key_size + 7) // 8), message, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm.startswith("RS"):
            key.verify(signature, message, padding.PKCS1v15(), digest)
        elif isinstance(key, rsa.RSAPublicKey) and algorithm.startswith("PS"):
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            key.verify(signature, message, pss, digest)
        else:
            raise MalformedError("the signature's algorithm does not fit the key")
    except InvalidSignature as error:
        raise CorruptObject("the signature does not verify") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("the key cannot be used") from error


def _der(signature: bytes, size: int) -> bytes:
    """ECDSA-Sig-Value of R || S, each ``size`` bytes."""
    if len(signature) != 2 * size:
        raise CorruptObject(f"an ECDSA signature has {2 * size} bytes, not {len(signature)}")
    return encode_dss_signature(int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))

"""How a PKCS#11 token writes keys and signatures, and how X.509 does."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from exclave.crypto.signer import Algorithm
from exclave.errors import CorruptObject, MalformedError

CURVE_OIDS = {
    Algorithm.ES256: bytes.fromhex("06082a8648ce3d030107"),
    Algorithm.ES384: bytes.fromhex("06052b81040022"),
    Algorithm.ES512: bytes.fromhex("06052b81040023"),
}
"""CKA_EC_PARAMS: the DER of the curve's name (RFC 5480, section 2.1.1.1)."""
_CURVES = {Algorithm.ES256: ec.SECP256R1(), Algorithm.ES384: ec.SECP384R1(), Algorithm.ES512: ec.SECP521R1()}
_HASHES = {
    Algorithm.ES256: hashlib.sha256,
    Algorithm.ES384: hashlib.sha384,
    Algorithm.ES512: hashlib.sha512,
}
_COORDINATE_BYTES = {Algorithm.ES256: 32, Algorithm.ES384: 48, Algorithm.ES512: 66}
_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
"""DigestInfo of SHA-256 up to the hash itself (RFC 8017, section 9.2, note 1)."""


def what_the_token_signs(algorithm: Algorithm, message: bytes) -> bytes:
    """The input of CKM_ECDSA (the hash) or CKM_RSA_PKCS (the hash in a DigestInfo), so that long messages stay here."""
    if algorithm is Algorithm.RS256:
        return _SHA256_INFO + hashlib.sha256(message).digest()
    name = _HASHES[algorithm]
    return name(message).digest()


def der_signature(algorithm: Algorithm, raw: bytes) -> bytes:
    """ECDSA-Sig-Value from R || S as tokens and JOSE write it; an RSA signature as it is."""
    if algorithm is Algorithm.RS256:
        return raw
    size = _COORDINATE_BYTES[algorithm]
    if len(raw) != 2 * size:
        raise CorruptObject(f"an {algorithm} signature has {2 * size} bytes, not {len(raw)}")
    return encode_dss_signature(int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big"))


def raw_signature(algorithm: Algorithm, der: bytes) -> bytes:
    """The inverse of ``der_signature``: what JOSE wants (RFC 7518, section 3.4)."""
    if algorithm is Algorithm.RS256:
        return der
    size = _COORDINATE_BYTES[algorithm]
    try:
        r, s = decode_dss_signature(der)
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    except (ValueError, OverflowError) as error:
        raise CorruptObject("not an ECDSA signature") from error


def public_of_point(params: bytes, point: bytes) -> bytes:
    """SubjectPublicKeyInfo from CKA_EC_PARAMS and CKA_EC_POINT (the point, as it is or in an OCTET STRING)."""
    for algorithm, oid in CURVE_OIDS.items():
        if oid == params:
            size = 1 + 2 * _COORDINATE_BYTES[algorithm]
            try:
                # PKCS#11 2.40 wraps it into DER, some tokens do not; the point is at the end of either.
                key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[algorithm], point[-size:])
            except ValueError as error:
                raise MalformedError(f"the token's public key is no point on the curve: {error}") from error
            return _spki(key)
    raise MalformedError("the token's key is on another curve than P-256 and P-384")


def public_of_modulus(modulus: bytes, exponent: bytes) -> bytes:
    """SubjectPublicKeyInfo from CKA_MODULUS and CKA_PUBLIC_EXPONENT (big-endian)."""
    numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
    try:
        return _spki(numbers.public_key())
    except ValueError as error:
        raise MalformedError(f"the token's RSA key is no such key: {error}") from error


def _spki(public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.DER, form)

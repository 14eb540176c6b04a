"""Signatures: Ed25519 (RFC 8032) and ML-DSA-44 (FIPS 204), always side by side, and from one seed.

One ``SigningPair`` is made from a 32-byte seed; each algorithm's own seed is derived by HKDF. A signature of a
pair counts only if both verify.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from exclave.crypto.aead import derive
from exclave.errors import CorruptObject, MalformedError

ED25519_PUBLIC_BYTES = 32
ED25519_SIGNATURE_BYTES = 64
MLDSA44_PUBLIC_BYTES = 1312
MLDSA44_SIGNATURE_BYTES = 2420


class SigningPair:
    """Both private keys of one signer, made from ``seed`` (32 bytes)."""

    __slots__ = ("_ed25519", "_mldsa44", "ed25519_public", "mldsa44_public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise MalformedError("a signing seed has 32 bytes")
        self._ed25519 = Ed25519PrivateKey.from_private_bytes(derive(seed, b"exclave/ed25519/v1"))
        self._mldsa44 = MLDSA44PrivateKey.from_seed_bytes(derive(seed, b"exclave/ml-dsa-44/v1"))
        self.ed25519_public = self._ed25519.public_key().public_bytes_raw()
        self.mldsa44_public = self._mldsa44.public_key().public_bytes_raw()

    def sign_ed25519(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._ed25519.sign(message)

    def sign_mldsa44(self, message: bytes) -> bytes:
        """2420 bytes, empty context."""
        return self._mldsa44.sign(message)

    def __repr__(self) -> str:
        return "SigningPair(…)"


def verify_ed25519(public: bytes, signature: bytes, message: bytes) -> None:
    """Raises ``CorruptObject`` unless ``signature`` is ``public``'s over ``message``."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise CorruptObject("an Ed25519 signature does not verify") from error


def verify_mldsa44(public: bytes, signature: bytes, message: bytes) -> None:
    """Raises ``CorruptObject`` unless ``signature`` is ``public``'s over ``message`` with an empty context."""
    try:
        MLDSA44PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise CorruptObject("an ML-DSA-44 signature does not verify") from error

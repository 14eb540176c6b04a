"""Sealing to a public key: HPKE (RFC 9180), base mode, one shot.

Suite: KEM MLKEM768-X25519 (X-Wing, draft-ietf-hpke-pq), KDF HKDF-SHA256, AEAD AES-256-GCM. Whoever breaks
only ML-KEM or only X25519 reads nothing.

A private key is a 32-byte seed: SHAKE256(seed, 96) gives the ML-KEM-768 seed (64) and the X25519 key (32).
A public key is ML-KEM-768's (1184 bytes) followed by X25519's (32).
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from exclave.errors import CorruptObject, MalformedError

SEED_BYTES = 32
PUBLIC_BYTES = 1184 + 32
ENC_BYTES = 1088 + 32
"""Length of the encapsulated key in front of every ciphertext."""
OVERHEAD_BYTES = ENC_BYTES + 16

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealingKey:
    """The public half: anyone may seal to it. ``raw`` is 1216 bytes."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != PUBLIC_BYTES:
            raise MalformedError(f"an MLKEM768-X25519 public key has {PUBLIC_BYTES} bytes, not {len(raw)}")
        self.raw = raw
        try:
            self._key = MLKEM768X25519PublicKey(
                MLKEM768PublicKey.from_public_bytes(raw[:1184]), X25519PublicKey.from_public_bytes(raw[1184:])
            )
        except ValueError as error:
            raise MalformedError("not an MLKEM768-X25519 public key") from error

    def seal(self, plaintext: bytes, info: bytes) -> bytes:
        """Ciphertext: encapsulated key (1120 bytes), then AES-256-GCM output. ``info`` binds the purpose."""
        return _SUITE.encrypt(plaintext, self._key, info=info)


class OpeningKey:
    """The private half, made from its 32-byte ``seed``."""

    __slots__ = ("_key", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise MalformedError(f"an opening key's seed has {SEED_BYTES} bytes, not {len(seed)}")
        expanded = hashlib.shake_256(seed).digest(96)
        mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        self.seed = seed
        self.public = SealingKey(mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw())
        self._key = MLKEM768X25519PrivateKey(mlkem, x25519)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext. Raises ``CorruptObject`` if it was sealed to another key, for another purpose, or changed."""
        if len(sealed) < OVERHEAD_BYTES:
            raise CorruptObject("a sealed value is too short")
        try:
            return _SUITE.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError) as error:
            raise CorruptObject("a sealed value does not open with this key") from error

    def __repr__(self) -> str:
        return "OpeningKey(…)"

"""AES-256-GCM (NIST SP 800-38D) under keys that are used for one object only, and key derivation (RFC 5869)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from exclave.errors import CorruptObject

KEY_BYTES = 32
TAG_BYTES = 16


class ObjectCipher:
    """Seals the numbered records of one object. The nonce is the record's number, so each number is used once."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, number: int, plaintext: bytes | memoryview, bound: bytes) -> bytes:
        """Ciphertext and 16-byte tag; ``bound`` is authenticated with it."""
        return self._aead.encrypt(number.to_bytes(12, "big"), plaintext, bound)

    def seal_into(self, number: int, plaintext: bytes | memoryview, bound: bytes, into: memoryview) -> None:
        """The same, written to ``into``, which is as long as the plaintext and its tag."""
        self._aead.encrypt_into(number.to_bytes(12, "big"), plaintext, bound, into)

    def open(self, number: int, sealed: bytes | memoryview, bound: bytes) -> bytes:
        """The plaintext, or ``CorruptObject``."""
        try:
            return self._aead.decrypt(number.to_bytes(12, "big"), sealed, bound)
        except InvalidTag as error:
            raise CorruptObject("a record does not open: it was changed, moved or cut") from error


def derive(secret: bytes, purpose: bytes, *, salt: bytes = b"") -> bytes:
    """32 bytes for ``purpose`` from a uniformly random ``secret`` (HKDF-SHA256)."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt or None, info=purpose).derive(secret)

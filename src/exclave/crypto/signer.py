"""Keys that sign answers and tokens for the world outside: ECDSA and RSA, in a file or a PKCS#11 token.

What Exclave itself believes is signed otherwise, see ``crypto/sign.py``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, runtime_checkable


class Algorithm(StrEnum):
    """How a key signs; named as in JOSE (RFC 7518, section 3.1)."""

    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    """P-521 with SHA-512; ESTEID2018 is such a CA."""
    RS256 = "RS256"


@runtime_checkable
class Signer(Protocol):
    """A private key that may be used and not be read. Safe to call from several threads."""

    @property
    def algorithm(self) -> Algorithm: ...

    @property
    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7)."""

    def sign(self, message: bytes) -> bytes:
        """Over the hash of ``message`` that the algorithm names: DER ECDSA-Sig-Value, or RSASSA-PKCS1-v1_5.

        Raises ``UnavailableError`` if a token does not answer."""

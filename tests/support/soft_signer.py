"""Keys in memory that sign as ``crypto.signer.Signer`` asks."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from exclave.crypto.signer import Algorithm
from exclave.demo.pki import Key


class SoftSigner:
    """Signs with ``key``."""

    def __init__(self, key: Key) -> None:
        self.key = key
        form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.public_der = key.public_key().public_bytes(*form)
        if isinstance(key, rsa.RSAPrivateKey):
            self.algorithm = Algorithm.RS256
        else:
            self.algorithm = Algorithm.ES256 if key.curve.key_size == 256 else Algorithm.ES384
        self._hash = hashes.SHA384() if self.algorithm is Algorithm.ES384 else hashes.SHA256()

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PKCS1v15(), self._hash)
        return self.key.sign(message, ec.ECDSA(self._hash))

"""A passkey in software (WebAuthn Level 3, sections 6.1 and 6.5): what a browser posts, every field to spoil."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

PRESENT, VERIFIED, ATTESTED = 1, 4, 64


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_b64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class SoftPasskey:
    """One credential. ``count`` goes up with each use."""

    origin: str
    rp_id: str
    credential: bytes = field(default_factory=lambda: os.urandom(32))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    handle: bytes = b""
    count: int = 0
    flags: int = PRESENT | VERIFIED
    client_data: dict[str, Any] = field(default_factory=dict)

    def create(self, options: bytes, *, fmt: str = "none", statement: object = None) -> bytes:
        """The answer to ``navigator.credentials.create``."""
        asked = json.loads(options)
        self.handle = from_b64url(asked["user"]["id"])
        attested = self._authenticator_data(self.flags | ATTESTED) + self._attested()
        thing = cbor2.dumps({"fmt": fmt, "attStmt": statement or {}, "authData": attested})
        data = self._client_data("webauthn.create", asked["challenge"])
        return self._answer({"clientDataJSON": b64url(data), "attestationObject": b64url(thing)})

    def get(self, options: bytes) -> bytes:
        """The answer to ``navigator.credentials.get``."""
        self.count += 1
        data = self._client_data("webauthn.get", json.loads(options)["challenge"])
        seen = self._authenticator_data(self.flags)
        signature = self.key.sign(seen + hashlib.sha256(data).digest(), ec.ECDSA(hashes.SHA256()))
        return self._answer({
            "clientDataJSON": b64url(data), "authenticatorData": b64url(seen), "signature": b64url(signature),
            "userHandle": b64url(self.handle),
        })  # fmt: skip

    def _answer(self, response: dict[str, Any]) -> bytes:
        return json.dumps({"id": b64url(self.credential), "type": "public-key", "response": response}).encode()

    def _client_data(self, kind: str, challenge: str) -> bytes:
        said = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps({**said, **self.client_data}).encode()

    def _authenticator_data(self, flags: int) -> bytes:
        return hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big")

    def _attested(self) -> bytes:
        numbers = self.key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        return bytes(16) + len(self.credential).to_bytes(2, "big") + self.credential + cbor2.dumps(cose)

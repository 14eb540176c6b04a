"""What a listener of the gateway proves itself by, and whom it lets in: TLS 1.3, pinned client certificates."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from typing import Final

_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME. A pinned certificate holds until the host takes it out of his file: one that
ended unnoticed would lock a state out on its worst day."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files of the host's own certificate and key, and the certificates of all states."""

    certificate: str
    key: str
    pinned: str = field(repr=False)
    """PEM."""

    def context(self) -> ssl.SSLContext:
        """Reads the files. ``OSError`` (also ``ssl.SSLError``) or ``ValueError`` if they cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # each connection shows its certificate anew
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags = ssl.VerifyFlags(int(ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN) | _NO_CHECK_TIME)
        context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        context.load_verify_locations(cadata=self.pinned)
        return context

    def encode(self) -> bytes:
        return json.dumps([self.certificate, self.key, self.pinned]).encode()

    @classmethod
    def decode(cls, data: bytes) -> TlsFiles:
        """What ``encode`` wrote, in a process of ours."""
        certificate, key, pinned = json.loads(data)
        return cls(certificate, key, pinned)

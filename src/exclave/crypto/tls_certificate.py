"""What a TLS server's certificate and key files say, before anybody needs them."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.crypto.crl import BROKEN
from exclave.crypto.delegate import certificates_in, pem_text
from exclave.errors import MalformedError
from exclave.ids import Instant, sha256

MAX_CHAIN_BYTES = 256 << 10
MAX_KEY_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """Of the first certificate of a chain."""

    names: tuple[str, ...]
    """DNS names of subjectAltName, lower case; ``*.`` in front stands for one label (RFC 9525, section 6.3)."""
    begin: Instant
    end: Instant
    key_matches: bool | None
    """The private key belongs to it; None: no key was given."""

    def covers(self, host: str) -> bool:
        """Whether a client that asks for ``host`` accepts one of the names."""
        return host in self.names or f"*.{host.partition('.')[2]}" in self.names


def read_tls(chain_pem: bytes, key_pem: bytes | None) -> TlsFacts:
    """``MalformedError`` for files that hold no such things. A key with a passphrase is one of them: a server that must
    ask for it does not start by itself."""
    if len(chain_pem) > MAX_CHAIN_BYTES or len(key_pem or b"") > MAX_KEY_BYTES:
        raise MalformedError("a TLS certificate or key file is too long")
    try:
        certificate = x509.load_der_x509_certificate(certificates_in(chain_pem)[0])
        public = _spki(certificate.public_key())
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(name.lower() for name in found.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound as error:
        raise MalformedError("the TLS certificate names no host (subjectAltName)") from error
    except BROKEN as error:
        raise MalformedError(f"the TLS certificate is not in the format: {error}") from error
    matches = None if key_pem is None else _public_of(key_pem) == public
    return TlsFacts(names, _instant(begin.timestamp()), _instant(end.timestamp()), matches)


@dataclass(frozen=True, slots=True)
class PinnedCertificate:
    """A client's certificate that somebody decided to know."""

    digest: str
    """SHA-256 of its DER, 64 hex digits."""
    pem: bytes


def read_pinned(data: bytes) -> PinnedCertificate:
    """The one certificate of a file. ``MalformedError`` for none, several, or something else."""
    if len(data) > MAX_CHAIN_BYTES:
        raise MalformedError("a certificate file is too long")
    found = certificates_in(data)
    if len(found) != 1:
        raise MalformedError(f"a file with a client's certificate holds one, not {len(found)}")
    return PinnedCertificate(sha256(found[0]).hex(), pem_text(found[0]))


def _public_of(key_pem: bytes) -> bytes:
    try:
        return _spki(serialization.load_pem_private_key(key_pem, None).public_key())
    except BROKEN:
        raise MalformedError("the TLS key cannot be read, or needs a passphrase") from None  # its cause could quote it


def _spki(public: object) -> bytes:
    try:
        return public.public_bytes(  # type: ignore[attr-defined,no-any-return]
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except AttributeError as error:
        raise ValueError("a key of an unknown kind") from error


def _instant(seconds: float) -> Instant:
    return Instant(int(seconds) * 1_000_000)

"""Certificates that delegate the signing of OCSP answers (RFC 6960, section 4.2.2.2): checked before they are kept.

A relying party checks them in a crisis, when nothing can be put right any more. So everything that any of them checks
is checked here first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from exclave.crypto.crl import (
    BROKEN,
    MAX_CERTIFICATE_BYTES,
    MAX_SERIAL,
    issuer_id,
    load_certificate,
    second_of,
)
from exclave.crypto.signer_file import algorithm_of
from exclave.errors import CorruptObject, MalformedError, NotAuthorised, WrongFingerprint
from exclave.ids import Digest, Instant, parse_b64

MAX_BUNDLE = 500
"""Certificates in one file."""
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----")
_WEAK = (hashes.MD5, hashes.SHA1)
_KNOWN = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE})


@dataclass(frozen=True, slots=True)
class Validity:
    """What a certificate says of its key and times."""

    subject: str
    """RFC 4514."""
    public_der: bytes
    """SubjectPublicKeyInfo."""
    begin: Instant
    end: Instant
    """Valid up to and with this second."""


@dataclass(frozen=True, slots=True)
class VerifiedDelegate:
    """A CA let the owner of this key sign its OCSP answers; only ``verify_delegate`` makes one.

    That it is valid at any one time, or that the key is here, is not established.
    """

    issuer: Digest
    """See ``crypto.crl.issuer_id``."""
    der: bytes
    validity: Validity


def certificates_in(data: bytes) -> tuple[bytes, ...]:
    """DER of the one certificate, or of each one in PEM, text between them ignored. ``MalformedError`` if none."""
    if not data.startswith(b"\x30"):
        found = tuple(parse_b64(re.sub(rb"\s", b"", m[1]).decode("ascii")) for m in _PEM.finditer(data))
    else:
        found = (data,)
    if not found or len(found) > MAX_BUNDLE or max(map(len, found)) > MAX_CERTIFICATE_BYTES:
        raise MalformedError(f"a file must hold 1 to {MAX_BUNDLE} certificates (PEM or DER)")
    return found


def pem_text(der: bytes) -> bytes:
    """A certificate as PEM (RFC 7468)."""
    return load_certificate(der).public_bytes(serialization.Encoding.PEM)


def read_validity(der: bytes) -> Validity:
    """Of any certificate. ``MalformedError`` for what is none."""
    return _validity(load_certificate(der))


def verify_delegate(der: bytes, issuers: Iterable[bytes], *, longest_s: int) -> VerifiedDelegate:
    """The certificate ``der`` as one of ``issuers`` (DER) gave it, for ``longest_s`` seconds at most.

    (1) form and key · (2) issuer: name, key, signature · (3) key usage · (4) OCSPSigning · (5) nocheck · (6) window.
    ``MalformedError`` for what is no certificate or has a kind of key that we do not sign with, ``WrongFingerprint``
    for a foreign issuer's (a sibling CA's is one: relying parties refuse it), ``CorruptObject`` for a wrong signature,
    ``NotAuthorised`` for what (3) to (6) find; ``facts["reason"]`` is a stable word.
    """
    certificate = load_certificate(der)
    validity = _validity(certificate)  # (1)
    if certificate.version is not x509.Version.v3 or not 0 < certificate.serial_number <= MAX_SERIAL:
        raise MalformedError("an X.509 version 3 certificate with a serial number of 1 to 20 bytes is required")
    try:
        issuer = _issuer(certificate, issuers)  # (2)
        _check_uses(certificate)  # (3) (4) (5)
    except BROKEN as error:
        raise MalformedError(f"the responder's certificate is not in the format: {error}") from error
    lasts_s = (validity.end - validity.begin) // 1_000_000
    if not 0 < lasts_s <= longest_s:  # (6)
        raise _refusal(
            "window",
            f"it is valid for {lasts_s / 86400:g} days, and nobody can revoke it: {longest_s / 86400:g} at most",
        )
    return VerifiedDelegate(issuer, der, validity)


def _issuer(certificate: x509.Certificate, issuers: Iterable[bytes]) -> Digest:
    named = False
    for data in issuers:
        signer = load_certificate(data)
        if signer.subject.public_bytes() != certificate.issuer.public_bytes():
            continue
        named = True
        if isinstance(certificate.signature_hash_algorithm, _WEAK):
            raise CorruptObject("the certificate is signed over MD5 or SHA-1, which others can forge")
        try:
            certificate.verify_directly_issued_by(signer)
        except (InvalidSignature, *BROKEN):
            continue  # another key of the same name may be the right one
        return issuer_id(data)
    if named:
        raise CorruptObject("the certificate names an issuer of ours whose key did not sign it", reason="signature")
    raise WrongFingerprint(
        f"the certificate is of {certificate.issuer.rfc4514_string()[:200]!r}, which is no issuing CA of this state",
        hint="It must come from the CA that issued the certificates that it answers for; nobody accepts a sibling's.",
        reason="issuer",
    )


def _check_uses(certificate: x509.Certificate) -> None:
    found = {extension.oid: extension for extension in certificate.extensions}
    for oid, extension in found.items():
        if extension.critical and oid not in _KNOWN:
            raise _refusal("critical-extension", f"it has a critical extension {oid.dotted_string}")
    constraints = found.get(ExtensionOID.BASIC_CONSTRAINTS)
    if constraints is not None and constraints.value.ca:
        raise _refusal("ca", "it is a CA's certificate")
    usage = found.get(ExtensionOID.KEY_USAGE)
    if usage is None or not usage.value.digital_signature or usage.value.key_cert_sign:
        raise _refusal("key-usage", "its key usage must be digitalSignature, and may not be keyCertSign")
    uses = found.get(ExtensionOID.EXTENDED_KEY_USAGE)
    if uses is None or list(uses.value) != [ExtendedKeyUsageOID.OCSP_SIGNING]:
        raise _refusal("eku", "its extended key usage must be OCSPSigning and nothing else")
    if ExtensionOID.OCSP_NO_CHECK not in found:
        raise _refusal("nocheck", "it lacks id-pkix-ocsp-nocheck: who would tell whether it is revoked?")


def _refusal(reason: str, message: str) -> NotAuthorised:
    return NotAuthorised(
        f"the responder's certificate will not do: {message}",
        hint="Send the manifest beside the request to the CA again; it says what the certificate must have.",
        reason=reason,
    )


def _validity(certificate: x509.Certificate) -> Validity:
    try:
        key = certificate.public_key()
        algorithm_of(key)
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        begin, end = (second_of(t) for t in (certificate.not_valid_before_utc, certificate.not_valid_after_utc))
        return Validity(certificate.subject.rfc4514_string(), spki, begin, end)
    except BROKEN as error:
        raise MalformedError(f"the certificate is not in the format: {error}") from error

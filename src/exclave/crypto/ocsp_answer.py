"""Signed answers about certificates' status (OCSP): RFC 6960, section 4.2.

Page: docs/spec/ocsp.md. Written here, since the library's builder knows neither several certificates in one answer, nor
producedAt, nor keys that are not its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.crypto.crl import BROKEN, instant_of
from exclave.crypto.der import (
    BIT_STRING,
    ENUMERATED,
    OCTET_STRING,
    SEQUENCE,
    context,
    expect,
    generalized_time,
    head,
    oid,
    sole,
    tlv,
)
from exclave.crypto.ocsp import SHA1, SHA256, CertId, IssuerKey
from exclave.crypto.signer import Algorithm, Signer
from exclave.errors import MalformedError
from exclave.ids import Instant

SIGNATURE_ALGORITHMS: Final = {
    Algorithm.ES256: tlv(SEQUENCE, oid("1.2.840.10045.4.3.2")),
    Algorithm.ES384: tlv(SEQUENCE, oid("1.2.840.10045.4.3.3")),
    Algorithm.ES512: tlv(SEQUENCE, oid("1.2.840.10045.4.3.4")),
    Algorithm.RS256: tlv(SEQUENCE, oid("1.2.840.113549.1.1.11"), b"\x05\x00"),
}
"""AlgorithmIdentifier (RFC 5758, section 3.2; RFC 4055, section 5)."""

_BASIC = oid("1.3.6.1.5.5.7.48.1.1")
_NONCE = oid("1.3.6.1.5.5.7.48.1.2")
_ARCHIVE_CUTOFF = oid("1.3.6.1.5.5.7.48.1.6")


class ErrorStatus(IntEnum):
    """OCSPResponseStatus of answers that say nothing of a certificate, and are not signed."""

    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


class CrlReason(IntEnum):
    """CRLReason (RFC 5280, section 5.3.1) by its name there."""

    unspecified = 0
    keyCompromise = 1
    cACompromise = 2
    affiliationChanged = 3
    superseded = 4
    cessationOfOperation = 5
    certificateHold = 6
    privilegeWithdrawn = 9
    aACompromise = 10


GOOD: Final = b"\x80\x00"
"""CertStatus ``good``, and ``unknown`` below; the third is made by ``revoked``."""
UNKNOWN: Final = b"\x82\x00"


def revoked(since: Instant, reason: CrlReason) -> bytes:
    """CertStatus ``revoked``. The reason ``unspecified`` is left out, as RFC 5280 has it for lists."""
    told = b"" if reason is CrlReason.unspecified else tlv(context(0), tlv(ENUMERATED, bytes((reason,))))
    return tlv(context(1), _time(since // 1_000_000), told)


class Single(msgspec.Struct, frozen=True):
    """What is said of one certificate."""

    cert_id: CertId
    status: bytes
    """``GOOD``, ``UNKNOWN`` or ``revoked(…)``."""
    this_update: Instant
    next_update: Instant
    archive_cutoff: Instant | None = None
    """Since when the responder has kept what it knew of certificates, expired or not (section 4.4.4)."""


@dataclass(frozen=True, slots=True)
class ResponderKey:
    """A key that may sign answers, with everything about it that each answer repeats."""

    signer: Signer = field(repr=False)
    certificate: bytes
    """DER."""
    not_before: Instant
    not_after: Instant
    _id: bytes = field(repr=False)
    _algorithm: bytes = field(repr=False)
    _certificates: bytes = field(repr=False)


def responder_key(signer: Signer, certificate: bytes) -> ResponderKey:
    """``MalformedError`` for what is no certificate, or for one of another key than the signer's."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        public = parsed.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except BROKEN as error:
        raise MalformedError(f"a responder's certificate is not in the format: {error}") from error
    if public != signer.public_der:
        raise MalformedError("a responder's certificate is not of the key that it was given with")
    return ResponderKey(
        signer,
        certificate,
        instant_of(parsed.not_valid_before_utc),
        instant_of(parsed.not_valid_after_utc),
        tlv(context(2), tlv(OCTET_STRING, hashlib.sha1(key_bits(public), usedforsecurity=False).digest())),
        SIGNATURE_ALGORITHMS[signer.algorithm],
        tlv(context(0), tlv(SEQUENCE, certificate)),
    )


def issuer_keys(certificate: bytes) -> tuple[IssuerKey, IssuerKey]:
    """How requests may name the owner of ``certificate`` (DER): by SHA-1 (RFC 6960) or SHA-256 (RFC 9919)."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        name = parsed.subject.public_bytes()
        public = parsed.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except BROKEN as error:
        raise MalformedError(f"an issuer's certificate is not in the format: {error}") from error
    bits = key_bits(public)
    # SHA-1 is what the protocol's clients name issuers by; nothing is believed because of it.
    return (
        IssuerKey(SHA1, *(hashlib.sha1(part, usedforsecurity=False).digest() for part in (name, bits))),
        IssuerKey(SHA256, *(hashlib.sha256(part).digest() for part in (name, bits))),
    )


def valid_since(certificate: bytes) -> Instant:
    """notBefore of a certificate (DER). Raises ``MalformedError``."""
    try:
        return instant_of(x509.load_der_x509_certificate(certificate).not_valid_before_utc)
    except BROKEN as error:
        raise MalformedError(f"a certificate is not in the format: {error}") from error


def key_bits(public_der: bytes) -> bytes:
    """subjectPublicKey of a SubjectPublicKeyInfo: its bits, without tag, length and unused bits."""
    at, end = sole(public_der, 0, len(public_der), SEQUENCE)
    _, at = expect(public_der, at, end, SEQUENCE)
    begin, end = sole(public_der, at, end, BIT_STRING)
    return public_der[begin + 1 : end]


def error_answer(status: ErrorStatus) -> bytes:
    """An OCSPResponse without content."""
    return tlv(SEQUENCE, tlv(ENUMERATED, bytes((status,))))


def sign_answer(singles: Sequence[Single], key: ResponderKey, *, produced_at: Instant, nonce: bytes | None) -> bytes:
    """An OCSPResponse that ``key`` signs. Raises what the signer raises (``UnavailableError``)."""
    listed = b"".join(map(_single, singles)) if len(singles) > 1 else _single(singles[0])
    produced, told = _time(produced_at // 1_000_000), b"" if nonce is None else _nonce(nonce)
    data = tlv(SEQUENCE, key._id, produced, head(SEQUENCE, len(listed)), listed, told)
    signature = tlv(BIT_STRING, b"\0", key.signer.sign(data))
    basic = tlv(SEQUENCE, data, key._algorithm, signature, key._certificates)
    return tlv(SEQUENCE, b"\x0a\x01\x00", tlv(context(0), tlv(SEQUENCE, _BASIC, tlv(OCTET_STRING, basic))))


def _single(single: Single) -> bytes:
    extensions = b""
    if single.archive_cutoff is not None:
        cutoff = tlv(SEQUENCE, _ARCHIVE_CUTOFF, tlv(OCTET_STRING, generalized_time(single.archive_cutoff)))
        extensions = tlv(context(1), tlv(SEQUENCE, cutoff))
    until = _until(single.next_update // 1_000_000)
    return tlv(SEQUENCE, single.cert_id.der, single.status, _time(single.this_update // 1_000_000), until, extensions)


def _nonce(nonce: bytes) -> bytes:
    return _nonce_head(len(nonce)) + nonce


@lru_cache(maxsize=128)
def _nonce_head(size: int) -> bytes:
    """Everything of responseExtensions before the nonce's own bytes."""
    value = tlv(OCTET_STRING, tlv(OCTET_STRING, bytes(size)))
    return tlv(context(1), tlv(SEQUENCE, tlv(SEQUENCE, _NONCE, value)))[:-size]


@lru_cache(maxsize=4096)
def _time(seconds: int) -> bytes:
    """Most answers of one second carry the same times."""
    return generalized_time(Instant(seconds * 1_000_000))


@lru_cache(maxsize=4096)
def _until(seconds: int) -> bytes:
    return tlv(context(0), _time(seconds))

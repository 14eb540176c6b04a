"""Certificate revocation lists (RFC 5280, section 5): checked against their issuer's certificate, read as a stream.

Rules and limits: docs/spec/status-log.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from exclave.errors import CorruptObject, MalformedError, WrongFingerprint
from exclave.ids import Digest, Instant, parse_b64, sha256

MAX_CRL_BYTES = 256 << 20
MAX_ENTRIES = 5_000_000
MAX_CERTIFICATE_BYTES = 64 << 10
MAX_SERIAL = (1 << 160) - 1
"""20 octets (RFC 5280, section 4.1.2.2)."""
REMOVE = "removeFromCRL"
_REASONS = {reason: str(reason.value) for reason in x509.ReasonFlags}
CLOCK_SKEW_S = 300
"""How far the issuer's clock may be ahead of ours."""

_PEM = re.compile(r"-----BEGIN (X509 CRL|CERTIFICATE)-----\n([A-Za-z0-9+/=\n]+)-----END \1-----\n\Z")
_EPOCH_0 = datetime(1970, 1, 1, tzinfo=UTC)
_PARTIAL = {
    ExtensionOID.DELTA_CRL_INDICATOR: "it holds only changes (delta CRL)",
    ExtensionOID.ISSUING_DISTRIBUTION_POINT: "it covers only a part of the issuer's certificates",
}
_WEAK = (hashes.MD5, hashes.SHA1)
# What the X.509 parser raises, some of it only when a field is looked at.
BROKEN = (
    ValueError,
    TypeError,  # a name's attribute of a string type that it cannot have
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class CrlEntry:
    """One certificate that its issuer no longer stands by."""

    serial: int
    """0 to 2^160 - 1."""
    time: Instant
    """Since when."""
    reason: str
    """A CRLReason by its name in RFC 5280; ``unspecified`` if the list gives none."""


@dataclass(frozen=True, slots=True)
class VerifiedCrl:
    """A whole list whose signature by ``issuer`` was verified; only ``verify_crl`` makes one."""

    issuer: Digest
    """See ``issuer_id``."""
    this_update: Instant
    next_update: Instant
    """When the issuer promised a newer list. It may have passed long ago: an issuer that is gone makes no newer one."""
    number: int | None
    """Its CRLNumber, which deltas refer to; None: it has none."""
    _list: x509.CertificateRevocationList = field(repr=False)

    def entries(self) -> Iterator[CrlEntry]:
        """Entry by entry, without a copy of them all. ``MalformedError`` for one that no full list may hold."""
        for entry in _entries(self._list):
            if entry.reason == REMOVE:
                raise MalformedError("removeFromCRL stands in a list that is not a delta CRL")
            yield entry


@dataclass(frozen=True, slots=True)
class VerifiedDelta:
    """A delta CRL (RFC 5280, section 5.2.4) whose signature was verified; only ``verify_delta_crl`` makes one."""

    issuer: Digest
    this_update: Instant
    next_update: Instant
    number: int
    base: int
    """BaseCRLNumber: it tells what changed since that full list, and goes with every full list from it on."""
    _list: x509.CertificateRevocationList = field(repr=False)

    def entries(self) -> Iterator[CrlEntry]:
        """Entry by entry; the reason ``REMOVE`` ends a hold, or the certificate has expired."""
        return _entries(self._list)


def issuer_id(certificate: bytes) -> Digest:
    """One name for an issuer: SHA-256 of the DER of its subject and of its public key; DER or PEM certificate.

    Cross-certificates of one issuer's key have the same id, as relying parties see it.
    """
    return _issuer_id(_certificate(certificate))


def verify_crl(data: bytes, issuer: bytes, *, now: Instant) -> VerifiedCrl:
    """The list in ``data`` (DER or PEM), which the owner of the certificate ``issuer`` (DER or PEM) must have signed.

    (1) form · (2) issuer: same name, allowed to sign lists · (3) signature · (4) it is a whole list · (5) times.
    ``MalformedError`` for what is no such list, ``WrongFingerprint`` for another issuer's, ``CorruptObject`` if the
    signature does not verify or the list is dated after ``now``. An old list is accepted: it tells its own time.
    """
    with _strict():
        crl, signer = _signed(data, issuer)  # (1) (2) (3)
        _check_whole(crl)  # (4)
        this, following = _times(crl, now)  # (5)
        return VerifiedCrl(_issuer_id(signer), this, following, _number(crl), crl)


def verify_delta_crl(data: bytes, issuer: bytes, *, now: Instant) -> VerifiedDelta:
    """As ``verify_crl``, for a list of changes: it must have a critical deltaCRLIndicator and a CRLNumber not before
    its base's."""
    with _strict():
        crl, signer = _signed(data, issuer)
        base = _check_delta(crl)
        number = _number(crl)
        if number is None or number < base:
            raise MalformedError("the delta CRL has no number, or one before its base's (RFC 5280, section 5.2.4)")
        this, following = _times(crl, now)
        return VerifiedDelta(_issuer_id(signer), this, following, number, base, crl)


@contextmanager
def _strict() -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise MalformedError(f"the CRL or its issuer's certificate is not in the format: {error}") from error


def _signed(data: bytes, issuer: bytes) -> tuple[x509.CertificateRevocationList, x509.Certificate]:
    if len(data) > MAX_CRL_BYTES:
        raise MalformedError(f"a CRL of more than {MAX_CRL_BYTES} bytes")
    signer = _certificate(issuer)
    der = _der(data, "X509 CRL")
    crl = x509.load_der_x509_crl(der)
    if not der.endswith(b"\0" + crl.signature):
        # The parser ignores how many bits of the signature's BIT STRING are unused: a second form of one list.
        raise MalformedError("the CRL's signature is not a whole number of bytes")
    _check_signer(crl, signer)
    _check_signature(crl, signer)
    return crl, signer


def _times(crl: x509.CertificateRevocationList, now: Instant) -> tuple[Instant, Instant]:
    """(thisUpdate, nextUpdate)"""
    if crl.next_update_utc is None:
        raise MalformedError("the CRL does not say when the next one comes (RFC 5280, section 5.1.2.5)")
    this, following = instant_of(crl.last_update_utc), instant_of(crl.next_update_utc)
    if following <= this:
        raise MalformedError("the CRL's nextUpdate is not after its thisUpdate")
    if this > now + CLOCK_SKEW_S * 1_000_000:
        raise CorruptObject("the CRL is dated in the future")
    return this, following


def _number(crl: x509.CertificateRevocationList) -> int | None:
    found = [extension.value for extension in crl.extensions if isinstance(extension.value, x509.CRLNumber)]
    return found[0].crl_number if found else None


def _check_delta(crl: x509.CertificateRevocationList) -> int:
    """The base's number."""
    base = None
    for extension in crl.extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator) and extension.critical:
            base = extension.value.crl_number
        elif extension.oid == ExtensionOID.ISSUING_DISTRIBUTION_POINT:
            raise MalformedError(f"the delta CRL is not a whole one: {_PARTIAL[extension.oid]}")
        elif extension.critical:
            raise MalformedError(f"the CRL has an unknown critical extension {extension.oid.dotted_string}")
    if base is None:
        raise MalformedError("the CRL is no delta CRL: it has no critical deltaCRLIndicator")
    return base


def _check_signer(crl: x509.CertificateRevocationList, signer: x509.Certificate) -> None:
    if crl.issuer.public_bytes() != signer.subject.public_bytes():
        raise WrongFingerprint(
            f"the CRL is of {crl.issuer.rfc4514_string()[:200]!r}, not of {signer.subject.rfc4514_string()[:200]!r}",
            hint="Give the certificate of the CA that issued the list.",
        )
    try:
        usage = signer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return  # RFC 5280, section 4.2.1.3: no such extension, no restriction
    if not usage.crl_sign:
        raise WrongFingerprint("the issuer's certificate may not sign CRLs (key usage without cRLSign)")


def _check_signature(crl: x509.CertificateRevocationList, signer: x509.Certificate) -> None:
    try:
        if isinstance(crl.signature_hash_algorithm, _WEAK):
            raise CorruptObject("the CRL is signed over MD5 or SHA-1, which others can forge")
        good = crl.is_signature_valid(signer.public_key())  # type: ignore[arg-type]  # a wrong kind raises TypeError
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CorruptObject(f"the CRL's signature is of a kind that cannot be checked: {error}") from error
    if not good:
        raise CorruptObject("the CRL's signature does not verify")


def _check_whole(crl: x509.CertificateRevocationList) -> None:
    """Refuses lists from whose silence nothing follows, and critical extensions that we do not know (section 5.2)."""
    for extension in crl.extensions:
        if extension.oid in _PARTIAL:
            raise MalformedError(f"the CRL is not a whole one: {_PARTIAL[extension.oid]}")
        if extension.critical:
            raise MalformedError(f"the CRL has an unknown critical extension {extension.oid.dotted_string}")


def _entries(crl: x509.CertificateRevocationList) -> Iterator[CrlEntry]:
    number = 0
    try:
        for number, revoked in enumerate(crl, 1):
            yield _entry(revoked, number)
    except BROKEN as error:
        raise MalformedError(f"the CRL is not in the format after entry {number}: {error}") from error


def _entry(revoked: x509.RevokedCertificate, number: int) -> CrlEntry:
    if number > MAX_ENTRIES:
        raise MalformedError(f"a CRL of more than {MAX_ENTRIES} entries")
    reason = "unspecified"
    for extension in revoked.extensions:
        if isinstance(extension.value, x509.CRLReason):
            reason = _REASONS[extension.value.reason]
        elif extension.oid == CRLEntryExtensionOID.CERTIFICATE_ISSUER:
            raise MalformedError("the CRL speaks for other issuers too (indirect CRL)")
        elif extension.critical:
            raise MalformedError(f"an entry has an unknown critical extension {extension.oid.dotted_string}")
    serial = revoked.serial_number
    if not 0 <= serial <= MAX_SERIAL:
        raise MalformedError("a serial number is negative or longer than 20 octets")
    return CrlEntry(serial, instant_of(revoked.revocation_date_utc), reason)


def _certificate(data: bytes) -> x509.Certificate:
    return load_certificate(_der(_limited(data), "CERTIFICATE"))


def load_certificate(der: bytes) -> x509.Certificate:
    """Its form only. ``MalformedError`` for anything else, or more than ``MAX_CERTIFICATE_BYTES``."""
    try:
        return x509.load_der_x509_certificate(_limited(der))
    except BROKEN as error:
        raise MalformedError(f"this is not a certificate: {error}") from error


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise MalformedError(f"a certificate of more than {MAX_CERTIFICATE_BYTES} bytes")
    return data


def _issuer_id(certificate: x509.Certificate) -> Digest:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        key = certificate.public_key().public_bytes(*form)
    except BROKEN as error:
        raise MalformedError(f"the certificate's public key is of an unknown kind: {error}") from error
    # Both parts are DER, which says its own length: no other pair gives the same bytes.
    return sha256(certificate.subject.public_bytes() + key)


def _der(data: bytes, kind: str) -> bytes:
    """``data``, or what its PEM envelope (RFC 7468, strict: lines of 64, nothing around it) holds."""
    if not data.startswith(b"-----"):
        return data
    match = _PEM.match(data.decode("ascii", "replace"))
    if match is None or match[1] != kind:
        raise MalformedError(f"this is not the PEM text of one {kind}")
    body = match[2].replace("\n", "")
    lines = "".join(f"{body[at : at + 64]}\n" for at in range(0, len(body), 64))
    if lines != match[2]:
        raise MalformedError(f"the PEM text of the {kind} is not in lines of 64 characters")
    return parse_b64(body, limit=MAX_CRL_BYTES)


def second_of(moment: datetime) -> Instant:
    """X.509 times are whole seconds; before 1970 they are negative."""
    return Instant(int((moment - _EPOCH_0).total_seconds()) * 1_000_000)


def instant_of(moment: datetime) -> Instant:
    """The same. ``MalformedError`` for a time before 1970."""
    value = second_of(moment)
    if value < 0:
        raise MalformedError(f"a time before 1970 in a CRL: {moment:%Y-%m-%d}")
    return value

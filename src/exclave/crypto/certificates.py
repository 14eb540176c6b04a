"""A citizen's certificate: checked against the issuing CAs that the state pinned, two levels deep, no more.

Rules: docs/spec/login.md. Not a general path validator (RFC 5280, section 6): an issuing CA is trusted because its name
and key were entered into the journal, so there is nothing above it to look for and no policy to map.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from exclave.crypto.crl import BROKEN, MAX_SERIAL, issuer_id, second_of
from exclave.errors import CorruptObject, MalformedError, NotAuthorised
from exclave.ids import Digest, Instant

MAX_CITIZEN_BYTES = 8192
"""A citizen's certificate; real ones have 1 to 2 KiB."""
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
DISALLOWED_POLICIES = frozenset({
    "1.3.6.1.4.1.10015.1.3", "1.3.6.1.4.1.10015.11.1",
    "1.3.6.1.4.1.10015.18.1", "1.3.6.1.4.1.10015.18.2",
})  # fmt: skip
"""Mobile-ID's policies: that key answers on a phone through its operator's server and never signs a token here."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_WEAK = (hashes.MD5, hashes.SHA1)
_KNOWN = frozenset({
    ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.CERTIFICATE_POLICIES,
})  # fmt: skip
"""What is processed here, so it may be critical; name and policy constraints are not, so they may not be."""
_PERSON = re.compile(r"PNO([A-Z]{2})-([A-Za-z0-9](?:[A-Za-z0-9-]{0,38}[A-Za-z0-9])?)\Z")
_ESTONIAN = re.compile(r"[1-8][0-9]{10}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class VerifiedCitizen:
    """A pinned CA issued this to a natural person for authentication; only ``verify_citizen`` makes one.

    Neither that it is still valid (``expired``), nor its status, nor that the person holds the key is established.
    """

    issuer: Digest
    """See ``crypto.crl.issuer_id``."""
    serial: int
    """1 to 2^160 - 1."""
    subject: str
    """Country and national code: ``EE38001085718``."""
    given_name: str
    family_name: str
    """At least one of the two names is not empty."""
    date_of_birth: str
    """``1980-01-08``, told by an Estonian personal code; empty for another country's."""
    spki: bytes = field(repr=False)
    """SubjectPublicKeyInfo, DER."""
    ends: Instant
    """Its notAfter."""
    expired: bool
    """At the time of the check it, or its issuer's certificate, was past its end."""


@dataclass(frozen=True, slots=True)
class PinnedIssuers:
    """The issuing CAs that are trusted, by the DER of their names; only ``pin_issuers`` makes one."""

    _by_name: Mapping[bytes, tuple[tuple[Digest, x509.Certificate], ...]] = field(repr=False)

    def named(self, name: x509.Name) -> tuple[tuple[Digest, x509.Certificate], ...]:
        """Every pinned certificate of that name. One name may be of several keys."""
        return self._by_name.get(name.public_bytes(), ())


def pin_issuers(certificates: Iterable[bytes]) -> PinnedIssuers:
    """Trusts the CAs of these certificates (DER). Cross-certificates of one name and key are one issuer.

    ``MalformedError`` for what is no CA certificate, or one with a constraint that is not processed here.
    """
    by_name: dict[bytes, list[tuple[Digest, x509.Certificate]]] = {}
    for data in certificates:
        certificate = _issuer(data)
        by_name.setdefault(certificate.subject.public_bytes(), []).append((issuer_id(data), certificate))
    return PinnedIssuers(MappingProxyType({name: tuple(found) for name, found in by_name.items()}))


def require_ca(data: bytes) -> None:
    """``MalformedError`` unless the certificate ``data`` (DER) is a CA's: basicConstraints says so (RFC 5280, section
    4.2.1.9), and its key usage, if it has one, lets it sign certificates."""
    try:
        certificate = x509.load_der_x509_certificate(data)
        constraints, usage = _value(certificate, x509.BasicConstraints), _value(certificate, x509.KeyUsage)
    except BROKEN as error:
        raise MalformedError(f"the certificate is not in the format: {error}") from error
    if constraints is None or not constraints.ca:
        raise MalformedError("its basicConstraints do not say that it is a CA's")
    if usage is not None and not usage.key_cert_sign:
        raise MalformedError("its key usage does not let it sign certificates")


def verify_citizen(
    data: bytes, issuers: PinnedIssuers, *, now: Instant, disallowed: frozenset[str] = DISALLOWED_POLICIES
) -> VerifiedCitizen:
    """The person to whom one of ``issuers`` gave the certificate ``data`` (DER).

    (1) form · (2) issuer: name, key, signature · (3) extensions · (4) purpose · (5) key · (6) times · (7) person.
    ``MalformedError`` for what is no certificate, ``CorruptObject`` for a signature that does not verify,
    ``NotAuthorised`` for all else; ``facts["reason"]`` is the stable word for the log. An expired one is returned.
    """
    if len(data) > MAX_CITIZEN_BYTES:
        raise MalformedError(f"a citizen's certificate has more than {MAX_CITIZEN_BYTES} bytes", reason="certificate")
    try:
        certificate = x509.load_der_x509_certificate(data)  # (1)
        return _verified(certificate, issuers, now, disallowed)
    except BROKEN as error:
        raise MalformedError("the certificate is not in the format", reason="certificate") from error


def _verified(
    certificate: x509.Certificate, issuers: PinnedIssuers, now: Instant, disallowed: frozenset[str]
) -> VerifiedCitizen:
    if certificate.version is not x509.Version.v3 or not 0 < certificate.serial_number <= MAX_SERIAL:
        raise MalformedError(
            "the certificate is not of X.509 version 3 with a serial number of 1 to 20 bytes", reason="certificate"
        )
    issuer, signers = _signed_by(certificate, issuers)  # (2)
    _check_critical(certificate)  # (3)
    _check_purpose(certificate, disallowed)  # (4)
    spki = _checked_key(certificate.public_key())  # (5)
    begin, end = second_of(certificate.not_valid_before_utc), second_of(certificate.not_valid_after_utc)  # (6)
    begun = [signer for signer in signers if second_of(signer.not_valid_before_utc) <= now]
    if now < begin or not begun:
        raise NotAuthorised("the certificate, or its issuer's, is not valid yet", reason="not-yet-valid")
    issuer_ends = max(second_of(signer.not_valid_after_utc) for signer in begun)
    subject, given, family, born = _person(certificate.subject)  # (7)
    return VerifiedCitizen(
        issuer, certificate.serial_number, subject, given, family, born, spki, end, now > min(end, issuer_ends)
    )


def _signed_by(certificate: x509.Certificate, issuers: PinnedIssuers) -> tuple[Digest, list[x509.Certificate]]:
    """The issuer whose key verifies the signature, with all of its certificates."""
    named = issuers.named(certificate.issuer)
    if not named:
        raise NotAuthorised("the certificate is of no pinned issuer", reason="foreign-issuer")
    if isinstance(certificate.signature_hash_algorithm, _WEAK):
        raise NotAuthorised("the certificate is signed over MD5 or SHA-1, which others can forge", reason="weak")
    tried: set[Digest] = set()
    for identity, signer in named:
        if identity in tried:
            continue
        tried.add(identity)
        try:
            certificate.verify_directly_issued_by(signer)
        except (InvalidSignature, *BROKEN):
            continue  # another key of the same name may be the right one
        return identity, [other for known, other in named if known == identity]
    raise CorruptObject("the certificate names a pinned issuer whose key did not sign it", reason="forged-issuer")


def _check_critical(certificate: x509.Certificate) -> None:
    """RFC 5280, section 4.2: a critical extension that is not processed makes a certificate invalid."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _KNOWN:
            raise NotAuthorised(
                f"the certificate has a critical extension {extension.oid.dotted_string}", reason="critical-extension"
            )


def _check_purpose(certificate: x509.Certificate, disallowed: frozenset[str]) -> None:
    """Made for authentication: no CA, digitalSignature, clientAuth where uses are listed, no disallowed policy."""
    constraints = _value(certificate, x509.BasicConstraints)
    usage = _value(certificate, x509.KeyUsage)
    uses = _value(certificate, x509.ExtendedKeyUsage)
    policies = _value(certificate, x509.CertificatePolicies)
    if (constraints is not None and constraints.ca) or (usage is not None and usage.key_cert_sign):
        raise NotAuthorised("the certificate is a CA's", reason="purpose")
    if usage is None or not usage.digital_signature:
        raise NotAuthorised("the certificate's key may not sign (key usage)", reason="purpose")
    if uses is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise NotAuthorised("the certificate is not for log-in (extended key usage)", reason="purpose")
    if policies is not None and any(policy.policy_identifier.dotted_string in disallowed for policy in policies):
        raise NotAuthorised("the certificate is of a policy that is not accepted", reason="policy")


def _checked_key(key: object) -> bytes:
    """DER of a key of a kind and size that is accepted."""
    good = (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)) or (
        isinstance(key, rsa.RSAPublicKey)
        and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS
        and 65537 <= key.public_numbers().e < 1 << 32
    )
    if not good or not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise NotAuthorised("the certificate's key is of a kind or size that is not accepted", reason="weak")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _person(subject: x509.Name) -> tuple[str, str, str, str]:
    """Subject, given name, family name, date of birth (ETSI EN 319 412-1, section 5.1.3: ``PNOEE-…``)."""
    match = _PERSON.match(_attribute(subject, NameOID.SERIAL_NUMBER))
    given, family = _attribute(subject, NameOID.GIVEN_NAME), _attribute(subject, NameOID.SURNAME)
    if match is None or not (given or family):
        raise NotAuthorised("the certificate does not name a natural person", reason="subject")
    country, code = match[1], match[2]
    return country + code, given, family, estonian_birth(code) if country == "EE" else ""


def _attribute(subject: x509.Name, oid: x509.ObjectIdentifier) -> str:
    """Its only value, or empty. Names are shown to people, so what is not printable is refused."""
    found = subject.get_attributes_for_oid(oid)
    if not found:
        return ""
    value = found[0].value
    if len(found) > 1 or not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise NotAuthorised("the certificate's subject is not one person's", reason="subject")
    return value


def estonian_birth(code: str) -> str:
    """The date in an Estonian personal code (EVS 585), ``1980-01-08``; empty if it is no such code."""
    if not _ESTONIAN.match(code) or _estonian_check(code) != int(code[10]):
        return ""
    year = 1800 + 100 * ((int(code[0]) - 1) // 2) + int(code[1:3])
    try:
        return date(year, int(code[3:5]), int(code[5:7])).isoformat()
    except ValueError:
        return ""


def _estonian_check(code: str) -> int:
    for weights in ((1, 2, 3, 4, 5, 6, 7, 8, 9, 1), (3, 4, 5, 6, 7, 8, 9, 1, 2, 3)):
        rest = sum(weight * int(digit) for weight, digit in zip(weights, code[:10], strict=True)) % 11
        if rest < 10:
            return rest
    return 0


def _issuer(data: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(data)
        _check_critical(certificate)
        _checked_key(certificate.public_key())
        constraints, usage = _value(certificate, x509.BasicConstraints), _value(certificate, x509.KeyUsage)
    except (*BROKEN, NotAuthorised) as error:
        raise MalformedError(f"this cannot be an issuing CA's certificate: {error}") from error
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise MalformedError("this certificate is not a CA's: it may not sign others")
    return certificate


def _value(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None

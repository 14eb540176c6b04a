"""A look-alike of Estonia's PKI for the demo and the tests: a root, two issuing CAs, citizens with P-384 cards.

The profile follows what real certificates show: issuing CAs with ``pathlen:0``, key usage keyCertSign and cRLSign only
and a *critical* extended key usage that lists clientAuth, emailProtection and OCSPSigning; citizens with a serialNumber
``PNOEE-…``, critical key usage and extended key usage, an OCSP address and no CRL distribution point. Nothing here is
for use outside the demo: the keys lie in plain files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from exclave.ids import Instant

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_EKU_OF_CA = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.OCSP_SIGNING]
_NO_USAGE = dict.fromkeys(
    ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
     "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
)  # fmt: skip
POLICY = "1.3.6.1.4.1.51361.1.1.1"


def _when(instant: Instant) -> datetime:
    return datetime.fromtimestamp(instant // 1_000_000, UTC)


def _usage(**wanted: bool) -> x509.KeyUsage:
    return x509.KeyUsage(**{**_NO_USAGE, **wanted})


def _digest_for(key: Key) -> hashes.SHA256 | hashes.SHA384:
    return (
        hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256 else hashes.SHA256()
    )


@dataclass(frozen=True, slots=True)
class Card:
    """A citizen's authentication key and certificate, as a smart card would keep them."""

    certificate: x509.Certificate
    key: Key = field(repr=False)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def serial(self) -> int:
        return self.certificate.serial_number


@dataclass(slots=True)
class IssuingCa:
    """An issuing CA; ``now`` is when it was made."""

    certificate: x509.Certificate
    key: Key = field(repr=False)
    now: Instant
    aia: str
    issued: list[int] = field(default_factory=list)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def card(
        self, given_name: str = "MARI", family_name: str = "MAASIKAS", code: str = "38001085718", *,
        country: str = "EE", key: Key | None = None, days: int = 5 * 365, begin: Instant | None = None,
        aia: bool = True, critical_policy: bool = False, eku: bool = True, usage: bool = True,
    ) -> Card:  # fmt: skip
        """A citizen's card. ``begin``: when it becomes valid; default: a day before the CA's ``now``."""
        key = key or ec.generate_private_key(ec.SECP384R1())
        begin_at = _when(begin if begin is not None else Instant(self.now - 86_400_000_000))
        subject = x509.Name([
            x509.NameAttribute(NameOID.COUNTRY_NAME, country),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{family_name},{given_name},{code}"),
            x509.NameAttribute(NameOID.SURNAME, family_name),
            x509.NameAttribute(NameOID.GIVEN_NAME, given_name),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"PNO{country}-{code}"),
        ])  # fmt: skip
        builder = self._builder(subject, key.public_key(), begin_at, begin_at + timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        if usage:
            builder = builder.add_extension(_usage(digital_signature=True, key_agreement=True), critical=True)
        if eku:
            uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(uses, critical=True)
        policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier(POLICY), None)])
        builder = builder.add_extension(policies, critical=critical_policy)
        if aia:
            where = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(self.aia))
            builder = builder.add_extension(x509.AuthorityInformationAccess([where]), critical=False)
        made = Card(builder.sign(self.key, _digest_for(self.key)), key)
        self.issued.append(made.serial)
        return made

    def certify(
        self, request: x509.CertificateSigningRequest, *, begin: Instant, days: int, ocsp: bool = True,
        nocheck: bool = True,
    ) -> x509.Certificate:  # fmt: skip
        """What home's CA does with a request of ``exclave identity csr``: an OCSP responder's certificate."""
        begin_at = _when(begin)
        builder = self._builder(request.subject, request.public_key(), begin_at, begin_at + timedelta(days=days))  # type: ignore[arg-type]
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        if ocsp:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=True)
        if nocheck:
            builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
        return builder.sign(self.key, _digest_for(self.key))

    def responder(self, key: Key, name: str, *, begin: Instant, days: int = 45) -> x509.Certificate:
        """A responder's certificate for ``key``."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, _digest_for(key))
        return self.certify(request, begin=begin, days=days)

    def crl(
        self, revoked: dict[int, tuple[Instant, x509.ReasonFlags | None]], *, this_update: Instant,
        lasts_s: int = 43_200, number: int = 1, delta_of: int | None = None,
    ) -> bytes:  # fmt: skip
        """A CRL, DER; with ``delta_of``, a delta CRL that builds on the full one of that number."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(_when(this_update))
            .next_update(_when(this_update) + timedelta(seconds=lasts_s))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        if delta_of is not None:
            builder = builder.add_extension(x509.DeltaCRLIndicator(delta_of), critical=True)
        for serial, (since, reason) in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_when(since))
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        made = builder.sign(self.key, _digest_for(self.key))
        return made.public_bytes(serialization.Encoding.DER)

    def _builder(self, subject: x509.Name, public: Public, begin: datetime, end: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )


@dataclass(frozen=True, slots=True)
class Pki:
    """The whole of it."""

    root: x509.Certificate
    root_key: Key = field(repr=False)
    first: IssuingCa
    """Signs with P-521, as ESTEID2018 does."""
    second: IssuingCa
    """Signs with P-384, as its successor does."""


def make_pki(now: Instant, *, aia: str = "http://aia.demo.test/{ca}") -> Pki:
    """A new PKI that is valid from a year before ``now``; ``aia``: where its certificates say OCSP is."""
    key = ec.generate_private_key(ec.SECP521R1())
    name = x509.Name([
        x509.NameAttribute(NameOID.COUNTRY_NAME, "EE"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Demo Certification Centre"),
        x509.NameAttribute(NameOID.COMMON_NAME, "DEMO EE-GovCA"),
    ])  # fmt: skip
    begin = _when(now) - timedelta(days=365)
    root = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin).not_valid_after(begin + timedelta(days=5500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA512())
    )  # fmt: skip
    made = [
        _issuing(root, key, label, ec.generate_private_key(curve()), now, aia.format(ca=label))
        for label, curve in (("esteid-2018", ec.SECP521R1), ("esteid-2025", ec.SECP384R1))
    ]
    return Pki(root, key, made[0], made[1])


def _issuing(root: x509.Certificate, root_key: Key, label: str, key: Key, now: Instant, aia: str) -> IssuingCa:
    begin = _when(now) - timedelta(days=364)
    subject = x509.Name([
        x509.NameAttribute(NameOID.COUNTRY_NAME, "EE"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Demo Certification Centre"),
        x509.NameAttribute(NameOID.COMMON_NAME, f"DEMO {label.upper()}"),
    ])  # fmt: skip
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(root.subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin).not_valid_after(begin + timedelta(days=5000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_EKU_OF_CA), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA512())
    )  # fmt: skip
    return IssuingCa(certificate, key, now, aia)


def pem(certificate: x509.Certificate) -> bytes:
    """PEM (RFC 7468)."""
    return certificate.public_bytes(serialization.Encoding.PEM)

"""Citizens' certificates with one thing about them that is not as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exclave.demo.pki import IssuingCa
from exclave.ids import Instant

EVERY = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
Subject = Sequence[tuple[x509.ObjectIdentifier, str]]
MARI: Subject = (
    (NameOID.COUNTRY_NAME, "EE"), (NameOID.SURNAME, "MAASIKAS"), (NameOID.GIVEN_NAME, "MARI"),
    (NameOID.SERIAL_NUMBER, "PNOEE-38001085718"),
)  # fmt: skip


def usage(*wanted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in wanted for name in EVERY})


def odd(
    ca: IssuingCa, now: Instant, *, key: object = None, subject: Subject = MARI, use: x509.KeyUsage | None = None,
    uses: Sequence[x509.ObjectIdentifier] = (CLIENT,), basic: x509.BasicConstraints | None = None,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (), begin_s: int = -86_400, end_s: int = 86_400,
    signer: object = None, digest: hashes.HashAlgorithm | None = None, serial: int | None = None,
) -> bytes:  # fmt: skip
    """DER; by default a good one. ``uses`` empty: no extended key usage; ``signer``: another key than the CA's."""
    at = datetime.fromtimestamp(now // 1_000_000, UTC)
    public = (key or ec.generate_private_key(ec.SECP384R1())).public_key()  # type: ignore[attr-defined]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, text) for oid, text in subject]))
        .issuer_name(ca.certificate.subject)
        .public_key(public)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(at + timedelta(seconds=begin_s))
        .not_valid_after(at + timedelta(seconds=end_s))
        .add_extension(basic or x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(use or usage("digital_signature"), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
    )
    if uses:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(uses)), critical=True)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    made = builder.sign(signer or ca.key, digest or hashes.SHA384())  # type: ignore[arg-type]
    return made.public_bytes(serialization.Encoding.DER)


def policy(oid: str) -> x509.CertificatePolicies:
    return x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier(oid), None)])

"""A certificate authority for one test, and a certificate of it for 127.0.0.1 and localhost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def loopback_tls(folder: Path, *addresses: str) -> tuple[Path, Path, Path]:
    """(CA file, certificate file, key file), PEM, in ``folder``; for loopback, and ``addresses`` in namespaces."""
    begin = datetime.now(UTC) - timedelta(hours=1)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA of one test")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey, ca: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin).not_valid_after(begin + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )  # fmt: skip

    own = [x509.IPAddress(ip_address(address)) for address in ("127.0.0.1", *addresses)]
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), *own])
    root = build(ca_name, ca_key.public_key(), True).sign(ca_key, hashes.SHA256())
    leaf = build(name, key.public_key(), False).add_extension(names, critical=False).sign(ca_key, hashes.SHA256())
    files = (folder / "ca.pem", folder / "server.pem", folder / "server.key")
    files[0].write_bytes(root.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files

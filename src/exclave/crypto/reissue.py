"""A new certificate for a key that was certified before (RFC 5280, section 4.1). Page: ``docs/spec/reissue.md``.

Subject and public key are taken over byte for byte, so the person, the card and every name stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from exclave.crypto import der
from exclave.crypto.crl import BROKEN, issuer_id, load_certificate, second_of
from exclave.crypto.signer import Algorithm, Signer
from exclave.errors import CorruptObject, MalformedError, NotAuthorised, UnavailableError, UsageError
from exclave.ids import Digest, Instant, sha256

MIN_RSA_BITS = 2048
_KEPT = frozenset(
    der.oid(oid)
    for oid in (
        "2.5.29.14",  # subject key identifier
        "2.5.29.15",  # key usage
        "2.5.29.17",  # subject alternative name
        "2.5.29.19",  # basic constraints
        "2.5.29.32",  # certificate policies
        "2.5.29.37",  # extended key usage
        "1.3.6.1.5.5.7.1.3",  # qualified certificate statements
    )
)
_ADDRESSES = frozenset({der.oid("2.5.29.31"), der.oid("1.3.6.1.5.5.7.1.1")})
"""CRL distribution points and authority information access: right for the CA that they were written for."""
_LEFT_OUT = frozenset({der.oid("2.5.29.35"), *_ADDRESSES})
_SIGNATURES = {
    Algorithm.ES256: der.tlv(der.SEQUENCE, der.oid("1.2.840.10045.4.3.2")),
    Algorithm.ES384: der.tlv(der.SEQUENCE, der.oid("1.2.840.10045.4.3.3")),
    Algorithm.ES512: der.tlv(der.SEQUENCE, der.oid("1.2.840.10045.4.3.4")),
    Algorithm.RS256: der.tlv(der.SEQUENCE, der.oid("1.2.840.113549.1.1.11"), der.tlv(der.NULL)),
}
_WEAK = (hashes.MD5, hashes.SHA1)


@dataclass(frozen=True, slots=True)
class Former:
    """A certificate that one of the known CAs signed, for a person or a machine; made by ``verify_former``."""

    issuer: Digest
    """``crypto.crl.issuer_id``."""
    serial: int
    spki_sha256: Digest
    digest: Digest
    """SHA-256 of its DER."""
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA's certificate with its private key; made by ``open_authority``."""

    id: Digest
    begins: Instant
    ends: Instant
    der: bytes = field(repr=False)
    signer: Signer = field(repr=False)
    _subject: bytes = field(repr=False)
    _key_identifier: bytes = field(repr=False)


def open_authority(certificate: bytes, signer: Signer) -> Authority:
    """The CA of ``certificate`` (DER), whose key ``signer`` is. ``UsageError`` if it is another's or no CA's."""
    parsed = load_certificate(certificate)
    try:
        if parsed.public_key().public_bytes(*_SPKI) != signer.public_der:
            raise UsageError("the key is not that of the CA's certificate")
        constraints = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = parsed.extensions.get_extension_for_class(x509.KeyUsage).value
        try:
            known = parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except x509.ExtensionNotFound:
            known = x509.SubjectKeyIdentifier.from_public_key(parsed.public_key()).digest
    except x509.ExtensionNotFound as error:
        raise UsageError("the certificate does not say that it is a CA's") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise UsageError("the certificate is not a CA's: it may not sign others")
    return Authority(
        issuer_id(certificate), second_of(parsed.not_valid_before_utc), second_of(parsed.not_valid_after_utc),
        certificate, signer, _raw(certificate).subject, known,
    )  # fmt: skip


def verify_former(data: bytes, issuers: Iterable[bytes]) -> Former:
    """The certificate ``data`` (DER), if one of ``issuers`` (DER) signed it and it may get a successor.

    ``MalformedError`` for what is no certificate, ``CorruptObject`` if nobody of that name signed it,
    ``NotAuthorised`` for a foreign issuer's, a CA's, or one with a weak key or signature.
    """
    parsed = load_certificate(data)
    try:
        _check_former(parsed)
        named = [der for der in issuers if load_certificate(der).subject == parsed.issuer]
        for issuer in named:
            try:
                parsed.verify_directly_issued_by(load_certificate(issuer))
            except InvalidSignature:
                continue
            spki = sha256(parsed.public_key().public_bytes(*_SPKI))
            return Former(issuer_id(issuer), parsed.serial_number, spki, sha256(data), data)
    except BROKEN as error:
        raise MalformedError(f"the certificate is not in the format: {error}") from error
    if not named:
        raise NotAuthorised("the certificate is of no known issuer")
    raise CorruptObject("the certificate names a known issuer whose key did not sign it")


def read_numbers(data: bytes) -> tuple[bytes, int, Digest]:
    """(issuer's name, serial, SHA-256 of SubjectPublicKeyInfo) of an unverified certificate, to look it up."""
    parsed = load_certificate(data)
    try:
        spki = parsed.public_key().public_bytes(*_SPKI)
    except BROKEN as error:
        raise MalformedError(f"the certificate's key is of an unknown kind: {error}") from error
    return parsed.issuer.public_bytes(), parsed.serial_number, sha256(spki)


def reissue(
    former: Former, authority: Authority, *, serial: int, begin: Instant, end: Instant, ocsp: str = ""
) -> bytes:
    """The new certificate, DER. It never ends after the CA; everything but the signature follows from the arguments.

    ``ocsp``: address that is written into it where the former one was another CA's. ``UsageError`` if it would end
    before it begins, ``UnavailableError`` if the key made a wrong signature.
    """
    begin, end = max(begin, authority.begins), min(end, authority.ends)
    if begin // 1_000_000 >= end // 1_000_000:
        raise UsageError("the new certificate would end before it begins: the order's or the CA's time is over")
    raw = _raw(former.der)
    algorithm = _SIGNATURES[authority.signer.algorithm]
    tbs = der.tlv(
        der.SEQUENCE,
        der.tlv(der.context(0), der.number(2)),  # version 3
        der.number(serial),
        algorithm,
        authority._subject,
        der.tlv(der.SEQUENCE, der.time(begin), der.time(end)),
        raw.subject,
        raw.spki,
        der.tlv(der.context(3), der.tlv(der.SEQUENCE, *_extensions(raw, former, authority, ocsp))),
    )
    signature = authority.signer.sign(tbs)
    made = der.tlv(der.SEQUENCE, tbs, algorithm, der.tlv(der.BIT_STRING, b"\0", signature))
    if not is_by(made, authority):
        raise UnavailableError("the CA's key made a signature that does not verify", hint="Check the token or key.")
    return made


def is_by(certificate: bytes, authority: Authority) -> bool:
    """Whether the CA's key signed this certificate (DER)."""
    try:
        load_certificate(certificate).verify_directly_issued_by(load_certificate(authority.der))
    except (InvalidSignature, MalformedError, *BROKEN):
        return False
    return True


def pem(certificate: bytes) -> bytes:
    """PEM (RFC 7468)."""
    return load_certificate(certificate).public_bytes(serialization.Encoding.PEM)


def _extensions(raw: _Raw, former: Former, authority: Authority, ocsp: str) -> list[bytes]:
    same = former.issuer == authority.id
    found: list[bytes] = []
    for oid, critical, extension in raw.extensions:
        if oid in _KEPT or (same and oid in _ADDRESSES):
            found.append(extension)
        elif oid not in _LEFT_OUT and critical:
            raise NotAuthorised("the former certificate has a critical extension that is not taken over")
    found.append(_extension("2.5.29.35", der.tlv(der.SEQUENCE, der.tlv(0x80, authority._key_identifier))))
    if ocsp and not same:
        where = der.tlv(der.SEQUENCE, der.oid("1.3.6.1.5.5.7.48.1"), der.tlv(0x86, ocsp.encode("ascii")))
        found.append(_extension("1.3.6.1.5.5.7.1.1", der.tlv(der.SEQUENCE, where)))
    return found


def _extension(oid: str, value: bytes) -> bytes:
    return der.tlv(der.SEQUENCE, der.oid(oid), der.tlv(der.OCTET_STRING, value))


@dataclass(frozen=True, slots=True)
class _Raw:
    """Parts of a certificate as they stand in it."""

    subject: bytes
    spki: bytes
    extensions: tuple[tuple[bytes, bool, bytes], ...]
    """(OID with tag and length, critical, the whole extension)"""


def _raw(data: bytes) -> _Raw:
    """Of a certificate that the library has parsed before; ``MalformedError`` if it still is not in the form."""
    certificate = _elements(data, *der.sole(data, 0, len(data), der.SEQUENCE))
    tbs = _elements(certificate[0][1], *der.sole(certificate[0][1], 0, len(certificate[0][1]), der.SEQUENCE))
    if len(tbs) < 7 or tbs[0][0] != der.context(0):
        raise MalformedError("the certificate is not of version 3")
    extensions: list[tuple[bytes, bool, bytes]] = []
    for tag, raw in tbs[7:]:
        if tag == der.context(3):
            begin, end = der.sole(raw, *der.sole(raw, 0, len(raw), tag), der.SEQUENCE)
            for _, extension in _elements(raw, begin, end):
                parts = _elements(extension, *der.sole(extension, 0, len(extension), der.SEQUENCE))
                extensions.append((parts[0][1], parts[1][0] == der.BOOLEAN, extension))
    return _Raw(tbs[5][1], tbs[6][1], tuple(extensions))


def _elements(data: bytes, begin: int, end: int) -> list[tuple[int, bytes]]:
    """(tag, whole element) of each from ``begin`` to ``end``."""
    found: list[tuple[int, bytes]] = []
    while begin < end:
        tag, _, stop = der.element(data, begin, end)
        found.append((tag, data[begin:stop]))
        begin = stop
    return found


def _check_former(parsed: x509.Certificate) -> None:
    key = parsed.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise NotAuthorised(f"the certificate's RSA key has {key.key_size} bits")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise NotAuthorised("the certificate's key is neither RSA nor ECDSA")
    if isinstance(parsed.signature_hash_algorithm, _WEAK):
        raise NotAuthorised("the certificate is signed over MD5 or SHA-1, which others can forge")
    for extension in parsed.extensions:
        value = extension.value
        if (isinstance(value, x509.BasicConstraints) and value.ca) or (
            isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign)
        ):
            raise NotAuthorised("the certificate is a CA's")


_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

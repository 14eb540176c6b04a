"""Writing certificate revocation lists (RFC 5280, section 5). Page: docs/spec/ocsp.md.

Written here, since the library's builder takes only keys of its own and holds an object for each entry.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtensionOID

from exclave.crypto.crl import BROKEN, MAX_CRL_BYTES, MAX_ENTRIES
from exclave.crypto.der import BIT_STRING, ENUMERATED, OCTET_STRING, SEQUENCE, context, head, number, oid, time, tlv
from exclave.crypto.ocsp_answer import SIGNATURE_ALGORITHMS, CrlReason
from exclave.crypto.signer import Signer
from exclave.errors import MalformedError, WrongFingerprint
from exclave.ids import Instant

Stopped = tuple[int, Instant, CrlReason]
"""Serial (0 to 2^160 - 1), since when, why."""

_REASON, _KEY_ID, _NUMBER = oid("2.5.29.21"), oid("2.5.29.35"), oid("2.5.29.20")


def issue_crl(
    entries: Iterable[Stopped],
    signer: Signer,
    certificate: bytes,
    issuer: bytes,
    *,
    crl_number: int,
    this_update: Instant,
    next_update: Instant,
) -> bytes:
    """A full list of ``entries``, signed; DER. Entries are taken one by one and kept as bytes, about 40 each.

    ``certificate`` is the signer's own and ``issuer`` the CA's, the same one where the CA's key signs; both DER. Times
    are cut to whole seconds. ``WrongFingerprint`` if the certificate is not of that key, has another name than the
    issuer (the list would be an indirect one, which hardly any client reads) or may not sign lists;
    ``MalformedError`` beyond the limits of ``crypto.crl``. Raises what the signer raises.
    """
    name, key_id = _signer_of(signer, certificate, issuer)
    body = _entries(entries)
    algorithm = SIGNATURE_ALGORITHMS[signer.algorithm]
    extensions = tlv(
        SEQUENCE,
        tlv(SEQUENCE, _KEY_ID, tlv(OCTET_STRING, tlv(SEQUENCE, tlv(0x80, key_id)))),
        tlv(SEQUENCE, _NUMBER, tlv(OCTET_STRING, number(crl_number))),
    )
    tbs = tlv(
        SEQUENCE,
        number(1),
        algorithm,
        name,
        time(this_update),
        time(next_update),
        head(SEQUENCE, len(body)) if body else b"",
        body,
        tlv(context(0), extensions),
    )
    if len(tbs) > MAX_CRL_BYTES - 4096:
        raise MalformedError(f"a CRL of more than {MAX_CRL_BYTES} bytes")
    return tlv(SEQUENCE, tbs, algorithm, tlv(BIT_STRING, b"\0", signer.sign(tbs)))


def _entries(entries: Iterable[Stopped]) -> bytes:
    """revokedCertificates without its head. The reason ``unspecified`` is left out (section 5.3.1)."""
    told = {reason: _reason(reason) for reason in CrlReason}
    told[CrlReason.unspecified] = b""
    written = bytearray()
    times: dict[int, bytes] = {}
    for count, (serial, since, reason) in enumerate(entries, 1):
        if count > MAX_ENTRIES:
            raise MalformedError(f"a CRL of more than {MAX_ENTRIES} entries")
        second = since // 1_000_000
        moment = times.get(second)
        if moment is None:
            if len(times) > 100_000:
                times.clear()
            moment = times[second] = time(since)
        written += tlv(SEQUENCE, number(serial), moment, told[reason])
    return bytes(written)


def _reason(reason: CrlReason) -> bytes:
    return tlv(SEQUENCE, tlv(SEQUENCE, _REASON, tlv(OCTET_STRING, tlv(ENUMERATED, bytes((reason,))))))


def _signer_of(signer: Signer, certificate: bytes, issuer: bytes) -> tuple[bytes, bytes]:
    """The issuer's name (DER) and the identifier of the key that signs."""
    try:
        own, ca = x509.load_der_x509_certificate(certificate), x509.load_der_x509_certificate(issuer)
        public = own.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        name = ca.subject.public_bytes()
        if public != signer.public_der or own.subject.public_bytes() != name:
            raise WrongFingerprint("the certificate to sign CRLs with is of another key or another name than the CA's")
        found = {extension.oid: extension.value for extension in own.extensions}
        usage = found.get(ExtensionOID.KEY_USAGE)
        if isinstance(usage, x509.KeyUsage) and not usage.crl_sign:
            raise WrongFingerprint("the certificate may not sign CRLs (key usage without cRLSign)")
        named = found.get(ExtensionOID.SUBJECT_KEY_IDENTIFIER)
        if isinstance(named, x509.SubjectKeyIdentifier):
            return name, named.digest
        return name, x509.SubjectKeyIdentifier.from_public_key(own.public_key()).digest
    except BROKEN as error:
        raise MalformedError(f"a certificate to sign CRLs with is not in the format: {error}") from error

"""Timestamps by RFC 3161: asking for one, and what has to be right before its time is believed.

``rfc3161-client`` parses the answer and has OpenSSL check the signature and the chain; here is what it is given and
what is checked besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from exclave.errors import ConfigError, CorruptObject, MalformedError, NotAuthorised
from exclave.ids import Digest, Instant

_SHA256 = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
MAX_ROOT_BYTES = 4096
"""Of a root certificate: its base64 fits into a line of a charter."""
MAX_TOKEN_BYTES = 32 << 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GRANTED = 0
_UNREADABLE = (
    ValueError, TypeError, KeyError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What the parsers of certificates and answers raise for bytes that are none."""
MOST_ACCURACY_US = 3600 * 1_000_000
"""An authority that does not know the hour knows no time."""


@dataclass(frozen=True, slots=True)
class TimestampRequest:
    """What is sent to an authority (``application/timestamp-query``), and the nonce that must come back."""

    data: bytes
    nonce: int


@dataclass(frozen=True, slots=True)
class VerifiedTimestamp:
    """What an authority vouches for: what has this digest existed. Built by ``verify_timestamp`` only."""

    before: Instant
    """It existed before: the authority's time and its accuracy added."""
    policy: str
    signer: str
    """Subject of the certificate that signed."""


def root_certificate(data: bytes, name: str) -> bytes:
    """DER of the one certificate in ``data`` (PEM or DER). ``ConfigError`` if it cannot be an authority's root."""
    try:
        root = x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)
        basic = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, *_UNREADABLE) as error:
        raise ConfigError(f"{name} is not a root certificate in PEM or DER") from error
    der = root.public_bytes(Encoding.DER)
    if not basic.ca or root.issuer != root.subject:
        raise ConfigError(f"{name} is not the certificate of a root: it must be a CA's, issued by itself")
    if len(der) > MAX_ROOT_BYTES:
        raise ConfigError(f"{name} is longer than {MAX_ROOT_BYTES} bytes, too long for a charter")
    return der


def request_timestamp(message: bytes) -> TimestampRequest:
    """A request about the SHA-256 of ``message``, with a fresh nonce, which asks for the signer's certificates too."""
    built = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).nonce().cert_request(
        cert_request=True
    ).build()  # fmt: skip
    if built.nonce is None:
        raise MalformedError("the timestamp library made a request without a nonce")
    return TimestampRequest(built.as_bytes(), built.nonce)


def verify_timestamp(
    token: bytes, digest: Digest, *, root: bytes, policy: str | None, nonce: int | None = None
) -> VerifiedTimestamp:
    """Before when something with the SHA-256 ``digest`` existed, by an authority under ``root`` (DER).

    ``policy``: the only one whose tokens count (dotted); None: any. ``nonce``: the one that was sent, if it is known.

    (1) the answer is in form and grants what was asked · (2) it is signed, by a certificate that leads to the
    root and was valid at the token's own time · (3) that certificate may sign timestamps and nothing else · (4) policy,
    nonce and digest are those asked for · (5) its time is exact enough to mean something. ``MalformedError`` for (1),
    ``NotAuthorised`` for (2), (3) and policy, ``CorruptObject`` for another digest, nonce or a time without meaning.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise MalformedError(f"a timestamp is longer than {MAX_TOKEN_BYTES} bytes")
    answer = _parse(token)  # (1)
    info = answer.tst_info
    if info.message_imprint.hash_algorithm != _SHA256 or info.message_imprint.message != digest:  # (4)
        raise CorruptObject("this timestamp is about something else")
    if nonce is not None and info.nonce != nonce:
        raise CorruptObject("this timestamp answers another request: its nonce is not the one that was sent")
    found = info.policy.dotted_string
    if policy not in (None, found):
        raise NotAuthorised(f"this timestamp was made under the policy {found}, not {policy}")
    try:
        # Whatever else is added here would be trusted like a root: intermediates come with the token.
        VerifierBuilder().add_root_certificate(x509.load_der_x509_certificate(root)).build().verify(
            answer, digest
        )  # (2)
        signer = _signer(answer)
    except (VerificationError, *_UNREADABLE) as error:
        raise NotAuthorised(f"this timestamp is not signed by whom it must be: {error}") from error
    if list(signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) != [  # (3)
        ExtendedKeyUsageOID.TIME_STAMPING
    ]:
        raise NotAuthorised("the certificate that signed this timestamp may sign other things too")
    return VerifiedTimestamp(_before(answer), found, signer.subject.rfc4514_string())


def _parse(token: bytes) -> TimeStampResponse:
    try:
        answer = _decode(token)
        granted = answer.status == _GRANTED
        _ = answer.tst_info if granted else None
    except _UNREADABLE as error:
        raise MalformedError("this is not an answer of a timestamp authority") from error
    if not granted:
        raise MalformedError(f"the timestamp authority refused: {'; '.join(answer.status_string)[:200] or 'no reason'}")
    return answer


def _decode(token: bytes) -> TimeStampResponse:
    try:
        return decode_timestamp_response(token)
    except _UNREADABLE:
        return decode_timestamp_response(_sorted(token))


def _sorted(token: bytes) -> bytes:
    """``token`` with the certificates that lie beside the signature in DER's order, as the parser insists.

    OpenSSL's own authority writes them in the order that it was given. No signature covers them, so nothing is lost.
    Lengths stay what they were, so they are moved where they stand: anybody may plant tokens, and to decode and encode
    one anew in Python takes a second and more. ``ValueError`` if it is built otherwise (RFC 3161, 2.4.2;
    RFC 5652, 5.1).
    """
    at, end = 0, len(token)
    for tag, place in _WAY:
        alike = [value for value in _values(token, at, end) if value.tag == tag]
        if len(alike) <= place:
            raise ValueError("it has no certificates")
        at, end = alike[place].content, alike[place].end
    ordered = sorted(token[value.begin : value.end] for value in _values(token, at, end))
    return token[:at] + b"".join(ordered) + token[end:]


_WAY = ((0x30, 0), (0x30, 1), (0xA0, 0), (0x30, 0), (0xA0, 0))
"""Tags of the values that lead to the certificates, and which of those alike: the answer, its token, the explicit
content of that, the signed data, the certificates."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A DER value, by its tag and by places in the bytes."""

    tag: int
    begin: int
    content: int
    end: int


def _values(data: bytes, at: int, end: int) -> list[_Value]:
    """The values that fill the bytes from ``at`` to ``end``. ``ValueError`` if none do."""
    found: list[_Value] = []
    while at < end:
        begin, content = at, at + 2
        length = data[at + 1] if content <= end else 0xFF
        if length >= 0x80:
            content += length - 0x80
            length = int.from_bytes(data[at + 2 : content])
            if not at + 2 < content <= min(end, at + 6):
                raise ValueError("a value has no length")
        at = content + length
        if at > end:
            raise ValueError("a value ends beyond the one that it is in")
        found.append(_Value(data[begin], begin, content, at))
    return found


def _signer(answer: TimeStampResponse) -> x509.Certificate:
    """The certificate that the signature names. ``ValueError`` if it is not there exactly once."""
    infos = list(answer.signed_data.signer_infos)
    if len(infos) != 1:
        raise ValueError("it has not one signature")
    found = [
        cert
        for cert in map(x509.load_der_x509_certificate, answer.signed_data.certificates)
        if cert.issuer == infos[0].issuer and cert.serial_number == infos[0].serial_number
    ]
    if len(found) != 1:
        raise ValueError("the certificate that signed is not in it exactly once")
    return found[0]


def _before(answer: TimeStampResponse) -> Instant:  # (5)
    info = answer.tst_info
    time = info.gen_time if info.gen_time.tzinfo else info.gen_time.replace(tzinfo=UTC)
    accuracy_us = 0
    if info.accuracy is not None:
        accuracy_us = int(info.accuracy.seconds or 0) * 1_000_000 + int(info.accuracy.millis or 0) * 1000
        accuracy_us += int(info.accuracy.micros or 0)
    if accuracy_us > MOST_ACCURACY_US or time < _EPOCH:
        raise CorruptObject("the time in this timestamp is not exact enough to mean anything")
    # A time without fractions says nothing about the rest of its second.
    rest_us = 1_000_000 if accuracy_us < 1_000_000 and time.microsecond == 0 else 0
    return Instant((time - _EPOCH) // timedelta(microseconds=1) + accuracy_us + rest_us)

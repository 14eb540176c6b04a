"""Requests for a certificate's status (OCSP): RFC 6960, section 4.1, with RFC 9654 (nonce) and RFC 9919 (profile).

Page: docs/spec/ocsp.md. Read strictly: DER only, limits first, nothing behind the end. A request decides nothing, it
only says what is asked; so its signature, if there is one, is not looked at.
"""

from __future__ import annotations

import msgspec

from exclave.crypto.der import (
    BIT_STRING,
    BOOLEAN,
    INTEGER,
    NULL,
    OCTET_STRING,
    OID,
    SEQUENCE,
    context,
    element,
    expect,
    natural,
    oid,
    sole,
)
from exclave.errors import MalformedError

MAX_REQUEST_BYTES = 8 << 10
"""By POST. A request for one certificate takes about 120 bytes."""
MAX_GET_BYTES = 1 << 10
"""By GET; RFC 9919, section 6, sends at most 255 bytes so, address and base64 included."""
MAX_CERT_IDS = 20
MAX_NONCE_BYTES = 128
"""RFC 9654, section 2.1: 1 to 128; clients send 32."""
MAX_SERIAL_BYTES = 20
_MAX_EXTENSIONS = 16

_NONCE = oid("1.3.6.1.5.5.7.48.1.2")[2:]
_RESPONSE_TYPES = oid("1.3.6.1.5.5.7.48.1.4")[2:]
_BASIC = oid("1.3.6.1.5.5.7.48.1.1")
SHA1, SHA256 = oid("1.3.14.3.2.26")[2:], oid("2.16.840.1.101.3.4.2.1")[2:]
_HASH_BYTES = {SHA1: 20, SHA256: 32}
_NO_NULL = (b"", bytes((NULL, 0)))


class IssuerKey(msgspec.Struct, frozen=True):
    """How a request names an issuer."""

    algorithm: bytes
    """Content of the hash algorithm's OID."""
    name_hash: bytes
    """Of the DER of the issuer's subject."""
    key_hash: bytes
    """Of the bits of its public key, without tag, length and unused bits."""


class CertId(msgspec.Struct, frozen=True):
    """One certificate that is asked for."""

    der: bytes
    """As it was sent; an answer repeats it."""
    issuer: IssuerKey
    serial: int


class OcspRequest(msgspec.Struct, frozen=True):
    """What is asked."""

    cert_ids: tuple[CertId, ...]
    """1 to ``MAX_CERT_IDS``, in the order in which they are answered."""
    nonce: bytes | None
    """1 to 128 bytes; None: none was sent, so the answer may be an older one."""
    signed: bool
    """It carries a signature, which was not verified: everybody gets the same answer."""


_USUAL_NONCES = (32, 16)
"""RFC 9654, section 2.1, asks clients for 32 bytes; OpenSSL sends 16."""


def parse_request(data: bytes) -> OcspRequest:
    """The request in ``data``. Raises ``MalformedError``, to which the protocol's answer is malformedRequest.

    (1) its frame · (2) version 1, which DER leaves out · (3) requestorName, not looked at · (4) CertIDs ·
    (5) extensions.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise MalformedError(f"a status request of more than {MAX_REQUEST_BYTES} bytes")
    at, end = sole(data, 0, len(data), SEQUENCE)  # (1)
    at, tbs_end = expect(data, at, end, SEQUENCE)
    if tbs_end != end:
        _check_signature(data, tbs_end, end)
    tag, begin, stop = element(data, at, tbs_end)
    if tag == context(1):  # (3), after (2): a version would be [0], where neither this nor the list may stand
        element(data, begin, stop)
        tag, begin, stop = element(data, stop, tbs_end)
    if tag != SEQUENCE:
        raise MalformedError("a status request of another version, or without a list")
    cert_ids = _cert_ids(data, begin, stop)  # (4)
    nonce = None
    if stop != tbs_end:  # (5)
        begin, stop = sole(data, stop, tbs_end, context(2))
        nonce = _nonce(_extensions(data, begin, stop))
    return OcspRequest(cert_ids, nonce, tbs_end != end)


class RequestReader:
    """``parse_request`` that knows again what differs only in its nonce. Safe to call from several threads.

    Clients ask about the same certificate in the same bytes but for the nonce, which stands at the end. DER says every
    length before its content, so with all bytes before the nonce the same, all else is the same.
    """

    def __init__(self, remembered: int = 20_000) -> None:
        self._remembered = remembered
        self._frames: dict[bytes, tuple[int, tuple[CertId, ...]]] = {}

    def parse(self, data: bytes) -> OcspRequest:
        """As ``parse_request``."""
        for size in _USUAL_NONCES:
            known = self._frames.get(data[:-size])
            if known is not None and known[0] == size:
                return OcspRequest(known[1], data[-size:], False)
        request = parse_request(data)
        nonce = request.nonce
        if nonce is None or request.signed or len(nonce) not in _USUAL_NONCES or len(request.cert_ids) > 1:
            return request
        frame = data[: -len(nonce)]
        other = bytes(byte ^ 0xFF for byte in nonce)
        # Does the nonce end the request? Equal bytes might stand there by chance, or by somebody's design.
        if data.endswith(nonce) and parse_request(frame + other).nonce == other:
            if len(self._frames) >= self._remembered:
                self._frames.clear()
            self._frames[frame] = len(nonce), request.cert_ids
        return request


def _cert_ids(data: bytes, at: int, end: int) -> tuple[CertId, ...]:
    found: list[CertId] = []
    while at < end:
        if len(found) == MAX_CERT_IDS:
            raise MalformedError(f"a status request for more than {MAX_CERT_IDS} certificates")
        begin, at = expect(data, at, end, SEQUENCE)
        id_begin, id_end = expect(data, begin, at, SEQUENCE)
        found.append(_cert_id(data[begin:id_end], id_begin - begin))
        if id_end != at:
            _check_extensions(_extensions(data, *sole(data, id_end, at, context(0))), understood=())
    if not found:
        raise MalformedError("a status request for no certificate")
    return tuple(found)


def _cert_id(der: bytes, at: int) -> CertId:
    """``der`` is the whole CertID, ``at`` the begin of its content. Its order: algorithm, two hashes, serial."""
    end = len(der)
    begin, at = expect(der, at, end, SEQUENCE)
    oid_begin, oid_end = expect(der, begin, at, OID)
    algorithm = der[oid_begin:oid_end]
    size = _HASH_BYTES.get(algorithm)
    if size is not None and der[oid_end:at] not in _NO_NULL:
        raise MalformedError("a CertID's hash algorithm with parameters")
    name_begin, at = expect(der, at, end, OCTET_STRING)
    key_begin, key_end = expect(der, at, end, OCTET_STRING)
    name_hash, key_hash = der[name_begin:at], der[key_begin:key_end]
    if size is not None and (len(name_hash) != size or len(key_hash) != size):
        raise MalformedError("a CertID's hashes are not as long as their algorithm makes them")
    begin, end = sole(der, key_end, end, INTEGER)
    serial = natural(der, begin, end, limit_bytes=MAX_SERIAL_BYTES)
    return CertId(der, IssuerKey(algorithm, name_hash, key_hash), serial)


def _extensions(data: bytes, at: int, end: int) -> dict[bytes, tuple[bool, bytes]]:
    """By the content of their OID: (critical, content of extnValue). RFC 5280, section 4.1."""
    at, end = sole(data, at, end, SEQUENCE)
    found: dict[bytes, tuple[bool, bytes]] = {}
    while at < end:
        begin, at = expect(data, at, end, SEQUENCE)
        oid_begin, begin = expect(data, begin, at, OID)
        name = data[oid_begin:begin]
        tag, value_begin, value_end = element(data, begin, at)
        critical = tag == BOOLEAN
        if critical:
            if data[value_begin:value_end] != b"\xff":  # FALSE is the default, which DER leaves out
                raise MalformedError("an extension's critical flag is not in DER")
            begin = value_end
        value_begin, value_end = sole(data, begin, at, OCTET_STRING)
        if name in found or len(found) == _MAX_EXTENSIONS:
            raise MalformedError("an extension twice, or too many")
        found[name] = critical, data[value_begin:value_end]
    if not found:
        raise MalformedError("an empty list of extensions")
    return found


def _check_extensions(extensions: dict[bytes, tuple[bool, bytes]], understood: tuple[bytes, ...]) -> None:
    """RFC 6960, section 4.4: what is not understood is ignored, unless it is critical."""
    for name, (critical, _) in extensions.items():
        if critical and name not in understood:
            raise MalformedError(f"an unknown critical extension (OID {name[:32].hex()})")


def _nonce(extensions: dict[bytes, tuple[bool, bytes]]) -> bytes | None:
    _check_extensions(extensions, understood=(_NONCE, _RESPONSE_TYPES))
    if _RESPONSE_TYPES in extensions:
        _check_response_types(extensions[_RESPONSE_TYPES][1])
    if _NONCE not in extensions:
        return None
    value = extensions[_NONCE][1]
    begin, end = sole(value, 0, len(value), OCTET_STRING)
    if not 1 <= end - begin <= MAX_NONCE_BYTES:
        raise MalformedError(f"a nonce of {end - begin} bytes; it has 1 to {MAX_NONCE_BYTES}")
    return value[begin:end]


def _check_response_types(value: bytes) -> None:
    """AcceptableResponses (RFC 6960, section 4.4.3): id-pkix-ocsp-basic, the only type that exists, must be there."""
    at, end = sole(value, 0, len(value), SEQUENCE)
    found = set()
    while at < end:
        begin = at
        _, at = expect(value, at, end, OID)
        found.add(value[begin:at])
    if _BASIC not in found:
        raise MalformedError("a status request that accepts no basic answer")


def _check_signature(data: bytes, at: int, end: int) -> None:
    """Form of ``optionalSignature``: algorithm, bits, certificates. What they say does not matter."""
    at, end = sole(data, at, end, context(0))
    at, end = sole(data, at, end, SEQUENCE)
    _, at = expect(data, at, end, SEQUENCE)
    _, at = expect(data, at, end, BIT_STRING)
    if at != end:
        at, end = sole(data, at, end, context(0))
        sole(data, at, end, SEQUENCE)

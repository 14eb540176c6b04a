"""Status requests, right and wrong, and what two other readers understand of them."""

from __future__ import annotations

from asn1crypto import ocsp as asn1
from cryptography import x509
from cryptography.x509 import ocsp

from exclave.crypto.der import NULL, OCTET_STRING, SEQUENCE, context, number, oid, tlv
from exclave.crypto.ocsp import MAX_CERT_IDS, MAX_REQUEST_BYTES, OcspRequest, parse_request
from exclave.errors import MalformedError

NONCE_OID = "1.3.6.1.5.5.7.48.1.2"
CERT_ID = tlv(
    SEQUENCE,
    tlv(SEQUENCE, oid("1.3.14.3.2.26"), tlv(NULL)),
    tlv(OCTET_STRING, bytes(range(20))),
    tlv(OCTET_STRING, bytes(range(20, 40))),
    number(int.from_bytes(b"\x11" + bytes(range(100, 119)), "big")),
)


def extension(dotted: str, value: bytes, *flag: bytes) -> bytes:
    return tlv(SEQUENCE, oid(dotted), *flag, tlv(OCTET_STRING, value))


def written(
    *cert_ids: bytes, extensions: tuple[bytes, ...] = (), single: bytes = b"", before: bytes = b"", behind: bytes = b""
) -> bytes:
    """A request of these parts, whether they are right or not."""
    listed = tlv(SEQUENCE, *(tlv(SEQUENCE, one, single) for one in cert_ids))
    tail = tlv(context(2), tlv(SEQUENCE, *extensions)) if extensions else b""
    return tlv(SEQUENCE, tlv(SEQUENCE, before, listed, tail), behind)


def nonce_of(size: int) -> bytes:
    return extension(NONCE_OID, tlv(OCTET_STRING, b"x" * size))


PLAIN = written(CERT_ID)
WITH_NONCE = written(CERT_ID, extensions=(nonce_of(32),))
BAD = {
    "nothing": b"",
    "text": b"GET / HTTP/1.0",
    "trailing byte": PLAIN + b"\0",
    "cut": PLAIN[:-1],
    "too long": tlv(SEQUENCE, b"\0" * MAX_REQUEST_BYTES),
    "indefinite length": b"\x30\x80" + PLAIN[2:] + b"\0\0",
    "length not in its shortest form": b"\x30\x81" + PLAIN[1:],
    "length of five bytes": b"\x30\x85\0\0\0\0\x02\x30\x00",
    "tag of two bytes": b"\x3f\x81\x01\x00",
    "a hundred sequences in each other": b"".join(bytes((SEQUENCE, 2 * (100 - n))) for n in range(101)),
    "an empty list": written(),
    "too many": written(*[CERT_ID] * (MAX_CERT_IDS + 1)),
    "version 1 said": written(CERT_ID, before=tlv(context(0), number(0))),
    "version 2": written(CERT_ID, before=tlv(context(0), number(1))),
    "something behind the signature": written(CERT_ID, behind=tlv(context(0), tlv(SEQUENCE)) + b"\0"),
    "a signature without bits": written(CERT_ID, behind=tlv(context(0), tlv(SEQUENCE, tlv(SEQUENCE)))),
    "no nonce in its extension": written(CERT_ID, extensions=(extension(NONCE_OID, b"raw"),)),
    "nonce of 0": written(CERT_ID, extensions=(nonce_of(0),)),
    "nonce of 129": written(CERT_ID, extensions=(nonce_of(129),)),
    "nonce of 4096": written(CERT_ID, extensions=(nonce_of(4096),)),
    "two nonces": written(CERT_ID, extensions=(nonce_of(32), nonce_of(32))),
    "critical FALSE said": written(CERT_ID, extensions=(extension(NONCE_OID, tlv(OCTET_STRING, b"x"), b"\1\1\0"),)),
    "critical TRUE as 1": written(CERT_ID, extensions=(extension(NONCE_OID, tlv(OCTET_STRING, b"x"), b"\1\1\1"),)),
    "unknown critical": written(CERT_ID, extensions=(extension("1.2.3.4", b"", b"\1\1\xff"),)),
    "unknown critical of one": written(
        CERT_ID, single=tlv(context(0), tlv(SEQUENCE, extension("1.2.3.4", b"", b"\1\1\xff")))
    ),
    "critical nonce of one": written(
        CERT_ID, single=tlv(context(0), tlv(SEQUENCE, extension(NONCE_OID, tlv(OCTET_STRING, b"x"), b"\1\1\xff")))
    ),
    "only answers of another type": written(
        CERT_ID, extensions=(extension("1.3.6.1.5.5.7.48.1.4", tlv(SEQUENCE, oid("1.2.3.4"))),)
    ),
    "no extensions in their list": tlv(SEQUENCE, tlv(SEQUENCE, PLAIN[4:], tlv(context(2), tlv(SEQUENCE)))),
    "seventeen extensions": written(CERT_ID, extensions=tuple(extension(f"1.2.3.{n}", b"") for n in range(17))),
    "hash of another length": written(CERT_ID.replace(b"\x04\x14", b"\x04\x13", 1)),
    "hash with parameters": written(tlv(SEQUENCE, tlv(SEQUENCE, oid("1.3.14.3.2.26"), number(1)), CERT_ID[13:])),
    "negative serial": written(tlv(SEQUENCE, CERT_ID[2:-22], tlv(2, b"\x80"))),
    "serial with a zero before it": written(tlv(SEQUENCE, CERT_ID[2:-22], tlv(2, b"\0\x01"))),
    "empty serial": written(tlv(SEQUENCE, CERT_ID[2:-22], tlv(2, b""))),
    "serial of 21 bytes": written(tlv(SEQUENCE, CERT_ID[2:-22], tlv(2, b"\1" * 21))),
    "something behind the serial": written(tlv(SEQUENCE, CERT_ID[2:], tlv(NULL))),
}


GOOD = {
    "plain": PLAIN,
    "with a nonce": WITH_NONCE,
    "nonce of 1": written(CERT_ID, extensions=(nonce_of(1),)),
    "nonce of 128": written(CERT_ID, extensions=(nonce_of(128),)),
    "two": written(CERT_ID, CERT_ID, extensions=(nonce_of(9),)),
    "signed": written(
        CERT_ID,
        before=tlv(context(1), tlv(0x82, b"a")),
        behind=tlv(
            context(0),
            tlv(
                SEQUENCE,
                tlv(SEQUENCE, oid("1.2.840.10045.4.3.2")),
                tlv(3, b"\0nonsense"),
                tlv(context(0), tlv(SEQUENCE)),
            ),
        ),
    ),
    "ignored extensions": written(
        CERT_ID,
        extensions=(
            extension("1.3.6.1.5.5.7.48.1.8", b"\x30\0"),
            extension("1.3.6.1.5.5.7.48.1.4", tlv(SEQUENCE, oid("1.2.3"), oid("1.3.6.1.5.5.7.48.1.1")), b"\1\1\xff"),
        ),
        single=tlv(context(0), tlv(SEQUENCE, extension("1.3.6.1.5.5.7.48.1.7", b"\x30\0"))),
    ),
}


def agreed(data: bytes) -> OcspRequest | None:
    """What we read, after checking that two other readers read the same in it; None if we refuse it."""
    try:
        request = parse_request(data)
    except MalformedError:
        return None
    theirs = asn1.OCSPRequest.load(data, strict=True)["tbs_request"]
    assert [one["req_cert"]["serial_number"].native for one in theirs["request_list"]] == [
        one.serial for one in request.cert_ids
    ]
    assert [one["req_cert"].dump() for one in theirs["request_list"]] == [one.der for one in request.cert_ids]
    if len(request.cert_ids) == 1:
        try:
            library = ocsp.load_der_ocsp_request(data)
            serial, told = library.serial_number, list(library.extensions)
        except ValueError:
            return request  # it looks into extensions and algorithms that mean nothing to us
        assert serial == request.cert_ids[0].serial
        nonces = [e.value.nonce for e in told if isinstance(e.value, x509.OCSPNonce)]
        assert nonces == ([] if request.nonce is None else [request.nonce])
    return request

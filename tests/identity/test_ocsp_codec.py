"""Status requests and answers as bytes: strict reading, checked against two other readers, and exact answers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from asn1crypto import ocsp as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.crypto.der import SEQUENCE, number, oid, tlv
from exclave.crypto.ocsp import MAX_CERT_IDS, CertId, OcspRequest, RequestReader, parse_request
from exclave.crypto.ocsp_answer import (
    GOOD as GOOD_STATUS,
)
from exclave.crypto.ocsp_answer import (
    UNKNOWN,
    CrlReason,
    ErrorStatus,
    Single,
    error_answer,
    issuer_keys,
    responder_key,
    revoked,
    sign_answer,
)
from exclave.errors import MalformedError
from exclave.ids import Instant
from support.ocsp_place import NOW, delegate, der, make_place, request_for
from support.ocsp_requests import BAD, CERT_ID, GOOD, agreed, nonce_of, written
from support.soft_signer import SoftSigner

PLACE = make_place()
CA = PLACE.pki.first
_OID_NONCE = oid("1.3.6.1.5.5.7.48.1.2")
ASKED = parse_request(request_for(PLACE.good, CA, nonce=None)).cert_ids[0]


@pytest.mark.parametrize("sha1", [True, False])
@pytest.mark.parametrize("nonce", [None, b"x", b"x" * 32, b"x" * 128])
def test_what_the_library_writes_is_read(sha1: bool, nonce: bytes | None) -> None:
    """Serial, issuer and nonce come back; the CertID's bytes are those that were sent."""
    data = request_for(PLACE.good, CA, nonce=nonce, sha1=sha1)
    request = parse_request(data)
    assert request.nonce == nonce
    (one,) = request.cert_ids
    assert one.serial == PLACE.good.serial
    assert one.issuer == issuer_keys(CA.der)[0 if sha1 else 1]
    assert one.der in data


@pytest.mark.parametrize("size", [1, 2, 32, 127, 128])
def test_nonces_that_are_allowed(size: int) -> None:
    """RFC 9654: 1 to 128 bytes."""
    assert parse_request(written(CERT_ID, extensions=(nonce_of(size),))).nonce == b"x" * size


def test_several_certificates_stay_in_order() -> None:
    """Up to the limit, in the order in which they were asked."""
    ids = [tlv(SEQUENCE, CERT_ID[2:-22], tlv(2, bytes((n,)))) for n in range(1, MAX_CERT_IDS + 1)]
    request = parse_request(written(*ids))
    assert [one.serial for one in request.cert_ids] == list(range(1, MAX_CERT_IDS + 1))


@pytest.mark.parametrize("what", GOOD)
def test_requests_of_all_shapes_are_read(what: str) -> None:
    """Signed (whatever the signature says), with a requestor's name, with extensions that do not matter."""
    request = agreed(GOOD[what])
    assert request is not None
    assert request.signed is (what == "signed")
    assert request.cert_ids[0].der == CERT_ID


@pytest.mark.parametrize("what", BAD)
def test_anything_else_is_malformed(what: str) -> None:
    """One kind of failure for whatever is not exactly a request."""
    with pytest.raises(MalformedError):
        parse_request(BAD[what])


def test_a_hash_that_names_nobody_is_read() -> None:
    """SHA-384 CertIDs are requests, if of no issuer that is indexed."""
    named = tlv(SEQUENCE, tlv(SEQUENCE, oid("2.16.840.1.101.3.4.2.2")), tlv(4, b"a" * 48), tlv(4, b"b" * 48), number(1))
    assert parse_request(written(named)).cert_ids[0].issuer not in issuer_keys(CA.der)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_read_is_what_others_read(data: st.DataObject) -> None:
    """Requests with bytes changed, cut or doubled: either refused, or understood as two other readers understand it."""
    start = data.draw(st.sampled_from(list(GOOD.values())))
    changed = bytearray(start)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(("flip", "cut", "double", "set"))):
            case "flip":
                changed[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del changed[at : at + data.draw(st.integers(1, 4))]
            case "double":
                changed[at:at] = changed[at : at + data.draw(st.integers(1, 8))]
            case _:
                changed[at] = data.draw(st.integers(0, 255))
        if not changed:
            break
    agreed(bytes(changed))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    """Never another exception."""
    assert agreed(noise) is None


# Answers


def _read(parse: Callable[[bytes], OcspRequest], data: bytes) -> OcspRequest | None:
    try:
        return parse(data)
    except MalformedError:
        return None


@given(st.data())
@settings(max_examples=300)
def test_a_reader_with_a_memory_reads_the_same(data: st.DataObject) -> None:
    """Whatever was read before: each request, good, spoilt, cut or lengthened, is read as without a memory."""
    reader = RequestReader(remembered=4)
    bodies = [request_for(card, CA, nonce=nonce) for card in (PLACE.good, PLACE.held)
              for nonce in (None, bytes(16), bytes(32), b"x" * 31, *(bytes([n]) * 32 for n in range(3)))]  # fmt: skip
    bodies += list(GOOD.values())
    for _ in range(12):
        body = bytearray(data.draw(st.sampled_from(bodies)))
        if data.draw(st.booleans()):
            body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
        body = body[: data.draw(st.sampled_from([len(body), len(body), len(body), len(body) - 16, len(body) - 1]))]
        body += bytes(data.draw(st.sampled_from([0, 0, 0, 1, 16, 32])))
        assert _read(reader.parse, bytes(body)) == _read(parse_request, bytes(body))


def test_a_nonce_that_does_not_end_the_request_is_not_taken_for_its_end() -> None:
    """A later extension that repeats the nonce's bytes is no nonce: another one there is another request."""
    nonce = bytes(range(32))
    nonce_extension = tlv(SEQUENCE, _OID_NONCE, tlv(4, tlv(4, nonce)))
    later = tlv(SEQUENCE, oid("1.3.6.1.4.1.99999.1"), tlv(4, nonce))
    extensions = tlv(0xA2, tlv(SEQUENCE, nonce_extension, later))
    asked = tlv(SEQUENCE, tlv(SEQUENCE, tlv(SEQUENCE, tlv(SEQUENCE, ASKED.der)), extensions))
    reader = RequestReader()
    assert reader.parse(asked).nonce == nonce
    other = asked[:-32] + bytes(32)
    assert reader.parse(other).nonce == nonce == parse_request(other).nonce


def one(status: bytes, *, cert_id: CertId | None = None) -> Single:
    return Single(cert_id or ASKED, status, NOW, Instant(NOW + 3_600_000_000))


@pytest.mark.parametrize("make", [ec.SECP256R1, ec.SECP384R1, None], ids=["P-256", "P-384", "RSA"])
def test_an_answer_says_exactly_what_it_was_made_of(make: type[ec.EllipticCurve] | None) -> None:
    """Every field, read by the library, and the signature, for each kind of key."""
    private = rsa.generate_private_key(65537, 2048) if make is None else ec.generate_private_key(make())
    signer, certificate = delegate(CA, begin=NOW, key=private)
    key = responder_key(signer, certificate)
    status = revoked(Instant(NOW - 5_000_000), CrlReason.keyCompromise)
    data = sign_answer([one(status)], key, produced_at=Instant(NOW + 1_999_999), nonce=b"n" * 32)
    answer = ocsp.load_der_ocsp_response(data)
    assert answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert answer.serial_number == PLACE.good.serial
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert answer.revocation_reason is x509.ReasonFlags.key_compromise
    stamps = (answer.revocation_time_utc, answer.this_update_utc, answer.next_update_utc, answer.produced_at_utc)
    begin = NOW // 1_000_000
    assert [int(stamp.timestamp()) for stamp in stamps if stamp] == [begin - 5, begin, begin + 3600, begin + 1]
    assert answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32
    assert [der(found) for found in answer.certificates] == [certificate]
    own = x509.load_der_x509_certificate(certificate)
    identifier = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert answer.responder_key_hash == identifier
    verify(own, answer)


def verify(certificate: x509.Certificate, answer: ocsp.OCSPResponse) -> None:
    from cryptography.hazmat.primitives.asymmetric import padding

    public, digest = certificate.public_key(), answer.signature_hash_algorithm
    assert digest is not None
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(answer.signature, answer.tbs_response_bytes, padding.PKCS1v15(), digest)
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(digest))


def test_the_bytes_are_der_that_another_writer_would_write() -> None:
    """asn1crypto parses it strictly and writes the same bytes from the values it read."""
    key = responder_key(*PLACE.delegates.ocsp_keys[PLACE.first])
    singles = [one(GOOD_STATUS), one(UNKNOWN), one(revoked(NOW, CrlReason.unspecified))]
    singles.append(Single(singles[0].cert_id, GOOD_STATUS, NOW, NOW, archive_cutoff=Instant(NOW - 86_400_000_000)))
    data = sign_answer(singles, key, produced_at=NOW, nonce=b"n")
    parsed = asn1.OCSPResponse.load(data, strict=True)
    told = parsed["response_bytes"]["response"].parsed["tbs_response_data"]["responses"]
    assert [single["cert_status"].name for single in told] == ["good", "unknown", "revoked", "good"]
    assert told[2]["cert_status"].chosen["revocation_reason"].native is None
    assert [single["cert_id"].dump() for single in told] == [ASKED.der] * 4
    assert told[3].archive_cutoff_value.native.timestamp() == NOW // 1_000_000 - 86_400
    assert parsed.dump(force=True) == data


def test_the_library_writes_the_same_for_one_certificate() -> None:
    """Up to the signature, which is random, and the time of production, the library's builder makes the same bytes."""
    private = ec.generate_private_key(ec.SECP256R1())
    signer, certificate = delegate(CA, begin=NOW, key=private)
    made = sign_answer([one(GOOD_STATUS)], responder_key(signer, certificate), produced_at=NOW, nonce=None)
    mine = ocsp.load_der_ocsp_response(made)
    own = x509.load_der_x509_certificate(certificate)
    theirs = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            PLACE.good.certificate, CA.certificate, hashes.SHA1(), ocsp.OCSPCertStatus.GOOD,
            mine.this_update_utc, mine.next_update_utc, None, None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, own)
        .certificates([own])
        .sign(private, hashes.SHA256())
    )  # fmt: skip
    stamp = f"{mine.produced_at_utc:%Y%m%d%H%M%SZ}".encode()
    other = f"{theirs.produced_at_utc:%Y%m%d%H%M%SZ}".encode()
    assert theirs.tbs_response_bytes.replace(other, stamp) == mine.tbs_response_bytes


def test_error_answers() -> None:
    """Five bytes, read by the library."""
    for status in ErrorStatus:
        data = error_answer(status)
        assert len(data) == 5
        assert ocsp.load_der_ocsp_response(data).response_status.value == status


def test_a_certificate_of_another_key_is_refused() -> None:
    """A responder that would sign with one key and show another's certificate never starts to."""
    _, certificate = PLACE.delegates.ocsp_keys[PLACE.first]
    with pytest.raises(MalformedError, match="not of the key"):
        responder_key(SoftSigner(ec.generate_private_key(ec.SECP256R1())), certificate)
    with pytest.raises(MalformedError, match="format"):
        responder_key(SoftSigner(ec.generate_private_key(ec.SECP256R1())), b"\x30\0")
    with pytest.raises(MalformedError, match="format"):
        issuer_keys(b"")


def test_openssl_names_the_issuer_as_we_do(tmp_path: Path) -> None:
    """Requests of another program name it by the same hashes."""
    from exclave.demo.pki import pem

    (tmp_path / "ca.pem").write_bytes(pem(CA.certificate))
    for place, digest in enumerate(("-sha1", "-sha256")):
        command = ["openssl", "ocsp", "-issuer", "ca.pem", digest, "-serial", "0x1234", "-reqout", "req", "-no_nonce"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        (asked,) = parse_request((tmp_path / "req").read_bytes()).cert_ids
        assert asked.issuer == issuer_keys(CA.der)[place]
        assert asked.serial == 0x1234

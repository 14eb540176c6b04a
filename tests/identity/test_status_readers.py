"""The readers of status logs, on files that ``openssl ca`` made and on ones that nobody should accept."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from exclave.crypto import crl as crl_module
from exclave.crypto.crl import CLOCK_SKEW_S, issuer_id, verify_crl
from exclave.errors import CorruptObject, MalformedError, WrongFingerprint
from exclave.identity.index_txt import parse_asn1_time, parse_line, read_index
from exclave.identity.status_log import Good, Held, Reason, Revoked, Serial, Unknown, log_of_crl
from exclave.ids import Instant, now, sha256
from support.openssl_ca import OpensslCa

ISSUER = sha256(b"the issuer")
LINE = b"R\t261223160555Z\t261123160555Z,superseded\t0A\tunknown\t/CN=a\n"


class Known:
    """A CA with one certificate of every kind, its files, and what must be read from them."""

    def __init__(self, folder: Path) -> None:
        self.ca = OpensslCa(folder)
        began = now() // 1_000_000 * 1_000_000
        self.good = self.ca.issue("good")
        self.far = self.ca.issue("far", "-enddate", "20600101000000Z")
        self.expired = self.ca.issue("old", "-startdate", "20200101000000Z", "-enddate", "20210101000000Z")
        self.odd = self.ca.issue("õ\tä")
        self.reasons: dict[Serial, Reason | None] = {}  # None: held
        for name, reason, options in (
            ("plain", Reason.UNSPECIFIED, ()),
            ("stolen", Reason.KEY_COMPROMISE, ("-crl_reason", "keyCompromise")),
            ("dated", Reason.KEY_COMPROMISE, ("-crl_compromise", "20260101000000Z")),
            ("ca", Reason.CA_COMPROMISE, ("-crl_reason", "CACompromise")),
            ("ca-dated", Reason.CA_COMPROMISE, ("-crl_CA_compromise", "20260101000000Z")),
            ("moved", Reason.AFFILIATION_CHANGED, ("-crl_reason", "affiliationChanged")),
            ("renewed", Reason.SUPERSEDED, ("-crl_reason", "superseded")),
            ("closed", Reason.CESSATION_OF_OPERATION, ("-crl_reason", "cessationOfOperation")),
            ("held", None, ("-crl_reason", "certificateHold")),
            ("told", None, ("-crl_hold", "holdInstructionReject")),
        ):
            self.reasons[self.ca.issue(name)] = reason
            self.ca.revoke(name, *options)
        self.ca.update()
        self.index, self.crl, self.der = self.ca.index, self.ca.crl(), self.ca.crl(der=True)
        self.times = (began, now())

    def check_stops(self, found: dict[Serial, Revoked | Held]) -> None:
        assert {n: s.reason if isinstance(s, Revoked) else None for n, s in found.items()} == self.reasons
        assert all(self.times[0] <= stop.time <= self.times[1] for stop in found.values())


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """A CA as ``openssl ca`` keeps it."""
    return Known(tmp_path_factory.mktemp("ca"))


def test_index_of_openssl(known: Known) -> None:
    """Every kind of line that ``openssl ca`` writes is understood: valid, expired, revoked, held, for each reason."""
    log = read_index(io.BytesIO(known.index), issuer=known.ca.issuer, as_of=now())
    assert log.issued == {known.good, known.far, known.expired, known.odd, *known.reasons}
    known.check_stops(dict(log.stopped))
    for serial in (known.good, known.far, known.expired, known.odd):
        assert log.status(serial) == Good()
    assert log.status(Serial(known.good ^ 1)) == Unknown()


@pytest.mark.parametrize("der", [False, True])
def test_crl_of_openssl(known: Known, der: bool) -> None:
    """A list of ``openssl ca`` gives the same revocations as its index, and its own times."""
    crl = verify_crl(known.der if der else known.crl, known.ca.certificate, now=now())
    log = log_of_crl(crl)
    known.check_stops(dict(log.stopped))
    assert log.issued is None
    assert known.times[0] <= log.as_of <= known.times[1]
    assert log.next_update == log.as_of + 7 * 86400 * 1_000_000
    assert log.status(known.good) == Unknown()


def test_crl_and_index_agree(known: Known) -> None:
    """Both readers tell of the same revocations, with the same times and reasons."""
    index = read_index(io.BytesIO(known.index), issuer=known.ca.issuer, as_of=Instant(known.times[0]))
    crl = log_of_crl(verify_crl(known.der, known.ca.certificate, now=now()))
    assert dict(index.stopped) == dict(crl.stopped)
    assert index.status(known.good) == Good()


@pytest.mark.parametrize("key", ["ED25519", "RSA"])
def test_other_keys(tmp_path: Path, key: str) -> None:
    """Lists that are signed with other kinds of key verify too; an empty list is a list."""
    ca = OpensslCa(tmp_path / "ca", key=key)
    signed_alike = ca.crl("-md", "null") if key == "ED25519" else ca.crl()
    assert log_of_crl(verify_crl(signed_alike, ca.certificate, now=now())).stopped == {}


# What must not be accepted


def refused(data: bytes, known: Known) -> None:
    with pytest.raises((CorruptObject, MalformedError, WrongFingerprint)):
        log_of_crl(verify_crl(data, known.ca.certificate, now=now()))


@given(data=st.data())
def test_flipped_bytes(known: Known, data: st.DataObject) -> None:
    """No changed byte of a list is accepted, in either form."""
    good = data.draw(st.sampled_from([known.der, known.crl]))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    refused(bytes(bad), known)


def test_every_byte_of_the_der(known: Known) -> None:
    """The same, without leaving a byte to chance."""
    for at in range(len(known.der)):
        bad = bytearray(known.der)
        bad[at] ^= 1
        refused(bytes(bad), known)


def test_cut_and_lengthened(known: Known) -> None:
    """Neither a part of a list nor a list with something after it."""
    for good in (known.der, known.crl):
        for bad in (b"", good[:-1], good[: len(good) // 2], good + b"\n", good + good, b"\n" + good):
            refused(bad, known)
    refused(known.crl.replace(b"\n", b"\r\n"), known)
    refused(known.ca.certificate, known)


def test_another_issuer(known: Known, tmp_path: Path) -> None:
    """Neither another CA's list nor one of a CA that took the same name."""
    for name, error in (("Other CA", WrongFingerprint), ("Test CA", CorruptObject)):
        with pytest.raises(error):
            verify_crl(OpensslCa(tmp_path / name, name=name).crl(), known.ca.certificate, now=now())


def test_a_certificate_that_may_not_sign_lists(tmp_path: Path) -> None:
    """A key usage without cRLSign is obeyed. ``openssl`` signs all the same."""
    ca = OpensslCa(tmp_path / "ca", usage="keyCertSign")
    with pytest.raises(WrongFingerprint, match="cRLSign"):
        verify_crl(ca.crl(), ca.certificate, now=now())


def test_sha1(known: Known) -> None:
    """A list that somebody could have forged by a collision is refused."""
    with pytest.raises(CorruptObject, match="SHA-1"):
        verify_crl(known.ca.crl("-md", "sha1"), known.ca.certificate, now=now())


def test_a_part_of_a_list(known: Known) -> None:
    """From the silence of a list that covers only some certificates nothing follows."""
    with pytest.raises(MalformedError, match="only a part"):
        verify_crl(known.ca.crl("-crlexts", "partial"), known.ca.certificate, now=now())


def test_times_of_a_list(known: Known) -> None:
    """Years later the list is still read, with its own time; one from the future is not."""
    crl = verify_crl(known.der, known.ca.certificate, now=now())
    skew = CLOCK_SKEW_S * 1_000_000
    for moment in (crl.this_update - skew, crl.next_update + 3650 * 86400 * 1_000_000):
        late = verify_crl(known.der, known.ca.certificate, now=Instant(moment))
        assert (late.this_update, late.next_update) == (crl.this_update, crl.next_update)
    with pytest.raises(CorruptObject, match="future"):
        verify_crl(known.der, known.ca.certificate, now=Instant(crl.this_update - skew - 1))


KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Made here")])
DAY = datetime(2026, 11, 23, tzinfo=UTC)


def made(*entries: x509.RevokedCertificate, extension: x509.ExtensionType | None = None) -> bytes:
    """A list that ``openssl ca`` would not make."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(NAME).last_update(DAY)
    builder = builder.next_update(DAY.replace(day=24))
    for one in entries:
        builder = builder.add_revoked_certificate(one)
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(crl_module.serialization.Encoding.DER)


def entry(serial: int, *extensions: tuple[x509.ExtensionType, bool]) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(DAY)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.build()


def own_certificate() -> bytes:
    builder = x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME).public_key(KEY.public_key())
    builder = builder.serial_number(1).not_valid_before(DAY).not_valid_after(DAY.replace(day=25))
    return builder.sign(KEY, hashes.SHA256()).public_bytes(crl_module.serialization.Encoding.DER)


STRANGE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (made(entry(5), entry(5)), "twice"),
        (made(entry(5, (x509.CRLReason(x509.ReasonFlags.remove_from_crl), False))), "removeFromCRL"),
        (made(entry(5, (x509.CertificateIssuer([x509.DirectoryName(NAME)]), True))), "other issuers"),
        (made(entry(5, (STRANGE, True))), "critical"),
        (made(extension=STRANGE), "critical"),
        (made(extension=x509.DeltaCRLIndicator(1)), "delta"),
    ],
)
def test_lists_that_are_no_full_lists(data: bytes, says: str) -> None:
    """Well signed, and still not to be read as a full list."""
    with pytest.raises(MalformedError, match=says):
        log_of_crl(verify_crl(data, own_certificate(), now=now()))


def test_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on entries holds while they are read."""
    monkeypatch.setattr(crl_module, "MAX_ENTRIES", 2)
    crl = verify_crl(made(*(entry(n) for n in (1, 2, 3))), own_certificate(), now=now())
    with pytest.raises(MalformedError, match="more than 2"):
        list(crl.entries())


def test_issuer_id(known: Known, tmp_path: Path) -> None:
    """A renewed certificate of the same name and key has the same id, another key another one."""
    again = x509.load_pem_x509_certificate(known.ca.certificate)
    assert issuer_id(again.public_bytes(crl_module.serialization.Encoding.DER)) == known.ca.issuer
    assert OpensslCa(tmp_path / "other").issuer != known.ca.issuer
    for bad in (b"", b"nothing", known.crl, known.ca.certificate + b"\n", known.ca.certificate[:-30]):
        with pytest.raises(MalformedError):
            issuer_id(bad)


@pytest.mark.parametrize(
    "line",
    [
        LINE[:-1],
        LINE.replace(b"\n", b"\r\n"),
        b"\n",
        b"# " + LINE,
        LINE.replace(b"\t", b" "),
        LINE.replace(b"R\t", b"X\t"),
        LINE.replace(b"R\t", b"V\t"),
        LINE.replace(b"R\t", b"r\t"),
        LINE.replace(b"261123160555Z,superseded", b""),
        LINE.replace(b"superseded", b"removeFromCRL"),
        LINE.replace(b"superseded", b"Superseded"),
        LINE.replace(b"superseded", b""),
        LINE.replace(b"superseded", b"superseded,x"),
        LINE.replace(b"superseded", b"keyTime"),
        LINE.replace(b"superseded", b"keyTime,yesterday"),
        LINE.replace(b"superseded", b"holdInstruction,"),
        LINE.replace(b"261123160555Z", b"261323160555Z"),
        LINE.replace(b"261123160555Z", b"261123160560Z"),
        LINE.replace(b"261123160555Z", b"2611231605Z"),
        LINE.replace(b"261123160555Z", b"261123160555"),
        LINE.replace(b"261123160555Z", b"261123160555+0200"),
        LINE.replace(b"261123160555Z", b"500101000000Z"),
        LINE.replace(b"261223160555Z", b""),
        LINE.replace(b"\t0A\t", b"\t0a\t"),
        LINE.replace(b"\t0A\t", b"\tA\t"),
        LINE.replace(b"\t0A\t", b"\t000A\t"),
        LINE.replace(b"\t0A\t", b"\t-0A\t"),
        LINE.replace(b"\t0A\t", b"\t" + b"7F" * 21 + b"\t"),
        LINE.replace(b"\t0A\t", b"\t\t"),
        LINE.replace(b"/CN=a", b"/CN=\xc3\xb5"),
        LINE.replace(b"/CN=a", b"/CN=\x07"),
        LINE.replace(b"/CN=a", b"/CN=a\tb"),
        LINE.replace(b"/CN=a", b"/CN=" + b"a" * 4096),
    ],
)
def test_lines_that_openssl_does_not_write(line: bytes) -> None:
    """A line that deviates is refused, and the whole file with it: it could be the one revocation that matters."""
    good = LINE.replace(b"\t0A\t", b"\t0B\t")
    assert read_index(io.BytesIO(good + LINE), issuer=ISSUER, as_of=now()).stopped
    with pytest.raises(MalformedError, match=r"index\.txt, line 2: "):
        read_index(io.BytesIO(good + line), issuer=ISSUER, as_of=now())


def test_a_serial_twice() -> None:
    """Two lines of one certificate could say two things."""
    with pytest.raises(MalformedError, match="line 2: serial A is listed twice"):
        read_index(io.BytesIO(LINE + LINE), issuer=ISSUER, as_of=now())


@given(st.binary(max_size=200) | st.text(alphabet="RVE\t,0123456789ABZ/=\n", max_size=200).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    """Whatever the file holds, it is read or refused in the one way."""
    try:
        log = read_index(io.BytesIO(data), issuer=ISSUER, as_of=now())
    except MalformedError:
        return
    assert log.issued is not None
    assert len(log.issued) == data.count(b"\n")


@given(
    serial=st.integers(0, (1 << 160) - 1),
    seconds=st.integers(0, 253_402_300_799),  # to the end of the year 9999
    kind=st.sampled_from("VER"),
)
def test_lines_are_read_as_they_were_written(serial: int, seconds: int, kind: str) -> None:
    """Number and time come out as they went in, in UTCTime up to 2049 and in GeneralizedTime."""
    moment = datetime.fromtimestamp(seconds, UTC)
    digits = f"{serial:X}"
    digits = digits if len(digits) % 2 == 0 else f"0{digits}"
    time = f"{moment.year:04}{moment:%m%d%H%M%S}Z"
    spellings = [time, time[2:]] if moment.year < 2050 else [time]
    for text in spellings:
        line = parse_line(f"{kind}\t300101000000Z\t{text if kind == 'R' else ''}\t{digits}\tunknown\t/CN=a\n".encode())
        assert line.serial == serial
        since = parse_asn1_time(text)
        assert since == seconds * 1_000_000
        assert line.stop == (Revoked(since, Reason.UNSPECIFIED) if kind == "R" else None)


@given(st.data())
def test_changed_lines(data: st.DataObject) -> None:
    """A line with one changed byte either means the same kind of thing in full, or is refused; nothing else happens."""
    bad = bytearray(LINE)
    bad[data.draw(st.integers(0, len(LINE) - 1))] = data.draw(st.integers(0, 255))
    try:
        line = parse_line(bytes(bad))
    except MalformedError:
        return
    assert bytes(bad)[:1] == b"R"
    assert isinstance(line.stop, Revoked)

"""New certificates for certified keys: what is the same, who gets none, and what a crash leaves."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from exclave.crypto.reissue import Authority, open_authority, read_numbers
from exclave.crypto.signer_file import FileSigner
from exclave.demo.pki import Card, make_pki, pem
from exclave.errors import NotAuthorised, UnavailableError, UsageError, WarrantExpired
from exclave.formats.journal import Issued, Issuer, Stopped, serial_bytes
from exclave.formats.reissueorder import write_reissue_order
from exclave.formats.warrant import Act
from exclave.identity.reissue import EXILE_SERIALS, serial_prefix
from exclave.identity.status_log import Good
from exclave.ids import Instant, Label, sha256
from exclave.operations.identity_reissue import Pace, Reissued, reissue_all
from support.acting import DAY, HOUR, Granted, Killed, Place, issuer, pki
from support.small_state import START

UNTIL = Instant(START + 400 * DAY)
OCSP = "http://ocsp.exile.test/"


@dataclass
class Office:
    """A place with a CA that signs, and a folder of former certificates."""

    place: Place
    ca: Authority
    former: Path
    out: Path

    def card(self, code: str = "38001085718", **more: object) -> Card:
        card = pki().first.card(code=code, **more)  # type: ignore[arg-type]
        self.place.issued(card.serial)
        (self.former / f"{card.serial:x}.pem").write_bytes(pem(card.certificate))
        return card

    def order(self, *groups: list[Card], until: Instant = UNTIL) -> Path:
        path = self.place.folder / "reissue.order"
        path.write_bytes(write_reissue_order(self.ca.id, until, [{sha256(c.der) for c in group} for group in groups]))
        return path

    def run(self, order: Path, granted: Granted | None = None, pace: Pace | None = None) -> Reissued:
        return reissue_all(
            self.place.desk(granted or self.place.grant(Act.REISSUE, order)), order, ca=self.ca,
            certificates=self.former, out=self.out, ocsp=OCSP, pace=pace,
        )  # fmt: skip

    def made(self) -> dict[str, x509.Certificate]:
        """New certificates by the digest of the former one, as the index tells."""
        with open(self.out / "index.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        found = {}
        for row in rows:
            data = (self.out / row["group"] / f"{row['serial']}.der").read_bytes()
            assert sha256(data).hex() == row["sha256"]
            found[row["former_sha256"]] = x509.load_der_x509_certificate(data)
        return found


def _office(folder: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> Office:
    """The second CA of the look-alike PKI signs, or an exile CA with ``key``."""
    place = Place(folder / "place")
    der, private = (pki().second.der, pki().second.key) if key is None else (_exile_ca(key), key)
    place.add(Issuer("exile", der, True))
    (folder / "former").mkdir()
    return Office(place, open_authority(der, FileSigner(private)), folder / "former", folder / "new")


def _exile_ca(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, days: int = 2000) -> bytes:
    """A CA under the same root, as a state makes it in peace."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "DEMO EXILE CA")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    begin = datetime.fromtimestamp(START // 1_000_000, UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(pki().root.subject).public_key(key.public_key())
        .serial_number(7).not_valid_before(begin).not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.BasicConstraints(True, 0), True).add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(pki().root_key.public_key()), False)
        .sign(pki().root_key, SHA256())
    )  # fmt: skip
    return made.public_bytes(Encoding.DER)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return _office(tmp_path)


@pytest.mark.parametrize("kind", ["sibling", "p256", "rsa"])
def test_the_new_certificate(tmp_path: Path, kind: str) -> None:
    """Same person and key, a number of this place, the CA's name, the exile's address; OpenSSL takes it."""
    keys = {
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }
    office = _office(tmp_path, keys[kind]() if kind in keys else None)
    card = office.card()
    done = office.run(office.order([card]))
    assert (done.total, done.made, done.before, done.refused, done.left) == (1, 1, 0, {}, 0)
    (made,) = office.made().values()
    former = card.certificate
    assert made.subject.public_bytes() == former.subject.public_bytes()
    assert read_numbers(made.public_bytes(Encoding.DER))[2] == read_numbers(card.der)[2]
    assert made.serial_number.to_bytes(20, "big")[:4] == serial_prefix(Label("lux"))
    assert serial_prefix(Label("lux"))[0] == EXILE_SERIALS
    assert serial_prefix(Label("lux")) != serial_prefix(Label("home"))
    assert made.not_valid_before_utc == datetime.fromtimestamp(office.place.time // 1_000_000, UTC)
    assert made.not_valid_after_utc == datetime.fromtimestamp(UNTIL // 1_000_000, UTC)
    kept = (x509.KeyUsage, x509.ExtendedKeyUsage, x509.CertificatePolicies, x509.SubjectKeyIdentifier)
    for wanted in kept:
        assert made.extensions.get_extension_for_class(wanted) == former.extensions.get_extension_for_class(wanted)
    aia = made.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [access.access_location.value for access in aia] == [OCSP]
    assert isinstance(office.place.status(made.serial_number, office.ca.id), Good)
    (entry,) = [e for e in office.place.entries() if isinstance(e.body, Issued) and e.body.issuer == office.ca.id]
    assert entry.warrant == done.warrant
    (fact,) = office.place.facts()
    assert fact.say[1] == f"1 of 1 certificates made by CA {office.ca.id.hex()}"
    _verify_with_openssl(office, tmp_path, made)


def _verify_with_openssl(office: Office, folder: Path, made: x509.Certificate) -> None:
    (folder / "root.pem").write_bytes(pem(pki().root))
    (folder / "ca.pem").write_bytes(pem(x509.load_der_x509_certificate(office.ca.der)))
    (path,) = (office.out / "1").glob("*.pem")
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(folder / "root.pem"), "-attime",
               str(office.place.time // 1_000_000 + 60), "-untrusted", str(folder / "ca.pem"), str(path)]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_groups_and_pace(office: Office) -> None:
    """The first group comes first; a run stops where it shall, pauses between batches, and the next one goes on."""
    first, second = [office.card("38001085718"), office.card("48001085718")], [office.card("60001017716")]
    order = office.order(first, second)
    granted = office.place.grant(Act.REISSUE, order)
    pauses: list[float] = []
    done = office.run(order, granted, Pace(batch=1, pause_s=2.5, most=2, sleep=pauses.append))
    assert (done.made, done.left, pauses) == (2, 1, [2.5])
    assert set(office.made()) == {sha256(card.der).hex() for card in first}
    done = office.run(order, granted, Pace(batch=1, pause_s=2.5, sleep=pauses.append))
    assert (done.made, done.before, done.left) == (1, 2, 0)
    assert len(office.made()) == 3
    again = office.run(order, granted)
    assert (again.made, again.before, again.fact.new) == (0, 3, False)


def _stop(office: Office, serial: int, reason: str) -> None:
    office.place.add(Stopped(issuer(), serial_bytes(serial), START, reason))


def _revoked(office: Office) -> Card:
    card = office.card()
    _stop(office, card.serial, "keyCompromise")
    return card


def _held(office: Office) -> Card:
    card = office.card()
    _stop(office, card.serial, "certificateHold")
    return card


def _same_key_as_revoked(office: Office) -> Card:
    other = _revoked(office)
    return office.card(key=other.key)


def _forged(office: Office) -> Card:
    """Made with the issuing CA's own key, by somebody who stole it; home never entered it."""
    card = pki().first.card(code="48001085718")
    (office.former / "forged.pem").write_bytes(pem(card.certificate))
    return card


def _foreign(office: Office) -> Card:
    card = make_pki(START).first.card()
    (office.former / "foreign.der").write_bytes(card.der)
    return card


def _missing(office: Office) -> Card:
    card = office.card()
    (office.former / f"{card.serial:x}.pem").unlink()
    return card


def _authority(office: Office) -> Card:
    (office.former / "ca.pem").write_bytes(pem(pki().second.certificate))
    return Card(pki().second.certificate, pki().second.key)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_revoked, "stopped"),
        (_held, "stopped"),
        (_same_key_as_revoked, "tainted"),
        (_forged, "never-issued"),
        (_foreign, "foreign"),
        (_missing, "missing"),
        (_authority, "foreign"),
    ],
)
def test_who_gets_none(office: Office, make: Callable[[Office], Card], reason: str) -> None:
    """A refused certificate is counted by its reason, and the others get theirs."""
    bad, good = make(office), office.card("60001017716")
    done = office.run(office.order([bad, good]))
    assert (done.made, done.refused) == (1, {reason: 1})
    assert set(office.made()) == {sha256(good.der).hex()}


def test_a_planted_certificate_taints_nobody(office: Office) -> None:
    """A certificate that names a revoked number and somebody's key, but that no CA signed, refuses nobody his."""
    good, revoked = office.card(), _revoked(office)
    forger = make_pki(START).first
    planted = x509.CertificateBuilder(
        issuer_name=pki().first.certificate.subject, subject_name=good.certificate.subject,
        public_key=good.certificate.public_key(), serial_number=revoked.serial,
        not_valid_before=datetime.fromtimestamp(START // 1_000_000, UTC),
        not_valid_after=datetime.fromtimestamp(UNTIL // 1_000_000, UTC),
    ).sign(forger.key, SHA256())  # fmt: skip
    (office.former / "planted.pem").write_bytes(pem(planted))
    assert office.run(office.order([good])).made == 1


def test_never_beyond_the_ca(tmp_path: Path) -> None:
    """The new certificate ends with its CA at the latest."""
    place = Place(tmp_path / "place")
    key = ec.generate_private_key(ec.SECP256R1())
    der = _exile_ca(key, days=100)
    place.add(Issuer("exile", der, True))
    (tmp_path / "former").mkdir()
    office = Office(place, open_authority(der, FileSigner(key)), tmp_path / "former", tmp_path / "new")
    office.run(office.order([office.card()]))
    (made,) = office.made().values()
    assert made.not_valid_after_utc == x509.load_der_x509_certificate(der).not_valid_after_utc


def test_an_order_whose_time_is_over(office: Office) -> None:
    """What could not be valid at all is refused, not made."""
    done = office.run(office.order([office.card()], until=Instant(office.place.time - HOUR)))
    assert (done.made, done.refused) == (0, {"ends": 1})


def test_the_wrong_ca(office: Office) -> None:
    """Another CA's key than the order names, a key that is not the certificate's, and a CA unknown to the journal."""
    card = office.card()
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(UsageError, match="not that of"):
        open_authority(pki().second.der, FileSigner(key))
    with pytest.raises(UsageError, match="not a CA's"):
        open_authority(card.der, FileSigner(card.key))  # type: ignore[arg-type]
    order = office.order([card])
    granted = office.place.grant(Act.REISSUE, order)
    office.ca = open_authority(_exile_ca(key), FileSigner(key))
    with pytest.raises(UsageError, match="the order is for the CA"):
        office.run(order, granted)
    with pytest.raises(UsageError, match="does not know the CA"):
        office.run(office.order([card]))
    assert not office.out.exists()


class _Faulty:
    """A token that computes wrongly."""

    def __init__(self, real: FileSigner) -> None:
        self.algorithm, self.public_der, self._real = real.algorithm, real.public_der, real

    def sign(self, message: bytes) -> bytes:
        return self._real.sign(message + b"!")


def test_a_faulty_token(office: Office) -> None:
    """A signature that does not verify is handed out to nobody, and no number is entered."""
    assert isinstance(pki().second.key, ec.EllipticCurvePrivateKey)
    office.ca = open_authority(pki().second.der, _Faulty(FileSigner(pki().second.key)))
    before = len(office.place.entries())
    with pytest.raises(UnavailableError, match="does not verify"):
        office.run(office.order([office.card()]))
    assert len(office.place.entries()) == before + 1  # the card's own
    assert not list(office.out.rglob("*.der"))


def test_an_altered_order(office: Office) -> None:
    """A later end than the custodians saw is another order."""
    card = office.card()
    granted = office.place.grant(Act.REISSUE, office.order([card]))
    with pytest.raises(NotAuthorised, match="another order file"):
        office.run(office.order([card], until=Instant(UNTIL + DAY)), granted)


# Crashes


@pytest.mark.parametrize(("at", "after"), [(1, False), (1, True), (2, False), (2, True)])
def test_killed_at_the_entry(office: Office, at: int, after: bool) -> None:
    """Killed before or after a batch was entered: no file is there that is not entered; the next run ends it."""
    cards = [office.card(code) for code in ("38001085718", "48001085718", "60001017716")]
    order = office.order(cards)
    granted = office.place.grant(Act.REISSUE, order)
    office.place.pen.at, office.place.pen.after = office.place.pen.calls + at, after
    with pytest.raises(Killed):
        office.run(order, granted, Pace(batch=1))
    assert len(list(office.out.rglob("*.der"))) == at - 1
    office.place.open()
    done = office.run(order, granted, Pace(batch=1))
    assert (done.made, done.before) == (3 - (at - 1), at - 1)
    entered = [s for e in office.place.entries() if isinstance(e.body, Issued) and e.body.issuer == office.ca.id
               for s in e.body.serials]  # fmt: skip
    assert sorted(entered) == sorted(serial_bytes(made.serial_number) for made in office.made().values())
    assert len(office.place.facts()) == 1


def test_torn_files(office: Office) -> None:
    """Files that lost their bytes with the power are made again, under the same numbers."""
    order = office.order([office.card()])
    granted = office.place.grant(Act.REISSUE, order)
    office.run(order, granted)
    (before,) = office.made().values()
    (path,) = office.out.rglob("*.der")
    for spoilt in (b"", path.read_bytes()[:-5]):
        path.write_bytes(spoilt)
        office.run(order, granted)
        (again,) = office.made().values()
        assert again.tbs_certificate_bytes == before.tbs_certificate_bytes


def test_a_successor_that_was_revoked(office: Office) -> None:
    """Once the new certificate is revoked, running the order again does not bring it back."""
    order = office.order([office.card()])
    granted = office.place.grant(Act.REISSUE, order)
    office.run(order, granted)
    (made,) = office.made().values()
    office.place.add(Stopped(office.ca.id, serial_bytes(made.serial_number), START, "keyCompromise"))
    for path in office.out.rglob("*.der"):
        path.unlink()
    done = office.run(order, granted)
    assert (done.made, done.refused) == (0, {"successor-stopped": 1})


def test_the_warrant_ends_on_the_way(office: Office) -> None:
    """A slow order stops with its warrant; what was made stays."""
    cards = [office.card(code) for code in ("38001085718", "48001085718")]
    order = office.order(cards)
    granted = office.place.grant(Act.REISSUE, order, hours=1)

    def sleep(seconds: float) -> None:
        office.place.time = Instant(office.place.time + int(seconds * 1e6))

    with pytest.raises(WarrantExpired):
        office.run(order, granted, Pace(batch=1, pause_s=3601, sleep=sleep))
    assert len(list(office.out.rglob("*.der"))) == 1

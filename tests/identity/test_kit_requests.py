"""Keys and requests that an embassy makes; what comes back: right certificates are taken, wrong ones refused."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exclave.crypto.delegate import verify_delegate
from exclave.crypto.signer import Algorithm
from exclave.crypto.signer_file import encode_private_key, make_private_key
from exclave.demo.pki import IssuingCa, Pki, make_pki, pem
from exclave.errors import (
    AlreadyExists,
    CorruptObject,
    ExclaveError,
    MalformedError,
    TargetNotEmpty,
    UnavailableError,
    UsageError,
)
from exclave.formats.keyring import KeyUse, Stored
from exclave.identity.key_folder import KeyFolder
from exclave.identity.keyring import Keyring
from exclave.ids import Instant, Label, now
from exclave.operations.identity_kit import (
    KitWishes,
    Requested,
    accept_certificates,
    add_token_key,
    request_kit,
    windows_of,
)
from exclave.rules.ladder import DAY_S, look
from support.kit import KitStore, info_of
from support.ocsp_place import make_place, request_for
from support.softhsm import make_token

DAY = DAY_S * 1_000_000
NOW = Instant(1_790_000_000_000_000)
PLACE = Label("luxembourg")
WISHES = KitWishes("EE", "Demo State", rungs=3)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki(NOW)


@pytest.fixture
def store(pki: Pki) -> KitStore:
    return KitStore((info_of(pki.first, "esteid-2018", as_of=NOW), info_of(pki.second, "esteid-2025", as_of=NOW)))


def _made(keys: KeyFolder, store: KitStore, folder: Path, wishes: KitWishes = WISHES, now: Instant = NOW) -> Requested:
    return request_kit(keys, store, PLACE, folder, wishes, now=now, say=lambda line: None)


def _answers(pki: Pki, made: Requested) -> list[bytes]:
    """What home's CA does with the folder."""
    found = []
    for request in made.requests:
        ca = pki.first if request.issuer == "esteid-2018" else pki.second
        csr = x509.load_pem_x509_csr((made.folder / request.file).read_bytes())
        days = (request.window.end - request.window.begin) // DAY
        found.append(pem(ca.certify(csr, begin=request.window.begin, days=days)))
    return found


@pytest.mark.parametrize("stored", list(Stored))
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_from_request_to_signature(
    pki: Pki, store: KitStore, tmp_path: Path, stored: Stored, algorithm: Algorithm
) -> None:
    """Requests from files and from a token are certified, accepted, and the keyring then signs with the right one."""
    keys = _folder(tmp_path / "identity-keys", stored, f"kit-{algorithm}".lower())
    wishes = KitWishes("EE", "Demo State", algorithm, stored, rungs=2 if algorithm is Algorithm.RS256 else 3)
    made = _made(keys, store, tmp_path / "out", wishes)
    accepted = accept_certificates(keys, store, PLACE, _answers(pki, made), now=NOW)
    assert [row.state for row in accepted.rows] == ["accepted"] * len(made.requests)
    store.enter([*accepted.bodies, made.place_keys])
    again = accept_certificates(keys, store, PLACE, _answers(pki, made)[:1], now=NOW)
    assert again.rows[0].state == "accepted"  # a new certificate for the same key and time is another one
    ring = Keyring(KeyFolder(keys.path), store, PLACE)
    for info, ca in zip(store.infos, (pki.first, pki.second), strict=True):
        for offset in (DAY // 2, 35 * DAY):
            signer, der = ring.ocsp(info.id, now=Instant(NOW + offset))
            certificate = x509.load_der_x509_certificate(der)
            certificate.verify_directly_issued_by(ca.certificate)
            public = certificate.public_key()
            assert signer.algorithm is algorithm
            assert signer.public_der == public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            assert signer.sign(b"an answer")
            assert ring.ocsp(info.id, now=Instant(NOW + offset))[0] is signer
        assert ring.ocsp(info.id, now=Instant(NOW + 400 * DAY)) is None
        assert look(windows_of(keys, store, info, PLACE), now=NOW).gaps == ()
    keys.close()


def _folder(path: Path, stored: Stored, token: str) -> KeyFolder:
    if stored is Stored.PKCS11:
        place = make_token(token).place
        path.mkdir(mode=0o700)
        (path / "pkcs11.toml").write_text(
            f'module = "{place.module}"\ntoken = "{place.token}"\npin_file = "{place.pin_file}"\n'
        )
        (path / "pkcs11.toml").chmod(0o600)
    return KeyFolder(path)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_openssl_reads_and_verifies_a_request(store: KitStore, tmp_path: Path, algorithm: Algorithm) -> None:
    """openssl verifies a request's signature and finds the wanted subject and extensions in it."""
    wishes = KitWishes("EE", "Demo State", algorithm, rungs=1)
    made = _made(KeyFolder(tmp_path / "keys"), store, tmp_path / "out", wishes)
    done = subprocess.run(
        ["openssl", "req", "-in", made.requests[0].file, "-verify", "-text", "-noout"],
        cwd=made.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "verify OK" in done.stderr + done.stdout
    for wanted in (
        "C = EE, O = Demo State, CN = ESTEID-2018 LUXEMBOURG OCSP RESPONDER 202609",
        "X509v3 Key Usage: critical Digital Signature X509v3",
        "X509v3 Extended Key Usage: critical OCSP Signing OCSP No Check",
    ):
        assert wanted in " ".join(done.stdout.split())


def test_the_manifest_says_what_is_needed(store: KitStore, tmp_path: Path) -> None:
    """The text for home's CA names each request, its CA, window and key, and what all certificates must have."""
    made = _made(KeyFolder(tmp_path / "keys"), store, tmp_path / "out")
    text = (made.folder / "manifest.txt").read_text()
    for request in made.requests:
        assert request.file in text
        assert request.name in text
    assert "ESTEID-2018 LUXEMBOURG OCSP RESPONDER 202609\n" in text
    assert "OCSP RESPONDER 202610\n" in text
    assert "OCSPSigning (1.3.6.1.5.5.7.3.9), nothing else" in text
    assert "notBefore    2026-09-21 14:13:20 UTC" in text
    assert "46 days" in text
    assert max(map(len, text.splitlines())) <= 120


def test_two_in_one_month_have_two_names(store: KitStore, tmp_path: Path) -> None:
    """Where two windows begin in one month, their names differ."""
    made = _made(KeyFolder(tmp_path / "keys"), store, tmp_path / "out", KitWishes("EE", "S", lasts_days=20, rungs=4))
    names = [r.name[-8:] for r in made.requests[:4]]
    assert names == ["R 202609", "202609-2", "R 202610", "202610-2"]


def test_an_interrupted_run_is_run_again(store: KitStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a death between key and record, or before the files, a new run uses the keys that are there."""
    keys = KeyFolder(tmp_path / "keys")
    made = _made(keys, store, tmp_path / "lost")
    (tmp_path / "keys" / f"{made.requests[0].key.name}.key").unlink()  # the key was written, its record was not
    again = _made(KeyFolder(tmp_path / "keys"), store, tmp_path / "out")
    assert [r.key.public_der for r in again.requests] == [r.key.public_der for r in made.requests]
    with pytest.raises(TargetNotEmpty):
        _made(keys, store, tmp_path / "out")


def test_the_next_ladder_begins_where_this_one_ends(pki: Pki, store: KitStore, tmp_path: Path) -> None:
    """A request half a year later continues the ladder without a gap and without a key used twice."""
    keys = KeyFolder(tmp_path / "keys")
    made = _made(keys, store, tmp_path / "one")
    store.enter(accept_certificates(keys, store, PLACE, _answers(pki, made), now=NOW).bodies)
    later = Instant(NOW + 50 * DAY)
    more = _made(keys, store, tmp_path / "two", now=later)
    assert more.requests[0].window.begin == NOW + (105 - 15) * DAY
    store.enter(accept_certificates(keys, store, PLACE, _answers(pki, more), now=later).bodies)
    state = look(windows_of(keys, store, store.infos[0], PLACE), now=later)
    assert (state.gaps, state.alarm) == ((), False)


def test_a_key_that_was_taken_away_is_asked_for_again(pki: Pki, store: KitStore, tmp_path: Path) -> None:
    """When a rung's key is gone, the next requests begin where the usable ladder ends."""
    keys = KeyFolder(tmp_path / "keys")
    made = _made(keys, store, tmp_path / "one")
    store.enter(accept_certificates(keys, store, PLACE, _answers(pki, made), now=NOW).bodies)
    for file in keys.path.glob(f"{made.requests[1].key.name}.*"):
        file.unlink()
    again = _made(KeyFolder(keys.path), store, tmp_path / "two")
    assert again.requests[0].window.begin == NOW + (45 - 15) * DAY
    assert again.requests[0].key.name == made.requests[1].key.name
    assert again.requests[0].key.public_der != made.requests[1].key.public_der


def _wrong(pki: Pki, made: Requested, ca: IssuingCa, **how: object) -> bytes:
    csr = x509.load_pem_x509_csr((made.folder / made.requests[0].file).read_bytes())
    return pem(ca.certify(csr, **{"begin": NOW, "days": 45, **how}))  # type: ignore[arg-type]


def _other_key(pki: Pki, made: Requested) -> bytes:
    return pem(pki.first.responder(ec.generate_private_key(ec.SECP256R1()), "STRANGER", begin=NOW))


def _forged(pki: Pki, made: Requested) -> bytes:
    forger = IssuingCa(pki.first.certificate, ec.generate_private_key(ec.SECP384R1()), NOW, pki.first.aia)
    return _wrong(pki, made, forger)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda pki, made: _wrong(pki, made, pki.second), "none that luxembourg made for esteid-2025"),
        (lambda pki, made: _wrong(pki, made, make_pki(NOW, aia="http://x.test/{ca}").second), "key did not sign it"),
        (lambda pki, made: _wrong(pki, made, pki.first, ocsp=False), "OCSPSigning"),
        (lambda pki, made: _wrong(pki, made, pki.first, nocheck=False), "nocheck"),
        (lambda pki, made: _wrong(pki, made, pki.first, days=47), "valid for 47 days"),
        (lambda pki, made: _wrong(pki, made, pki.first, begin=Instant(NOW - 60 * DAY)), "has ended"),
        (_other_key, "none that luxembourg made"),
        (_forged, "key did not sign it"),
        (lambda pki, made: pem(pki.root), "root|no issuing CA|P-256"),
        (lambda pki, made: pem(pki.first.card().certificate), "OCSPSigning"),
    ],
)  # fmt: skip
def test_wrong_certificates_are_refused(
    pki: Pki, store: KitStore, tmp_path: Path, make: Callable[[Pki, Requested], bytes], why: str
) -> None:
    """A sibling's, a forged one, one without OCSPSigning or nocheck, too long, ended, or of a foreign key: each is
    refused with its reason, and good ones beside it are taken."""
    keys = KeyFolder(tmp_path / "keys")
    made = _made(keys, store, tmp_path / "out", KitWishes("EE", "Demo State", rungs=1))
    accepted = accept_certificates(keys, store, PLACE, [make(pki, made) + _answers(pki, made)[1]], now=NOW)
    assert [row.state for row in accepted.rows] == ["refused", "accepted"]
    assert re.search(why, accepted.rows[0].why), accepted.rows[0].why
    assert accepted.refused
    assert len(accepted.bodies) == 1


@pytest.mark.parametrize(
    "wishes",
    [
        KitWishes("ee", "S"),
        KitWishes("EST", "S"),
        KitWishes("EE", ""),
        KitWishes("EE", "x" * 65),
        KitWishes("EE", "a\nb"),
        KitWishes("EE", "S", rungs=0),
    ],
)
def test_wishes_that_cannot_be(store: KitStore, tmp_path: Path, wishes: KitWishes) -> None:
    """Impossible countries, names and ladders are a mistake of the caller, and no request is written."""
    with pytest.raises(UsageError):
        _made(KeyFolder(tmp_path / "keys"), store, tmp_path / "out", wishes)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def delegate(pki: Pki) -> bytes:
    made = pki.second.responder(ec.generate_private_key(ec.SECP256R1()), "DEMO OCSP RESPONDER 202611", begin=NOW)
    return made.public_bytes(serialization.Encoding.DER)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_never_accepted(pki: Pki, delegate: bytes, at: int, flip: int) -> None:
    """A certificate with one changed byte, or one byte more, is refused as what it is, never with another error."""
    assert verify_delegate(delegate, [pki.second.der], longest_s=46 * DAY_S).der == delegate
    changed = bytearray(delegate)
    changed[at % len(changed)] ^= flip
    for wrong in (bytes(changed), delegate + b"\0"):
        with pytest.raises(ExclaveError):
            verify_delegate(wrong, [pki.second.der], longest_s=46 * DAY_S)


def test_openssl_accepts_answers_from_a_token(tmp_path: Path) -> None:
    """From request to answer with a key that never left its token: openssl verifies what the responder signs by it."""
    place = make_place(now())
    store = KitStore((info_of(place.pki.first, "esteid-2018", as_of=place.now),))
    keys = _folder(tmp_path / "identity-keys", Stored.PKCS11, "answers")
    wishes = KitWishes("EE", "Demo State", stored=Stored.PKCS11, rungs=1)
    made = _made(keys, store, tmp_path / "out", wishes, now=Instant(place.now - DAY))
    store.enter(accept_certificates(keys, store, PLACE, _answers(place.pki, made), now=place.now).bodies)
    place.delegates = Keyring(keys, store, PLACE)  # type: ignore[assignment]
    reply = place.responder().answer(request_for(place.good, place.pki.first, nonce=None))
    (tmp_path / "answer.der").write_bytes(reply.data)
    for name, certificate in (("ca", place.pki.first.certificate), ("good", place.good.certificate)):
        (tmp_path / f"{name}.pem").write_bytes(pem(certificate))
    (tmp_path / "trust.pem").write_bytes(pem(place.pki.root) + pem(place.pki.first.certificate))
    done = subprocess.run(
        ["openssl", "ocsp", "-respin", "answer.der", "-issuer", "ca.pem", "-cert", "good.pem", "-CAfile", "trust.pem",
         "-no_nonce", "-status_age", "120"], cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Response verify OK" in done.stdout + done.stderr
    assert "good.pem: good" in done.stdout
    keys.close()


def test_files_without_certificates_are_malformed(store: KitStore, tmp_path: Path) -> None:
    """What holds no certificate is said so; damaged DER is refused."""
    keys = KeyFolder(tmp_path / "keys")
    with pytest.raises(MalformedError):
        accept_certificates(keys, store, PLACE, [b"hello"], now=NOW)
    accepted = accept_certificates(keys, store, PLACE, [b"\x30\x03abc"], now=NOW)
    assert accepted.rows[0].state == "refused"


def test_a_new_token_key_waits_for_the_old_one(store: KitStore, tmp_path: Path) -> None:
    """Tokens are signed with a key that the journal publishes; a new one signs when the old one is taken away."""
    keys = KeyFolder(tmp_path / "keys")
    made = _made(keys, store, tmp_path / "out")
    ring = Keyring(keys, store, PLACE)
    old, signer = ring.token("ES256")
    assert signer.algorithm is Algorithm.ES256
    store.enter([made.place_keys])
    add_token_key(keys, Algorithm.ES256, Stored.FILE, now=Instant(NOW - DAY))  # its name comes first
    fresh = Keyring(KeyFolder(keys.path), store, PLACE)
    assert fresh.token("ES256")[0] == old
    for file in keys.path.glob("token-es256-20260921.*"):
        file.unlink()
    assert Keyring(KeyFolder(keys.path), store, PLACE).token("ES256")[0] != old
    assert Keyring(KeyFolder(tmp_path / "none"), store, PLACE).ocsp(store.infos[0].id, now=NOW) is None
    with pytest.raises(UnavailableError, match="no ES256 key"):
        Keyring(KeyFolder(tmp_path / "none"), store, PLACE).token("ES256")


def test_keys_that_another_process_made_are_found(pki: Pki, store: KitStore, tmp_path: Path) -> None:
    """A running service takes up keys and certificates that came after it began."""
    ring = Keyring(KeyFolder(tmp_path / "keys"), store, PLACE)
    assert ring.ocsp(store.infos[0].id, now=NOW) is None
    keys = KeyFolder(tmp_path / "keys")
    made = _made(keys, store, tmp_path / "out")
    store.enter([*accept_certificates(keys, store, PLACE, _answers(pki, made), now=NOW).bodies, made.place_keys])
    assert ring.ocsp(store.infos[0].id, now=NOW) is not None
    assert ring.token("RS256")[1].algorithm is Algorithm.RS256


def test_a_ca_key_out_of_custody_signs_lists(pki: Pki, store: KitStore, tmp_path: Path) -> None:
    """The CA's own key, stored by its issuer, is given for CRLs with the CA's certificate, and for nothing else."""
    keys = KeyFolder(tmp_path / "keys")
    key = make_private_key(Algorithm.ES384)
    record = keys.store("crl-esteid", KeyUse.CRL, store.infos[1].id, encode_private_key(key))
    assert Keyring(keys, store, PLACE).crl(store.infos[1].id, now=NOW) is None  # it is not that CA's
    own = keys.store("crl-own", KeyUse.CRL, store.infos[1].id, encode_private_key(pki.second.key))  # type: ignore[arg-type]
    signer, certificate = Keyring(keys, store, PLACE).crl(store.infos[1].id, now=NOW)
    assert certificate == pki.second.der
    assert signer.public_der == own.public_der != record.public_der
    assert Keyring(keys, store, PLACE).ocsp(store.infos[1].id, now=NOW) is None
    with pytest.raises(AlreadyExists):
        keys.store("crl-own", KeyUse.CRL, store.infos[1].id, encode_private_key(key))


def test_exchanged_and_lost_keys_are_noticed(store: KitStore, tmp_path: Path) -> None:
    """A key file that holds another key is corrupt, one that is gone unavailable, and a record under a foreign name is
    refused."""
    keys = KeyFolder(tmp_path / "keys")
    record = keys.make("one", KeyUse.TOKEN, None, Algorithm.ES256, Stored.FILE)
    keys.make("two", KeyUse.TOKEN, None, Algorithm.ES256, Stored.FILE)
    (keys.path / "one.pem").write_bytes((keys.path / "two.pem").read_bytes())
    with pytest.raises(CorruptObject, match="another one"):
        KeyFolder(keys.path).signer(record).sign(b"x")
    (keys.path / "one.pem").unlink()
    with pytest.raises(UnavailableError, match="one"):
        KeyFolder(keys.path).signer(record).sign(b"x")
    (keys.path / "one.key").rename(keys.path / "three.key")
    with pytest.raises(CorruptObject, match="another key"):
        KeyFolder(keys.path)


def test_sealed_keys_need_their_passphrase(tmp_path: Path) -> None:
    """With a passphrase the files are sealed, and open with it only."""
    keys = KeyFolder(tmp_path / "keys", lambda: "long enough")
    record = keys.make("one", KeyUse.TOKEN, None, Algorithm.ES256, Stored.FILE)
    assert b"ENCRYPTED" in (keys.path / "one.pem").read_bytes()
    assert KeyFolder(keys.path, lambda: "long enough").signer(record).sign(b"x")
    with pytest.raises(UsageError, match="empty"):
        KeyFolder(tmp_path / "other", lambda: "").make("one", KeyUse.TOKEN, None, Algorithm.ES256, Stored.FILE)

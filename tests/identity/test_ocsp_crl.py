"""Revocation lists that this place issues: read back by our own reader, OpenSSL and the library; large; when made."""

import resource
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.crypto.crl import verify_crl
from exclave.crypto.crl_issue import issue_crl
from exclave.crypto.ocsp_answer import CrlReason
from exclave.demo.pki import pem
from exclave.errors import WrongFingerprint
from exclave.identity.contract import IdentityState
from exclave.identity.crl_publisher import CrlPublisher
from exclave.identity.status_log import Reason, Revoked, log_of_crl
from exclave.ids import Instant, Label
from support.ocsp_place import DAY, Place, der, make_place
from support.soft_signer import SoftSigner

FIRST = Label("esteid-2018")


@pytest.fixture
def place() -> Place:
    made = make_place()
    made.delegates.crl_keys[made.first] = (SoftSigner(made.pki.first.key), made.pki.first.der)
    return made


def publisher(place: Place) -> CrlPublisher:
    return CrlPublisher(place.store, place.delegates, lambda: place.authority, lambda: place.now)


def test_a_list_says_what_the_store_says(place: Place) -> None:
    """Our own strict reader gets back every stop with its time and reason, signed by the CA."""
    (made,) = publisher(place).refresh()
    crl = verify_crl(made.data, place.pki.first.der, now=place.now)
    assert log_of_crl(crl).stopped == place.store.logs[place.first].stopped
    assert crl.this_update == place.now
    parsed = x509.load_der_x509_crl(made.data)
    assert parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == made.number
    named = parsed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    own = place.pki.first.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert named == own


def test_openssl_verifies_the_list(place: Place, tmp_path: Path) -> None:
    """OpenSSL reads it, verifies it, and finds the revoked card revoked in it."""
    (made,) = publisher(place).refresh()
    (tmp_path / "crl.der").write_bytes(made.data)
    (tmp_path / "ca.pem").write_bytes(pem(place.pki.first.certificate))
    command = ["openssl", "crl", "-inform", "DER", "-in", "crl.der", "-CAfile", "ca.pem", "-noout", "-text"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "verify OK" in run.stderr
    assert f"{place.revoked.serial:X}".upper() in run.stdout.replace(":", "").upper()
    assert "Certificate Hold" in run.stdout
    assert "Key Compromise" in run.stdout


def test_an_empty_list_has_no_entries_at_all(place: Place) -> None:
    """RFC 5280 forbids an empty revokedCertificates."""
    signer, certificate = place.delegates.crl_keys[place.first]
    data = issue_crl(
        [], signer, certificate, certificate, crl_number=1, this_update=place.now, next_update=Instant(place.now + DAY)
    )
    assert list(verify_crl(data, certificate, now=place.now).entries()) == []


def test_only_the_issuers_own_name_and_key_may_sign(place: Place) -> None:
    """A certificate of another name, another key or without cRLSign is refused before anything is signed."""
    signer, certificate = place.delegates.crl_keys[place.first]
    stranger = SoftSigner(ec.generate_private_key(ec.SECP256R1()))
    responder, responder_certificate = place.delegates.ocsp_keys[place.first]
    when = {"crl_number": 1, "this_update": place.now, "next_update": Instant(place.now + DAY)}
    for key, own, issuer in (
        (stranger, certificate, certificate),
        (signer, certificate, place.pki.second.der),
        (responder, responder_certificate, certificate),
    ):
        with pytest.raises(WrongFingerprint):
            issue_crl([], key, own, issuer, **when)  # type: ignore[arg-type]
    leaf = der(place.good.certificate)
    with pytest.raises(WrongFingerprint):
        issue_crl([], SoftSigner(place.good.key), leaf, leaf, **when)  # type: ignore[arg-type]


def test_a_list_of_200_000_is_bounded_in_time_and_memory(place: Place) -> None:
    """It takes seconds and some ten megabytes, and the library reads every entry."""
    signer, certificate = place.delegates.crl_keys[place.first]
    entries = ((n << 100 | n, Instant(place.now - n * 1_000_000), CrlReason.superseded) for n in range(1, 200_001))
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    data = issue_crl(
        entries, signer, certificate, certificate, crl_number=1, this_update=place.now,
        next_update=Instant(place.now + DAY),
    )  # fmt: skip
    assert time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    parsed = x509.load_der_x509_crl(data)
    assert len(parsed) == 200_000
    assert parsed.is_signature_valid(place.pki.first.key.public_key())  # type: ignore[arg-type]


def test_lists_are_made_when_due(place: Place) -> None:
    """At first, after a change though not more than once a minute, and every hour; numbers grow."""
    crls = publisher(place)
    (first,) = crls.refresh()
    assert crls.refresh() == ()
    place.store.stop(place.first, place.good.serial, Revoked(place.now, Reason.SUPERSEDED))
    place.now = Instant(place.now + 59_000_000)
    assert crls.refresh() == ()
    place.now = Instant(place.now + 1_000_000)
    (second,) = crls.refresh()
    assert second.number > first.number
    assert len(x509.load_der_x509_crl(second.data)) == 3
    assert crls.latest(FIRST) is second
    place.now = Instant(place.now + 3_600_000_000)
    (third,) = crls.refresh()
    assert third.number > second.number


@pytest.mark.parametrize("state", [IdentityState.STANDBY, IdentityState.RETURNING])
def test_no_list_where_the_authority_is_elsewhere(place: Place, state: IdentityState) -> None:
    """A list that was made under the authority is no longer given out once it has gone."""
    crls = publisher(place)
    crls.refresh()
    assert crls.latest(FIRST) is not None
    place.become(state, epoch=2)
    assert crls.latest(FIRST) is None
    assert crls.refresh() == ()


def test_home_makes_no_list_for_an_issuer_that_makes_its_own(place: Place) -> None:
    """At home only live issuers get one; in exile every one whose key is here."""
    place.store.add("esteid-2018", place.pki.first.der, place.store.logs[place.first], live=False)
    place.become(IdentityState.HOME)
    assert publisher(place).refresh() == ()
    place.become(IdentityState.EXILE, epoch=2)
    assert len(publisher(place).refresh()) == 1


def test_a_list_that_has_run_out_is_not_given_out(place: Place) -> None:
    """If nothing refreshes it, it ends at its nextUpdate."""
    crls = publisher(place)
    (made,) = crls.refresh()
    place.now = made.next_update
    assert crls.latest(FIRST) is None

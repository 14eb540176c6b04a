"""Foreign clients ask over the network and must accept every answer: OpenSSL, GnuTLS, Bouncy Castle with the rules of
Web eID, pyhanko-certvalidator. Their texts are read, since their exit codes forgive too much."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from asn1crypto import ocsp as asn1
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pyhanko_certvalidator import CertificateValidator, ValidationContext
from pyhanko_certvalidator.errors import PathValidationError, RevokedError
from pyhanko_certvalidator.policy_decl import CertRevTrustPolicy, RevocationCheckingPolicy, RevocationCheckingRule

from exclave import ids
from exclave.crypto.csr import responder_request
from exclave.crypto.signer import Algorithm
from exclave.demo.pki import Card, pem
from exclave.formats.journal import Confirmed, Head, Issued, Issuer, Stopped, encode_entry, entry_at, serial_bytes
from exclave.identity.contract import IdentityState
from exclave.identity.status_log import Held, Reason, Revoked
from exclave.identity.store_sqlite import open_sqlite
from exclave.ids import Instant
from exclave.keys.pkcs11 import HardwareToken
from support.ocsp_place import DAY, Place, delegate, der, make_place, request_for
from support.ocsp_serving import Served, serving
from support.softhsm import make_token

JARS = ":".join(f"/usr/share/java/{name}.jar" for name in ("bcpkix", "bcprov", "bcutil"))
SOURCE = Path(__file__).parent.parent / "support" / "java" / "WebEidStatus.java"
MINUTE = 60_000_000


@pytest.fixture
def site() -> Iterator[Served]:
    place = make_place(ids.now())
    place.ticking = True
    with serving(place) as served:
        yield served


@pytest.fixture
def folder(site: Served, tmp_path: Path) -> Path:
    """Certificates as files, PEM and DER."""
    place = site.place
    never = place.pki.first.card()
    named = {"root": place.pki.root, "ca": place.pki.first.certificate, "ca2": place.pki.second.certificate}
    named |= {name: getattr(place, name).certificate for name in ("good", "revoked", "held", "other")}
    named["never"] = never.certificate
    for name, certificate in named.items():
        (tmp_path / f"{name}.pem").write_bytes(pem(certificate))
        (tmp_path / f"{name}.der").write_bytes(der(certificate))
    (tmp_path / "trust.pem").write_bytes(pem(place.pki.root) + pem(place.pki.first.certificate))
    return tmp_path


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


# OpenSSL


def openssl(site: Served, folder: Path, *asked: str, age_s: int = 120, path: str = "") -> str:
    url = f"http://127.0.0.1:{site.port}{path}"
    return run(folder, "openssl", "ocsp", "-issuer", "ca.pem", *asked, "-url", url, "-CAfile", "trust.pem",
               "-status_age", str(age_s))  # fmt: skip


def assert_accepted(told: str) -> None:
    assert "Response verify OK" in told, told
    assert "WARNING" not in told, told
    assert "rror" not in told, told


@pytest.mark.parametrize("digest", ["-sha1", "-sha256"])
@pytest.mark.parametrize("nonce", ["-nonce", "-no_nonce"])
@pytest.mark.parametrize("path", ["", "/esteid-2018"])
def test_openssl_accepts_every_status(site: Served, folder: Path, digest: str, nonce: str, path: str) -> None:
    """With and without nonce, by both hashes, not older than two minutes."""
    for name, says in (("good", "good"), ("revoked", "revoked"), ("held", "revoked"), ("never", "unknown")):
        told = openssl(site, folder, digest, "-cert", f"{name}.pem", nonce, path=path)
        assert_accepted(told)
        assert f"{name}.pem: {says}" in told, told
        if name == "held":
            assert "Reason: certificateHold" in told
        if name == "revoked":
            assert "Reason: keyCompromise" in told


def test_openssl_gets_an_answer_for_each_of_several(site: Served, folder: Path) -> None:
    """Two certificates and two serials in one request."""
    held = str(site.place.held.serial)
    told = openssl(site, folder, "-cert", "good.pem", "-cert", "revoked.pem", "-serial", "0x77", "-serial", held)
    assert_accepted(told)
    for says in ("good.pem: good", "revoked.pem: revoked", "0x77: unknown", f"{held}: revoked"):
        assert says in told, told


@pytest.mark.parametrize("kind", ["P-384", "RSA"])
def test_openssl_accepts_other_kinds_of_keys(site: Served, folder: Path, kind: str) -> None:
    """ES384 and RS256 delegates."""
    key = ec.generate_private_key(ec.SECP384R1()) if kind == "P-384" else rsa.generate_private_key(65537, 2048)
    place = site.place
    place.delegates.ocsp_keys[place.first] = delegate(place.pki.first, begin=Instant(ids.now() - DAY), key=key)
    told = openssl(site, folder, "-cert", "good.pem")
    assert_accepted(told)
    assert "good.pem: good" in told


def test_openssl_hears_the_errors_of_the_protocol(site: Served, folder: Path) -> None:
    """Nobody's certificate: unauthorized."""
    stranger = make_place(ids.now())
    (folder / "stranger.pem").write_bytes(pem(stranger.pki.first.certificate))
    told = run(folder, "openssl", "ocsp", "-issuer", "stranger.pem", "-serial", "1", "-url",
               f"http://127.0.0.1:{site.port}", "-CAfile", "trust.pem")  # fmt: skip
    assert "Responder Error: unauthorized (6)" in told


def test_openssl_refuses_an_answer_of_a_standby_that_is_behind(site: Served, folder: Path) -> None:
    """The answer is dated as it was replicated: refused where two minutes are asked for, accepted where an hour is."""
    site.place.become(IdentityState.STANDBY, as_of=Instant(ids.now() - 10 * MINUTE))
    assert "Status times invalid" in openssl(site, folder, "-cert", "good.pem", age_s=120)
    assert_accepted(openssl(site, folder, "-cert", "good.pem", age_s=3600))


def test_openssl_signs_a_request(site: Served, folder: Path) -> None:
    """A signed request gets the same answer."""
    run(folder, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "me.key", "-out", "me.pem",
        "-subj", "/CN=me")  # fmt: skip
    told = openssl(site, folder, "-cert", "good.pem", "-signer", "me.pem", "-signkey", "me.key")
    assert_accepted(told)
    assert "good.pem: good" in told


# GnuTLS


@pytest.mark.parametrize("nonce", ["--nonce", "--no-nonce"])
def test_gnutls_accepts_every_status(site: Served, folder: Path, nonce: str) -> None:
    """Signature and delegation; it does not look at times."""
    for name, says in (("good", "good"), ("revoked", "revoked"), ("held", "revoked"), ("never", "unknown")):
        told = run(folder, "ocsptool", f"--ask=http://127.0.0.1:{site.port}/", "--load-issuer=ca.pem",
                   f"--load-cert={name}.pem", "--load-trust=ca.pem", nonce)  # fmt: skip
        assert f"Certificate Status: {says}" in told, told
        assert "Verifying OCSP Response: Success" in told, told
        if nonce == "--nonce":
            assert "Nonce: " in told


# Bouncy Castle, as Web eID's library asks


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled client."""
    built = tmp_path_factory.mktemp("java")
    subprocess.run(["javac", "-d", built, "-cp", JARS, SOURCE], check=True, capture_output=True, text=True)
    return built


def web_eid(site: Served, folder: Path, java: Path, *names: str, ca: str = "ca") -> list[str]:
    command = ["java", "-Xshare:auto", "-cp", f"{java}:{JARS}", "WebEidStatus", f"http://127.0.0.1:{site.port}/"]
    told = run(folder, *command, f"{ca}.der", *(f"{name}.der" for name in names))
    return told.strip().splitlines()


def test_web_eid_rules_hold_in_exile(site: Served, folder: Path, java: Path) -> None:
    """Two minutes, exactly one answer, the delegate first, the nonce: all four statuses, and the second issuer."""
    told = web_eid(site, folder, java, "good", "revoked", "held", "never")
    assert told == ["GOOD", "REVOKED 1", "REVOKED 6", "UNKNOWN"]
    assert web_eid(site, folder, java, "other", ca="ca2") == ["GOOD"]


def test_web_eid_rules_hold_in_standby_only_while_home_is_heard(site: Served, folder: Path, java: Path) -> None:
    """A log of a minute ago is accepted; of three minutes ago refused; in exile, the same log is accepted again."""
    place = site.place
    place.become(IdentityState.STANDBY, as_of=Instant(ids.now() - MINUTE))
    assert web_eid(site, folder, java, "good") == ["GOOD"]
    place.become(IdentityState.STANDBY, as_of=Instant(ids.now() - 3 * MINUTE))
    assert web_eid(site, folder, java, "good", "revoked") == ["REFUSED thisUpdate too old"] * 2
    place.become(IdentityState.RETURNING, epoch=2)
    assert web_eid(site, folder, java, "good") == ["REFUSED HTTP status 503"]
    place.become(IdentityState.EXILE, as_of=Instant(ids.now() - 3 * MINUTE), epoch=2)
    assert web_eid(site, folder, java, "good", "revoked") == ["GOOD", "REVOKED 1"]


def test_a_delegate_of_another_ca_is_refused_by_web_eid_rules(site: Served, folder: Path, java: Path) -> None:
    """The client is a real check: it sees a responder that the CA did not name."""
    place = site.place
    place.delegates.ocsp_keys[place.first] = place.delegates.ocsp_keys[place.second]
    assert web_eid(site, folder, java, "good") == ["REFUSED another issuer"]


# pyhanko-certvalidator


def validated(place: Place, card: Card, *, nonce: bytes | None = None) -> None:
    """Path and status of ``card``, with the answer that the responder gives for it; raises if it is not accepted."""
    answer = place.responder().answer(request_for(card, place.pki.first, nonce=nonce))
    policy = CertRevTrustPolicy(
        RevocationCheckingPolicy(
            ee_certificate_rule=RevocationCheckingRule.OCSP_REQUIRED,
            intermediate_ca_cert_rule=RevocationCheckingRule.NO_CHECK,
        )
    )
    context = ValidationContext(
        trust_roots=[asn1_x509.Certificate.load(der(place.pki.root))],
        other_certs=[asn1_x509.Certificate.load(place.pki.first.der)],
        ocsps=[asn1.OCSPResponse.load(answer.data)],
        revinfo_policy=policy,
        allow_fetching=False,
    )
    validator = CertificateValidator(asn1_x509.Certificate.load(der(card.certificate)), validation_context=context)
    asyncio.run(validator.async_validate_usage({"digital_signature"}))


def test_pyhanko_accepts_the_answers() -> None:
    """Good passes; revoked and held are refused as revoked; unknown gives it nothing to go by."""
    place = make_place(ids.now())
    place.ticking = True
    validated(place, place.good)
    for card in (place.revoked, place.held):
        with pytest.raises(RevokedError):
            validated(place, card)
    with pytest.raises(PathValidationError):
        validated(place, place.pki.first.card())


def test_a_revocation_reaches_a_foreign_client_at_once(site: Served, folder: Path) -> None:
    """What was good a moment ago, from the cache, is revoked in the next answer."""
    for _ in range(2):
        assert "good.pem: good" in openssl(site, folder, "-cert", "good.pem", "-no_nonce")
    site.place.store.stop(site.place.first, site.place.good.serial, Revoked(ids.now(), Reason.KEY_COMPROMISE))
    assert "good.pem: revoked" in openssl(site, folder, "-cert", "good.pem", "-no_nonce")
    site.place.store.stop(site.place.first, site.place.good.serial, Held(ids.now()))
    assert "certificateHold" in openssl(site, folder, "-cert", "good.pem", "-no_nonce")


# The parts that a real place is made of


def test_a_key_in_a_token_answers_from_the_real_store(site: Served, folder: Path, java: Path) -> None:
    """SQLite, a key that cannot be read in a PKCS#11 token, answers made in threads: accepted by foreign clients."""
    place, now = site.place, ids.now()
    issuer, ca = place.first, place.pki.first
    signer = HardwareToken(make_token("answers").place).make("responder", Algorithm.ES256)
    request = x509.load_pem_x509_csr(responder_request(signer, "DEMO RESPONDER", "Demo", "EE"))
    certificate = der(ca.certify(request, begin=Instant(now - DAY), days=45))
    place.delegates.ocsp_keys[issuer] = (signer, certificate)
    bodies = [
        Issuer("esteid-2018", ca.der, True),
        Issued(issuer, tuple(sorted(map(serial_bytes, ca.issued)))),
        Stopped(issuer, serial_bytes(place.revoked.serial), now - DAY, "keyCompromise"),
        Confirmed(issuer, now, 0),
    ]
    head, entries = Head(), []
    for body in bodies:
        entry = entry_at(head, now, 1, body)
        head = head.after(encode_entry(entry))
        entries.append((entry, head))
    store = open_sqlite(str(folder / "status.sqlite"))
    store.apply(entries)
    place.store = store  # type: ignore[assignment]
    with serving(place, threads=4, crls=site.crls) as real:
        assert web_eid(real, folder, java, "good", "revoked") == ["GOOD", "REVOKED 1"]
        told = openssl(real, folder, "-cert", "good.pem", "-cert", "revoked.pem")
        assert_accepted(told)
        assert "good.pem: good" in told
        assert "revoked.pem: revoked" in told
        entry = entry_at(head, now, 1, Stopped(issuer, serial_bytes(place.good.serial), now, "superseded"))
        store.apply([(entry, head.after(encode_entry(entry)))])
        assert "good.pem: revoked" in openssl(real, folder, "-cert", "good.pem", "-no_nonce")
    store.close()

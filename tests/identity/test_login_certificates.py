"""Citizens' certificates against pinned issuers; pyhanko-certvalidator says the same of them."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from pyhanko_certvalidator import CertificateValidator, ValidationContext
from pyhanko_certvalidator.errors import PathError, ValidationError

from exclave.crypto.certificates import estonian_birth, pin_issuers, verify_citizen
from exclave.crypto.crl import issuer_id
from exclave.demo.pki import IssuingCa, make_pki
from exclave.errors import ExclaveError, MalformedError
from exclave.ids import Instant
from support.login_certificates import CLIENT, MARI, UNKNOWN, odd, policy, usage

NOW = Instant(1_790_000_000_000_000)
PKI = make_pki(NOW)
CA = PKI.second
PINS = pin_issuers([PKI.first.der, CA.der])
P384 = ec.generate_private_key(ec.SECP384R1())
STRANGER = make_pki(NOW).second
"""A CA with the same name as a pinned one and another key."""

GOOD = {
    "plain": odd(CA, NOW),
    "of the other issuer": odd(PKI.first, NOW, digest=hashes.SHA512()),
    "card": CA.card().der,
    "card without extended key usage": CA.card(eku=False).der,
    "critical policies": CA.card(critical_policy=True).der,
    "P-256": odd(CA, NOW, key=ec.generate_private_key(ec.SECP256R1())),
    "P-521": odd(CA, NOW, key=ec.generate_private_key(ec.SECP521R1())),
    "RSA-2048": odd(CA, NOW, key=rsa.generate_private_key(65537, 2048)),
    "unknown extension that is not critical": odd(CA, NOW, more=[(UNKNOWN, False)]),
    "last second": odd(CA, NOW, end_s=0),
    "first second": odd(CA, NOW, begin_s=0),
}
BAD = {
    "foreign-issuer": make_pki(NOW).root.public_bytes(serialization.Encoding.DER),
    "forged-issuer": odd(STRANGER, NOW),
    "forged-issuer, other key": odd(CA, NOW, signer=P384),
    "not-yet-valid": odd(CA, NOW, begin_s=1, end_s=2),
    "purpose, no digitalSignature": odd(CA, NOW, use=usage("key_agreement")),
    "purpose, other use": odd(CA, NOW, uses=[ExtendedKeyUsageOID.EMAIL_PROTECTION]),
    "purpose, no key usage": CA.card(usage=False).der,
    "critical-extension": odd(CA, NOW, more=[(UNKNOWN, True)]),
    "critical-extension, name constraints": odd(
        CA, NOW, more=[(x509.NameConstraints([x509.DNSName("demo.test")], None), True)]
    ),
    "purpose, is a CA": odd(
        CA, NOW, basic=x509.BasicConstraints(ca=True, path_length=0), use=usage("digital_signature", "key_cert_sign")
    ),
    "weak, RSA-1024": odd(CA, NOW, key=rsa.generate_private_key(65537, 1024)),
    "weak, RSA with exponent 3": odd(CA, NOW, key=rsa.generate_private_key(3, 2048)),
    "weak, P-224": odd(CA, NOW, key=ec.generate_private_key(ec.SECP224R1())),
    "weak, secp256k1": odd(CA, NOW, key=ec.generate_private_key(ec.SECP256K1())),
    "weak, Ed25519": odd(CA, NOW, key=ed25519.Ed25519PrivateKey.generate()),
    "policy, Mobile-ID": odd(CA, NOW, more=[(policy("1.3.6.1.4.1.10015.1.3"), False)]),
    "subject, no serial number": odd(CA, NOW, subject=MARI[:3]),
    "subject, an organisation": odd(CA, NOW, subject=[*MARI[:3], (NameOID.SERIAL_NUMBER, "NTREE-10747013")]),
    "subject, two serial numbers": odd(CA, NOW, subject=[*MARI, (NameOID.SERIAL_NUMBER, "PNOEE-49403136515")]),
    "subject, no name": odd(CA, NOW, subject=[MARI[0], MARI[3]]),
    "subject, control character": odd(CA, NOW, subject=[*MARI[:2], (NameOID.GIVEN_NAME, "MARI\u202eIRAM"), MARI[3]]),
    "subject, path in the code": odd(CA, NOW, subject=[*MARI[:3], (NameOID.SERIAL_NUMBER, "PNOEE-../../etc")]),
}
STRICTER = (
    "weak, RSA", "weak, P-224", "weak, secp", "weak, Ed", "policy", "subject", "purpose, no key usage",
    "purpose, is a CA", "critical-extension, name constraints",
)  # fmt: skip
"""Of these a general validator has no opinion: they are our own profile."""


def oracle(der: bytes, now: Instant = NOW, ca: IssuingCa | None = None) -> bool:
    """Whether pyhanko-certvalidator accepts it for client authentication under the pinned issuers."""
    roots = [asn1.Certificate.load(one.der) for one in ((ca,) if ca else (PKI.first, CA))]
    moment = datetime.fromtimestamp(now // 1_000_000, UTC)
    context = ValidationContext(
        trust_roots=roots, moment=moment, allow_fetching=False, time_tolerance=timedelta(0), revocation_mode="soft-fail"
    )  # fmt: skip
    validator = CertificateValidator(asn1.Certificate.load(der), validation_context=context)
    try:
        asyncio.run(validator.async_validate_usage({"digital_signature"}, {"client_auth"}, extended_optional=True))
    except (PathError, ValidationError):
        return False
    return True


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    """A good one names its person, issuer and serial; the oracle accepts it too."""
    citizen = verify_citizen(GOOD[name], PINS, now=NOW)
    assert citizen.subject == "EE38001085718"
    assert (citizen.given_name, citizen.family_name) == ("MARI", "MAASIKAS")
    assert citizen.date_of_birth == "1980-01-08"
    assert citizen.serial == x509.load_der_x509_certificate(GOOD[name]).serial_number
    assert not citizen.expired
    assert oracle(GOOD[name])
    with pytest.raises(FrozenInstanceError):
        citizen.expired = True  # type: ignore[misc]


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    """A bad one is refused for its own reason; the oracle agrees where it has an opinion."""
    with pytest.raises(ExclaveError) as refused:
        verify_citizen(BAD[name], PINS, now=NOW)
    assert refused.value.facts["reason"] == name.partition(",")[0]
    assert name.startswith(STRICTER) or not oracle(BAD[name])


def test_expired_is_told_apart() -> None:
    """An expired one is verified in all else and marked, so that a list may extend it; the oracle refuses it."""
    der = odd(CA, NOW, end_s=-1)
    assert verify_citizen(der, PINS, now=NOW).expired
    assert not oracle(der)


def test_expired_issuer() -> None:
    """A citizen's certificate is as good as expired when its issuer's has ended, and not before it began."""
    after = Instant(NOW + 5000 * 86_400_000_000)
    der = odd(CA, NOW, end_s=6000 * 86_400)
    assert verify_citizen(der, PINS, now=after).expired
    with pytest.raises(ExclaveError) as refused:
        verify_citizen(odd(CA, NOW, begin_s=-500 * 86_400), PINS, now=Instant(NOW - 400 * 86_400_000_000))
    assert refused.value.facts["reason"] == "not-yet-valid"


def test_cross_certificate() -> None:
    """Another root's certificate of the same name and key is the same issuer, and lengthens its life."""
    at = datetime.fromtimestamp(NOW // 1_000_000, UTC)
    key = ec.generate_private_key(ec.SECP384R1())
    cross = (
        x509.CertificateBuilder().subject_name(CA.certificate.subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Another Root")]))
        .public_key(CA.key.public_key()).serial_number(7)
        .not_valid_before(at).not_valid_after(at + timedelta(days=9000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage("key_cert_sign", "crl_sign"), critical=True).sign(key, hashes.SHA384())
    ).public_bytes(serialization.Encoding.DER)  # fmt: skip
    der = odd(CA, NOW, end_s=6000 * 86_400)
    alone, both = pin_issuers([cross]), pin_issuers([CA.der, cross])
    assert verify_citizen(der, alone, now=NOW).issuer == issuer_id(CA.der)
    after = Instant(NOW + 5000 * 86_400_000_000)
    assert not verify_citizen(der, both, now=after).expired


def test_same_name_other_key_both_pinned() -> None:
    """Two pinned issuers of one name are told apart by whose key signed."""
    both = pin_issuers([STRANGER.der, CA.der])
    assert verify_citizen(odd(CA, NOW), both, now=NOW).issuer == issuer_id(CA.der)
    assert verify_citizen(odd(STRANGER, NOW), both, now=NOW).issuer == issuer_id(STRANGER.der)


@pytest.mark.parametrize("der", [b"", b"0", b"0\x80", CA.card().der + b"\0", b"0" * 9000, CA.card().der[:-1]])
def test_no_certificate(der: bytes) -> None:
    """What is no certificate, or a longer one, is malformed."""
    with pytest.raises(MalformedError):
        verify_citizen(der, PINS, now=NOW)


_ONE = GOOD["plain"]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(_ONE) - 1), st.integers(1, 255))
def test_flipped_byte(place: int, change: int) -> None:
    """No certificate with another byte anywhere is accepted as another one."""
    spoilt = bytearray(_ONE)
    spoilt[place] ^= change
    try:
        citizen = verify_citizen(bytes(spoilt), PINS, now=NOW)
    except ExclaveError:
        return
    # The unused bits of the signature's BIT STRING are not signed, and say nothing.
    assert citizen == verify_citizen(_ONE, PINS, now=NOW)


@pytest.mark.parametrize("what", [odd(CA, NOW), PKI.second.card().der, b"x"])
def test_only_a_ca_is_pinned(what: bytes) -> None:
    """A citizen's certificate can never become an issuer."""
    with pytest.raises(MalformedError):
        pin_issuers([what])


@pytest.mark.parametrize(
    ("code", "born"),
    [("38001085718", "1980-01-08"), ("49403136515", "1994-03-13"), ("60001019906", "2000-01-01"), ("38001085719", ""),
     ("3800108571", ""), ("38013085715", ""), ("٣8001085718", ""), ("", "")],
)  # fmt: skip
def test_birth(code: str, born: str) -> None:
    """An Estonian code tells its holder's birthday; what is no such code tells nothing."""
    assert estonian_birth(code) == born


def test_other_country() -> None:
    """Another country's code is taken as it is, and no date is guessed."""
    subject = [*MARI[:3], (NameOID.SERIAL_NUMBER, "PNOLV-321922-33032")]
    citizen = verify_citizen(odd(CA, NOW, subject=subject, uses=[CLIENT]), PINS, now=NOW)
    assert (citizen.subject, citizen.date_of_birth) == ("LV321922-33032", "")

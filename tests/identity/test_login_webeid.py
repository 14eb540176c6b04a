"""Web eID tokens: every algorithm, every way to spoil one, and the log-in that takes them."""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.crypto.certificates import pin_issuers, verify_citizen
from exclave.demo.pki import make_pki
from exclave.errors import ConfigError, ExclaveError, MalformedError, NotAuthorised, UnavailableError
from exclave.formats.relying import RelyingService
from exclave.identity.challenge import CHALLENGE_S
from exclave.identity.contract import IdentityState
from exclave.identity.login_settings import LoginSettings
from exclave.identity.status_log import Good, Held, Reason, Revoked, Unknown
from exclave.identity.webeid import MAX_TOKEN_BYTES, check_origin, parse_token, verify_token
from exclave.ids import Instant, b64, sha256
from support.login_site import CLIENT, NOW, ORIGIN, Site, info, token_bytes, web_eid_token

NONCE = b64(bytes(range(32)))
BROWSER = "b" * 43
DAY = 86_400_000_000
PKI = make_pki(NOW)
PINS = pin_issuers([PKI.second.der])
CARD = PKI.second.card()
KEYS = {
    "ES256": ec.generate_private_key(ec.SECP256R1()), "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()), "RS": rsa.generate_private_key(65537, 2048),
}  # fmt: skip
CARDS = {name: PKI.second.card(key=key) for name, key in KEYS.items()}


def verify(token: bytes, *, origin: str = ORIGIN, nonce: str = NONCE) -> str:
    return verify_token(parse_token(token), origin=origin, nonce=nonce, issuers=PINS, now=NOW).subject


def reason_of(token: bytes, **more: str) -> str:
    with pytest.raises(ExclaveError) as refused:
        verify(token, **more)
    assert "MAASIKAS" not in str(refused.value)
    return str(refused.value.facts["reason"])


@pytest.mark.parametrize(
    "algorithm", ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
)  # fmt: skip
def test_every_algorithm(algorithm: str) -> None:
    """Each algorithm of the protocol verifies with the key that fits it."""
    card = CARDS[algorithm if algorithm.startswith("ES") else "RS"]
    assert verify(token_bytes(card, NONCE, algorithm=algorithm)) == "EE38001085718"


@pytest.mark.parametrize("claimed", ["ES256", "ES512", "RS384", "PS384"])
def test_algorithm_that_does_not_fit_the_key(claimed: str) -> None:
    """A P-384 key signs ES384 and nothing else."""
    assert (
        reason_of(token_bytes(CARD, NONCE, **{"algorithm": "ES384"}).replace(b"ES384", claimed.encode())) == "algorithm"
    )


@pytest.mark.parametrize("version", ["web-eid:1", "web-eid:1.0", "web-eid:1.1", "web-eid:1.27"])
def test_minor_versions(version: str) -> None:
    """A later 1.x with fields that are not known yet is accepted."""
    more = {
        "unverifiedSigningCertificates": [{"certificate": "x"}],
        "supportedSignatureAlgorithms": [],
        "new": {"a": 1},
    }
    assert verify(token_bytes(CARD, NONCE, format=version, **more))


@pytest.mark.parametrize("version", ["web-eid:2.0", "web-eid:10", "web-eid:1.", "web-eid:1.01", "WEB-EID:1", "", "1.0"])
def test_other_versions(version: str) -> None:
    """Another major version is another protocol."""
    assert reason_of(token_bytes(CARD, NONCE, format=version)) == "token-version"


def test_foreign_origin() -> None:
    """What was signed for a phisher's site is worth nothing here."""
    assert reason_of(token_bytes(CARD, NONCE, origin="https://login.demo.test.evil.example")) == "signature"
    assert reason_of(token_bytes(CARD, NONCE, origin=ORIGIN + "/")) == "signature"


def test_wrong_challenge() -> None:
    """A signature over another challenge does not verify, and a short challenge is no challenge."""
    assert reason_of(token_bytes(CARD, b64(bytes(32)))) == "signature"
    assert reason_of(token_bytes(CARD, "short"), nonce="short") == "challenge"


def test_issuer_of_the_same_name() -> None:
    """A CA that calls itself like a pinned one certifies nobody."""
    assert reason_of(token_bytes(make_pki(NOW).second.card(), NONCE)) == "forged-issuer"


GOOD = web_eid_token(CARD, NONCE)
_FIELDS = ("unverifiedCertificate", "algorithm", "signature", "format")


@pytest.mark.parametrize("field", _FIELDS)
@pytest.mark.parametrize("value", [None, 1, "", [], {}, "=", "AAAA" * 400, "Ä" * 200, "AA", "AA\n==", "A A A A "])
def test_spoilt_field(field: str, value: object) -> None:
    """A field of another type or form is refused without a traceback."""
    assert reason_of(json.dumps({**GOOD, field: value}).encode())


@pytest.mark.parametrize("field", _FIELDS)
def test_missing_field(field: str) -> None:
    """Every field of the protocol must be there."""
    assert reason_of(json.dumps({k: v for k, v in GOOD.items() if k != field} | {"pad": "x" * 100}).encode()) == "token"


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"x" * 99, b"x" * 5000, b"[" * 9000, b'{"a":' * 1900, b"\xff" * 200, b"\x00" * 200,
     b'"' + b"a" * 200 + b'"', b"[" + b"1," * 1000 + b"1]", json.dumps(GOOD).encode()[:-1],
     json.dumps(GOOD).encode() + b"{}",
     json.dumps(GOOD | {"pad": "x" * MAX_TOKEN_BYTES}).encode(), json.dumps(GOOD).encode("utf-16")],
)  # fmt: skip
def test_no_token(data: bytes) -> None:
    """Truncated, nested, oversized, foreign: malformed, all of it."""
    with pytest.raises(MalformedError) as refused:
        parse_token(data)
    assert refused.value.facts["reason"] == "token"


@pytest.mark.parametrize("size", [0, 1, 47, 95, 97, 132])
def test_signature_of_another_length(size: int) -> None:
    """R and S have the curve's own size."""
    assert reason_of(json.dumps({**GOOD, "signature": b64(bytes(size))}).encode()) in ("signature", "token")


@pytest.mark.parametrize("value", [bytes(96), b"\xff" * 96, bytes(95) + b"\1"])
def test_signature_out_of_range(value: bytes) -> None:
    """Zero and more than the curve's order are no signatures."""
    assert reason_of(json.dumps({**GOOD, "signature": b64(value)}).encode()) == "signature"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bit(data: st.DataObject) -> None:
    """One changed character of a signature is never accepted."""
    signature = bytearray(parse_token(json.dumps(GOOD).encode()).signature)
    place = data.draw(st.integers(0, len(signature) - 1))
    signature[place] ^= 1 << data.draw(st.integers(0, 7))
    assert reason_of(json.dumps({**GOOD, "signature": b64(bytes(signature))}).encode()) == "signature"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes(data: bytes) -> None:
    """Whatever arrives, the answer is a token or ``MalformedError``."""
    with suppress(MalformedError):
        parse_token(data)


@pytest.mark.parametrize(
    "good", ["https://login.demo.test", "https://a:8443", "https://1.2.3.4", "http://localhost:80"]
)
def test_origins(good: str) -> None:
    """An origin as browsers write it."""
    assert check_origin(good) == good


@pytest.mark.parametrize(
    "bad",
    ["", "login.demo.test", "http://login.demo.test", "https://login.demo.test/", "https://LOGIN.demo.test",
     "https://a:443", "https://a:0", "https://a:65536", "https://a:", "https://u@a", "https://a b", "https://a\n",
     "https://-a", "http://127.0.0.2:80", "http://127.0.0.1", "http://localhost:99999", "https://ä.test"],
)  # fmt: skip
def test_no_origins(bad: str) -> None:
    """Anything else would never be what the card signed."""
    with pytest.raises(ConfigError):
        check_origin(bad)


# The log-in that takes them


def begun(site: Site, **wanted: object) -> tuple[str, str]:
    name = site.interactions.begin(BROWSER, **wanted)  # type: ignore[arg-type]
    return name, site.desk.web_eid_challenge(name, BROWSER)


def refused(site: Site, name: str, token: bytes, browser: str = BROWSER) -> str:
    with pytest.raises(ExclaveError) as error:
        site.desk.web_eid(name, browser, token)
    assert not site.interactions.done
    return str(error.value.facts["reason"])


def test_log_in() -> None:
    """The whole way: challenge, token, person, back to the service."""
    site = Site()
    name, nonce = begun(site)
    assert len(nonce) == 44
    assert (
        site.desk.web_eid(name, BROWSER, token_bytes(site.card(), nonce)) == "https://tax.demo.test/callback?code=fresh"
    )
    done = site.interactions.done[0]
    assert (done.person.subject, done.amr, done.acr, done.time, done.extended) == (
        "EE38001085718", ("idcard",), "high", NOW, False,
    )  # fmt: skip


def test_replay() -> None:
    """A token is good once: its challenge is gone, and so is its log-in."""
    site = Site()
    name, nonce = begun(site)
    token = token_bytes(site.card(), nonce)
    site.desk.web_eid(name, BROWSER, token)
    site.interactions.done.clear()
    assert refused(site, name, token) == "interaction"
    assert refused(site, site.interactions.begin(BROWSER), token) == "challenge"


def test_failed_token_uses_the_challenge_up() -> None:
    """Nobody tries twice against one challenge."""
    site = Site()
    name, nonce = begun(site)
    assert refused(site, name, token_bytes(site.card(), b64(bytes(32)))) == "signature"
    assert refused(site, name, token_bytes(site.card(), nonce)) == "challenge"


def test_newer_challenge_replaces_the_older() -> None:
    """Only the last challenge that a browser was given counts."""
    site = Site()
    name, nonce = begun(site)
    site.desk.web_eid_challenge(name, BROWSER)
    assert refused(site, name, token_bytes(site.card(), nonce)) == "signature"


def test_challenge_of_another_browser() -> None:
    """What one browser was asked, another cannot answer."""
    site = Site()
    name, nonce = begun(site)
    token = token_bytes(site.card(), nonce)
    assert refused(site, name, token, browser="c" * 43) == "interaction"
    other = site.interactions.begin("c" * 43)
    assert refused(site, other, token, browser="c" * 43) == "challenge"
    assert refused(site, name, token, browser="") == "interaction"


def test_challenge_lasts_five_minutes() -> None:
    """And not a second longer."""
    site = Site()
    name, nonce = begun(site)
    site.now = Instant(NOW + CHALLENGE_S * 1_000_000)
    assert refused(site, name, token_bytes(site.card(), nonce)) == "challenge"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(Revoked(Instant(NOW - 1_000_000), Reason.KEY_COMPROMISE), "revoked"), (Held(Instant(NOW - 1_000_000)), "held"),
     (Unknown(), "unknown")],
)  # fmt: skip
def test_status(status: Revoked | Held | Unknown, reason: str) -> None:
    """Revoked a second ago, on hold, never issued: refused, each with its own word in the log."""
    site = Site()
    card = site.store.say(site.pki.second.card(), status, site.pki.second)
    name, nonce = begun(site)
    assert refused(site, name, token_bytes(card, nonce)) == reason


def test_not_yet_valid_and_foreign() -> None:
    """A card that begins tomorrow, and one of an issuer that nobody pinned."""
    site = Site()
    name, nonce = begun(site)
    assert refused(site, name, token_bytes(site.card(begin=Instant(NOW + DAY)), nonce)) == "not-yet-valid"
    name, nonce = begun(site)
    site.store.infos = site.store.infos[:1]
    site.store.number += 1
    assert refused(site, name, token_bytes(site.card(), nonce)) == "foreign-issuer"


def test_expired_and_extended() -> None:
    """An expired card needs a list in force that names its key, and a good status still."""
    site = Site()
    card = site.card(begin=Instant(NOW - 100 * DAY), days=50)
    name, nonce = begun(site)
    assert refused(site, name, token_bytes(card, nonce)) == "expired"
    spki = verify_citizen(card.der, pin_issuers([site.pki.second.der]), now=NOW).spki
    site.extended[sha256(spki)] = Instant(NOW + DAY)
    name, nonce = begun(site)
    site.desk.web_eid(name, BROWSER, token_bytes(card, nonce))
    assert site.interactions.done.pop().extended
    site.store.say(card, Revoked(NOW, Reason.SUPERSEDED), site.pki.second)
    name, nonce = begun(site)
    assert refused(site, name, token_bytes(card, nonce)) == "revoked"


@pytest.mark.parametrize(
    ("state", "live", "age_s", "policy", "good"),
    [
        (IdentityState.HOME, True, 10, "fail-closed", True),
        (IdentityState.HOME, True, 10_000, "fail-closed", False),
        (IdentityState.HOME, False, 900, "fail-closed", True),
        (IdentityState.HOME, False, 901, "fail-closed", False),
        (IdentityState.HOME, False, 1000, "grace", True),
        (IdentityState.HOME, False, 1201, "grace", False),
        (IdentityState.HOME, False, 99_999, "fail-open", True),
        (IdentityState.EXILE, False, 99_999, "fail-closed", True),
    ],
)
def test_age_of_the_status(state: IdentityState, live: bool, age_s: int, policy: str, good: bool) -> None:
    """How old a status may be is each service's own choice; in exile it is decided here, so it is of now."""
    site = Site()
    site.state = state
    site.store.infos = (info(site.pki.second, "second", Instant(NOW - age_s * 1_000_000), live),)
    client = RelyingService("c", {"en": "C"}, ("https://c.test/",), status_policy=policy, grace_s=300)  # type: ignore[arg-type]
    name, nonce = begun(site, client=client)
    token = token_bytes(site.card(), nonce)
    if good:
        assert site.desk.web_eid(name, BROWSER, token)
    else:
        assert refused(site, name, token) == "status-old"


@pytest.mark.parametrize("state", [IdentityState.STANDBY, IdentityState.RETURNING])
def test_no_authority(state: IdentityState) -> None:
    """A place that does not decide asks for no card, and one that lost the authority meanwhile takes none."""
    site = Site()
    name, nonce = begun(site)
    site.state = state
    with pytest.raises(UnavailableError):
        site.desk.web_eid_challenge(name, BROWSER)
    with pytest.raises(UnavailableError):
        site.desk.web_eid(name, BROWSER, token_bytes(site.card(), nonce))
    assert not site.interactions.done


def test_issuer_entered_a_moment_ago() -> None:
    """A new issuer counts as soon as the store has it."""
    site = Site()
    newcomer = make_pki(NOW).first
    name, nonce = begun(site)
    assert refused(site, name, token_bytes(site.card(newcomer), nonce)) == "forged-issuer"
    site.store.infos += (info(newcomer, "new"),)
    card = site.card(newcomer)
    name, nonce = begun(site)
    assert site.desk.web_eid(name, BROWSER, token_bytes(card, nonce))


def test_issuer_that_cannot_be_trusted(caplog: pytest.LogCaptureFixture) -> None:
    """A certificate in the journal that is no CA's is left out, and the other issuers' citizens log in."""
    site = Site()
    site.store.infos += (replace(info(PKI.first, "odd"), certificates=(CARD.der,)),)
    name, nonce = begun(site)
    assert site.desk.web_eid(name, BROWSER, token_bytes(site.card(), nonce))
    assert "cards of the issuer odd are not accepted" in caplog.text


@pytest.mark.parametrize(
    ("methods", "acr", "passkey_acr", "offered"),
    [
        ({"idcard", "passkey"}, "substantial", "substantial", (True, True, True)),
        ({"idcard", "passkey"}, "high", "substantial", (True, True, False)),
        ({"idcard", "passkey"}, "high", "high", (True, True, True)),
        ({"idcard"}, "low", "substantial", (True, True, False)),
        ({"passkey"}, "substantial", "low", (False, False, False)),
        ({"mid"}, "low", "substantial", (False, False, False)),
    ],
)
def test_what_is_offered(
    methods: set[str], acr: str, passkey_acr: str, offered: tuple[bool, bool, bool]
) -> None:  # fmt: skip
    """The request's methods and level restrict the ways, on the page and behind it."""
    site = Site(LoginSettings(ORIGIN, "https://card.demo.test", passkey_acr=passkey_acr))  # type: ignore[arg-type]
    name = site.interactions.begin(BROWSER, methods=frozenset(methods), acr=acr)
    offer = site.desk.offer(name, BROWSER)
    assert (offer.web_eid, offer.tls_card, offer.passkey) == offered
    if not offer.web_eid:
        with pytest.raises(NotAuthorised):
            site.desk.web_eid_challenge(name, BROWSER)
    if not offer.passkey:
        with pytest.raises(NotAuthorised):
            site.desk.passkey_options(name, BROWSER)


def test_log_names_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The log says which way, which service and why; never who."""
    caplog.set_level(logging.DEBUG)
    site = Site()
    card = site.card(given_name="MARI", family_name="MAASIKAS", code="38001085718")
    name, nonce = begun(site)
    site.desk.web_eid(name, BROWSER, token_bytes(card, nonce))
    site.interactions.done.clear()
    for status in (Revoked(NOW, Reason.SUPERSEDED), Held(NOW), Unknown(), Good()):
        site.store.say(card, status, site.pki.second)
        name, nonce = begun(site)
        refused(site, name, token_bytes(card, nonce, origin="https://evil.test" if status == Good() else ORIGIN))
    assert [record.getMessage() for record in caplog.records if record.name == "exclave.login"] == [
        "log-in done: method=web-eid client=tax-board acr=high extended=False",
        *(f"log-in refused: method=web-eid client=tax-board reason={reason}"
          for reason in ("revoked", "held", "unknown", "signature")),
    ]  # fmt: skip
    assert not re.search(r"MARI|MAASIKAS|38001085718|bbbb", caplog.text)
    assert CLIENT.client_id in caplog.text

"""Passkeys with an authenticator in software: what is enrolled, what logs in, and everything spoilt."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.errors import ConflictError, ExclaveError, MalformedError, NotAuthorised, UnavailableError
from exclave.identity.contract import Authentication, IdentityState, StoredPasskey
from exclave.identity.passkey import ENROL_S, MAX_ANSWER_BYTES, MAX_PASSKEYS
from exclave.ids import Instant
from support.login_authenticator import PRESENT, SoftPasskey, b64url, from_b64url
from support.login_site import NOW, ORIGIN, Site, person

BROWSER, HOST = "b" * 43, "login.demo.test"
OWNER = Authentication(person(), ("idcard",), "high", NOW)


def enrolled(site: Site, owner: Authentication = OWNER, **wanted: Any) -> SoftPasskey:
    passkey = SoftPasskey(**{"origin": ORIGIN, "rp_id": HOST, **wanted})
    answer = passkey.create(site.passkeys.enrol_options(owner, BROWSER, now=site.now))
    assert site.passkeys.enrol(owner, answer, BROWSER, now=site.now) == passkey.credential
    return passkey


def log_in(site: Site, passkey: SoftPasskey, interaction: str = "i") -> Authentication:
    answer = passkey.get(site.passkeys.login_options(interaction, BROWSER, now=site.now))
    return site.passkeys.login(answer, interaction, BROWSER, now=site.now)


def reason_of(call: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(ExclaveError) as refused:
        call(*args, **more)
    assert "MAASIKAS" not in str(refused.value)
    return str(refused.value.facts.get("reason", refused.value.code))


@pytest.mark.parametrize("state", [IdentityState.HOME, IdentityState.EXILE])
def test_enrolled_and_used(state: IdentityState) -> None:
    """After a card, at home and in exile; it is the same person then, at the lower level."""
    site = Site()
    site.state = state
    passkey = enrolled(site)
    assert log_in(site, passkey) == Authentication(person(), ("passkey",), "substantial", NOW)
    stored = site.store.keys[passkey.credential]
    assert json.loads(stored.person) == {
        "subject": "EE38001085718", "given_name": "MARI", "family_name": "MAASIKAS", "date_of_birth": "1980-01-08",
    }  # fmt: skip
    assert len(stored.user_handle) == 32


def test_options() -> None:
    """The user must be verified; a log-in names no credential, and an enrolment tells no personal code."""
    site = Site()
    enrolled(site)
    asked = json.loads(site.passkeys.login_options("i", BROWSER, now=NOW))
    assert asked["userVerification"] == "required"
    assert asked["allowCredentials"] == []
    assert len(from_b64url(asked["challenge"])) == 32
    made = json.loads(site.passkeys.enrol_options(OWNER, BROWSER, now=NOW))
    assert made["authenticatorSelection"]["userVerification"] == "required"
    assert made["attestation"] == "none"
    assert len(made["excludeCredentials"]) == 1
    assert "38001085718" not in json.dumps(made)


def test_one_user_handle_for_one_person() -> None:
    """A second passkey shows up under the same account; another person has another handle."""
    site = Site()
    first, second = enrolled(site), enrolled(site)
    other = enrolled(site, replace(OWNER, person=person("49403136515")))
    assert first.handle == second.handle != other.handle


@pytest.mark.parametrize("state", [IdentityState.STANDBY, IdentityState.RETURNING])
def test_without_authority(state: IdentityState) -> None:
    """A place that does not decide neither enrols nor lets anybody in."""
    site = Site()
    passkey = enrolled(site)
    options = site.passkeys.login_options("i", BROWSER, now=NOW)
    site.state = state
    for call in (
        lambda: site.passkeys.enrol_options(OWNER, BROWSER, now=NOW),
        lambda: site.passkeys.login_options("i", BROWSER, now=NOW),
        lambda: site.passkeys.login(passkey.get(options), "i", BROWSER, now=NOW),
        lambda: site.passkeys.remove(OWNER, passkey.credential, now=NOW),
        lambda: site.passkeys.of(OWNER, now=NOW),
    ):
        with pytest.raises(UnavailableError):
            call()


def test_only_a_recent_card_enrols() -> None:
    """Neither a passkey nor a card of a quarter of an hour ago is enough."""
    site = Site()
    assert reason_of(site.passkeys.enrol_options, replace(OWNER, amr=("passkey",)), BROWSER, now=NOW) == "passkey-card"
    late = Instant(NOW + ENROL_S * 1_000_000 + 1)
    assert reason_of(site.passkeys.enrol_options, OWNER, BROWSER, now=late) == "session"


def test_challenges() -> None:
    """One answer to one challenge of one log-in in one browser."""
    site = Site()
    passkey = enrolled(site)
    answer = passkey.get(site.passkeys.login_options("i", BROWSER, now=NOW))
    login = site.passkeys.login
    assert reason_of(login, answer, "j", BROWSER, now=NOW) == "challenge"
    assert reason_of(login, answer, "i", "c" * 43, now=NOW) == "challenge"
    login(answer, "i", BROWSER, now=NOW)
    assert reason_of(login, answer, "i", BROWSER, now=NOW) == "challenge"
    site.passkeys.login_options("i", BROWSER, now=NOW)
    assert reason_of(login, answer, "i", BROWSER, now=NOW) == "passkey-signature"
    answer = passkey.create(site.passkeys.enrol_options(OWNER, BROWSER, now=NOW))
    assert reason_of(site.passkeys.enrol, replace(OWNER, person=person("49403136515")), answer, BROWSER, now=NOW) == (
        "challenge"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"origin": "https://evil.test"}, "passkey-signature"),
        ({"rp_id": "evil.test"}, "passkey-signature"),
        ({"flags": PRESENT}, "passkey-signature"),
        ({"flags": 0}, "passkey-signature"),
        ({"client_data": {"type": "webauthn.create"}}, "passkey-signature"),
        ({"client_data": {"challenge": "AAAA"}}, "passkey-signature"),
        ({"client_data": {"crossOrigin": True}}, "passkey-frame"),
        ({"client_data": {"crossOrigin": "x"}}, "passkey"),
        ({"credential": b"another"}, "passkey-unknown"),
        ({"handle": b"another"}, "passkey-user"),
        ({"key": SoftPasskey("", "").key}, "passkey-signature"),
    ],
)  # fmt: skip
def test_spoilt_log_in(spoil: dict[str, Any], reason: str) -> None:
    """Another origin, name, user, key; a user who was not verified; a page inside a page."""
    site = Site()
    passkey = enrolled(site)
    assert reason_of(log_in, site, replace(passkey, **spoil)) == reason


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"origin": "https://evil.test"}, "passkey-signature"),
        ({"rp_id": "evil.test"}, "passkey-signature"),
        ({"flags": PRESENT}, "passkey-signature"),
        ({"client_data": {"type": "webauthn.get"}}, "passkey-signature"),
        ({"client_data": {"crossOrigin": True}}, "passkey-frame"),
        ({"credential": b"x" * 1024}, "passkey"),
    ],
)  # fmt: skip
def test_spoilt_enrolment(spoil: dict[str, Any], reason: str) -> None:
    """The same for an enrolment; nothing is entered."""
    site = Site()
    assert reason_of(enrolled, site, **spoil) == reason
    assert not site.store.keys


@pytest.mark.parametrize("fmt", ["packed", "tpm", "android-key", "fido-u2f", "apple", "android-safetynet", "x"])
def test_attestation_that_nobody_asked_for(fmt: str) -> None:
    """No maker's statement is parsed."""
    site = Site()
    answer = SoftPasskey(ORIGIN, HOST).create(site.passkeys.enrol_options(OWNER, BROWSER, now=NOW), fmt=fmt)
    assert reason_of(site.passkeys.enrol, OWNER, answer, BROWSER, now=NOW) == "passkey"


def test_counter() -> None:
    """A counter that does not go up is a copy of the key; an authenticator without one stays at zero."""
    site = Site()
    passkey = enrolled(site)
    copy = replace(passkey)
    log_in(site, passkey)
    log_in(site, passkey)
    assert reason_of(log_in, site, copy) == "passkey-signature"
    silent = enrolled(site)
    for _ in range(2):
        silent.count = -1
        log_in(site, silent)


def test_removed_dies_at_once() -> None:
    """Between challenge and answer, too; and nobody removes another's."""
    site = Site()
    passkey = enrolled(site)
    stranger = replace(OWNER, person=person("49403136515"))
    assert reason_of(site.passkeys.remove, stranger, passkey.credential, now=NOW) == "passkey-unknown"
    options = site.passkeys.login_options("i", BROWSER, now=NOW)
    site.passkeys.remove(replace(OWNER, amr=("passkey",)), passkey.credential, now=NOW)
    assert reason_of(site.passkeys.login, passkey.get(options), "i", BROWSER, now=NOW) == "passkey-unknown"


def test_twice_and_too_many() -> None:
    """One credential is one person's, and a person has ten at most."""
    site = Site()
    passkey = enrolled(site)
    other = replace(OWNER, person=person("49403136515"))
    answer = passkey.create(site.passkeys.enrol_options(other, BROWSER, now=NOW))
    with pytest.raises(ConflictError):
        site.passkeys.enrol(other, answer, BROWSER, now=NOW)
    for _ in range(MAX_PASSKEYS - 1):
        enrolled(site)
    assert reason_of(site.passkeys.enrol_options, OWNER, BROWSER, now=NOW) == "passkey-limit"


def test_race_to_the_limit() -> None:
    """Options that were given before the limit was reached do not lead past it."""
    site = Site()
    waiting = SoftPasskey(ORIGIN, HOST)
    answer = waiting.create(site.passkeys.enrol_options(OWNER, "c" * 43, now=NOW))
    for _ in range(MAX_PASSKEYS):
        enrolled(site)
    assert reason_of(site.passkeys.enrol, OWNER, answer, "c" * 43, now=NOW) == "passkey-limit"


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b"[]", b"null", b"[" * 9000, b'{"a":' * 5000, b"\xff" * 100, b"x" * (MAX_ANSWER_BYTES + 1),
     b'{"id":"AA","type":"password","response":{"clientDataJSON":"e30"}}',
     b'{"id":"A","type":"public-key","response":{"clientDataJSON":"e30"}}',
     b'{"id":"AB","type":"public-key","response":{"clientDataJSON":"e30"}}',
     b'{"id":"\\u00e4","type":"public-key","response":{"clientDataJSON":"e30"}}',
     b'{"id":"AA==","type":"public-key","response":{"clientDataJSON":"e30"}}'],
)  # fmt: skip
def test_hostile_answers(answer: bytes) -> None:
    """What is no passkey's answer is malformed, for log-in and enrolment alike."""
    site = Site()
    site.passkeys.login_options("i", BROWSER, now=NOW)
    with pytest.raises(MalformedError):
        site.passkeys.login(answer, "i", BROWSER, now=NOW)
    site.passkeys.enrol_options(OWNER, BROWSER, now=NOW)
    with pytest.raises(MalformedError):
        site.passkeys.enrol(OWNER, answer, BROWSER, now=NOW)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_spoilt_bytes_of_an_enrolment(data: st.DataObject) -> None:
    """Any change of the attested bytes ends in a refusal of ours or in a key that the changed bytes hold."""
    site = Site()
    passkey = SoftPasskey(ORIGIN, HOST)
    answer = json.loads(passkey.create(site.passkeys.enrol_options(OWNER, BROWSER, now=NOW)))
    thing = bytearray(from_b64url(answer["response"]["attestationObject"]))
    for _ in range(data.draw(st.integers(1, 4))):
        thing[data.draw(st.integers(0, len(thing) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(thing)))
    answer["response"]["attestationObject"] = b64url(bytes(thing[:cut]))
    with suppress(ExclaveError):
        site.passkeys.enrol(OWNER, json.dumps(answer).encode(), BROWSER, now=NOW)
    assert set(site.store.keys) <= {passkey.credential}


def test_journal_with_a_passkey_of_nobody() -> None:
    """An entry without a person's claims lets nobody in."""
    site = Site()
    passkey = enrolled(site)
    known = site.store.keys[passkey.credential]
    site.store.keys[passkey.credential] = StoredPasskey(known.credential, known.public_key, b"{}", known.user_handle)
    assert reason_of(log_in, site, passkey) == "passkey"
    site.store.keys[passkey.credential] = StoredPasskey(known.credential, b"\xa0", known.person, known.user_handle)
    assert reason_of(log_in, site, passkey) == "passkey-signature"
    with pytest.raises(NotAuthorised):
        site.passkeys.remove(OWNER, b"none", now=NOW)

"""Passkeys (WebAuthn Level 3): enrolled while the card still works, good for log-in when it no longer does.

Page: docs/spec/login.md. A passkey lies in the identity journal, so every place knows it, and a removed one dies with
the entry. How often an authenticator says it was used is kept at the place alone: it is not replicated, so a cloned key
is noticed where both are used at one place.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
from dataclasses import dataclass

import msgspec
from webauthn import verify_authentication_response, verify_registration_response
from webauthn.helpers import parse_attestation_object
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AttestationFormat,
    AuthenticationCredential,
    AuthenticatorAssertionResponse,
    AuthenticatorAttestationResponse,
    RegistrationCredential,
)

from exclave.errors import ConflictError, CorruptObject, MalformedError, NotAuthorised, UnavailableError
from exclave.formats.journal import Passkey, PasskeyGone
from exclave.identity.card import CARD_METHOD
from exclave.identity.challenge import Challenges
from exclave.identity.contract import (
    Authentication,
    AuthorityNow,
    JournalWriter,
    Person,
    StatusStore,
    StoredPasskey,
    Tickets,
)
from exclave.identity.status_log import Good, Serial
from exclave.ids import Digest, Instant

PASSKEY_METHOD = "passkey"
MAX_PASSKEYS = 10
"""Of one person."""
MAX_ANSWER_BYTES = 32 << 10
ENROL_S = 900
"""How long after the card's log-in a passkey may be enrolled or removed."""

_LOGIN, _ENROL, _COUNT = "passkey-login", "passkey-enrol", "passkey-count"
_COUNT_KEPT_S = 400 * 86_400
_ES256, _EDDSA, _RS256 = -7, -8, -257
# What the library's parsers raise on hostile bytes, beside its own.
_BROKEN = (
    WebAuthnException,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)


_log = logging.getLogger("exclave.login")


class _Response(msgspec.Struct, rename="camel"):
    client_data: str = msgspec.field(name="clientDataJSON")
    attestation_object: str = ""
    authenticator_data: str = ""
    signature: str = ""
    user_handle: str | None = None


class _Credential(msgspec.Struct):
    id: str
    type: str
    response: _Response


class _ClientData(msgspec.Struct, rename="camel"):
    cross_origin: bool = False


class _Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    subject: str
    given_name: str
    family_name: str
    date_of_birth: str


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """The log-in service as authenticators see it."""

    id: str
    """Its host name. Passkeys work under this name alone, so an embassy takes the name over."""
    name: str
    origin: str
    acr: str = "substantial"
    """What a log-in by passkey is worth; the card that enrolled it was ``high``."""


@dataclass(frozen=True, slots=True)
class Passkeys:
    """Enrols, checks and removes."""

    party: RelyingParty
    store: StatusStore
    writer: JournalWriter
    tickets: Tickets
    challenges: Challenges
    authority: AuthorityNow

    def login_options(self, interaction: str, browser: str, *, now: Instant) -> bytes:
        """PublicKeyCredentialRequestOptions, JSON. It names no credential: nobody learns who has one."""
        self._check_authority()
        challenge = self.challenges.new(_LOGIN, interaction, browser, now=now)
        return msgspec.json.encode({
            "challenge": _b64url(challenge), "rpId": self.party.id, "timeout": 300_000, "allowCredentials": [],
            "userVerification": "required",
        })  # fmt: skip

    def login(self, answer: bytes, interaction: str, browser: str, *, now: Instant) -> Authentication:
        """The person whose passkey answered. ``MalformedError``, ``CorruptObject`` or ``NotAuthorised``, with a
        ``reason``; ``UnavailableError`` while the authority is elsewhere."""
        self._check_authority()
        challenge = self.challenges.take(_LOGIN, interaction, browser, now=now)
        credential = _parsed(answer)
        raw = _bytes(credential.id, 1023)
        known = self.store.passkey(raw)
        if known is None:
            raise NotAuthorised("the passkey is not enrolled, or was removed", reason="passkey-unknown")
        handle = credential.response.user_handle
        if handle and _bytes(handle, 64) != known.user_handle:
            raise NotAuthorised("the passkey answers for another user", reason="passkey-user")
        self._check_signature(credential, raw, known, challenge, now)
        return Authentication(person_of(known), (PASSKEY_METHOD,), self.party.acr, now)

    def _check_signature(
        self, credential: _Credential, raw: bytes, known: StoredPasskey, challenge: bytes, now: Instant
    ) -> None:
        name = hashlib.sha256(raw).digest()
        count = int.from_bytes(self.tickets.get(_COUNT, name, now=now) or b"", "big")
        response = credential.response
        given = AuthenticatorAssertionResponse(
            client_data_json=_client_data(response),
            authenticator_data=_bytes(response.authenticator_data, 4096),
            signature=_bytes(response.signature, 1024),
        )
        try:
            done = verify_authentication_response(
                credential=AuthenticationCredential(id=credential.id, raw_id=raw, response=given),
                expected_challenge=challenge,
                expected_rp_id=self.party.id,
                expected_origin=self.party.origin,
                credential_public_key=known.public_key,
                credential_current_sign_count=count,
                require_user_verification=True,
            )
        except _BROKEN as error:
            raise CorruptObject("the passkey's answer does not verify", reason="passkey-signature") from error
        expires = Instant(now + _COUNT_KEPT_S * 1_000_000)
        self.tickets.put(_COUNT, name, done.new_sign_count.to_bytes(4, "big"), expires)

    def enrol_options(self, owner: Authentication, browser: str, *, now: Instant) -> bytes:
        """PublicKeyCredentialCreationOptions, JSON, for the person who has just logged in with a card."""
        have = self._enrolled(owner, now)
        challenge = self.challenges.new(_ENROL, owner.person.subject, browser, now=now)
        handle = _handle(have, challenge)
        name = f"{owner.person.given_name} {owner.person.family_name}".strip()
        return msgspec.json.encode({
            "rp": {"id": self.party.id, "name": self.party.name},
            "user": {"id": _b64url(handle), "name": name, "displayName": name},
            "challenge": _b64url(challenge),
            "pubKeyCredParams": [{"type": "public-key", "alg": alg} for alg in (_ES256, _EDDSA, _RS256)],
            "timeout": 300_000, "attestation": "none",
            "excludeCredentials": [{"type": "public-key", "id": _b64url(one.credential)} for one in have],
            "authenticatorSelection": {
                "residentKey": "required", "requireResidentKey": True, "userVerification": "required",
            },
        })  # fmt: skip

    def enrol(self, owner: Authentication, answer: bytes, browser: str, *, now: Instant) -> bytes:
        """Enters the passkey in the journal; its credential id. Errors as ``login``, and ``ConflictError`` for one that
        is enrolled already."""
        have = self._enrolled(owner, now)
        challenge = self.challenges.take(_ENROL, owner.person.subject, browser, now=now)
        credential = _parsed(answer)
        public, raw = self._registered(credential, challenge)
        if self.store.passkey(raw) is not None:
            raise ConflictError("this passkey is enrolled already", reason="passkey-twice")
        claims = _Claims(
            owner.person.subject, owner.person.given_name, owner.person.family_name, owner.person.date_of_birth
        )
        self.writer.enter([Passkey(raw, public, msgspec.json.encode(claims), _handle(have, challenge))])
        _log.info("a passkey was enrolled")
        return raw

    def _registered(self, credential: _Credential, challenge: bytes) -> tuple[bytes, bytes]:
        raw = _bytes(credential.id, 1023)
        attested = _bytes(credential.response.attestation_object, 16 << 10)
        given = AuthenticatorAttestationResponse(_client_data(credential.response), attested)
        try:
            # Nothing was asked of the maker, so nothing of one is parsed.
            if parse_attestation_object(attested).fmt != AttestationFormat.NONE:
                raise MalformedError("the passkey comes with an attestation that was not asked for", reason="passkey")
            done = verify_registration_response(
                credential=RegistrationCredential(id=credential.id, raw_id=raw, response=given),
                expected_challenge=challenge,
                expected_rp_id=self.party.id,
                expected_origin=self.party.origin,
                require_user_verification=True,
            )
        except _BROKEN as error:
            raise CorruptObject("the passkey's enrolment does not verify", reason="passkey-signature") from error
        if done.credential_id != raw:
            raise CorruptObject("the passkey's enrolment names another credential", reason="passkey")
        return done.credential_public_key, raw

    def of(self, owner: Authentication, *, now: Instant) -> tuple[StoredPasskey, ...]:
        """The person's own. Not only a card may see them: a passkey may, too."""
        self._check_authority()
        _check_recent(owner, now)
        return self.store.passkeys_of(owner.person.subject)

    def remove(self, owner: Authentication, credential: bytes, *, now: Instant) -> None:
        """It does not count from now on, anywhere that hears of it. ``NotAuthorised`` if it is not the person's."""
        if credential not in {one.credential for one in self.of(owner, now=now)}:
            raise NotAuthorised("that is no passkey of this person", reason="passkey-unknown")
        self.writer.enter([PasskeyGone(credential)])
        _log.info("a passkey was removed")

    def _enrolled(self, owner: Authentication, now: Instant) -> tuple[StoredPasskey, ...]:
        self._check_authority()
        _check_recent(owner, now)
        if CARD_METHOD not in owner.amr:
            raise NotAuthorised("a passkey is enrolled after a log-in with a card only", reason="passkey-card")
        if owner.card is not None:
            issuer, serial = owner.card
            # The card was good when it logged in; who stole it must not make a passkey that outlives it.
            status = self.store.status(Digest(issuer), Serial(int.from_bytes(serial, "big")))
            if not isinstance(status, Good):
                raise NotAuthorised("the card was revoked or held since it logged in", reason="revoked")
        have = self.store.passkeys_of(owner.person.subject)
        if len(have) >= MAX_PASSKEYS:
            raise ConflictError(f"one person has {MAX_PASSKEYS} passkeys at most", reason="passkey-limit")
        return have

    def _check_authority(self) -> None:
        if not self.authority().decides:
            raise UnavailableError("this place does not log anybody in now", reason="authority")


def _handle(have: tuple[StoredPasskey, ...], challenge: bytes) -> bytes:
    """A person has one user handle, so that an authenticator shows one account: 32 random bytes, which say nothing of
    the person. The first passkey's is made from its challenge, so there is nothing to keep meanwhile."""
    return have[0].user_handle if have else hashlib.sha256(b"exclave/passkey-user/v1\n" + challenge).digest()


def person_of(known: StoredPasskey) -> Person:
    """``MalformedError`` if the journal holds no person's claims there."""
    try:
        claims = msgspec.json.decode(known.person, type=_Claims)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise MalformedError("the passkey is of nobody", reason="passkey") from error
    return Person(claims.subject, claims.given_name, claims.family_name, claims.date_of_birth)


def _check_recent(owner: Authentication, now: Instant) -> None:
    if not 0 <= now - owner.time <= ENROL_S * 1_000_000:
        raise NotAuthorised("the log-in is too long ago", reason="session")


def _parsed(answer: bytes) -> _Credential:
    """What ``PublicKeyCredential.toJSON()`` gives (WebAuthn, section 5.1.8); other fields are left."""
    if len(answer) > MAX_ANSWER_BYTES:
        raise MalformedError("the passkey's answer is too long", reason="passkey")
    try:
        credential = msgspec.json.decode(answer, type=_Credential)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedError("this is not a passkey's answer", reason="passkey") from error
    if credential.type != "public-key":
        raise MalformedError("this is not a passkey's answer", reason="passkey")
    return credential


def _client_data(response: _Response) -> bytes:
    """The browser's part of what is signed, which must not come from a page inside another's frame."""
    data = _bytes(response.client_data, 4096)
    try:
        inside = msgspec.json.decode(data, type=_ClientData).cross_origin
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedError("this is not a passkey's answer", reason="passkey") from error
    if inside:
        raise NotAuthorised("the passkey was used inside another page", reason="passkey-frame")
    return data


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str, limit: int) -> bytes:
    """base64url without padding, canonical, 1 to ``limit`` bytes."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MalformedError("this is not base64url", reason="passkey") from error
    if not 0 < len(data) <= limit or _b64url(data) != text:
        raise MalformedError("this is not base64url of the expected form", reason="passkey")
    return data

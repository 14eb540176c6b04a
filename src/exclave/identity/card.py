"""Whether a citizen's card is accepted now: its certificate's status, how old that is, and lists that extend validity.

Page: docs/spec/login.md. ``admit`` decides; ``Cards`` asks the store and remembers the pinned issuers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from exclave.crypto.certificates import DISALLOWED_POLICIES, PinnedIssuers, VerifiedCitizen, pin_issuers, verify_citizen
from exclave.errors import MalformedError, NotAuthorised, UnavailableError
from exclave.formats.journal import serial_bytes
from exclave.formats.relying import RelyingService
from exclave.identity.answer_window import known_until
from exclave.identity.contract import (
    Authentication,
    AuthorityNow,
    IssuerInfo,
    Person,
    StatusStore,
)
from exclave.identity.status_log import CertificateStatus, Good, Held, Revoked, Serial
from exclave.identity.webeid import parse_token, verify_token
from exclave.ids import Digest, Instant, sha256
from exclave.rules.extensions import Extended, NotExtended
from exclave.rules.freshness import Freshness, judge_freshness

CARD_METHOD, CARD_ACR = "idcard", "high"
_log = logging.getLogger("exclave.login")


class ExtendedNow(Protocol):
    """``identity.extensions.Extensions``: whether a list in force accepts an expired certificate."""

    def __call__(
        self, *, issuer: Digest, spki_sha256: Digest, serial: int, ended: Instant, now: Instant
    ) -> Extended | NotExtended: ...


@dataclass(frozen=True, slots=True)
class Admitted:
    """A card was accepted. ``note``: what the operator's log says of it; empty mostly, and no personal data."""

    authentication: Authentication
    note: str


def admit(
    citizen: VerifiedCitizen, status: CertificateStatus, freshness: Freshness, extension: Extended | NotExtended | None,
    *, now: Instant,
) -> Admitted:  # fmt: skip
    """(1) revoked, held, unknown · (2) age of the status · (3) expiry and the lists that extend it.

    A list never helps a certificate that is revoked, held or unknown. ``NotAuthorised``, or ``UnavailableError`` where
    only the status is too old; both with a ``reason``.
    """
    match status:  # (1)
        case Good():
            pass
        case Revoked():
            raise NotAuthorised("the certificate is revoked", reason="revoked")
        case Held():
            raise NotAuthorised("the certificate is on hold", reason="held")
        case _:
            raise NotAuthorised("its issuer is not known to have issued the certificate", reason="unknown")
    if not freshness.accepted:  # (2)
        raise UnavailableError(f"the certificate's status is too old: {freshness.text}", reason="status-old")
    if citizen.expired and not isinstance(extension, Extended):  # (3)
        why = "no list extends it" if extension is None else extension.why
        raise NotAuthorised(f"the certificate has expired: {why}", reason="expired")
    person = Person(citizen.subject, citizen.given_name, citizen.family_name, citizen.date_of_birth)
    certificate = citizen.issuer, serial_bytes(citizen.serial)
    done = Authentication(person, (CARD_METHOD,), CARD_ACR, now, extended=citizen.expired, card=certificate)
    return Admitted(done, freshness.text)


class Cards:
    """Cards against the state's issuers and their status. Safe from several threads."""

    def __init__(
        self, store: StatusStore, authority: AuthorityNow, extended: ExtendedNow, origin: str, *,
        disallowed: frozenset[str] = DISALLOWED_POLICIES,
    ) -> None:  # fmt: skip
        """``origin``: of the log-in pages, see ``webeid.check_origin``; ``disallowed``: policies (OIDs)."""
        self._store = store
        self._authority = authority
        self._extended = extended
        self._origin = origin
        self._disallowed = disallowed
        self._known: tuple[int, Mapping[Digest, IssuerInfo], PinnedIssuers] = (-1, {}, pin_issuers(()))

    def web_eid(self, token: bytes, nonce: str, client: RelyingService, *, now: Instant) -> Admitted:
        """The person whose card signed ``nonce`` for this origin. ``client``'s policy says how old a status may be."""
        parsed = parse_token(token)
        issuers, pins = self._current()
        citizen = verify_token(
            parsed, origin=self._origin, nonce=nonce, issuers=pins, now=now, disallowed=self._disallowed
        )
        return self._admitted(citizen, issuers[citizen.issuer], client, now)

    def certificate(self, der: bytes, client: RelyingService, *, now: Instant) -> Admitted:
        """The person of a certificate whose key was proven in a TLS handshake, which the caller establishes."""
        issuers, pins = self._current()
        citizen = verify_citizen(der, pins, now=now, disallowed=self._disallowed)
        return self._admitted(citizen, issuers[citizen.issuer], client, now)

    def _admitted(self, citizen: VerifiedCitizen, issuer: IssuerInfo, client: RelyingService, now: Instant) -> Admitted:
        authority = self._authority()
        if not authority.decides:
            raise UnavailableError("this place does not log anybody in now", reason="authority")
        status = self._store.status(citizen.issuer, Serial(citizen.serial))
        freshness = judge_freshness(
            client.status_policy,
            this_update=known_until(authority, issuer, now=now),
            now=now,
            max_age_s=client.status_max_age_s,
            grace_s=client.grace_s,
        )
        extension = None
        if citizen.expired:
            extension = self._extended(
                issuer=citizen.issuer, spki_sha256=sha256(citizen.spki), serial=citizen.serial, ended=citizen.ends,
                now=now,
            )  # fmt: skip
        return admit(citizen, status, freshness, extension, now=now)

    def _current(self) -> tuple[Mapping[Digest, IssuerInfo], PinnedIssuers]:
        """Read again when the store has changed: an issuer that was entered a moment ago counts."""
        generation = self._store.generation()
        known, issuers, pins = self._known
        if known != generation:
            issuers = {issuer.id: issuer for issuer in self._store.issuers()}
            pins = pin_issuers(
                der for issuer in issuers.values() for der in issuer.certificates if _usable(issuer, der)
            )
            self._known = (generation, issuers, pins)
        return issuers, pins


def _usable(issuer: IssuerInfo, der: bytes) -> bool:
    """One certificate in the journal that cannot be trusted must not keep everybody else's citizens out."""
    try:
        pin_issuers((der,))
    except MalformedError as error:
        _log.error("cards of the issuer %s are not accepted: %s", issuer.label, error.message)
        return False
    return True

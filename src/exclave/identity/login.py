"""One log-in, step by step, without HTTP: which methods are offered, their challenges, their answers, where to go then.

Page: docs/spec/login.md. Everything asks first whether this place has the authority and whether the log-in waits for
this browser. Refusals go to the log with a ``reason`` and without anything that tells who it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from exclave.errors import ExclaveError, NotAuthorised, UnavailableError
from exclave.identity.card import CARD_ACR, CARD_METHOD, Admitted, Cards
from exclave.identity.challenge import Challenges
from exclave.identity.contract import Authentication, AuthorityNow, Clock, Interaction, Interactions
from exclave.identity.login_settings import LEVELS, LoginSettings
from exclave.identity.passkey import PASSKEY_METHOD, Passkeys
from exclave.identity.tls_card import Handover
from exclave.ids import b64

_WEB_EID = "web-eid"
_log = logging.getLogger("exclave.login")


@dataclass(frozen=True, slots=True)
class Offer:
    """A waiting log-in and what may be used for it."""

    interaction: Interaction
    web_eid: bool
    tls_card: bool
    passkey: bool


@dataclass(frozen=True, slots=True)
class LoginDesk:
    """Safe from several threads. ``browser`` is always the value of the browser's own cookie."""

    settings: LoginSettings
    interactions: Interactions
    cards: Cards
    passkeys: Passkeys
    challenges: Challenges
    handover: Handover
    authority: AuthorityNow
    clock: Clock

    def offer(self, interaction: str, browser: str) -> Offer:
        """``NotAuthorised`` if no such log-in waits for this browser, ``UnavailableError`` without authority."""
        if not self.authority().decides:
            raise UnavailableError("this place does not log anybody in now", reason="authority")
        found = self.interactions.find(interaction, browser) if browser else None
        if found is None:
            raise NotAuthorised("no such log-in waits for this browser", reason="interaction")
        least = LEVELS[found.acr]
        card = CARD_METHOD in found.methods and LEVELS[CARD_ACR] >= least
        passkey = PASSKEY_METHOD in found.methods and LEVELS[self.settings.passkey_acr] >= least
        return Offer(found, card, card and bool(self.settings.card_origin), passkey)

    def web_eid_challenge(self, interaction: str, browser: str) -> str:
        """The nonce that the card signs, base64."""
        _allowed(self.offer(interaction, browser).web_eid)
        return b64(self.challenges.new(_WEB_EID, interaction, browser, now=self.clock()))

    def web_eid(self, interaction: str, browser: str, token: bytes) -> str:
        """The address to send the browser to, once ``token`` is found good."""

        def check(offer: Offer) -> Authentication:
            _allowed(offer.web_eid)
            now = self.clock()
            nonce = b64(self.challenges.take(_WEB_EID, interaction, browser, now=now))
            return self._card(lambda: self.cards.web_eid(token, nonce, offer.interaction.client, now=now))

        return self._end("web-eid", interaction, browser, check)

    def tls_card(self, interaction: str, browser: str, name: str) -> str:
        """The same for a certificate that the door saw; ``name`` is what the door gave to the browser."""

        def check(offer: Offer) -> Authentication:
            _allowed(offer.tls_card)
            now = self.clock()
            der = self.handover.fetch(name, interaction, now=now)
            return self._card(lambda: self.cards.certificate(der, offer.interaction.client, now=now))

        return self._end("tls-card", interaction, browser, check)

    def passkey_options(self, interaction: str, browser: str) -> bytes:
        """JSON for ``navigator.credentials.get``."""
        _allowed(self.offer(interaction, browser).passkey)
        return self.passkeys.login_options(interaction, browser, now=self.clock())

    def passkey(self, interaction: str, browser: str, answer: bytes) -> str:
        """The same for a passkey's answer."""

        def check(offer: Offer) -> Authentication:
            _allowed(offer.passkey)
            return self.passkeys.login(answer, interaction, browser, now=self.clock())

        return self._end("passkey", interaction, browser, check)

    def cancel(self, interaction: str, browser: str) -> str:
        """The address to send the browser of a person who gave up to."""
        self.offer(interaction, browser)
        return self.interactions.cancel(interaction, browser, "access_denied")

    def _card(self, admitted: Callable[[], Admitted]) -> Authentication:
        found = admitted()
        if found.note:
            _log.warning("certificate status: %s", found.note)
        return found.authentication

    def _end(self, method: str, interaction: str, browser: str, check: Callable[[Offer], Authentication]) -> str:
        client = "-"
        try:
            offer = self.offer(interaction, browser)
            client = offer.interaction.client.client_id
            done = check(offer)
            where = self.interactions.complete(interaction, browser, done)
        except ExclaveError as error:
            reason = str(error.facts.get("reason", error.code))
            _log.warning("log-in refused: method=%s client=%s reason=%s", method, client, reason)
            raise
        _log.info("log-in done: method=%s client=%s acr=%s extended=%s", method, client, done.acr, done.extended)
        return where


def _allowed(offered: bool) -> None:
    if not offered:
        raise NotAuthorised("this way to log in is not offered for this log-in", reason="method")

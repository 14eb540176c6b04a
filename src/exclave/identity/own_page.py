"""A person's log-in to the page of their own passkeys: for a quarter of an hour, in one browser."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from exclave.errors import NotAuthorised
from exclave.formats.relying import RelyingService
from exclave.identity.contract import Authentication, Clock, Interaction, Interactions, Tickets
from exclave.identity.passkey import ENROL_S
from exclave.ids import Instant

OWN = "own"
"""The id of this log-in, which no OpenID request has."""
_KIND = "own-page"
_SERVICE = RelyingService(client_id="own-passkeys", name={}, redirect_uris=())


@dataclass(frozen=True, slots=True)
class OwnPage:
    """``contract.Interactions`` that know one more log-in than ``inner``: the one to the person's own page."""

    inner: Interactions
    tickets: Tickets
    clock: Clock
    path: str
    """Of the page."""

    def find(self, interaction: str, browser: str) -> Interaction | None:
        if interaction != OWN:
            return self.inner.find(interaction, browser)
        return Interaction(OWN, _SERVICE, "low")

    def complete(self, interaction: str, browser: str, done: Authentication) -> str:
        if interaction != OWN:
            return self.inner.complete(interaction, browser, done)
        expires = Instant(done.time + ENROL_S * 1_000_000)
        self.tickets.put(_KIND, _hidden(browser), msgspec.msgpack.encode(done), expires)
        return self.path

    def cancel(self, interaction: str, browser: str, error: str) -> str:
        return self.path if interaction == OWN else self.inner.cancel(interaction, browser, error)

    def owner(self, browser: str) -> Authentication:
        """Who logged in with this browser. ``NotAuthorised`` if nobody, or too long ago."""
        found = self.tickets.get(_KIND, _hidden(browser), now=self.clock()) if browser else None
        if found is None:
            raise NotAuthorised("nobody is logged in to the page of passkeys", reason="session")
        return msgspec.msgpack.decode(found, type=Authentication)

    def leave(self, browser: str) -> None:
        """Logged out; nothing happens if nobody is logged in."""
        self.tickets.take(_KIND, _hidden(browser), now=self.clock())


def _hidden(browser: str) -> bytes:
    return hashlib.sha256(browser.encode("utf-8", "surrogatepass")).digest()

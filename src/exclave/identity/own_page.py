"""A person's log-in to the page of their own passkeys: for a quarter of an hour, in one browser."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import msgspec

from exclave.errors import NotAuthorised
from exclave.formats.relying import RelyingService
from exclave.identity.contract import Authentication, Clock, Interaction, Interactions, Tickets
from exclave.identity.passkey import ENROL_S
from exclave.ids import Instant

_OWN = re.compile(r"own-[0-9a-f]{40}\Z")
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
        if not is_own(interaction):
            return self.inner.find(interaction, browser)
        return Interaction(interaction, _SERVICE, "low") if browser and interaction == own_id(browser) else None

    def complete(self, interaction: str, browser: str, done: Authentication) -> str:
        if not is_own(interaction):
            return self.inner.complete(interaction, browser, done)
        if self.find(interaction, browser) is None:
            raise NotAuthorised("this log-in is another browser's", reason="interaction")
        expires = Instant(done.time + ENROL_S * 1_000_000)
        self.tickets.put(_KIND, _hidden(browser), msgspec.msgpack.encode(done), expires)
        return self.path

    def cancel(self, interaction: str, browser: str, error: str) -> str:
        return self.path if is_own(interaction) else self.inner.cancel(interaction, browser, error)

    def owner(self, browser: str) -> Authentication:
        """Who logged in with this browser. ``NotAuthorised`` if nobody, or too long ago."""
        found = self.tickets.get(_KIND, _hidden(browser), now=self.clock()) if browser else None
        if found is None:
            raise NotAuthorised("nobody is logged in to the page of passkeys", reason="session")
        return msgspec.msgpack.decode(found, type=Authentication)

    def leave(self, browser: str) -> None:
        """Logged out; nothing happens if nobody is logged in."""
        self.tickets.take(_KIND, _hidden(browser), now=self.clock())


def own_id(browser: str) -> str:
    """The id of this log-in in one browser. Another cannot know it, so nobody is lured into somebody else's page by an
    address that ends a log-in; longer than the ids of OpenID requests."""
    return "own-" + hashlib.sha256(f"exclave/own-page\0{browser}".encode("utf-8", "surrogatepass")).hexdigest()[:40]


def is_own(interaction: str) -> bool:
    return _OWN.match(interaction) is not None


def _hidden(browser: str) -> bytes:
    return hashlib.sha256(browser.encode("utf-8", "surrogatepass")).digest()

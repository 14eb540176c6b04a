"""What the log-in pages are set to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from exclave.errors import ConfigError
from exclave.identity.webeid import check_origin

LANGUAGES = ("et", "en", "ar")
LEVELS = {"low": 0, "substantial": 1, "high": 2}
"""eIDAS levels of assurance (Regulation (EU) 910/2014, article 8), in order."""


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """``ConfigError`` for settings that cannot work."""

    origin: str
    """Of the pages, as browsers write it: ``https://login.example``. Cards sign it: it is the same at every place."""
    card_origin: str = ""
    """Where nginx asks for a TLS client certificate, another host name or port; empty: not offered."""
    state_name: Mapping[str, str] = field(default_factory=dict)
    """By language: what stands at the top of the pages."""
    languages: tuple[str, ...] = LANGUAGES
    """Those that are offered; the first is the default."""
    rp_id: str = ""
    """WebAuthn's relying party id; empty: the origin's host."""
    passkey_acr: Literal["low", "substantial", "high"] = "substantial"
    say_exile: bool = False
    """In exile the pages say that the embassy answers."""
    login_path: str = "/login"
    cookie_name: str = "__Host-exclave"
    """Of the OpenID provider: it tells which browser began a log-in."""
    secure_cookies: bool = True

    def __post_init__(self) -> None:
        check_origin(self.origin)
        if self.card_origin:
            check_origin(self.card_origin)
        if self.card_origin == self.origin:
            raise ConfigError("the card's origin must differ: else each visit would ask for a certificate")
        if not self.languages or not set(self.languages) <= set(LANGUAGES):
            raise ConfigError(f"the languages of the log-in pages are {', '.join(LANGUAGES)}")
        if self.passkey_acr not in LEVELS:
            raise ConfigError(f"the level of a passkey is one of {', '.join(LEVELS)}")
        host = urlsplit(self.origin).hostname or ""
        if self.rp_id and host != self.rp_id and not host.endswith(f".{self.rp_id}"):
            raise ConfigError("rp_id must be the log-in service's host or a domain above it")
        if self.origin.startswith("https://") and not self.secure_cookies:
            raise ConfigError("cookies without Secure are only for http on loopback")

    @property
    def party_id(self) -> str:
        return self.rp_id or urlsplit(self.origin).hostname or ""

    @property
    def own_cookie(self) -> str:
        """Of the page on which people see their passkeys."""
        return "__Host-exclave-own" if self.secure_cookies else "exclave-own"

    @property
    def language_cookie(self) -> str:
        return "__Host-exclave-lang" if self.secure_cookies else "exclave-lang"

"""What one provider is set to; and what its endpoints need of their surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from exclave.errors import ConfigError
from exclave.identity.contract import AuthorityNow, Clock, Delegates, StatusStore, Tickets
from exclave.ids import Label

MAX_SESSION_S = 1800


@dataclass(frozen=True, slots=True)
class OpSettings:
    """Names, lifetimes (whole seconds) and languages. ``ConfigError`` for settings that would be unsafe."""

    issuer: str
    """``https://login.example``, without a slash at its end: the ``iss`` of every token. The same at every place."""
    languages: tuple[str, ...] = ("et", "en")
    """Of the log-in pages, the preferred one first."""
    login_path: str = "/login"
    """Where the log-in pages are; ``?i=`` and the interaction's id are appended."""
    code_s: int = 30
    id_token_s: int = 40
    access_token_s: int = 120
    """More than the minute before its end at which some clients (Authlib) take a token for expired."""
    pushed_s: int = 60
    interaction_s: int = 600
    session_s: int = MAX_SESSION_S
    """How long a log-in can be ended by logging out; also the limit of ``single_sign_on``."""
    single_sign_on: bool = False
    """Whether a second request of the same browser is answered without the card. Off: each log-in asks for the card,
    so that a revoked one is refused at once."""
    secure_cookies: bool = True
    """Off only for plain HTTP on loopback: without it, browsers refuse a ``__Host-`` cookie there."""

    def __post_init__(self) -> None:
        https = self.issuer.startswith("https://")
        if not (https or self.issuer.startswith(("http://127.0.0.1:", "http://localhost:", "http://[::1]:"))):
            raise ConfigError("the issuer of the OpenID provider must begin with https://")
        if self.issuer.endswith("/") or any(c in self.issuer for c in "?#@ "):
            raise ConfigError("the issuer must have no slash at its end, no query, no fragment and no user name")
        if https and not self.secure_cookies:
            raise ConfigError("cookies without Secure are only for http on loopback")
        if not 1 <= self.session_s <= MAX_SESSION_S:
            raise ConfigError(f"a session lasts 1 to {MAX_SESSION_S} seconds")
        lifetimes = (self.code_s, self.id_token_s, self.access_token_s, self.pushed_s, self.interaction_s)
        if any(not 1 <= seconds <= 3600 for seconds in lifetimes) or not self.languages:
            raise ConfigError("a lifetime is 1 to 3600 seconds, and the pages have at least one language")

    @property
    def cookie_name(self) -> str:
        """``__Host-``: a browser takes it from this host over TLS alone, so no other host can plant one."""
        return "__Host-exclave" if self.secure_cookies else "exclave"

    def url(self, path: str) -> str:
        """The address of an endpoint, ``path`` beginning with a slash."""
        return self.issuer + path


@dataclass(frozen=True, slots=True)
class LogoutNotice:
    """A logout token on its way to a relying service."""

    uri: str
    token: str


class LogoutSink(Protocol):
    """Takes logout notices and returns at once."""

    def offer(self, notice: LogoutNotice) -> bool:
        """False: there are too many, and it was dropped."""


def nothing_withdrawn() -> frozenset[Label]:
    """No place's token keys are withdrawn."""
    return frozenset()


def any_place() -> None:
    """Every place that the journal names counts."""


@dataclass(frozen=True, slots=True)
class OpParts:
    """What the endpoints work with. ``randomness(n)`` gives n unpredictable bytes."""

    settings: OpSettings
    store: StatusStore
    tickets: Tickets
    delegates: Delegates
    authority: AuthorityNow
    clock: Clock
    randomness: Callable[[int], bytes]
    logouts: LogoutSink
    withdrawn: Callable[[], frozenset[Label]] = nothing_withdrawn
    """Places whose token keys no longer count: home's, once it is in other hands."""
    places: Callable[[], frozenset[Label] | None] = any_place
    """Places that there are, as the charter has them: another one's keys do not count, whatever an entry of the journal
    says. None: no site has been read yet."""

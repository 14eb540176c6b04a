"""``identity.toml`` and ``place.toml``: what identity services are called, and what one place is. Page:
``docs/spec/identity-config.md``.

``identity.toml`` is the same at every place: it travels in the journal. ``place.toml`` is of one place and stays there.
"""

from __future__ import annotations

import re
from typing import Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from exclave.errors import ConfigError, MalformedError
from exclave.formats.toml import read_toml
from exclave.ids import parse_fingerprint, parse_label, parse_register_id

MAX_CONFIG_BYTES = 256 << 10
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.(?!-)[a-z0-9-]{1,63})*\Z")
_LISTEN = re.compile(r"(unix:/\S{1,100}|(\[[0-9a-f:]+\]|[0-9a-z.-]+):[0-9]{1,5})\Z")
LANGUAGES = ("et", "en", "ar")
MAX_LEASE_S = 7 * 86400
MIN_WAIT_S, MAX_WAIT_S = 0.1, 3600.0
MAX_VERIFY_S = 6.0
"""Half of what home waits for before it decides again: by then, whoever decided until then has read the sites."""
MAX_WORKERS, MAX_PORT = 64, 65_535
_WORDS = {
    "kind": ("crl", "delta-crl", "index-txt", "csv", "push"),
    "role": ("home", "embassy"),
    "passkey_acr": ("low", "substantial", "high"),
}
"""Of settings that are one of a few words."""
_Config = TypeVar("_Config")


class IdentityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``identity.toml``"""

    issuer: str
    """URL of the OpenID provider, as every relying service has it in its configuration. It never changes."""
    state_name: dict[str, str] = {}
    """By language: what citizens read at the top of the pages."""
    card_origin: str = ""
    """Where TLS client certificates are asked for, another host name or port than the issuer's; empty: not offered."""
    aia_hosts: tuple[str, ...] = ()
    """Host names in certificates under which the status of certificates is asked."""
    languages: tuple[str, ...] = LANGUAGES
    rp_id: str = ""
    """WebAuthn's relying party id; empty: the issuer's host."""
    secure_cookies: bool = True
    """False only where everything is on one machine without TLS."""
    passkey_acr: Literal["low", "substantial", "high"] = "substantial"
    say_exile: bool = False
    """In exile the log-in pages say so."""
    drop_home_keys: bool = True
    """In exile home's token keys leave the JWK set: who took home may have them."""
    status_lasts_s: int = 43_200
    """From thisUpdate to nextUpdate, at most."""
    disallowed_policies: tuple[str, ...] = ()
    """Certificate policies (OIDs) that may not log in."""

    @property
    def host(self) -> str:
        """The issuer's host name."""
        return urlsplit(self.issuer).hostname or ""


class SiteRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[site]]`` of a place."""

    name: str
    url: str


class EmbassyRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[embassy]]``: a place that stands by; the feed is sealed to its machine's card."""

    place: str
    card: str
    """File, relative to the folder."""


class SourceRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[source]]``: where the status of an issuing CA's certificates comes from. Home only."""

    issuer: str
    """Label of the CA."""
    certificate: str
    """File with its certificate, relative to the folder."""
    kind: Literal["crl", "delta-crl", "index-txt", "csv", "push"]
    path: str = ""
    """File or drop folder."""
    url: str = ""


class SenderRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[sender]]``: CA software that may push changes of an issuer. Home, and an embassy that took over."""

    name: str
    issuer: str
    key: str
    """File with its public key (PEM), relative to the folder."""


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[serve]``"""

    status: str = "127.0.0.1:8421"
    """Where certificate status is answered: plain HTTP, as AIA addresses are."""
    login: str = "127.0.0.1:8422"
    """Where the OpenID provider and the log-in pages listen: behind a web server with TLS."""
    card_socket: str = ""
    """``unix:/path``: where that web server hands over TLS client certificates; empty: not offered."""
    state: str = ""
    """A PostgreSQL connection string where several processes run side by side; empty: SQLite in the folder."""
    workers: int = 1


class PlaceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``place.toml``"""

    place: str
    role: Literal["home", "embassy"]
    fingerprint: str
    register: str
    """Id of the identity register."""
    key: str
    """This place's key file, relative to the folder: home's writer key, an embassy's machine key."""
    site: tuple[SiteRef, ...]
    serve: ServeConfig = ServeConfig()
    embassy: tuple[EmbassyRef, ...] = ()
    source: tuple[SourceRef, ...] = ()
    sender: tuple[SenderRef, ...] = ()
    tls_certificate: str = ""
    """File with the certificate chain for the issuer's host at this place, relative to the folder."""
    tls_key: str = ""
    """File with its key; empty: only the certificate is watched."""
    home_jwks: str = ""
    """Address of home's JWK set; an embassy checks that its keys stand in it."""
    poll_s: float = 1.0
    """Time between two looks at the feed, or two pushes to it."""
    verify_s: float = 5.0
    """Time between two readings of who has the authority."""
    lease_s: int = 86_400
    """So long home goes on when no site can be read."""


def parse_identity_config(data: bytes) -> IdentityConfig:
    """Strict. Raises ``ConfigError`` saying where."""
    config = _parse(data, IdentityConfig, "identity.toml")
    parts = _parts(config.issuer)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme not in ("https", "http") or (parts.scheme == "http" and not local and config.secure_cookies):
        raise _wrong("identity.toml", "the issuer must be an https address")
    if not parts.hostname or parts.query or parts.fragment or parts.username or config.issuer.endswith("/"):
        raise _wrong("identity.toml", "the issuer is an address without user, query, fragment or final slash")
    for host in (*config.aia_hosts, *([config.rp_id] if config.rp_id else ())):
        if not _HOST.match(host) or len(host) > 253:
            raise _wrong("identity.toml", f"{host[:60]!r} is not a host name")
    unknown = [language for language in config.languages if language not in LANGUAGES]
    if unknown or not config.languages:
        raise _wrong("identity.toml", f"the languages are {', '.join(LANGUAGES)}, not {', '.join(unknown)}")
    if not 60 <= config.status_lasts_s <= 30 * 86400:
        raise _wrong("identity.toml", "status_lasts_s is between a minute and 30 days")
    return config


def parse_place_config(data: bytes) -> PlaceConfig:
    """Strict. Raises ``ConfigError`` saying where."""
    config = _parse(data, PlaceConfig, "place.toml")
    try:
        parse_label(config.place)
        parse_fingerprint(config.fingerprint)
        parse_register_id(config.register)
        for name in (*(s.name for s in config.site), *(e.place for e in config.embassy)):
            parse_label(name)
    except MalformedError as error:
        raise _wrong("place.toml", error.message) from error
    if (config.place == "home") != (config.role == "home"):
        raise _wrong("place.toml", "home, and no other place, is called home: its token keys are dropped by that name")
    serve = config.serve
    for listen in (serve.status, serve.login, *([serve.card_socket] if serve.card_socket else ())):
        port = "" if listen.startswith("unix:") else listen.rpartition(":")[2]
        if not _LISTEN.match(listen) or int(port or 0) > MAX_PORT:
            raise _wrong("place.toml", f"{listen[:60]!r} is neither address:port nor unix:/path")
    if not 1 <= serve.workers <= MAX_WORKERS:
        raise _wrong("place.toml", f"serve.workers is between 1 and {MAX_WORKERS}")
    if not config.site:
        raise _wrong("place.toml", "at least one [[site]] is needed")
    waits = MIN_WAIT_S <= config.poll_s <= MAX_WAIT_S and MIN_WAIT_S <= config.verify_s <= MAX_VERIFY_S
    if not waits or not 1 <= config.lease_s <= MAX_LEASE_S:
        raise _wrong(
            "place.toml", "poll_s is between 0.1 s and 1 h, verify_s of 0.1 to 6 s, lease_s between 1 s and 7 days"
        )
    if config.role == "embassy" and config.source:
        raise _wrong("place.toml", "an embassy has no sources of its own; what home knows comes with the feed")
    return config


def _parts(issuer: str) -> SplitResult:
    try:
        parts = urlsplit(issuer)
        if parts.port == 0:
            raise _wrong("identity.toml", "the issuer's port is not 0")
    except ValueError as error:
        raise _wrong("identity.toml", f"the issuer is no address: {error}") from error
    return parts


def _parse(data: bytes, kind: type[_Config], name: str) -> _Config:
    return read_toml(data, kind, name=name, limit=MAX_CONFIG_BYTES, hint=_hint(name), words=_WORDS)


def _wrong(name: str, what: str) -> ConfigError:
    return ConfigError(f"{name}: {what}", hint=_hint(name))


def _hint(name: str) -> str:
    return f"Correct {name} and run the command again; nothing was changed."

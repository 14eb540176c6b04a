"""``[watch]``: how deep ``exclave watch`` looks, how often, and whom it tells. Page: ``docs/spec/config.md``.

Stands in ``exclave.toml``, or in a file of its own where a watch runs that is not home.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from exclave.errors import ConfigError, MalformedError
from exclave.formats.toml import read_toml
from exclave.ids import parse_moment

MAX_WATCH_BYTES = 1 << 20
MAX_SECONDS = 366 * 86400
MAX_CHANNELS = 20
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_ADDRESS = re.compile(r"[^\s@<>,;:\"\\]{1,64}@[A-Za-z0-9.-]{1,190}\Z")


class WebhookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[watch.webhook]]``"""

    url: str
    secret_file: str = ""
    """Private file with at least 16 bytes; the message is signed with it (HMAC-SHA-256)."""
    bearer_file: str = ""
    """Private file with a token, sent as ``Authorization: Bearer``."""
    authorities: str = ""
    """PEM file of certificates to trust instead of the system's."""


class MailConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[watch.mail]]``"""

    server: str
    """``host:port``"""
    sender: str
    to: tuple[str, ...]
    tls: Literal["starttls", "tls", "none"] = "starttls"
    """``none`` for a server on this machine alone."""
    user: str = ""
    password_file: str = ""
    authorities: str = ""


class PauseConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[watch.pause]]``"""

    register: str
    """Name or id."""
    until: str
    """``2026-11-28T06:00Z``; a pause without an end would be an alarm that nobody misses."""
    reason: str


class WatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[watch]``"""

    every_s: int = 60
    proof_s: int = 86_400
    """So long stays proven what was proven at a site."""
    sample: int = 4
    """Packs of each new version that are read whole at each site."""
    state_s: int = 300
    """So long charters and epochs are not read again while all is well."""
    patience_s: int = 300
    """A site may be silent for so long, or half of a register's RPO, before it is an alarm."""
    repeat_s: int = 14_400
    """An alarm is told again after so long."""
    heartbeat_url: str = ""
    """Told after each look, whatever it found: something else must notice when it stops."""
    webhook: tuple[WebhookConfig, ...] = ()
    mail: tuple[MailConfig, ...] = ()
    pause: tuple[PauseConfig, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    watch: WatchConfig


def parse_watch_config(data: bytes) -> WatchConfig:
    """A file that holds nothing but ``[watch]``. Raises ``ConfigError``."""
    config = read_toml(data, _File, name="a watch's configuration", limit=MAX_WATCH_BYTES).watch
    check_watch(config)
    return config


def check_watch(config: WatchConfig) -> None:
    """``ConfigError`` for what cannot work or would give a secret away."""
    for name in ("every_s", "proof_s", "state_s", "repeat_s"):
        if not 1 <= getattr(config, name) <= MAX_SECONDS:
            raise ConfigError(f"watch.{name} must be 1 to {MAX_SECONDS}")
    if not 0 <= config.patience_s <= MAX_SECONDS or not 0 <= config.sample <= 10_000:
        raise ConfigError("watch.patience_s and watch.sample cannot be negative or huge")
    if len(config.webhook) + len(config.mail) > MAX_CHANNELS:
        raise ConfigError(f"a watch tells at most {MAX_CHANNELS} webhooks and mail servers")
    if config.heartbeat_url:
        _check_url("watch.heartbeat_url", config.heartbeat_url)
    for hook in config.webhook:
        host, plain = _check_url("watch.webhook.url", hook.url)
        if not hook.secret_file and not hook.bearer_file:
            raise ConfigError(f"watch.webhook {host}: name a secret_file or a bearer_file: anybody could send alarms")
        if hook.bearer_file and plain and host not in _LOOPBACK:
            raise ConfigError(f"watch.webhook {host}: a bearer token would be readable on its way; use https://")
    for mail in config.mail:
        _check_mail(mail)
    for pause in config.pause:
        try:
            parse_moment(pause.until)
        except MalformedError as error:
            raise ConfigError(f"watch.pause of {pause.register}: {error.message}") from error
        if not pause.reason.strip():
            raise ConfigError(f"watch.pause of {pause.register}: say the reason")


def _check_url(what: str, url: str) -> tuple[str, bool]:
    """Host, and whether the way there can be read by others."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise ConfigError(f"{what} is not a URL") from error
    if parts.scheme not in ("http", "https") or not host or parts.username or not url.isascii() or " " in url:
        raise ConfigError(f"{what} must be http://host/… or https://host/…, without a name in it")
    return host, parts.scheme == "http"


def _check_mail(mail: MailConfig) -> None:
    host, port = server_of(mail)
    for address in (mail.sender, *mail.to):
        if not _ADDRESS.match(address):
            raise ConfigError(f"watch.mail: {address[:80]!r} is no mail address")
    if not mail.to:
        raise ConfigError("watch.mail: `to` is empty")
    if mail.tls == "none" and host not in _LOOPBACK:
        raise ConfigError(f"watch.mail: {host}:{port} is not on this machine, so tls cannot be 'none'")
    if bool(mail.user) != bool(mail.password_file):
        raise ConfigError("watch.mail: user and password_file belong together")


def server_of(mail: MailConfig) -> tuple[str, int]:
    """Host and port of ``mail.server``."""
    host, colon, port = mail.server.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"watch.mail.server must be host:port, not {mail.server[:80]!r}")
    return host.strip("[]"), int(port)

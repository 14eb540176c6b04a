"""nginx in front of a reading room: its configuration as text. Static pages are its own; only searches go to us.

Page: docs/spec/reading-room.md. Every address that is answered stands here; whatever else lies in the room's folder has
none. Searches are limited before they reach us, and cannot take a static page's place: their connections are counted
for themselves.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from exclave.errors import ConfigError
from exclave.serve.reading_admission import Limits
from exclave.serve.reading_pages import DOCUMENT_CSP, PAGE_CSP, STATUS_CSP

_PATH = re.compile(r"/[A-Za-z0-9._/-]{1,200}\Z")
_LISTEN = re.compile(r"(\[[0-9a-f:]+\]|[0-9.]+):[0-9]{1,5}\Z")
_HINT = "Correct the option; nothing was started."
ACT = "(?:[0-9A-Za-z][0-9A-Za-z_-]*/)*[0-9A-Za-z][0-9A-Za-z_-]*"


@dataclass(frozen=True, slots=True)
class StaticLimits:
    """Of pages and documents, each client and network; a browser that opens an act asks four times."""

    client_per_s: int = 40
    client_burst: int = 200
    network_per_s: int = 400
    network_burst: int = 2000
    client_connections: int = 40
    network_connections: int = 400


@dataclass(frozen=True, slots=True)
class RoomSettings:
    """``ConfigError`` for what would be another directive in nginx's eyes."""

    folder: str
    listen: str
    """``address:port``."""
    certificate: str = ""
    """File with the certificate chain (PEM); empty: no TLS."""
    key: str = ""
    behind: tuple[str, ...] = ()
    """Networks of the proxies or of the CDN whose ``X-Forwarded-For`` is believed."""
    workers: int = 0
    """0: one for each processor."""
    limits: Limits = field(default_factory=Limits)
    static: StaticLimits | None = field(default_factory=StaticLimits)
    """None: no limits but those of searches, for a room that only a CDN can reach."""

    def __post_init__(self) -> None:
        for path in (self.folder, *((self.certificate, self.key) if self.certificate or self.key else ())):
            if not _PATH.match(path):
                raise ConfigError(f"{path[:60]!r} is no absolute path of plain characters", hint=_HINT)
        if not _LISTEN.match(self.listen):
            raise ConfigError(f"{self.listen[:60]!r} is not address:port", hint=_HINT)
        for network in self.behind:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(f"{network[:60]!r} is no network like 192.0.2.0/24", hint=_HINT) from error


def nginx_config(settings: RoomSettings, *, root: bool) -> str:
    """A whole ``nginx.conf`` for the foreground. ``root``: it is started by root, and its workers stay so."""
    templates = Environment(
        loader=PackageLoader("exclave.serve", "pages/reading"), autoescape=False, undefined=StrictUndefined,  # noqa: S701 - no HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return templates.get_template("nginx.conf.j2").render(
        s=settings, root=root, page_csp=PAGE_CSP, status_csp=STATUS_CSP, document_csp=DOCUMENT_CSP, act=ACT,
        search=settings.limits, static=settings.static, per_minute=lambda rate: max(1, round(rate * 60)),
    )  # fmt: skip

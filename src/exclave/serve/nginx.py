"""nginx in front of the log-in pages and of the door for TLS client certificates: its configuration as text.

Page: docs/spec/login.md. TLS is nginx's; so is the proof, in each handshake, that the card's key was used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from exclave.errors import ConfigError
from exclave.identity.tls_card import CERTIFICATE_HEADER
from exclave.identity.webeid import check_origin
from exclave.serve.card_door import DOOR_PATH

_PATH = re.compile(r"/[A-Za-z0-9._/-]{1,200}\Z")
_LISTEN = re.compile(r"(\[[0-9a-f:]+\]:|[0-9.]+:)?[0-9]{1,5}\Z")
_BACKEND = re.compile(r"(unix:/[A-Za-z0-9._/-]{1,100}|(\[[0-9a-f:]+\]|[0-9.]+):[0-9]{1,5})\Z")

_HINT = "Correct the option, or what place.toml and identity.toml say; nothing was written."


@dataclass(frozen=True, slots=True)
class NginxSettings:
    """``ConfigError`` for what would be another directive in nginx's eyes."""

    origin: str
    """Of the pages: ``https://login.example``."""
    card_origin: str
    """Of the door: another host name or port."""
    listen: str
    """``443``, or ``address:port``."""
    card_listen: str
    certificate: str
    """File with the certificate chain of both names (PEM)."""
    key: str
    issuers: str
    """File with the issuing CAs' certificates (PEM): browsers offer cards of these only."""
    login_backend: str
    """Where the pages listen: ``unix:/path`` or ``address:port``."""
    door_socket: str
    """Where the door listens: ``unix:/path``, in a folder that nginx's user alone may enter."""

    def __post_init__(self) -> None:
        check_origin(self.origin)
        check_origin(self.card_origin)
        if self.origin == self.card_origin:
            raise ConfigError("the door needs a host name or port of its own", hint=_HINT)
        for path in (self.certificate, self.key, self.issuers):
            if not _PATH.match(path):
                raise ConfigError(f"{path[:60]!r} is no absolute path of plain characters", hint=_HINT)
        for listen in (self.listen, self.card_listen):
            if not _LISTEN.match(listen):
                raise ConfigError(f"{listen[:60]!r} is neither a port nor address:port", hint=_HINT)
        if not _BACKEND.match(self.login_backend):
            raise ConfigError(f"{self.login_backend[:60]!r} is neither unix:/path nor address:port", hint=_HINT)
        if not _BACKEND.match(self.door_socket) or not self.door_socket.startswith("unix:"):
            raise ConfigError(
                "the door listens at a Unix socket only: anybody could send its header over a network", hint=_HINT
            )


def nginx_config(settings: NginxSettings) -> str:
    """For the ``http`` block, as a file in ``conf.d``."""
    templates = Environment(
        loader=PackageLoader("exclave.serve", "pages"), autoescape=False, undefined=StrictUndefined,  # noqa: S701 - no HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return templates.get_template("nginx.conf.j2").render(
        s=settings,
        host=urlsplit(settings.origin).hostname,
        card_host=urlsplit(settings.card_origin).hostname,
        header=CERTIFICATE_HEADER,
        door=DOOR_PATH,
    )

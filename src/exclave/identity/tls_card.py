"""Log-in by TLS client certificate: what nginx tells of a handshake, and how it reaches the waiting log-in.

Page: docs/spec/login.md. The handshake is nginx's, and so is the proof that the card's key was used; the certificate is
verified here like any other. The door (``serve/card_door.py``) listens at a Unix socket that nginx alone can open, at a
name of its own, so a browser's cookies for the log-in pages do not reach it. It leaves what it saw under a random name
that only this browser is given; the log-in pages take it up and check that the log-in is this browser's. Whoever lures
a citizen to the door with his own log-in never learns that name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from exclave.crypto.certificates import MAX_CITIZEN_BYTES
from exclave.errors import MalformedError, NotAuthorised
from exclave.identity.contract import Tickets
from exclave.ids import Instant, parse_b64

CERTIFICATE_HEADER = "x-exclave-client-cert"
"""Set by nginx from ``$ssl_client_escaped_cert``; it leaves an empty one out."""
HANDOVER_S = 60
INTERACTION = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
"""How the id of a log-in looks; the door cannot look it up."""

_KIND = "card-door"
_MAX_HEADER = 24 << 10
_ESCAPED = re.compile(r"(?:[A-Za-z0-9+/=_.~-]|%[0-9A-Fa-f]{2})+\Z")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----\r?\n?\Z")


def client_certificate(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The DER certificate that nginx put into a request's raw ``headers``.

    One such header at most, and none whose name differs by case or underscores only: two of a name mean that somebody's
    own header came through. ``NotAuthorised`` if no certificate was shown, ``MalformedError`` for the rest.
    """
    name = CERTIFICATE_HEADER.encode()
    alike = [(key, value) for key, value in headers if key.lower().replace(b"_", b"-") == name]
    if len(alike) > 1 or any(key != name for key, _ in alike):
        raise MalformedError("the request does not come from nginx as it is set up", reason="header")
    value = alike[0][1] if alike else b""
    if not value:
        raise NotAuthorised("the browser showed no certificate", reason="no-certificate")
    if len(value) > _MAX_HEADER or not _ESCAPED.match(value.decode("latin-1")):
        raise MalformedError("the client certificate is not an escaped PEM text", reason="header")
    match = _PEM.match(unquote_to_bytes(value))
    if match is None:
        raise MalformedError("the client certificate is not one PEM text", reason="header")
    try:
        return parse_b64(match[1].decode("ascii").replace("\r", "").replace("\n", ""), limit=MAX_CITIZEN_BYTES)
    except MalformedError as error:
        raise MalformedError("the client certificate is not base64", reason="header") from error


@dataclass(frozen=True, slots=True)
class Handover:
    """From the door to the log-in pages. ``randomness(n)`` gives n unpredictable bytes."""

    tickets: Tickets
    randomness: Callable[[int], bytes]

    def leave(self, interaction: str, certificate: bytes, *, now: Instant) -> str:
        """Keeps that ``certificate`` was shown for ``interaction``; the name to fetch it by, 64 hex digits."""
        if not INTERACTION.match(interaction):
            raise NotAuthorised("this is no log-in's id", reason="interaction")
        name = self.randomness(32).hex()
        value = interaction.encode("ascii") + b"\0" + certificate
        self.tickets.put(_KIND, _hidden(name), value, Instant(now + HANDOVER_S * 1_000_000))
        return name

    def fetch(self, name: str, interaction: str, *, now: Instant) -> bytes:
        """The certificate that was shown for ``interaction``, once. The caller has established that the log-in belongs
        to the browser that asks. ``NotAuthorised`` for another name or log-in."""
        found = self.tickets.take(_KIND, _hidden(name), now=now)
        left, _, certificate = (found or b"").partition(b"\0")
        if found is None or left != interaction.encode("utf-8", "surrogatepass"):
            raise NotAuthorised("no card was shown for this log-in, or too long ago", reason="challenge")
        return certificate


def _hidden(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()

"""A relying service: who may ask the state's log-in service for people's identities, and how. JSON.

Page: ``docs/spec/relying.md``. It lies in the identity journal, so an embassy knows every client that home knows, and a
secret that was changed at home is changed abroad seconds later.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from exclave.errors import MalformedError

MAX_SERVICE_BYTES = 64 << 10
_CLIENT_ID = re.compile(r"[A-Za-z0-9._~-]{1,255}\Z")


class RelyingService(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One client of the OpenID provider."""

    client_id: str
    name: dict[str, str]
    """By language tag (``et``, ``en``, …): what a citizen reads on the log-in page."""
    redirect_uris: tuple[str, ...]
    """Compared as exact strings (RFC 9700, section 2.1)."""
    secret_sha256: tuple[str, ...] = ()
    """Hex SHA-256 of each secret that is good now (two while one is being changed). Secrets are random, 32 bytes or
    more, so a plain hash is enough; the secret itself is kept by the client alone."""
    jwks: str = ""
    """JSON of the client's JWK set, for ``private_key_jwt``; never a URL, which could not be fetched in exile."""
    auth_methods: tuple[Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"], ...] = (
        "client_secret_basic",
    )
    """``none``: a public client, which must use PKCE."""
    scopes: tuple[str, ...] = ("openid",)
    acr: Literal["low", "substantial", "high"] = "substantial"
    """The least level of assurance that is asked for when the request names none."""
    require_pkce: bool = False
    require_par: bool = False
    signing_alg: Literal["RS256", "ES256"] = "RS256"
    post_logout_redirect_uris: tuple[str, ...] = ()
    backchannel_logout_uri: str = ""
    addresses: tuple[str, ...] = ()
    """Networks (``192.0.2.0/24``) that may call the token endpoint; empty: any."""
    status_policy: Literal["fail-closed", "grace", "fail-open"] = "fail-closed"
    """What happens where a certificate's status is older than ``status_max_age_s``."""
    status_max_age_s: int = 900
    grace_s: int = 0
    quirks: tuple[Literal["tara-at-hash"], ...] = ()
    """``tara-at-hash``: at_hash in standard base64 instead of base64url, as Estonia's TARA writes it."""
    enabled: bool = True


def encode_service(service: RelyingService) -> bytes:
    """Its one JSON form. ``MalformedError`` for one that ``parse_service`` would refuse."""
    _check(service)
    return msgspec.json.encode(service, order="sorted")


def parse_service(data: bytes) -> RelyingService:
    """Strict inverse of ``encode_service``. Raises ``MalformedError``."""
    if len(data) > MAX_SERVICE_BYTES:
        raise MalformedError(f"a relying service takes more than {MAX_SERVICE_BYTES} bytes")
    try:
        service = msgspec.json.decode(data, type=RelyingService)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedError(f"not a relying service: {error}") from error
    if encode_service(service) != data:
        raise MalformedError("a relying service is not in its one canonical form")
    return service


def _check(service: RelyingService) -> None:
    if not _CLIENT_ID.match(service.client_id):
        raise MalformedError("a client id has 1 to 255 of A-Z a-z 0-9 . _ ~ -")

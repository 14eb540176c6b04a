"""A relying service: who may ask the state's log-in service for people's identities, and how. JSON.

Page: ``docs/spec/relying.md``. It lies in the identity journal, so an embassy knows every client that home knows, and a
secret that was changed at home is changed abroad seconds later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_network
from itertools import chain
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

from exclave.errors import MalformedError

MAX_SERVICE_BYTES = 64 << 10
MAX_URI_CHARS = 2048
MAX_URIS = 50
MAX_SECRETS = 5
MAX_NETWORKS = 200
MAX_NAME_CHARS = 200
MAX_AGE_S = 31_536_000
_CLIENT_ID = re.compile(r"[A-Za-z0-9._~-]{1,255}\Z")
_URI = re.compile(r"[A-Za-z0-9:/?\[\]@!$&'()*+,;=._~%-]+\Z")
_HOST = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")
_PRIVATE_SCHEME = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9-]+)+\Z")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_LANGUAGE = re.compile(r"[a-z]{2,3}\Z")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,100}\Z")
_SECRET = re.compile(r"[0-9a-f]{64}\Z")
_OURS = frozenset({"code", "state", "iss", "error", "error_description", "id_token", "access_token", "response"})
"""Parameters of an answer, which a redirect URI must not bring along (mix-up, response splitting)."""
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


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
    check_service(service)
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


def check_service(service: RelyingService) -> None:
    """Everything that may be wrong with a relying service by itself. ``MalformedError`` says what and where."""
    if not _CLIENT_ID.match(service.client_id):
        raise MalformedError("a client id has 1 to 255 of A-Z a-z 0-9 . _ ~ -")
    _check_name(service.name)
    _check_authentication(service)
    public = "none" in service.auth_methods
    if not 1 <= len(service.redirect_uris) <= MAX_URIS or len(service.post_logout_redirect_uris) > MAX_URIS:
        raise MalformedError(
            f"a relying service has 1 to {MAX_URIS} redirect URIs, and as many for logging out at most"
        )
    for uri in chain(service.redirect_uris, service.post_logout_redirect_uris):
        check_redirect_uri(uri, public=public)
    if service.backchannel_logout_uri:
        check_redirect_uri(service.backchannel_logout_uri, public=False)
    if "openid" not in service.scopes or not all(map(_SCOPE.match, service.scopes)):
        raise MalformedError("a relying service's scopes are words, and openid is one of them")
    if any(_repeats(listed) for listed in (service.redirect_uris, service.scopes, service.addresses, service.quirks)):
        raise MalformedError("a relying service names something twice")
    if len(service.addresses) > MAX_NETWORKS:
        raise MalformedError(f"a relying service calls from at most {MAX_NETWORKS} networks")
    for network in service.addresses:
        _check_network(network)
    if not 1 <= service.status_max_age_s <= MAX_AGE_S or not 0 <= service.grace_s <= MAX_AGE_S:
        raise MalformedError(
            "a relying service accepts a status of 1 second to 365 days, and a grace of as much at most"
        )


def check_redirect_uri(uri: str, *, public: bool) -> None:
    """``MalformedError`` unless ``uri`` is absolute and ``https``, or ``http`` on loopback, or for a ``public`` client
    of a private-use scheme with a dot in it (RFC 8252, section 7.1).

    It has no fragment, user name or wildcard, no ``..``, and no parameter that belongs to an answer. Hosts are written
    in small letters, those beyond ASCII as ``xn--``: what is compared byte by byte must have one form.
    """
    shown = uri[:80]
    where = _split(uri)
    if len(uri) > MAX_URI_CHARS or not _URI.match(uri) or where is None or re.search(r"%(?![0-9A-F]{2})", uri):
        raise MalformedError(f"not a redirect URI (an absolute URI in ASCII, without fragment): {shown!r}")
    if "@" in where.netloc or "*" in where.netloc or {"..", "."} & set(where.path.split("/")):
        raise MalformedError(f"a redirect URI has no user name, no wildcard and no dots for folders: {shown!r}")
    if _OURS & {name for name, _ in parse_qsl(where.query, keep_blank_values=True)}:
        raise MalformedError(f"a redirect URI has a parameter that belongs to the answer: {shown!r}")
    if where.scheme in ("http", "https"):
        host = where.hostname or ""
        if where.netloc != where.netloc.lower() or not (host == "::1" or _HOST.match(host)):
            raise MalformedError(f"a redirect URI names a host in small ASCII letters: {shown!r}")
        if where.scheme == "http" and host not in _LOOPBACK:
            raise MalformedError(f"a redirect URI is https; http is for loopback alone: {shown!r}")
    elif not public or not _PRIVATE_SCHEME.match(where.scheme) or not where.path.startswith("/"):
        raise MalformedError(f"another scheme is for public clients, as com.example.app:/cb, and not {shown!r}")


def _split(uri: str) -> SplitResult | None:
    """None for what is not absolute or has an impossible port. The scheme is taken as it is written."""
    try:
        where = urlsplit(uri)
        port = where.port
    except ValueError:
        return None
    absolute = bool(where.scheme) and uri.startswith(f"{where.scheme}:") and port != 0
    return where if absolute and not where.fragment and (where.netloc or where.path) else None


def _check_name(name: dict[str, str]) -> None:
    if not 1 <= len(name) <= 20 or not all(map(_LANGUAGE.match, name)):
        raise MalformedError("a relying service has a name in 1 to 20 languages, each by its tag (et, en)")
    if not all(1 <= len(text) <= MAX_NAME_CHARS and text.isprintable() for text in name.values()):
        raise MalformedError(f"a relying service's name has 1 to {MAX_NAME_CHARS} printable characters")


def _check_authentication(service: RelyingService) -> None:
    methods = service.auth_methods
    if not methods or _repeats(methods) or ("none" in methods and len(methods) > 1):
        raise MalformedError("a relying service has one or more ways to authenticate, each once, or none alone")
    if len(service.secret_sha256) > MAX_SECRETS or not all(map(_SECRET.match, service.secret_sha256)):
        raise MalformedError(f"a relying service has at most {MAX_SECRETS} secrets, each as the hex of its SHA-256")
    if "private_key_jwt" in methods and not service.jwks:
        raise MalformedError("a relying service that signs assertions (private_key_jwt) needs a jwks")
    if service.jwks:
        _check_jwks(service.jwks)


def _check_jwks(text: str) -> None:
    """Its outer form; whether each key is good is found where it is used (``crypto/jose.py``)."""
    try:
        held = msgspec.json.decode(text, type=dict[str, list[dict[str, object]]])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedError("a relying service's jwks is not a JWK set (RFC 7517)") from error
    if set(held) != {"keys"} or not 1 <= len(held["keys"]) <= 32:
        raise MalformedError("a relying service's jwks has 1 to 32 keys and nothing beside them")
    for jwk in held["keys"]:
        if jwk.get("kty") not in ("RSA", "EC") or not _PRIVATE_MEMBERS.isdisjoint(jwk):
            raise MalformedError("a relying service's jwks has public RSA and EC keys only; a private one was shown")


def _check_network(text: str) -> None:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise MalformedError(f"not a network (192.0.2.0/24, 2001:db8::/32): {text[:60]!r}") from error
    if str(network) != text:
        raise MalformedError(f"a network is written as {network}")


def _repeats(listed: Iterable[str]) -> bool:
    seen = list(listed)
    return len(set(seen)) != len(seen)

"""Requests and answers as values, and the strict reading of what browsers and clients send."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

import msgspec

from exclave.errors import MalformedError

MAX_QUERY_BYTES = 16 << 10
MAX_BODY_BYTES = 32 << 10
MAX_PARAMETERS = 64
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BROWSER = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_JSON = msgspec.json.Encoder()

Headers = tuple[tuple[str, str], ...]
_PRIVATE: Headers = (
    ("cache-control", "no-store"),
    ("pragma", "no-cache"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, as far as a provider looks at it."""

    method: str
    query: bytes = b""
    body: bytes = b""
    content_type: str = ""
    authorization: tuple[str, ...] = ()
    """Every Authorization header: more than one is refused."""
    cookies: tuple[str, ...] = ()
    """Every Cookie header."""
    address: str = ""
    """Of the caller; empty if it is not known."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer."""

    status: int
    headers: Headers
    body: bytes


def json_reply(status: int, value: object, *more: tuple[str, str]) -> Reply:
    """Never cached."""
    return Reply(status, (("content-type", "application/json"), *_PRIVATE, *more), _JSON.encode(value))


def redirect(url: str, *more: tuple[str, str]) -> Reply:
    """303, so that no browser repeats a POST there (RFC 9700, section 4.12)."""
    return Reply(303, (("location", url), *_PRIVATE, *more), b"")


def page_reply(status: int, html: str, *more: tuple[str, str], form_to: str = "'none'") -> Reply:
    """A page without scripts that no other page may frame."""
    policy = f"default-src 'none'; style-src 'unsafe-inline'; form-action {form_to}; frame-ancestors 'none'"
    headers = (("content-type", "text/html; charset=utf-8"), ("content-security-policy", policy))
    return Reply(status, (*headers, *_PRIVATE, *more), html.encode("utf-8"))


def parse_parameters(data: bytes, *, limit: int) -> dict[str, str]:
    """``application/x-www-form-urlencoded`` as one value per name; parameters without a value are left out (RFC 6749,
    section 3.1). ``MalformedError`` if it is too long, not UTF-8, badly escaped, or names a parameter twice."""
    if not data:
        return {}
    if len(data) > limit:
        raise MalformedError("the request is too long")
    try:
        text = data.decode("ascii")
        if _BAD_ESCAPE.search(text):
            raise MalformedError("the request has a broken percent-escape")
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:
        raise MalformedError("the request's parameters cannot be read") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("the request names a parameter twice")
    return {name: value for name, value in found.items() if value}


def form_of(call: Call) -> dict[str, str]:
    """The form that was posted. ``MalformedError`` as ``parse_parameters``, and for another content type."""
    kind = call.content_type.partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise MalformedError("the request must be a form (application/x-www-form-urlencoded)")
    return parse_parameters(call.body, limit=MAX_BODY_BYTES)


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """``url`` and ``parameters`` in its query; it has no fragment, and its own query stays as it is."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(parameters)}"


def browser_of(cookies: tuple[str, ...], name: str) -> str:
    """The value of the cookie ``name``, 43 characters; empty if there is none, two of them, or another text."""
    found = [
        value.strip()
        for header in cookies
        for key, _, value in (piece.partition("=") for piece in header.split(";"))
        if key.strip() == name
    ]
    return found[0] if len(found) == 1 and _BROWSER.match(found[0]) else ""


def b64url(data: bytes) -> str:
    """base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def hashed(text: str) -> bytes:
    """What a secret name is kept under: a reader of the tickets cannot use it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

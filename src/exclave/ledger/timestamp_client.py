"""Asks a timestamp authority over HTTP (RFC 3161, section 3.4)."""

from __future__ import annotations

from exclave.crypto.timestamp import request_timestamp, verify_timestamp
from exclave.errors import SiteUnavailable
from exclave.formats.timestamp import MAX_TOKEN_BYTES, Authority
from exclave.ids import sha256
from exclave.sites.in_time import in_time

STEP_SECONDS = 10.0
"""Longest wait for a connection, and for each next piece of an answer."""
TOTAL_SECONDS = 30.0
"""Longest one request may take, however slowly it drips."""


def ask_timestamp(authority: Authority, message: bytes) -> bytes:
    """The authority's answer about ``message``, checked in all that a later reader checks, and for its nonce.

    ``SiteUnavailable`` if it does not answer or refuses, ``MalformedError``, ``NotAuthorised`` or ``CorruptObject`` if
    what it sends is not what the charter asks of it.
    """
    asked = request_timestamp(message)
    token = _post(authority, asked.data)
    verify_timestamp(token, sha256(message), root=authority.root, policy=authority.policy, nonce=asked.nonce)
    return token


def _post(authority: Authority, query: bytes) -> bytes:
    import httpx  # noqa: PLC0415 - takes a tenth of a second to load, and a state may have no authorities

    headers = {
        "Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply",
        "Accept-Encoding": "identity",
    }  # fmt: skip
    who = f"the timestamp authority {authority.label}"
    body = bytearray()

    def ask() -> bytes:
        try:
            with client.stream("POST", authority.url, content=query, headers=headers) as answer:
                if answer.status_code != 200:
                    raise SiteUnavailable(f"{who} answers {answer.status_code}")
                for piece in answer.iter_raw():
                    body.extend(piece)
                    if len(body) > MAX_TOKEN_BYTES:
                        raise SiteUnavailable(f"{who} sends too much")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SiteUnavailable(f"{who} does not answer: {error}") from error
        return bytes(body)

    with httpx.Client(trust_env=False, follow_redirects=False, timeout=STEP_SECONDS) as client:
        return in_time(TOTAL_SECONDS, ask, who)

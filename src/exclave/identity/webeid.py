"""Web eID authentication tokens: what a citizen's card signs in the browser, parsed and verified.

Page: docs/spec/login.md. The format is Web eID's ``web-eid:1``; a 1.x with fields that are not known here is accepted,
another major version is not. Pure; challenges are kept in ``identity/challenge.py``, status is judged in
``identity/card.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

from exclave.crypto.certificates import (
    DISALLOWED_POLICIES,
    MAX_CITIZEN_BYTES,
    PinnedIssuers,
    VerifiedCitizen,
    verify_citizen,
)
from exclave.crypto.jwa import ALGORITHMS, digest_of, verify_jwa
from exclave.errors import ConfigError, CorruptObject, MalformedError
from exclave.ids import Instant, parse_b64

MIN_TOKEN_BYTES, MAX_TOKEN_BYTES = 100, 10_000
MIN_NONCE_CHARACTERS = 44
"""Base64 of 32 bytes, the least that the protocol allows."""
_MAX_SIGNATURE_BYTES = 1024
_FORMAT = re.compile(r"web-eid:1(\.(0|[1-9][0-9]{0,2}))?\Z", re.ASCII)
_LOCAL = re.compile(r"http://(localhost|127\.0\.0\.1):[1-9][0-9]{0,4}\Z", re.ASCII)
_ORIGIN = re.compile(r"https://[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[1-9][0-9]{0,4})?\Z", re.ASCII)


class _Token(msgspec.Struct, rename="camel"):
    unverified_certificate: str
    algorithm: str
    signature: str
    format: str


@dataclass(frozen=True, slots=True)
class WebEidToken:
    """A token as the browser sent it: nothing in it is established."""

    certificate: bytes = field(repr=False)
    """DER."""
    algorithm: str
    """One of ``crypto.jwa.ALGORITHMS``."""
    signature: bytes = field(repr=False)
    """Raw: R || S for ECDSA."""


def check_origin(text: str) -> str:
    """``text``, if it is an origin as browsers write it: ``https://host[:port]``. ``ConfigError`` if not.

    Also ``http://localhost:port`` and ``http://127.0.0.1:port``, which browsers trust as much (at an address they have
    no passkeys). No path, no slash at the end, no capitals, no port 443: cards sign exactly what the browser has.
    """
    port = text.rpartition(":")[2] if text.count(":") > 1 else ""
    if not (_ORIGIN.match(text) or _LOCAL.match(text)) or port == "443" or int(port or 1) > 65535:
        raise ConfigError("the log-in service's origin must look like https://host or https://host:port")
    return text


def parse_token(data: bytes) -> WebEidToken:
    """The token in ``data`` (JSON, UTF-8). ``MalformedError``, reason ``token``, for anything else."""
    if not MIN_TOKEN_BYTES <= len(data) <= MAX_TOKEN_BYTES:
        raise MalformedError(f"a Web eID token has {MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES} bytes", reason="token")
    try:
        token = msgspec.json.decode(data, type=_Token)
        certificate = parse_b64(token.unverified_certificate, limit=MAX_CITIZEN_BYTES)
        signature = parse_b64(token.signature, limit=_MAX_SIGNATURE_BYTES)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, MalformedError) as error:
        # No detail: it could quote what the citizen sent.
        raise MalformedError("this is not a Web eID token", reason="token") from error
    if not _FORMAT.match(token.format):
        raise MalformedError("the Web eID token is not of version 1", reason="token-version")
    if token.algorithm not in ALGORITHMS:
        raise MalformedError("the Web eID token is signed by an unknown algorithm", reason="token")
    return WebEidToken(certificate, token.algorithm, signature)


def verify_token(
    token: WebEidToken, *, origin: str, nonce: str, issuers: PinnedIssuers, now: Instant,
    disallowed: frozenset[str] = DISALLOWED_POLICIES,
) -> VerifiedCitizen:  # fmt: skip
    """Who signed ``nonce`` (base64 text, as it was sent) for ``origin``.

    Establishes that one of ``issuers`` certified the key and that it signed this challenge for this origin. Whether
    the certificate has expired or was revoked is not judged here. ``MalformedError``, ``CorruptObject`` or
    ``NotAuthorised``, each with a ``reason``.
    """
    citizen = verify_citizen(token.certificate, issuers, now=now, disallowed=disallowed)
    if len(nonce) < MIN_NONCE_CHARACTERS:
        raise MalformedError("a challenge is shorter than 256 bits", reason="challenge")
    signed = digest_of(token.algorithm, origin.encode()) + digest_of(token.algorithm, nonce.encode())
    try:
        verify_jwa(token.algorithm, citizen.spki, token.signature, signed)
    except MalformedError as error:
        raise MalformedError(error.message, reason="algorithm") from error
    except CorruptObject as error:
        # Another origin or challenge cannot be told from a forged signature: the token names neither.
        raise CorruptObject(
            "the token's signature is not over this origin and challenge", reason="signature"
        ) from error
    return citizen

"""Timestamps of checkpoints (RFC 3161): whom a charter believes, where tokens lie. Page: ``docs/spec/timestamp.md``.

In a charter, after the quorum of witnesses, 0 … 8 lines, sorted by label::

    authority <label> any|<policy, an object identifier> <url> <base64 of the root certificate's DER>

A token stands beside the log whose checkpoint it is about, as the authority sent it (DER of a TimeStampResp)::

    <prefix>timestamp/<size>-<hash>     the checkpoint's size in 20 digits; the first 16 hex digits of its own SHA-256
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urlsplit

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader
from exclave.ids import Key, Label, b64, parse_b64, parse_label, sha256

MAX_AUTHORITIES = 8
MAX_ROOT_BYTES = 4096
"""Of a root certificate; its base64 fits into a line."""
MAX_TOKEN_BYTES = 32 << 10
MAX_URL_CHARS = 300
ANY = "any"
_POLICY = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,17})){1,30}\Z")
_TIMESTAMP = re.compile(r"([0-9]{20})-[0-9a-f]{16}\Z")


@dataclass(frozen=True, slots=True)
class Authority:
    """A timestamp authority, by the root that its certificate leads to."""

    label: Label
    policy: str | None
    """Object identifier of the only policy whose tokens count; None: any."""
    url: str
    root: bytes
    """DER of the root certificate."""

    def encode(self) -> str:
        """The charter's line."""
        return f"authority {self.label} {self.policy or ANY} {self.url} {b64(self.root)}\n"


def read_authorities(lines: LineReader) -> tuple[Authority, ...]:
    """The lines of a charter. Raises ``MalformedError``."""
    found: list[Authority] = []
    while lines.peek() == "authority" and len(found) <= MAX_AUTHORITIES:
        label, policy, url, root = lines.fields("authority", 4)
        found.append(
            Authority(
                parse_label(label), None if policy == ANY else parse_policy(policy), parse_authority_url(url),
                parse_b64(root, limit=MAX_ROOT_BYTES),
            )
        )  # fmt: skip
    if len(found) > MAX_AUTHORITIES:
        raise MalformedError(f"more than {MAX_AUTHORITIES} timestamp authorities")
    if any(a.label >= b.label for a, b in pairwise(found)):
        raise MalformedError("timestamp authorities must be sorted and different")
    return tuple(found)


def parse_policy(text: str) -> str:
    """An object identifier in its dotted form."""
    if not _POLICY.match(text):
        raise MalformedError(f"a timestamp policy looks like 1.2.3.4, not {text[:40]!r}")
    return text


def parse_authority_url(text: str) -> str:
    """An http or https address without user, query and fragment."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise MalformedError("a timestamp authority's address is not a URL") from error
    plain = text.isascii() and text.isprintable() and " " not in text and len(text) <= MAX_URL_CHARS
    if (
        not plain
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or "@" in parts.netloc
        or parts.fragment
    ):
        raise MalformedError(f"a timestamp authority's address looks like https://tsa.example/ts, not {text[:60]!r}")
    return text


def timestamp_prefix(prefix: str) -> str:
    """Where the tokens of the log below ``prefix`` are kept."""
    return f"{prefix}timestamp/"


def timestamp_key(prefix: str, size: int, token: bytes) -> Key:
    """Name of ``token``, which is about the checkpoint of ``size`` entries."""
    if not 0 <= size < 10**20:
        raise MalformedError("a timestamped checkpoint's size is outside of 0 to 10^20 - 1")
    return Key(f"{timestamp_prefix(prefix)}{size:020d}-{sha256(token).hex()[:16]}")


def timestamp_size(prefix: str, key: str) -> int | None:
    """The size that a token's name says; None if ``key`` is no such name."""
    match = _TIMESTAMP.match(key.removeprefix(timestamp_prefix(prefix)))
    return int(match[1]) if match else None

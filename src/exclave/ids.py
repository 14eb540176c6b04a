"""Distinct ids, instants and sizes, each with one strict text form.

Every ``parse_…`` accepts exactly the text that the matching value prints, and raises ``MalformedError`` for
anything else: other case, other digits, white space, leading zeros.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from datetime import UTC, datetime
from typing import NewType

from exclave.errors import MalformedError

Digest = NewType("Digest", bytes)
"""SHA-256, 32 bytes. Text: 64 lower-case hex digits."""

ChunkId = NewType("ChunkId", bytes)
"""Keyed BLAKE3 of a chunk's plaintext, 32 bytes; only ever inside sealed data."""

Fingerprint = NewType("Fingerprint", str)
"""SHA-256 of the text of the state's first charter, 64 hex digits: what a user pins, prints and compares."""

RegisterId = NewType("RegisterId", str)
"""Random, 32 hex digits: what hosts see instead of a register's name."""

Label = NewType("Label", str)
"""Name of a site, custodian, register, dataset or service: 1–40 of ``a-z 0-9 -``, starting with a letter."""

Country = NewType("Country", str)
"""ISO 3166-1 alpha-2, upper case."""

Epoch = NewType("Epoch", int)
"""1, 2, …: the period of one opening key and one writer of a register."""

Sequence = NewType("Sequence", int)
"""1, 2, …: number of a register's version, going on across epochs."""

Instant = NewType("Instant", int)
"""Microseconds since 1970-01-01T00:00:00Z, without leap seconds."""

Key = NewType("Key", str)
"""Name of an object at a site: segments of ``a-z 0-9 . - _`` joined by ``/``."""

_HEX = re.compile(r"[0-9a-f]+\Z")
_LABEL = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")
_COUNTRY = re.compile(r"[A-Z]{2}\Z")
_COUNT = re.compile(r"(0|[1-9][0-9]{0,18})\Z")
_KEY = re.compile(r"[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*\Z")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\Z")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_EPOCH_0 = datetime(1970, 1, 1, tzinfo=UTC)
MAX_KEY_LENGTH = 300


def _hex(text: str, digits: int, what: str) -> str:
    if len(text) != digits or not _HEX.match(text):
        raise MalformedError(f"{what} must be {digits} lower-case hex digits, not {text[:80]!r}")
    return text


def sha256(data: bytes | memoryview) -> Digest:
    """SHA-256 of ``data``."""
    return Digest(hashlib.sha256(data).digest())


def parse_digest(text: str) -> Digest:
    return Digest(bytes.fromhex(_hex(text, 64, "a SHA-256 digest")))


def parse_fingerprint(text: str) -> Fingerprint:
    return Fingerprint(_hex(text, 64, "a state's fingerprint"))


def parse_register_id(text: str) -> RegisterId:
    return RegisterId(_hex(text, 32, "a register id"))


def parse_label(text: str) -> Label:
    if not _LABEL.match(text):
        raise MalformedError(f"a name must be 1 to 40 of a-z, 0-9 and '-', starting with a letter, not {text[:80]!r}")
    return Label(text)


def parse_country(text: str) -> Country:
    if not _COUNTRY.match(text):
        raise MalformedError(f"a country must be two capital letters (ISO 3166-1), not {text[:80]!r}")
    return Country(text)


def parse_key(text: str) -> Key:
    """An object's name at a site; no segment starts with a dot, so ``..`` cannot occur."""
    if len(text) > MAX_KEY_LENGTH or not _KEY.match(text):
        raise MalformedError(f"not an object name: {text[:80]!r}")
    return Key(text)


def parse_count(text: str, *, limit: int = 2**63 - 1) -> int:
    """A non-negative decimal without sign, leading zeros or foreign digits, at most ``limit``."""
    if not text.isascii() or not _COUNT.match(text) or int(text) > limit:
        raise MalformedError(f"expected a whole number from 0 to {limit}, not {text[:40]!r}")
    return int(text)


def parse_positive(text: str, *, limit: int = 2**63 - 1) -> int:
    """Like ``parse_count``, but at least 1."""
    value = parse_count(text, limit=limit)
    if value == 0:
        raise MalformedError("expected a whole number from 1 up, not 0")
    return value


def instant_text(instant: Instant) -> str:
    """``2026-11-23T14:22:01.000000Z``."""
    seconds, micros = divmod(instant, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{micros:06d}Z"


def parse_day(text: str) -> Instant:
    """``2030-12-31`` → the beginning of that day, UTC. Years 1970 to 9999."""
    if not _DAY.match(text):
        raise MalformedError(f"a day must look like 2030-12-31, not {text[:40]!r}")
    return parse_instant(f"{text}T00:00:00.000000Z")


def parse_instant(text: str) -> Instant:
    if not text.isascii() or not _INSTANT.match(text):
        raise MalformedError(f"a time must look like 2026-11-23T14:22:01.000000Z, not {text[:40]!r}")
    try:
        moment = datetime.fromisoformat(text[:-1] + "+00:00")
    except ValueError as error:
        raise MalformedError(f"not a time: {text[:40]!r}") from error
    delta = moment - _EPOCH_0
    value = Instant((delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds)
    if value < 0 or instant_text(value) != text:
        raise MalformedError(f"not a time after 1970: {text[:40]!r}")
    return value


def parse_moment(text: str) -> Instant:
    """A time as a person types it, in UTC: ``2026-11-23T14:22Z``, with or without seconds and their fraction.

    For command lines only; signed texts have the one form of ``parse_instant``.
    """
    for form in ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ"):
        try:
            moment = datetime.strptime(text.strip().replace(" ", "T"), form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return Instant(int((moment - _EPOCH_0).total_seconds() * 1_000_000))
    raise MalformedError(
        f"a time must look like 2026-11-23T14:22Z (UTC), not {text[:40]!r}", hint="Nothing was done; type it again."
    )


def now() -> Instant:
    """The wall clock. Called at the entry points only; everything below takes the time as an argument."""
    return Instant(time.time_ns() // 1000)


def b64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def parse_b64(text: str, *, length: int | None = None, limit: int = 1 << 20) -> bytes:
    """Strict base64: only its own alphabet, canonical padding, ``length`` bytes if given, at most ``limit``."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MalformedError(f"not base64: {text[:40]!r}") from error
    if b64(data) != text or len(data) > limit or (length is not None and len(data) != length):
        raise MalformedError(f"base64 of an unexpected form or length: {text[:40]!r}")
    return data

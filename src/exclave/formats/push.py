"""A push: what a CA's software says that it decided. JSON inside a signature. Page: ``docs/spec/push.md``.

Made by others, so white space and the order of members are theirs; members, types and spellings are not.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal

import msgspec

from exclave.errors import MalformedError
from exclave.formats.journal import REASONS
from exclave.ids import Instant, parse_label

MAX_PUSH_BYTES = 4 << 20
MAX_CHANGES = 20_000
MAX_SEQUENCE = 2**53 - 1
_SERIAL = re.compile(r"(0|[1-9A-F][0-9A-F]{0,39})\Z")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")
_EPOCH_0 = datetime(1970, 1, 1, tzinfo=UTC)


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One certificate."""

    serial: str
    """Upper-case hex without leading zeros."""
    state: Literal["issued", "held", "revoked", "released"]
    time: str = ""
    """Since when; ``held`` and ``revoked`` only."""
    reason: str = ""
    """``revoked`` only."""


class Push(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a sender."""

    issuer: str
    """Label of the issuing CA."""
    sequence: int
    """One more than the message before; 1 or any other number to begin with."""
    as_of: str
    """Nothing that was decided before it is missing, once this message is taken."""
    changes: tuple[Change, ...]


def encode_push(push: Push) -> bytes:
    """One form of it. ``MalformedError`` for one that ``parse_push`` would refuse."""
    _check(push)
    return msgspec.json.encode(push)


def parse_push(data: bytes) -> Push:
    """Strict but for white space and order. Raises ``MalformedError`` saying where."""
    if len(data) > MAX_PUSH_BYTES:
        raise MalformedError(f"a push is longer than {MAX_PUSH_BYTES} bytes")
    try:
        push = msgspec.json.decode(data, type=Push)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedError(f"not a push: {error}") from error
    _check(push)
    return push


def _check(push: Push) -> None:
    parse_label(push.issuer)
    parse_second(push.as_of)
    if not 1 <= push.sequence <= MAX_SEQUENCE:
        raise MalformedError(f"a push's sequence is from 1 to {MAX_SEQUENCE}")
    if len(push.changes) > MAX_CHANGES:
        raise MalformedError(f"a push of more than {MAX_CHANGES} changes")
    seen: set[str] = set()
    for change in push.changes:
        _check_change(change)
        if change.serial in seen:
            raise MalformedError(f"serial {change.serial} is listed twice")
        seen.add(change.serial)


def _check_change(change: Change) -> None:
    if not _SERIAL.match(change.serial):
        raise MalformedError(f"not a serial number in upper-case hex: {change.serial[:60]!r}")
    if change.state in ("held", "revoked"):
        parse_second(change.time)
    elif change.time:
        raise MalformedError(f"serial {change.serial} is {change.state}: that has no time")
    known = change.reason in REASONS and change.reason != "certificateHold"
    if known != (change.state == "revoked") or (change.reason and not known):
        raise MalformedError(f"serial {change.serial}: a reason stands with revoked and nowhere else")


def parse_second(text: str) -> Instant:
    """``2026-11-23T14:22:01Z``: a real moment from 1970. Raises ``MalformedError``."""
    try:
        if not text.isascii() or not _TIME.match(text):
            raise MalformedError(f"a time must look like 2026-11-23T14:22:01Z, not {text[:40]!r}")
        since = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) - _EPOCH_0
    except ValueError as error:
        raise MalformedError(f"not a time: {text[:40]!r}") from error
    if since.days < 0:
        raise MalformedError(f"not a time after 1970: {text[:40]!r}")
    return Instant((since.days * 86400 + since.seconds) * 1_000_000)

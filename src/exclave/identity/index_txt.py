"""OpenSSL's ``index.txt``, the list that ``openssl ca`` keeps of what it issued and revoked. Read, never written.

Grammar and limits: docs/spec/status-log.md. Made by OpenSSL, so it is not re-encoded; each field has one spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from exclave.errors import MalformedError
from exclave.identity.status_log import Serial, StatusLog, Stop, stop_of
from exclave.ids import Digest, Instant

MAX_LINE_BYTES = 4096
MAX_LINES = 20_000_000

_SERIAL = re.compile(r"00\Z|(?!00)(?:[0-9A-F]{2}){1,20}\Z")
_TIME = re.compile(r"([0-9]{2}|[0-9]{4})([0-9]{10})Z\Z")
_HOLD_INSTRUCTION = re.compile(r"[A-Za-z0-9.]{1,100}\Z")
_PRINTABLE = re.compile(r"[ -~]*\Z")
_EPOCH_0 = datetime(1970, 1, 1, tzinfo=UTC)
# As OpenSSL spells them; the last three carry one more field.
_REASONS = {
    "unspecified": "unspecified",
    "keyCompromise": "keyCompromise",
    "CACompromise": "cACompromise",
    "affiliationChanged": "affiliationChanged",
    "superseded": "superseded",
    "cessationOfOperation": "cessationOfOperation",
    "certificateHold": "certificateHold",
}
_LONG_REASONS = {"holdInstruction": "certificateHold", "keyTime": "keyCompromise", "CAkeyTime": "cACompromise"}


@dataclass(frozen=True, slots=True)
class IndexLine:
    """One certificate."""

    serial: Serial
    stop: Stop | None
    """None: valid or expired, and not revoked."""


def read_index(file: BinaryIO, *, issuer: Digest, as_of: Instant) -> StatusLog:
    """The log that ``index.txt`` is, line by line from ``file``.

    The file does not say when it was last right: ``as_of`` is the moment whose state it was captured for (the ``time``
    of the version that holds it). A revocation dated after ``as_of`` counts: clocks differ. ``MalformedError`` names
    the line; there is no reading past one, since a skipped line could be the one revocation that matters.
    """
    issued: set[Serial] = set()
    stopped: dict[Serial, Stop] = {}
    for number, data in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
        try:
            line = parse_line(data)
        except MalformedError as error:
            raise _at(number, error.message) from error
        if line.serial in issued or number > MAX_LINES:
            raise _at(number, f"serial {line.serial:X} is listed twice, or there are more than {MAX_LINES} lines")
        issued.add(line.serial)
        if line.stop is not None:
            stopped[line.serial] = line.stop
    return StatusLog(issuer, as_of, frozenset(issued), stopped)


def _at(number: int, problem: str) -> MalformedError:
    return MalformedError(f"index.txt, line {number}: {problem}", line=number)


def parse_line(data: bytes) -> IndexLine:
    """One line with its newline: six fields, separated by tabs."""
    if len(data) > MAX_LINE_BYTES or not data.endswith(b"\n"):
        raise MalformedError(f"longer than {MAX_LINE_BYTES} bytes, or cut off")
    try:
        fields = data[:-1].decode("ascii").split("\t")
    except UnicodeDecodeError as error:
        raise MalformedError("not ASCII") from error
    if len(fields) != 6:
        raise MalformedError(f"{len(fields)} fields instead of 6")
    kind, expires, revoked, serial, file, subject = fields
    if not _SERIAL.match(serial):
        raise MalformedError(f"not a serial number of 1 to 20 octets: {serial[:60]!r}")
    if not _PRINTABLE.match(file) or not _PRINTABLE.match(subject):
        raise MalformedError("control characters in the file name or the subject")
    parse_asn1_time(expires)
    if kind == "R":
        return IndexLine(Serial(int(serial, 16)), _stop(revoked))
    if kind not in ("V", "E") or revoked:
        raise MalformedError(f"a line of kind {kind[:20]!r} with the revocation {revoked[:40]!r}")
    return IndexLine(Serial(int(serial, 16)), None)


def _stop(field: str) -> Stop:
    """``time``, ``time,reason``, ``time,holdInstruction,OID`` or ``time,keyTime,time`` (of the compromise)."""
    time, *rest = field.split(",")
    since = parse_asn1_time(time)
    match rest:
        case []:
            return stop_of("unspecified", since)
        case [reason] if reason in _REASONS:
            return stop_of(_REASONS[reason], since)
        case ["holdInstruction", instruction] if _HOLD_INSTRUCTION.match(instruction):
            return stop_of(_LONG_REASONS["holdInstruction"], since)
        case [("keyTime" | "CAkeyTime") as reason, moment]:
            parse_asn1_time(moment)
            return stop_of(_LONG_REASONS[reason], since)
    raise MalformedError(f"not a revocation: {field[:80]!r}")


def parse_asn1_time(text: str) -> Instant:
    """UTCTime ``YYMMDDhhmmssZ`` (RFC 5280: 50 is 1950, 49 is 2049) or GeneralizedTime ``YYYYMMDDhhmmssZ``."""
    match = _TIME.match(text) if text.isascii() else None
    if match is None:
        raise MalformedError(f"not a time: {text[:40]!r}")
    year, rest = int(match[1]), match[2]
    if len(match[1]) == 2:
        year += 1900 if year >= 50 else 2000
    parts = [int(rest[at : at + 2]) for at in range(0, 10, 2)]
    try:
        since = datetime(year, parts[0], parts[1], parts[2], parts[3], parts[4], tzinfo=UTC) - _EPOCH_0
    except ValueError as error:
        raise MalformedError(f"not a time: {text[:40]!r}") from error
    if since.days < 0:
        raise MalformedError(f"a time before 1970: {text[:40]!r}")
    return Instant((since.days * 86400 + since.seconds) * 1_000_000)

"""A CSV table of an issuer's certificates. Grammar and limits: docs/spec/feeding.md."""

from __future__ import annotations

import re
from typing import BinaryIO

from exclave.errors import MalformedError
from exclave.formats.push import parse_second
from exclave.identity.feeding.source import Reading
from exclave.identity.status_log import Held, Reason, Revoked, Serial, StatusLog, Stop
from exclave.ids import Digest, Instant

HEADER = b"serial,state,time,reason\n"
MAX_LINE_BYTES = 128
MAX_LINES = 20_000_000
_SERIAL = re.compile(r"(0|[1-9A-F][0-9A-F]{0,39})\Z")
_REASONS = {str(reason): reason for reason in Reason}


def read_table(file: BinaryIO, *, issuer: Digest, as_of: Instant) -> Reading:
    """The whole table; ``as_of``: the moment before it was read. ``MalformedError`` names the line; there is no reading
    past one, since a skipped line could be the one revocation that matters."""
    if file.readline(MAX_LINE_BYTES + 1) != HEADER:
        raise _at(1, f"not the header {HEADER.decode().strip()!r}")
    issued: set[Serial] = set()
    stopped: dict[Serial, Stop] = {}
    released: dict[Serial, Instant] = {}
    for number, data in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 2):
        try:
            serial, told = parse_row(data)
        except MalformedError as error:
            raise _at(number, error.message) from error
        if serial in issued or number > MAX_LINES:
            raise _at(number, f"serial {serial:X} is listed twice, or there are more than {MAX_LINES} lines")
        issued.add(serial)
        if isinstance(told, int):
            released[serial] = Instant(told)
        elif told is not None:
            stopped[serial] = told
    return Reading(StatusLog(issuer, as_of, frozenset(issued), stopped), released)


def _at(number: int, problem: str) -> MalformedError:
    return MalformedError(f"the table, line {number}: {problem}", line=number)


def parse_row(data: bytes) -> tuple[Serial, Stop | Instant | None]:
    """One line with its newline: the serial, and a stop, the moment of a release, or None: issued."""
    if len(data) > MAX_LINE_BYTES or not data.endswith(b"\n"):
        raise MalformedError(f"longer than {MAX_LINE_BYTES} bytes, or cut off")
    try:
        fields = data[:-1].decode("ascii").split(",")
    except UnicodeDecodeError as error:
        raise MalformedError("not ASCII") from error
    if len(fields) != 4:
        raise MalformedError(f"{len(fields)} fields instead of 4")
    serial, state, time, reason = fields
    if not _SERIAL.match(serial):
        raise MalformedError(f"not a serial number in upper-case hex: {serial[:60]!r}")
    return Serial(int(serial, 16)), _told(state, time, reason)


def _told(state: str, time: str, reason: str) -> Stop | Instant | None:
    match state:
        case "issued" if not time and not reason:
            return None
        case "held" if not reason:
            return Held(parse_second(time))
        case "revoked" if reason in _REASONS:
            return Revoked(parse_second(time), _REASONS[reason])
        case "released" if not reason:
            return parse_second(time)
    raise MalformedError(f"not a state with its time and reason: {state[:20]!r}, {time[:30]!r}, {reason[:30]!r}")

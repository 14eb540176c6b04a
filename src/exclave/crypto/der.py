"""DER (ITU-T X.690), as little of it as status requests and answers need: elements with one-byte tags.

There is no recursion: a nested bomb costs what its bytes cost. Page: docs/spec/ocsp.md.
"""

from __future__ import annotations

from datetime import UTC, datetime

from exclave.errors import MalformedError
from exclave.ids import Instant

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID, ENUMERATED = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A
UTC_TIME, GENERALIZED_TIME, SEQUENCE = 0x17, 0x18, 0x30
_UTC_TIME_ENDS = 2050
"""RFC 5280, section 4.1.2.5: later dates are GeneralizedTime."""


def context(number: int) -> int:
    """Tag of a constructed ``[number]``."""
    return 0xA0 | number


# Reading


def element(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """The element that begins at ``at``: (tag, begin of its content, end of its content).

    ``MalformedError`` unless it ends by ``end`` and its length has the shortest form. Nothing is copied.
    """
    begin = at + 2
    if begin > end:
        raise MalformedError("DER ends in the middle of an element")
    tag, size = data[at], data[at + 1]
    if tag & 0x1F == 0x1F:
        raise MalformedError("DER with a tag of several bytes, which nothing here has")
    if size >= 0x80:
        octets = size - 0x80
        if not 1 <= octets <= 4 or begin + octets > end:
            raise MalformedError("DER with an indefinite, too long or cut length")
        size = int.from_bytes(data[begin : begin + octets], "big")
        if size < 0x80 or size >> (8 * (octets - 1)) == 0:
            raise MalformedError("DER with a length that is not in its shortest form")
        begin += octets
    if begin + size > end:
        raise MalformedError("DER ends in the middle of an element")
    return tag, begin, begin + size


def expect(data: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Begin and end of the content of the element at ``at``, which must have ``tag``."""
    found, begin, stop = element(data, at, end)
    if found != tag:
        raise MalformedError(f"DER with tag {found:#04x} where {tag:#04x} must stand")
    return begin, stop


def sole(data: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Like ``expect``; nothing may follow up to ``end``."""
    begin, stop = expect(data, at, end, tag)
    if stop != end:
        raise MalformedError("DER with bytes behind its end")
    return begin, stop


def natural(data: bytes, begin: int, end: int, *, limit_bytes: int) -> int:
    """A non-negative INTEGER's content in its shortest form, of at most ``limit_bytes`` without the sign."""
    size = end - begin
    if size == 0 or data[begin] >= 0x80:
        raise MalformedError("DER with a negative or empty number")
    if size > 1 and data[begin] == 0 and data[begin + 1] < 0x80:
        raise MalformedError("DER with a number that is not in its shortest form")
    if size - (data[begin] == 0) > limit_bytes:
        raise MalformedError(f"DER with a number of more than {limit_bytes} bytes")
    return int.from_bytes(data[begin:end], "big")


# Writing


def tlv(tag: int, *parts: bytes) -> bytes:
    """An element whose content is ``parts``, joined."""
    content = b"".join(parts)
    return head(tag, len(content)) + content


def head(tag: int, size: int) -> bytes:
    """Tag and length of an element whose content takes ``size`` bytes."""
    if size < 0x80:
        return bytes((tag, size))
    if size < 0x100:
        return bytes((tag, 0x81, size))
    if size < 0x10000:
        return bytes((tag, 0x82, size >> 8, size & 0xFF))
    octets = (size.bit_length() + 7) // 8
    return bytes((tag, 0x80 | octets)) + size.to_bytes(octets, "big")


def number(value: int) -> bytes:
    """INTEGER of a non-negative value."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER."""
    first, second, *others = (int(arc) for arc in dotted.split("."))
    return tlv(OID, *(_base128(arc) for arc in (40 * first + second, *others)))


def _base128(value: int) -> bytes:
    octets = [value & 0x7F]
    while value := value >> 7:
        octets.append(0x80 | value & 0x7F)
    return bytes(reversed(octets))


def generalized_time(instant: Instant) -> bytes:
    """GeneralizedTime in whole seconds, rounded down (RFC 5280, section 4.1.2.5.2)."""
    return tlv(GENERALIZED_TIME, f"{_moment(instant):%Y%m%d%H%M%SZ}".encode())


def time(instant: Instant) -> bytes:
    """UTCTime up to 2049, GeneralizedTime from then on, as X.509 has it; rounded down."""
    moment = _moment(instant)
    if moment.year >= _UTC_TIME_ENDS:
        return generalized_time(instant)
    return tlv(UTC_TIME, f"{moment:%y%m%d%H%M%SZ}".encode())


def _moment(instant: Instant) -> datetime:
    try:
        return datetime.fromtimestamp(instant // 1_000_000, UTC)
    except (ValueError, OverflowError) as error:
        raise MalformedError(f"{instant} is a time beyond the year 9999") from error

"""The identity journal: everything that a state's identity services go by, in the order in which it was decided.

Page: ``docs/spec/journal.md``. Entries are numbered 1, 2, …; each has one strict MessagePack form. The *chain* value of
entry n is SHA-256(chain of n-1 || bytes of entry n), of entry 0 it is 32 zero bytes: two journals with the same number
and chain are the same journal up to there.

A segment file holds consecutive entries::

    "exclave/journal/v1\\n"
    number of its first entry - 1          8 bytes, big-endian
    chain of that entry                    32 bytes
    length 4 bytes big-endian || entry || check 8 bytes     0 or more times

*check* is the beginning of the chain value after the entry, so a changed byte is found where it stands. What a crash
leaves at the end, a record that is cut off or whose end was never written (zeros), is *torn* and counts as absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from exclave.errors import CorruptObject, MalformedError
from exclave.ids import Digest, Instant, parse_label

HEADER = b"exclave/journal/v1\n"
HEAD_BYTES = len(HEADER) + 8 + 32
CHECK_BYTES = 8
MAX_ENTRY_BYTES = 1 << 20
MAX_SEGMENT_BYTES = 8 << 20
MAX_SERIALS = 20_000
"""In one entry of issued serials."""
MAX_SERIAL_BYTES = 20
MAX_TEXT = 4096
REASONS = frozenset({
    "certificateHold", "keyCompromise", "cACompromise", "aACompromise", "privilegeWithdrawn", "affiliationChanged",
    "cessationOfOperation", "superseded", "unspecified",
})  # fmt: skip
"""CRLReasons (RFC 5280, section 5.3.1) that an entry may give."""
EMPTY_CHAIN = Digest(bytes(32))
_NUMBER_LIMIT = 2**53
_TIME_LIMIT = 253_402_300_800_000_000
"""The year 10000: no calendar here knows it."""


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What an entry says. Digests are 32 bytes, serials 0 to 20 bytes big-endian without leading zeros, times
    ``Instant``."""


class Issuer(_Body, tag="issuer", frozen=True, gc=False):
    """An issuing CA, or a further certificate of one (same name and key: a cross-certificate)."""

    label: str
    certificate: bytes
    """DER."""
    live: bool
    """True: its decisions reach the journal as they are made (push, index.txt, CSV), so the journal is as recent as its
    feed. False: known from CRLs only, and as recent as the last one."""


class Issued(_Body, tag="issued", frozen=True, gc=False):
    """Serials that ``issuer`` has issued."""

    issuer: bytes
    serials: tuple[bytes, ...]


class Stopped(_Body, tag="stopped", frozen=True, gc=False):
    """A certificate is revoked for good (``reason``: of ``REASONS``) or held (``certificateHold``)."""

    issuer: bytes
    serial: bytes
    since: int
    reason: str


class Released(_Body, tag="released", frozen=True, gc=False):
    """A hold ends. Only the holder of the authority writes it."""

    issuer: bytes
    serial: bytes


class Confirmed(_Body, tag="confirmed", frozen=True, gc=False):
    """Nothing that ``issuer`` decided before ``as_of`` is missing; ``next_update``: when it promised more, or 0."""

    issuer: bytes
    as_of: int
    next_update: int


class Responder(_Body, tag="responder", frozen=True, gc=False):
    """A certificate that lets ``place`` sign OCSP answers (or CRLs) for ``issuer``; DER."""

    issuer: bytes
    place: str
    certificate: bytes


class Service(_Body, tag="service", frozen=True, gc=False):
    """A relying service as it is from now on; JSON, see ``formats/relying.py``."""

    client_id: str
    data: bytes


class ServiceGone(_Body, tag="service-gone", frozen=True, gc=False):
    client_id: str


class PlaceKeys(_Body, tag="place-keys", frozen=True, gc=False):
    """The public token keys of ``place`` (home or an embassy): a JWK set (RFC 7517), JSON."""

    place: str
    jwks: bytes


class Passkey(_Body, tag="passkey", frozen=True, gc=False):
    """A WebAuthn credential that a person enrolled while logged in with a card."""

    credential: bytes
    """Credential id, up to 1023 bytes."""
    public_key: bytes
    """COSE key."""
    person: bytes
    """JSON of the person's claims (subject, given_name, family_name, date_of_birth)."""
    user_handle: bytes
    """Random, up to 64 bytes: what the authenticator stores."""


class PasskeyGone(_Body, tag="passkey-gone", frozen=True, gc=False):
    credential: bytes


class Extension(_Body, tag="extension", frozen=True, gc=False):
    """A signed list that extends validity; the encoded note, see ``formats/extension.py``."""

    note: bytes


class ExtensionEnded(_Body, tag="extension-ended", frozen=True, gc=False):
    """A signed list (SHA-256 of its text) no longer counts."""

    note: bytes


class Pushed(_Body, tag="pushed", frozen=True, gc=False):
    """The CA software ``sender`` pushed its message number ``sequence``; what it changed stands before this entry."""

    sender: str
    sequence: int
    digest: bytes
    """SHA-256 of the message's content, by which a repeat is known."""


class Settings(_Body, tag="settings", frozen=True, gc=False):
    """What every place needs to know of the services: the content of ``identity.toml``, see
    ``formats/identityconfig.py``."""

    data: bytes


Body = (
    Settings
    | Pushed
    | Issuer
    | Issued
    | Stopped
    | Released
    | Confirmed
    | Responder
    | Service
    | ServiceGone
    | PlaceKeys
    | Passkey
    | PasskeyGone
    | Extension
    | ExtensionEnded
)


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One decision."""

    number: int
    time: int
    """Instant at which it was entered."""
    epoch: int
    """The register's epoch whose writer entered it; 0 before the first charter."""
    warrant: bytes
    """SHA-256 of the text of the warrant that allowed it; empty if it needed none."""
    body: Body


@dataclass(frozen=True, slots=True)
class Head:
    """Where a journal stands: number and chain of its last entry; (0, 32 zero bytes) if it is empty."""

    number: int = 0
    chain: Digest = EMPTY_CHAIN

    def after(self, data: bytes) -> Head:
        """The head once the entry ``data`` (encoded) stands behind it."""
        return Head(self.number + 1, Digest(hashlib.sha256(self.chain + data).digest()))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """Its bytes. ``MalformedError`` for an entry that ``parse_entry`` would refuse."""
    data = _encoder.encode(entry)
    check_entry(entry, len(data))
    return data


def parse_entry(data: bytes) -> Entry:
    """Strict inverse of ``encode_entry``. Raises ``MalformedError``."""
    if len(data) > MAX_ENTRY_BYTES:
        raise MalformedError(f"a journal entry is longer than {MAX_ENTRY_BYTES} bytes")
    try:
        entry = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedError(f"a journal entry is not in the format: {error}") from error
    if encode_entry(entry) != data:
        raise MalformedError("a journal entry is not in its one canonical form")
    return entry


def check_entry(entry: Entry, size: int) -> None:
    """Limits of an entry of ``size`` encoded bytes. Raises ``MalformedError``."""
    if size > MAX_ENTRY_BYTES or not 1 <= entry.number < _NUMBER_LIMIT or not 0 <= entry.epoch < 2**32:
        raise MalformedError("a journal entry is too long, or its number or epoch is impossible")
    if not 0 <= entry.time < _TIME_LIMIT or len(entry.warrant) not in (0, 32):
        raise MalformedError("a journal entry has an impossible time or warrant")
    _check_body(entry.body)


def _check_body(body: Body) -> None:
    check = _CHECKS.get(type(body))
    if check is not None:
        check(body)


def _check_issued(body: Issued) -> None:
    _digest(body.issuer)
    serials = body.serials
    if not 1 <= len(serials) <= MAX_SERIALS or any(a >= b for a, b in pairwise(serials)):
        raise MalformedError("a journal entry's serials must be sorted and different, 1 to 20,000 of them")
    for serial in serials:
        _serial(serial)


def _check_stopped(body: Stopped) -> None:
    _digest(body.issuer)
    _serial(body.serial)
    if not 0 <= body.since < _TIME_LIMIT or body.reason not in REASONS:
        raise MalformedError("a journal entry stops a certificate at no possible time or for no known reason")


def _check_released(body: Released) -> None:
    _digest(body.issuer)
    _serial(body.serial)


def _check_confirmed(body: Confirmed) -> None:
    _digest(body.issuer)
    if not 0 <= body.as_of < _TIME_LIMIT or not 0 <= body.next_update < _TIME_LIMIT:
        raise MalformedError("a journal entry confirms an impossible time")


def _check_responder(body: Responder) -> None:
    _digest(body.issuer)
    parse_label(body.place)


def _check_client(body: Service | ServiceGone) -> None:
    if not 1 <= len(body.client_id) <= 255:
        raise MalformedError("a journal entry names a client by 1 to 255 characters")


def _check_passkey(body: Passkey) -> None:
    if not 1 <= len(body.credential) <= 1023 or not 1 <= len(body.user_handle) <= 64:
        raise MalformedError("a journal entry has an impossible passkey")


def _check_pushed(body: Pushed) -> None:
    parse_label(body.sender)
    _digest(body.digest)
    if not 1 <= body.sequence < _NUMBER_LIMIT:
        raise MalformedError("a journal entry has an impossible sequence of a push")


_CHECKS: dict[type, Callable[[Any], None]] = {
    Issued: _check_issued,
    Stopped: _check_stopped,
    Released: _check_released,
    Confirmed: _check_confirmed,
    Responder: _check_responder,
    Issuer: lambda body: _checked_label(body.label),
    PlaceKeys: lambda body: _checked_label(body.place),
    Service: _check_client,
    ServiceGone: _check_client,
    ExtensionEnded: lambda body: _digest(body.note),
    Passkey: _check_passkey,
    Pushed: _check_pushed,
}


def _checked_label(text: str) -> None:
    parse_label(text)


def _digest(value: bytes) -> None:
    if len(value) != 32:
        raise MalformedError("a journal entry names something by other than 32 bytes")


def _serial(value: bytes) -> None:
    if len(value) > MAX_SERIAL_BYTES or value[:1] == b"\0":
        raise MalformedError("a serial has 0 to 20 bytes without leading zeros")


def serial_bytes(serial: int) -> bytes:
    """A certificate's number (0 to 2^160 - 1) as the journal writes it."""
    return serial.to_bytes((serial.bit_length() + 7) // 8, "big")


def encode_segment_head(before: Head) -> bytes:
    """The first bytes of a segment whose first entry follows ``before``."""
    return HEADER + before.number.to_bytes(8, "big") + before.chain


def parse_segment_head(data: bytes) -> Head:
    """Strict inverse of ``encode_segment_head``; exactly ``HEAD_BYTES``."""
    if len(data) != HEAD_BYTES or not data.startswith(HEADER):
        raise MalformedError("not a segment of an identity journal")
    number = int.from_bytes(data[len(HEADER) : len(HEADER) + 8], "big")
    if number >= _NUMBER_LIMIT:
        raise MalformedError("a journal segment begins at an impossible number")
    return Head(number, Digest(data[len(HEADER) + 8 :]))


class Record(NamedTuple):
    """One entry of a segment as it stands there."""

    data: bytes
    """The entry, encoded; not yet parsed."""
    head: Head
    """After it."""
    end: int
    """Where the next record begins, from the beginning of what was read."""


def encode_record(data: bytes, head: Head) -> bytes:
    """The entry ``data`` as it stands in a segment; ``head``: after it."""
    return len(data).to_bytes(4, "big") + data + head.chain[:CHECK_BYTES]


def read_records(data: bytes, before: Head) -> Iterator[Record]:
    """The records in ``data``, the first following ``before``, up to the end or a torn one.

    ``CorruptObject`` for a record that is whole and does not follow from those before it.
    """
    at, head = 0, before
    while len(data) - at >= 4:
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 0 and not any(data[at:]):
            return
        if not 0 < size <= MAX_ENTRY_BYTES:
            raise CorruptObject(
                f"the journal's entry {head.number + 1} has an impossible length", entry=head.number + 1
            )
        end = at + 4 + size + CHECK_BYTES
        if end > len(data):
            return
        entry, check = data[at + 4 : end - CHECK_BYTES], data[end - CHECK_BYTES : end]
        head = head.after(entry)
        if head.chain[:CHECK_BYTES] != check:
            if not any(data[end - CHECK_BYTES :]):
                return
            raise CorruptObject(
                f"the journal's entry {head.number} does not follow from the ones before", entry=head.number
            )
        yield Record(entry, head, end)
        at = end


def entry_at(before: Head, time: Instant, epoch: int, body: Body, warrant: bytes = b"") -> Entry:
    """The entry that says ``body`` behind ``before``."""
    return Entry(before.number + 1, time, epoch, warrant, body)

"""The identity feed: a journal's entries on their way abroad, seconds after they were made.

Page: ``docs/spec/feed.md``.

A *head* for each epoch, the only part that is replaced, is a signed note of the epoch's writer::

    exclave/feed/v1
    register <id>
    epoch <n>
    time <instant>                       everything that was decided before this moment is in the feed
    number <n>                           of the journal's last entry in it, or where this epoch goes on from
    chain <sha256>                       of that entry
    last none | last <sha256 of batch>   the newest batch of this epoch

A *batch* is write-once and named by the SHA-256 of its bytes::

    "exclave/feed-batch/v1\\n"
    previous batch of this epoch         32 bytes, zeros: none
    number of recipients                 1 byte
    (card digest or opening key digest, 32 bytes || batch key sealed by HPKE, 1168 bytes) per recipient
    sealed content                       AES-256-GCM under the batch key, record 0, all of the above authenticated

The content is strict MessagePack ``[number before, chain before, entries]`` behind its own length (4 bytes), padded
with zeros to a power of two from 4 KiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from exclave.errors import CorruptObject, MalformedError
from exclave.formats.journal import Head
from exclave.formats.lines import LineReader
from exclave.ids import (
    Digest,
    Epoch,
    Instant,
    RegisterId,
    instant_text,
    parse_count,
    parse_digest,
    parse_instant,
    parse_positive,
    parse_register_id,
)

HEADER = "exclave/feed/v1"
BATCH_HEADER = b"exclave/feed-batch/v1\n"
KEY_BYTES = 32
SEALED_KEY_BYTES = 1120 + KEY_BYTES + 16
"""HPKE: encapsulated key, ciphertext, tag."""
TAG_BYTES = 16
MAX_RECIPIENTS = 64
MAX_CONTENT_BYTES = (8 << 20) - 64
"""Entries of one batch with their frame, in bytes."""
MIN_PADDED_BYTES = 4096
MAX_BATCH_BYTES = len(BATCH_HEADER) + 33 + MAX_RECIPIENTS * (32 + SEALED_KEY_BYTES) + (8 << 20) + TAG_BYTES
MAX_HEAD_CHARS = 1000
_NONE = bytes(32)


@dataclass(frozen=True, slots=True)
class ParsedFeedHead:
    """A head whose form is right; who signed it is not checked yet."""

    register: RegisterId
    epoch: Epoch
    time: Instant
    head: Head
    last: Digest | None

    def encode(self) -> str:
        last = self.last.hex() if self.last else "none"
        return (
            f"{HEADER}\nregister {self.register}\nepoch {self.epoch}\ntime {instant_text(self.time)}\n"
            f"number {self.head.number}\nchain {self.head.chain.hex()}\nlast {last}\n"
        )


def parse_feed_head(text: str) -> ParsedFeedHead:
    """Strict inverse of ``ParsedFeedHead.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="feed head", limit=MAX_HEAD_CHARS)
    lines.exactly(HEADER)
    register = parse_register_id(lines.field("register"))
    epoch = Epoch(parse_positive(lines.field("epoch"), limit=2**32 - 1))
    time = parse_instant(lines.field("time"))
    number = parse_count(lines.field("number"), limit=2**53 - 1)
    chain = parse_digest(lines.field("chain"))
    named = lines.field("last")
    lines.end()
    head = ParsedFeedHead(register, epoch, time, Head(number, chain), None if named == "none" else parse_digest(named))
    if head.encode() != text:
        raise MalformedError("a feed head is not in its one canonical form")
    return head


class _Content(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    number: int
    chain: bytes
    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive journal entries, encoded, that follow ``before``."""

    before: Head
    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """A batch whose form is right and that is still sealed."""

    previous: Digest | None
    keys: Mapping[Digest, bytes]
    """The batch key sealed to each recipient, by the digest that names the recipient."""
    bound: bytes
    sealed: bytes


def pad_content(batch: Batch) -> bytes:
    """``batch`` as it is sealed. ``MalformedError`` if it is too long."""
    body = msgspec.msgpack.encode(_Content(batch.before.number, batch.before.chain, batch.entries))
    if len(body) > MAX_CONTENT_BYTES:
        raise MalformedError(f"a batch of the feed has at most {MAX_CONTENT_BYTES} bytes")
    plain = len(body).to_bytes(4, "big") + body
    return plain.ljust(padded_bytes(len(plain)), b"\0")


def parse_content(plain: bytes) -> Batch:
    """Strict inverse of ``pad_content``, for what was authenticated already. Raises ``CorruptObject``."""
    length = int.from_bytes(plain[:4], "big")
    try:
        content = msgspec.msgpack.decode(plain[4 : 4 + length], type=_Content)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CorruptObject("a batch of the feed holds no entries") from error
    if len(content.chain) != 32 or not 0 <= content.number < 2**53 or not content.entries:
        raise CorruptObject("a batch of the feed begins nowhere or is empty")
    batch = Batch(Head(content.number, Digest(content.chain)), content.entries)
    if pad_content(batch) != plain:
        raise CorruptObject("a batch of the feed is not in its one form")
    return batch


def bound_header(previous: Digest | None, keys: Mapping[Digest, bytes]) -> bytes:
    """What stands before the sealed content and is authenticated with it."""
    if not 1 <= len(keys) <= MAX_RECIPIENTS:
        raise MalformedError(f"a batch of the feed has 1 to {MAX_RECIPIENTS} recipients")
    head = BATCH_HEADER + (previous or _NONE) + bytes([len(keys)])
    return head + b"".join(name + keys[name] for name in sorted(keys))


def padded_bytes(size: int) -> int:
    """The next power of two, from 4 KiB."""
    return max(MIN_PADDED_BYTES, 1 << (size - 1).bit_length())


def parse_batch(data: bytes) -> ParsedBatch:
    """The parts of a stored batch. Raises ``MalformedError``."""
    start = len(BATCH_HEADER) + 33
    if len(data) > MAX_BATCH_BYTES or len(data) < start or not data.startswith(BATCH_HEADER):
        raise MalformedError("not a batch of an identity feed")
    previous, count = data[len(BATCH_HEADER) : start - 1], data[start - 1]
    end = start + count * (32 + SEALED_KEY_BYTES)
    padded = len(data) - end - TAG_BYTES
    if not 1 <= count <= MAX_RECIPIENTS or padded < MIN_PADDED_BYTES or padded_bytes(padded) != padded:
        raise MalformedError("a batch of an identity feed is cut or not padded")
    keys: dict[Digest, bytes] = {}
    for at in range(start, end, 32 + SEALED_KEY_BYTES):
        name = Digest(data[at : at + 32])
        if keys and name <= max(keys):
            raise MalformedError("a batch's recipients must be sorted and different")
        keys[name] = data[at + 32 : at + 32 + SEALED_KEY_BYTES]
    return ParsedBatch(None if previous == _NONE else Digest(previous), keys, data[:end], data[end:])


def batch_info(register: RegisterId, epoch: Epoch) -> bytes:
    """HPKE info: a key sealed for one register's feed in one epoch opens nothing else."""
    return f"exclave/feed-batch/v1\n{register}\n{epoch}\n".encode()

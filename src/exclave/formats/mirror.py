"""What is sent to a mirror of logs and what it answers (C2SP tlog-mirror). Page: ``docs/spec/witness.md``.

Body of ``add-entries``, integers big-endian::

    2 bytes   length of the log's origin
              origin
    8 bytes   first entry of the upload
    8 bytes   end of the upload: the size of a checkpoint that the mirror knows
    2 bytes   length of the ticket
              ticket: what the mirror gave, or nothing
              packages: entries up to the next multiple of 256 (or the end), each behind its length (2 bytes);
              the number of hashes, 1 byte, at most 63; a subtree consistency proof of so many hashes of 32 bytes

A mirror answers 202 and 409 with three lines (``text/x.tlog.mirror-info``): size of the checkpoint, next entry, ticket.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.checkpoint import MAX_ORIGIN_BYTES, check_origin
from exclave.formats.tile import HASH_BYTES, MAX_ENTRY_BYTES, TILE_WIDTH, check_entry
from exclave.ids import Digest, b64

INFO_TYPE = "text/x.tlog.mirror-info"
MAX_PACKAGES = 32
"""Of one request: what clients should send at most."""
MAX_TICKET_BYTES = (1 << 16) - 1
MAX_PROOF_HASHES = 63
_PACKAGE_BYTES = TILE_WIDTH * (2 + MAX_ENTRY_BYTES) + 1 + MAX_PROOF_HASHES * HASH_BYTES
MAX_BODY_BYTES = 20 + MAX_ORIGIN_BYTES + MAX_TICKET_BYTES + MAX_PACKAGES * _PACKAGE_BYTES
_NUMBERS = struct.Struct(">QQH")


@dataclass(frozen=True, slots=True)
class EntryPackage:
    """Entries from number ``start`` on, and the proof for all of them since the last multiple of 256."""

    start: int
    entries: tuple[bytes, ...]
    proof: tuple[Digest, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.entries)

    @property
    def first(self) -> int:
        """The multiple of 256 at which the proven subtree starts."""
        return self.start - self.start % TILE_WIDTH

    def encode(self) -> bytes:
        entries = b"".join(len(entry).to_bytes(2, "big") + entry for entry in self.entries)
        return entries + bytes([len(self.proof)]) + b"".join(self.proof)


@dataclass(frozen=True, slots=True)
class AddEntries:
    """The head of a request, and its body's packages, not parsed yet."""

    origin: str
    start: int
    end: int
    ticket: bytes
    rest: bytes

    def encode(self) -> bytes:
        origin = self.origin.encode()
        numbers = _NUMBERS.pack(self.start, self.end, len(self.ticket))
        return len(origin).to_bytes(2, "big") + origin + numbers + self.ticket + self.rest

    def packages(self) -> Iterator[EntryPackage]:
        """The packages that are there whole, in order; ends where one is cut off.

        ``MalformedError`` at one that no right request has, and at bytes after the last.
        """
        at, start = 0, self.start
        while start < self.end:
            end = min(self.end, start - start % TILE_WIDTH + TILE_WIDTH)
            entries: list[bytes] = []
            while len(entries) < end - start:
                size = int.from_bytes(self.rest[at : at + 2], "big")
                if at + 2 + size > len(self.rest):
                    return
                entries.append(check_entry(self.rest[at + 2 : at + 2 + size]))
                at += 2 + size
            count = self.rest[at] if at < len(self.rest) else 0
            if at + 1 + count * HASH_BYTES > len(self.rest):
                return
            if count > MAX_PROOF_HASHES:
                raise MalformedError("a package's proof has more than 63 hashes")
            hashes = self.rest[at + 1 : at + 1 + count * HASH_BYTES]
            proof = tuple(Digest(hashes[i : i + HASH_BYTES]) for i in range(0, len(hashes), HASH_BYTES))
            at += 1 + len(hashes)
            yield EntryPackage(start, tuple(entries), proof)
            start = end
        if at != len(self.rest):
            raise MalformedError("there are bytes after the last package")


def parse_add_entries(data: bytes) -> AddEntries:
    """Strict inverse of ``AddEntries.encode``. ``MalformedError``."""
    if len(data) > MAX_BODY_BYTES:
        raise MalformedError(f"a request to a mirror has at most {MAX_BODY_BYTES} bytes: send fewer packages")
    length = int.from_bytes(data[:2], "big")
    head = 2 + length + _NUMBERS.size
    if len(data) < head or length > MAX_ORIGIN_BYTES:
        raise MalformedError("a request to a mirror ends within its head, or its origin is too long")
    try:
        origin = check_origin(data[2 : 2 + length].decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedError("a log's origin is not UTF-8") from error
    start, end, ticket = _NUMBERS.unpack(data[2 + length : head])
    if start > end or end >= 1 << 63 or head + ticket > len(data):
        raise MalformedError("a request to a mirror ends before it starts, or within its ticket")
    return AddEntries(origin, start, end, data[head : head + ticket], data[head + ticket :])


def encode_info(size: int, next_entry: int, ticket: bytes) -> bytes:
    """The body of 202 and 409."""
    return f"{size}\n{next_entry}\n{b64(ticket)}\n".encode()

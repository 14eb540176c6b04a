"""Version leaves: the public statement of a version, an entry of its register's ledger. Page: ``docs/spec/leaf.md``.

::

    exclave/version/v1
    register <id>
    epoch <n>
    sequence <s>
    time <instant>
    manifest <sha256 of the pack that holds the manifest's top>
    objects <sha256 of the object list's root> <number of objects> <their bytes in total>
    records <root of the version's records>                      only if it commits to them: see formats/record.py

With this and the object list, anybody checks without keys that a site holds everything that the version needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.fact import HEADER as FACT_HEADER
from exclave.formats.fact import Fact, entry_text, parse_fact
from exclave.formats.lines import LineReader
from exclave.formats.tile import MAX_ENTRY_BYTES
from exclave.ids import (
    Digest,
    Epoch,
    Instant,
    RegisterId,
    Sequence,
    instant_text,
    parse_count,
    parse_digest,
    parse_instant,
    parse_positive,
    parse_register_id,
)

HEADER = "exclave/version/v1"
MAX_SEQUENCE = 2**53 - 1
"""Every program that reads numbers as IEEE doubles still tells this one from the next."""


@dataclass(frozen=True, slots=True)
class VersionLeaf:
    """One version of ``register``: the state it had at ``time``."""

    register: RegisterId
    epoch: Epoch
    sequence: Sequence
    time: Instant
    manifest: Digest
    """Name of the pack with the manifest's top."""
    objects: Digest
    """Root of the list of all objects that the version needs."""
    object_count: int
    object_bytes: int
    records: Digest | None = None
    """Root of the version's records, by which each of them can be proven; None if it commits to none."""

    def encode(self) -> bytes:
        return (
            f"{HEADER}\nregister {self.register}\nepoch {self.epoch}\nsequence {self.sequence}\n"
            f"time {instant_text(self.time)}\nmanifest {self.manifest.hex()}\n"
            f"objects {self.objects.hex()} {self.object_count} {self.object_bytes}\n"
            + ("" if self.records is None else f"records {self.records.hex()}\n")
        ).encode()


LedgerEntry = VersionLeaf | Fact


def parse_version_leaf(data: bytes) -> VersionLeaf:
    """Strict inverse of ``VersionLeaf.encode``. Raises ``MalformedError``."""
    lines = LineReader(entry_text(data), what="version leaf", limit=MAX_ENTRY_BYTES)
    lines.exactly(HEADER)
    register = parse_register_id(lines.field("register"))
    epoch = Epoch(parse_positive(lines.field("epoch")))
    sequence = Sequence(parse_positive(lines.field("sequence"), limit=MAX_SEQUENCE))
    time = parse_instant(lines.field("time"))
    manifest = parse_digest(lines.field("manifest"))
    objects, count, size = lines.fields("objects", 3)
    records = parse_digest(lines.field("records")) if lines.peek() == "records" else None
    lines.end()
    leaf = VersionLeaf(
        register, epoch, sequence, time, manifest, parse_digest(objects), parse_positive(count), parse_count(size),
        records,
    )  # fmt: skip
    if leaf.encode() != data:
        raise MalformedError("a version leaf is not in its one canonical form")
    return leaf


def parse_ledger_entry(data: bytes) -> LedgerEntry:
    """What an entry of a ledger says: a version or a fact. Raises ``MalformedError`` for anything else."""
    head = data.split(b"\n", 1)[0]
    if head == HEADER.encode():
        return parse_version_leaf(data)
    if head == FACT_HEADER.encode():
        return parse_fact(data)
    raise MalformedError("a ledger entry is neither a version nor a fact")

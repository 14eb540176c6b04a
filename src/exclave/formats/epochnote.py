"""Epoch notes: one opening key and one writer of a register. Page: ``docs/spec/epoch.md``.

::

    exclave/epoch/v1
    register <id>
    epoch <n>
    authority charter | authority warrant <sha256 of the warrant's text>
    previous none | previous <sha256 of epoch n-1's text> <size> <root, base64>
    writer <card sha256>
    opening <base64, 1216 bytes>
    threshold <m>
    share <custodian label> <index> <commitment hex> <sha256 of the sealed share>    sorted by index: 1, 2, …
    ancestor none | ancestor <sha256 of box> | ancestor <sha256 of box> without <n> …

``previous`` holds the cut: the former epoch's log ends at that size with that root; what its writer appended later is
fenced off. The note is signed by its writer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from exclave.errors import MalformedError
from exclave.formats.charter import MAX_CUSTODIANS, MAX_THRESHOLD
from exclave.formats.lines import LineReader
from exclave.ids import (
    Digest,
    Epoch,
    Label,
    RegisterId,
    b64,
    parse_b64,
    parse_count,
    parse_digest,
    parse_label,
    parse_positive,
    parse_register_id,
    sha256,
)

HEADER = "exclave/epoch/v1"
MAX_EPOCH = 2**32 - 1
OPENING_BYTES = 1216
"""MLKEM768-X25519 public key."""
SEALED_SHARE_BYTES = 32 + 1120 + 16
"""A 32-byte share sealed by HPKE: encapsulated key, ciphertext, tag."""
MAX_EPOCH_NOTE_CHARS = 32 << 10


@dataclass(frozen=True, slots=True)
class EpochShare:
    """Where one custodian's share lies, and how to tell whether it is right."""

    custodian: Label
    index: int
    """1 to number of shares: the x of the polynomial."""
    commitment: Digest
    box: Digest
    """SHA-256 of the sealed share."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the former epoch ends: its note, and the size and root of its log that still count."""

    note: Digest
    size: int
    root: Digest


@dataclass(frozen=True, slots=True)
class ParsedEpoch:
    """An epoch note whose form is right; whether anybody was allowed to make it is not checked yet."""

    register: RegisterId
    epoch: Epoch
    authority: Digest | None
    """Digest of the warrant's text, or None if a charter names this note."""
    previous: Cut | None
    """None exactly for epoch 1."""
    writer: Digest
    """Digest of the writer's key card."""
    opening: bytes
    threshold: int
    shares: tuple[EpochShare, ...]
    ancestor: Digest | None
    """SHA-256 of the box with the former epochs' seeds, sealed to ``opening``."""
    without: tuple[Epoch, ...] = ()
    """Former epochs whose seeds are not in that box, because an order to delete takes their keys away."""

    def encode(self) -> str:
        authority = f"warrant {self.authority.hex()}" if self.authority else "charter"
        cut = self.previous
        without = "".join([" without", *(f" {number}" for number in self.without)]) if self.without else ""
        lines = [
            HEADER,
            f"register {self.register}",
            f"epoch {self.epoch}",
            f"authority {authority}",
            f"previous {cut.note.hex()} {cut.size} {b64(cut.root)}" if cut else "previous none",
            f"writer {self.writer.hex()}",
            f"opening {b64(self.opening)}",
            f"threshold {self.threshold}",
            *(f"share {s.custodian} {s.index} {s.commitment.hex()} {s.box.hex()}" for s in self.shares),
            f"ancestor {self.ancestor.hex() if self.ancestor else 'none'}{without}",
        ]
        return "\n".join(lines) + "\n"

    @property
    def digest(self) -> Digest:
        """SHA-256 of the text."""
        return sha256(self.encode().encode())

    def share_of(self, custodian: Label) -> EpochShare | None:
        return next((s for s in self.shares if s.custodian == custodian), None)


def parse_epoch(text: str) -> ParsedEpoch:
    """Strict inverse of ``ParsedEpoch.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="epoch note", limit=MAX_EPOCH_NOTE_CHARS)
    lines.exactly(HEADER)
    note = ParsedEpoch(
        register=parse_register_id(lines.field("register")),
        epoch=Epoch(parse_positive(lines.field("epoch"), limit=MAX_EPOCH)),
        authority=_authority(lines),
        previous=_cut(lines),
        writer=parse_digest(lines.field("writer")),
        opening=parse_b64(lines.field("opening"), length=OPENING_BYTES),
        threshold=parse_positive(lines.field("threshold"), limit=MAX_THRESHOLD),
        shares=_shares(lines),
        ancestor=(older := _ancestor(lines))[0],
        without=older[1],
    )
    lines.end()
    _check(note)
    if note.encode() != text:
        raise MalformedError("an epoch note is not in its one canonical form")
    return note


def share_info(register: RegisterId, epoch: Epoch, index: int, custodian: Label) -> bytes:
    """HPKE info of a share sealed to its custodian."""
    return f"exclave/share/v1\n{register}\n{epoch}\n{index}\n{custodian}\n".encode()


def ancestor_info(register: RegisterId, epoch: Epoch) -> bytes:
    """HPKE info of the ancestor box of ``epoch``."""
    return f"exclave/ancestor/v1\n{register}\n{epoch}\n".encode()


def _authority(lines: LineReader) -> Digest | None:
    value = lines.fields("authority", 1, rest=True)[0]
    if value == "charter":
        return None
    kind, _, digest = value.partition(" ")
    if kind != "warrant":
        raise lines.fail("expected 'charter', or 'warrant' with a digest")
    return parse_digest(digest)


def _cut(lines: LineReader) -> Cut | None:
    value = lines.fields("previous", 1, rest=True)[0]
    if value == "none":
        return None
    parts = value.split(" ")
    if len(parts) != 3:
        raise lines.fail("expected 'none', or a digest, a size and a root")
    return Cut(parse_digest(parts[0]), parse_count(parts[1]), Digest(parse_b64(parts[2], length=32)))


def _shares(lines: LineReader) -> tuple[EpochShare, ...]:
    found: list[EpochShare] = []
    while lines.peek() == "share" and len(found) <= MAX_CUSTODIANS:
        custodian, index, promise, box = lines.fields("share", 4)
        number = parse_positive(index, limit=MAX_CUSTODIANS)
        found.append(EpochShare(parse_label(custodian), number, parse_digest(promise), parse_digest(box)))
    return tuple(found)


def _ancestor(lines: LineReader) -> tuple[Digest | None, tuple[Epoch, ...]]:
    value, *rest = lines.fields("ancestor", 1, rest=True)[0].split(" ")
    if value == "none" and not rest:
        return None, ()
    if rest and (rest[0] != "without" or len(rest) == 1):
        raise lines.fail("expected 'without' and numbers of epochs, or nothing")
    return parse_digest(value), tuple(Epoch(parse_positive(number, limit=MAX_EPOCH)) for number in rest[1:])


def _check(note: ParsedEpoch) -> None:
    if not 1 <= len(note.shares) <= MAX_CUSTODIANS:
        raise MalformedError(f"epoch note: needs 1 to {MAX_CUSTODIANS} shares")
    if [s.index for s in note.shares] != list(range(1, len(note.shares) + 1)):
        raise MalformedError("epoch note: shares must be numbered 1, 2, … in order")
    if len({s.custodian for s in note.shares}) != len(note.shares):
        raise MalformedError("epoch note: a custodian has two shares")
    if note.threshold > len(note.shares):
        raise MalformedError("epoch note: the threshold is higher than the number of shares")
    if any(a >= b for a, b in pairwise((*note.without, note.epoch))):
        raise MalformedError("epoch note: what the older keys lack are former epochs, in order")
    first = note.epoch == 1
    if first != (note.previous is None):
        raise MalformedError("epoch note: exactly the first epoch has no previous one")
    if first and (note.authority is not None or note.ancestor is not None):
        raise MalformedError("epoch note: the first epoch is granted by a charter and has no ancestors")

"""Answers: a custodian's reply to a warrant request. Page: ``docs/spec/warrant.md``.

::

    exclave/answer/v1
    warrant <sha256 of the warrant's text>
    custodian <label>
    time <instant>
    approval <base64: key id, Ed25519 signature> <base64: key id, ML-DSA-44 signature>
    share <register id> <epoch> <index> <base64 sealed, 1168 bytes>       0 or more, sorted by register and epoch

The approval's two values are signature blobs over the warrant's text: assembled from enough answers, they make the
request a warrant. Each share is sealed anew to the machine that the warrant names. The answer is signed too.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.charter import MAX_CUSTODIANS
from exclave.formats.epochnote import MAX_EPOCH, SEALED_SHARE_BYTES
from exclave.formats.lines import LineReader
from exclave.formats.warrant import MAX_REGISTERS
from exclave.ids import (
    Digest,
    Epoch,
    Instant,
    Label,
    RegisterId,
    b64,
    instant_text,
    parse_b64,
    parse_digest,
    parse_instant,
    parse_label,
    parse_positive,
    parse_register_id,
    sha256,
)

HEADER = "exclave/answer/v1"
ED25519_APPROVAL_BYTES = 4 + 64
MLDSA44_APPROVAL_BYTES = 4 + 2420
MAX_SHARE_LINES = MAX_REGISTERS
MAX_ANSWER_CHARS = 900 << 10


@dataclass(frozen=True, slots=True)
class ResealedShare:
    """One share, sealed to the machine that a warrant names."""

    register: RegisterId
    epoch: Epoch
    index: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer whose form is right and whose signatures nobody has checked yet."""

    warrant: Digest
    custodian: Label
    time: Instant
    """The custodian's own clock; informs people, decides nothing."""
    approval_ed25519: bytes
    """Key id (4 bytes) and signature over the warrant's text."""
    approval_mldsa44: bytes
    shares: tuple[ResealedShare, ...]

    def encode(self) -> str:
        lines = [
            HEADER,
            f"warrant {self.warrant.hex()}",
            f"custodian {self.custodian}",
            f"time {instant_text(self.time)}",
            f"approval {b64(self.approval_ed25519)} {b64(self.approval_mldsa44)}",
            *(f"share {s.register} {s.epoch} {s.index} {b64(s.sealed)}" for s in self.shares),
        ]
        return "\n".join(lines) + "\n"

    @property
    def digest(self) -> Digest:
        """SHA-256 of the text."""
        return sha256(self.encode().encode())


def parse_answer(text: str) -> ParsedAnswer:
    """Strict inverse of ``ParsedAnswer.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="answer", limit=MAX_ANSWER_CHARS)
    lines.exactly(HEADER)
    warrant = parse_digest(lines.field("warrant"))
    custodian = parse_label(lines.field("custodian"))
    time = parse_instant(lines.field("time"))
    ed25519, mldsa44 = lines.fields("approval", 2)
    answer = ParsedAnswer(
        warrant=warrant,
        custodian=custodian,
        time=time,
        approval_ed25519=parse_b64(ed25519, length=ED25519_APPROVAL_BYTES),
        approval_mldsa44=parse_b64(mldsa44, length=MLDSA44_APPROVAL_BYTES),
        shares=_shares(lines),
    )
    lines.end()
    if answer.encode() != text:
        raise MalformedError("an answer is not in its one canonical form")
    return answer


def reseal_info(warrant: Digest, register: RegisterId, epoch: Epoch, index: int) -> bytes:
    """HPKE info of a share sealed to the machine of ``warrant``."""
    return f"exclave/reseal/v1\n{warrant.hex()}\n{register}\n{epoch}\n{index}\n".encode()


def _shares(lines: LineReader) -> tuple[ResealedShare, ...]:
    found: list[ResealedShare] = []
    while lines.peek() == "share":
        register, epoch, index, sealed = lines.fields("share", 4)
        share = ResealedShare(
            register=parse_register_id(register),
            epoch=Epoch(parse_positive(epoch, limit=MAX_EPOCH)),
            index=parse_positive(index, limit=MAX_CUSTODIANS),
            sealed=parse_b64(sealed, length=SEALED_SHARE_BYTES),
        )
        if found and (found[-1].register, found[-1].epoch) >= (share.register, share.epoch):
            raise lines.fail("shares must be sorted and different")
        found.append(share)
        if len(found) > MAX_SHARE_LINES:
            raise lines.fail(f"more than {MAX_SHARE_LINES} shares")
    return tuple(found)

"""What is asked of a witness and what it answers (C2SP tlog-witness v1.0.0). Page: ``docs/spec/witness.md``.

Request::

    old <size of the tree that the witness cosigned last>
    <base64 of a hash>                                        (0 to 63: RFC 6962 consistency proof)
    <empty line>
    <checkpoint: a signed note>

Answer: signature lines of a note; or a tree size and a newline, as ``text/x.tlog.size``.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, parse_checkpoint
from exclave.formats.note import ParsedNote, Signature, parse_note
from exclave.ids import Digest, b64, parse_b64, parse_count

MAX_PROOF_LINES = 63
MAX_REQUEST_BYTES = MAX_CHECKPOINT_BYTES + 4096
MAX_ANSWER_BYTES = 32 << 10
SIZE_TYPE = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """One request: the log grew from ``old`` entries to ``checkpoint``, as ``proof`` shows. Nothing is verified."""

    old: int
    proof: tuple[Digest, ...]
    note: ParsedNote
    checkpoint: Checkpoint
    """What the note says."""

    def encode(self) -> bytes:
        lines = "".join(f"{b64(step)}\n" for step in self.proof)
        return f"old {self.old}\n{lines}\n".encode() + self.note.encode()


def parse_add_checkpoint(data: bytes) -> AddCheckpoint:
    """Strict inverse of ``AddCheckpoint.encode``. Raises ``MalformedError``."""
    if len(data) > MAX_REQUEST_BYTES:
        raise MalformedError(f"a request to a witness is longer than {MAX_REQUEST_BYTES} bytes")
    head, gap, body = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise MalformedError("a request to a witness does not start with ASCII lines") from error
    keyword, space, size = lines[0].partition(" ")
    if not gap or keyword != "old" or not space or len(lines) - 1 > MAX_PROOF_LINES:
        raise MalformedError("a request to a witness does not start with an old size and at most 63 hashes")
    note = parse_note(body)
    proof = tuple(Digest(parse_b64(line, length=32)) for line in lines[1:])
    request = AddCheckpoint(parse_count(size), proof, note, parse_checkpoint(note.text))
    if request.encode() != data:
        raise MalformedError("a request to a witness is not in its one canonical form")
    return request


def encode_signatures(signatures: tuple[Signature, ...]) -> bytes:
    """Signature lines, as they stand in a note."""
    return ParsedNote("", signatures).encode()[1:]


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Strict inverse of ``encode_signatures``; at least one. Raises ``MalformedError``."""
    if len(data) > MAX_ANSWER_BYTES:
        raise MalformedError(f"a witness's answer is longer than {MAX_ANSWER_BYTES} bytes")
    note = parse_note(b"-\n\n" + data)
    if note.text != "-\n":
        raise MalformedError("a witness's answer is more than signature lines")
    return note.signatures


def encode_size(size: int) -> bytes:
    return f"{size}\n".encode()


def parse_size(data: bytes) -> int:
    """The tree size that a witness answers. Raises ``MalformedError``."""
    if not data.endswith(b"\n") or len(data) > 32 or not data.isascii():
        raise MalformedError("a witness's answer is not a tree size")
    return parse_count(data[:-1].decode("ascii"))

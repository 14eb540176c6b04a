"""What a reader was shown of a state: the heads of its ledgers, as signed. Page: ``docs/spec/seen.md``.

::

    exclave/seen/v1
    state <fingerprint>
    time <instant>                                                 by the reader's clock
    charter <number> <digest of its text>                          the newest one
    log <register id> <epoch> <digest of the epoch note's text>    0 or more blocks, sorted, each followed by:
    head <size> <root, base64>
    signature <name> <key id and signature, base64>                1 or more, as in the checkpoint
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from exclave.errors import MalformedError
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, parse_checkpoint
from exclave.formats.lines import LineReader, text_of
from exclave.formats.note import MAX_SIGNATURES, ParsedNote, Signature, parse_note
from exclave.formats.paths import ledger_origin
from exclave.ids import (
    Digest,
    Epoch,
    Fingerprint,
    Instant,
    RegisterId,
    b64,
    instant_text,
    parse_b64,
    parse_count,
    parse_digest,
    parse_fingerprint,
    parse_instant,
    parse_positive,
    parse_register_id,
)

HEADER = "exclave/seen/v1"
MAX_SEEN_BYTES = 64 << 20
MAX_LOGS = 100_000
MAX_LINES = 1 << 20
"""Lines have a hundred bytes and more. Short ones would cost a reader twenty times their bytes in memory."""
_KEY_ID_BYTES = 4
_MAX_SIGNATURE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class SeenLog:
    """One epoch's log, and its head as a signed note. Nobody has checked the signatures."""

    register: RegisterId
    epoch: Epoch
    epoch_note: Digest
    checkpoint: bytes

    @property
    def place(self) -> tuple[RegisterId, Epoch, Digest]:
        """Which log it is."""
        return self.register, self.epoch, self.epoch_note

    def encode(self) -> str:
        note = parse_note(self.checkpoint)
        head = parse_checkpoint(note.text)
        lines = [f"log {self.register} {self.epoch} {self.epoch_note.hex()}", f"head {head.size} {b64(head.root)}"]
        lines += [f"signature {s.name} {b64(s.key_id + s.blob)}" for s in note.signatures]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one reader was shown at one time."""

    state: Fingerprint
    time: Instant
    charter: int
    charter_digest: Digest
    logs: tuple[SeenLog, ...]

    def encode(self) -> bytes:
        head = f"{HEADER}\nstate {self.state}\ntime {instant_text(self.time)}\n"
        head += f"charter {self.charter} {self.charter_digest.hex()}\n"
        return (head + "".join(log.encode() for log in self.logs)).encode()


def parse_seen(data: bytes) -> Seen:
    """Strict inverse of ``Seen.encode``. Raises ``MalformedError``."""
    what = "what a reader saw"
    if data.count(b"\n") > MAX_LINES:
        raise MalformedError(f"{what} has more than {MAX_LINES} lines")
    lines = LineReader(text_of(data, MAX_SEEN_BYTES, what), what=what, limit=MAX_SEEN_BYTES)
    lines.exactly(HEADER)
    state, time = parse_fingerprint(lines.field("state")), parse_instant(lines.field("time"))
    number, digest = lines.fields("charter", 2)
    logs: list[SeenLog] = []
    while lines.peek() == "log" and len(logs) <= MAX_LOGS:
        logs.append(_log(lines, state))
    lines.end()
    if len(logs) > MAX_LOGS or any(a.place >= b.place for a, b in pairwise(logs)):
        raise MalformedError(f"what a reader saw has more than {MAX_LOGS} logs, or they are not sorted and different")
    seen = Seen(state, time, parse_positive(number, limit=99_999_999), parse_digest(digest), tuple(logs))
    if seen.encode() != data:
        raise MalformedError("what a reader saw is not in its one canonical form")
    return seen


def _log(lines: LineReader, state: Fingerprint) -> SeenLog:
    named, epoch_text, note = lines.fields("log", 3)
    register, epoch = parse_register_id(named), Epoch(parse_positive(epoch_text, limit=2**32 - 1))
    size, root = lines.fields("head", 2)
    head = Checkpoint(ledger_origin(state, register, epoch), parse_count(size), Digest(parse_b64(root, length=32)))
    signatures: list[Signature] = []
    while lines.peek() == "signature" and len(signatures) < MAX_SIGNATURES:
        name, coded = lines.fields("signature", 2)
        blob = parse_b64(coded, limit=_MAX_SIGNATURE_BYTES)
        signatures.append(Signature(name, blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:]))
    checkpoint = ParsedNote(head.encode(), tuple(signatures)).encode()
    if len(checkpoint) > MAX_CHECKPOINT_BYTES:
        raise lines.fail(f"a head with its signatures is longer than {MAX_CHECKPOINT_BYTES} bytes")
    if parse_note(checkpoint).text != head.encode():
        raise lines.fail("a head and its signatures are no signed note")
    return SeenLog(register, epoch, parse_digest(note), checkpoint)

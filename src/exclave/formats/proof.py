"""Proofs of single records: one file that stands alone. Page: ``docs/spec/proof.md``.

::

    exclave/proof/v1
    Proves that a record stood in a register. Check it: exclave verify --proof FILE --fingerprint FINGERPRINT
    state <fingerprint>
    register <id>
    version <sequence>
    time <instant>
    dataset <label>
    record file <path, percent-encoded> | record row of <table>
    charter | card | warrant | epoch | entry                        blocks, in this order: 1 or more, warrants 0 or more
     <the text, each line after one space>
    record-text | salt                                              one each
     <base64, 76 characters to a line, each after one space>
    way <base64 of 32 bytes>                                          0 to 64 lines
    cut <base64 of 32 bytes>                                          0 to 64 lines
    <empty line>
    <C2SP tlog-proof of the entry, to the end of the file>

The lines before the blocks say in words what the blocks prove; a reader compares them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import quote

from exclave.errors import MalformedError
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES
from exclave.formats.leaf import VersionLeaf, parse_version_leaf
from exclave.formats.note import MAX_NOTE_BYTES
from exclave.formats.record import MAX_RECORD_BYTES, MAX_STEPS, SALT_BYTES, FileRecord, Opening, RowRecord, parse_record
from exclave.formats.tile import MAX_ENTRY_BYTES
from exclave.ids import (
    Digest,
    Fingerprint,
    b64,
    instant_text,
    parse_b64,
    parse_count,
    parse_fingerprint,
)

HEADER: Final = "exclave/proof/v1"
ADVICE: Final = (
    "Proves that a record stood in a register. Check it: exclave verify --proof FILE --fingerprint FINGERPRINT"
)
TLOG_HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_PROOF_BYTES: Final = 32 << 20
MAX_LINES: Final = 1 << 21
"""Twice what charters of as many registers as there can be would fill it with. Empty lines alone would cost a reader
twenty times their bytes in memory."""
_WIDTH: Final = 76
_MOST: Final = {"charter": 1024, "card": 4096, "warrant": 1024, "epoch": 1024, "entry": 1, "record-text": 1, "salt": 1}
"""Blocks of a proof, in their order, and how many of each there may be."""
_LIMITS: Final = {"card": 8192, "entry": MAX_ENTRY_BYTES, "record-text": MAX_RECORD_BYTES, "salt": SALT_BYTES}
_TEXTS: Final = frozenset({"charter", "card", "warrant", "epoch", "entry"})
"""Blocks that are text already, and whose long lines are base64: once more would make a third more of them."""
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A C2SP tlog-proof without extra data: that an entry is number ``index`` of the log with ``checkpoint``."""

    index: int
    path: tuple[Digest, ...]
    checkpoint: bytes
    """The signed note. Unverified."""

    def encode(self) -> bytes:
        lines = [TLOG_HEADER, f"index {self.index}", *map(b64, self.path)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint


@dataclass(frozen=True, slots=True)
class ParsedProof:
    """A proof whose form is right. Nothing in it is verified: see ``verify/proof.py``."""

    state: Fingerprint
    charters: tuple[bytes, ...]
    """Signed notes from number 1 on, each with good signatures alone."""
    cards: tuple[bytes, ...]
    warrants: tuple[bytes, ...]
    epochs: tuple[bytes, ...]
    """Signed notes of the register's epochs from 1 on."""
    entry: bytes
    """The version's leaf as it stands in the ledger."""
    opening: Opening
    cut: tuple[Digest, ...]
    """If another epoch follows: that the entry stands in what the successor's note leaves of the log."""
    tlog: TlogProof

    def encode(self) -> bytes:
        """``MalformedError`` if entry or record are none: what could not be told to people is no proof."""
        leaf, record = parse_version_leaf(self.entry), parse_record(self.opening.record)
        blocks: list[tuple[str, Iterable[bytes]]] = [
            ("charter", self.charters), ("card", self.cards), ("warrant", self.warrants), ("epoch", self.epochs),
            ("entry", [self.entry]), ("record-text", [self.opening.record]), ("salt", [self.opening.salt]),
        ]  # fmt: skip
        made = _head(self.state, leaf, record)
        made += [line for name, parts in blocks for part in parts for line in _block(name, part)]
        made += [f"way {b64(step)}" for step in self.opening.path] + [f"cut {b64(step)}" for step in self.cut]
        return "".join(f"{line}\n" for line in made).encode() + b"\n" + self.tlog.encode()


def parse_proof(data: bytes) -> ParsedProof:
    """Strict inverse of ``ParsedProof.encode``. Raises ``MalformedError``."""
    if len(data) > MAX_PROOF_BYTES:
        raise MalformedError(f"a proof is longer than {MAX_PROOF_BYTES} bytes")
    if data.count(b"\n") > MAX_LINES:
        raise MalformedError(f"a proof has more than {MAX_LINES} lines")
    head, gap, tail = data.partition(f"\n\n{TLOG_HEADER}\n".encode())
    if not gap or not data.startswith(f"{HEADER}\n".encode()):
        raise MalformedError(
            "this is no proof of a record, or its end is missing", hint="Ask for the whole file again."
        )
    lines = _Lines(head)
    lines.at = 8  # header, advice and what is told to people: compared below
    state = _field(lines.all[2] if len(lines.all) > 2 else "", "state", parse_fingerprint)
    blocks = {name: lines.blocks(name, most) for name, most in _MOST.items()}
    if not all(blocks[name] for name in _MOST if name != "warrant"):
        raise MalformedError("a proof lacks a charter, a card, an epoch, its entry, its record or its salt")
    ways = [lines.steps(name) for name in ("way", "cut")]
    lines.end()
    opening = Opening(blocks["record-text"][0], blocks["salt"][0], ways[0])
    proof = ParsedProof(
        state, blocks["charter"], blocks["card"], blocks["warrant"], blocks["epoch"], blocks["entry"][0], opening,
        ways[1], _parse_tlog(tail),
    )  # fmt: skip
    if proof.encode() != data:
        raise MalformedError("a proof is not in its one form, or its first lines say something else than it proves")
    return proof


def _head(state: Fingerprint, leaf: VersionLeaf, record: FileRecord | RowRecord) -> list[str]:
    what = f"file {quote(record.path, safe='/')}" if isinstance(record, FileRecord) else f"row of {record.table}"
    return [
        HEADER, ADVICE, f"state {state}", f"register {leaf.register}", f"version {leaf.sequence}",
        f"time {instant_text(leaf.time)}", f"dataset {record.dataset}", f"record {what}",
    ]  # fmt: skip


def _block(name: str, data: bytes) -> list[str]:
    if name in _TEXTS:
        whole = _text(data)
        if not whole.endswith("\n"):
            raise MalformedError(f"a proof's block {name!r} does not end with its last line")
        return [name, *(f" {line}" for line in whole[:-1].split("\n"))]
    text = b64(data)
    return [name, *(f" {text[at : at + _WIDTH]}" for at in range(0, len(text), _WIDTH))]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("a proof's lines are not UTF-8") from error


def _parse_tlog(tail: bytes) -> TlogProof:
    """What follows the tlog-proof's first line."""
    head, gap, checkpoint = tail.partition(b"\n\n")
    lines = _Lines(head)
    if not gap or len(checkpoint) > MAX_CHECKPOINT_BYTES:
        raise MalformedError("a proof has no checkpoint, or one that is too long")
    index = _field(lines.take(), "index", parse_count)
    hashes = lines.all[1:]
    if len(hashes) > MAX_STEPS:
        raise MalformedError("a proof has too many hashes")
    return TlogProof(index, tuple(Digest(parse_b64(text, length=32)) for text in hashes), checkpoint)


def _field(line: str, keyword: str, parse: Callable[[str], Value]) -> Value:
    first, _, value = line.partition(" ")
    if first != keyword:
        raise MalformedError(f"a proof: expected {keyword!r}")
    return parse(value)


class _Lines:
    """Walks the lines of a proof's head."""

    def __init__(self, data: bytes) -> None:
        self.all = _text(data).split("\n")
        self.at = 0

    def take(self) -> str:
        if self.at >= len(self.all):
            raise MalformedError("a proof is cut short")
        self.at += 1
        return self.all[self.at - 1]

    def _next_is(self, start: str) -> bool:
        return self.at < len(self.all) and self.all[self.at].startswith(start)

    def blocks(self, name: str, most: int) -> tuple[bytes, ...]:
        found: list[bytes] = []
        while self.at < len(self.all) and self.all[self.at] == name:
            if len(found) == most:
                raise MalformedError(f"a proof has more than {most} blocks {name!r}")
            self.at += 1
            start = self.at
            while self._next_is(" "):
                self.at += 1
            found.append(self._decoded(name, self.all[start : self.at]))
        return tuple(found)

    @staticmethod
    def _decoded(name: str, lines: Sequence[str]) -> bytes:
        limit = _LIMITS.get(name, MAX_NOTE_BYTES)
        if name in _TEXTS:
            found = "".join(f"{line[1:]}\n" for line in lines).encode()
            if not 0 < len(found) <= limit:
                raise MalformedError(f"a proof's block {name!r} is empty, or longer than {limit} bytes")
            return found
        if len(lines) > limit * 4 // 3 // _WIDTH + 2:
            raise MalformedError(f"a proof's block {name!r} is longer than {limit} bytes")
        try:
            return base64.b64decode("".join(line[1:] for line in lines), validate=True)
        except ValueError as error:  # also for letters beyond ASCII
            raise MalformedError(f"a proof's block {name!r} is not base64") from error

    def steps(self, name: str) -> tuple[Digest, ...]:
        found: list[Digest] = []
        while self._next_is(f"{name} "):
            if len(found) == MAX_STEPS:
                raise MalformedError(f"a proof has more than {MAX_STEPS} lines {name!r}")
            found.append(Digest(parse_b64(self.take()[len(name) + 1 :], length=32)))
        return tuple(found)

    def end(self) -> None:
        if self.at != len(self.all):
            raise MalformedError(f"a proof: unexpected line {self.at + 1}")

"""Signed notes (C2SP signed-note v1.0.0). Page: ``docs/spec/note.md``.

::

    <text: one or more lines, each ended by a newline>
    <empty line>
    — <key name> <base64 of: key id (4 bytes) || signature>          (one or more lines)

The key id is SHA-256(key name || 0x0A || type || public key)[:4]. Types used here: 0x01 Ed25519 over the text;
0xff ``exclave/ml-dsa-44`` (an unassigned type with its own identifier) ML-DSA-44 over the text; 0x04 and 0x06, the
timestamped cosignatures of checkpoints, see ``formats/checkpoint.py``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from exclave.errors import MalformedError
from exclave.ids import Digest, b64, parse_b64, sha256

ED25519: Final = b"\x01"
MLDSA44: Final = b"\xffexclave/ml-dsa-44"
COSIGNATURE_ED25519: Final = b"\x04"
COSIGNATURE_MLDSA44: Final = b"\x06"

MAX_NOTE_BYTES = 1 << 20
MAX_SIGNATURES = 100
_NAME = re.compile(r"[^\s+]{1,255}\Z")
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Unicode's categories Cc without the newline, and Cs; neither grows with later versions of Unicode."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who says so (``name``, ``key_id``: 4 bytes) and the signature's own bytes. Unverified."""

    name: str
    key_id: bytes
    blob: bytes


@dataclass(frozen=True, slots=True)
class ParsedNote:
    """A note whose form is right and whose signatures nobody has checked yet."""

    text: str
    signatures: tuple[Signature, ...]

    @property
    def digest(self) -> Digest:
        """SHA-256 of the text alone: it stays the same when further people sign."""
        return sha256(self.text.encode())

    def encode(self) -> bytes:
        lines = [f"— {s.name} {b64(s.key_id + s.blob)}\n" for s in self.signatures]
        return (self.text + "\n" + "".join(lines)).encode()

    def with_signatures(self, *more: Signature) -> ParsedNote:
        """This note with ``more`` signatures; one that is there already is not repeated."""
        new = [s for s in more if s not in self.signatures]
        return replace(self, signatures=self.signatures + tuple(new))


def key_id(name: str, kind: bytes, public: bytes) -> bytes:
    """The 4-byte key id of a key of type ``kind`` under ``name``."""
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def verifier_key(name: str, kind: bytes, public: bytes) -> str:
    """A key in the text form that C2SP tools take: ``name+hex(id)+base64(type || key)``."""
    return f"{name}+{key_id(name, kind, public).hex()}+{b64(kind + public)}"


def parse_note(data: bytes) -> ParsedNote:
    """Strict inverse of ``ParsedNote.encode``; at least one signature line. Raises ``MalformedError``."""
    if len(data) > MAX_NOTE_BYTES:
        raise MalformedError(f"a note is longer than {MAX_NOTE_BYTES} bytes")
    return _parse_large(data) if len(data) > _LARGE_BYTES else _parse(data)


def _parse(data: bytes) -> ParsedNote:
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("a note is not UTF-8 text") from error
    body, gap, tail = whole.rpartition("\n\n")
    if not gap or not tail.endswith("\n"):
        raise MalformedError("a note has no signature block")
    check_note_text(body + "\n")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise MalformedError(f"a note has more than {MAX_SIGNATURES} signatures")
    note = ParsedNote(body + "\n", tuple(_parse_signature(line) for line in lines))
    if len(set(note.signatures)) != len(note.signatures) or note.encode() != data:
        raise MalformedError("a note is not in its one canonical form")
    return note


_LARGE_BYTES = 32 << 10
_parse_large = lru_cache(maxsize=8)(_parse)
"""A charter of many registers, which every site shows: parsed a dozen times for each backup otherwise."""


def check_note_text(text: str) -> None:
    """Raises ``MalformedError`` unless ``text`` can be a note's text."""
    if not text.endswith("\n") or len(text) < 2:
        raise MalformedError("a note's text is empty or does not end with a newline")
    if _CONTROL.search(text):
        raise MalformedError("a note's text holds control characters")


def _parse_signature(line: str) -> Signature:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "—" or not _NAME.match(parts[1]):
        raise MalformedError(f"not a signature line: {line[:60]!r}")
    blob = parse_b64(parts[2], limit=8192)
    if len(blob) < 5:
        raise MalformedError("a signature is too short")
    return Signature(parts[1], blob[:4], blob[4:])

"""Checkpoints: the head of a log (C2SP tlog-checkpoint v1.0.0), and what signatures cover. See ``docs/spec/ledger.md``.

::

    <origin>
    <size, decimal>
    <base64 of the 32-byte RFC 6962 root hash>

Extension lines are refused: the ML-DSA-44 cosignature does not cover them. The ``…_message`` functions give the bytes
that each signature type covers; ``encode_timed`` and ``parse_timed`` its form on the signature line (C2SP
tlog-cosignature).
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from typing import Final

from exclave.errors import MalformedError
from exclave.ids import Digest, b64, parse_b64, parse_count

MAX_CHECKPOINT_BYTES = 64 << 10
"""Largest checkpoint with all its signatures: what a site keeps under a replaceable name. Some 17 witnesses fit."""
MAX_ORIGIN_BYTES = 255
LAST_TIME_S = 253_402_300_799
"""9999-12-31T23:59:59Z: the last time that can be printed."""

_EMPTY_ROOT = Digest(hashlib.sha256(b"").digest())
_ORIGIN = re.compile(r"[^\s+\x00-\x20\x7f]+\Z")
_SUBTREE_LABEL: Final = b"subtree/v1\n\0"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says. Who signed it is another question: see ``rules/checkpoints.py``."""

    origin: str
    size: int
    """Number of leaves."""
    root: Digest

    def encode(self) -> str:
        return f"{self.origin}\n{self.size}\n{b64(self.root)}\n"


def check_origin(origin: str) -> str:
    """``origin`` if it can be an origin line and a key name, else ``MalformedError``."""
    if not _ORIGIN.match(origin) or len(origin.encode("utf-8", "replace")) > MAX_ORIGIN_BYTES:
        raise MalformedError(f"not a log's origin: {origin[:80]!r}")
    return origin


def parse_checkpoint(text: str) -> Checkpoint:
    """Strict inverse of ``Checkpoint.encode``. Raises ``MalformedError``."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise MalformedError("a checkpoint has exactly three lines")
    root = Digest(parse_b64(lines[2], length=32))
    checkpoint = Checkpoint(check_origin(lines[0]), parse_count(lines[1]), root)
    if checkpoint.size == 0 and root != _EMPTY_ROOT:
        raise MalformedError("a checkpoint of an empty log has another root than the empty tree's")
    if checkpoint.encode() != text:
        raise MalformedError("a checkpoint is not in its one canonical form")
    return checkpoint


def log_message(checkpoint: Checkpoint) -> bytes:
    """Covered by the log's own Ed25519 signature, type 0x01: the checkpoint's text."""
    return checkpoint.encode().encode()


def ed25519_cosignature_message(checkpoint: Checkpoint, time_s: int) -> bytes:
    """Covered by an Ed25519 cosignature, type 0x04. ``time_s``: seconds since 1970."""
    return f"cosignature/v1\ntime {_check_time(time_s)}\n{checkpoint.encode()}".encode()


def mldsa44_cosignature_message(name: str, checkpoint: Checkpoint, time_s: int) -> bytes:
    """Covered by ``name``'s ML-DSA-44 cosignature, type 0x06, of a whole checkpoint (a subtree from leaf 0)."""
    return subtree_message(name, _check_time(time_s), checkpoint.origin, (0, checkpoint.size), checkpoint.root)


def subtree_message(name: str, time_s: int, origin: str, leaves: tuple[int, int], root: Digest) -> bytes:
    """The ``cosigned_message`` of C2SP tlog-cosignature, for the subtree of ``leaves`` (first, end) of any log."""
    who, log = check_origin(name).encode(), check_origin(origin).encode()
    parts = (_SUBTREE_LABEL, bytes([len(who)]), who, struct.pack(">Q", time_s), bytes([len(log)]), log)
    return b"".join(parts) + struct.pack(">QQ", *leaves) + root


def encode_timed(time_s: int, signature: bytes) -> bytes:
    """The blob of a cosignature: seconds since 1970 (8 bytes, big-endian) || signature."""
    return struct.pack(">Q", _check_time(time_s)) + signature


def parse_timed(blob: bytes, signature_bytes: int) -> tuple[int, bytes]:
    """Time in seconds and signature of a cosignature's blob. Raises ``MalformedError``."""
    if len(blob) != 8 + signature_bytes:
        raise MalformedError("a cosignature has an unexpected length")
    (time_s,) = struct.unpack(">Q", blob[:8])
    return _check_time(time_s), blob[8:]


def _check_time(time_s: int) -> int:
    # Zero would mean "no statement about time or size": not what a log or a witness of ours says.
    if not 0 < time_s <= LAST_TIME_S:
        raise MalformedError("a cosignature's time is outside of 1970 to 9999")
    return time_s

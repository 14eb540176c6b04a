"""Key cards: the public keys of one custodian, writer, machine or witness. Page: ``docs/spec/keys.md``.

::

    exclave/card/v1
    name <label>
    ed25519 <base64, 32 bytes>
    ml-dsa-44 <base64, 1312 bytes>
    mlkem768-x25519 <base64, 1216 bytes>

Signed texts name a card by the SHA-256 of this text, so that they stay short enough to be read and printed.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader
from exclave.formats.note import ED25519, MLDSA44, key_id
from exclave.ids import Digest, Label, b64, parse_b64, parse_label, sha256

HEADER = "exclave/card/v1"
MAX_CARD_CHARS = 8192


@dataclass(frozen=True, slots=True)
class Card:
    """Public keys under one name. Says nothing about who holds them: a charter or warrant does, by ``digest``."""

    name: Label
    ed25519: bytes
    mldsa44: bytes
    sealing: bytes
    """MLKEM768-X25519 public key: what is sealed to it, only the holder opens."""

    def encode(self) -> str:
        return (
            f"{HEADER}\nname {self.name}\ned25519 {b64(self.ed25519)}\n"
            f"ml-dsa-44 {b64(self.mldsa44)}\nmlkem768-x25519 {b64(self.sealing)}\n"
        )

    @property
    def digest(self) -> Digest:
        """SHA-256 of the card's text."""
        return sha256(self.encode().encode())

    def note_key_ids(self) -> tuple[bytes, bytes]:
        """Key ids (4 bytes each) of this card's Ed25519 and ML-DSA-44 signatures on ordinary notes."""
        return key_id(self.name, ED25519, self.ed25519), key_id(self.name, MLDSA44, self.mldsa44)


def parse_card(data: bytes) -> Card:
    """Strict inverse of ``Card.encode``. Raises ``MalformedError``."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedError("a key card is not ASCII text") from error
    lines = LineReader(text, what="key card", limit=MAX_CARD_CHARS)
    lines.exactly(HEADER)
    card = Card(
        name=parse_label(lines.field("name")),
        ed25519=parse_b64(lines.field("ed25519"), length=32),
        mldsa44=parse_b64(lines.field("ml-dsa-44"), length=1312),
        sealing=parse_b64(lines.field("mlkem768-x25519"), length=1216),
    )
    lines.end()
    if card.encode() != text:
        raise MalformedError("a key card is not in its one canonical form")
    return card

"""Who signed a note. A signer counts only if both its Ed25519 and its ML-DSA-44 signature verify."""

from __future__ import annotations

from collections.abc import Iterable

from exclave.crypto.hpke import OpeningKey
from exclave.crypto.sign import SigningPair, verify_ed25519, verify_mldsa44
from exclave.errors import CorruptObject, NotAuthorised
from exclave.formats.card import Card
from exclave.formats.note import ED25519, MLDSA44, ParsedNote, Signature, check_note_text, key_id
from exclave.ids import Label


def card_of(name: Label, signing: SigningPair, opening: OpeningKey) -> Card:
    """The public card of a holder of private keys."""
    return Card(name, signing.ed25519_public, signing.mldsa44_public, opening.public.raw)


def sign_text(text: str, name: Label, pair: SigningPair) -> tuple[Signature, Signature]:
    """``name``'s Ed25519 and ML-DSA-44 signatures on a note's ``text``."""
    check_note_text(text)
    message = text.encode()
    return (
        Signature(name, key_id(name, ED25519, pair.ed25519_public), pair.sign_ed25519(message)),
        Signature(name, key_id(name, MLDSA44, pair.mldsa44_public), pair.sign_mldsa44(message)),
    )


def verify_signed_by(note: ParsedNote, card: Card) -> None:
    """Returns if ``card``'s holder signed ``note`` with both keys.

    Raises ``NotAuthorised`` if a signature is missing, ``CorruptObject`` if one is there and wrong.
    """
    message = note.text.encode()
    first, second = card.note_key_ids()
    found = {s.key_id: s.blob for s in note.signatures if s.name == card.name}
    if first not in found or second not in found:
        raise NotAuthorised(f"{card.name} has not signed this", signer=card.name)
    verify_ed25519(card.ed25519, found[first], message)
    verify_mldsa44(card.mldsa44, found[second], message)


def signers(note: ParsedNote, cards: Iterable[Card]) -> frozenset[Label]:
    """Names of those ``cards`` whose holders signed ``note`` rightly; a wrong signature counts as none."""
    good: set[Label] = set()
    for card in cards:
        try:
            verify_signed_by(note, card)
        except (NotAuthorised, CorruptObject):
            continue
        good.add(card.name)
    return frozenset(good)

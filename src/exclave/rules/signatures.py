"""Who signed a note. A signer counts only if both its Ed25519 and its ML-DSA-44 signature verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from exclave.crypto.hpke import OpeningKey
from exclave.crypto.sign import SigningPair, verify_ed25519, verify_mldsa44
from exclave.errors import CorruptObject, ExclaveError, NotAuthorised
from exclave.formats.card import Card
from exclave.formats.note import ED25519, MLDSA44, ParsedNote, Signature, check_note_text, key_id
from exclave.ids import Label

MAX_TRIES = 8
"""Lines of one key that are tried in one note. Its holder makes one; a note with more is spoilt, and a spoilt copy
hides nothing, because copies are judged one by one."""


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
    good_signatures(note, card)


def good_signatures(note: ParsedNote, card: Card) -> tuple[Signature, Signature]:
    """The lines of ``note`` by which ``card``'s holder signed it with both keys; errors as of ``verify_signed_by``.

    Anybody can add lines under his name and key ids, so every one counts that verifies, of the first ``MAX_TRIES``.
    """
    message = note.text.encode()
    first, second = card.note_key_ids()
    mine = [s for s in note.signatures if s.name == card.name]
    return (
        _first_good(card, [s for s in mine if s.key_id == first], lambda b: verify_ed25519(card.ed25519, b, message)),
        _first_good(card, [s for s in mine if s.key_id == second], lambda b: verify_mldsa44(card.mldsa44, b, message)),
    )


def _first_good(card: Card, lines: Sequence[Signature], verify: Callable[[bytes], None]) -> Signature:
    problem: ExclaveError = NotAuthorised(f"{card.name} has not signed this", signer=card.name)
    for line in lines[:MAX_TRIES]:
        try:
            verify(line.blob)
        except CorruptObject as error:
            problem = error
        else:
            return line
    raise problem


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

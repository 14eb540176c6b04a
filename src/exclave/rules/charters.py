"""The chain of charters, from the pinned fingerprint to the newest one. Pages: ``docs/spec/charter.md``.

Number 1 is right if its text has the pinned hash and enough of its own custodians signed it. Each later one needs
enough custodians of its predecessor and enough of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Forked,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    QuorumMissing,
    WrongFingerprint,
)
from exclave.formats.card import Card
from exclave.formats.charter import CharterWitness, Custodian, ParsedCharter, parse_charter
from exclave.formats.note import ParsedNote, parse_note
from exclave.ids import Digest, Fingerprint, Label
from exclave.rules.signatures import signers


@dataclass(frozen=True, slots=True)
class VerifiedCharter:
    """A charter that stands in a chain from the pinned fingerprint. Built only by this module."""

    charter: ParsedCharter
    digest: Digest
    cards: tuple[Card, ...]
    """Key cards of its custodians, as far as they were at hand."""
    signers: frozenset[Label]
    """Those of its own custodians who signed it."""


@dataclass(frozen=True, slots=True)
class CharterChain:
    """All charters of one state in order, none missing. Built only by this module."""

    state: Fingerprint
    charters: tuple[VerifiedCharter, ...]

    @property
    def newest(self) -> VerifiedCharter:
        return self.charters[-1]

    def find(self, digest: Digest) -> VerifiedCharter | None:
        """The charter whose text has this digest, or None."""
        return next((c for c in self.charters if c.digest == digest), None)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A note that was found and does not count, and why. Anybody may have planted it, so it stops nothing."""

    what: str
    digest: Digest | None
    """Of the note's text, if it has one."""
    error: ExclaveError
    grave: bool = False
    """Not anybody: at least one custodian signed what it rests on, so it may be what somebody tries to hide."""

    @property
    def reason(self) -> str:
        return self.error.message


@dataclass(slots=True)
class _Found:
    """One charter text, and every copy of it with whatever signatures that copy carries."""

    charter: ParsedCharter
    digest: Digest
    copies: list[ParsedNote]

    @property
    def what(self) -> str:
        return f"charter {self.charter.number}"


def verify_charter_chain(notes: Sequence[bytes], cards: Mapping[Digest, Card], pinned: Fingerprint) -> CharterChain:
    """The chain that ``notes`` make up, if every one of them belongs to it; else what ``find_charter_chain`` says.

    Raises ``WrongFingerprint``, ``MissingObject`` (which number, or whose card), ``QuorumMissing`` (who signed, how
    many are missing), ``Forked``, ``CorruptObject``, ``MalformedError``.
    """
    found, rejected = _parse_all(notes)
    if not rejected:
        chain, rejected = _link(found, cards, pinned)
    if rejected:
        raise rejected[0].error
    return chain


def find_charter_chain(
    notes: Iterable[bytes], cards: Mapping[Digest, Card], pinned: Fingerprint
) -> tuple[CharterChain, tuple[Rejected, ...]]:
    """The longest valid chain in ``notes``, which may come from many sites, in any order, with planted ones among them.

    Copies of one text are taken together: signatures that one site lost may stand at another. Still raised are what
    nobody can plant: ``Forked`` (two texts, both signed by enough), and ``MissingObject`` for a gap below a charter
    that enough custodians of the newest known one signed. ``WrongFingerprint`` if none has the pinned hash.
    """
    found, unreadable = _parse_all(notes)
    chain, rejected = _link(found, cards, pinned)
    return chain, (*unreadable, *rejected)


def _link(
    found: dict[Digest, _Found], cards: Mapping[Digest, Card], pinned: Fingerprint
) -> tuple[CharterChain, list[Rejected]]:
    """The chain that starts at ``pinned``, and those texts that do not belong to it. Empties ``found``."""
    rejected: list[Rejected] = []
    first = found.pop(Digest(bytes.fromhex(pinned)), None)
    if first is None or first.charter.number != 1:
        raise _no_first(found.values(), first)
    chain = [_accept(first, None, cards)]
    while True:
        number = len(chain) + 1
        good: list[VerifiedCharter] = []
        for candidate in [f for f in found.values() if f.charter.number == number]:
            del found[candidate.digest]
            try:
                good.append(_accept(candidate, chain[-1], cards))
            except Forked:
                raise
            except (NotAuthorised, IntegrityError) as error:
                rejected.append(Rejected(candidate.what, candidate.digest, error))
        if len(good) > 1:
            raise Forked(f"two charters number {number} are signed by enough custodians", number=number)
        if not good:
            break
        chain.append(good[0])
    rejected.extend(_leftover(rest, chain[-1]) for rest in found.values())
    return CharterChain(pinned, tuple(chain)), rejected


def check_successor(previous: VerifiedCharter, draft: ParsedCharter) -> None:
    """Raises unless ``draft`` may follow ``previous``, signatures apart. For those who draft or sign one, too.

    ``MissingObject`` if the number leaves a gap, ``Forked`` if it follows another text, ``CorruptObject`` if time or
    an epoch goes back, or an epoch that was named already is given to another note.
    """
    before = previous.charter
    if draft.number != before.number + 1:
        raise MissingObject(f"charter {before.number + 1} is missing before charter {draft.number}")
    if draft.previous != previous.digest:
        raise Forked(f"charter {draft.number} follows another charter {before.number} than the one known here")
    if draft.issued < before.issued:
        raise CorruptObject(f"charter {draft.number} was issued before its predecessor")
    drafted = {rule.id: rule for rule in draft.registers}
    for rule in before.registers:
        after = drafted.get(rule.id)
        if after is None:
            continue
        if after.epoch < rule.epoch or (after.epoch == rule.epoch and after.epoch_note != rule.epoch_note):
            raise CorruptObject(f"charter {draft.number} takes back epoch {rule.epoch} of register {rule.id}")


def cards_of(people: Iterable[Custodian | CharterWitness], cards: Mapping[Digest, Card]) -> tuple[Card, ...]:
    """The cards at hand of a charter's custodians or witnesses, in its order; those not at hand are left out.

    ``CorruptObject`` if a card bears another name than the charter says, or two share a key: one person would count
    twice.
    """
    found: list[Card] = []
    keys: set[bytes] = set()
    for person in people:
        card = cards.get(person.card)
        if card is None or card.digest != person.card:
            continue
        if card.name != person.label:
            raise CorruptObject(f"the key card of {person.label} bears the name {card.name}")
        if keys & {card.ed25519, card.mldsa44, card.sealing}:
            raise CorruptObject(f"{person.label} shares a key with another name")
        keys |= {card.ed25519, card.mldsa44, card.sealing}
        found.append(card)
    return tuple(found)


def require_quorum(
    copies: Sequence[ParsedNote], charter: ParsedCharter, cards: Sequence[Card], what: str
) -> frozenset[Label]:
    """Names of ``charter``'s custodians who signed any of ``copies`` (all of one text), if they reach its threshold.

    ``MissingObject`` if that depends on cards that are not at hand, else ``QuorumMissing`` naming who has signed, how
    many are missing and who may still sign.
    """
    signed = frozenset(name for copy in copies for name in signers(copy, cards))
    need = charter.threshold - len(signed)
    if need <= 0:
        return signed
    known = {card.name for card in cards}
    claimed = {signature.name for copy in copies for signature in copy.signatures}
    blind = [c.label for c in charter.custodians if c.label not in known and c.label in claimed]
    if len(blind) >= need:
        raise MissingObject(f"{what}: the signatures of {', '.join(blind)} need their key cards, which are missing")
    names = ", ".join(sorted(signed))
    others = ", ".join(c.label for c in charter.custodians if c.label not in signed)
    raise QuorumMissing(
        f"{what}: {len(signed)} of the {charter.threshold} signatures that charter {charter.number} asks for"
        f" (signed: {names or 'nobody'}); {need} more needed from: {others}",
        signed=names,
        needed=need,
        candidates=others,
    )


def _parse_all(notes: Iterable[bytes]) -> tuple[dict[Digest, _Found], list[Rejected]]:
    found: dict[Digest, _Found] = {}
    rejected: list[Rejected] = []
    for place, data in enumerate(notes, 1):
        try:
            note = parse_note(data)
            digest = note.digest
            if digest in found:
                found[digest].copies.append(note)
            else:
                found[digest] = _Found(parse_charter(note.text), digest, [note])
        except MalformedError as error:
            rejected.append(Rejected(f"note {place}", None, error))
    return found, rejected


def _no_first(others: Iterable[_Found], pinned: _Found | None) -> ExclaveError:
    if pinned is not None:
        return WrongFingerprint(f"the pinned fingerprint is that of charter {pinned.charter.number}, not of the first")
    firsts = sorted(f.digest.hex() for f in others if f.charter.number == 1)
    if not firsts:
        return MissingObject("there is no first charter")
    return WrongFingerprint(f"the first charter here belongs to the state {', '.join(firsts[:3])}")


def _accept(found: _Found, head: VerifiedCharter | None, cards: Mapping[Digest, Card]) -> VerifiedCharter:
    charter = found.charter
    own = cards_of(charter.custodians, cards)
    if head is not None:
        require_quorum(found.copies, head.charter, head.cards, found.what)
    signed = require_quorum(found.copies, charter, own, found.what)
    if head is not None:
        check_successor(head, charter)
    return VerifiedCharter(charter, found.digest, own, signed)


def _leftover(found: _Found, head: VerifiedCharter) -> Rejected:
    number = head.charter.number
    if found.charter.number <= number:
        return Rejected(found.what, found.digest, WrongFingerprint(f"another {found.what} than that of this state"))
    gap = MissingObject(f"charter {number + 1} is missing before charter {found.charter.number}", number=number + 1)
    try:
        require_quorum(found.copies, head.charter, head.cards, found.what)
    except (NotAuthorised, IntegrityError):
        return Rejected(found.what, found.digest, gap)
    raise gap

"""The chain of a register's epochs: who may write, and where former writers were cut off. Page: ``docs/spec/epoch.md``.

Two things make an epoch: a charter that names its note by digest, or a warrant. A warrant to fail over or back gives
the pen to its own machine; one to rekey lets its machine make new keys, and the pen stays where it was. The newest
charter that lists the register closes the past: it names the epoch that was newest when it was issued, and
through the ``previous`` lines every one below. Above it, only warrants under that charter count, each for one epoch.
So custodians who were replaced, and machines whose warrants lie unused, can make no more epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exclave.crypto.hpke import SealingKey
from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Forked,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    WarrantForeign,
)
from exclave.formats.card import Card
from exclave.formats.epochnote import ParsedEpoch, parse_epoch
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.warrant import Act, ParsedWarrant, parse_warrant
from exclave.ids import Digest, Epoch, RegisterId
from exclave.rules.charters import CharterChain, Rejected, VerifiedCharter
from exclave.rules.signatures import verify_signed_by
from exclave.rules.warrants import AuthorisedWarrant, authorise_warrant

EPOCH_ACTS = frozenset({Act.FAILOVER, Act.FAILBACK, Act.REKEY})


@dataclass(frozen=True, slots=True)
class VerifiedEpoch:
    """An epoch that a charter or warrant granted. Built only by ``verify_epoch_chain``."""

    note: ParsedEpoch
    digest: Digest
    writer: Card
    charter: VerifiedCharter
    """The charter that granted it, or under which its warrant was signed; its custodians hold the shares."""
    warrant: AuthorisedWarrant | None
    maker: Card
    """Who made its keys and signed its note: the writer, or the machine of a warrant to rekey."""

    @property
    def number(self) -> Epoch:
        return self.note.epoch

    @property
    def register(self) -> RegisterId:
        return self.note.register

    @property
    def is_rekey(self) -> bool:
        """Whether it only changed keys: its writer is the one of the epoch before."""
        return self.warrant is not None and self.warrant.warrant.act is Act.REKEY


@dataclass(frozen=True, slots=True)
class EpochChain:
    """All epochs of a register from 1 up, and what was found beside them. Built only by ``verify_epoch_chain``."""

    register: RegisterId
    epochs: tuple[VerifiedEpoch, ...]
    rejected: tuple[Rejected, ...]

    @property
    def newest(self) -> VerifiedEpoch:
        return self.epochs[-1]

    @property
    def dispensable(self) -> frozenset[Digest]:
        """Sealed boxes that hold a key which the newest epoch leaves out: they may be gone, and should be."""
        out = set(self.newest.note.without)
        found: set[Digest] = set()
        for epoch in self.epochs[:-1]:
            if epoch.number in out:
                found |= {share.box for share in epoch.note.shares}
            if epoch.note.ancestor is not None and out & set(range(1, epoch.number)) - set(epoch.note.without):
                found.add(epoch.note.ancestor)
        return frozenset(found)

    def find(self, epoch: Epoch) -> VerifiedEpoch | None:
        return self.epochs[epoch - 1] if 1 <= epoch <= len(self.epochs) else None

    @property
    def pen_since(self) -> Epoch:
        """The epoch that gave the pen to its present writer: all after it only changed keys."""
        at = len(self.epochs) - 1
        while at > 0 and self.epochs[at].is_rekey:
            at -= 1
        return self.epochs[at].number


def maker_of(epoch: ParsedEpoch, warrant: ParsedWarrant | None) -> Digest | None:
    """Card of the one who has to sign the note ``epoch``; None if ``warrant`` does not let its writer write."""
    if warrant is None:
        return epoch.writer
    if warrant.act is Act.REKEY:
        return warrant.machine
    return epoch.writer if warrant.machine == epoch.writer else None


@dataclass(slots=True)
class _Found:
    note: ParsedEpoch
    digest: Digest
    copies: list[ParsedNote]

    @property
    def what(self) -> str:
        return f"epoch {self.note.epoch} of register {self.note.register}"


@dataclass(frozen=True, slots=True)
class _Books:
    """Everything that a note is judged by."""

    chain: CharterChain
    register: RegisterId
    warrants: Mapping[Digest, ParsedNote]
    cards: Mapping[Digest, Card]


def verify_epoch_chain(
    chain: CharterChain,
    register: RegisterId,
    epoch_notes: Sequence[bytes],
    warrants: Mapping[Digest, ParsedNote],
    cards: Mapping[Digest, Card],
    *,
    chosen: Digest | None = None,
) -> EpochChain:
    """The epochs of ``register``, in whatever order and company the notes come.

    (1) Charters fix all epochs up to the one that the newest names. (2) Above it, warrants under that charter go on,
    one epoch at a time. (3) Everything else is rejected with its reason and stops nothing; gravely, if it lies above
    the chain and its writer and a custodian signed for it. ``warrants`` are what ``collect_warrants`` found, ``cards``
    by the digest of their text. ``chosen`` is a note that the next charter shall name: the chain ends with it.

    Raises ``WarrantForeign`` if no charter lists the register; ``MissingObject`` if an epoch, a warrant or a card is
    missing that a charter vouches for; ``Forked`` if two notes for one epoch are both granted (a new charter that
    names one of them, as ``chosen``, heals that); ``CorruptObject`` or ``NotAuthorised`` if a charter vouches for what
    is wrong.
    """
    books = _Books(chain, register, warrants, cards)
    found, rejected = _parse_all(epoch_notes, register)
    fixed = _fixed_notes(books, found, chosen)
    epochs: list[VerifiedEpoch] = []
    for number in sorted(fixed):
        epochs.append(_accept(books, found.pop(fixed[number]), epochs))
    granted: list[VerifiedEpoch] = []
    for rest in found.values():
        if rest.note.epoch <= len(epochs):
            other = NotAuthorised(f"the charters name another note for epoch {rest.note.epoch}")
            rejected.append(Rejected(rest.what, rest.digest, other))
            continue
        if chosen is not None:
            continue
        try:
            granted.append(_by_current_warrant(books, rest, epochs[-1]))
        except (NotAuthorised, IntegrityError, MalformedError) as error:
            rejected.append(Rejected(rest.what, rest.digest, error, grave=_is_claimed(books, rest)))
    rejected += _extend(epochs, granted)
    return EpochChain(register, tuple(epochs), tuple(rejected))


def _parse_all(notes: Iterable[bytes], register: RegisterId) -> tuple[dict[Digest, _Found], list[Rejected]]:
    found: dict[Digest, _Found] = {}
    rejected: list[Rejected] = []
    for place, data in enumerate(notes, 1):
        try:
            note = parse_note(data)
            digest = note.digest
            if digest in found:
                found[digest].copies.append(note)
                continue
            parsed = parse_epoch(note.text)
        except MalformedError as error:
            rejected.append(Rejected(f"note {place}", None, error))
            continue
        if parsed.register != register:
            foreign = CorruptObject(f"an epoch note of register {parsed.register} lies among those of {register}")
            rejected.append(Rejected(f"note {place}", digest, foreign))
            continue
        found[digest] = _Found(parsed, digest, [note])
    return found, rejected


def _fixed_notes(books: _Books, found: Mapping[Digest, _Found], chosen: Digest | None) -> dict[int, Digest]:
    """(1) The digest of every epoch's note up to the one that the newest charter names, or that is ``chosen``."""
    fixed: dict[int, Digest] = {}
    for verified in books.chain.charters:
        rule = verified.charter.register(books.register)
        if rule is not None and fixed.setdefault(rule.epoch, rule.epoch_note) != rule.epoch_note:
            raise Forked(f"charters name different notes for epoch {rule.epoch} of register {books.register}")
    if not fixed:
        raise WarrantForeign(f"no charter lists register {books.register}")
    if chosen is not None:
        if chosen not in found:
            raise _missing(f"an epoch note of register {books.register}", chosen)
        at = found[chosen].note.epoch
        if at < max(fixed) or fixed.setdefault(at, chosen) != chosen:
            raise Forked(f"charters name another note for epoch {at} of register {books.register}, or a later one")
    for number in range(max(fixed), 0, -1):
        digest = fixed[number]
        if digest not in found:
            raise _missing(f"the note of epoch {number} of register {books.register}", digest)
        note = found[digest].note
        if note.epoch != number:
            raise CorruptObject(f"what is named as epoch {number} of register {books.register} is epoch {note.epoch}")
        if note.previous is not None and fixed.setdefault(number - 1, note.previous.note) != note.previous.note:
            raise Forked(f"epoch {number} of register {books.register} follows another note than the charters name")
    return fixed


def _accept(books: _Books, found: _Found, before: Sequence[VerifiedEpoch]) -> VerifiedEpoch:
    """An epoch that a charter vouches for; still checked in every point."""
    if found.note.authority is None:
        charter = _granting_charter(books, found)
        return _complete(books, found, charter, None)
    epoch = _by_warrant(books, found)
    if any(e.note.authority == found.note.authority for e in before):
        raise CorruptObject(f"{found.what} rests on a warrant that an earlier epoch used up")
    if _moves_pen(epoch, before[-1]):
        raise CorruptObject(f"{found.what} rests on a warrant to rekey and names another writer than the epoch before")
    return epoch


def _moves_pen(epoch: VerifiedEpoch, former: VerifiedEpoch) -> bool:
    """Whether an epoch by a warrant to rekey gives the pen to somebody else, which no such warrant allows."""
    return epoch.is_rekey and epoch.note.writer != former.note.writer


def _granting_charter(books: _Books, found: _Found) -> VerifiedCharter:
    for verified in books.chain.charters:
        rule = verified.charter.register(books.register)
        if rule is not None and rule.epoch_note == found.digest:
            return verified
    raise NotAuthorised(f"no charter names the note of {found.what}")


def _by_current_warrant(books: _Books, found: _Found, head: VerifiedEpoch) -> VerifiedEpoch:
    """An epoch above those of the charters: only under the newest charter that lists the register."""
    if found.note.authority is None:
        raise NotAuthorised(f"no charter names the note of {found.what}")
    epoch = _by_warrant(books, found)
    last = [c for c in books.chain.charters if c.charter.register(books.register) is not None][-1]
    if epoch.charter.digest != last.digest:
        old, new = epoch.charter.charter.number, last.charter.number
        if found.note.previous is not None and found.note.previous.note == head.digest:
            # Signed before a failover and published after it, a charter would give the pen back without a word.
            raise Forked(
                f"{found.what} ({found.digest.hex()}) was granted under charter {old} and follows epoch {head.number}"
                f" ({head.digest.hex()}), and charter {new} does not name it: the custodians must say which has the"
                " pen, in a new charter"
            )
        raise WarrantForeign(f"{found.what} has a warrant under charter {old}, and charter {new} does not name it")
    return epoch


def _is_claimed(books: _Books, found: _Found) -> bool:
    """Whether a rejected epoch's maker signed it, and at least one custodian the maker's warrant.

    Nobody can plant that without one of their keys, so it may be an order that somebody hides a part of.
    """
    warrant = books.warrants.get(found.note.authority) if found.note.authority else None
    if warrant is None or not warrant.signatures:
        return False
    try:
        digest = maker_of(found.note, parse_warrant(warrant.text))
        maker = books.cards.get(digest) if digest is not None else None
        if maker is None or maker.digest != digest:
            return False
        _signed_by_any(found, maker)
    except (NotAuthorised, MalformedError):
        return False
    return True


def _by_warrant(books: _Books, found: _Found) -> VerifiedEpoch:
    digest = found.note.authority
    note = books.warrants.get(digest) if digest is not None else None
    if digest is None or note is None or note.digest != digest:
        raise _missing(f"the warrant of {found.what}", digest or Digest(b""))
    warrant = authorise_warrant(
        note,
        books.chain,
        books.cards,
        now=None,
        place=None,
        machine=None,
        act=None,
        registers=[books.register],
    )
    if warrant.warrant.act not in EPOCH_ACTS:
        raise WarrantForeign(f"a warrant to {warrant.warrant.act} grants no epoch")
    if maker_of(found.note, warrant.warrant) is None:
        raise WarrantForeign(f"the warrant of {found.what} is for another machine than its writer")
    return _complete(books, found, warrant.charter, warrant)


def _complete(
    books: _Books, found: _Found, charter: VerifiedCharter, warrant: AuthorisedWarrant | None
) -> VerifiedEpoch:
    """The checks that hold for every epoch: its maker signed it, and its shares are those of its charter."""
    note = found.note
    writer = _card(books, note.writer, f"the writer of {found.what}")
    by = maker_of(note, warrant.warrant if warrant is not None else None)
    maker = writer if by in (None, note.writer) else _card(books, by or note.writer, f"the maker of {found.what}")
    _signed_by_any(found, maker)
    if note.threshold != charter.charter.threshold:
        raise CorruptObject(f"{found.what} has another threshold than charter {charter.charter.number}")
    if sorted(s.custodian for s in note.shares) != [c.label for c in charter.charter.custodians]:
        raise CorruptObject(f"{found.what} has not one share for each custodian of charter {charter.charter.number}")
    try:
        SealingKey(note.opening)
    except MalformedError as error:
        raise CorruptObject(f"{found.what} has an impossible opening key") from error
    return VerifiedEpoch(note, found.digest, writer, charter, warrant, maker)


def _card(books: _Books, digest: Digest, whose: str) -> Card:
    card = books.cards.get(digest)
    if card is None or card.digest != digest:
        raise _missing(f"the key card of {whose}", digest)
    return card


def _signed_by_any(found: _Found, maker: Card) -> None:
    """One good copy is enough: a site can always spoil the signatures of its own."""
    problem: ExclaveError | None = None
    for copy in found.copies:
        try:
            verify_signed_by(copy, maker)
        except (NotAuthorised, CorruptObject) as error:
            problem = error
        else:
            return
    raise NotAuthorised(f"{found.what} is not signed by its maker {maker.name}") from problem


def _extend(epochs: list[VerifiedEpoch], granted: Sequence[VerifiedEpoch]) -> list[Rejected]:
    """(2) Appends to ``epochs`` what the warrants grant; the rejected ones are those whose warrant was used up."""
    rejected: list[Rejected] = []
    rest = list(granted)
    while rest:
        head = epochs[-1]
        used = {e.note.authority for e in epochs}
        for epoch in [e for e in rest if e.note.authority in used]:
            rest.remove(epoch)
            error = WarrantForeign("its warrant was used up by an earlier epoch")
            rejected.append(Rejected(f"epoch {epoch.number} of register {epoch.register}", epoch.digest, error))
        for epoch in [e for e in rest if e.number == head.number + 1 and _moves_pen(e, head)]:
            rest.remove(epoch)
            moved = NotAuthorised("its warrant is to rekey, and it names another writer than the epoch before")
            what = f"epoch {epoch.number} of register {epoch.register}"
            rejected.append(Rejected(what, epoch.digest, moved, grave=True))
        following = [e for e in rest if e.number == head.number + 1]
        if len(following) > 1:
            raise Forked(f"epoch {head.number + 1} of register {head.register} was granted twice")
        if not following:
            break
        (successor,) = following
        rest.remove(successor)
        if successor.note.previous is None or successor.note.previous.note != head.digest:
            raise Forked(f"epoch {successor.number} of register {head.register} follows another epoch {head.number}")
        epochs.append(successor)
    for epoch in rest:
        # Its writer signed it and the quorum its warrant, so somebody may be hiding an epoch between. It must not
        # block the register either: any machine with a warrant can sign a number out of the air.
        gap = MissingObject(f"the note of epoch {epochs[-1].number + 1} of register {epoch.register} is missing")
        rejected.append(Rejected(f"epoch {epoch.number} of register {epoch.register}", epoch.digest, gap, grave=True))
    return rejected


def _missing(what: str, digest: Digest) -> MissingObject:
    return MissingObject(f"{what} is missing ({digest.hex()})", digest=digest.hex())

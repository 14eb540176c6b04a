"""A proof of a single record, checked with the state's fingerprint alone: no key, no site, no network.

What is proven: the record is one of those that the version's entry commits to; the entry stands in the log that the
epoch's writer signed; enough witnesses vouch for that, or, once another epoch has the pen, its note does; epoch and
charters lead back to the fingerprint. Everything in the file must be needed and right: nothing can ride along.

What no file can tell is that something newer is kept back: a charter, an epoch. So the result says which were known to
whoever made it, and ``least_charter`` asks for at least that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exclave.crypto.keyed import ContentHash
from exclave.errors import (
    CorruptObject,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    QuorumMissing,
    RolledBack,
    WrongFingerprint,
)
from exclave.formats.card import Card, parse_card
from exclave.formats.leaf import VersionLeaf, parse_version_leaf
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import ledger_origin
from exclave.formats.proof import ParsedProof, TlogProof, parse_proof
from exclave.formats.record import FileRecord, RowRecord, parse_record
from exclave.ids import Digest, Fingerprint, Instant, Label
from exclave.rules.charters import CharterChain, VerifiedCharter, cards_of, verify_charter_chain
from exclave.rules.checkpoints import VerifiedCheckpoint, verify_checkpoint
from exclave.rules.epochs import EpochChain, VerifiedEpoch, verify_epoch_chain
from exclave.rules.records import verify_opening
from exclave.rules.signatures import good_signatures
from exclave.rules.tree import leaf_hash, verify_inclusion
from exclave.rules.warrants import collect_warrants


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """What a proof proves. Built by ``verify_proof`` only."""

    state: Fingerprint
    state_name: str
    leaf: VersionLeaf
    title: str | None
    """The register's public name; None if it is sealed: then only the record says what it is called at home."""
    record: FileRecord | RowRecord
    writer: Label
    signed: Instant
    """When the writer signed the checkpoint, by its own clock."""
    cosigners: tuple[tuple[Label, Instant], ...]
    """Witnesses, and when, by their own clocks."""
    witnesses_needed: bool
    """Whether the charter asks for witnesses at all."""
    cut_off: bool
    """Another epoch has the pen since, and its note vouches for the version."""
    charter: int
    """Number of the newest charter that the proof knows."""
    charter_issued: Instant


def verify_proof(data: bytes, pinned: Fingerprint, *, least_charter: int = 1) -> VerifiedProof:
    """What the proof in ``data`` proves of the state ``pinned``.

    (1) charters · (2) epochs · (3) the entry in its log · (4) who vouches · (5) the record in the version. Raises
    ``MalformedError``, ``WrongFingerprint``, ``QuorumMissing``, ``RolledBack`` (older than charter ``least_charter``),
    ``NotAuthorised``, and ``CorruptObject``, ``MissingObject`` or ``Forked`` for what does not fit together.
    """
    proof = parse_proof(data)
    if proof.state != pinned:
        raise WrongFingerprint(f"this proof is of the state {proof.state}, not of {pinned}")
    cards = _cards(proof.cards)
    chain = verify_charter_chain(proof.charters, cards, pinned)  # (1)
    newest = chain.newest.charter
    if newest.number < least_charter:
        raise RolledBack(
            f"this proof knows no later charter than number {newest.number}, and {least_charter} was asked for"
        )
    leaf = parse_version_leaf(proof.entry)
    epochs = _epochs(proof, chain, leaf, cards)  # (2)
    epoch = epochs.find(leaf.epoch)
    if epoch is None:
        raise MissingObject(f"the proof lacks the note of epoch {leaf.epoch}")
    head = _head(proof.tlog, chain, epoch, cards)  # (3)
    verify_inclusion(leaf_hash(proof.entry), proof.tlog.index, head.size, proof.tlog.path, head.root)
    _vouched(proof, chain, epochs, epoch, head)  # (4)
    if leaf.records is None:
        raise CorruptObject("the version commits to no records: nothing can be proven of it one by one")
    verify_opening(proof.opening, leaf.records)  # (5)
    _nothing_else(proof, chain, epochs, head, cards)
    rule = newest.register(leaf.register)
    return VerifiedProof(
        pinned, newest.state_name, leaf, rule.public_name if rule else None, parse_record(proof.opening.record),
        epoch.writer.name, head.time, head.cosigners, newest.policy.quorum is not None, epoch is not epochs.newest,
        newest.number, newest.issued,
    )  # fmt: skip


def verify_document(record: FileRecord | RowRecord, blocks: Iterable[bytes]) -> None:
    """Returns if ``blocks``, one after the other, are the document that ``record`` names; else ``CorruptObject``."""
    if not isinstance(record, FileRecord):
        raise MalformedError("the proof is of a row of a table: it holds the row itself, and no file belongs to it")
    found, size = ContentHash(), 0
    for block in blocks:
        found.update(block)
        size += len(block)
    if (size, found.digest()) != (record.size, record.content):
        raise CorruptObject(
            "this file is not the document that the proof is of: its bytes differ",
            hint="One changed letter is enough, or another edition, or a copy that was opened and saved again.",
        )


def _cards(texts: Iterable[bytes]) -> dict[Digest, Card]:
    found: dict[Digest, Card] = {}
    for text in texts:
        card = parse_card(text)
        if card.digest in found:
            raise CorruptObject("the proof holds one key card twice")
        if found and card.digest < next(reversed(found)):
            raise CorruptObject("the proof's key cards are out of order")
        found[card.digest] = card
    return found


def _epochs(proof: ParsedProof, chain: CharterChain, leaf: VersionLeaf, cards: Mapping[Digest, Card]) -> EpochChain:
    if chain.newest.charter.register(leaf.register) is None:
        raise CorruptObject("the newest charter of the proof does not list the register")
    warrants = collect_warrants(proof.warrants, chain)
    if [note.encode() for note in warrants.values()] != list(proof.warrants):
        raise CorruptObject(
            "the proof holds a warrant that is none of this state, or with signatures that do not count"
        )
    epochs = verify_epoch_chain(chain, leaf.register, proof.epochs, warrants, cards)
    for rejected in epochs.rejected:
        raise CorruptObject(f"the proof holds {rejected.what}, which does not count: {rejected.reason}")
    return epochs


def _head(
    tlog: TlogProof, chain: CharterChain, epoch: VerifiedEpoch, cards: Mapping[Digest, Card]
) -> VerifiedCheckpoint:
    origin = ledger_origin(chain.state, epoch.register, epoch.number)
    witnesses = cards_of(chain.newest.charter.witnesses, cards)
    try:
        head = verify_checkpoint(tlog.checkpoint, origin, epoch.writer, witnesses)
    except NotAuthorised as error:
        raise CorruptObject("the checkpoint is not signed by the writer of its epoch") from error
    if len(head.note.signatures) != 2 + 2 * len(head.cosigners):
        raise CorruptObject("the checkpoint bears signatures that do not count")
    return head


def _vouched(
    proof: ParsedProof, chain: CharterChain, epochs: EpochChain, epoch: VerifiedEpoch, head: VerifiedCheckpoint
) -> None:
    """(4) Of the newest epoch the quorum of witnesses; of a former one the note that follows it, which custodians let
    be made: it says where the log ends that counts."""
    index, entry = proof.tlog.index, leaf_hash(proof.entry)
    follows = epochs.epochs[epoch.number] if epoch.number < len(epochs.epochs) else None
    if follows is None:
        if proof.cut:
            raise CorruptObject("the proof holds hashes for a cut, and no epoch follows")
        policy = chain.newest.charter.policy
        if not head.counts_by(policy):
            raise QuorumMissing(f"too few witnesses vouch for the version; the quorum lacks {head.lacks_by(policy)}")
        return
    cut = follows.note.previous
    if cut is None or index >= cut.size:
        raise CorruptObject(f"epoch {follows.number} cut the log off before this entry: the version does not count")
    verify_inclusion(entry, index, cut.size, proof.cut, cut.root)


def _nothing_else(
    proof: ParsedProof,
    chain: CharterChain,
    epochs: EpochChain,
    head: VerifiedCheckpoint,
    cards: Mapping[Digest, Card],
) -> None:
    """Every signature and every card in the file counts for something: else one file had many forms."""
    if len(proof.charters) != len(chain.charters) or len(proof.epochs) != len(epochs.epochs):
        raise CorruptObject("the proof holds a charter or an epoch's note twice")
    before: VerifiedCharter | None = None
    used = {card.digest for epoch in epochs.epochs for card in (epoch.writer, epoch.maker)}
    for verified, data in zip(chain.charters, proof.charters, strict=True):
        allowed = {card.digest: card for card in (*verified.cards, *(before.cards if before else ()))}
        note = parse_note(data)
        used |= _all_good(note, allowed.values())
        if note.digest != verified.digest:
            raise CorruptObject("the proof's charters are out of order")
        before = verified
    for epoch, data in zip(epochs.epochs, proof.epochs, strict=True):
        note = parse_note(data)
        _all_good(note, [epoch.maker])
        if note.digest != epoch.digest:
            raise CorruptObject("the proof's epochs are out of order")
    warrants = [epoch.warrant for epoch in epochs.epochs if epoch.warrant]
    notes = [parse_note(data) for data in proof.warrants]
    if [note.digest for note in notes] != [warrant.digest for warrant in warrants]:
        raise CorruptObject("the proof holds a warrant on which no epoch rests, or they are out of order")
    for note, warrant in zip(notes, warrants, strict=True):
        used |= _all_good(note, warrant.charter.cards)
    cosigned = {name for name, _ in head.cosigners}
    used |= {witness.card for witness in chain.newest.charter.witnesses if witness.label in cosigned}
    if used != set(cards):
        raise CorruptObject("the proof holds a key card that nothing in it was signed with")


def _all_good(note: ParsedNote, cards: Iterable[Card]) -> set[Digest]:
    """Cards of those who signed ``note``; ``CorruptObject`` if it bears any line beside their two each."""
    pruned, signers = prune(note, cards)
    if set(pruned.signatures) != set(note.signatures) or pruned != note:
        raise CorruptObject("the proof holds a signature that does not count")
    return signers


def prune(note: ParsedNote, cards: Iterable[Card]) -> tuple[ParsedNote, set[Digest]]:
    """``note`` with good signatures of ``cards``' holders alone, in order of their names; and the cards of those."""
    pruned, signers = ParsedNote(note.text, ()), set()
    for card in sorted(cards, key=lambda c: (c.name, c.digest)):
        try:
            pruned = pruned.with_signatures(*good_signatures(note, card))
        except (NotAuthorised, IntegrityError):
            continue
        signers.add(card.digest)
    return pruned, signers

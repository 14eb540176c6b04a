"""A custodian signs a draft, after he looked at what it makes of his shares and of epochs in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exclave.crypto.shares import commitment
from exclave.errors import BadShare, Forked, IntegrityError, NotAuthorised, UsageError
from exclave.formats.card import Card
from exclave.formats.charter import CharterRegister, ParsedCharter
from exclave.formats.epochnote import ParsedEpoch, parse_epoch, share_info
from exclave.formats.note import ParsedNote, parse_note
from exclave.ids import Digest, Label, RegisterId, sha256
from exclave.keys.file import KeyFile
from exclave.operations.charter_draft import Draft, listed, present_epoch, read_draft, read_part
from exclave.operations.home import key_card, write_private
from exclave.rules.charters import cards_of, check_successor
from exclave.rules.signatures import sign_text, signers
from exclave.verify.state import StateView


@dataclass(frozen=True, slots=True)
class Quorum:
    """Whose signatures a draft needs, by one charter."""

    charter: int
    """Number of the charter that names these custodians: the former one, or the draft itself."""
    threshold: int
    signed: tuple[Label, ...]
    may_sign: tuple[Label, ...]
    """Its custodians who have not signed."""

    @property
    def met(self) -> bool:
        return len(self.signed) >= self.threshold


@dataclass(frozen=True, slots=True)
class Signed:
    """What ``sign`` did."""

    custodian: Label
    charter: str
    shares: tuple[str, ...]
    """Registers whose share was opened and compared with its commitment."""
    epochs: tuple[str, ...]
    """Registers whose epoch was compared with the one in force."""
    signatures: int
    """Custodians of this draft who have signed it so far."""
    threshold: int
    quorums: tuple[Quorum, ...]
    """All that must be met before it can be published: of the charter before it, and its own; one where they agree."""


def sign(folder: Path, key: KeyFile, view: StateView | None = None) -> Signed:
    """A custodian signs a draft, after his own share of every new register was opened and compared.

    So does one whom the draft dismisses: the quorum of the charter in force is needed too. Every other register must
    keep the epoch that is in force as ``view`` shows it, which later charters need. Raises ``NotAuthorised`` if neither
    charter names him, ``BadShare`` if a share is not what was committed to or the draft lacks it, ``Forked`` if the
    draft names another epoch than the one in force, ``UsageError`` without a view.
    """
    draft = read_draft(folder)
    card = key_card(key)
    stays = _is_named(draft.charter, card)
    if not stays and (view is None or not _is_named(view.chain.newest.charter, card)):
        raise NotAuthorised(f"the charter does not name {key.name} with this key as a custodian")
    if draft.charter.number > 1:
        if view is None:
            raise UsageError(
                f"charter {draft.charter.number} cannot be signed blind: it says which epoch of each register is right",
                hint="Name sites to compare it with: --site NAME=URL --fingerprint HEX.",
            )
        check_successor(view.chain.newest, draft.charter)
    checked, compared = [], []
    for rule in draft.charter.registers:
        note = draft.epochs.get(rule.id)
        if note is not None:
            if stays:
                _check_share(folder, rule.id, parse_epoch(note.text), key)
                checked.append(rule.id)
        elif view is None or draft.charter.number == 1:
            raise BadShare(f"the draft has no epoch note of register {rule.id}, so no share can be compared")
        else:
            _check_epoch(view, rule)
            compared.append(rule.id)
    text = draft.charter.encode()
    note = ParsedNote(text, sign_text(text, key.name, key.signing()))
    write_private(folder / "signatures" / key.name, note.encode())
    quorums = _quorums(draft, view)
    own = quorums[-1]
    signatures = len(own.signed)
    return Signed(key.name, draft.fingerprint, tuple(checked), tuple(compared), signatures, own.threshold, quorums)


def _quorums(draft: Draft, view: StateView | None) -> tuple[Quorum, ...]:
    """How far the draft's signatures go, by the charter in force and by the draft."""
    note, own = ParsedNote(draft.charter.encode(), ()), draft.charter
    for path in listed(draft.folder / "signatures"):
        signed = parse_note(read_part(path))
        if signed.text == note.text:  # one of another text counts for nothing, and `publish` names it
            note = note.with_signatures(*signed.signatures)
    former = view.chain.newest.charter if view is not None and own.number > 1 else None
    if former is None or (former.custodians, former.threshold) == (own.custodians, own.threshold):
        return (_quorum(own, draft.cards, note),)
    return _quorum(former, {**draft.cards, **view.cards} if view else {}, note), _quorum(own, draft.cards, note)


def _quorum(charter: ParsedCharter, cards: Mapping[Digest, Card], note: ParsedNote) -> Quorum:
    good = signers(note, cards_of(charter.custodians, cards))
    names = [custodian.label for custodian in charter.custodians]
    return Quorum(
        charter.number,
        charter.threshold,
        tuple(n for n in names if n in good),
        tuple(n for n in names if n not in good),
    )


def _is_named(charter: ParsedCharter, card: Card) -> bool:
    """Whether ``card`` is a custodian's of ``charter``: his name with this very key."""
    return any(c.label == card.name and c.card == card.digest for c in charter.custodians)


def _check_epoch(view: StateView, rule: CharterRegister) -> None:
    """The epoch that a draft names is the one in force; or the custodians decide by it between two, or for a later."""
    named = present_epoch(view, rule.id, rule.epoch_note)
    if named is None:
        raise BadShare(f"register {rule.id} is new, and the draft has no epoch note of it with shares to compare")
    known = view.epochs.get(rule.id)
    if known is not None and known.newest.digest != named.digest and known.newest.number >= named.number:
        raise Forked(
            f"register {rule.id} is in epoch {known.newest.number}, and the draft names epoch {named.number}",
            hint="Have the charter drafted anew, so that it names the epoch in force.",
        )


def _check_share(folder: Path, register: RegisterId, epoch: ParsedEpoch, key: KeyFile) -> None:
    line = epoch.share_of(key.name)
    if line is None:
        raise BadShare(f"{key.name} has no share of register {register}", custodian=key.name)
    box = read_part(folder / "boxes" / register / line.box.hex())
    try:
        share = key.opening().open(box, share_info(register, epoch.epoch, line.index, key.name))
    except IntegrityError as error:
        raise BadShare(f"the share of {key.name} for register {register} does not open", custodian=key.name) from error
    if sha256(box) != line.box or commitment(register, epoch.epoch, line.index, share) != line.commitment:
        raise BadShare(f"the share of {key.name} for register {register} is not the committed one", custodian=key.name)

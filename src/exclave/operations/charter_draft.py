"""A draft of a charter: a folder that can be carried to the custodians::

    charter.txt               what they sign
    cards/SHA256              key cards that it names
    boxes/REGISTER/SHA256     sealed shares and annexes
    epochs/REGISTER           notes of the epochs that it grants
    annexes/NAME              what the sealed annexes say, for those who sign; never published
    signatures/NAME           each custodian's copy of the charter with his signature

Nothing secret is in it in the clear but the annexes; the opening keys that were made for new registers exist only as
sealed shares when ``propose`` returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exclave.errors import MalformedError
from exclave.formats.annex import Annex, parse_annex
from exclave.formats.card import Card, parse_card
from exclave.formats.charter import ParsedCharter, parse_charter
from exclave.formats.note import ParsedNote, parse_note
from exclave.ids import Digest, Label, RegisterId, parse_register_id
from exclave.operations.home import read_limited
from exclave.rules.epochs import VerifiedEpoch, verify_epoch_chain
from exclave.verify.state import StateView

_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft folder that was read."""

    folder: Path
    charter: ParsedCharter
    cards: Mapping[Digest, Card]
    epochs: Mapping[RegisterId, ParsedNote]
    annexes: Mapping[Label, Annex]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the charter's text; of a first charter, the state's fingerprint."""
        return self.charter.digest.hex()

    @property
    def names(self) -> dict[RegisterId, str]:
        """What its annexes call each register."""
        called = {annex.digest: annex.name for annex in self.annexes.values()}
        return {rule.id: called[rule.annex_plain] for rule in self.charter.registers if rule.annex_plain in called}


def read_draft(folder: Path) -> Draft:
    """Reads a draft and checks that its parts belong together. Raises ``UsageError``, ``MalformedError``."""
    try:
        charter = parse_charter(read_part(folder / "charter.txt").decode())
    except UnicodeDecodeError as error:
        raise MalformedError(f"{folder / 'charter.txt'} is not a text") from error
    cards = {}
    for path in listed(folder / "cards"):
        card = parse_card(read_part(path))
        cards[card.digest] = card
    epochs = {parse_register_id(p.name): parse_note(read_part(p)) for p in listed(folder / "epochs")}
    annexes = {Label(p.name): parse_annex(read_part(p)) for p in listed(folder / "annexes")}
    plains = {annex.digest for annex in annexes.values()}
    for register in charter.registers:
        if register.annex_plain not in plains:
            raise MalformedError(f"the draft has no annex for register {register.id} with the digest that it names")
        note = epochs.get(register.id)
        if note is not None and note.digest != register.epoch_note:
            raise MalformedError(f"the draft's epoch note for register {register.id} is not the one that it names")
    return Draft(folder, charter, cards, epochs, annexes)


def read_part(path: Path) -> bytes:
    """A file of a draft, or one that goes into it. ``UsageError``, ``MalformedError`` above 4 MiB"""
    return read_limited(path, _LIMIT)


def listed(folder: Path) -> list[Path]:
    """What lies in a folder of a draft; nothing if it has none."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def present_epoch(view: StateView | None, register: RegisterId, chosen: Digest | None) -> VerifiedEpoch | None:
    """The epoch that the charter shall name; None for a new register."""
    if view is None or view.chain.newest.charter.register(register) is None:
        return None
    if chosen is None:
        return view.epoch_chain(register).newest
    notes = [data for site in view.shown.values() for data in site.epochs.get(register, {}).values()]
    return verify_epoch_chain(view.chain, register, notes, view.warrants, view.cards, chosen=chosen).newest


def lost_power(draft: Draft, view: StateView | None) -> tuple[str, ...]:
    """What a person must know before a charter with other custodians is signed: who can open the present epochs."""
    told: list[str] = []
    for rule in draft.charter.registers:
        if view is None or rule.id in draft.epochs or rule.id not in view.epochs:
            continue
        note = view.epochs[rule.id].newest.note
        holders = {share.custodian for share in note.shares}
        names = {custodian.label for custodian in draft.charter.custodians}
        without, left = sorted(names - holders), len(names & holders)
        if without or holders - names:
            told.append(
                f"register {rule.id}: {left} custodians of this charter hold shares of epoch {note.epoch}, and"
                f" {note.threshold} are needed to open it; without a share: {', '.join(without) or 'nobody'};"
                " after this charter, `exclave rekey` gives new shares to all"
            )
    return tuple(told)


def annex_summary(annex: Annex) -> dict[str, object]:
    """An annex as plain values, for people and ``--json``."""
    values: dict[str, object] = msgspec.to_builtins(annex)
    values["salt"] = "…"
    return values

"""Notes that anybody with write access can put at a site: whether their form is right, and who vouches for them.

At a host only their number matters: notes that nobody vouches for are bounded, so that a flood of them neither fills
the folder nor slows reading down; those that somebody of the state signed always find room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from exclave.errors import ExclaveError
from exclave.formats.card import parse_card
from exclave.formats.charter import parse_charter
from exclave.formats.deletion import parse_deletion, parse_objection
from exclave.formats.epochnote import parse_epoch
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.objectname import ObjectName, Part
from exclave.formats.warrant import parse_warrant
from exclave.ids import Digest, sha256
from exclave.rules.signatures import signers
from exclave.rules.warrants import collect_warrants
from exclave.verify.state import StateView

NOTES: Final = frozenset(
    {Part.CHARTER, Part.CARD, Part.WARRANT, Part.EPOCH, Part.STATEMENT, Part.DELETION, Part.OBJECTION}
)


def check_form(part: Part, data: bytes) -> None:
    """``MalformedError`` if ``data`` cannot be a note or text of its kind."""
    if part is Part.CARD:
        parse_card(data)
    elif part is Part.DELETION:
        parse_deletion(data)
    else:
        note = parse_note(data)
        parse = _TEXTS.get(part)
        if parse is not None:
            parse(note.text)


_TEXTS: Final[dict[Part, Callable[[str], object]]] = {
    Part.CHARTER: parse_charter,
    Part.WARRANT: parse_warrant,
    Part.EPOCH: parse_epoch,
    Part.OBJECTION: parse_objection,
}


def is_vouched_for(name: ObjectName, data: bytes, view: StateView) -> bool:
    """Whether somebody of the state signed or named what ``data`` says, by the notes in ``view``."""
    try:
        return _vouched(name, data, view)
    except ExclaveError:
        return False


def _vouched(name: ObjectName, data: bytes, view: StateView) -> bool:
    if name.part is Part.CARD:
        return sha256(data) in set(_named_cards(view))
    if name.part is Part.DELETION:
        return sha256(data) in {parse_warrant(note.text).object for note in _signed_warrants(view)}
    note = parse_note(data)
    if name.part is Part.WARRANT:
        return any(found.signatures for found in collect_warrants([data], view.chain).values())
    if name.part is Part.EPOCH:
        authority = parse_epoch(note.text).authority
        granted = authority is not None and bool(
            view.warrants[authority].signatures if authority in view.warrants else ()
        )
        return granted or note.digest in _charter_epochs(view)
    people = [card for charter in view.chain.charters for card in charter.cards]
    if name.part is Part.STATEMENT:
        people += [epoch.writer for chain in view.epochs.values() for epoch in chain.epochs]
    return bool(signers(note, people))


def _signed_warrants(view: StateView) -> Iterator[ParsedNote]:
    return (note for note in view.warrants.values() if note.signatures)


def _charter_epochs(view: StateView) -> set[Digest]:
    return {rule.epoch_note for charter in view.chain.charters for rule in charter.charter.registers}


def _named_cards(view: StateView) -> Iterator[Digest]:
    for charter in view.chain.charters:
        yield from (person.card for person in charter.charter.custodians)
        yield from (witness.card for witness in charter.charter.witnesses)
    yield from (parse_warrant(note.text).machine for note in _signed_warrants(view))
    for chain in view.epochs.values():
        yield from (epoch.note.writer for epoch in chain.epochs)

"""What custodians say against orders to delete, from every source: only what each of them signed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    IntegrityError,
    MalformedError,
    NotAuthorised,
    UnavailableError,
    WarrantForeign,
)
from exclave.formats.card import Card
from exclave.formats.deletion import MAX_OBJECTION_BYTES, Objection, parse_objection
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import objection_key, objection_prefix
from exclave.ids import Digest, RegisterId
from exclave.rules.charters import VerifiedCharter
from exclave.rules.signatures import verify_signed_by
from exclave.sites.contract import Readable, Sources
from exclave.verify.state import Finding, StateView, finding

MAX_OBJECTIONS = 4096
"""Most notes that are looked at below one site's prefix. Of more, nobody can tell whether an objection is among them:
then nothing may be deleted."""


def read_objections(
    view: StateView,
    sources: Sources,
    register: RegisterId,
    under: Mapping[Digest, VerifiedCharter],
    findings: list[Finding],
    brought: Iterable[bytes],
) -> tuple[dict[bytes, Objection], str]:
    """Objections from all sources that custodians signed, and why they may not be all: those of the newest charter, and
    against an order those of the charter, in ``under``, that its warrant was given under. A key that was replaced
    speaks no more.
    """
    cards = _Cards(view.chain.newest, under)
    found: dict[bytes, Objection] = {}
    unheard = ""
    for data in brought:
        _hear(view, register, data, cards, found)
    for name, source in sources.items():
        try:
            if not _hear_all(view, register, source, cards, found):
                unheard = f"{name} shows more than {MAX_OBJECTIONS} objections, so nobody can read them all"
                findings.append(finding(name, "objections", CorruptObject(unheard), register, grave=False))
        except UnavailableError as error:
            unheard = f"{name} does not show whether anybody objects: {error.message}"
    return found, unheard


@dataclass(frozen=True, slots=True)
class _Cards:
    newest: VerifiedCharter
    under: Mapping[Digest, VerifiedCharter]

    def who_may(self, objection: Objection) -> list[Card]:
        """Keys with which this objection may be signed."""
        charters = [self.newest]
        if objection.order is not None and objection.order in self.under:
            charters.append(self.under[objection.order])
        return [card for charter in charters for card in charter.cards if card.name == objection.custodian]


def _hear_all(
    view: StateView,
    register: RegisterId,
    source: Readable,
    cards: _Cards,
    found: dict[bytes, Objection],
) -> bool:
    """Adds every good objection at ``source``; False if it shows too many to read."""
    for place, stat in enumerate(source.list(objection_prefix(view.state, register))):
        if place >= MAX_OBJECTIONS:
            return False
        if stat.size_bytes > MAX_OBJECTION_BYTES:
            continue
        try:
            data = source.get(stat.key, limit=MAX_OBJECTION_BYTES)
        except IntegrityError:
            continue  # Another site may show it; a host that spoils it could as well have dropped it.
        if objection_key(view.state, register, data) == stat.key:
            _hear(view, register, data, cards, found)
    return True


def _hear(
    view: StateView,
    register: RegisterId,
    data: bytes,
    cards: _Cards,
    found: dict[bytes, Objection],
) -> None:
    try:
        note = parse_note(data)
        objection = verify_objection(view, note, cards.who_may(parse_objection(note.text)))
    except (MalformedError, NotAuthorised, IntegrityError):
        return  # Anybody may have put it there.
    if objection.register == register:
        found[data] = objection


def verify_objection(view: StateView, note: ParsedNote, cards: Iterable[Card]) -> Objection:
    """The objection in ``note``, if the custodian that it names signed it with one of ``cards``.

    ``MalformedError``, ``WarrantForeign`` (of another state), ``NotAuthorised``, ``CorruptObject``.
    """
    objection = parse_objection(note.text)
    if objection.state != view.state:
        raise WarrantForeign("the objection is for another state")
    problem: ExclaveError = NotAuthorised(f"{objection.custodian} is no custodian of this state")
    for card in cards:
        try:
            verify_signed_by(note, card)
        except (NotAuthorised, CorruptObject) as error:
            problem = error
        else:
            return objection
    raise problem

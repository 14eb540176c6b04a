"""What one site shows of charters, cards and warrants, and what is wrong with it by its form alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, UnavailableError
from exclave.formats.card import Card, parse_card
from exclave.formats.charter import parse_charter
from exclave.formats.note import MAX_NOTE_BYTES, ParsedNote, parse_note
from exclave.formats.paths import card_key, card_prefix, charter_prefix, warrant_prefix
from exclave.ids import Digest, Fingerprint, Key, RegisterId, parse_digest, sha256
from exclave.sites.contract import Readable, Sources

MAX_OBJECTS = 65_536
"""Most charters, cards, warrants or epoch notes of one kind that are read from one site."""
_CARD_LIMIT = 8192


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be at one site.

    ``fault`` is an error code of ``errors.py``; ``grave`` is false for what only explains itself by a site being
    unreachable or late.
    """

    site: str
    fault: str
    what: str
    detail: str
    register: RegisterId | None = None
    grave: bool = True


def finding(
    site: str, what: str, error: ExclaveError, register: RegisterId | None = None, *, grave: bool | None = None
) -> Finding:
    """A finding out of an error; unavailability is not grave."""
    serious = not isinstance(error, UnavailableError) if grave is None else grave
    return Finding(site, error.code, what, error.message, register, serious)


@dataclass(slots=True)
class Shown:
    """What one site showed of charters, cards, warrants and epochs; by object name."""

    cards: dict[Key, Digest] = field(default_factory=dict)
    charters: dict[Key, bytes] = field(default_factory=dict)
    warrants: dict[Key, Digest] = field(default_factory=dict)
    epochs: dict[RegisterId, dict[Key, bytes]] = field(default_factory=dict)
    unread: set[RegisterId] = field(default_factory=set)
    """Registers whose epochs could not be listed, because the site stopped answering."""


def _objects(
    source: Readable, prefix: str, limit: int, name: str, findings: list[Finding]
) -> Iterator[tuple[Key, bytes]]:
    """The objects below ``prefix`` that can be read; names must be 64 hex digits."""
    try:
        for place, stat in enumerate(source.list(prefix)):
            if place >= MAX_OBJECTS:
                long = CorruptObject(f"there are more than {MAX_OBJECTS} objects; the rest was not read")
                findings.append(finding(name, prefix, long))
                return
            try:
                if not stat.key.startswith(prefix):
                    raise CorruptObject("a listing shows an object of another place")
                parse_digest(stat.key[len(prefix) :])
                yield stat.key, source.get(stat.key, limit=limit)
            except MalformedError as error:
                findings.append(finding(name, stat.key, error, grave=False))
            except IntegrityError as error:
                findings.append(finding(name, stat.key, error))
    except IntegrityError as error:
        findings.append(finding(name, prefix, error))


def read_site(
    source: Readable,
    state: Fingerprint,
    name: str,
    cards: dict[Digest, Card],
    warrants: dict[Digest, ParsedNote],
    findings: list[Finding],
) -> Shown:
    """(1) What one site shows, added to what the others showed."""
    shown = Shown()
    for key, data in _objects(source, card_prefix(state), _CARD_LIMIT, name, findings):
        card = _card(key, data, name, findings)
        if card is not None:
            cards[card.digest] = card
            shown.cards[key] = card.digest
    for key, note in notes_below(source, charter_prefix(state), name, findings):
        try:
            parse_charter(note.text)
        except MalformedError as error:
            findings.append(finding(name, key, error, grave=False))
            continue
        shown.charters[key] = note.encode()
    for key, note in notes_below(source, warrant_prefix(state), name, findings):
        held = warrants.get(note.digest)
        warrants[note.digest] = held.with_signatures(*note.signatures) if held else note
        shown.warrants[key] = note.digest
    return shown


def notes_below(source: Readable, prefix: str, name: str, findings: list[Finding]) -> Iterator[tuple[Key, ParsedNote]]:
    """The notes below ``prefix``. One that does not have the hash it is named by is used as far as it is signed."""
    for key, data in _objects(source, prefix, MAX_NOTE_BYTES, name, findings):
        wrong = sha256(data).hex() != key[len(prefix) :]
        if wrong:
            findings.append(finding(name, key, CorruptObject("a note does not have the hash that it is named by")))
        try:
            yield key, parse_note(data)
        except MalformedError as error:
            if not wrong:
                findings.append(finding(name, key, error, grave=False))


def _card(key: Key, data: bytes, name: str, findings: list[Finding]) -> Card | None:
    if sha256(data).hex() != key.rpartition("/")[2]:
        findings.append(finding(name, key, CorruptObject("a key card does not have the digest that it is named by")))
        return None
    try:
        return parse_card(data)
    except MalformedError as error:
        findings.append(finding(name, key, error, grave=False))
        return None


def fetch_cards(sources: Sources, state: Fingerprint, charters: Iterable[bytes], cards: dict[Digest, Card]) -> None:
    """Cards that charters name and no listing showed; a listing can be flooded, a name cannot."""
    for data in charters:
        charter = parse_charter(parse_note(data).text)
        named = [p.card for p in charter.custodians] + [w.card for w in charter.witnesses]
        for digest in named:
            if digest not in cards:
                fetch_card(sources, state, digest, cards)


def fetch_card(sources: Sources, state: Fingerprint, digest: Digest, cards: dict[Digest, Card]) -> None:
    for source in sources.values():
        try:
            card = parse_card(source.get(card_key(state, digest), limit=_CARD_LIMIT))
        except (UnavailableError, IntegrityError, MalformedError):
            continue
        if card.digest == digest:
            cards[digest] = card
            return

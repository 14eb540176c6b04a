"""What deliveries by lists and ledgers leave out, brought to one site: warrants, statements, heads of identity feeds.

Only what somebody whom the charters know has signed is carried, so that no host can make others store its rubbish. A
restart finds some of it under its names, and brings the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exclave.errors import (
    ConflictError,
    Forked,
    IntegrityError,
    MalformedError,
    NotAuthorised,
    OutcomeUnknown,
    UnavailableError,
)
from exclave.formats.feed import ParsedFeedHead
from exclave.formats.note import parse_note
from exclave.formats.paths import statement_key, statement_prefix, warrant_key
from exclave.ids import Key, Label, RegisterId
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.signatures import signers
from exclave.sites.contract import MAX_HEAD_BYTES, Readable, Site
from exclave.verify.feeds import absent_batches, head_key, read_heads, verify_feed_head
from exclave.verify.state import StateView

MAX_STATEMENTS = 10_000
"""Names that are looked at below one site's prefix of statements."""
_MAX_STATEMENT_BYTES = 1 << 20


def carry_public(
    view: StateView, register: RegisterId, label: Label, target: Site, sources: Mapping[Label, Site]
) -> dict[str, str]:
    """Gives ``target`` the warrants and statements of ``register`` that it lacks; what was refused, and why.

    ``UnavailableError`` if the target stops answering.
    """
    faults: dict[str, str] = {}
    own = set(view.shown[label].warrants.values()) if label in view.shown else set()
    objects: list[tuple[Key, bytes]] = []
    for digest, note in sorted(view.warrants.items()):
        if digest not in own and note.signatures:
            objects.append((warrant_key(view.state, note.encode()), note.encode()))
    objects += _statements(view, register, target, sources)
    for key, data in objects:
        try:
            target.put_same(key, data)
        except IntegrityError as error:
            faults[f"{label} {key}"] = error.message
    return faults


def _statements(
    view: StateView, register: RegisterId, target: Site, sources: Mapping[Label, Site]
) -> Iterator[tuple[Key, bytes]]:
    """Statements that the target lacks, each signed by somebody whose card the state has."""
    prefix = statement_prefix(view.state, register)
    have = set(_names(target, prefix))
    for source in sources.values():
        try:
            for key in _names(source, prefix):
                if key in have:
                    continue
                data = source.get(key, limit=_MAX_STATEMENT_BYTES)
                if statement_key(view.state, register, data) == key and _is_signed(view, data):
                    have.add(key)
                    yield key, data
        except (UnavailableError, IntegrityError):
            continue  # the next source may have it; `verify` tells what is wrong here


def _names(source: Readable, prefix: str) -> Iterator[Key]:
    for place, stat in enumerate(source.list(prefix)):
        if place >= MAX_STATEMENTS:
            return
        yield stat.key


def _is_signed(view: StateView, data: bytes) -> bool:
    try:
        note = parse_note(data)
    except MalformedError:
        return False
    names = {signature.name for signature in note.signatures}
    return bool(signers(note, (card for card in view.cards.values() if card.name in names)))


def bring_feed_heads(
    view: StateView, register: RegisterId, label: Label, target: Site, sources: Mapping[Label, Site]
) -> dict[str, str]:
    """Brings each identity feed's head forward at ``target``, once its batches are there; what could not be, and why.

    A head that goes further stays, and one that contradicts the others is told and not overwritten.
    """
    faults: dict[str, str] = {}
    chain = view.epochs.get(register)
    for epoch in chain.epochs if chain is not None else ():
        try:
            why = _bring_head(view, epoch, label, target, sources)
        except (IntegrityError, ConflictError, OutcomeUnknown) as error:
            why = error.message
        if why:
            faults[f"{label} {head_key(view.state, epoch)}"] = why
    return faults


def _bring_head(
    view: StateView, epoch: VerifiedEpoch, label: Label, target: Site, sources: Mapping[Label, Site]
) -> str:
    best = read_heads(view.state, epoch, {str(name): source for name, source in sources.items()}).best
    if best is None:
        return ""
    key = head_key(view.state, epoch)
    there = target.read_head(key)
    own = _verified(there.data, epoch) if there is not None else None
    if own is not None and own.head.number == best.head.number and own.head.chain != best.head.chain:
        raise Forked(f"{label} shows another entry {own.head.number} of the identity feed than other sites")
    if own is not None and (own.head.number, own.time) >= (best.head.number, best.time):
        return ""
    wrong = next(iter(absent_batches(view.state, epoch, target, best)), None)
    if wrong is not None:
        return f"its batches are not all there: {wrong.message}"
    for source in sources.values():
        try:
            data = source.get(key, limit=MAX_HEAD_BYTES)
        except (UnavailableError, IntegrityError):
            continue
        if _verified(data, epoch) == best:
            # A restart finds the former head or this one: both are true.
            target.replace_if(key, data, there.tag if there is not None else None)
            return ""
    return "no source shows it any more"


def _verified(data: bytes, epoch: VerifiedEpoch) -> ParsedFeedHead | None:
    """The head in ``data``; None if it is no head of this feed, which proves nothing against anybody."""
    try:
        return verify_feed_head(data, epoch)
    except (MalformedError, IntegrityError, NotAuthorised):
        return None

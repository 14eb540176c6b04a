"""Accept certificates beyond their end by order of the quorum, or end such a list at once.

(1) read the order · (2) warrant, place, epoch · (3) it can be carried out · (4) journal · (5) fact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exclave.errors import MalformedError, UsageError, WarrantForeign
from exclave.formats.extension import ExtensionEnd, ExtensionList
from exclave.formats.journal import Extension, ExtensionEnded, Head
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.warrant import Act
from exclave.identity.warranted import entries_under
from exclave.ids import Digest, Instant, Label, instant_text
from exclave.operations.act_fact import Recorded
from exclave.operations.acting import Authorised, Desk
from exclave.operations.orders import read_order
from exclave.rules.signatures import sign_text


@dataclass(frozen=True, slots=True)
class ExtensionEntered:
    """An extension list counts, or one counts no longer."""

    list: Digest
    ended: bool
    """It was an order to end the list."""
    order: Digest
    warrant: Digest
    new: bool
    """False: an earlier run under the same warrant had entered it."""
    until: Instant
    """The last moment at which the list lets anybody pass; 0 if it was ended."""
    head: Head
    fact: Recorded


def extend(desk: Desk, path: Path) -> ExtensionEntered:
    """Enters the extension list in ``path``, or the end of one.

    ``UsageError`` for an unknown issuer, a list that is over already or one that does not count now and shall end.
    Authority: see ``Desk.authorise``; an order of another state is ``WarrantForeign``.
    """
    order = read_order(path)  # (1)
    found = order.order
    if not isinstance(found, ExtensionList | ExtensionEnd):
        raise UsageError(f"the order file is to {order.act}, not to extend")
    act = desk.authorise(Act.EXTEND, order.digest)  # (2)
    if found.state != desk.view.state:
        raise WarrantForeign("the order is for another state")
    now = act.still()
    digest = found.list if isinstance(found, ExtensionEnd) else found.digest
    new = not _is_entered(act, found, digest)
    if new:
        body = _end(desk, digest) if isinstance(found, ExtensionEnd) else _begin(desk, found, now)  # (3)
        # A restart finds it under this warrant, or not at all.
        desk.identity.writer.enter([body], warrant=act.digest)  # (4)
    head = desk.identity.store.head()
    say = (f"order {order.digest.hex()}", *_said(found), f"identity journal {head.number} {head.chain.hex()}")
    fact = desk.facts.record(Label("identity-extend"), act.granted, say, again=new, now=desk.clock())  # (5)
    ended = isinstance(found, ExtensionEnd)
    until = Instant(0 if isinstance(found, ExtensionEnd) else min(found.until, found.not_after))
    return ExtensionEntered(digest, ended, order.digest, act.digest, new, until, head, fact)


def _begin(desk: Desk, found: ExtensionList, now: Instant) -> Extension:
    if found.issuer not in {info.id for info in desk.identity.store.issuers()}:
        raise UsageError(f"the journal does not know the issuer {found.issuer.hex()}")
    if now > min(found.not_after, found.until):
        raise UsageError(f"the list is over since {instant_text(min(found.not_after, found.until))}")
    text = found.encode()
    return Extension(ParsedNote(text, sign_text(text, desk.machine.name, desk.machine.signing())).encode())


def _end(desk: Desk, digest: Digest) -> ExtensionEnded:
    if digest not in {parse_note(note).digest for note in desk.identity.store.extensions()}:
        raise UsageError(f"no extension list {digest.hex()} counts here")
    return ExtensionEnded(digest)


def _is_entered(act: Authorised, found: ExtensionList | ExtensionEnd, digest: Digest) -> bool:
    for entry in entries_under(act.desk.identity.journal, act.digest, act.warrant.not_before):
        body = entry.body
        if isinstance(found, ExtensionEnd) and isinstance(body, ExtensionEnded) and body.note == digest:
            return True
        if isinstance(found, ExtensionList) and isinstance(body, Extension) and _digest_of(body.note) == digest:
            return True
    return False


def _digest_of(note: bytes) -> Digest | None:
    try:
        return parse_note(note).digest
    except MalformedError:
        return None


def _said(found: ExtensionList | ExtensionEnd) -> tuple[str, ...]:
    if isinstance(found, ExtensionEnd):
        return (f"ends list {found.list.hex()}",)
    rule = "none"
    if found.rule is not None:
        span = f"{instant_text(found.rule.first)} to {instant_text(found.rule.last)}"
        rule = f"all that ended from {span} but {len(found.exceptions)}"
    return (
        f"issuer {found.issuer.hex()}: {len(found.keys)} keys; rule: {rule}",
        f"accepted until {instant_text(found.until)}, list until {instant_text(found.not_after)}",
        f"basis {found.basis[:400]}",
    )

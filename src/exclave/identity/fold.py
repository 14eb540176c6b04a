"""What the journal's entries come to: pure, and the same for every store.

Certificates: issued, held and released, revoked for good, as docs/spec/status-log.md joins them. Everything else is a
*thing*: bytes by kind and key, with the owner that it is asked for by. An entry whose content cannot be read is passed
over and takes what it would have replaced with it, so that it never leaves an older permission in force; the journal's
writer refuses to enter one (``check_body``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import msgspec

from exclave.crypto.crl import issuer_id
from exclave.errors import CorruptObject, MalformedError
from exclave.formats.journal import (
    Body,
    Confirmed,
    Entry,
    Extension,
    ExtensionEnded,
    Head,
    Issued,
    Issuer,
    Passkey,
    PasskeyGone,
    PlaceKeys,
    Pushed,
    Released,
    Responder,
    Service,
    ServiceGone,
    Settings,
    Stopped,
)
from exclave.formats.note import parse_note
from exclave.formats.relying import parse_service
from exclave.identity.contract import IssuerInfo, StoredPasskey
from exclave.identity.status_log import Held, Stop, joined, stop_of
from exclave.ids import Digest, Instant, Label, sha256

BATCH_SERIALS = 500_000
"""So many certificates are held in memory at once while entries are folded: some 60 MB."""

Name = tuple[Digest, bytes]
"""An issuer and the serial (as in the journal) of one of its certificates."""
Thing = tuple[str, bytes]
"""(owner, value)."""


@dataclass(slots=True)
class Changes:
    """What a batch of entries changes. ``settle`` joins ``events`` with what is known of their certificates."""

    head: Head
    issuers: dict[Digest, IssuerInfo] = field(default_factory=dict)
    """Those that are new or changed."""
    issued: dict[Digest, list[bytes]] = field(default_factory=dict)
    events: list[tuple[Name, Stop | None]] = field(default_factory=list)
    """In order; None: a hold ends."""
    things: dict[tuple[str, bytes], Thing | None] = field(default_factory=dict)
    """By (kind, key); None: it is gone."""
    size: int = 0
    """Certificates that are touched."""


def batches(
    entries: Iterable[tuple[Entry, Head]], head: Head, issuers: Mapping[Digest, IssuerInfo]
) -> Iterable[Changes]:
    """What ``entries`` change, in batches of ``BATCH_SERIALS``. Those that ``head`` has already are passed over.

    ``CorruptObject`` for entries that do not follow.
    """
    known = dict(issuers)
    changes = Changes(head)
    for entry, after in entries:
        if after.number <= head.number:
            if after.number == head.number and after != changes.head:
                raise CorruptObject(f"entry {after.number} of the journal is another one than was applied")
            continue
        if after.number != changes.head.number + 1 or entry.number != after.number:
            raise CorruptObject(f"entry {after.number} of the journal does not follow entry {changes.head.number}")
        changes.head = after
        _fold(entry.body, Instant(entry.time), changes, known)
        if changes.size >= BATCH_SERIALS:
            yield changes
            changes = Changes(after)
    if changes.head != head:
        yield changes


def settle(events: Iterable[tuple[Name, Stop | None]], known: Mapping[Name, Stop]) -> dict[Name, Stop | None]:
    """The state of each certificate that ``events`` name, which is issued in any case. ``known``: those stopped before.

    Revoked is for good: later news make its time earlier or its reason graver, nothing else. Held and revoked is
    revoked since the hold. A release ends a hold and nothing else.
    """
    found: dict[Name, Stop | None] = {}
    for name, news in events:
        old = found[name] if name in found else known.get(name)
        if news is not None:
            found[name] = joined(old, news)
        else:
            found[name] = None if isinstance(old, Held) else old
    return found


def _fold(body: Body, entered: Instant, changes: Changes, known: dict[Digest, IssuerInfo]) -> None:
    match body:
        case Issued(issuer, serials):
            info = _known(known, issuer)
            if not info.issued_known:
                _set(changes, known, replace(info, issued_known=True))
            changes.issued.setdefault(Digest(issuer), []).extend(serials)
            changes.size += len(serials)
        case Stopped(issuer, serial, since, reason):
            _note(changes, known, issuer)
            changes.events.append(((Digest(issuer), serial), stop_of(reason, Instant(since))))
            changes.size += 1
        case Released(issuer, serial):
            _note(changes, known, issuer)
            changes.events.append(((Digest(issuer), serial), None))
            changes.size += 1
        case Confirmed(issuer, as_of, next_update):
            info = _known(known, issuer)
            # Nobody can confirm what is yet to come: such a moment, of a wrong clock or a thief, would stand for good.
            told = Instant(min(as_of, entered))
            if told >= info.as_of or info.as_of > entered:
                _set(changes, known, replace(info, as_of=told, next_update=Instant(next_update)))
        case Issuer():
            _fold_issuer(body, changes, known)
        case _:
            _fold_thing(body, changes.things)


def _known(known: Mapping[Digest, IssuerInfo], issuer: bytes) -> IssuerInfo:
    found = known.get(Digest(issuer))
    if found is not None:
        return found
    return IssuerInfo(Digest(issuer), Label(""), (), False, Instant(0), Instant(0), False)  # named before introduced


def _note(changes: Changes, known: dict[Digest, IssuerInfo], issuer: bytes) -> None:
    if issuer not in known:
        _set(changes, known, _known(known, issuer))


def _set(changes: Changes, known: dict[Digest, IssuerInfo], info: IssuerInfo) -> None:
    known[info.id] = changes.issuers[info.id] = info


def _fold_issuer(body: Issuer, changes: Changes, known: dict[Digest, IssuerInfo]) -> None:
    try:
        info = _known(known, issuer_id(body.certificate))
    except MalformedError:
        return
    more = () if body.certificate in info.certificates else (body.certificate,)
    named = replace(info, label=Label(body.label), live=body.live, certificates=info.certificates + more)
    _set(changes, known, named)


def _fold_thing(body: Body, things: dict[tuple[str, bytes], Thing | None]) -> None:
    match body:
        case Settings(data):
            things["settings", b""] = "", data
        case Responder(issuer, place, certificate):
            things["responder", issuer + sha256(certificate)] = responder_owner(Digest(issuer), place), certificate
        case Service(client_id, data):
            things["service", client_id.encode()] = ("", data) if _is_service(body) else None
        case ServiceGone(client_id):
            things["service", client_id.encode()] = None
        case PlaceKeys(place, jwks):
            things["place-keys", place.encode()] = place, jwks
        case Passkey(credential, _, person, _):
            subject = _subject(person)
            value = msgspec.msgpack.encode(body)
            things["passkey", credential] = (subject, value) if subject else None
        case PasskeyGone(credential):
            things["passkey", credential] = None
        case Pushed(sender, _, _):
            things["pushed", sender.encode()] = "", msgspec.msgpack.encode(body)
        case Extension(note):
            try:
                things["extension", parse_note(note).digest] = "", note
            except MalformedError:
                return
        case ExtensionEnded(note):
            things["extension-ended", note] = "", b""  # for good: entering the list again does not revive it


def responder_owner(issuer: Digest, place: str) -> str:
    """Whom a responder's certificate is asked for by."""
    return f"{issuer.hex()}/{place}"


def stored_passkey(value: bytes) -> StoredPasskey:
    """What was folded from a ``Passkey``. ``CorruptObject`` if the store's bytes are damaged."""
    try:
        body = msgspec.msgpack.decode(value, type=Passkey)
    except msgspec.MsgspecError as error:
        raise CorruptObject("a passkey in the status store is damaged") from error
    return StoredPasskey(body.credential, body.public_key, body.person, body.user_handle)


def _subject(person: bytes) -> str:
    """Whose passkey it is; empty if that cannot be read."""
    try:
        claims = msgspec.json.decode(person, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    subject = claims.get("subject")
    return subject if isinstance(subject, str) and len(subject) <= 100 else ""


def _is_service(body: Service) -> bool:
    try:
        return parse_service(body.data).client_id == body.client_id
    except MalformedError:
        return False


_BODIES = frozenset(get_args(Body))


def check_body(body: object) -> Body:
    """What may be entered: a body whose content can be read. Raises ``MalformedError``."""
    match body:
        case Stopped() | Issued() | Released():
            return body
        case Issuer():
            issuer_id(body.certificate)
        case Service() if not _is_service(body):
            raise MalformedError(f"the entry for {body.client_id[:60]!r} does not hold that relying service")
        case Passkey() if not _subject(body.person):
            raise MalformedError("the entry for a passkey does not say whose it is")
        case Extension():
            parse_note(body.note)
        case _ if type(body) not in _BODIES:
            raise MalformedError(f"a {type(body).__name__} is nothing that an identity journal holds")
    return body  # type: ignore[return-value]  # one of _BODIES

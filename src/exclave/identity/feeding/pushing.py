"""Taking in what CA software pushes: each message once, in order, durable before it is answered."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from exclave.crypto.crl import CLOCK_SKEW_S
from exclave.crypto.jws import SenderKey, check_sender, verify_message
from exclave.errors import ConflictError, MalformedError, UnavailableError
from exclave.formats.journal import Body, Confirmed, Head, Pushed
from exclave.formats.push import Push, parse_push, parse_second
from exclave.identity.contract import Clock, JournalWriter, StatusStore
from exclave.identity.feeding.difference import compare
from exclave.identity.feeding.source import Reading
from exclave.identity.status_log import Held, Revoked, Serial, StatusLog, Stop, Unknown, stop_of
from exclave.ids import Digest, Instant, Label, sha256


class PushStore(StatusStore, Protocol):
    """A store that knows what was pushed."""

    def pushed(self, sender: Label) -> Pushed | None: ...


@dataclass(frozen=True, slots=True)
class Sender:
    """CA software that may push for one issuer."""

    name: Label
    key: SenderKey
    issuer: Label


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that is in the journal."""

    sender: Label
    sequence: int
    head: Head
    """Of the journal, at or after the message's entries."""
    changed: int
    """Certificates for which something was entered."""
    ignored: tuple[Serial, ...]
    """Released by the message, and not held: most are revoked, which is for good."""
    repeated: bool
    """It had been taken before."""


class PushDesk:
    """Takes messages of ``senders`` into the journal. Safe from several threads of the one process that serves."""

    def __init__(self, senders: Mapping[Label, Sender], store: PushStore, writer: JournalWriter, clock: Clock) -> None:
        self._senders = senders
        self._keys = {str(sender.name): sender.key for sender in senders.values()}
        self._store = store
        self._writer = writer
        self._clock = clock
        self._one_at_a_time = threading.Lock()

    def check_sender(self, start: bytes) -> None:
        """Whether a message that begins with ``start`` names a sender; errors as ``verify``."""
        check_sender(start, self._keys)

    def verify(self, message: bytes) -> tuple[Sender, bytes]:
        """Who signed it, and its content. Errors as ``crypto.jws.verify_message``."""
        kid, content = verify_message(message, self._keys)
        return self._senders[Label(kid)], content

    def take(self, sender: Sender, content: bytes) -> Taken:
        """Enters what a verified message changes; durable when it returns.

        ``MalformedError`` for content that cannot be right, ``ConflictError`` with the fact ``expected`` for another
        number than the next (the last one again, with the same content, is answered again), ``NotAuthorised`` where
        this place does not decide, ``UnavailableError`` if its issuer is not in the journal yet; what
        ``JournalWriter.enter`` raises.
        """
        push = parse_push(content)
        digest = sha256(content)
        with self._one_at_a_time:
            last = self._store.pushed(sender.name)
            if last is not None and (push.sequence, digest) == (last.sequence, last.digest):
                return Taken(sender.name, push.sequence, self._store.head(), 0, (), repeated=True)
            if last is not None and push.sequence != last.sequence + 1:
                expected = last.sequence + 1
                raise ConflictError(
                    f"message {expected} is expected, not {push.sequence}",
                    hint="Send what is missing first, or this one under the number that is expected.",
                    expected=expected,
                )
            return self._enter(sender, push, digest)

    def _enter(self, sender: Sender, push: Push, digest: Digest) -> Taken:
        now = self._clock()
        issuer = self._issuer(sender, push)
        reading, released = _reading(push, issuer, now)
        known = {
            serial: status
            for serial in (*reading.log.stopped, *released)
            if isinstance(status := self._store.status(issuer, serial), Revoked | Held)
        }
        found = compare(reading, known, lambda s: not isinstance(self._store.status(issuer, s), Unknown), None)
        # The number comes last: whatever prefix a crash leaves, an unanswered message is taken again in full.
        confirmed = Confirmed(issuer, min(reading.log.as_of, now), 0)
        bodies: list[Body] = [*found.bodies(), confirmed, Pushed(sender.name, push.sequence, digest)]
        head = self._writer.enter(bodies)
        ignored = tuple(sorted(set(released) - set(found.released)))
        return Taken(sender.name, push.sequence, head, found.count, ignored, repeated=False)

    def _issuer(self, sender: Sender, push: Push) -> Digest:
        if push.issuer != sender.issuer:
            raise MalformedError(f"{sender.name} pushes for {sender.issuer}, not for {push.issuer}")
        for info in self._store.issuers():
            if info.label == sender.issuer:
                return info.id
        raise UnavailableError(f"the issuer {sender.issuer} is not in the journal yet")


def _reading(push: Push, issuer: Digest, now: Instant) -> tuple[Reading, list[Serial]]:
    """``MalformedError`` for a time in the future."""
    latest = now + CLOCK_SKEW_S * 1_000_000
    issued: set[Serial] = set()
    stopped: dict[Serial, Stop] = {}
    released: list[Serial] = []
    for change in push.changes:
        serial = Serial(int(change.serial, 16))
        if change.state == "issued":
            issued.add(serial)
        elif change.state == "released":
            released.append(serial)
        else:
            since = parse_second(change.time)
            if since > latest:
                raise MalformedError(f"serial {change.serial} is {change.state} since a time in the future")
            stopped[serial] = stop_of(change.reason or "certificateHold", since)
    as_of = parse_second(push.as_of)
    if as_of > latest:
        raise MalformedError("the push is dated in the future")
    log = StatusLog(issuer, as_of, frozenset(issued | stopped.keys()) if issued else None, stopped)
    return Reading(log, dict.fromkeys(released, Instant(latest)), whole=False), released

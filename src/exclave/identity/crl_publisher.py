"""Revocation lists of the issuers whose lists this place may sign: made anew when something changes, given out from
memory. Page: docs/spec/ocsp.md."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from exclave.crypto.crl_issue import Stopped, issue_crl
from exclave.crypto.ocsp_answer import CrlReason
from exclave.errors import ExclaveError
from exclave.identity.contract import Authority, AuthorityNow, Clock, Delegates, IdentityState, IssuerInfo, StatusStore
from exclave.identity.status_log import Revoked
from exclave.ids import Digest, Instant, Label, sha256

LASTS_S = 12 * 3600
EVERY_S = 3600
"""A list is made anew after this time even if nothing changed, so that its date does not fall behind."""
AT_MOST_EVERY_S = 60
"""And no sooner than this after the one before, however much changes: a large one takes a second of processor time."""
_SECOND = 1_000_000
_log = logging.getLogger("exclave.crl")


@dataclass(frozen=True, slots=True)
class Published:
    """A list as it is given out."""

    issuer: Digest
    data: bytes
    """DER."""
    number: int
    this_update: Instant
    next_update: Instant
    tag: str
    """Hex SHA-256 of ``data``."""
    generation: int
    authority: tuple[IdentityState, int]
    """State and epoch under which it was made; under another one it is not given out."""


@dataclass(slots=True)
class CrlPublisher:
    """``refresh`` makes lists, in a thread, every few seconds; ``latest`` gives them out and never waits.

    Nothing is made where this place does not decide: two lists that contradict each other help nobody. At home only
    issuers whose decisions arrive as they are made get one; in exile all whose key or delegate is here.
    """

    store: StatusStore
    delegates: Delegates
    authority: AuthorityNow
    clock: Clock
    lasts_s: int = LASTS_S
    every_s: int = EVERY_S
    at_most_every_s: int = AT_MOST_EVERY_S
    _made: dict[Label, Published] = field(default_factory=dict, init=False, repr=False)

    def latest(self, label: Label) -> Published | None:
        """The last list of the issuer ``label``; None: there is none, it ran out, or this place decides no more."""
        made, authority = self._made.get(label), self.authority()
        if made is None or not authority.decides or made.authority != (authority.state, authority.epoch):
            return None
        return made if made.next_update > self.clock() else None

    def refresh(self) -> tuple[Published, ...]:
        """Makes the lists that are due; those. A failure of one is logged and does not keep back the others."""
        authority = self.authority()
        if not authority.decides:
            self._made.clear()
            return ()
        made = []
        for issuer in self.store.issuers():
            if not (issuer.live or authority.state is IdentityState.EXILE):
                continue
            try:
                published = self._make(issuer, authority)
            except ExclaveError as error:
                _log.error("no CRL of %s: %s", issuer.label, error.message)
                continue
            if published is not None:
                self._made[issuer.label] = published
                made.append(published)
        return tuple(made)

    def _make(self, issuer: IssuerInfo, authority: Authority) -> Published | None:
        """A new list of ``issuer``, or None if none is due or this place may not sign it."""
        now, held_by = self.clock(), (authority.state, authority.epoch)
        # Read before the rows: what changes meanwhile makes the list due again.
        generation = self.store.generation()
        last = self._made.get(issuer.label)
        if last is not None and last.authority == held_by:
            age_s = (now - last.this_update) // _SECOND
            if age_s < (self.every_s if generation == last.generation else self.at_most_every_s):
                return None
        found = self.delegates.crl(issuer.id, now=now)
        if found is None:
            return None
        signer, certificate = found
        # Above any number that home counted up to, and growing without anything to remember.
        number = max(now, last.number + 1 if last is not None else 0)
        following = Instant(now + self.lasts_s * _SECOND)
        data = issue_crl(
            self._stopped(issuer.id), signer, certificate, issuer.certificates[0],
            crl_number=number, this_update=now, next_update=following,
        )  # fmt: skip
        return Published(issuer.id, data, number, now, following, sha256(data).hex(), generation, held_by)

    def _stopped(self, issuer: Digest) -> Iterator[Stopped]:
        for serial, stop in self.store.stopped(issuer):
            reason = CrlReason[stop.reason.value] if isinstance(stop, Revoked) else CrlReason.certificateHold
            yield serial, stop.time, reason

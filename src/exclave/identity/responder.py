"""The certificate status responder: bytes of a request in, bytes of an answer out, with what may be cached of it.

Page: docs/spec/ocsp.md. What may be claimed is decided in ``answer_window``; here it is looked up and signed.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from threading import Lock

import msgspec

from exclave.crypto.ocsp import CertId, IssuerKey, OcspRequest, RequestReader
from exclave.crypto.ocsp_answer import (
    GOOD,
    UNKNOWN,
    CrlReason,
    ErrorStatus,
    ResponderKey,
    Single,
    error_answer,
    issuer_keys,
    responder_key,
    revoked,
    sign_answer,
    valid_since,
)
from exclave.errors import ExclaveError, MalformedError, UnavailableError
from exclave.identity.answer_window import ANSWER_LASTS_S, window
from exclave.identity.contract import AuthorityNow, Clock, Delegates, IdentityState, IssuerInfo, StatusStore
from exclave.identity.status_log import CertificateStatus, Good, Held, Revoked, Serial
from exclave.identity.status_log import Unknown as NotKnown
from exclave.ids import Digest, Instant

CACHE_S = 60
"""How old an answer without nonce may be when it is given again: below the two minutes of the strictest clients."""
CACHED_ANSWERS = 20_000
"""About 1.5 kB each."""
_KEPT_BYTES = 255
"""A longer request for one certificate without nonce is nobody's (RFC 9919, section 6); so the cache stays small."""
_SECOND = 1_000_000
_log = logging.getLogger("exclave.ocsp")


class Outcome(StrEnum):
    """What was answered, for counters. Of several certificates: the gravest."""

    GOOD = "good"
    REVOKED = "revoked"
    HELD = "held"
    UNKNOWN = "unknown"
    MALFORMED = "malformed"
    UNAUTHORIZED = "unauthorized"
    """About nobody's certificate whom this place answers for (RFC 9919, section 3.2.3)."""
    RETURNING = "returning"
    """tryLater: home is not the authority, or not yet again."""
    STALE = "stale"
    """tryLater: newer information was promised for a time that has passed, and has not come."""
    NO_DELEGATE = "no-delegate"
    """internalError: no certificate allows this place to answer for the issuer."""
    UNAVAILABLE = "unavailable"
    """tryLater: the store or the token that holds the key does not answer."""
    FAILED = "failed"
    """internalError: the store or the key is damaged."""


_ERRORS: Mapping[Outcome, bytes] = {
    Outcome.MALFORMED: error_answer(ErrorStatus.MALFORMED_REQUEST),
    Outcome.UNAUTHORIZED: error_answer(ErrorStatus.UNAUTHORIZED),
    Outcome.RETURNING: error_answer(ErrorStatus.TRY_LATER),
    Outcome.STALE: error_answer(ErrorStatus.TRY_LATER),
    Outcome.UNAVAILABLE: error_answer(ErrorStatus.TRY_LATER),
    Outcome.NO_DELEGATE: error_answer(ErrorStatus.INTERNAL_ERROR),
    Outcome.FAILED: error_answer(ErrorStatus.INTERNAL_ERROR),
}
_GRAVITY = (Outcome.GOOD, Outcome.UNKNOWN, Outcome.HELD, Outcome.REVOKED)


class Reply(msgspec.Struct, frozen=True):
    """An answer as it goes on the wire, and what its carrier may do with it."""

    data: bytes
    """OCSPResponse, DER."""
    outcome: Outcome
    this_update: Instant = Instant(0)
    next_update: Instant = Instant(0)
    fresh_until: Instant = Instant(0)
    """Until when it may be given again; 0: never (it repeats a nonce, or it is an error)."""

    @property
    def cacheable(self) -> bool:
        return self.fresh_until > 0


@dataclass(frozen=True, slots=True)
class _Issuers:
    """The store's issuers at one generation."""

    generation: int
    by_key: Mapping[IssuerKey, IssuerInfo]
    valid_since: Mapping[Digest, Instant]


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer that may be given again while it still says what the store says."""

    reply: Reply
    generation: int
    authority: tuple[IdentityState, int]
    cert_id: CertId
    status: CertificateStatus


class _NoAnswer(Exception):
    """Nothing can be said of a certificate; ``why`` is what people must mend, or empty. Not an error of the tree: it
    chooses one of the protocol's own answers."""

    def __init__(self, outcome: Outcome, why: str = "") -> None:
        super().__init__(why)
        self.outcome = outcome
        self.why = why


@dataclass(slots=True)
class Responder:
    """Answers requests. Safe to call from several threads.

    ``archive_cutoff``: answers say since when the status of expired certificates is kept, which is all the time.
    """

    store: StatusStore
    delegates: Delegates
    authority: AuthorityNow
    clock: Clock
    lasts_s: int = ANSWER_LASTS_S
    cache_s: int = CACHE_S
    cached_answers: int = CACHED_ANSWERS
    archive_cutoff: bool = False
    _reader: RequestReader = field(default_factory=RequestReader, init=False, repr=False)
    _issuers: _Issuers | None = field(default=None, init=False, repr=False)
    _chosen: dict[Digest, tuple[tuple[int, int], ResponderKey]] = field(default_factory=dict, init=False, repr=False)
    _keys: dict[bytes, ResponderKey] = field(default_factory=dict, init=False, repr=False)
    _kept: OrderedDict[bytes, _Kept] = field(default_factory=OrderedDict, init=False, repr=False)
    _told: dict[Outcome, Instant] = field(default_factory=dict, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def answer(self, request: bytes) -> Reply:
        """The reply to ``request``, whatever it is; what a client, the store or a token does wrong raises nothing."""
        try:
            again = self._again(request)
            return again if again is not None else self._answer(request)
        except _NoAnswer as none:
            outcome, why = none.outcome, none.why
        except UnavailableError as error:
            outcome, why = Outcome.UNAVAILABLE, error.message
        except ExclaveError as error:
            outcome, why = Outcome.FAILED, error.message
        self._tell(outcome, why)
        return Reply(_ERRORS[outcome], outcome)

    def _answer(self, data: bytes) -> Reply:
        """(1) parse · (2) may this place answer · (3) whose certificates · (4) by which key · (5) times and statuses ·
        (6) sign · (7) keep it, if it can be given again."""
        try:
            request = self._reader.parse(data)  # (1)
        except MalformedError as error:
            raise _NoAnswer(Outcome.MALFORMED) from error
        now, authority = self.clock(), self.authority()
        if not authority.answers:  # (2)
            raise _NoAnswer(Outcome.RETURNING)
        issuers = self._known_issuers()
        issuer = _asked_for(request, issuers)  # (3)
        key = self._key(issuer, issuers.generation, now)  # (4)
        times = window(authority, issuer, now=now, key_ends=key.not_after, lasts_s=self.lasts_s)  # (5)
        if times is None:
            raise _NoAnswer(Outcome.STALE, f"what is known of the issuer {issuer.label} has run out")
        statuses = [self._status(cert_id, issuer, issuers) for cert_id in request.cert_ids]
        cutoff = issuers.valid_since[issuer.id] if self.archive_cutoff else None
        singles = [
            Single(cert_id, _wire(status), times.this_update, times.next_update, cutoff)
            for cert_id, status in zip(request.cert_ids, statuses, strict=True)
        ]
        signed = sign_answer(singles, key, produced_at=now, nonce=request.nonce)  # (6)
        outcome = max(map(_outcome, statuses), key=_GRAVITY.index)
        # Unknown ones are not kept: whoever asks for random serials cannot drive out what others ask for.
        if request.nonce is not None or len(statuses) > 1 or outcome is Outcome.UNKNOWN or len(data) > _KEPT_BYTES:
            return Reply(signed, outcome, times.this_update, times.next_update)
        fresh_until = min(Instant(now + self.cache_s * _SECOND), times.next_update)
        reply = Reply(signed, outcome, times.this_update, times.next_update, fresh_until)
        held_by = (authority.state, authority.epoch)
        self._keep(data, _Kept(reply, issuers.generation, held_by, request.cert_ids[0], statuses[0]))  # (7)
        return reply

    def _known_issuers(self) -> _Issuers:
        # The number is read first: what changes while the rows are read is seen at the next request.
        generation = self.store.generation()
        known = self._issuers
        if known is not None and known.generation == generation:
            return known
        by_key: dict[IssuerKey, IssuerInfo] = {}
        since: dict[Digest, Instant] = {}
        for info in self.store.issuers():
            try:  # The first certificate stands for all: cross-certificates have the same name and key.
                by_key.update((key, info) for key in issuer_keys(info.certificates[0]))
                since[info.id] = valid_since(info.certificates[0])
            except MalformedError as error:
                self._tell(Outcome.FAILED, f"the issuer {info.label} is left out: {error.message}")
        self._issuers = _Issuers(generation, by_key, since)
        return self._issuers

    def _key(self, issuer: IssuerInfo, generation: int, now: Instant) -> ResponderKey:
        """Asked for anew each second, and when the store has changed."""
        moment = (generation, now // _SECOND)
        chosen = self._chosen.get(issuer.id)
        if chosen is None or chosen[0] != moment:
            chosen = self._chosen[issuer.id] = (moment, self._choose(issuer, now))
        return chosen[1]

    def _choose(self, issuer: IssuerInfo, now: Instant) -> ResponderKey:
        found = self.delegates.ocsp(issuer.id, now=now)
        if found is None:
            raise _NoAnswer(Outcome.NO_DELEGATE, f"no certificate lets this place answer for the issuer {issuer.label}")
        signer, certificate = found
        key = self._keys.get(certificate)
        if key is None or key.signer is not signer:
            key = self._keys[certificate] = responder_key(signer, certificate)
        if not key.not_before <= now <= key.not_after:
            raise _NoAnswer(Outcome.NO_DELEGATE, f"the certificate to answer for {issuer.label} with is not valid now")
        return key

    def _status(self, cert_id: CertId, issuer: IssuerInfo, issuers: _Issuers) -> CertificateStatus:
        """Nothing is known of another issuer's certificates: that one did not allow the key that signs to say it."""
        named = issuers.by_key.get(cert_id.issuer)
        if named is None or named.id != issuer.id:
            return NotKnown()
        status = self.store.status(issuer.id, Serial(cert_id.serial))
        return NotKnown() if isinstance(status, Good) and not issuer.issued_known else status

    def _again(self, request: bytes) -> Reply | None:
        """A kept answer to the very same bytes, if it still says what the store says: a revocation is told at once."""
        kept = self._kept.get(request)
        if kept is None or kept.reply.fresh_until <= self.clock():
            return None
        authority = self.authority()
        if (authority.state, authority.epoch) != kept.authority or not authority.answers:
            return None
        if kept.generation != self.store.generation():
            issuers = self._known_issuers()
            issuer = issuers.by_key.get(kept.cert_id.issuer)
            if issuer is None or self._status(kept.cert_id, issuer, issuers) != kept.status:
                return None
            self._keep(request, replace(kept, generation=issuers.generation))
        return kept.reply

    def _keep(self, request: bytes, kept: _Kept) -> None:
        with self._lock:
            self._kept.pop(request, None)
            self._kept[request] = kept  # behind all others: the first to go is the one that was signed first
            if len(self._kept) > self.cached_answers:
                self._kept.popitem(last=False)

    def _tell(self, outcome: Outcome, why: str) -> None:
        """Logs what people must mend, once a minute for each outcome; the counters have every one."""
        now = self.clock()
        if why and now >= self._told.get(outcome, 0) + 60 * _SECOND:
            self._told[outcome] = now
            _log.error("%s: %s", outcome, why)


def _asked_for(request: OcspRequest, issuers: _Issuers) -> IssuerInfo:
    """The issuer of the first certificate that is of one of ours."""
    for cert_id in request.cert_ids:
        found = issuers.by_key.get(cert_id.issuer)
        if found is not None:
            return found
    raise _NoAnswer(Outcome.UNAUTHORIZED)


def _wire(status: CertificateStatus) -> bytes:
    match status:
        case Good():
            return GOOD
        case Revoked(time, reason):
            return revoked(time, CrlReason[reason.value])
        case Held(time):
            return revoked(time, CrlReason.certificateHold)
    return UNKNOWN


def _outcome(status: CertificateStatus) -> Outcome:
    match status:
        case Good():
            return Outcome.GOOD
        case Revoked():
            return Outcome.REVOKED
        case Held():
            return Outcome.HELD
    return Outcome.UNKNOWN

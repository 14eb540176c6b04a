"""The status of an issuer's certificates: what is known, and as of when.

Pure: values in, values out; page: docs/spec/status-log.md. What a place may claim of it depends on who has the
authority: ``answer_window``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NewType

from exclave.crypto.crl import MAX_ENTRIES, VerifiedCrl
from exclave.errors import MalformedError
from exclave.ids import Digest, Instant

Serial = NewType("Serial", int)
"""A certificate's number, 0 to 2^160 - 1; unique for its issuer only."""


class Reason(StrEnum):
    """CRLReason (RFC 5280, section 5.3.1) of a revocation that stays, the gravest first; ``Held``: certificateHold."""

    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AA_COMPROMISE = "aACompromise"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"
    AFFILIATION_CHANGED = "affiliationChanged"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    SUPERSEDED = "superseded"
    UNSPECIFIED = "unspecified"


_BY_NAME = {str(reason): reason for reason in Reason}
_GRAVITY = {reason: place for place, reason in enumerate(Reason)}


@dataclass(frozen=True, slots=True)
class Good:
    """Issued, and neither revoked nor on hold. It may have expired: that stands in the certificate itself."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """For good, since ``time``."""

    time: Instant
    reason: Reason


@dataclass(frozen=True, slots=True)
class Held:
    """Suspended since ``time``; the holder of the authority may release it. In OCSP: revoked, certificateHold."""

    time: Instant


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing can be said of it: never issued as far as is known, or it is not known what was issued."""


CertificateStatus = Good | Revoked | Held | Unknown
Stop = Revoked | Held


@dataclass(frozen=True, slots=True)
class StatusLog:
    """Everything that is known of one issuer's certificates at one moment."""

    issuer: Digest
    """``crypto.crl.issuer_id`` of its certificate."""
    as_of: Instant
    """The moment up to which it is complete: nothing that the issuer decided before it is missing."""
    issued: frozenset[Serial] | None
    """Every serial ever issued; None: not known (a CRL tells only what was revoked)."""
    stopped: Mapping[Serial, Stop]
    """Revoked or held. All of them are in ``issued`` where that is known."""
    next_update: Instant | None = None
    """When the issuer itself promised newer information; None: it promised nothing."""

    def __post_init__(self) -> None:
        if self.issued is not None and not self.stopped.keys() <= self.issued:
            raise MalformedError("a certificate is revoked that was never issued")
        object.__setattr__(self, "stopped", MappingProxyType(dict(self.stopped)))

    def status(self, serial: Serial) -> CertificateStatus:
        """What may be said of ``serial``; of which date, see ``answer_window``.

        Good is said only of serials that are known to be issued. RFC 6960, section 2.2, would let a responder say it of
        any serial that is not revoked ("does not necessarily mean that the certificate was ever issued") and would let
        it say unknown where it "doesn't know about the certificate being requested". The second is the truth of a log
        that was read from a CRL alone, and it does not vouch for certificates forged with a stolen CA key.
        """
        stop = self.stopped.get(serial)
        if stop is not None:
            return stop
        return Good() if self.issued is not None and serial in self.issued else Unknown()


# From a CRL


def log_of_crl(crl: VerifiedCrl) -> StatusLog:
    """What a verified CRL says: revocations as of its thisUpdate; not what was issued. ``MalformedError`` for an entry
    that occurs twice or has no status. A CRL may leave out what expired before it was made."""
    stopped = collect((Serial(e.serial), stop_of(e.reason, e.time)) for e in crl.entries())
    return StatusLog(crl.issuer, crl.this_update, None, stopped, crl.next_update)


def stop_of(reason: str, time: Instant) -> Stop:
    """``Held`` or ``Revoked`` by the name of its CRLReason."""
    if reason == "certificateHold":
        return Held(time)
    found = _BY_NAME.get(reason)
    if found is None:
        raise MalformedError(f"{reason[:40]!r} is no reason for a revocation")
    return Revoked(time, found)


def collect(stops: Iterable[tuple[Serial, Stop]]) -> dict[Serial, Stop]:
    """By serial. ``MalformedError`` if one occurs twice, or for more than ``MAX_ENTRIES``."""
    found: dict[Serial, Stop] = {}
    for serial, stop in stops:
        if serial in found:
            raise MalformedError(f"serial {serial:X} is listed twice")
        if len(found) >= MAX_ENTRIES:
            raise MalformedError(f"more than {MAX_ENTRIES} revocations")
        found[serial] = stop
    return found


# Joining two statuses


def joined(here: Stop | None, there: Stop | None) -> Stop:
    """The graver of two (one may be None), since the earlier time, for the gravest reason: any order ends the same."""
    if here is None and there is not None:
        return there
    if there is None and here is not None:
        return here
    found = [stop for stop in (here, there) if stop is not None]
    since = min(stop.time for stop in found)
    reasons = [stop.reason for stop in found if isinstance(stop, Revoked)]
    return Revoked(since, min(reasons, key=_GRAVITY.__getitem__)) if reasons else Held(since)

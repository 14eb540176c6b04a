"""What an order about a certificate comes to, given what is known of it. Pure."""

from __future__ import annotations

from enum import Enum

from exclave.formats.journal import Released, Stopped, serial_bytes
from exclave.formats.statusorder import StatusLine
from exclave.formats.warrant import Act
from exclave.identity.status_log import CertificateStatus, Good, Held, Reason, Revoked, Unknown, joined
from exclave.ids import Instant


class Left(Enum):
    """Why nothing is entered."""

    UNCHANGED = "unchanged"
    """It is as the order wants it."""
    FINAL = "final"
    """It is revoked, and a revocation is neither held nor released."""
    UNKNOWN = "unknown"
    """It is known what its issuer issued, and this is not among it: a typing error, or a forged certificate."""


def decide(
    act: Act, line: StatusLine, status: CertificateStatus, *, issued_known: bool, also_unknown: bool, now: Instant
) -> Stopped | Released | Left:
    """The entry that carries ``line`` out, or why none is needed.

    ``also_unknown``: stop certificates too that were never issued as far as is known. Without knowledge of what was
    issued, every one may have been.
    """
    if isinstance(status, Unknown) and issued_known and not (also_unknown and act is not Act.RELEASE):
        return Left.UNKNOWN
    match act:
        case Act.REVOKE:
            return _revoke(line, status)
        case Act.HOLD:
            if isinstance(status, Good | Unknown):
                return Stopped(line.issuer, serial_bytes(line.serial), now, "certificateHold")
            return Left.FINAL if isinstance(status, Revoked) else Left.UNCHANGED
        case _:
            if isinstance(status, Held):
                return Released(line.issuer, serial_bytes(line.serial))
            return Left.FINAL if isinstance(status, Revoked) else Left.UNCHANGED


def _revoke(line: StatusLine, status: CertificateStatus) -> Stopped | Left:
    """Since the earliest time and for the gravest reason that anybody named; a hold dates the revocation out of it."""
    wanted = joined(Revoked(line.since, Reason(line.reason)), status if isinstance(status, Revoked | Held) else None)
    if wanted == status or not isinstance(wanted, Revoked):
        return Left.UNCHANGED
    return Stopped(line.issuer, serial_bytes(line.serial), wanted.time, wanted.reason)

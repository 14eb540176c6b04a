"""CRLs, full and delta, as readings."""

from __future__ import annotations

from exclave.crypto.crl import REMOVE, verify_crl, verify_delta_crl
from exclave.errors import MalformedError
from exclave.identity.feeding.source import Reading
from exclave.identity.status_log import Serial, StatusLog, Stop, collect, log_of_crl, stop_of
from exclave.ids import Instant


def read_crl(data: bytes, certificate: bytes, *, now: Instant) -> tuple[Reading, int | None]:
    """A full CRL and its number. Errors as ``crypto.crl.verify_crl``."""
    crl = verify_crl(data, certificate, now=now)
    return Reading(log_of_crl(crl)), crl.number


def read_delta(data: bytes, certificate: bytes, *, base: int | None, now: Instant) -> tuple[Reading, str]:
    """A delta CRL, and what is wrong if it cannot stand on the full list number ``base`` (None: none was read).

    Such a one still stops certificates, since revocations only grow; it ends no hold and confirms nothing. One that is
    not newer than ``base`` says nothing.
    """
    delta = verify_delta_crl(data, certificate, now=now)
    stopped: dict[Serial, Stop] = {}
    released: dict[Serial, Instant] = {}
    news = [] if base is not None and delta.number <= base else delta.entries()
    for entry in news:
        serial = Serial(entry.serial)
        if serial in released or serial in stopped:
            raise MalformedError(f"serial {serial:X} is listed twice")
        if entry.reason == REMOVE:
            released[serial] = delta.this_update
        else:
            stopped |= collect([(serial, stop_of(entry.reason, entry.time))])
    log = StatusLog(delta.issuer, delta.this_update, None, stopped, delta.next_update)
    if base is None or base < delta.base:
        have = "none was read" if base is None else f"the last one read is number {base}"
        return Reading(
            log, whole=False, confirms=False
        ), f"the delta CRL builds on the full list number {delta.base}, and {have}"
    return Reading(log, released, whole=False), ""

"""Revoke, hold and release certificates by order of the quorum.

(1) read the order · (2) warrant, place, epoch · (3) every line can be carried out · (4) journal, in batches · (5) fact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from exclave.errors import UsageError
from exclave.formats.journal import Head, Released, Stopped, serial_bytes
from exclave.formats.statusorder import MAX_ORDER_BYTES, StatusLine, StatusOrder, read_status_order
from exclave.formats.warrant import Act
from exclave.identity.deciding import Left, decide
from exclave.identity.reissue import issued_in_full
from exclave.identity.status_log import Serial
from exclave.identity.warranted import entries_under
from exclave.ids import Digest, Instant, Label, instant_text
from exclave.operations.act_fact import Recorded
from exclave.operations.acting import Authorised, Desk, own_copy

BATCH = 5_000
"""Entries that are made durable together."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """A status order was carried out; the same order again would change nothing."""

    act: Act
    order: Digest
    warrant: Digest
    total: int
    """Certificates that the order names."""
    entered: int
    """Entered into the journal by this run."""
    before: int
    """Entered by an earlier run under the same warrant."""
    unchanged: int
    """Were as the order wants them."""
    final: int
    """Are revoked, so they were neither held nor released."""
    head: Head
    """Of the journal, after it."""
    fact: Recorded


class _Run:
    """One order being carried out."""

    def __init__(self, act: Authorised, order: StatusOrder, copy: BinaryIO, *, also_unknown: bool) -> None:
        self.act, self.order, self.copy, self.also_unknown = act, order, copy, also_unknown
        self.store = act.desk.identity.store
        self.issuers = {info.id: info for info in self.store.issuers()}
        entries = entries_under(act.desk.identity.journal, act.digest, act.warrant.not_before)
        # (issuer, serial) of what the journal has under this warrant: nothing but after a crash or a repetition.
        self.earlier = {(e.body.issuer, e.body.serial) for e in entries if isinstance(e.body, Stopped | Released)}
        self.left = dict.fromkeys(Left, 0)
        self.entered = self.before = 0

    def lines(self, each: Callable[[StatusLine], None]) -> None:
        self.copy.seek(0)
        read_status_order(self.copy, each)

    def decide(self, line: StatusLine, now: Instant) -> Stopped | Released | Left:
        return decide(
            self.order.act, line, self.store.status(line.issuer, Serial(line.serial)),
            issued_known=issued_in_full(self.issuers[line.issuer]), also_unknown=self.also_unknown, now=now,
        )  # fmt: skip

    def is_done(self, line: StatusLine) -> bool:
        """An earlier run entered it. Under a standing order the warrant does not tell which order that was, so the
        status alone decides whether there is something to do."""
        return (line.issuer, serial_bytes(line.serial)) in self.earlier and self.act.warrant.object is not None


def change_status(desk: Desk, order: Path, act: Act, *, also_unknown: bool = False) -> StatusChanged:
    """Carries the status order out. ``act``: revoke, hold or release.

    ``also_unknown``: revoke and hold certificates too that were never issued as far as is known; else they are a
    ``UsageError`` that names the first, and nothing is done. ``UsageError`` too for an unknown issuer and a revocation
    in the future. Authority: see ``Desk.authorise``.
    """
    with own_copy(order, MAX_ORDER_BYTES) as copy:
        read = read_status_order(copy)  # (1)
        if read.act != act:
            raise UsageError(f"the order file is to {read.act}, not to {act}")
        run = _Run(desk.authorise(act, read.digest), read, copy, also_unknown=also_unknown)  # (2)
        _check(run)  # (3)
        _enter(run)  # (4)
    # A restart finds all entries or the first batches of them: these are not made again, and the fact counts them.
    return _finish(run)  # (5)


def _check(run: _Run) -> None:
    now = run.act.still()
    unknown: list[int] = []

    def check(line: StatusLine) -> None:
        if line.since > now:
            raise UsageError(f"serial {line.serial:x}: {instant_text(line.since)} lies in the future")
        if not run.is_done(line) and run.decide(line, now) is Left.UNKNOWN:
            unknown.append(line.serial)
            if len(unknown) > _NAMED:
                raise _never_issued(unknown)

    for issuer in run.order.counts:
        if issuer not in run.issuers:
            raise UsageError(f"the journal does not know the issuer {issuer.hex()}")
    run.lines(check)
    if unknown:
        raise _never_issued(unknown)


def _never_issued(serials: list[int]) -> UsageError:
    named = ", ".join(f"{serial:x}" for serial in serials[:_NAMED])
    more = " and more" if len(serials) > _NAMED else ""
    return UsageError(
        f"never issued as far as is known: serial {named}{more}; nothing was entered",
        hint="Correct the order, or say --also-unknown to stop such certificates too.",
    )


def _enter(run: _Run) -> None:
    batch: list[Stopped | Released] = []
    now = run.act.still()

    def flush() -> None:
        nonlocal now
        if batch:
            now = run.act.still()
            run.act.desk.identity.writer.enter(batch, warrant=run.act.digest)
            run.entered += len(batch)
            batch.clear()

    def take(line: StatusLine) -> None:
        done = (line.issuer, serial_bytes(line.serial)) in run.earlier
        decided = Left.UNCHANGED if run.is_done(line) else run.decide(line, now)
        if isinstance(decided, Left):
            if done:
                run.before += 1
            else:
                run.left[decided] += 1
            return
        batch.append(decided)
        if len(batch) >= BATCH:
            flush()

    run.lines(take)
    flush()


def _finish(run: _Run) -> StatusChanged:
    act, order, head = run.act, run.order, run.act.desk.identity.store.head()
    by_warrant = run.entered + run.before
    say = (
        f"order {order.digest.hex()}",
        f"{by_warrant} of {order.total} certificates of {len(order.counts)} issuers; the others needed nothing",
        f"identity journal {head.number} {head.chain.hex()}",
    )
    fact = act.desk.facts.record(
        Label(f"identity-{order.act}"), act.granted, say, again=run.entered > 0,
        now=act.desk.clock(),
    )  # fmt: skip
    return StatusChanged(
        order.act, order.digest, act.digest, order.total, run.entered, run.before, run.left[Left.UNCHANGED],
        run.left[Left.FINAL], head, fact,
    )  # fmt: skip

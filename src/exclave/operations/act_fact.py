"""The public trace of an act on certificates: one fact in the ledger of the register that holds the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from exclave.errors import Busy, IntegrityError, MalformedError, MissingObject, OutcomeUnknown, UnavailableError
from exclave.formats.fact import Fact, parse_fact
from exclave.formats.leaf import parse_version_leaf
from exclave.formats.paths import warrant_key
from exclave.formats.tile import TILE_WIDTH
from exclave.ids import Instant, Label, RegisterId
from exclave.keys.file import KeyFile
from exclave.operations.custody import Granted
from exclave.operations.ledger_entry import enter, settle_outbox
from exclave.rules.epochs import VerifiedEpoch
from exclave.sites.contract import Site
from exclave.verify.logs import LogTree
from exclave.verify.state import StateView

WAIT_S = 120.0
_MARGIN = 86_400_000_000
"""Versions are dated by their state, which may be older than the entry before them."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where the fact stands."""

    new: bool
    """False: an earlier run had entered it."""
    sites: tuple[Label, ...] = ()
    witnesses: tuple[Label, ...] = ()
    failed: tuple[tuple[Label, str], ...] = ()
    """Sites and witnesses that do not have it, or did not vouch for it, and why."""


class Facts(Protocol):
    """Where an act leaves its fact."""

    def record(self, kind: Label, granted: Granted, say: tuple[str, ...], *, again: bool, now: Instant) -> Recorded:
        """Makes the warrant public, and enters a fact of ``kind`` under it, unless one that begins with the same line
        stands there already; with ``again``, in any case."""


@contextmanager
def patiently(
    take: Callable[[], AbstractContextManager[None]], *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """Takes what another process has, once that lets go; ``Busy`` after two minutes. A backup may be under way."""
    with ExitStack() as held:
        for left in reversed(range(int(WAIT_S))):
            try:
                held.enter_context(take())
                break
            except Busy:
                if left == 0:
                    raise
            sleep(1.0)
        yield


@dataclass(frozen=True, slots=True)
class RegisterFacts:
    """Facts in the ledger of ``register``, whose newest epoch's writer is ``machine``."""

    view: StateView
    register: RegisterId
    machine: KeyFile
    sites: Mapping[Label, Site]
    witnesses: Mapping[Label, str]
    outbox: Path
    alone: Callable[[], AbstractContextManager[None]]
    """Holds the register against other writers on this machine."""

    def record(self, kind: Label, granted: Granted, say: tuple[str, ...], *, again: bool, now: Instant) -> Recorded:
        """See ``Facts``. A restart finds the fact, or finishes entering it, or enters it: never twice."""
        epoch = self.view.epoch_chain(self.register).newest
        warrant, since = granted.warrant.digest, granted.warrant.warrant.not_before
        with self.alone():
            # Before the fact, so that whoever reads it finds who allowed it. A restart puts the same again.
            hidden = self._publish(granted.note.encode())
            settle_outbox(self.view, epoch, self.machine, sites=self.sites, now=now, outbox=self.outbox)
            if not again and any(
                f.kind == kind and f.warrant == warrant and f.say[:1] == say[:1] for f in self._facts(epoch, since)
            ):
                return Recorded(False)
            fact = Fact(self.register, epoch.number, now, kind, warrant, say)
            entered = enter(
                self.view, epoch, self.machine, [fact.encode()], sites=self.sites, witnesses=self.witnesses, now=now,
                outbox=self.outbox,
            )  # fmt: skip
        failed = {**hidden, **entered.failed, **entered.refused}
        return Recorded(True, entered.sites, entered.witnesses, tuple(failed.items()))

    def _publish(self, warrant: bytes) -> dict[Label, str]:
        """Puts the warrant at every site; those that do not have it, and why. Backups bring it to them later."""
        failed: dict[Label, str] = {}
        for label, site in self.sites.items():
            try:
                site.put_same(warrant_key(self.view.state, warrant), warrant)
            except (UnavailableError, IntegrityError, OutcomeUnknown) as error:
                failed[label] = error.message
        return failed

    def _facts(self, epoch: VerifiedEpoch, since: Instant) -> Iterator[Fact]:
        """From the newest back to those of ``since``, in the longest log that a site shows."""
        log = self._longest(epoch)
        for index in reversed(range(-(-log.size // TILE_WIDTH) if log else 0)):
            for entry in reversed(log.bundle(index) if log else ()):
                try:
                    fact = parse_fact(entry)
                except MalformedError:
                    if parse_version_leaf(entry).time < since - _MARGIN:
                        return
                    continue
                if fact.time < since - _MARGIN:
                    return
                yield fact

    def _longest(self, epoch: VerifiedEpoch) -> LogTree | None:
        best: LogTree | None = None
        for site in self.sites.values():
            reader = self.view.log_reader(epoch, site)
            try:
                tree = reader.tree(reader.head())
            except (MissingObject, UnavailableError, IntegrityError):
                continue
            if best is None or tree.size > best.size:
                best = tree
        return best

"""What a host believes of a state whose objects it keeps: charters, warrants and epochs, as its own folder shows them.

It reads the notes once and again only when a folder of notes has changed, so that asking costs a few system calls.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from exclave.errors import Fenced, MissingObject, SiteUnavailable
from exclave.formats.epochnote import Cut
from exclave.formats.paths import (
    card_prefix,
    charter_prefix,
    epoch_prefix,
    ledger_origin,
    ledger_prefix,
    warrant_prefix,
)
from exclave.ids import Epoch, Fingerprint, RegisterId
from exclave.rules.epochs import EpochChain, VerifiedEpoch
from exclave.sites.contract import Readable
from exclave.verify.logs import LogReader
from exclave.verify.state import StateView, read_state

COARSE_NS = 50_000_000
"""A folder that changed so shortly before it was read may have changed again within the same tick of its clock."""
REST = 3.0
"""After a reading that took t seconds, changes wait for so many times t: a flood of notes costs a part of the time."""
QUICK_S = 0.5
"""Nothing waits after one that was quicker."""
MOST_STAMPS = 10_000
"""Folders of notes whose last change is kept."""

_Stamps = dict[str, int]


@dataclass(frozen=True, slots=True)
class KnownEpoch:
    """An epoch that the state granted, and where its successor cut it off; ``cut`` is None while it has the pen."""

    epoch: VerifiedEpoch
    cut: Cut | None
    newest: VerifiedEpoch

    @property
    def same_pen(self) -> bool:
        """Whether its writer is still the one who writes: a rekey ended it, or nothing did."""
        return self.epoch.writer.digest == self.newest.writer.digest

    def require_open(self) -> None:
        """``Fenced`` if a later epoch has ended it."""
        if self.cut is not None:
            number = self.newest.number
            raise Fenced(f"epoch {number} has the pen, epoch {self.epoch.number} may write no more", epoch=number)


class HostedView:
    """One state in ``folder``, whose objects ``site`` reads. For many threads."""

    def __init__(
        self,
        folder: str,
        site: Readable,
        state: Fingerprint,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        elapsed_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self.site, self.state = folder, site, state
        self._clock_ns, self._elapsed_s = clock_ns, elapsed_s
        self._lock = threading.Lock()
        self._known: StateView | None = None
        self._stamps: _Stamps = {}
        self._rests_until = 0.0

    def view(self, *, register: RegisterId | None = None, urgent: bool = False) -> StateView:
        """What the folder shows now; of changes in other registers' epochs than ``register``'s it may not know yet.

        ``urgent``: without rest. ``MissingObject`` while it holds no charter; other errors as of ``read_state``.
        """
        known = self._known
        if known is not None and self._is_fresh(register):
            return known
        with self._lock:
            resting = not urgent and self._elapsed_s() < self._rests_until
            if self._known is not None and (resting or self._is_fresh(register)):
                return self._known
            began = self._elapsed_s()
            # Taken before: what comes while it is read is read again.
            stamps = self._look((*self._registers(), *(() if register is None else (register,))))
            view = read_state({"here": self.site}, self.state)
            # Epochs of registers that were not known before it: looked at once more.
            stamps |= {prefix: -1 for r in view.epochs if (prefix := epoch_prefix(self.state, r)) not in stamps}
            # What has not changed since an earlier reading has not changed since this one.
            earlier = self._stamps if len(self._stamps) < MOST_STAMPS else {}
            self._known, self._stamps = view, {**earlier, **stamps}
            ended = self._elapsed_s()
            self._rests_until = ended + REST * (ended - began) if ended - began > QUICK_S else ended
            return view

    def epochs(self, register: RegisterId, *, urgent: bool = False) -> EpochChain | None:
        """The epochs of ``register``; None if the state has none that this host knows."""
        return self.view(register=register, urgent=urgent).epochs.get(register)

    def find(self, register: RegisterId, number: Epoch, note_start: str = "") -> KnownEpoch:
        """Epoch ``number``, whose note's text has a SHA-256 that begins with ``note_start``.

        ``MissingObject`` if the notes here grant no such epoch.
        """
        found = self._find(self.epochs(register), number, note_start)
        if found is None:
            found = self._find(self.epochs(register, urgent=True), number, note_start)
        if found is None:
            raise MissingObject(
                f"no note at this site grants epoch {number} of register {register}",
                hint="Publish charter, warrant and epoch note here first.",
            )
        return found

    def log(self, known: KnownEpoch) -> LogReader:
        """Reads the log of an epoch here."""
        register, epoch = known.epoch.register, known.epoch
        prefix = ledger_prefix(self.state, register, epoch.number, epoch.digest)
        return LogReader(self.site, prefix, ledger_origin(self.state, register, epoch.number), epoch.writer)

    @staticmethod
    def _find(chain: EpochChain | None, number: Epoch, note_start: str) -> KnownEpoch | None:
        epoch = chain.find(number) if chain is not None else None
        if chain is None or epoch is None or not epoch.digest.hex().startswith(note_start):
            return None
        later = chain.find(Epoch(number + 1))
        return KnownEpoch(epoch, later.note.previous if later else None, chain.newest)

    def _registers(self) -> tuple[RegisterId, ...]:
        return () if self._known is None else tuple(self._known.epochs)

    def _is_fresh(self, register: RegisterId | None) -> bool:
        stamps = self._stamps
        now = self._look(() if register is None else (register,))
        # A register without a folder is none, whoever asks for it: that costs no reading.
        return all(stamps.get(prefix, 0) == stamp for prefix, stamp in now.items())

    def _look(self, registers: tuple[RegisterId, ...]) -> _Stamps:
        """When the names in each folder of notes last changed, in nanoseconds; below zero if it may change unseen."""
        found: _Stamps = {}
        latest = self._clock_ns() - COARSE_NS
        notes = charter_prefix(self.state), warrant_prefix(self.state), card_prefix(self.state)  # signed, and by whom
        for prefix in (*notes, *(epoch_prefix(self.state, r) for r in registers)):
            try:
                changed = os.stat(os.path.join(self._folder, prefix)).st_mtime_ns
            except FileNotFoundError:
                changed = 0
            except OSError as error:
                raise SiteUnavailable(f"a folder of notes cannot be read: {error.strerror}") from error
            # Equal to no stamp that is taken later, so it is looked at once more.
            found[prefix] = changed if changed < latest else -self._clock_ns()
        return found

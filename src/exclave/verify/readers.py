"""What two readers were shown of the same ledgers, beside each other: a host that shows each another chain is found.

Two heads of one log that its writer signed, of which neither goes on from the other, are a fork, whoever showed them:
the pair is the evidence. A reader who kept what he saw finds with it also that a state was rolled back since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from exclave.errors import IntegrityError, MalformedError, MissingObject, NotAuthorised, UnavailableError
from exclave.formats.epochnote import Cut
from exclave.formats.paths import ledger_origin, ledger_prefix
from exclave.formats.seen import Seen, SeenLog
from exclave.ids import Digest, Instant, RegisterId
from exclave.rules.checkpoints import VerifiedCheckpoint, verify_checkpoint
from exclave.rules.epochs import VerifiedEpoch
from exclave.sites.contract import Sources
from exclave.verify.copies import LogCopies
from exclave.verify.guard import GuardedSource
from exclave.verify.logs import ProvenTree
from exclave.verify.state import StateView


class Verdict(Enum):
    """Of one log that the other reader saw; the gravest last."""

    AGREES = "agrees"
    """One head goes on from the other, which is proven, or both are the same."""
    UNTOLD = "untold"
    """Nothing is proven: a source does not answer or has no tiles, or the file's word alone says it."""
    ROLLED_BACK = "rolled-back"
    """The other reader was shown more entries that counted than all these sources together show now."""
    FORKED = "forked"
    """Two histories with the writer's signature."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One log of another reader's, beside what the sources show."""

    verdict: Verdict
    register: RegisterId
    epoch: int
    source: str
    """Which source; ``?`` for all together."""
    detail: str
    theirs: str = ""
    """With a fork: the two signed heads that cannot both be true, as texts."""
    ours: str = ""


class Judged:
    """What a verification judged: charters and epochs, and the heads of each register's logs."""

    def __init__(self) -> None:
        self.view: StateView | None = None
        """None until the state could be read."""
        self.logs: dict[RegisterId, tuple[LogCopies, ...]] = {}

    def add(self, register: RegisterId, logs: Sequence[LogCopies]) -> None:
        """Keeps the heads; what was read below them is not kept."""
        self.logs[register] = tuple(replace(copies, holders={}, findings=[]) for copies in logs)


class Readings:
    """The heads of all ledgers as a verification judged them. No head is read again: a host could answer the comparison
    otherwise than the verification whose report people go by. Reads edges of trees, no entries."""

    def __init__(
        self, sources: Sources, view: StateView, logs: Mapping[RegisterId, tuple[LogCopies, ...]], now: Instant
    ) -> None:
        """``view`` and ``logs``: as in ``Judged``."""
        self._now, self.view, self._logs = now, view, logs
        self._sources = {n: GuardedSource(n, source) for n, source in sources.items() if n in view.shown}
        listed = {rule.id for charter in view.chain.charters for rule in charter.charter.registers}
        self._left_out = listed - {rule.id for rule in view.chain.newest.charter.registers}

    def seen(self, before: Seen | None = None) -> Seen:
        """The largest head of each log that counts here; of logs of which ``before`` has one that this is not proven to
        go on from, that: what a host refuses to prove takes no evidence away.

        What contradicts itself here is left out.
        """
        found: dict[tuple[object, ...], SeenLog] = {}
        for log in before.logs if before else ():
            if self._verified(log) is not None:
                found[log.place] = log
        for copies in (one for logs in self._logs.values() for one in logs):
            head, epoch = copies.freshest, copies.epoch
            if head is None or copies.forked:
                continue
            log = SeenLog(epoch.register, epoch.number, epoch.digest, head.encode())
            known = found.get(log.place)
            older = self._verified(known) if known is not None else None
            if older is None or self._goes_on(epoch, older, head):
                found[log.place] = log
        newest = self.view.chain.newest
        number, digest = newest.charter.number, newest.digest
        if before is not None and before.charter > number:
            number, digest = before.charter, before.charter_digest
        logs = tuple(sorted(found.values(), key=lambda log: log.place))
        return Seen(self.view.state, self._now, number, digest, logs)

    def compare(self, other: Seen, *, own: bool = False) -> tuple[Compared, ...]:
        """Every log that ``other`` saw, beside what each source shows of it.

        ``own``: the file is this reader's own, so its word counts where it cannot be proven any more: charters and
        epochs that nobody shows now were taken back.
        """
        found: list[Compared] = []
        hidden = Verdict.ROLLED_BACK if own else Verdict.UNTOLD
        charters = self.view.chain.charters
        told = ""
        if other.charter > len(charters):
            told = f"it knew charter {other.charter}, and charter {len(charters)} is the newest here"
        elif charters[other.charter - 1].digest != other.charter_digest:
            told = f"it knew another charter {other.charter}, {other.charter_digest.hex()[:16]}…"
        if told:
            found.append(Compared(hidden, RegisterId(""), 0, "?", told))
        for log in other.logs:
            found += self._log(log, hidden)
        return tuple(found)

    def _log(self, log: SeenLog, hidden: Verdict) -> Iterable[Compared]:
        place = self._find(log)
        if place is None and log.register in self._left_out:
            told = f"charter {self.view.chain.newest.charter.number} does not list this register any more"
            return [Compared(Verdict.AGREES, log.register, log.epoch, "?", told)]
        if place is None:
            told = f"no source shows the epoch note {log.epoch_note.hex()[:16]}…: hidden here, or never granted"
            return [Compared(hidden, log.register, log.epoch, "?", told)]
        copies, cut = place
        head = self._verified(log)
        if head is None:
            told = "what the file has for it is no checkpoint that the log's writer signed: it proves nothing"
            return [Compared(Verdict.UNTOLD, log.register, log.epoch, "?", told)]
        each = [self._beside(copies, name, head, shown) for name, shown in copies.heads.items()]
        each += self._whole(copies, cut, head)
        return each

    def _find(self, log: SeenLog) -> tuple[LogCopies, Cut | None] | None:
        """The same log here, and where a later epoch cut it off."""
        logs = self._logs.get(log.register, ())
        for place, copies in enumerate(logs):
            if (copies.epoch.number, copies.epoch.digest) == (log.epoch, log.epoch_note):
                return copies, logs[place + 1].epoch.note.previous if place + 1 < len(logs) else None
        return None

    def _verified(self, log: SeenLog) -> VerifiedCheckpoint | None:
        chain = self.view.epochs.get(log.register)
        epoch = chain.find(log.epoch) if chain else None
        if epoch is None or epoch.digest != log.epoch_note:
            return None
        try:
            origin = ledger_origin(self.view.state, epoch.register, epoch.number)
            return verify_checkpoint(log.checkpoint, origin, epoch.writer, self.view.witness_cards().values())
        except (IntegrityError, NotAuthorised, MalformedError):
            return None

    def _beside(self, copies: LogCopies, name: str, theirs: VerifiedCheckpoint, ours: VerifiedCheckpoint) -> Compared:
        """Whether the head that source ``name`` shows and the other reader's belong to one history."""
        register, number = copies.epoch.register, int(copies.epoch.number)
        small, large = sorted((theirs, ours), key=lambda head: head.size)
        try:
            same = self._root_at(copies.epoch, name, large, small.size) == small.root
        except (IntegrityError, UnavailableError) as error:
            told = (
                f"it shows {ours.size} entries and the file has {theirs.size}; the tiles that would prove that they"
                f" belong together cannot be had there: {error.message}"
            )
            return Compared(Verdict.UNTOLD, register, number, name, told)
        if same:
            told = f"{ours.size} entries here and {theirs.size} in the file are one history"
            return Compared(Verdict.AGREES, register, number, name, told)
        told = (
            f"it shows a history of {ours.size} entries, and the other reader was shown another one of {theirs.size};"
            " the log's writer signed both"
        )
        return Compared(
            Verdict.FORKED, register, number, name, told, theirs.encode().decode(), ours.encode().decode()
        )  # fmt: skip

    def _goes_on(self, epoch: VerifiedEpoch, older: VerifiedCheckpoint, head: VerifiedCheckpoint) -> bool:
        """Whether ``head`` is proven to go on from ``older``."""
        try:
            return older.size <= head.size and self._root_at(epoch, "", head, older.size) == older.root
        except (IntegrityError, UnavailableError):
            return False

    def _root_at(self, epoch: VerifiedEpoch, name: str, head: VerifiedCheckpoint, size: int) -> Digest:
        """The root that the log of ``head`` had at ``size``, by the tiles of ``name``, or of another source."""
        if size == head.size:
            return head.root
        prefix = ledger_prefix(self.view.state, epoch.register, epoch.number, epoch.digest)
        first: IntegrityError | UnavailableError | None = None
        for _, source in sorted(self._sources.items(), key=lambda item: item[0] != name):
            try:
                return ProvenTree(source, prefix, head).root_at(size)
            except (IntegrityError, UnavailableError) as error:
                first = first or error
        raise first or MissingObject("no source has the tiles")

    def _whole(self, copies: LogCopies, cut: Cut | None, theirs: VerifiedCheckpoint) -> Iterable[Compared]:
        """Whether all sources together show as much as the other reader was shown."""
        register, number = copies.epoch.register, int(copies.epoch.number)
        largest = max((head.size for head in copies.heads.values()), default=0)
        if largest >= theirs.size:
            return []
        if cut is not None and largest >= cut.size:
            told = f"the next epoch goes on from entry {cut.size}, so not all {theirs.size} of the file's count"
            return [Compared(Verdict.AGREES, register, number, "?", told)]
        told = f"the other reader was shown {theirs.size} entries; all sources together show {largest}"
        counted = cut is not None or theirs.counts_by(self.view.chain.newest.charter.policy)
        if counted:
            return [Compared(Verdict.ROLLED_BACK, register, number, "?", told)]
        return [Compared(Verdict.UNTOLD, register, number, "?", f"{told}; too few witnesses vouch for the rest")]


def worst(found: Iterable[Compared]) -> Verdict:
    """The gravest of all verdicts."""
    return max((one.verdict for one in found), key=list(Verdict).index, default=Verdict.AGREES)

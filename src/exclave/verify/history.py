"""The versions of a register that count, as its ledgers prove them across all epochs and sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, MissingObject, UnavailableError
from exclave.formats.deletion import CHARTER, DONE, ORDERED
from exclave.formats.edition import KIND as PUBLISHED
from exclave.formats.exit import KIND as SITE_LEFT
from exclave.formats.fact import Fact
from exclave.formats.leaf import VersionLeaf, parse_ledger_entry
from exclave.formats.scrubbed import KIND as SCRUBBED
from exclave.formats.sitefacts import LOCKED, PROBED
from exclave.formats.tile import TILE_WIDTH
from exclave.ids import Epoch, RegisterId, instant_text
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.rules.epochs import VerifiedEpoch
from exclave.sites.contract import Sources
from exclave.verify.ahead import each_ahead
from exclave.verify.copies import LogCopies, judge_copies
from exclave.verify.state import Finding, StateView, finding

CLOCK_TOLERANCE_US = 5 * 60 * 1_000_000
"""So much may a version's time lie before its predecessor's: two machines' clocks differ."""
MAX_ENTRIES = 1 << 22
"""Most entries that are read of one register."""
_MAX_LOST_BUNDLES = 16
_KEPT_FACTS = frozenset({CHARTER, ORDERED, DONE, PUBLISHED, SCRUBBED, SITE_LEFT, PROBED, LOCKED})


@dataclass(frozen=True, slots=True)
class EpochLog:
    """One epoch's log."""

    epoch: VerifiedEpoch
    freshest: VerifiedCheckpoint | None
    """Newest epoch: the checkpoint up to which entries count (after a fork: the largest of those in conflict).
    Former epochs: the head closest to the cut that covers it. None if no source shows one."""
    counted: int
    """Number of entries that count: all others were not witnessed, are fenced, or lie behind a fork."""
    source: str
    """A source that holds them all; empty if none does."""
    heads: Mapping[str, VerifiedCheckpoint] = field(repr=False)
    """What each source shows, if its writer signed it; it need not count."""
    agreed: Mapping[str, int]
    """How many of the entries that count each source's head covers; sources that show none are left out."""
    vouched: Mapping[str, int] = field(default_factory=dict)
    """Number of entries that must count, by who says so: sources and witnesses that show or keep a head with enough
    cosignatures, or the next epoch's note. More than ``counted`` if no source proves them."""
    forked: bool = False
    """Whether heads that could all count contradict each other."""
    unread: tuple[int, ...] = ()
    """First numbers of bundles of entries that count and that no source shows unharmed."""

    @property
    def sizes(self) -> dict[str, int]:
        """Entries that each source's own head claims."""
        return {name: head.size for name, head in self.heads.items()}


@dataclass(frozen=True, slots=True)
class CountedVersion:
    """One version, where its leaf stands, and the sources whose head covers it."""

    epoch: Epoch
    index: int
    """Number of the entry in its epoch's log, from 0."""
    leaf: VersionLeaf
    held_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CountedFact:
    """One fact about keeping, deleting or scrubbing, where it stands, and the sources whose head covers it."""

    epoch: Epoch
    index: int
    """Number of the entry in its epoch's log, from 0."""
    fact: Fact
    held_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegisterHistory:
    """What ``read_history`` found."""

    register: RegisterId
    epochs: tuple[EpochLog, ...]
    versions: tuple[CountedVersion, ...]
    """In order of sequence, none twice."""
    findings: tuple[Finding, ...]
    facts: tuple[CountedFact, ...] = ()
    """In the ledger's order: which charter versions are made under, orders to delete, what was erased, and scrubs."""
    erased: Mapping[int, str] = field(default_factory=dict)
    """By sequence: when and by which warrant a version was erased, in words. Filled by ``deletions.mark_erased``."""

    @property
    def latest(self) -> CountedVersion:
        """The newest version that counts. ``MissingObject`` if there is none; it says why."""
        if not self.versions:
            why = "; ".join(f"{f.site}: {f.detail}" for f in self.findings if f.grave)
            text = f"register {self.register} has no version that counts"
            raise MissingObject(f"{text}: {why}" if why else text, register=self.register)
        return self.versions[-1]

    def version(self, sequence: int) -> CountedVersion:
        """Version number ``sequence``. ``MissingObject`` if it was erased, does not count or does not exist."""
        self.require_kept(sequence)
        for version in self.versions:
            if version.leaf.sequence == sequence:
                return version
        raise MissingObject(f"register {self.register} has no version {sequence} that counts", sequence=sequence)

    def require_kept(self, sequence: int) -> None:
        """``MissingObject`` if version ``sequence`` is marked as erased: when, and by which warrant."""
        if sequence in self.erased:
            raise MissingObject(
                f"version {sequence} of register {self.register} was {self.erased[sequence]}",
                hint="Choose another version; `exclave snapshots` shows which there are.",
                sequence=sequence,
            )

    @property
    def newest_log(self) -> EpochLog:
        """The log of the newest epoch: where a writer goes on."""
        return self.epochs[-1]


def read_history(
    view: StateView,
    sources: Sources,
    register: RegisterId,
    *,
    allow_unwitnessed: bool = False,
    newest: int | None = None,
    remembered: Mapping[str, VerifiedCheckpoint] | None = None,
) -> RegisterHistory:
    """The versions of ``register`` that count, from all ``sources`` (site name → site) together.

    Of the newest epoch count the entries up to the largest checkpoint that has the charter's quorum of
    cosignatures; of former epochs exactly those up to the cut in their successor's note. If no checkpoint of the
    newest epoch has enough cosignatures, that is a ``quorum-missing`` finding and the epoch adds nothing. With
    ``allow_unwitnessed`` its largest checkpoint counts all the same: for an operator who has decided to go on
    without witnesses. Where two checkpoints that could count contradict each other (``forked``), only what they have
    in common does; who knows which site is right passes only that one.

    ``newest``: read from the end, and stop once so many versions are found; enough for a restore of the latest, and
    quick on a log of any length. ``remembered``: what witnesses, asked by name, last cosigned of the newest epoch's
    log: if no source shows as much, ``EpochLog.vouched`` says so. Raises ``MissingObject`` if the register's epochs
    cannot be told.
    """
    logs = read_copies(view, sources, register, allow_unwitnessed=allow_unwitnessed, remembered=remembered)
    return collect_history(logs, newest=newest)


def read_copies(
    view: StateView,
    sources: Sources,
    register: RegisterId,
    *,
    allow_unwitnessed: bool = False,
    remembered: Mapping[str, VerifiedCheckpoint] | None = None,
) -> tuple[LogCopies, ...]:
    """Every epoch's log of ``register``, judged; the first epoch first."""
    epochs = view.epoch_chain(register).epochs
    cuts = [*(epoch.note.previous for epoch in epochs[1:]), None]
    return tuple(
        judge_copies(view, sources, epoch, cut=cut, allow_unwitnessed=allow_unwitnessed, remembered=remembered)
        for epoch, cut in zip(epochs, cuts, strict=True)
    )


def collect_history(logs: tuple[LogCopies, ...], *, newest: int | None = None) -> RegisterHistory:
    """The versions in judged logs."""
    register = logs[0].epoch.register
    found: list[CountedVersion] = []
    facts: list[CountedFact] = []
    unread: dict[str, list[int]] = {}
    room = MAX_ENTRIES
    for copies in reversed(logs):
        lost = 0
        soon = copies.foresee if newest is None else lambda _: None
        for index in each_ahead(range(-(-copies.size // TILE_WIDTH))[::-1], soon):
            if (newest is not None and len(found) >= newest) or room <= 0 or lost >= _MAX_LOST_BUNDLES:
                break
            try:
                entries = copies.bundle(index)
            except (IntegrityError, UnavailableError) as error:
                lost += 1
                unread.setdefault(copies.prefix, []).append(index * TILE_WIDTH)
                copies.note("?", f"{copies.prefix}entries from {index * TILE_WIDTH}", error, grave=True)
                continue
            room -= len(entries)
            for entry in reversed(_counted_in(copies, index * TILE_WIDTH, entries)):
                if isinstance(entry, CountedVersion):
                    found.append(entry)
                else:
                    facts.append(entry)
    findings = [f for copies in logs for f in copies.findings]
    if room <= 0:
        long = CorruptObject(f"the ledgers have more than {MAX_ENTRIES} entries; the oldest were not read")
        findings.append(finding("?", "ledger", long, register, grave=False))
    versions = _in_order(found[::-1], register, findings)
    epochs = tuple(
        EpochLog(
            c.epoch, c.freshest, c.size, c.best, dict(c.heads), dict(c.agreed), dict(c.vouched), c.forked,
            tuple(unread.get(c.prefix, ())),
        )
        for c in logs
    )  # fmt: skip
    return RegisterHistory(register, epochs, versions, tuple(findings), tuple(facts[::-1]))


def _counted_in(copies: LogCopies, first: int, entries: tuple[bytes, ...]) -> list[CountedVersion | CountedFact]:
    """The versions among proven entries, and the facts about keeping and deleting them. An entry that is none of ours
    is the writer's doing, not a site's."""
    found: list[CountedVersion | CountedFact] = []
    for index, entry in enumerate(entries, first):
        try:
            said = parse_ledger_entry(entry)
        except MalformedError as error:
            copies.note("?", f"{copies.prefix}entry/{index}", CorruptObject(f"not a ledger entry: {error.message}"))
            continue
        if said.register != copies.epoch.register or said.epoch != copies.epoch.number:
            foreign = CorruptObject("this entry belongs to another register or epoch")
            copies.note("?", f"{copies.prefix}entry/{index}", foreign)
            continue
        held = tuple(name for name, size in copies.agreed.items() if size > index)
        if isinstance(said, VersionLeaf):
            found.append(CountedVersion(copies.epoch.number, index, said, held))
        elif said.kind in _KEPT_FACTS:
            found.append(CountedFact(copies.epoch.number, index, said, held))
    return found


def _in_order(found: list[CountedVersion], register: RegisterId, findings: list[Finding]) -> tuple[CountedVersion, ...]:
    """Those whose sequence rises; a time that goes back is reported and counts."""
    good: list[CountedVersion] = []
    for version in found:
        leaf, what = version.leaf, f"version {version.leaf.sequence}"
        before = good[-1].leaf if good else None
        if before is not None and leaf.sequence <= before.sequence:
            error: ExclaveError = CorruptObject(f"{what} follows version {before.sequence} in the ledger")
            findings.append(finding("?", what, error, register))
            continue
        if before is not None and leaf.time < before.time - CLOCK_TOLERANCE_US:
            error = CorruptObject(f"its time {instant_text(leaf.time)} lies before that of version {before.sequence}")
            findings.append(finding("?", what, error, register))
        good.append(version)
    return tuple(good)

"""What a verification of a whole embassy tells: plain values, fit for JSON."""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import PlacementUnmet, UnavailableError, all_errors
from exclave.ids import Country, Epoch, Fingerprint, Instant, Label, RegisterId, Sequence, instant_text, parse_instant
from exclave.verify.deletions import Erased
from exclave.verify.exits import Exit
from exclave.verify.shown import NOT_IN_CHARTER, Finding

NOT_ERASED = "not-erased"
"""What a finding says of packs that should be gone."""
_UNAVAILABLE = {e.code for e in all_errors() if issubclass(e, UnavailableError)} - {PlacementUnmet.code}


@dataclass(frozen=True, slots=True)
class SiteReport:
    """One register at one source."""

    site: str
    country: Country | None
    """None if the charter does not know a site of that name for this register."""
    entries: int
    """Of the newest epoch's log, those that count and that the source's head covers."""
    versions: int
    """Versions that its ledgers cover."""
    complete: int
    """Those of them of which every object is there; with packs read, also unchanged."""
    latest_complete: Sequence | None
    latest_complete_time: Instant | None


@dataclass(frozen=True, slots=True)
class Dated:
    """A timestamp authority's word: everything up to there existed before that moment."""

    authority: Label
    before: Instant
    epoch: Epoch
    entries: int
    """Of that epoch's log."""
    sequence: Sequence | None
    """The newest version among them."""


@dataclass(frozen=True, slots=True)
class PublishedReport:
    """What is public of a register, by its ledger."""

    sequence: Sequence
    """The version that is public."""
    time: Instant
    """The moment whose state that is."""
    bundles: int
    complete: tuple[str, ...]
    """Sites that hold all that their ledgers say is published; with packs read, unchanged."""

    def text(self, name: str) -> str:
        """One sentence for people; ``name``: of the register."""
        where = ", ".join(self.complete) or "NO site"
        return f"version {self.sequence} of {name} is public; all that was published is at {where}."


@dataclass(frozen=True, slots=True)
class RegisterReport:
    """One register over all sources."""

    register: RegisterId
    public_name: str | None
    epoch: Epoch
    """The newest one; 0 if it cannot be told."""
    versions: int
    latest: Sequence | None
    latest_time: Instant | None
    """The moment whose state the latest version holds."""
    age_s: int | None
    """How old that state is; seconds."""
    rpo_s: int
    """How old the charter lets it become; seconds."""
    sites: tuple[SiteReport, ...]
    placement_lacks: str
    """What the sources that hold the latest version completely lack to meet the placement rule; empty if nothing."""

    erased: tuple[Erased, ...] = ()
    """Versions that are gone, or may be: they stay in the ledger, and are counted nowhere else."""
    timestamps: tuple[Dated, ...] = ()
    """The earliest first."""
    exits: tuple[Exit, ...] = ()
    """Sites that the register has left, and what their operators signed."""
    published: PublishedReport | None = None
    """None if nothing was published, or no source shows the edition in force."""

    @property
    def rpo_met(self) -> bool:
        return self.age_s is not None and self.age_s <= self.rpo_s

    def is_old(self, since: Instant | None = None) -> bool:
        """Whether its newest version is older than its charter allows, or than ``since`` if that is given."""
        if self.latest_time is None:
            return False
        return not self.rpo_met if since is None else self.latest_time < since

    def too_old(self, since: Instant | None = None) -> str:
        """That it is, as a sentence."""
        age_s = self.age_s or 0
        asked = f"the charter allows {self.rpo_s} s" if since is None else f"{instant_text(since)} was asked for"
        return (
            f"But {self.public_name or self.register} is OLD: its newest version is of {age_s // 86400} d"
            f" {age_s % 86400 // 3600} h ago, and {asked}. Ask other sites and the"
            " witnesses whether they know a newer one."
        )


@dataclass(frozen=True, slots=True)
class EmbassyReport:
    """The whole state, as the given sources show it."""

    state: Fingerprint
    charter: int
    """Number of the newest charter; 0 if no chain of charters leads from the pinned fingerprint."""
    checked_at: Instant
    packs_read: int
    """Packs read and hashed, each source's counted; 0 if only their presence was checked."""
    registers: tuple[RegisterReport, ...]
    findings: tuple[Finding, ...]
    placement_unmet: tuple[RegisterId, ...] = ()
    """Registers whose placement rule is not met, though all sites where they may lie were named."""

    @property
    def unread(self) -> tuple[str, ...]:
        """Sources of which something, or all, could not be read: nothing is known of that."""
        return tuple(sorted({f.site for f in self.findings if f.fault in _UNAVAILABLE and f.site != "?"}))

    @property
    def not_erased(self) -> tuple[str, ...]:
        """Sources that show what the ledger says was erased."""
        return tuple(sorted({f.site for f in self.findings if f.fault == NOT_ERASED}))

    @property
    def settled(self) -> bool:
        """All that was named was read, lies where it must, and is gone where it must be. It may be old."""
        return not (self.unread or self.placement_unmet or self.not_erased or self.not_in_charter)

    @property
    def not_in_charter(self) -> tuple[str, ...]:
        """Empty sources whose names the charter in force does not know."""
        return tuple(sorted({f.site for f in self.findings if f.fault == NOT_IN_CHARTER}))

    @property
    def ok(self) -> bool:
        """No finding is grave."""
        return not any(f.grave for f in self.findings)

    def old(self, since: Instant | None = None) -> tuple[RegisterId, ...]:
        """Registers whose newest version is older than their charter allows, or than ``since`` if that is given."""
        return tuple(register.register for register in self.registers if register.is_old(since))

    def verdict(self, since: Instant | None = None, *, quick: bool = False) -> tuple[str, ...]:
        """What it comes to, in sentences: right or not, and which registers are older than they may be. ``quick``: that
        no pack was to be read."""
        old = (register.too_old(since) for register in self.registers if register.is_old(since))
        if not self.answered:
            return ("No site could be read: nothing was found out, neither good nor bad.",)
        read = "history and list that was read is right. Packs were NOT read (--quick)" if quick else (
            "history and byte that was read is right")  # fmt: skip
        return (f"Every signature, {read}." if self.ok else "There are faults: see above.", *old)

    @property
    def answered(self) -> bool:
        """Whether any site could be read at all."""
        return bool(self.charter) or not all(f.fault in _UNAVAILABLE for f in self.findings)


def many(number: int, one: str, more: str = "") -> str:
    """``1 register``, ``2 registers``; ``more``: another plural than with an s."""
    return f"{number} {one if number == 1 else more or one + 's'}"


def mark_of(found: Finding) -> str:
    """``FAULT``, or what else begins the line about it: a site that cannot be read has done nothing wrong."""
    return "note" if not found.grave else "NOT READ" if found.fault in _UNAVAILABLE else "FAULT"


def text_of(found: Finding, register: str = "") -> str:
    """The rest of that line. ``register``: a name that says more than the id, which is in the object's name."""
    whose = f"{register}: " if register else ""
    if found.fault == PlacementUnmet.code or (found.site == "?" and found.fault in _UNAVAILABLE):
        return f"{whose}{found.detail}"
    return f"{found.site}: {whose}{found.fault}: {found.what}: {found.detail}"


def parse_at_least(text: str) -> Instant:
    """The moment that a reader asks for: ``any``, a day, or a time to the second, both UTC. ``MalformedError``"""
    if text == "any":
        return Instant(0)
    whole = text + "T00:00:00Z" if len(text) == 10 else text
    return parse_instant(whole[:-1] + ".000000Z" if len(whole) == 20 and whole.endswith("Z") else whole)

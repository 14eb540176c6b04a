"""Sites from each other: every target gets what it lacks of what the others hold, without home and without any key.

For each target, register by register: (1) what it lacks, by its listing · (2) notes, boxes, lists, packs, each compared
with its name as it is copied · (3) ledgers and heads, once nothing that they promise is lacking. A target that is ahead
stays, and what contradicts the others is told and never overwritten. A run that dies is run again: it brings the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from exclave.errors import ExclaveError, Forked, LegalBasisMissing, SiteUnavailable, UsageError
from exclave.ids import Instant, Label, RegisterId
from exclave.operations.carry_public import bring_feed_heads, carry_public_statements
from exclave.operations.deliver import Delivery, deliver, plan_delivery, registers_at
from exclave.sites.contract import Site
from exclave.verify.copies import LogCopies
from exclave.verify.state import StateView


@dataclass(slots=True)
class RegisterSync:
    """One register at one target."""

    site: Label
    register: RegisterId
    objects: int
    """Brought by this run."""
    bytes: int
    lacking: int
    """Packs and lists that no source has unharmed, or that the target refused."""
    level: bool
    """The target shows all that counts, and holds what that promises."""
    waits: str = ""
    """Why its ledgers were not brought forward; empty if they were."""
    forked: bool = False
    """The target, or a source, shows another history: people have to look at it."""
    faults: dict[str, str] = field(default_factory=dict)
    """``site object`` → what was wrong there. Nothing of it was taken over."""


@dataclass(slots=True)
class SiteSync:
    """One target."""

    site: Label
    registers: list[RegisterSync] = field(default_factory=list)
    error: ExclaveError | None = None
    """Why it was given up: full, read-only, silent. What arrived stays."""
    faults: dict[str, str] = field(default_factory=dict)
    """What was wrong with statements about the whole state, as in ``RegisterSync``."""

    @property
    def level(self) -> bool:
        return self.error is None and all(register.level for register in self.registers)


@dataclass(frozen=True, slots=True)
class Syncing:
    """What all targets of one run share."""

    view: StateView
    sources: Mapping[Label, Site]
    """Sites to copy from, the preferred one first; a target among them is no source of its own."""
    now: Instant
    only: RegisterId | None = None
    mend: bool = False
    """Replace wrong bytes that lie at a target under the name of what is brought."""
    plan_done: Callable[[str, int], None] = lambda what, size: None
    """``plan_done(target and register, bytes that are lacking)`` before they are brought."""
    progress: Callable[[int], None] = lambda size: None
    """``progress(bytes)`` after each object."""

    def sync(self, targets: Mapping[Label, Site]) -> tuple[SiteSync, ...]:
        """Brings each of ``targets`` up to the others; one that fails does not stop the rest.

        ``LegalBasisMissing`` if the charter gives a target no register that may be brought there: nothing is written.
        ``SiteUnavailable`` if no target or no source answers.
        """
        wanted = {label: registers_at(self.view, label, self.only, now=self.now) for label in targets}
        for label in targets:
            if not [name for name in self.sources if name != label and name in self.view.shown]:
                raise SiteUnavailable(f"no other site than {label} answers, so there is nothing to bring it from")
        return tuple(self._one(label, site, wanted[label]) for label, site in targets.items())

    def _one(self, label: Label, target: Site, registers: Sequence[RegisterId]) -> SiteSync:
        done = SiteSync(label)
        if label not in self.view.shown:
            why = next((f.detail for f in self.view.findings if f.site == label and f.what == "site"), "no answer")
            done.error = SiteUnavailable(f"{label} does not answer: {why}", site=label)
            return done
        sources = {name: s for name, s in self.sources.items() if name != label and name in self.view.shown}
        for register in registers:
            try:
                if not done.registers:
                    done.faults = carry_public_statements(self.view, label, target, sources, mend=self.mend)
                done.registers.append(self._register(register, label, target, sources))
            except ExclaveError as error:
                # Full, read-only or silent: the next register would meet the same, so this target waits.
                done.error = error
                break
        return done

    def _register(
        self, register: RegisterId, label: Label, target: Site, sources: Mapping[Label, Site]
    ) -> RegisterSync:
        plan = plan_delivery(self.view, register, target, sources, now=self.now)  # (1)
        self.plan_done(f"{label}, register {register[:8]}", plan.needed_bytes)
        deliver(self.view, plan, label, target, sources, mend=self.mend, progress=self.progress)  # (2), (3)
        if not plan.lacking:
            plan.faults |= bring_feed_heads(self.view, register, label, target, sources, now=self.now)
        return _result(label, plan)


def _result(label: Label, plan: Delivery) -> RegisterSync:
    own = {what: why for what, why in plan.faults.items() if what.startswith((f"{label} ", "? "))}
    return RegisterSync(
        label, plan.register, plan.objects, plan.bytes, plan.lacking, plan.published and not own, plan.waits,
        _forked(plan.logs) or plan.forked, dict(plan.faults),
    )  # fmt: skip


def _forked(logs: Sequence[LogCopies]) -> bool:
    return any(copies.forked or any(f.fault == Forked.code for f in copies.findings) for copies in logs)


def require_targets(
    view: StateView, sites: Mapping[Label, Site], wanted: Sequence[Label], sources: Sequence[Label]
) -> tuple[dict[Label, Site], dict[Label, Site]]:
    """The targets called ``wanted`` and the sources called ``sources`` (all, if none is named) among ``sites``.

    ``UsageError`` for a name that is not there, ``LegalBasisMissing`` for a target that no charter in force names.
    """
    for label in (*wanted, *sources):
        if label not in sites:
            raise UsageError(f"there is no site {label} here; there are: {', '.join(sites)}")
    named = {site.label for site in view.chain.newest.charter.sites}
    for label in wanted:
        if label not in named:
            raise LegalBasisMissing(f"the charter in force does not name a site {label}", site=label)
    return {label: sites[label] for label in wanted}, {label: sites[label] for label in sources or sites}

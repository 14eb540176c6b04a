"""Gives a site up: its copies go to another one, then a charter leaves it out, then its operator erases.

The only state is what the sites show: (1) look, (2) copy what the new site lacks and verify it, (3) look again, (4)
only if every register's rule holds without the site, draft the charter. A drill ends after (3). A run that dies is run
again. Nothing is deleted here, and until the charter is in force the site counts as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exclave.errors import PlacementUnmet, SiteUnavailable
from exclave.formats.charter import CharterRegister
from exclave.formats.config import Config
from exclave.ids import Instant, Label
from exclave.operations.charter_draft import Draft
from exclave.operations.charter_propose import propose
from exclave.operations.home import Home
from exclave.operations.site_sync import SiteSync, Syncing
from exclave.rules.evacuation import RegisterOutlook, Step, next_step
from exclave.rules.lease import basis_ended
from exclave.rules.placement import placement_of
from exclave.sites.contract import Site
from exclave.verify.deletions import read_deletions
from exclave.verify.embassy import EmbassyReport, verify_embassy
from exclave.verify.history import read_history
from exclave.verify.holding import find_holders
from exclave.verify.inventory import read_lists
from exclave.verify.part import listed_sizes
from exclave.verify.state import StateView, read_state


@dataclass(frozen=True, slots=True)
class Outlook:
    """How far an evacuation has come."""

    site: Label
    new: Label
    step: Step
    registers: tuple[RegisterOutlook, ...]


@dataclass(frozen=True, slots=True)
class Evacuation:
    """What one run did."""

    before: Outlook
    after: Outlook
    synced: SiteSync | None
    """What was copied to the new site; None if nothing had to be, or nothing may be."""
    report: EmbassyReport | None
    """The new site alone, every byte read, if anything was copied."""
    took_s: float
    """Copying and verifying."""

    @property
    def copied_bytes(self) -> int:
        return sum(r.bytes for r in self.synced.registers) if self.synced is not None else 0

    @property
    def ok(self) -> bool:
        """What was copied is level and right."""
        return (self.synced is None or self.synced.level) and (self.report is None or self.report.ok)


def look(view: StateView, sites: Mapping[Label, Site], label: Label, new: Label, *, now: Instant) -> Outlook:
    """What giving up ``label`` for ``new`` would mean now. ``SiteUnavailable`` if the new site does not answer."""
    charter = view.chain.newest.charter
    named = charter.site(label) is not None
    if named and new not in view.shown:
        raise SiteUnavailable(f"{new} does not answer", site=new)
    found = tuple(
        _register(view, sites, label, new, rule, now) for rule in charter.registers if named and label in rule.at
    )
    present = label in sites and next(iter(sites[label].list(f"{view.state}/")), None) is not None
    return Outlook(label, new, next_step(named=named, present=present, registers=found), found)


def _register(
    view: StateView, sites: Mapping[Label, Site], label: Label, new: Label, rule: CharterRegister, now: Instant
) -> RegisterOutlook:
    answering = {name: site for name, site in sites.items() if name in view.shown}
    history = read_history(view, answering, rule.id, allow_unwitnessed=True)
    gone = read_deletions(view, answering, history, now=now).erased(view, now)
    living = [v for v in history.versions if v.leaf.sequence not in gone]
    inventory = read_lists(view.state, rule.id, (v.leaf.objects for v in living), answering)
    rest = {name: site for name, site in answering.items() if name in rule.at and name != label}
    holders = find_holders(view, rest, rule.id, living).at
    placement = placement_of(view.chain.newest.charter, rule, now=now)
    risk = {v.leaf.sequence: lacks for v in living if (lacks := placement.missing(holders[v.leaf.sequence]))}
    basis = new in rule.at and not basis_ended(rule, new, now)
    have = listed_sizes(sites[new], inventory) if basis else {}
    lacking = sum(size for name, size in inventory.packs.items() if have.get(name) != size)
    behind = basis and any(new not in holders[v.leaf.sequence] for v in living)
    return RegisterOutlook(
        register=rule.id, versions=len(living), objects=len(inventory.packs), bytes=sum(inventory.packs.values()),
        only_here=sum(not holders[v.leaf.sequence] for v in living), at_risk=len(risk),
        lacks=risk[max(risk)] if risk else "", basis=basis, lacking_bytes=max(lacking, int(behind)),
    )  # fmt: skip


def evacuate(
    view: StateView,
    sites: Mapping[Label, Site],
    label: Label,
    new: Label,
    *,
    clock: Callable[[], Instant],
    workers: int = 2,
    plan_done: Callable[[str, int], None] = lambda what, size: None,
    progress: Callable[[int], None] = lambda size: None,
) -> Evacuation:
    """(1) to (3): copies to ``new`` what it lacks, if it may lie there, and verifies it. Deletes nothing.

    Registers without a legal basis at ``new`` are only counted. Raises ``SiteUnavailable``, or what ended the copying.
    """
    before = look(view, sites, label, new, now=clock())  # (1)
    if not any(one.basis and one.lacking_bytes for one in before.registers):
        return Evacuation(before, before, None, None, 0.0)
    began = clock()
    syncing = Syncing(view, sites, began, plan_done=plan_done, progress=progress)
    (synced,) = syncing.sync({new: sites[new]})  # (2)
    if synced.error is not None:
        raise synced.error
    report = verify_embassy({new: sites[new]}, view.state, now=clock(), workers=workers)
    took_s = (clock() - began) / 1e6
    after = look(read_state(sites, view.state), sites, label, new, now=clock())  # (3)
    return Evacuation(before, after, synced, report, took_s)


def propose_without(home: Home, folder: Path, view: StateView, outlook: Outlook, *, now: Instant) -> Draft:
    """(4) Drafts the charter that leaves the site out. ``PlacementUnmet`` unless every rule holds without it.

    ``exclave.toml`` is left as it is: take the site's lines out once the charter is in force.
    """
    if outlook.step is not Step.PROPOSE:
        told = [f"register {one.register[:8]}: {_why(one, outlook)}" for one in outlook.registers if _why(one, outlook)]
        raise PlacementUnmet(
            f"{outlook.site} cannot be left out yet ({outlook.step}): {'; '.join(told) or 'nothing is to be proposed'}",
            hint="Nothing was drafted; the site counts as before. Run `exclave site evacuate` again.",
        )
    smaller = Home(home.folder, without_site(home.config, outlook.site))
    return propose(smaller, folder, view, now=now)


def _why(one: RegisterOutlook, outlook: Outlook) -> str:
    if not one.basis:
        return f"it has no legal basis at {outlook.new}"
    if one.lacking_bytes:
        return f"{outlook.new} lacks {one.lacking_bytes} bytes"
    return one.lacks


def without_site(config: Config, label: Label) -> Config:
    """``config`` as if the site had never been in it."""
    registers = tuple(
        msgspec.structs.replace(
            register,
            legal_basis={name: text for name, text in register.legal_basis.items() if name != label},
            legal_basis_until={name: text for name, text in register.legal_basis_until.items() if name != label},
        )
        for register in config.register
    )
    return msgspec.structs.replace(
        config, site=tuple(site for site in config.site if site.name != label), register=registers
    )

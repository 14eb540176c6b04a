"""Rebuilds an empty or damaged site from the others, without home and without any key, and ends with a verification.

(1) what is lacking, wrong bytes under its names replaced · (2) every byte there is read, and what is wrong repaired ·
(3) once more (1), if something was still in its way, and then (2), if what was wrong hid others · (4) the outsider's
checker, with this site alone. Each step may die and is done again: what it brought is there, and the head that promises
it comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from exclave.errors import SiteUnavailable
from exclave.ids import Instant, Label, RegisterId
from exclave.operations.deliver import registers_at
from exclave.operations.scrub import Found, Scrubber
from exclave.operations.site_sync import SiteSync, Syncing
from exclave.sites.contract import Site
from exclave.verify.embassy import EmbassyReport, verify_embassy
from exclave.verify.state import read_state

_NOTES, _BY_REGISTER = frozenset({"card", "charter", "warrant"}), frozenset({"epoch", "ledger"})
"""Parts of a state, and of a register, that say what else there is."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did, and what the site is worth now."""

    site: Label
    empty: bool
    """Nothing of the state lay there before."""
    objects: int
    bytes: int
    """Brought; repaired ones are not among them."""
    bytes_read: int
    found: tuple[tuple[RegisterId, Found], ...]
    """What was wrong there, and what became of it."""
    synced: SiteSync
    report: EmbassyReport

    @property
    def ok(self) -> bool:
        """It is level with the others, and an outsider finds nothing wrong with it alone."""
        return self.synced.level and self.report.ok and not any(f.repaired_from is None for _, f in self.found)


def rebuild(
    syncing: Syncing,
    label: Label,
    site: Site,
    *,
    seed: bytes,
    choose: Callable[[int], int],
    workers: int = 2,
    step: Callable[[str], None] = lambda what: None,
    read: Callable[[int], None] = lambda size: None,
    clock: Callable[[], Instant],
) -> Rebuilt:
    """Rebuilds ``site``. ``seed``: 32 random bytes, and ``choose``, for the order in which it is read.

    Errors as of ``Syncing.sync``; ``SiteUnavailable`` also if it stops answering.
    """
    syncing = replace(syncing, mend=True)
    shown = syncing.view.shown.get(label)
    empty = shown is not None and not (shown.charters or shown.cards or any(shown.epochs.values()))
    step("what is lacking")
    synced = _sync(syncing, label, site)  # (1)
    objects, size = _brought(synced)
    step("every byte of it")
    found, bytes_read = _scrub(_again(syncing, label, site), label, site, seed, choose, workers, read)  # (2)
    if found or not synced.level:  # (3)
        step("what was in the way")
        synced = _sync(_again(syncing, label, site), label, site)
        more = _brought(synced)
        objects, size = objects + more[0], size + more[1]
    if any(_hid_others(one) for _, one in found):
        repaired = tuple(one for one in found if one[1].repaired_from is not None)
        again, more_read = _scrub(_again(syncing, label, site), label, site, seed, choose, workers, read)
        found, bytes_read = (*repaired, *again), bytes_read + more_read
        synced = _sync(_again(syncing, label, site), label, site) if again else synced
    step("verification")
    # What (2) has read and found right need not be read twice.
    report = verify_embassy(
        {label: site}, syncing.view.state, now=clock(), read_packs=bool(found), workers=workers
    )  # (4)
    return Rebuilt(label, empty, objects, size, bytes_read, found, synced, report)


def _hid_others(one: Found) -> bool:
    """A note or a ledger that could not be read says nothing of its objects; now it is there, or never will be."""
    _, kind, below, *_ = one.key.split("/")
    return one.repaired_from is None or kind in _NOTES or below in _BY_REGISTER


def _again(syncing: Syncing, label: Label, site: Site) -> Syncing:
    """The same with the state as it is shown now."""
    sources: Mapping[Label, Site] = {**syncing.sources, label: site}
    return replace(syncing, view=read_state(sources, syncing.view.state))


def _sync(syncing: Syncing, label: Label, site: Site) -> SiteSync:
    (done,) = syncing.sync({label: site})
    if done.error is not None:
        raise done.error
    return done


def _brought(done: SiteSync) -> tuple[int, int]:
    return sum(r.objects for r in done.registers), sum(r.bytes for r in done.registers)


def _scrub(
    syncing: Syncing,
    label: Label,
    site: Site,
    seed: bytes,
    choose: Callable[[int], int],
    workers: int,
    read: Callable[[int], None],
) -> tuple[tuple[tuple[RegisterId, Found], ...], int]:
    """What was wrong by register, and how many bytes of packs were read."""
    if label not in syncing.view.shown:
        raise SiteUnavailable(f"{label} stopped answering", site=label)
    others = {name: s for name, s in syncing.sources.items() if name != label and name in syncing.view.shown}
    scrubber = Scrubber(
        syncing.view,
        label,
        site,
        others,
        1,
        repair=True,
        choose=choose,
        now=syncing.now,
        workers=workers,
        progress=read,
    )
    found: list[tuple[RegisterId, Found]] = []
    size = 0
    for register in registers_at(syncing.view, label, syncing.only):
        done = scrubber.scrub(register, seed)
        found += [(register, one) for one in done.found]
        size += done.bytes_read
    return tuple(found), size

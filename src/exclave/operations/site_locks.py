"""The locks of a site: makes those longer that would end while a living version still needs the object.

A lock can never be made shorter, so what an order to delete takes away goes when its lock has ended. Nothing is
remembered: each run asks the store for the lock of each object, and a run that is broken off is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from exclave.errors import ExclaveError, UsageError
from exclave.formats.paths import (
    card_prefix,
    charter_prefix,
    deletion_prefix,
    epoch_prefix,
    objection_prefix,
    pack_prefix,
    public_key,
    public_statements_prefix,
    statement_prefix,
    warrant_prefix,
)
from exclave.formats.sitefacts import LockLine
from exclave.ids import Instant, Key, Label, RegisterId
from exclave.rules.scrub import day_of
from exclave.sites.contract import Site
from exclave.sites.locking import Locking, locking_of
from exclave.verify.deletions import without_erased
from exclave.verify.history import collect_history, read_copies
from exclave.verify.inventory import add_batches, add_boxes, read_lists
from exclave.verify.published import listed_public, published_names
from exclave.verify.state import StateView

MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class RegisterLocks:
    """One register at one site."""

    register: RegisterId
    objects: int
    """All that the living versions there need, and all that proves them."""
    extended: int
    until: Instant
    """When the first lock ends; 0 if something is not locked."""
    short: tuple[tuple[Key, str], ...]
    """What is not held for long enough, and why."""

    def line(self, site: Label) -> LockLine:
        """What the ledger says of it."""
        return LockLine(site, day_of(self.until), self.objects, self.extended, len(self.short))


def locking_site(label: Label, site: Site) -> Locking:
    """``UsageError`` if the site locks nothing."""
    found = locking_of(site)
    if found is None:
        raise UsageError(
            f"{label} locks nothing: its address has no lock=compliance",
            hint="See the runbook locked-bucket for what a bucket with Object Lock needs.",
        )
    return found


def hold(
    view: StateView, label: Label, sites: Mapping[Label, Site], register: RegisterId, *, now: Instant,
    workers: int = 16, progress: Callable[[int], None] = lambda count: None,
) -> RegisterLocks:  # fmt: skip
    """Locks that end before half of a new lock's time is over are extended to a new lock's end.

    ``progress(1)`` after each object. A store that fails with one object does not stop the others.
    """
    site = sites[label]
    locking = locking_site(label, site)
    end = locking.lock_end()
    least = Instant(now + (end - now) // 2)

    def one(key: Key) -> tuple[Key, Instant, bool, str]:
        try:
            until = locking.locked_until(key) or Instant(0)
            if until >= least:
                return key, until, False, ""
            locking.extend(key, end)
        except ExclaveError as error:
            return key, Instant(0), False, error.message
        return key, end, True, ""

    extended, first, short, count = 0, end, list[tuple[Key, str]](), 0
    with ThreadPoolExecutor(workers) as pool:
        for key, until, longer, why in pool.map(one, sorted(_needed(view, label, sites, register, now))):
            count, extended, first = count + 1, extended + longer, min(first, until)
            if why:
                short.append((key, why))
            progress(1)
    return RegisterLocks(register, count, extended, first, tuple(short))


def _needed(
    view: StateView, label: Label, sites: Mapping[Label, Site], register: RegisterId, now: Instant
) -> set[Key]:  # fmt: skip
    """What living versions need at the site, what its ledger says is published, and whatever small lies there to prove
    them; no pack of others."""
    ordered = {label: sites[label], **sites}
    history = collect_history(read_copies(view, ordered, register))
    held = [v for v in without_erased(view, ordered, history, now) if label in v.held_by]
    inventory = read_lists(view.state, register, (v.leaf.objects for v in held), ordered)
    add_boxes(inventory, view)
    add_batches(inventory, view, {label: sites[label]}, ordered)
    found = {item.key for item in inventory.small()} | {inventory.pack(name).key for name in inventory.packs}
    named = published_names(view, ordered, history)
    public = listed_public(sites[label], view, register, len(named)) if named else {}
    found |= {public_key(view.state, register, name) for name in named & public.keys()}
    return found | set(_proofs(view, sites[label], register))


def _proofs(view: StateView, site: Site, register: RegisterId) -> Iterator[Key]:
    below = f"{view.state}/{register}/"
    prefixes = (
        charter_prefix(view.state), card_prefix(view.state), warrant_prefix(view.state),
        epoch_prefix(view.state, register), f"{below}box/", f"{below}ledger/", f"{below}feed/",
        statement_prefix(view.state, register), public_statements_prefix(view.state),
        deletion_prefix(view.state, register), objection_prefix(view.state, register),
    )  # fmt: skip
    packs = pack_prefix(view.state, register)
    for prefix in prefixes:
        for item in site.list(prefix):
            if not item.key.startswith(packs):
                yield item.key

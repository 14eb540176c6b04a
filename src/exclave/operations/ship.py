"""Carried disks: writes to a folder what a site lacks, sealed as it is, and takes it over from there at the far side.

A disk is a directory site with ``carried.txt`` beside its objects. It holds the state's notes, all object lists and the
ledgers, and of the packs those of its part. Both ways may be broken off at any moment and go on with what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exclave.errors import (
    CorruptObject,
    MalformedError,
    RolledBack,
    SiteFull,
    SiteUnavailable,
    UsageError,
    WrongFingerprint,
)
from exclave.formats.carried import CARRIED_KEY, MAX_CARRIED_BYTES, Carried, CarriedRegister, parse_carried
from exclave.ids import Digest, Instant, Label, RegisterId
from exclave.operations.carry_public import carry_public_statements
from exclave.operations.deliver import Delivery, deliver, deliver_part, plan_delivery, require_basis
from exclave.rules.parts import in_part, parts_needed
from exclave.sites.contract import Readable, Site
from exclave.verify.deletions import without_erased
from exclave.verify.history import collect_history, read_copies
from exclave.verify.inventory import read_lists
from exclave.verify.part import listed_sizes
from exclave.verify.state import StateView, read_state

DISK = Label("carried-disk")
_RESERVE_BYTES = 64 << 20
"""Left free for notes, lists, ledgers and the file system's own needs; on a small disk a sixteenth of it."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """What one disk carries now."""

    carried: Carried
    deliveries: tuple[Delivery, ...]

    @property
    def faults(self) -> dict[str, str]:
        return {what: why for d in self.deliveries for what, why in d.faults.items()}


@dataclass(frozen=True, slots=True)
class Load:
    """What a site lacks: register → pack → bytes."""

    lacking: Mapping[RegisterId, Mapping[Digest, int]]
    on_disk: int
    """Bytes of it that are on the disk already."""
    nothing: bool
    """The site has all packs, and shows all versions: no disk is needed."""
    begun: tuple[int, int] | None
    """The part that the disk says it is, if it was written for this site."""

    @property
    def sizes(self) -> dict[Digest, int]:
        return {name: size for packs in self.lacking.values() for name, size in packs.items()}

    def on_part(self, part: int, parts: int) -> int:
        """Bytes of one part."""
        wanted = in_part(part, parts)
        return sum(size for name, size in self.sizes.items() if wanted(name))

    def next_part(self, part: int, parts: int) -> int:
        """The first part after ``part`` that is not empty; 0 if there is none."""
        return next((n for n in range(part + 1, parts + 1) if self.on_part(n, parts)), 0)


def plan_load(
    view: StateView,
    registers: Sequence[RegisterId],
    label: Label,
    site: Readable,
    disk: Readable,
    sources: Mapping[Label, Site],
    *,
    now: Instant,
) -> Load:
    """What ``site`` lacks of ``registers``, of all versions that ``sources`` show, by its own listing."""
    found: dict[RegisterId, Mapping[Digest, int]] = {}
    on_disk, shown = 0, True
    for register in registers:
        versions = without_erased(view, sources, collect_history(read_copies(view, sources, register)), now)
        inventory = read_lists(view.state, register, (v.leaf.objects for v in versions), sources)
        have, written = listed_sizes(site, inventory), listed_sizes(disk, inventory)
        lacking = {n: size for n, size in inventory.packs.items() if have.get(n) != size}
        found[register] = lacking
        shown = shown and not lacking and _shows_all(view, register, label, site, sources)
        on_disk += sum(size for name, size in lacking.items() if written.get(name) == size)
    carried = read_carried(disk, view.state)
    begun = (carried.part, carried.parts) if carried is not None and carried.site == label else None
    return Load(found, on_disk, shown, begun)


def _shows_all(
    view: StateView, register: RegisterId, label: Label, site: Readable, sources: Mapping[Label, Site]
) -> bool:
    both: Mapping[str, Readable] = dict(sources) | {label: site}
    return all(label in v.held_by for v in collect_history(read_copies(view, both, register)).versions)


def choose_part(load: Load, part: tuple[int, int] | None, room_bytes: int) -> tuple[int, int]:
    """The part for a disk that may hold ``room_bytes`` in all: the given one, or the one that it was begun as, or the
    first that is not empty of as many as are needed. ``SiteFull`` if it does not fit; it says how many are needed.
    """
    room = room_bytes - min(_RESERVE_BYTES, room_bytes // 16)
    sizes = load.sizes
    part = part or load.begun
    if part is None:
        parts = parts_needed(sizes, room) if sizes else 1
        return load.next_part(0, parts) or 1, parts
    size = load.on_part(*part)
    if size > room:
        raise SiteFull(
            f"part {part[0]} of {part[1]} is {size} bytes long; there is room for {max(room, 0)}",
            hint=f"Use a larger disk, or {parts_needed(sizes, room)} disks of this size: --part 1/N to N/N."
            if room > 0 else "Use a larger disk.",
        )  # fmt: skip
    return part


def ship(
    view: StateView,
    load: Load,
    part: tuple[int, int],
    label: Label,
    disk: Site,
    sources: Mapping[Label, Site],
    *,
    now: Instant,
    plan_done: Callable[[int], None] = lambda size: None,
    progress: Callable[[int], None] = lambda size: None,
) -> Shipped:
    """Writes the part onto ``disk`` for the site ``label``; what it carries, with ``faults`` if something is lacking.

    (1) `carried.txt` says that the disk is not finished · (2) notes, lists, ledgers, then packs · (3) it says it is.
    ``plan_done(bytes)`` once it is known what must be written yet, ``progress(bytes)`` after each object.
    """
    wanted = in_part(*part)
    chosen = {
        register: {name: size for name, size in packs.items() if wanted(name)}
        for register, packs in load.lacking.items()
    }
    _write(disk, _say(view, label, part, chosen, now, finished=False))  # (1) a restart finds this, and writes on
    view = read_state({**sources, DISK: disk}, view.state)  # what the disk lacks of it is written
    _require_answer(view, DISK)
    plans = [plan_delivery(view, r, disk, sources, now=now, wanted=packs.__contains__) for r, packs in chosen.items()]
    plan_done(sum(plan.needed_bytes for plan in plans))
    refused = carry_public_statements(view, DISK, disk, sources)  # (2)
    deliver_part(view, plans, DISK, disk, sources, progress=progress)
    for plan in plans[:1]:
        plan.faults |= refused
    whole = not any(plan.faults for plan in plans)
    carried = _say(view, label, part, chosen, now, finished=whole)
    _write(disk, carried)  # (3)
    return Shipped(carried, tuple(plans))


def _require_answer(view: StateView, label: Label) -> None:
    """Of a site that did not answer nobody knows which notes it lacks: they would be left out without a word."""
    if label not in view.shown:
        why = next((f.detail for f in view.findings if f.site == label and f.what == "site"), "it did not answer")
        raise SiteUnavailable(
            f"{label} could not be read: {why}", hint="Look at it, and try again; nothing is lost.", site=label
        )


def _say(
    view: StateView,
    label: Label,
    part: tuple[int, int],
    chosen: Mapping[RegisterId, Mapping[Digest, int]],
    now: Instant,
    *,
    finished: bool,
) -> Carried:
    registers = tuple(CarriedRegister(r, len(packs), sum(packs.values())) for r, packs in chosen.items())
    return Carried(view.state, label, now, *part, finished, registers)


def _write(disk: Site, carried: Carried) -> None:
    head = disk.read_head(CARRIED_KEY)
    disk.replace_if(CARRIED_KEY, carried.encode().encode(), head.tag if head else None)


def read_carried(disk: Readable, state: str) -> Carried | None:
    """What the disk says of itself; None if it is a bare copy of a site. Believed for messages alone.

    ``WrongFingerprint`` for another state's disk, ``CorruptObject`` if the text was changed.
    """
    if disk.stat(CARRIED_KEY) is None:
        return None
    try:
        carried = parse_carried(disk.get(CARRIED_KEY, limit=MAX_CARRIED_BYTES))
    except MalformedError as error:
        raise CorruptObject(
            f"the disk's carried.txt is damaged: {error.message}",
            hint="Remove carried.txt to take over what the disk holds all the same; every object is checked.",
        ) from error
    if carried.state != state:
        raise WrongFingerprint(f"this disk belongs to another state, {carried.state}")
    return carried


def take_over(
    view: StateView,
    disk: Site,
    label: Label,
    target: Site,
    *,
    now: Instant,
    only: RegisterId | None = None,
    unfinished: bool = False,
    plan_done: Callable[[int], None] = lambda size: None,
    progress: Callable[[int], None] = lambda size: None,
) -> tuple[Delivery, ...]:
    """Takes over what ``disk`` holds into ``target``, which the charter knows as ``label``; every object is checked.
    Of an ``unfinished`` disk the ledgers wait: it may show fewer versions than there are, and nobody is to blame.

    (1) which registers are there, and may lie here: nothing is written before · (2) what the target lacks of each ·
    (3) objects, and the ledgers once nothing is lacking. ``LegalBasisMissing`` in (1), ``SiteUnavailable`` if either
    did not answer. ``plan_done(bytes)`` after (2).
    """
    for needed in (DISK, label):
        _require_answer(view, needed)
    shown = view.shown[DISK].epochs
    there = [rule.id for rule in view.chain.newest.charter.registers if shown.get(rule.id) and only in (None, rule.id)]
    if not there:
        raise UsageError("there is no register of this state on the disk", hint="Is it mounted, and the right one?")
    for register in there:  # (1)
        require_basis(view, register, label, now)
    source = {DISK: disk}
    plans = [_present(plan_delivery(view, register, target, source, now=now), disk) for register in there]  # (2)
    for plan in plans if unfinished else ():
        plan.unfinished, plan.faults = True, _without_cut(plan)
    plan_done(sum(plan.needed_bytes for plan in plans))
    refused = carry_public_statements(view, label, target, source)
    done = tuple(deliver(view, plan, label, target, source, progress=progress) for plan in plans)  # (3)
    done[0].faults |= refused
    return done


def _without_cut(plan: Delivery) -> dict[str, str]:
    """Faults but for ledgers that nobody shows: on a disk that was taken out too early they had no time to come."""
    lacking = {f"{f.site} {f.what}" for copies in plan.logs for f in copies.findings
               if f.site == "?" and f.fault == RolledBack.code}  # fmt: skip
    return {what: why for what, why in plan.faults.items() if what not in lacking}


def _present(plan: Delivery, disk: Readable) -> Delivery:
    """Of what the target lacks, what this disk carries; other disks bring the rest."""
    there = listed_sizes(disk, plan.inventory)
    lacking = len(plan.needed)
    plan.needed = {name: size for name, size in plan.needed.items() if name in there}
    plan.elsewhere += lacking - len(plan.needed)
    return plan

"""Brings one site all that it lacks of a register, from other sites or from a carried disk: a rebuild without a writer.

(1) charters, cards, epochs and their boxes; object lists and batches of the identity feed; warrants, statements and
timestamps · (2) what is published, and packs · (3) the ledgers, once nothing else is lacking. Needs no key: everything
is named by its hash, or proven by the state's fingerprint. A process that dies leaves whole objects under their right
names, and the next run brings only what is missing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from exclave.errors import (
    ConflictError,
    CorruptObject,
    ExclaveError,
    Forked,
    IntegrityError,
    LegalBasisMissing,
    MissingObject,
    OutcomeUnknown,
    UnavailableError,
)
from exclave.formats.charter import CharterRegister
from exclave.formats.paths import list_key
from exclave.ids import Digest, Instant, Label, RegisterId, sha256
from exclave.ledger.publish import publish
from exclave.operations.carry import carry_state
from exclave.operations.carry_public import carry_public, put_mending
from exclave.operations.keeping import carry_orders
from exclave.rules.lease import basis_ended, require_basis_now
from exclave.sites.contract import Readable, Site
from exclave.verify.copies import LogCopies
from exclave.verify.deletions import Deletions, read_deletions
from exclave.verify.history import RegisterHistory, collect_history, read_copies
from exclave.verify.inventory import Inventory, NamedObject, add_batches, add_boxes, read_lists
from exclave.verify.part import listed_sizes
from exclave.verify.published import hashed, listed_public, published_names
from exclave.verify.state import StateView

WORKERS: Final = 4
"""Objects on their way at once: each at most 16 MiB, or what is published, 32 MiB and a little more."""


@dataclass(slots=True)
class Delivery:
    """What is to be brought of one register, and what came of it."""

    register: RegisterId
    logs: tuple[LogCopies, ...]
    history: RegisterHistory
    """What counts of them."""
    inventory: Inventory
    deletions: Deletions
    """Orders to delete, and objections: without them what was erased would seem to be lost."""
    needed: dict[Digest, int]
    """Packs that the target lacks and that this delivery is to bring: name → bytes."""
    elsewhere: int
    """Packs that the target lacks and that others are to bring."""
    objects: int = 0
    bytes: int = 0
    """Brought by this run."""
    lacking: int = 0
    """Packs and lists that the target still lacks, ``elsewhere`` included."""
    published: bool = False
    """The target's ledgers show all versions that count."""
    faults: dict[str, str] = field(default_factory=dict)
    """What was wrong, at a source or at the target: ``site object`` → why. Nothing of it was taken over."""
    unfinished: bool = False
    """It comes from a disk that was taken out before all was on it: what it shows may be less than there is."""
    waits: str = ""
    """Why the ledgers were not published there; empty if they were."""
    forked: bool = False
    """The target shows another history than the sources; nothing of it was overwritten."""

    @property
    def needed_bytes(self) -> int:
        return sum(self.needed.values())


def require_basis(view: StateView, register: RegisterId, label: Label, now: Instant) -> CharterRegister:
    """The charter's rule of ``register`` if it may be brought to ``label``; ``LegalBasisMissing`` if not."""
    rule = view.chain.newest.charter.register(register)
    if rule is None or label not in rule.at:
        raise LegalBasisMissing(
            f"the charter in force gives no legal basis for register {register} at {label}", site=label
        )
    require_basis_now(rule, label, now)
    return rule


def registers_at(
    view: StateView, label: Label, only: RegisterId | None = None, *, now: Instant | None = None
) -> list[RegisterId]:
    """Registers that the charter places at ``label``, or just ``only``; with ``now``, those that may be brought there.
    ``LegalBasisMissing`` if there is none."""
    rules = [rule for rule in view.chain.newest.charter.registers if label in rule.at and only in (None, rule.id)]
    if not rules:
        what = f"register {only}" if only else "any register"
        raise LegalBasisMissing(f"the charter in force gives no legal basis for {what} at {label}", site=label)
    found = [rule.id for rule in rules if now is None or not basis_ended(rule, label, now)]
    if not found and now is not None:
        require_basis_now(rules[0], label, now)
    return found


def plan_delivery(
    view: StateView,
    register: RegisterId,
    target: Site,
    sources: Mapping[Label, Site],
    *,
    now: Instant,
    wanted: Callable[[Digest], bool] = lambda name: True,
) -> Delivery:
    """What ``target`` lacks, by its listing. ``wanted`` says which of it this delivery is to bring."""
    logs = read_copies(view, sources, register)
    history = collect_history(logs)
    deletions = read_deletions(view, sources, history, now=now)
    versions = [v for v in history.versions if v.leaf.sequence not in deletions.gone]
    inventory = read_lists(view.state, register, (v.leaf.objects for v in versions), sources)
    add_boxes(inventory, view)
    add_batches(inventory, view, sources, sources)
    inventory.published = _published(view, history, sources)
    have = listed_sizes(target, inventory)
    lacking = {name: size for name, size in inventory.packs.items() if have.get(name) != size}
    needed = {name: size for name, size in lacking.items() if wanted(name)}
    # A ledger that cannot be believed hides versions: nothing may be called complete then.
    faults = {f"{f.site} {f.what}": f.detail for f in history.findings if f.grave}
    return Delivery(register, logs, history, inventory, deletions, needed, len(lacking) - len(needed), faults=faults)


def _published(view: StateView, history: RegisterHistory, sources: Mapping[Label, Site]) -> dict[Digest, int]:
    """What the ledger says is published, as far as a source lists it: what none has cannot be brought, and `verify`
    tells of it."""
    names = published_names(view, sources, history)
    found: dict[Digest, int] = {}
    for source in sources.values() if names else ():
        try:
            listed = listed_public(source, view, history.register, len(names))
        except (UnavailableError, IntegrityError):
            continue
        found |= {name: listed[name] for name in names & listed.keys()}
    return found


def deliver(
    view: StateView,
    plan: Delivery,
    label: Label,
    target: Site,
    sources: Mapping[Label, Site],
    *,
    mend: bool = False,
    progress: Callable[[int], None] = lambda size: None,
) -> Delivery:
    """Carries ``plan`` out; returns it, filled in. ``progress(bytes)`` after each object. With ``mend``, wrong bytes
    that lie at the target under the name of what is brought are replaced.

    Raises ``SiteFull`` and ``SiteReadOnly`` of the target, and ``UnavailableError`` if it does not answer; what arrived
    stays.
    """
    ledgers_wrong = bool(plan.faults) if len(sources) == 1 else _undecided(plan)
    carrier = _Carrier(target, label, sources, plan, progress, mend=mend)
    refused = _bring_small(view, plan, label, target, sources, carrier, mend=mend)  # (1)
    _bring_published(view, plan, target, carrier, mend=mend)
    _bring_packs(plan, carrier)  # (2)
    if ledgers_wrong:
        plan.waits = "the ledgers that it comes from are wrong"
    elif plan.lacking:
        plan.waits = f"{plan.lacking} of its objects are still lacking"
    elif plan.unfinished:
        plan.waits = "the disk was not finished"
    else:
        plan.waits = refused or _publish(view, plan, target, sources, mend=mend)  # (3)
    plan.published = not plan.waits
    return plan


def _undecided(plan: Delivery) -> bool:
    """Whether several sources together leave open what counts: two histories, or entries that none of them proves.

    What one of them alone has wrong is told, and the others make up for it: a hostile host stops no rebuild.
    """
    return any(
        copies.forked
        or (copies.size > 0 and not copies.best)
        or (copies.size == 0 and bool(copies.refused))
        or any(f.grave and f.site == "?" for f in copies.findings)
        for copies in plan.logs
    )


def deliver_part(
    view: StateView,
    plans: Sequence[Delivery],
    label: Label,
    target: Site,
    sources: Mapping[Label, Site],
    *,
    progress: Callable[[int], None] = lambda size: None,
) -> None:
    """Carries ``plans`` out onto a disk that holds a part of the packs: those come last, after all that names them.

    So a disk that was taken out too early tells what it lacks, and the packs that it has are of use. Errors as of
    ``deliver``.
    """
    carriers = [_Carrier(target, label, sources, plan, progress) for plan in plans]
    for plan, carrier in zip(plans, carriers, strict=True):
        refused = _bring_small(view, plan, label, target, sources, carrier)
        plan.waits = refused or _publish(view, plan, target, sources, mend=False)
        plan.published = not plan.waits
    for plan, carrier in zip(plans, carriers, strict=True):
        _bring_packs(plan, carrier)


def _bring_small(
    view: StateView, plan: Delivery, label: Label, target: Site, sources: Mapping[Label, Site], carrier: _Carrier,
    *, mend: bool = False,
) -> str:  # fmt: skip
    """All but packs and ledgers; why the target refused the state's notes, or nothing."""
    both = {**sources, label: target}
    failed = carry_state(view, plan.register, both, targets=[label], former_logs=False)  # (1)
    failed |= carry_orders(view, plan.deletions, {label: target})
    if label in failed:
        plan.faults[f"{label} state"] = failed[label]
    have = {stat.key for stat in target.list(list_key(view.state, plan.register, Digest(bytes(32)))[:-64])}
    small = [
        item
        for item in plan.inventory.small()
        if item.key not in have and (item.name in plan.inventory.nodes or target.stat(item.key) is None)
    ]
    carrier.carry(item for item in small if item.name not in plan.inventory.nodes)
    carrier.carry(item for item in small if item.name in plan.inventory.nodes)
    plan.faults |= carry_public(view, plan.history, label, target, sources, mend=mend)
    return failed.get(label, "")


def _bring_published(view: StateView, plan: Delivery, target: Site, carrier: _Carrier, *, mend: bool) -> None:
    """Editions and bundles that the target lacks; with ``mend``, also those whose bytes are wrong there."""
    wanted = plan.inventory.published
    there = listed_public(target, view, plan.register, len(wanted)) if wanted else {}
    items = map(plan.inventory.public, sorted(wanted))
    carrier.carry([i for i in items if there.get(i.name) != i.size_bytes or (mend and not _is_right(target, i))])


def _is_right(target: Readable, item: NamedObject) -> bool:
    try:
        return hashed(target, item.key, item.size_bytes or 0) == item.name
    except IntegrityError:
        return False


def _bring_packs(plan: Delivery, carrier: _Carrier) -> None:
    carrier.carry(plan.inventory.pack(name) for name in sorted(plan.needed))
    plan.lacking += plan.elsewhere + len(plan.inventory.lost)
    for key, error in plan.inventory.lost.items():
        plan.faults[f"? {key}"] = error.message


def _publish(view: StateView, plan: Delivery, target: Site, sources: Mapping[Label, Site], *, mend: bool) -> str:
    """(3) Brings every ledger of the register forward at the target, the first epoch's first; why it could not."""
    for copies in plan.logs:
        why = _publish_log(view, copies, plan, target, sources, mend) if copies.size else ""
        if why:
            return why
    return ""


def _publish_log(
    view: StateView, copies: LogCopies, plan: Delivery, target: Site, sources: Mapping[Label, Site], mend: bool
) -> str:
    """One ledger, from the first source that proves all of it; what one source lacks, the next one may have."""
    why = f"no source holds all {copies.size} entries of epoch {copies.epoch.number}"
    names = [Label(name) for name in copies.holders if copies.agreed.get(name, 0) >= copies.size]
    for name in (name for name in names if name in sources):
        # The head that counts, or (a former epoch, which its writer went on with) this source's own.
        head = copies.freshest
        if head is None or head.size != copies.size:
            head = copies.heads[name]
        reader = view.log_reader(copies.epoch, sources[name])
        try:
            # A head that is damaged there, or none, proves nothing: all is put again.
            publish(reader, head, target, everything=_headless(view, copies, target), mend=mend)
        except Forked as error:
            plan.forked = True
            return error.message
        except (UnavailableError, IntegrityError, OutcomeUnknown) as error:
            why = error.message
        except ExclaveError as error:
            if error.code != "head-moved":
                raise
            return ""
        else:
            return ""
    return why


def _headless(view: StateView, copies: LogCopies, target: Readable) -> bool:
    try:
        view.log_reader(copies.epoch, target).head()
    except IntegrityError:
        return True
    return False


class _Carrier:
    """Several threads fetch and put; what is wrong becomes a fault, what the target refuses ends the run."""

    def __init__(
        self,
        target: Site,
        label: Label,
        sources: Mapping[Label, Site],
        plan: Delivery,
        progress: Callable[[int], None],
        *,
        mend: bool = False,
    ) -> None:
        self._target, self._label, self._sources = target, label, sources
        self._plan, self._progress, self._mend = plan, progress, mend
        self._lock = threading.Lock()

    def carry(self, items: Iterable[NamedObject]) -> None:
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="carry") as pool:
            flights: deque[Future[None]] = deque()
            try:
                for item in items:
                    flights.append(pool.submit(self._one, item))
                    if len(flights) > 2 * WORKERS:
                        flights.popleft().result()
                while flights:
                    flights.popleft().result()
            finally:
                for flight in flights:
                    flight.cancel()

    def _one(self, item: NamedObject) -> None:
        data = fetch_named(item, self._sources, self._fault)
        if data is None:
            return self._lacks()
        try:
            # Killed before this: the target still lacks it. After it: the next listing shows it.
            put_mending(self._target, item.key, data, mend=self._mend)
        except (IntegrityError, ConflictError) as error:
            self._fault(self._label, item, error)
            return self._lacks()
        with self._lock:
            self._plan.objects += 1
            self._plan.bytes += len(data)
        return self._progress(len(data))

    def _lacks(self) -> None:
        with self._lock:
            self._plan.lacking += 1

    def _fault(self, label: Label, item: NamedObject, error: ExclaveError) -> None:
        if not isinstance(error, MissingObject):
            with self._lock:
                self._plan.faults.setdefault(f"{label} {item.key}", error.message)


def fetch_named(
    item: NamedObject, sources: Mapping[Label, Site], fault: Callable[[Label, NamedObject, ExclaveError], None]
) -> bytes | None:
    """The object's bytes from the first of ``sources`` whose copy has its hash, or None; ``fault`` hears of others."""
    for label, source in sources.items():
        try:
            data = source.get(item.key, limit=item.limit)
            if sha256(data) != item.name:
                raise CorruptObject(f"its {len(data)} bytes do not have the hash that it is named by", key=item.key)
        except (UnavailableError, IntegrityError) as error:
            fault(label, item, error)
            continue
        return data
    return None

"""Orders to delete: propose one, make it public, and enter in the ledger what came of it.

Nothing here removes anything: that is done at each site by its operator (``operations/erasure.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from exclave.errors import (
    IntegrityError,
    NotAuthorised,
    OutcomeUnknown,
    UnavailableError,
    UsageError,
)
from exclave.formats.charter import ParsedCharter
from exclave.formats.deletion import (
    DONE,
    MAX_VERSIONS,
    ORDERED,
    DeletionOrder,
    Objection,
    OrderedVersion,
    erased_digest,
    parse_deletion,
)
from exclave.formats.paths import deletion_key, pack_key
from exclave.ids import Digest, Epoch, Instant, Label, RegisterId, instant_text
from exclave.operations.act_fact import Facts, Recorded
from exclave.operations.custody import Granted
from exclave.operations.home import Home, read_limited, write_private
from exclave.operations.suspicion import suspicion_at_home
from exclave.rules.deletion import OrderState, Verdict
from exclave.rules.retention import Standing, decide, terms_of
from exclave.sites.contract import Site, Sources
from exclave.verify.deletions import Deletions, read_deletions
from exclave.verify.erasable import Erasable, erasable
from exclave.verify.history import RegisterHistory, read_history
from exclave.verify.state import StateView
from exclave.verify.witnessed import witnessed_since

_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """What ``retention`` says of one register."""

    register: RegisterId
    hold: str
    """Why nothing may be deleted; empty if that is not so."""
    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class OrderStatus:
    """One order now."""

    digest: Digest
    order: DeletionOrder
    warrant: Digest
    entered: Instant
    verdict: Verdict
    objections: tuple[Objection, ...]
    """Against this order, by whoever was ever heard."""


@dataclass(frozen=True, slots=True)
class Left:
    """What one site still has of an order that may be carried out."""

    site: Label
    objects: int | None
    """None: it did not answer."""
    of: int
    """So many the order takes away."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RecordedErasure:
    """What ``record`` entered about one order, and what it saw."""

    entered: Recorded
    left: tuple[Left, ...]


def retention(view: StateView, sources: Sources, register: RegisterId, *, now: Instant) -> Kept:
    """How long each version of ``register`` is kept, and by which rule."""
    history = read_history(view, sources, register)
    deletions = read_deletions(view, sources, history, now=now, listen=True)
    hold = _hold(view, deletions)
    return Kept(register, hold, decide(deletions.made, deletions.charters, now, held=bool(hold)))


def holds_lifted(view: StateView | None, sources: Sources, draft: ParsedCharter) -> tuple[str, ...]:
    """What a person must know before the next charter is signed: legal holds of custodians that end with it.

    A register whose ledger cannot be read now is left to `exclave retention`.
    """
    told: list[str] = []
    for rule in draft.registers if view is not None else ():
        if view is None or rule.hold is not None or view.chain.newest.charter.register(rule.id) is None:
            continue
        try:
            history = read_history(view, sources, rule.id)
        except IntegrityError:
            continue
        hold = _hold(view, read_deletions(view, sources, history, now=draft.issued, listen=True))
        if hold:
            told.append(f"register {rule.id}: the {hold} ends with this charter; `legal_hold` in exclave.toml keeps it")
    return tuple(told)


def _hold(view: StateView, deletions: Deletions) -> str:
    rule = deletions.charters[-1][1]
    if rule.hold is not None:
        return f"legal hold by the charter: {rule.hold}"
    newest = view.chain.newest
    people = {c.label for c in newest.charter.custodians}
    against = {o.custodian for o in deletions.objections if o.order is None and o.charter == newest.digest}
    held = sorted(against & people)
    return f"legal hold by {', '.join(held)}" if len(held) >= rule.deletion.objections else ""


def propose(
    view: StateView,
    sources: Sources,
    register: RegisterId,
    out: Path,
    *,
    reason: str,
    now: Instant,
    keys: Epoch | None = None,
    home: Home | None = None,
    last_clean_too: bool = False,
) -> DeletionOrder:
    """Writes an order file for all versions that no rule keeps any more, at most 5000, the oldest first.

    ``keys``: an epoch whose opening key shall go as well. ``home`` knows which versions are suspicious: the last clean
    one is ordered away only with ``last_clean_too``, and then the reason says so, which custodians read.
    ``NotAuthorised`` under a legal hold, ``UsageError`` if there is nothing to delete.
    """
    history = read_history(view, sources, register)
    deletions = read_deletions(view, sources, history, now=now, listen=True)
    if hold := _hold(view, deletions):
        raise NotAuthorised(
            f"nothing of this register may be deleted: {hold}", hint="Only the next charter lifts a hold."
        )
    standings = decide(deletions.made, deletions.charters, now)
    leaves = {version.leaf.sequence: version for version in history.versions}
    ended = [s for s in standings if not s.kept][:MAX_VERSIONS]
    if not ended:
        ends = [s.until for s in standings if s.rule != "newest"]
        first = f"; the first may be from {instant_text(min(ends))} on" if ends else ""
        raise UsageError(f"no version may be deleted yet{first}", hint="See `exclave retention`; nothing was written.")
    if home is not None:
        going = {s.version.sequence for s in ended}
        reason += _last_clean(home, history, deletions, going, allowed=last_clean_too)
    delay_s, objections = terms_of(deletions.charters, min(s.version.charter for s in ended))
    order = DeletionOrder(
        state=view.state,
        register=register,
        epoch=history.newest_log.epoch.number,
        entries=max(history.newest_log.counted, 1),
        delay_s=delay_s,
        objections=objections,
        keys=keys,
        reason=reason,
        versions=tuple(
            OrderedVersion(s.version.sequence, s.version.epoch, leaves[s.version.sequence].leaf.manifest, s.until)
            for s in ended
        ),
    )
    write_private(out, parse_deletion(order.encode().encode()).encode().encode())
    return order


def last_clean_in(view: StateView, sources: Sources, order: DeletionOrder, home: Home, *, now: Instant) -> str:
    """What must be told before ``order`` is made public, if it takes the last version away that ``home`` knows to be
    clean; empty if it does not. It may have been proposed elsewhere, or before anything was found.
    """
    history = read_history(view, sources, order.register)
    deletions = read_deletions(view, sources, history, now=now)
    going = {version.sequence for version in order.versions}
    return _last_clean(home, history, deletions, going, allowed=True).strip(" ()")


def _last_clean(home: Home, history: RegisterHistory, deletions: Deletions, going: Set[int], *, allowed: bool) -> str:
    """What the reason must say of the versions ``going``; ``NotAuthorised`` if they must stay unless it is
    ``allowed``: what was noted in later versions speaks for damage, and the last one before it is among them."""
    found = suspicion_at_home(home, history.register, history.versions)
    clean, since = found.clean(deletions.gone), found.verdict.since
    if since is None or clean not in going:
        return ""
    if not allowed:
        raise NotAuthorised(
            f"version {clean} is the last that is known to be clean: version {since} is suspicious; no order was"
            " written",
            hint="Look at `exclave snapshots` first. If what happened was meant to be, say so there with --accept. To"
            " order the clean version away all the same: --last-clean-too.",
        )
    return f" (version {clean}, the last known to be clean, goes too: {since} is suspicious)"


def read_order_file(path: Path) -> DeletionOrder:
    """An order to delete from a file. ``UsageError`` if unreadable, ``MalformedError`` if it is none."""
    return parse_deletion(read_limited(path, _LIMIT))


def publish(
    view: StateView, order: DeletionOrder, granted: Granted, facts: Facts, sites: Mapping[Label, Site], *, now: Instant
) -> Recorded:
    """Makes a warranted order public: (1) the order file at every site, (2) the warrant, then the fact in the ledger.

    A crash before (2) leaves a file that nothing names; the next run puts it again. From the fact on, no backup refers
    to a pack that only these versions hold. ``NotAuthorised`` if a rule or a hold keeps any of the versions.
    """
    history = read_history(view, sites, order.register)
    deletions = read_deletions(view, sites, history, now=now, listen=True)
    if hold := _hold(view, deletions):
        raise NotAuthorised(f"nothing of this register may be deleted: {hold}")
    wanted = {version.sequence for version in order.versions}
    for standing in decide(deletions.made, deletions.charters, now):
        if standing.version.sequence in wanted and standing.kept:
            raise NotAuthorised(
                f"version {standing.version.sequence} is kept (rule: {standing.rule}): this order will never be due"
            )
    data = order.encode().encode()
    failed: dict[Label, str] = {}
    for label, site in sites.items():
        try:
            site.put_same(deletion_key(view.state, order.register, order.digest), data)  # (1)
        except (UnavailableError, IntegrityError, OutcomeUnknown) as error:
            failed[label] = error.message
    if len(failed) == len(sites):
        raise UnavailableError(f"no site took the order file: {'; '.join(failed.values())}")
    said = (
        order.digest.hex(),
        f"{len(order.versions)} versions are to be deleted after {order.delay_s} s,"
        f" unless {order.objections} custodians object",
    )
    return facts.record(ORDERED, granted, said, again=False, now=now)  # (2)


def status(view: StateView, sources: Sources, register: RegisterId, *, now: Instant) -> tuple[OrderStatus, ...]:
    """Every order that the ledger names, and how far it is. A site's operator may count its delay from later on."""
    history = read_history(view, sources, register)
    deletions = read_deletions(view, sources, history, now=now, listen=True)
    found = []
    for ordered in deletions.orders:
        since = witnessed_since(view, sources, history, ordered.fact)
        if since is not None:
            since = max(since, ordered.since)
        verdict = deletions.verdict(view, ordered, public_since=since, now=now)
        against = tuple(o for o in deletions.objections if o.order in (ordered.digest, None))
        found.append(
            OrderStatus(ordered.digest, ordered.order, ordered.warrant.digest, ordered.fact.fact.time, verdict, against)
        )
    return tuple(found)


def record(
    view: StateView, sites: Mapping[Label, Site], register: RegisterId, facts: Facts, *, now: Instant
) -> dict[Digest, RecordedErasure]:
    """Enters for each order that is due what the sites show to be gone; several times, if more is gone later.

    Looks for itself: a pack counts as erased at a site that answers and does not have it. A crash before the fact
    leaves the order as it was, and the next run looks again.
    """
    history = read_history(view, sites, register)
    deletions = read_deletions(view, sites, history, now=now)
    since = {o.digest: o.since for o in deletions.orders}
    allowed = [
        o for o in deletions.orders
        if deletions.verdict(view, o, public_since=since[o.digest], now=now).state in (OrderState.DUE, OrderState.DONE)
    ]  # fmt: skip
    gone = frozenset(sequence for ordered in allowed for sequence in ordered.sequences)
    done: dict[Digest, RecordedErasure] = {}
    for ordered in allowed:
        what = erasable(view, sites, history, ordered, gone)
        left = _left(view, what, sites)
        said = (ordered.digest.hex(), *_found(what, left))
        if not any(line.endswith((" holds none of them", " of the rest")) for line in said[2:]):
            continue  # nobody has carried it out yet
        if any(f.fact.kind == DONE and f.fact.say == said for f in history.facts):
            done[ordered.digest] = RecordedErasure(Recorded(False), left)
            continue
        granted = Granted(ordered.warrant, view.warrants[ordered.warrant.digest], (), {})
        done[ordered.digest] = RecordedErasure(facts.record(DONE, granted, said, again=True, now=now), left)
    return done


def _left(view: StateView, what: Erasable, sites: Mapping[Label, Site]) -> tuple[Left, ...]:
    """What each site still shows of the packs and boxes that were to go."""
    keys = [pack_key(view.state, what.register, name) for name in what.packs] + list(what.boxes)
    found = []
    for label, site in sites.items():
        try:
            found.append(Left(label, sum(site.stat(key) is not None for key in keys), len(keys)))
        except (UnavailableError, IntegrityError) as error:
            found.append(Left(label, None, len(keys), error.code))
    return tuple(found)


def _found(what: Erasable, left: Iterable[Left]) -> Iterator[str]:
    """The lines of a ``deletion-done`` fact: what went, and what each site still holds of it."""
    size = sum(what.packs.values())
    yield f"erased {len(what.packs)} packs of {size} bytes: {erased_digest(set(what.packs)).hex()}"
    for at in left:
        if at.objects is None:
            yield f"{at.site} did not answer: {at.problem}"
        elif 0 < at.objects < at.of:
            yield f"{at.site} holds {at.objects} of them, and none of the rest"
        else:
            yield f"{at.site} holds {'all' if at.objects else 'none'} of them"

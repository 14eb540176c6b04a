"""Orders to delete versions as the ledger and the sites prove them, and what follows for the versions: without any key.

A fact in the ledger makes an order public; the warrant that it names, the order file and custodians' objections lie at
the sites. What is not proven counts for nothing: then a missing pack is damage, whoever speaks of a deletion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    UnavailableError,
    WarrantExpired,
    WarrantForeign,
)
from exclave.formats.charter import CharterRegister
from exclave.formats.deletion import (
    CHARTER,
    DONE,
    MAX_ORDER_CHARS,
    ORDERED,
    DeletionOrder,
    Objection,
    parse_deletion,
)
from exclave.formats.paths import deletion_key
from exclave.formats.warrant import Act
from exclave.ids import Digest, Instant, RegisterId, instant_text, parse_digest, sha256
from exclave.ids import Sequence as VersionNumber
from exclave.rules.deletion import Before, OrderState, Verdict, judge_order, objecting
from exclave.rules.retention import Made
from exclave.rules.warrants import AuthorisedWarrant, authorise_warrant
from exclave.sites.contract import Sources
from exclave.verify.history import CountedFact, CountedVersion, RegisterHistory
from exclave.verify.objections import read_objections
from exclave.verify.state import Finding, StateView, finding

_ORDER_LIMIT = 4 * MAX_ORDER_CHARS


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order that a quorum signed and the ledger names."""

    order: DeletionOrder
    digest: Digest
    warrant: AuthorisedWarrant
    fact: CountedFact
    since: Instant
    """When it was entered: as its fact says, and not before the versions that the ledger has before it."""
    dones: tuple[tuple[CountedFact, Instant], ...]
    """The facts that say that it was carried out, each with when it was entered in the same sense."""
    done: CountedFact | None
    """Of these the first that says it rightly, or else the first; None if there is none."""
    voided: str
    """Why it may not be carried out any more; empty if it may."""

    @property
    def sequences(self) -> frozenset[VersionNumber]:
        return frozenset(version.sequence for version in self.order.versions)


@dataclass(frozen=True, slots=True)
class Erased:
    """A version that is gone, or may be."""

    sequence: VersionNumber
    time: Instant
    """When the ledger says that it was erased; of one that is only due, when the order was entered."""
    warrant: Digest
    done: bool
    """False: the order is due, and sites may have carried it out already."""


@dataclass(frozen=True, slots=True)
class Deletions:
    """What ``read_deletions`` found."""

    register: RegisterId
    orders: tuple[Ordered, ...]
    objections: tuple[Objection, ...]
    """Verified ones: each is signed by the custodian that it names."""
    notes: tuple[bytes, ...]
    """The same, as signed notes."""
    unheard: str
    """Why it cannot be told whether anybody objects; empty if it can."""
    every: tuple[Made, ...]
    """All versions that the ledger ever had, in its order."""
    gone: frozenset[VersionNumber]
    """Those that were erased as the rules allow, by the ledger's word."""
    charters: tuple[tuple[int, CharterRegister], ...]
    findings: tuple[Finding, ...] = field(default=())

    @property
    def made(self) -> tuple[Made, ...]:
        """All versions that were not erased, in the ledger's order."""
        return tuple(made for made in self.every if made.sequence not in self.gone)

    def permission(self, view: StateView, ordered: Ordered, *, public_since: Instant | None, now: Instant) -> Verdict:
        """Whether ``ordered`` may be carried out at ``now``, if it lies open since ``public_since``.

        The ledger's word that it was done already permits nothing: its writer alone could say so too early.
        """
        if ordered.voided and not ordered.sequences <= self.gone:
            return Verdict(OrderState.VOID, ordered.voided, None)
        if self.unheard:
            return Verdict(OrderState.STOPPED, self.unheard, None)
        against, everything = objecting(self.objections, ordered.digest, ordered.warrant.charter, view.chain.newest)
        versions = tuple(m for m in self.every if m.sequence not in self.gone or m.sequence in ordered.sequences)
        return judge_order(ordered.order, Before(versions, self.charters, against, everything, public_since), now)

    def verdict(self, view: StateView, ordered: Ordered, *, public_since: Instant | None, now: Instant) -> Verdict:
        """How far ``ordered`` is at ``now``, for people: what the ledger says was done is done, if it was allowed."""
        if ordered.done is None:
            return self.permission(view, ordered, public_since=public_since, now=now)
        if ordered.sequences <= self.gone:
            return Verdict(OrderState.DONE, "the ledger says that it was carried out", ordered.done.fact.time)
        found = self.permission(view, ordered, public_since=public_since, now=now)
        if found.state is OrderState.DUE:
            return found  # Whoever said so too early keeps nobody from doing it, and from saying so, in time.
        was = _as_of_done(view, self, ordered, *ordered.dones[0], now)
        return Verdict(
            OrderState.STOPPED, f"the ledger says that it was carried out, against the rules: {was.why}", None
        )

    def erased(self, view: StateView, now: Instant) -> dict[VersionNumber, Erased]:
        """Versions that need not be anywhere any more: erased by the ledger's word, or due by its own clock."""
        found: dict[VersionNumber, Erased] = {}
        for ordered in self.orders:
            verdict = self.verdict(view, ordered, public_since=ordered.since, now=now)
            if verdict.state in (OrderState.DONE, OrderState.DUE):
                last = ordered.done or ordered.fact
                for sequence in ordered.sequences:
                    gone = Erased(sequence, last.fact.time, ordered.warrant.digest, ordered.done is not None)
                    if sequence not in found or gone.done:
                        found[sequence] = gone
        return found

    def taking_keys(self, view: StateView, now: Instant) -> tuple[Ordered, ...]:
        """Orders that take an epoch's key away and may be carried out, or were."""
        return tuple(
            ordered
            for ordered in self.orders
            if ordered.order.keys is not None
            and self.verdict(view, ordered, public_since=ordered.since, now=now).state
            in (OrderState.DONE, OrderState.DUE)
        )

    def doomed(self) -> frozenset[VersionNumber]:
        """Versions that any order names, whatever became of it: a writer refers to nothing that only they hold."""
        return frozenset(sequence for ordered in self.orders for sequence in ordered.sequences)


def read_deletions(
    view: StateView,
    sources: Sources,
    history: RegisterHistory,
    *,
    now: Instant,
    brought: Iterable[bytes] = (),
    listen: bool = False,
) -> Deletions:
    """All orders of a register that count, with custodians' objections from every source, and those ``brought``.

    Without any order nobody is asked for objections, unless ``listen`` says so: there may be a legal hold.
    """
    register, findings = history.register, list[Finding]()
    orders = _orders(view, sources, history, findings, now)
    heard: dict[bytes, Objection] = {}
    unheard = ""
    if orders or listen:
        under = {ordered.digest: ordered.warrant.charter for ordered in orders}
        heard, unheard = read_objections(view, sources, register, under, findings, brought)
    charters = tuple(
        (c.charter.number, rule) for c in view.chain.charters if (rule := c.charter.register(register)) is not None
    )
    found = Deletions(
        register, orders, tuple(heard.values()), tuple(heard), unheard, made_of(view, history), frozenset(), charters,
        tuple(findings),
    )  # fmt: skip
    for ordered in orders:
        for done, time in ordered.dones:
            was = _as_of_done(view, found, ordered, done, time, now)
            if was.state is OrderState.DUE:
                found = replace(found, gone=found.gone | ordered.sequences, orders=tuple(
                    replace(o, done=done) if o is ordered else o for o in found.orders
                ))  # fmt: skip
                break
            wrong = NotAuthorised(f"the ledger says that versions were erased, against the rules: {was.why}")
            what = f"the deletion in entry {done.index} of epoch {done.epoch}"
            findings.append(finding("?", what, wrong, register, grave=True))
    return replace(found, findings=tuple(findings))


def _as_of_done(
    view: StateView, known: Deletions, ordered: Ordered, done: CountedFact, at: Instant, now: Instant
) -> Verdict:
    """What was right when the ledger says ``done`` of ``ordered``, at the time ``at``: by the charters and objections
    of then.

    A later charter or hold, and an objection that is dated later, make nothing wrong afterwards.
    """
    time = min(at, now)
    least = ordered.warrant.charter.charter.number
    newest = max((m.charter for m in known.every if m.epoch <= done.epoch and m.time <= time), default=1)
    under = next(c for c in view.chain.charters if c.charter.number == max(least, newest))
    charters = [(number, rule) for number, rule in known.charters if number <= under.charter.number]
    said = [o for o in known.objections if o.time <= time]
    against, everything = objecting(said, ordered.digest, ordered.warrant.charter, under)
    versions = [m for m in known.every if m.sequence in ordered.sequences or m.sequence not in known.gone]
    return judge_order(ordered.order, Before(versions, charters, against, everything, ordered.since), time)


def _entered(history: RegisterHistory, counted: CountedFact, now: Instant) -> Instant:
    """When a fact was entered: as it says, and not before any version that the ledger has before it. Its writer cannot
    date it back behind what others have seen; versions whose times lie in the future say nothing.
    """
    place = (counted.epoch, counted.index)
    before = (v.leaf.time for v in history.versions if (v.epoch, v.index) < place and v.leaf.time <= now)
    return max(counted.fact.time, max(before, default=Instant(0)))


def mark_erased(
    view: StateView, sources: Sources, history: RegisterHistory, now: Instant | None = None
) -> RegisterHistory:
    """``history`` that knows which of its versions were erased, or are due to be.

    ``now`` None: by the time of the ledger's own head, for those who only copy what there is.
    """
    if not any(counted.fact.kind == ORDERED for counted in history.facts):
        return history
    if now is None:
        now = max((log.freshest.time for log in history.epochs if log.freshest is not None), default=Instant(0))
    gone = read_deletions(view, sources, history, now=now).erased(view, now)
    words: dict[int, str] = {
        sequence: f"{'erased' if one.done else 'ordered to be erased'} on {instant_text(one.time)} by the warrant"
        f" {one.warrant.hex()}"
        for sequence, one in gone.items()
    }
    return replace(history, erased=words)


def without_erased(
    view: StateView, sources: Sources, history: RegisterHistory, now: Instant | None = None
) -> tuple[CountedVersion, ...]:
    """The versions of ``history`` that have to be somewhere: all but those that ``mark_erased`` marks."""
    gone = mark_erased(view, sources, history, now).erased
    return tuple(version for version in history.versions if version.leaf.sequence not in gone)


def made_of(view: StateView, history: RegisterHistory) -> tuple[Made, ...]:
    """All versions of ``history``, each with the number of the newest charter that the ledger names before it."""
    numbers = {c.digest: c.charter.number for c in view.chain.charters}
    facts = [(f.epoch, f.index, numbers.get(_named(f))) for f in history.facts if f.fact.kind == CHARTER]
    made: list[Made] = []
    charter, at = 1, 0
    for version in history.versions:
        while at < len(facts) and facts[at][:2] < (version.epoch, version.index):
            charter = max(charter, facts[at][2] or 1)
            at += 1
        made.append(Made(version.leaf.sequence, version.epoch, version.leaf.time, charter))
    return tuple(made)


def named_charter(view: StateView, history: RegisterHistory) -> int:
    """Number of the newest charter that the ledger names; 1 if it names none."""
    numbers = {c.digest: c.charter.number for c in view.chain.charters}
    return max((numbers.get(_named(f), 1) for f in history.facts if f.fact.kind == CHARTER), default=1)


def _named(counted: CountedFact) -> Digest:
    """The digest in a fact's first line; an impossible one if there is none."""
    try:
        return parse_digest(counted.fact.say[0] if counted.fact.say else "")
    except MalformedError:
        return Digest(b"")


def _orders(
    view: StateView, sources: Sources, history: RegisterHistory, findings: list[Finding], now: Instant
) -> tuple[Ordered, ...]:
    found: dict[Digest, Ordered] = {}
    leaves = {version.leaf.sequence: version for version in history.versions}
    for counted in history.facts:
        digest = _named(counted)
        if counted.fact.kind != ORDERED or digest in found:
            continue
        try:
            warrant = _warrant(view, counted, digest, history.register)
            _require_in_force(view, history, counted, warrant)
            order = fetch_order(view, sources, history.register, digest)
            _check_order(view, order, counted, leaves)
        except (IntegrityError, NotAuthorised, MalformedError) as error:
            what = f"the order to delete in entry {counted.index} of epoch {counted.epoch}"
            findings.append(finding("?", what, error, history.register, grave=False))
            continue
        dones = tuple((f, _entered(history, f, now)) for f in history.facts if _finishes(f, counted, digest))
        found[digest] = Ordered(
            order, digest, warrant, counted, _entered(history, counted, now), dones, dones[0][0] if dones else None,
            _voided(view, history, counted),
        )  # fmt: skip
    return tuple(found.values())


def _finishes(later: CountedFact, counted: CountedFact, digest: Digest) -> bool:
    return (
        later.fact.kind == DONE
        and (later.epoch, later.index) > (counted.epoch, counted.index)
        and later.fact.warrant == counted.fact.warrant
        and _named(later) == digest
    )


def _warrant(view: StateView, counted: CountedFact, digest: Digest, register: RegisterId) -> AuthorisedWarrant:
    """The warrant that a fact names, if it allowed this order when the fact was entered."""
    named = counted.fact.warrant
    note = view.warrants.get(named) if named is not None else None
    if note is None:
        raise MissingObject("no site shows the warrant that it names")
    warrant = authorise_warrant(
        note, view.chain, view.cards, now=None, place=None, machine=None, act=Act.DELETE, registers=[register],
        object=digest,
    )  # fmt: skip
    if not warrant.warrant.not_before <= counted.fact.time <= warrant.warrant.not_after:
        raise WarrantExpired("it was entered outside of the time that its warrant allows")
    return warrant


def _require_in_force(
    view: StateView, history: RegisterHistory, counted: CountedFact, warrant: AuthorisedWarrant
) -> None:
    """The warrant is not older than the charter that the ledger names: a dismissed quorum orders nothing."""
    numbers = {c.digest: c.charter.number for c in view.chain.charters}
    at = (counted.epoch, counted.index)
    named = (numbers.get(_named(f), 1) for f in history.facts if f.fact.kind == CHARTER and (f.epoch, f.index) < at)
    newest, given = max(named, default=1), warrant.charter.charter.number
    if given < newest:
        raise WarrantForeign(f"its warrant was given under charter {given}, and charter {newest} was in force by then")


def fetch_order(view: StateView, sources: Sources, register: RegisterId, digest: Digest) -> DeletionOrder:
    """The order file with this digest, from the first source that has it. ``MissingObject``, ``MalformedError``."""
    last: ExclaveError | None = None
    for source in sources.values():
        try:
            data = source.get(deletion_key(view.state, register, digest), limit=_ORDER_LIMIT)
        except (UnavailableError, IntegrityError) as error:
            last = error
            continue
        if sha256(data) == digest:
            return parse_deletion(data)
    raise MissingObject(f"no site has the order file {digest.hex()}", order=digest.hex()) from last


def _check_order(
    view: StateView, order: DeletionOrder, counted: CountedFact, leaves: Mapping[VersionNumber, CountedVersion]
) -> None:
    """The order speaks of this register, as its ledger was before the order was entered."""
    if order.state != view.state or order.register != counted.fact.register:
        raise WarrantForeign("the order file is for another register")
    if (order.epoch, order.entries) > (counted.epoch, counted.index):
        raise CorruptObject("the order file speaks of entries that come after it")
    for wanted in order.versions:
        there = leaves.get(wanted.sequence)
        if there is None or (there.epoch, there.leaf.manifest) != (wanted.epoch, wanted.manifest):
            raise CorruptObject(f"the order file names another version {wanted.sequence} than the ledger")
        if (there.epoch, there.index) > (counted.epoch, counted.index):
            raise CorruptObject(f"the order file names version {wanted.sequence}, which was entered after it")


def _voided(view: StateView, history: RegisterHistory, counted: CountedFact) -> str:
    writers = {e.number: e.writer.digest for e in view.epoch_chain(history.register).epochs}
    for number, writer in writers.items():
        if number > counted.epoch and writer != writers.get(counted.epoch):
            return f"epoch {number} has another writer than the epoch in which it was entered: give the order again"
    return ""

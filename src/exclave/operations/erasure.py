"""Carrying out orders to delete at one site: run by its operator, on his machine, with credentials that home lacks.

Everything is verified anew from what lies at the sites, as by any outsider: (1) charters, warrants, ledger · (2) the
order, since when it lies open here, who objects · (3) what no living version needs · (4) only then objects go, one by
one. A crash leaves fewer objects and nothing else: lists, ledger and order stay, and the next run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from exclave.errors import (
    Forked,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    RolledBack,
    SiteUnavailable,
    UsageError,
)
from exclave.formats.deletion import erased_digest
from exclave.formats.note import MAX_NOTE_BYTES, parse_note
from exclave.formats.paths import deletion_key, pack_key
from exclave.formats.tile import TILE_WIDTH, bundle_key, encode_bundle
from exclave.formats.warrant import Act
from exclave.ids import Digest, Fingerprint, Instant, Key, Label, RegisterId
from exclave.rules.deletion import OrderState, Verdict
from exclave.rules.warrants import authorise_warrant
from exclave.sites.contract import Readable, Site
from exclave.sites.erasing import ErasingSite
from exclave.verify.deletions import Deletions, Ordered, fetch_order, read_deletions
from exclave.verify.erasable import Erasable, erasable
from exclave.verify.history import CountedFact, RegisterHistory, read_history
from exclave.verify.logs import ProvenTree
from exclave.verify.state import StateView, read_state
from exclave.verify.witnessed import witnessed_since


@dataclass(frozen=True, slots=True)
class Pending:
    """An object that the store does not let go yet."""

    key: Key
    until: Instant | None
    why: str


@dataclass(slots=True)
class SiteErasure:
    """What became of one order at one site."""

    order: Digest
    register: RegisterId
    verdict: Verdict
    erased: int = 0
    """Objects that this run removed."""
    erased_bytes: int = 0
    absent: int = 0
    """Objects that were gone before."""
    shared: int = 0
    """Packs that stay because living versions name them."""
    pending: list[Pending] = field(default_factory=list)
    digest: Digest = Digest(b"")
    """SHA-256 of the sorted names of all packs of the order: what the ledger's last record will bind."""
    waits: str = ""
    """Why boxes of the order stay for now; empty if none does."""
    asked: tuple[Label, ...] = ()
    """Sites of the register that were read for objections."""
    unasked: tuple[Label, ...] = ()
    """Sites of the register that were not: not named, or they did not answer."""
    objected: tuple[Label, ...] = ()
    """Custodians who object; of an order that is due, too few to stop it."""
    unheard: bool = False
    """A site that was read did not say whether anybody objects."""

    @property
    def complete(self) -> bool:
        """Whether nothing of the order is at the site any more."""
        return self.verdict.state in (OrderState.DUE, OrderState.DONE) and not self.pending and not self.waits

    @property
    def open(self) -> bool:
        """Whether the command has to be run again."""
        unfinished = self.verdict.state is OrderState.DUE and not self.complete
        return unfinished or self.verdict.state is OrderState.WAITING or self.unheard


@dataclass(frozen=True, slots=True)
class Here:
    """The site that is worked at."""

    label: Label
    site: Readable
    power: ErasingSite


def carry_out(
    here: Here,
    others: Mapping[Label, Site],
    pinned: Fingerprint,
    *,
    now: Instant,
    only: Digest | None = None,
    brought: Iterable[bytes] = (),
    look: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[SiteErasure, ...]:
    """Carries out at ``here`` every order (or ``only`` that one) that is due there, and says of the others why not.

    ``others``: further sites, read to learn what this one may not know: later versions and epochs, objections.
    ``brought``: objections as files. ``look`` removes nothing. Raises ``NotAuthorised`` if the register lies at several
    sites and no other one answers: this one alone may be behind.
    """
    sources: dict[Label, Readable] = {here.label: here.site, **others}
    view = read_state(sources, pinned)  # (1)
    if here.label not in view.shown:
        raise SiteUnavailable(f"{here.label} does not show the state")
    notes = tuple(brought)
    done: list[SiteErasure] = []
    for rule in view.chain.newest.charter.registers:
        if here.label not in rule.at and not view.shown[here.label].epochs.get(rule.id):
            continue
        answering = {name: source for name, source in sources.items() if name in view.shown}
        history = read_history(view, answering, rule.id)
        deletions = read_deletions(view, answering, history, now=now, brought=notes)
        if not deletions.orders:
            continue
        knowing = {name for log in history.epochs for name in log.heads}
        if len(rule.at) > 1 and len(knowing) < 2:
            raise NotAuthorised(
                f"{here.label} alone may not know of later versions or objections; no other site of it answers",
                hint="Name at least one other site of the register with --site.",
            )
        everything = read_history(view, answering, rule.id, allow_unwitnessed=True)
        work = _Work(here, view, answering, history, everything, deletions, now)
        done += work.run(only, look, progress)
    if only is not None and not done:
        raise UsageError(f"no ledger names an order {only.hex()}", hint="See `exclave delete status`.")
    return tuple(done)


@dataclass(frozen=True, slots=True)
class _Work:
    here: Here
    view: StateView
    sources: Mapping[Label, Readable]
    history: RegisterHistory
    everything: RegisterHistory
    """With what no witness vouches for yet: a version entered just now may name a pack."""
    deletions: Deletions
    now: Instant

    def run(self, only: Digest | None, look: bool, progress: Callable[[int, int], None]) -> list[SiteErasure]:
        verdicts = {  # (2)
            ordered.digest: self.deletions.permission(
                self.view, ordered, public_since=self._public_since(ordered), now=self.now
            )
            for ordered in self.deletions.orders
        }
        due = [o for o in self.deletions.orders if verdicts[o.digest].state is OrderState.DUE]
        gone = frozenset(sequence for ordered in due for sequence in ordered.sequences)
        if due:
            _require_whole(self.everything)
        done: list[SiteErasure] = []
        for ordered in self.deletions.orders:
            if only is not None and ordered.digest != only:
                continue
            found = self._asked(SiteErasure(ordered.digest, self.deletions.register, verdicts[ordered.digest]))
            done.append(found)
            if ordered in due:
                what = erasable(self.view, self.sources, self.everything, ordered, gone)  # (3)
                found.digest, found.shared, found.waits = erased_digest(set(what.packs)), what.shared, what.waits
                self._erase(what, found, look, progress)  # (4)
                if found.complete and not found.erased:
                    why = f"nothing of it is at {self.here.label} any more"
                    found.verdict = Verdict(OrderState.DONE, why, found.verdict.due)
        return done

    def _asked(self, found: SiteErasure) -> SiteErasure:
        """``found`` that says who was asked whether anybody objects, and who does."""
        rule = self.view.chain.newest.charter.register(self.deletions.register)
        at = () if rule is None else tuple(rule.at)
        found.asked = tuple(name for name in at if name in self.sources)
        found.unasked = tuple(name for name in at if name not in self.sources)
        said = {o.custodian for o in self.deletions.objections if o.order in (found.order, None)}
        found.objected, found.unheard = tuple(sorted(said)), bool(self.deletions.unheard)
        return found

    def _public_since(self, ordered: Ordered) -> Instant | None:
        """Since when the order, its warrant and the ledger's entry lie open at this very site, and witnesses vouch for
        the entry; None if they do not.

        By the store's own clock and the witnesses': whoever gives an order sets neither.
        """
        view, fact, power = self.view, ordered.fact, self.here.power
        if self.here.label not in fact.held_by:
            return None
        try:
            fetch_order(view, {self.here.label: self.here.site}, self.deletions.register, ordered.digest)
        except (IntegrityError, MalformedError):
            return None  # What lies under its name here is something else.
        times = (
            power.shown_since(deletion_key(view.state, self.deletions.register, ordered.digest)),
            min(
                (since for key in self._warrants(ordered) if (since := power.shown_since(key)) is not None),
                default=None,
            ),
            self._entered_since(fact),
            witnessed_since(view, self.sources, self.history, fact),
        )
        return None if None in times else max(time for time in times if time is not None)

    def _entered_since(self, fact: CountedFact) -> Instant | None:
        """Since when this site has a bundle with the entry: the very bytes of the log, not what lies under its name."""
        log = self.history.epochs[fact.epoch - 1]
        prefix = self.view.log_reader(log.epoch, self.here.site).prefix
        index, place = divmod(fact.index, TILE_WIDTH)
        try:
            entries = ProvenTree(self.here.site, prefix, log.heads[self.here.label]).bundle(index)
        except IntegrityError:
            return None
        for width in range(place + 1, len(entries) + 1):
            key, data = bundle_key(prefix, index, width), encode_bundle(entries[:width])
            since = self.here.power.shown_since(key)
            if since is None:
                continue
            try:
                if self.here.site.get(key, limit=len(data)) == data:
                    return since
            except IntegrityError:
                continue  # A longer one.
        return None

    def _warrants(self, ordered: Ordered) -> Iterator[Key]:
        """Copies of the warrant at this site that enough custodians signed, each by itself."""
        for key, name in self.view.shown[self.here.label].warrants.items():
            if name != ordered.warrant.digest:
                continue
            try:
                authorise_warrant(
                    parse_note(self.here.site.get(key, limit=MAX_NOTE_BYTES)), self.view.chain, self.view.cards,
                    now=None, place=None, machine=None, act=Act.DELETE,
                )  # fmt: skip
            except (NotAuthorised, IntegrityError, MalformedError):
                continue
            yield key

    def _erase(self, what: Erasable, found: SiteErasure, look: bool, progress: Callable[[int, int], None]) -> None:
        sizes = {pack_key(self.view.state, what.register, name): size for name, size in what.packs.items()}
        keys = [*sorted(sizes), *what.boxes]
        for place, key in enumerate(keys, 1):
            if self.here.power.shown_since(key) is None:
                found.absent += 1
            elif not look:
                # Killed before this: the object, and the next run removes it. After it: it is gone for good.
                locked = self.here.power.erase(key)
                if locked is not None:
                    found.pending.append(Pending(key, locked.until, locked.why))
                else:
                    found.erased += 1
                    found.erased_bytes += sizes.get(key, 0)
            else:
                found.pending.append(Pending(key, None, "only looked at"))
            progress(place, len(keys))


def _require_whole(history: RegisterHistory) -> None:
    """``IntegrityError`` if any entry cannot be read or believed: it may be a version that needs what would go."""
    for log in history.epochs:
        what = f"the log of epoch {log.epoch.number} of register {history.register}"
        if log.forked:
            raise Forked(f"{what} has two ends, so nothing is erased", hint="People must decide first which is right.")
        if log.unread:
            raise MissingObject(f"entries from {log.unread[0]} on in {what} cannot be read, so nothing is erased")
        if any(size > log.counted for size in log.vouched.values()):
            raise RolledBack(f"{what} had more entries than any site here proves, so nothing is erased")

"""Scrub: reads a part of a site each day, without any key, and puts right what other sites have unharmed.

(1) the state and the ledgers, whole · (2) names and sizes of all packs, by the site's listing · (3) the packs that fall
due, and a sample · (4) repairs. The writer then enters a fact (``scrub_fact.py``). What is wrong is a ``Found``.
Nothing that a site does stops the rest, unless it does not answer. A run that dies is done again; its repairs stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from exclave.errors import (
    ConflictError,
    Fenced,
    Forked,
    IntegrityError,
    MalformedError,
    MissingObject,
    OutcomeUnknown,
    RolledBack,
    UnavailableError,
)
from exclave.formats.note import parse_note
from exclave.formats.scrubbed import ScrubLine
from exclave.formats.tile import checkpoint_key
from exclave.ids import Digest, Instant, Key, Label, RegisterId, parse_digest, parse_key, sha256
from exclave.ledger.mending import log_objects
from exclave.operations.deliver import deliver, fetch_named, plan_delivery
from exclave.rules.scrub import Part, day_of, falls_due, order_secret, part_of, sample_of
from exclave.sites.contract import Site
from exclave.verify.copies import LogCopies
from exclave.verify.deletions import without_erased
from exclave.verify.history import CountedVersion, collect_history, read_copies
from exclave.verify.inventory import Inventory, NamedObject, add_batches, add_boxes, read_lists
from exclave.verify.ledgers import audit_copy, known_leaves
from exclave.verify.part import Wrong, listed_sizes, read_objects
from exclave.verify.scrubs import last_scrubs, left_wrong
from exclave.verify.state import Finding, StateView

ONLY_CHECKED = "only checked; run again with --repair"
_NOTE_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """Something that was wrong at the site."""

    key: str
    fault: str
    """An error code."""
    detail: str
    found: Digest | None
    """SHA-256 of the wrong bytes; None if there were none, or none that could be read."""
    repaired_from: Label | None = None
    why_not: str = ""
    """Why it was not repaired, if it was not."""


@dataclass(frozen=True, slots=True)
class RegisterScrub:
    """One register."""

    register: RegisterId
    part: Part
    packs: int
    """Packs that the site has to hold."""
    packs_read: int
    bytes_read: int
    found: tuple[Found, ...]
    left_before: int = 0
    """Objects that a former run left wrong; because of them everything was read."""
    unseen: int = 0
    """So many of these the site did not show: it shows less than it held then, and versions that live are not there."""

    @property
    def repaired(self) -> int:
        return sum(f.repaired_from is not None for f in self.found)

    @property
    def left(self) -> int:
        return len(self.found) - self.repaired

    def line(self, site: Label) -> ScrubLine:
        """What the ledger or a report says of it."""
        return ScrubLine(
            site, self.part.days, min(self.part.first, self.part.through), self.part.through, self.packs_read,
            self.packs, self.bytes_read, len(self.found), self.repaired,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scrubber:
    """What all registers of one run share."""

    view: StateView
    label: Label
    site: Site
    others: Mapping[Label, Site]
    """Where right copies may come from."""
    days: int
    repair: bool
    choose: Callable[[int], int]
    """A number from 0 to n - 1 that nobody foresees."""
    now: Instant
    workers: int = 2
    progress: Callable[[int], None] = lambda size: None
    """``progress(bytes)`` after each pack."""

    def scrub(
        self,
        register: RegisterId,
        seed: bytes,
        *,
        since: int | None = None,
        left: int = 0,
        by_ledger: bool = False,
        plan_done: Callable[[int], None] = lambda size: None,
    ) -> RegisterScrub:
        """One register. ``seed``: 32 secret bytes; ``since``: the last day that was read in the order that they give,
        None if it is not known; with ``by_ledger``, as the register's facts tell, which are about the writer's order.
        ``left``: objects that the last run left wrong, if anything but the facts tells of it.
        ``plan_done(bytes)`` once it is known how much is to be read.

        ``UnavailableError`` if the site stops answering: then nothing is said of the day.
        """
        sources = {self.label: self.site, **self.others}
        logs = read_copies(self.view, sources, register)
        history = collect_history(logs)
        if by_ledger:
            last = last_scrubs(history, [self.label]).get(self.label)
            since = last.through if last is not None and last.days == self.days else None
        told = left_wrong(history, [self.label]).get(self.label)
        left = max(left, told.wrong - told.repaired if told is not None else 0)
        part = part_of(self.days, since, day_of(self.now), left_wrong=left > 0)
        versions = without_erased(self.view, sources, history, self.now)
        inventory = self._inventory(register, versions, sources)
        found = [*self._ledgers(logs), *self._notes(inventory)]  # (1)
        due = self._due(inventory, part, order_secret(seed, self.label))  # (2)
        plan_done(sum(inventory.packs[name] for name in due))
        read = 0

        def count(size: int) -> None:
            nonlocal read
            read += size
            self.progress(size)

        packs = (inventory.pack(name) for name in due)
        for wrong in read_objects(self.site, packs, workers=self.workers, read=count):  # (3)
            found.append(self._named(wrong))  # (4)
        found += self._head(register, logs)
        found += self._for_people(logs)
        fewer = told is not None and len(inventory.packs) < told.packs
        hidden = fewer and any(self.label not in v.held_by for v in versions)
        return RegisterScrub(
            register, part, len(inventory.packs), len(due), read, tuple(found), left, left if hidden else 0
        )

    # What there is

    def _inventory(
        self, register: RegisterId, versions: Sequence[CountedVersion], sources: Mapping[Label, Site]
    ) -> Inventory:
        """What the site's own ledgers say that it holds."""
        held = [v for v in versions if self.label in v.held_by]
        # The site's own copies are read here; only what it does not give comes from the others.
        inventory = read_lists(self.view.state, register, (v.leaf.objects for v in held), sources)
        add_boxes(inventory, self.view)
        add_batches(inventory, self.view, {self.label: self.site}, sources)
        return inventory

    def _due(self, inventory: Inventory, part: Part, secret: bytes) -> list[Digest]:
        """Packs to read: the part, the sample, and those that the listing lacks or shows in another size."""
        sizes = listed_sizes(self.site, inventory)
        odd = {name for name, size in inventory.packs.items() if sizes.get(name) != size}
        is_due = falls_due(part, secret)
        due = {name for name in inventory.packs if name in odd or is_due(name)}
        rest = sorted(name for name in inventory.packs if name not in due)
        return sorted(due.union(sample_of(rest, self.choose)))

    # Notes, boxes, lists, batches

    def _notes(self, inventory: Inventory) -> Iterator[Found]:
        """(1) What `read_state` found wrong at this site, and every small object that is named by its hash."""
        named = {item.key: item for item in inventory.small()}
        told = [f for f in self.view.findings if f.site == self.label and f.register in (None, inventory.register)]
        for finding in told:
            item = _named_by(finding.what, self.view.state)
            if item is not None:
                named.setdefault(item.key, item)
        lacking = {item.key: item for item in self._lacking(inventory.register, told)}
        named = {**lacking, **named}
        for wrong in read_objects(self.site, named.values(), workers=self.workers, read=lambda size: None):
            item = wrong.object
            # Anybody can plant a file under a name that nothing needs: what no site has right is none of ours.
            if item.key in lacking or _needs(inventory, item) or not self.others or self._elsewhere(item):
                yield self._named(wrong)
        for key, error in inventory.lost.items():
            if key not in named:
                yield Found(key, error.code, error.message, None, why_not="no site has a good copy")

    def _lacking(self, register: RegisterId, told: list[Finding]) -> Iterator[NamedObject]:
        """Notes that other sites show, where `read_state` says that this one lacks a charter, an epoch or a warrant."""
        behind = {f.what.split(" ")[0] for f in told if f.fault in (RolledBack.code, MissingObject.code)}
        own = self.view.shown[self.label]
        chain = {charter.digest for charter in self.view.chain.charters}
        used = {e.warrant.digest for c in self.view.epochs.values() for e in c.epochs if e.warrant is not None}
        keys: set[Key] = set()
        for label in self.others:
            shown = self.view.shown.get(label)
            if shown is None:
                continue
            if "charter" in behind:
                keys |= {k for k, note in shown.charters.items() if parse_note(note).digest in chain} - set(
                    own.charters
                )
            if "epoch" in behind:
                keys |= set(shown.epochs.get(register, {})) - set(own.epochs.get(register, {}))
            if "warrant" in behind:
                keys |= {k for k, digest in shown.warrants.items() if digest in used} - set(own.warrants)
        for key in sorted(keys):
            item = _named_by(key, self.view.state)
            if item is not None:
                yield item

    # Ledgers

    def _ledgers(self, logs: tuple[LogCopies, ...]) -> Iterator[Found]:
        """(1) Every bundle and tile that the site's own heads promise."""
        for copies in logs:
            if self.label not in copies.heads:
                continue
            wrong = {f.what: f for f in audit_copy(copies, self.site, self.label, known_leaves(copies))}
            right: dict[str, bytes] = {}
            if wrong and self.repair:
                size = min(copies.heads[self.label].size, copies.size)
                try:
                    right = {k: d for k, d in log_objects(copies.bundle, copies.prefix, size) if k in wrong}
                except (IntegrityError, UnavailableError):
                    right = {}  # no site has these entries
            for key, finding in wrong.items():
                yield self._replace(key, finding.fault, finding.detail, right.get(key), copies)

    def _replace(self, key: str, fault: str, detail: str, right: bytes | None, copies: LogCopies) -> Found:
        there: Digest | None = None
        try:
            there = sha256(self.site.get(Key(key)))
        except MissingObject:
            fault = MissingObject.code
        except (IntegrityError, UnavailableError):
            pass  # it cannot be read, so it is replaced as such
        found = Found(key, fault, detail, there)
        if not self.repair:
            return replace(found, why_not=ONLY_CHECKED)
        if right is None:
            return replace(found, why_not="no site has what it must be")
        source = next((n for n in copies.holders if n != self.label), self.label)
        return self._put(found, right, Label(source), missing=fault == MissingObject.code)

    def _head(self, register: RegisterId, logs: tuple[LogCopies, ...]) -> Iterator[Found]:
        """Heads that are damaged or gone; to show one again, the site must hold all that it promises."""
        for copies in logs:
            if self.label in copies.heads or not copies.size:
                continue
            key = checkpoint_key(copies.prefix)
            told = next((f for f in copies.findings if f.site == self.label and f.what == key), None)
            detail = told.detail if told else "it shows no head of this log, so nothing here can be found"
            found = Found(key, told.fault if told else MissingObject.code, detail, None)
            if not self.repair:
                yield replace(found, why_not=ONLY_CHECKED)
                continue
            plan = plan_delivery(self.view, register, self.site, self.others, now=self.now)
            done = deliver(self.view, plan, self.label, self.site, self.others)
            source = Label(copies.best) if copies.best in self.others else next(iter(self.others), None)
            yield replace(found, repaired_from=None if done.waits else source, why_not=done.waits)
            return

    def _for_people(self, logs: tuple[LogCopies, ...]) -> Iterator[Found]:
        """What no copying can put right: another history, or one that goes on after its epoch ended."""
        for copies in logs:
            for told in copies.findings:
                if told.site == self.label and told.fault in (Forked.code, Fenced.code):
                    yield Found(told.what, told.fault, told.detail, None, why_not="people have to look at it")

    # Repairs

    def _named(self, wrong: Wrong) -> Found:
        """(4) An object that is named by its hash, from the first other site that has it right."""
        found = Found(wrong.object.key, wrong.error.code, wrong.error.message, wrong.found)
        if not self.repair:
            return replace(found, why_not=ONLY_CHECKED)
        there = self._elsewhere(wrong.object)
        if there is None:
            return replace(found, why_not="no other site has a good copy")
        return self._put(found, there[1], there[0], missing=wrong.missing)

    def _elsewhere(self, item: NamedObject) -> tuple[Label, bytes] | None:
        """The object from the first other site that has it right."""
        for label, source in self.others.items():
            data = fetch_named(item, {label: source}, lambda label, item, error: None)
            if data is not None:
                return label, data
        return None

    def _put(self, found: Found, data: bytes, source: Label, *, missing: bool) -> Found:
        key = parse_key(found.key)
        try:
            # Killed before either: it is as it was, and the next run finds it. After: the right bytes, durably.
            if missing:
                self.site.put_same(key, data)
            else:
                self.site.replace_spoilt(key, data, found.found)
        except (UnavailableError, IntegrityError, ConflictError, OutcomeUnknown) as error:
            return replace(found, why_not=error.message)
        return replace(found, repaired_from=source)


def _needs(inventory: Inventory, item: NamedObject) -> bool:
    """Whether ``item`` is something that the register needs."""
    return item.name in inventory.nodes or item.name in inventory.boxes or item.key in inventory.batches


def _named_by(what: str, state: str) -> NamedObject | None:
    """The object ``what`` if it is one of the state's that is named by its hash."""
    try:
        name = parse_digest(what.rpartition("/")[2])
        key = parse_key(what)
    except MalformedError:
        return None
    return NamedObject(key, name, None, _NOTE_BYTES) if key.startswith(f"{state}/") else None

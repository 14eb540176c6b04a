"""Watch: what is at the sites and proven there, read again and again, at the cost of what changed.

One look: (1) the state, if it was read too long ago · (2) every register's head at every site, sites side by side ·
(3) the ledgers whose head moved · (4) at each site the objects of the newest version there (``verify/held.py``) ·
evidence for ``rules/watch.py``. What was proven stays proven for ``proof_s``, then all of it is looked at anew. All
memory is in this process and its own: a watch that starts anew proves everything anew.

It remembers what each site showed before: a site that shows less, or another history, is damaged, whatever it says now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from exclave.errors import (
    ExclaveError,
    Forked,
    IntegrityError,
    MalformedError,
    MissingObject,
    RolledBack,
    UnavailableError,
)
from exclave.formats.charter import CharterRegister, ParsedCharter
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES
from exclave.formats.deletion import ORDERED
from exclave.formats.tile import checkpoint_key
from exclave.ids import Digest, Fingerprint, Instant, Label, RegisterId, instant_text, sha256
from exclave.rules.watch import Before, Evidence, RegisterVerdict, State, judge_register, worst_of
from exclave.sites.contract import Readable
from exclave.verify.copies import LogCopies
from exclave.verify.deletions import without_erased
from exclave.verify.guard import GuardedSource
from exclave.verify.held import Held, HeldObjects
from exclave.verify.history import CountedFact, CountedVersion, RegisterHistory, collect_history, read_copies
from exclave.verify.scrubs import left_wrong
from exclave.verify.state import Finding, StateView, read_state

KEPT_VERSIONS = 32
"""Of each register; a site that is further behind makes its whole ledger be read again."""
KEPT_FACTS = 8192
LOOK_BACK = 8
"""Where the newest version at a site is not whole, so many in all are tried for the last one that is."""
_ONLY_BEHIND = frozenset({RolledBack.code, MissingObject.code})
"""A site that lacks a charter or an epoch is behind: it shows the versions of before, and is late by these."""
_THREADS = 12
_PART = 50
"""Registers whose heads one thread reads, one after the other."""
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class WatchRule:
    """How deep and how often."""

    proof_s: int = 86_400
    """So long stays proven what was proven; then every object is looked at again."""
    sample: int = 4
    """Packs of each new version that are read whole at each site, besides the manifest's."""
    state_s: int = 300
    """So long charters, cards and epochs are not read again."""


@dataclass(slots=True)
class _Copy:
    """What is remembered of one register at one site."""

    objects: HeldObjects
    since: Instant = Instant(0)
    """When the objects that are remembered began to be looked at."""
    proven: Instant = Instant(0)
    version: CountedVersion | None = None
    """The last one that was whole there."""
    shown: tuple[Digest, int] | None = None
    """Of the newest epoch (its note's digest), how many entries its head had at most."""
    held: Held | None = None


@dataclass(slots=True)
class _Known:
    """What is remembered of one register."""

    heads: dict[Label, bytes] = field(default_factory=dict)
    view: StateView | None = None
    versions: tuple[CountedVersion, ...] = ()
    facts: tuple[CountedFact, ...] = ()
    entries: int = 0
    seen: tuple[Digest, Digest, int, Digest] | None = None
    """The charter, the newest epoch's note, how many of its entries counted under them, and the root of these."""
    at: dict[Label, tuple[CountedVersion, ...]] = field(default_factory=dict)
    """Versions at each site that read it last time, the newest first."""
    wrong: dict[Label, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RegisterEvidence:
    rule: CharterRegister
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found."""

    at: Instant
    """When it began: nothing that was found is older."""
    charter: ParsedCharter | None
    """The charter in force; None if it was never read."""
    registers: tuple[RegisterEvidence, ...]
    problem: ExclaveError | None
    """Why the state could not be read just now."""
    findings: tuple[Finding, ...]
    packs_read: int
    """Packs read whole and hashed in this look."""
    proof_s: int

    def judge(
        self, now: Instant, before: Mapping[RegisterId, Mapping[Label | None, Before]] | None = None
    ) -> tuple[RegisterVerdict, ...]:
        """What it means at ``now``."""
        if self.charter is None:
            return ()
        known = before or {}
        return tuple(
            judge_register(self.charter, r.rule, r.evidence, proof_s=self.proof_s, now=now, before=known.get(r.rule.id))
            for r in self.registers
        )


class Watch:
    """Looks at all sites of a state, with a memory of what was proven. One look at a time."""

    def __init__(
        self,
        sites: Mapping[Label, Readable],
        pinned: Fingerprint,
        rule: WatchRule,
        *,
        clock: Callable[[], Instant],
        choose: Callable[[int], int],
    ) -> None:
        """``choose(n)``: a number from 0 to n - 1 that no host foresees."""
        self._sites, self._pinned, self._rule, self._clock, self._choose = dict(sites), pinned, rule, clock, choose
        self._view: StateView | None = None
        self._read = Instant(0)
        self._known: dict[RegisterId, _Known] = {}
        self._copies: dict[tuple[RegisterId, Label], _Copy] = {}

    @property
    def view(self) -> StateView | None:
        """The state as it was read last."""
        return self._view

    def look(self) -> Look:
        """Reads the sites. Raises nothing that a site or its host can cause."""
        began = self._clock()
        guarded = {label: GuardedSource(str(label), site) for label, site in self._sites.items()}
        problem: ExclaveError | None = None
        if self._view is None or not 0 <= began - self._read < self._rule.state_s * _US:  # (1)
            try:
                self._view, self._read = read_state(guarded, self._pinned), began
            except ExclaveError as error:
                problem = error
        view = self._view
        if view is None:
            return Look(began, None, (), problem, (), 0, self._rule.proof_s)
        rules = view.chain.newest.charter.registers
        for rule in rules:
            self._known.setdefault(rule.id, _Known())
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="watch") as pool:
            sites = [label for label in guarded if any(label in rule.at for rule in rules)]
            heads = self._all_heads(pool, view, {label: guarded[label] for label in sites})  # (2)
            list(pool.map(lambda rule: self._ledger(view, rule, guarded, heads, began), rules))  # (3)
            told = dict(
                zip(sites, pool.map(lambda one: self._site(view, one, guarded[one], heads[one]), sites), strict=True)
            )  # (4)
        registers = tuple(
            RegisterEvidence(rule, tuple(self._evidence(view, rule, label, told) for label in rule.at))
            for rule in rules
        )
        held = [copy.held for copy in self._copies.values() if copy.held is not None]
        for copy in self._copies.values():
            copy.held = None
        read = sum(one.packs_read for one in held)
        done = Look(
            began, view.chain.newest.charter, registers, problem, tuple(view.findings), read, self._rule.proof_s
        )  # fmt: skip
        if worst_of(done.judge(self._clock())) is not State.FRESH:
            self._read = Instant(0)  # A new epoch or charter may be why: the next look reads the state anew.
        return done

    # (2) Heads

    def _all_heads(
        self, pool: ThreadPoolExecutor, view: StateView, sites: Mapping[Label, Readable]
    ) -> dict[Label, dict[RegisterId, bytes | ExclaveError]]:
        """By site, then by register; a few requests at once, since each waits for its site's line."""
        rules = view.chain.newest.charter.registers
        parts = [(label, rules[at : at + _PART]) for at in range(0, len(rules), _PART) for label in sites]
        found: dict[Label, dict[RegisterId, bytes | ExclaveError]] = {label: {} for label in sites}
        done = pool.map(lambda part: self._heads(view, part[0], sites[part[0]], part[1]), parts)
        for (label, _), heads in zip(parts, done, strict=True):
            found[label] |= heads
        return found

    def _heads(
        self, view: StateView, label: Label, site: Readable, rules: Sequence[CharterRegister]
    ) -> dict[RegisterId, bytes | ExclaveError]:
        """The bytes of each register's newest head at one site; an empty one if there is none."""
        found: dict[RegisterId, bytes | ExclaveError] = {}
        for rule in rules:
            chain = view.epochs.get(rule.id)
            if label not in rule.at or chain is None:
                continue
            reader = view.log_reader(chain.newest, site)
            try:
                found[rule.id] = site.get(checkpoint_key(reader.prefix), limit=MAX_CHECKPOINT_BYTES)
            except MissingObject:
                found[rule.id] = b""
            except (IntegrityError, UnavailableError) as error:
                found[rule.id] = error
        return found

    # (3) Ledgers

    def _ledger(
        self,
        view: StateView,
        rule: CharterRegister,
        guarded: Mapping[Label, Readable],
        heads: Mapping[Label, Mapping[RegisterId, bytes | ExclaveError]],
        now: Instant,
    ) -> None:
        known = self._known[rule.id]
        shown = {label: heads[label].get(rule.id) for label in rule.at if label in heads}
        now_shown = {label: data for label, data in shown.items() if isinstance(data, bytes)}
        if now_shown and known.view is view and known.heads == now_shown and not known.problem:
            return
        sources = {label: guarded[label] for label in rule.at if label in now_shown}
        if not sources:
            return
        try:
            logs = read_copies(view, sources, rule.id)
            self._take(view, known, rule.id, logs, sources, now)
            known.problem = ""
        except ExclaveError as error:
            known.at, known.problem = {}, error.message
        known.heads, known.view = now_shown, view

    def _take(
        self,
        view: StateView,
        known: _Known,
        register: RegisterId,
        logs: tuple[LogCopies, ...],
        sources: Mapping[Label, Readable],
        now: Instant,
    ) -> None:
        """Reads what was added to a register's logs since, and notes what each site shows and what is wrong with it."""
        known.wrong = {}
        entries = sum(log.size for log in logs)
        charter = view.chain.newest.charter.digest
        gone_on = self._goes_on(known, logs, charter)
        added = entries - known.entries if gone_on and known.entries else None
        read = collect_history(logs, newest=None if added is None else max(1, added))
        counted = {version.leaf.sequence: version for version in (known.versions if gone_on else ())}
        counted |= {version.leaf.sequence: version for version in read.versions}
        versions = tuple(_held_now(logs, counted[number]) for number in sorted(counted))[-KEPT_VERSIONS:]
        facts = {(fact.epoch, fact.index): fact for fact in (*(known.facts if gone_on else ()), *read.facts)}
        known.facts = tuple(facts[place] for place in sorted(facts))[-KEPT_FACTS:]
        known.versions, known.entries = versions, entries
        history = RegisterHistory(register, read.epochs, versions, read.findings, known.facts)
        kept = versions
        if any(fact.fact.kind == ORDERED for fact in known.facts):
            kept = without_erased(view, sources, history, now)
        known.at = {label: tuple(v for v in reversed(kept) if label in v.held_by) for label in sources}
        behind = [label for label, there in known.at.items() if not there and self._covers(logs, label)]
        if behind and added is not None:
            full = without_erased(view, sources, collect_history(logs), now)
            for label in behind:
                known.at[label] = tuple(v for v in reversed(full) if label in v.held_by)[:LOOK_BACK]
        self._accuse(known, register, logs, read.findings)
        if gone_on:
            tree = logs[-1].counts
            known.seen = (charter, logs[-1].epoch.digest, tree.size, tree.root) if tree is not None else known.seen

    def _covers(self, logs: tuple[LogCopies, ...], label: Label) -> bool:
        return any(log.agreed.get(label, 0) for log in logs)

    def _goes_on(self, known: _Known, logs: tuple[LogCopies, ...], charter: Digest) -> bool:
        """Whether what counts now goes on from what counted before; if not, every site that shows it is accused.

        Another charter may ask for other witnesses, and another epoch has a log of its own: then nothing is compared.
        """
        newest, seen = logs[-1], known.seen
        if seen is None or seen[:2] != (charter, newest.epoch.digest):
            return True
        _, _, size, root = seen
        tree = newest.tree()
        told = ""
        if newest.size < size:
            told = f"{newest.size} entries are shown; {size} were shown before, and they counted"
        elif tree is not None and size and tree.root_at(size) != root:
            told = f"its first {size} entries are others than were shown before ({Forked.code})"
        if told:
            known.wrong = {Label(name): told for name in newest.agreed}
        return not told

    def _accuse(
        self, known: _Known, register: RegisterId, logs: tuple[LogCopies, ...], findings: Iterable[Finding]
    ) -> None:
        """What one site shows that cannot be true: forged, forked, damaged, or less than it showed before."""
        newest = logs[-1]
        for label in known.at:
            copy = self._copy(register, label)
            shown = newest.heads[label].size if label in newest.heads else 0
            before = copy.shown[1] if copy.shown is not None and copy.shown[0] == newest.epoch.digest else 0
            if shown < before and label not in newest.refused:
                known.wrong.setdefault(label, f"it shows {shown} entries, and showed {before}: rolled back")
            copy.shown = (newest.epoch.digest, max(shown, before))
        for found in findings:
            if found.grave and Label(found.site) in known.at:
                known.wrong.setdefault(Label(found.site), f"{found.fault}: {found.detail}")
        lefts = left_wrong(RegisterHistory(register, (), (), (), known.facts), set(known.at))
        for label, line in lefts.items():
            left = line.wrong - line.repaired
            known.wrong.setdefault(
                label, f"a scrub left {left} objects wrong there, and none has found all right since"
            )

    # (4) Objects

    def _copy(self, register: RegisterId, label: Label) -> _Copy:
        key = (register, label)
        if key not in self._copies:
            self._copies[key] = _Copy(HeldObjects(self._pinned, register))
        return self._copies[key]

    def _site(
        self, view: StateView, label: Label, site: Readable, heads: Mapping[RegisterId, bytes | ExclaveError]
    ) -> dict[RegisterId, tuple[str, str]]:
        """For each register at one site: why nothing can be told now, and what is wrong; both empty if all is well."""
        found: dict[RegisterId, tuple[str, str]] = {}
        for rule in view.chain.newest.charter.registers:
            if label not in rule.at:
                continue
            head, known = heads.get(rule.id), self._known[rule.id]
            if isinstance(head, UnavailableError):
                found[rule.id] = (head.message, "")
            elif isinstance(head, ExclaveError):
                found[rule.id] = ("", f"{head.code}: {head.message}")
            elif head is None or known.problem:
                found[rule.id] = (known.problem or "its epochs cannot be told", "")
            else:
                found[rule.id] = self._prove(view, known, self._copy(rule.id, label), label, site)
        return found

    def _prove(self, view: StateView, known: _Known, copy: _Copy, label: Label, site: Readable) -> tuple[str, str]:
        """Finds the newest version that is whole at ``site``."""
        now = self._clock()
        if not 0 <= now - copy.since < self._rule.proof_s * _US:
            copy.objects.forget()
            copy.since = now
        wrong = known.wrong.get(label, "")
        there = known.at.get(label, ())
        for version in there[:LOOK_BACK]:
            try:
                copy.objects.hold_boxes(site, view)
                copy.held = copy.objects.hold(site, version.leaf, sample=self._rule.sample, choose=self._choose)
            except UnavailableError as error:
                return error.message, wrong
            except (IntegrityError, MalformedError) as error:
                wrong = wrong or f"{error.code}: {error.message}"
                continue
            copy.version, copy.proven = version, now
            return "", wrong
        copy.version, copy.proven = None, now
        return "", wrong

    # Evidence

    def _evidence(
        self,
        view: StateView,
        rule: CharterRegister,
        label: Label,
        told: Mapping[Label, Mapping[RegisterId, tuple[str, str]]],
    ) -> Evidence:
        if label not in self._sites:
            return Evidence(label, silent="no address of it is known here")
        copy = self._copy(rule.id, label)
        silent, wrong = told.get(label, {}).get(rule.id, ("it was not asked", ""))
        accused = (f for f in view.findings if f.site == label and f.register in (None, rule.id) and f.grave)
        wrong = wrong or next((f"{f.fault}: {f.detail}" for f in accused if f.fault not in _ONLY_BEHIND), "")
        if copy.version is None:
            return Evidence(label, proven=copy.proven, silent=silent, wrong=wrong)
        leaf = copy.version.leaf
        if silent:
            silent += f"; last proven there: version {leaf.sequence}, at {instant_text(copy.proven)}"
        return Evidence(label, leaf.sequence, leaf.time, copy.proven, silent, wrong, sha256(leaf.encode()))


def _held_now(logs: tuple[LogCopies, ...], version: CountedVersion) -> CountedVersion:
    """``version`` with the sources whose heads cover it now."""
    log = logs[version.epoch - 1]
    held = tuple(name for name, size in log.agreed.items() if size > version.index)
    return CountedVersion(version.epoch, version.index, version.leaf, held)

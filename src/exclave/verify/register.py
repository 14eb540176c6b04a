"""One register at all sources: its ledgers, boxes and objects, and what they mean for its versions."""

from __future__ import annotations

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Forked,
    IntegrityError,
    LegalBasisMissing,
    MissingObject,
    NotAuthorised,
    PlacementUnmet,
    RolledBack,
    UnavailableError,
)
from exclave.formats.charter import CharterRegister, ParsedCharter
from exclave.formats.epochnote import SEALED_SHARE_BYTES
from exclave.formats.paths import box_key, ledger_prefix, pack_key, pack_prefix
from exclave.formats.tile import checkpoint_key
from exclave.ids import Digest, Epoch, Instant, Key, Label, RegisterId, instant_text, sha256
from exclave.ids import Sequence as VersionNumber
from exclave.rules.epochs import EpochChain, VerifiedEpoch
from exclave.rules.freshness import dated_ahead
from exclave.rules.placement import placement_of
from exclave.sites.contract import Sources
from exclave.verify.ahead import foresee, foresee_below, forget
from exclave.verify.copies import LogCopies
from exclave.verify.deletions import Erased, read_deletions
from exclave.verify.erasable import keys_due
from exclave.verify.exits import Exit, read_exits
from exclave.verify.feeds import FeedHeads, absent_batches, head_key, read_heads
from exclave.verify.history import CLOCK_TOLERANCE_US, CountedVersion, RegisterHistory, collect_history, read_copies
from exclave.verify.inventory import read_lists
from exclave.verify.ledgers import Beyond, audit_copy, known_leaves, look_beyond
from exclave.verify.objects import RegisterObjects
from exclave.verify.published import PublishedObjects
from exclave.verify.report import NOT_ERASED, Dated, PublishedReport, RegisterReport, SiteReport
from exclave.verify.state import Finding, StateView, finding

PUBLISHING_US = 15 * 60 * 1_000_000
"""So long may a source hold entries that its head does not show yet: somebody is publishing them."""
_MAX_BOX_BYTES = 2 << 20
_LOGS_AHEAD = 16
"""So many epochs' heads are asked of far sources at once."""


class RegisterCheck:
    """One register on its way through a verification: ``history``, ``lists``, ``rest``, then ``report``.

    From ``lists`` on the caller may run ``objects.jobs()`` in other threads, and ends them before ``report``. What is
    wrong collects in ``findings``.
    """

    def __init__(
        self,
        view: StateView,
        sources: Sources,
        rule: CharterRegister,
        now: Instant,
        *,
        packs_from: Sources | None = None,
    ) -> None:
        """``packs_from``: the same sources, for other threads; None: ``sources``."""
        self.findings: list[Finding] = []
        self.objects: RegisterObjects | None = None
        self.public: PublishedObjects | None = None
        self._view, self._rule, self._now = view, rule, now
        self._sources = {name: source for name, source in sources.items() if name in view.shown}
        self._packs_from = packs_from
        self._logs: tuple[LogCopies, ...] = ()
        self._duty = [name for name in self._sources if view.should_hold(name, rule.id)]
        """Sources that have to hold this register."""
        self._history = RegisterHistory(rule.id, (), (), ())
        self._erased: dict[VersionNumber, Erased] = {}
        self._keys_due: frozenset[Epoch] = frozenset()
        self._dated: tuple[Dated, ...] = ()
        self._exits: tuple[Exit, ...] = ()

    @property
    def register(self) -> RegisterId:
        return self._rule.id

    @property
    def logs(self) -> tuple[LogCopies, ...]:
        """All epochs' logs as they were judged; none before ``history``, and none after ``rest``."""
        return self._logs

    # Ledgers

    def history(self) -> None:
        """Judges all logs: which versions count, and which of them need not be anywhere any more."""
        if self._rule.id not in self._view.epochs or not self._sources:
            return  # A finding of the state says so already.
        self._foresee()
        self._logs = read_copies(self._view, self._sources, self._rule.id)
        self._history = collect_history(self._logs)
        self._deleted()

    def _foresee(self) -> None:
        """What is asked for below, whatever it says: heads of logs and feeds, boxes, and names of what lies there."""
        view, register, every = self._view, self._rule.id, self._sources.values()
        duty = [self._sources[name] for name in self._duty]
        epochs = view.epochs[register].epochs[-_LOGS_AHEAD:]
        logs = [ledger_prefix(view.state, register, epoch.number, epoch.digest) for epoch in epochs]
        foresee(every, map(checkpoint_key, logs))
        foresee(duty, (head_key(view.state, epoch) for epoch in epochs))
        foresee(duty, (box_key(view.state, register, digest) for digest in self._wanted_boxes()))
        foresee_below(duty, logs, objects=False)
        foresee_below(every, [pack_prefix(view.state, register)], objects=False)

    def rest(self, *, read_packs: bool) -> None:
        """Everything but the packs themselves: each source's copy of each log, boxes, feeds, timestamps, listings."""
        self._ledgers()
        self._boxes()
        self._feeds()
        self._timestamps()
        if self.objects is not None:
            self.objects.check_listings(read_packs=read_packs)
        self._still_shown()
        if self._history.facts:
            self.public = PublishedObjects(self._view, self._sources, self._history)
            self.public.check(read=read_packs)
        forget(self._sources.values())

    def _ledgers(self) -> None:
        """Goes through each source's copy of each log, object by object."""
        audits: dict[tuple[str, str], list[Finding]] = {}
        for copies in self._logs:
            leaves = known_leaves(copies)
            for name in copies.heads:
                audits[copies.prefix, name] = audit_copy(copies, self._sources[name], name, leaves)
            for name in self._duty:
                self._compare(copies, name)
        for found in self._history.findings:
            if not any(audit and _less_exact(found, prefix, name) for (prefix, name), audit in audits.items()):
                self.findings.append(found)
        for audit in audits.values():
            self.findings += audit
        if self._logs:
            self._left()
            self._legal_basis()
        self._logs = ()

    def _compare(self, copies: LogCopies, name: str) -> None:
        """Whether what ``name`` shows of a log is all it should show by now."""
        head, what = copies.heads.get(name), checkpoint_key(copies.prefix)
        shown = head.size if head else 0
        if head is not None and (ahead := dated_ahead(head.time, self._now)):
            self._note(name, what, CorruptObject(f"its head {ahead}: it tells no age"), grave=False)
        if name in copies.refused or copies.agreed.get(name, 0) < min(shown, copies.size):
            return  # Unreadable or forked: said already.
        odd: list[Finding] = []
        beyond = look_beyond(copies, self._sources[name], name, odd)
        self.findings += odd
        if shown < copies.size:
            self._behind(copies, name, shown, beyond)
        elif beyond.was > shown:
            lost = RolledBack(f"it shows {shown} entries, and its writer's own note there says it had {beyond.was}")
            self._note(name, what, lost)
        elif beyond.pending:
            started = RolledBack(
                f"entries up to {beyond.pending} were begun and {shown} are shown: unfinished, or rolled back"
            )
            self._note(name, what, started, grave=False)
        elif beyond.size > shown:
            text = f"it holds {beyond.size} entries and shows {shown}: being published, or rolled back"
            self._note(name, what, RolledBack(text), grave=False)

    def _behind(self, copies: LogCopies, name: str, shown: int, beyond: Beyond) -> None:
        """Not published there yet, or taken back? Grave if the source convicts itself, or if it is too late by now."""
        rest = [v.leaf.time for v in self._history.versions if v.epoch == copies.epoch.number and v.index >= shown]
        since = rest[0] if rest else (copies.freshest.time if copies.freshest else Instant(0))
        age_us = self._now - since
        late = age_us > self._rule.rpo_s * 1_000_000
        left = beyond.size > shown and age_us > PUBLISHING_US
        grave = late or left or beyond.was > shown
        why = "rolled back" if beyond.was > shown else "not published there yet, or rolled back"
        if beyond.size > shown:
            why += f"; it holds entries up to {beyond.size}"
        text = f"it shows {shown} of the {copies.size} entries that count: {why}"
        error: ExclaveError = RolledBack(text) if name in copies.heads else MissingObject(text)
        self._note(name, checkpoint_key(copies.prefix), error, grave=grave)

    def _deleted(self) -> None:
        """Which versions need not be anywhere any more, and what is wrong with orders to delete."""
        if self._history.facts:
            deletions = read_deletions(self._view, self._sources, self._history, now=self._now)
            self.findings += deletions.findings
            self._erased = deletions.erased(self._view, self._now)
            self._keys_due, _ = keys_due(self._view, self._sources, self._history, deletions, self._now)

    def _left(self) -> None:
        """What operators of sites that left have stated; a source that shows the register all the same is told."""
        self._exits, findings = read_exits(self._view, self._sources, self._history)
        self.findings += findings
        for one in self._exits:
            there = self._sources.get(str(one.site)) if one.site not in self._rule.at else None
            if there is not None and self._view.shown[str(one.site)].epochs.get(self._rule.id):
                text = "its operator states that everything was erased here, and the register is shown all the same"
                self.findings.append(Finding(str(one.site), NOT_ERASED, "exit", text, self._rule.id, grave=False))

    @property
    def _living(self) -> tuple[CountedVersion, ...]:
        return tuple(v for v in self._history.versions if v.leaf.sequence not in self._erased)

    def _legal_basis(self) -> None:
        labels = {site.label for site in self._view.chain.newest.charter.sites}
        for name in self._sources:
            there = self._view.shown[name].epochs.get(self._rule.id)
            if name in labels and name not in self._rule.at and there:
                error = LegalBasisMissing("this register lies at a site where the charter does not allow it")
                self._note(name, "register", error, grave=False)

    def _timestamps(self) -> None:
        """What timestamp authorities say of the ledgers, and whether the versions' own times agree."""
        named = any(charter.charter.authorities for charter in self._view.chain.charters)
        if self._rule.id not in self._view.epochs or not self._sources or not named:
            return
        from exclave.verify.timestamps import bounds, read_timestamps  # noqa: PLC0415 - X.509 and ASN.1: slow to load

        stamps, odd = read_timestamps(self._view, self._sources, self._history)
        self.findings += odd
        self._dated = tuple(Dated(s.authority, s.before, s.epoch, s.entries, s.sequence) for s in stamps)
        earliest = bounds(self._history, stamps)
        for version in self._history.versions:
            by = earliest.get(version.leaf.sequence)
            if by is not None and version.leaf.time > by.before + CLOCK_TOLERANCE_US:
                when = instant_text(version.leaf.time)
                text = f"its time is {when}, but {by.authority} saw it at {instant_text(by.before)}"
                self._note("?", f"version {version.leaf.sequence}", CorruptObject(text), grave=False)

    # Objects

    def _boxes(self) -> None:
        """Shares, ancestor seeds and annex, at every source that has to hold them."""
        boxes = self._wanted_boxes()
        chain = self._view.epochs.get(self._rule.id)
        if chain is not None and not self._unordered_keys(chain):
            for digest in chain.dispensable:
                boxes.pop(digest, None)
        for name in self._duty:
            for digest, (what, limit) in boxes.items():
                key = box_key(self._view.state, self._rule.id, digest)
                try:
                    data = self._sources[name].get(key, limit=limit)
                except MissingObject:
                    self._note(name, key, MissingObject(f"{what} is missing"))
                except (IntegrityError, UnavailableError) as error:
                    self._note(name, key, error)
                else:
                    if sha256(data) != digest:
                        self._note(name, key, CorruptObject(f"{what} does not have the hash that it is named by"))

    def _wanted_boxes(self) -> dict[Digest, tuple[str, int]]:
        """What each box is, and the most bytes that it may have."""
        boxes: dict[Digest, tuple[str, int]] = {self._rule.annex_box: ("the annex", _MAX_BOX_BYTES)}
        chain = self._view.epochs.get(self._rule.id)
        for epoch in chain.epochs if chain else ():
            for share in epoch.note.shares:
                boxes[share.box] = (f"{share.custodian}'s share of epoch {epoch.number}", SEALED_SHARE_BYTES)
            if epoch.note.ancestor is not None:
                boxes[epoch.note.ancestor] = (f"the older keys of epoch {epoch.number}", _MAX_BOX_BYTES)
        return boxes

    def _unordered_keys(self, chain: EpochChain) -> bool:
        """Whether the newest epoch leaves out a former key that no order takes away; a finding if so."""
        lost = sorted(set(chain.newest.note.without) - self._keys_due)
        for number in lost:
            error = NotAuthorised(
                f"epoch {chain.newest.number} leaves out the key of epoch {number}, and no order says so, or a version"
                " may need it"
            )
            self._note("?", "epochs", error, grave=True)
        return bool(lost)

    def _feeds(self) -> None:
        """Of the identity register: each source's copy of the feed, which embassies live from."""
        chain = self._view.epochs.get(self._rule.id)
        for epoch in chain.epochs if chain else ():
            sources = {name: self._sources[name] for name in self._duty}
            key = head_key(self._view.state, epoch)
            try:
                heads = read_heads(self._view.state, epoch, sources, now=self._now)
            except Forked as error:
                self._note(str(error.facts.get("site", "?")), key, error)
                continue
            if heads.best is None:
                continue
            for name in self._duty:
                self._feed(name, epoch, key, heads)

    def _feed(self, name: str, epoch: VerifiedEpoch, key: Key, heads: FeedHeads) -> None:
        head, best = heads.by_site.get(name), heads.best
        if head is None or best is None:
            self._note(name, key, MissingObject(f"the identity feed's head: {heads.problems.get(name, 'missing')}"))
            return
        late = best.time - head.time > self._rule.rpo_s * 1_000_000
        if head.head.number < best.head.number or late:
            text = f"it shows {head.head.number} of the identity feed's {best.head.number} entries"
            self._note(name, key, RolledBack(f"{text}: not sent there yet, or rolled back"), grave=late)
        for wrong in absent_batches(self._view.state, epoch, self._sources[name], head):
            self._note(name, key, wrong)

    def lists(self) -> RegisterObjects:
        """Reads all object lists."""
        self.objects = RegisterObjects(
            self._view.state, self._rule.id, self._sources, self._living, packs_from=self._packs_from
        )
        return self.objects

    def _still_shown(self) -> None:
        """What sources still show of versions that the ledger says were erased: locked, kept, or brought back."""
        done = {sequence for sequence, gone in self._erased.items() if gone.done}
        roots = [v.leaf.objects for v in self._history.versions if v.leaf.sequence in done]
        if not roots:
            return
        needed = [v.leaf.objects for v in self._living]
        living = read_lists(self._view.state, self._rule.id, needed, self._sources).packs
        dead = read_lists(self._view.state, self._rule.id, roots, self._sources).packs.keys() - living.keys()
        for name, source in self._sources.items():
            keys = (pack_key(self._view.state, self._rule.id, pack) for pack in dead)
            try:
                there = sum(source.stat(key) is not None for key in keys)
            except (IntegrityError, UnavailableError):
                continue  # said already
            if there:
                text = (
                    f"{there} packs that only erased versions need still lie here: locked, kept, or brought back;"
                    " its operator runs `exclave delete run`, then home `exclave delete record`"
                )
                self.findings.append(Finding(name, "not-erased", "packs", text, self._rule.id, grave=False))

    # Results

    def report(self) -> RegisterReport:
        """What was found; adds the last findings: RPO and placement."""
        versions, charter = self._living, self._view.chain.newest.charter
        latest = versions[-1] if versions else None
        age_s = None if latest is None else (self._now - latest.leaf.time) // 1_000_000
        self._age(latest, age_s)
        if self.objects is not None:
            self.objects.settle_sizes()
            self.findings += self.objects.findings
        if self.public is not None:
            self.findings += self.public.findings
        holds = [Label(n) for n in self._sources if latest and self.objects and self.objects.complete(n, latest)]
        lacks = placement_of(charter, self._rule, now=self._now).missing(holds)
        if latest is not None and lacks:
            told = f"of the sites that were named, too few hold version {latest.leaf.sequence} whole: {lacks}"
            self._note("?", "placement", PlacementUnmet(told + self._misnamed(charter)))
        chain = self._view.epochs.get(self._rule.id)
        return RegisterReport(
            register=self._rule.id,
            public_name=self._rule.public_name,
            epoch=chain.newest.number if chain else Epoch(0),
            versions=len(versions),
            latest=latest.leaf.sequence if latest else None,
            latest_time=latest.leaf.time if latest else None,
            age_s=age_s,
            rpo_s=self._rule.rpo_s,
            sites=tuple(self._site(name) for name in self._sources),
            placement_lacks=lacks,
            erased=tuple(self._erased[number] for number in sorted(self._erased)),
            exits=self._exits,
            timestamps=self._dated,
            published=self._published(),
        )

    def _misnamed(self, charter: ParsedCharter) -> str:
        """That copies under names which the charter does not know count for nothing; empty if there are none."""
        known = [site.label for site in charter.sites if site.label in self._rule.at]
        others = sorted(name for name in self._sources if all(name != site.label for site in charter.sites))
        if not others:
            return ""
        told = f"Name each site as the charter does: {', '.join(known)} (NAME=ADDRESS)"
        return f". Not counted: {', '.join(others)}. {told}"

    def _published(self) -> PublishedReport | None:
        newest = self.public.newest if self.public is not None else None
        if self.public is None or newest is None:
            return None
        complete = tuple(name for name, own in self.public.at.items() if not own.bad)
        return PublishedReport(newest.sequence, newest.time, len(newest.bundles), complete)

    def _age(self, latest: CountedVersion | None, age_s: int | None) -> None:
        if latest is None or age_s is None:
            if self._rule.id in self._view.epochs:
                self._rpo("there is no version that counts")
        elif age_s > self._rule.rpo_s:
            self._rpo(f"version {latest.leaf.sequence} is {age_s} s old; the charter allows {self._rule.rpo_s} s")
        elif latest.leaf.time > self._now + CLOCK_TOLERANCE_US:
            future = CorruptObject(f"its time lies {-age_s} s in the future")
            self._note("?", f"version {latest.leaf.sequence}", future, grave=False)

    def _rpo(self, text: str) -> None:
        self.findings.append(Finding("?", "rpo", "age", text, self._rule.id, grave=False))

    def _site(self, name: str) -> SiteReport:
        site = self._view.chain.newest.charter.site(Label(name))
        held = [v for v in self._living if name in v.held_by]
        complete = [v for v in held if self.objects and self.objects.complete(name, v)]
        newest = self._history.epochs[-1] if self._history.epochs else None
        return SiteReport(
            site=name,
            country=site.country if site and site.label in self._rule.at else None,
            entries=newest.agreed.get(name, 0) if newest else 0,
            versions=len(held),
            complete=len(complete),
            latest_complete=complete[-1].leaf.sequence if complete else None,
            latest_complete_time=complete[-1].leaf.time if complete else None,
        )

    def _note(self, site: str, what: str, error: ExclaveError, *, grave: bool | None = None) -> None:
        self.findings.append(finding(site, what, error, self._rule.id, grave=grave))


def _less_exact(found: Finding, prefix: str, name: str) -> bool:
    """Whether an audit of ``name``'s log below ``prefix`` says the same as ``found``, and names the object rightly."""
    return (
        found.site == name
        and found.what.startswith(f"{prefix}tile")
        and found.fault in (MissingObject.code, CorruptObject.code)
    )

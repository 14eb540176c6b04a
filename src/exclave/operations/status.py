"""Status: for each register and site, how old the last version there is, from what the sites themselves prove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from exclave.errors import ExclaveError, MissingObject, SiteFull, SiteReadOnly, SiteUnavailable, UnavailableError
from exclave.formats.card import Card
from exclave.formats.scrubbed import ScrubLine
from exclave.formats.sitefacts import LockLine, ProbeLine
from exclave.ids import Instant, Label, RegisterId, instant_text
from exclave.rules.deletion import OrderState
from exclave.rules.lease import DEFAULT_DAYS, alarms
from exclave.rules.placement import placement_of
from exclave.rules.policy import in_words
from exclave.rules.scrub import LastRun, day_of, day_text, due_by, overdue
from exclave.sites.contract import Site, Sources
from exclave.verify.deletions import read_deletions
from exclave.verify.history import CLOCK_TOLERANCE_US, CountedVersion, RegisterHistory, read_history
from exclave.verify.holding import Holders, find_holders
from exclave.verify.scrubs import last_scrubs, left_wrong
from exclave.verify.sitefacts import last_locks, last_probes
from exclave.verify.state import Finding, StateView

_AWAY = frozenset({UnavailableError.code, *(cls.code for cls in (SiteUnavailable, SiteFull, SiteReadOnly))})


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """What one site shows of one register."""

    site: Label
    sequence: int
    """Its last version that counts; 0: none."""
    time: Instant
    age_s: float
    scrubbed: str = ""
    """The day up to which `exclave scrub` has read what fell due there; empty: never."""
    scrub_due: str = ""
    """The day by which the next scrub of it is due; empty: none is promised, or nothing is there to be read."""
    whole: bool = False
    """The register's last version was found whole there; in a quick look, its head covers it."""
    scrub_problem: str = ""
    """Why its scrubs are not as they should be; empty if they are."""
    probed: str = ""
    """What the last probe found, and when; empty: none was entered."""
    locked: str = ""
    """The day on which the first lock of what lies there ends, by the last look at them; empty: none was entered."""
    lock_problem: str = ""
    """Why its locks are not as they should be; empty if they are."""


@dataclass(frozen=True, slots=True)
class RegisterStatus:
    """One register now."""

    name: str
    id: RegisterId
    epoch: int
    writer: Label
    mine: bool
    """Whether the home that asks has the pen."""
    sequence: int
    time: Instant
    """Moment whose state the last version that counts holds; 0: there is none."""
    age_s: float
    rpo_s: int
    rto_s: int
    protected: bool
    """The last version was found whole at as many sites as the rule asks, and is not older than the RPO."""
    problem: str
    sites: tuple[SiteStatus, ...]
    deletions: tuple[str, ...] = ()
    """Orders to delete that nobody has recorded as done, and versions that were erased; a line each."""
    placement: str = ""
    """By how many copies it is protected, or what is missing, in words."""
    brief: str = ""
    """``3 in 3 countries``; empty if its copies do not meet the rule."""

    def spoilt(self, site: SiteStatus) -> bool:
        """Whether ``site`` shows the last version, and yet not all of it was found there."""
        return site.sequence == self.sequence > 0 and not site.whole


@dataclass(frozen=True, slots=True)
class StateStatus:
    """All of it."""

    state: str
    fingerprint: str
    charter: int
    threshold: int
    custodians: int
    quorum: str
    """Whose cosignatures a version needs, in words."""
    registers: tuple[RegisterStatus, ...]
    findings: tuple[Finding, ...]
    alarms: tuple[str, ...] = ()
    """Leases and legal bases that end soon, or have ended; in words, the soonest first."""

    @property
    def silent(self) -> frozenset[str]:
        """Sites of which something, or all, could not be read."""
        return frozenset(f.site for f in self.findings if f.fault in _AWAY)

    @property
    def spoilt(self) -> tuple[Label, ...]:
        """Sites that were read, and do not hold all of a last version that they show."""
        found = (s.site for r in self.registers for s in r.sites if r.spoilt(s) and s.site not in self.silent)
        return tuple(dict.fromkeys(found))

    @property
    def ok(self) -> bool:
        """Every register is protected, every site answers and was read within its days, none is at fault, and no lease
        or legal basis ends soon."""
        away = any(f.fault == SiteUnavailable.code for f in self.findings)
        unread = any(s.scrub_problem or s.lock_problem for r in self.registers for s in r.sites)
        wrong = away or unread or self.alarms or any(f.grave for f in self.findings)
        return all(r.protected for r in self.registers) and not wrong


def status(
    view: StateView,
    sites: Mapping[Label, Site],
    names: Mapping[RegisterId, str],
    me: Card | None,
    *,
    now: Instant,
    scrub_days: Mapping[Label, int] | None = None,
    alarm_days: Sequence[int] = DEFAULT_DAYS,
    quick: bool = False,
) -> StateStatus:
    """How every register of the charter in force stands at ``now``.

    ``scrub_days``: within how many days each site shall be read, as far as that is promised. ``alarm_days``: so long
    before an end it is said. ``quick``: go by the ledgers' heads, and do not look whether the packs are listed.
    """
    charter = view.chain.newest.charter
    findings = list(view.findings)
    registers = []
    for rule in charter.registers:
        name = names.get(rule.id, rule.id)
        at = {label: site for label, site in sites.items() if label in rule.at}
        try:
            history = read_history(view, at or sites, rule.id)
            epoch = view.epoch_chain(rule.id).newest
        except ExclaveError as error:
            registers.append(
                RegisterStatus(name, rule.id, 0, Label("?"), False, 0, Instant(0), 0.0, rule.rpo_s, rule.rto_s, False,
                               error.message, ())
            )  # fmt: skip
            continue
        findings += history.findings
        last = history.versions[-1] if history.versions else None
        age = (now - last.leaf.time) / 1e6 if last else 0.0
        holders = _holders(view, at, rule.id, last, quick=quick)
        shown = []
        scrubs, lefts = last_scrubs(history, set(at)), left_wrong(history, set(at))
        probes, locks = last_probes(history, set(at)), last_locks(history, set(at))
        for label in at:
            here = [v for v in history.versions if label in v.held_by]
            time = here[-1].leaf.time if here else Instant(0)
            line = scrubs.get(label)
            run = _last_run(line, lefts.get(label)) if line else None
            promised, since = (scrub_days or {}).get(label, 0), day_of(here[0].leaf.time) if here else None
            late = overdue(run, promised=promised, today=day_of(now), held_since=since)
            due = due_by(run, promised, since)
            shown.append(
                SiteStatus(
                    site=label,
                    sequence=here[-1].leaf.sequence if here else 0,
                    time=time,
                    age_s=(now - time) / 1e6 if here else 0.0,
                    scrubbed=day_text(line.through) if line else "",
                    scrub_due=day_text(due) if due is not None else "",
                    whole=label in holders.at.get(last.leaf.sequence, ()) if last else False,
                    scrub_problem=late,
                    probed=_verdict(*probes[label]) if label in probes else "",
                    locked=day_text(locks[label][1].until) if label in locks else "",
                    lock_problem=locks_problem(locks[label][1], day_of(now)) if label in locks else "",
                )
            )
        findings += holders.findings
        problem, copies, brief = "no version yet" if last is None else "", "", ""
        if last is not None:
            silent = {label: "does not hold all of it" for label in at if label not in holders.at[last.leaf.sequence]}
            found = placement_of(charter, rule, now=now).protection(holders.at[last.leaf.sequence], silent)
            copies, brief = found.why, found.brief
            problem = "" if found.protected else found.why
            if age > rule.rpo_s:
                problem = f"older than its RPO{'; ' if problem else ''}{problem}"
            if now - last.leaf.time < -CLOCK_TOLERANCE_US:
                problem = f"its time lies in the future{'; ' if problem else ''}{problem}"
        mine = me is not None and epoch.note.writer == me.digest
        registers.append(
            RegisterStatus(
                name, rule.id, epoch.number, epoch.writer.name, mine, last.leaf.sequence if last else 0,
                last.leaf.time if last else Instant(0), age, rule.rpo_s, rule.rto_s, not problem, problem,
                tuple(shown), _deletions(view, at or sites, history, now), copies, brief,
            )
        )  # fmt: skip
    return StateStatus(
        charter.state_name, view.state, charter.number, charter.threshold, len(charter.custodians),
        in_words(charter.policy), tuple(registers), _once_per_site(view, findings),
        tuple(a.text(names.get(a.term.register, "") if a.term.register else "")
              for a in alarms(charter, now, alarm_days)),
    )  # fmt: skip


def _holders(
    view: StateView, at: Mapping[Label, Site], register: RegisterId, last: CountedVersion | None, *, quick: bool
) -> Holders:
    """Where the last version is whole."""
    if last is None:
        return Holders({}, ())
    if quick:
        return Holders({last.leaf.sequence: tuple(label for label in at if label in last.held_by)}, ())
    return find_holders(view, at, register, [last])


def _once_per_site(view: StateView, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Of a site that does not answer, or shows nothing at all, one finding in place of all that follows from it.

    What else such a site shows (a forged or a forked ledger) stays.
    """
    named = {site.label for site in view.chain.newest.charter.sites}
    told: dict[str, Finding] = {}
    for found in findings:
        site, shown = found.site, view.shown.get(found.site)
        if found.what == "site" and found.fault in _AWAY:
            told[site] = replace(found, detail=f"does not answer: {found.detail}")
        elif shown is not None and not (shown.charters or shown.cards or any(shown.epochs.values())):
            way = f"exclave site rebuild {site}, or a carried disk" if site in named else "the charter does not name it"
            told[site] = Finding(site, MissingObject.code, "site", f"is empty: {way}")
    cause = {site: _AWAY if one.fault in _AWAY else {MissingObject.code} for site, one in told.items()}
    rest = (f for f in findings if f.fault not in cause.get(f.site, ()))
    return tuple(told.values()) + tuple(dict.fromkeys(rest))


def _last_run(line: ScrubLine, left: ScrubLine | None) -> LastRun:
    run = LastRun(line.days, line.through, line.wrong, line.repaired)
    return replace(run, left=left.wrong - left.repaired, left_on=left.through) if left is not None else run


LOCKS_END_DAYS = 14
"""Before locks end, they are told of so many days ahead."""


def locks_problem(line: LockLine, today: int) -> str:
    """What is to be told about a site's locks; empty if nothing is."""
    if line.short:
        return f"{line.short} of {line.objects} objects were not held by locks (exclave site lock {line.site})"
    if line.until - today <= LOCKS_END_DAYS:
        return f"locks end on {day_text(line.until)} (exclave site lock {line.site})"
    return ""


def _verdict(time: Instant, line: ProbeLine) -> str:
    roles = (
        ("keeps objects", line.objects), ("keeps heads", line.heads), ("cannot be deleted from", line.locked),
    )  # fmt: skip
    given = ", ".join(role for role, yes in roles if yes) or "no role"
    return f"{day_text(day_of(time))}: {given} ({line.kept} of {line.promises} promises kept)"


def _deletions(view: StateView, sites: Sources, history: RegisterHistory, now: Instant) -> tuple[str, ...]:
    """How far each order to delete is, by the ledger's own clock, and which versions are gone."""
    if not history.facts:
        return ()
    found = read_deletions(view, sites, history, now=now)
    lines = []
    for ordered in found.orders:
        verdict = found.verdict(view, ordered, public_since=ordered.fact.fact.time, now=now)
        numbers = ", ".join(str(number) for number in sorted(ordered.sequences)[:10])
        more = f" and {len(ordered.sequences) - 10} more" if len(ordered.sequences) > 10 else ""
        if verdict.state is OrderState.DONE and ordered.done is not None:
            what = f"erased on {instant_text(ordered.done.fact.time)} by the warrant {ordered.warrant.digest.hex()}"
        else:
            what = f"ordered to be erased ({verdict.state}): {verdict.why}"
        lines.append(f"versions {numbers}{more}: {what}")
    return tuple(lines)

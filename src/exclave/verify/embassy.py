"""The outsider's checker of a whole embassy: from a pinned fingerprint and nothing else, without any key.

(1) charters, cards, warrants, epochs · (2) each register's ledgers at every source · (3) the object lists of all
versions that count, and every object they name · (4) what that means for each register. All that is wrong becomes a
``Finding`` at the source and object that is to blame; nothing that a source does stops the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from exclave.errors import ExclaveError
from exclave.ids import Fingerprint, Instant, RegisterId
from exclave.sites.contract import Sources
from exclave.verify.ahead import Ahead
from exclave.verify.guard import GuardedSource
from exclave.verify.readers import Judged
from exclave.verify.register import RegisterCheck
from exclave.verify.report import EmbassyReport, RegisterReport, SiteReport
from exclave.verify.state import Finding, finding, read_state
from exclave.verify.workers import Batch, Workers

__all__ = ["EmbassyReport", "RegisterReport", "SiteReport", "verify_embassy"]

WORKERS = max(4, os.cpu_count() or 2)
"""Threads that read packs: one for each core, and more than one request on its way where a site is far."""
MAX_ALIKE = 100
"""Most findings of one kind at one source that are named one by one."""
_T = TypeVar("_T")


def verify_embassy(
    sources: Sources,
    pinned: Fingerprint,
    *,
    now: Instant,
    read_packs: bool = True,
    workers: int = WORKERS,
    progress: Callable[[int, int], None] = lambda done, total: None,
    judged: Judged | None = None,
) -> EmbassyReport:
    """Checks everything that ``sources`` (site name → site) show of the state ``pinned``. Raises nothing.

    A source that bears a charter's site name is held to what the charter asks of that site; any other, to what it
    shows. ``read_packs`` False checks packs by their listed size alone. ``progress(packs done, packs known so far)``:
    packs are read while the next register's ledgers and lists are. ``judged`` is told the heads on which the report
    rests, for whoever compares them with what other readers saw. Memory: what two registers need
    (``RegisterObjects``), and for each worker a small buffer, or a pack of 16 MiB where a source does not digest by
    itself.
    """
    guarded = {name: GuardedSource(name, source) for name, source in sources.items()}
    bulk = {name: GuardedSource(name, source, beside=guarded[name]) for name, source in sources.items()}
    with Ahead(guarded) as ahead, Workers(workers, progress) as threads:
        try:
            view = read_state(ahead.sources, pinned)  # (1)
        except ExclaveError as error:
            return EmbassyReport(pinned, 0, now, 0, (), (finding("?", "state", error, grave=True),))
        newest, findings, reports = view.chain.newest.charter, list(view.findings), list[RegisterReport]()
        if judged is not None:
            judged.view = view
        checks = (RegisterCheck(view, ahead.sources, rule, now, packs_from=bulk) for rule in newest.registers)
        for check, batch in _one_behind(_begun(check, threads, judged, read_packs=read_packs) for check in checks):
            if batch is not None:
                threads.finish(batch)
            reports.append(check.report())  # (4)
            findings += check.findings
    unmet = tuple(
        report.register
        for rule, report in zip(newest.registers, reports, strict=True)
        if report.placement_lacks and report.latest is not None and guarded.keys() >= set(rule.at)
    )
    return EmbassyReport(pinned, newest.number, now, threads.total, tuple(reports), _few_enough(findings), unmet)


def _begun(
    check: RegisterCheck, threads: Workers, judged: Judged | None, *, read_packs: bool
) -> tuple[RegisterCheck, Batch | None]:
    """(2) and (3), while ``threads`` read the packs of this register, or of the one before it still."""
    check.history()
    if judged is not None and check.logs:
        judged.add(check.register, check.logs)
    objects = check.lists()
    batch = threads.begin(objects.jobs(), objects.pack_checks) if read_packs else None
    check.rest(read_packs=read_packs)
    return check, batch


def _one_behind(items: Iterable[_T]) -> Iterator[_T]:
    """Each item once the next one has been made; the last one at the end."""
    before: list[_T] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


def _few_enough(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each once, grave ones first; of very many alike at one source, the first and a word about the rest."""
    kept: list[Finding] = []
    alike: dict[tuple[str, str, RegisterId | None, bool], int] = {}
    for found in dict.fromkeys(findings):
        kind = (found.site, found.fault, found.register, found.grave)
        alike[kind] = alike.get(kind, 0) + 1
        if alike[kind] <= MAX_ALIKE:
            kept.append(found)
    for (site, fault, register, grave), count in alike.items():
        if count > MAX_ALIKE:
            rest = count - MAX_ALIKE
            kept.append(Finding(site, fault, "more", f"and {rest} more findings of this kind", register, grave))
    return tuple(sorted(kept, key=lambda found: not found.grave))

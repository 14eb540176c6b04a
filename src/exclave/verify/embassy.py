"""The outsider's checker of a whole embassy: from a pinned fingerprint and nothing else, without any key.

(1) charters, cards, warrants, epochs · (2) each register's ledgers at every source · (3) the object lists of all
versions that count, and every object they name · (4) what that means for each register. All that is wrong becomes a
``Finding`` at the source and object that is to blame; nothing that a source does stops the rest.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable

from exclave.errors import ExclaveError
from exclave.ids import Fingerprint, Instant, RegisterId
from exclave.sites.contract import Sources
from exclave.verify.guard import GuardedSource
from exclave.verify.register import RegisterCheck
from exclave.verify.report import EmbassyReport, RegisterReport, SiteReport
from exclave.verify.state import Finding, finding, read_state
from exclave.verify.workers import Batch, Workers

__all__ = ["EmbassyReport", "RegisterReport", "SiteReport", "verify_embassy"]

WORKERS = max(4, os.cpu_count() or 2)
"""Threads that read packs: one for each core, and more than one request on its way where a site is far."""
MAX_ALIKE = 100
"""Most findings of one kind at one source that are named one by one."""


def verify_embassy(
    sources: Sources,
    pinned: Fingerprint,
    *,
    now: Instant,
    read_packs: bool = True,
    workers: int = WORKERS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EmbassyReport:
    """Checks everything that ``sources`` (site name → site) show of the state ``pinned``. Raises nothing.

    A source that bears a charter's site name is held to what the charter asks of that site; any other, to what it
    shows. ``read_packs`` False checks packs by their listed size alone. ``progress(packs done, packs known so far)``:
    packs are read while the next register's ledgers and lists are. Memory: what two registers need
    (``RegisterObjects``), and for each worker a small buffer, or a pack of 16 MiB where a source does not digest by
    itself.
    """
    guarded = {name: GuardedSource(name, source) for name, source in sources.items()}
    try:
        view = read_state(guarded, pinned)  # (1)
    except ExclaveError as error:
        return EmbassyReport(pinned, 0, now, 0, (), (finding("?", "state", error, grave=True),))
    bulk = {name: GuardedSource(name, source, beside=guarded[name]) for name, source in sources.items()}
    findings = list(view.findings)
    newest, total = view.chain.newest.charter, 0
    reports: list[RegisterReport] = []
    waiting: deque[tuple[RegisterCheck, Batch | None]] = deque()

    def settle(threads: Workers) -> None:
        check, batch = waiting.popleft()
        if batch is not None:
            threads.finish(batch)
        reports.append(check.report())  # (4)
        findings.extend(check.findings)

    with Workers(workers, progress) as threads:
        for rule in newest.registers:
            check = RegisterCheck(view, guarded, rule, now, packs_from=bulk)
            check.history()  # (2)
            objects = check.lists()  # (3)
            batch = threads.begin(objects.jobs(), objects.pack_checks) if read_packs else None
            total += objects.pack_checks if read_packs else 0
            check.rest(read_packs=read_packs)
            waiting.append((check, batch))
            if len(waiting) > 1:
                settle(threads)
        while waiting:
            settle(threads)
    unmet = tuple(
        report.register
        for rule, report in zip(newest.registers, reports, strict=True)
        if report.placement_lacks and report.latest is not None and guarded.keys() >= set(rule.at)
    )
    return EmbassyReport(pinned, newest.number, now, total, tuple(reports), _few_enough(findings), unmet)


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

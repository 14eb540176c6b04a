"""What the ledger last tells of each site: what a probe found there, and until when its locks hold."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from exclave.errors import MalformedError
from exclave.formats.sitefacts import LOCKED, PROBED, LockLine, ProbeLine, parse_lock_line, parse_probe_line
from exclave.ids import Instant, Label
from exclave.verify.history import RegisterHistory

Line = TypeVar("Line", ProbeLine, LockLine)


def last_probes(history: RegisterHistory, sites: Collection[Label]) -> dict[Label, tuple[Instant, ProbeLine]]:
    """Of each of ``sites`` the newest verdict that a fact that counts tells of, and when it was entered."""
    return _last(history, sites, PROBED, parse_probe_line)


def last_locks(history: RegisterHistory, sites: Collection[Label]) -> dict[Label, tuple[Instant, LockLine]]:
    """Of each of ``sites`` the newest look at its locks."""
    return _last(history, sites, LOCKED, parse_lock_line)


def _last(
    history: RegisterHistory, sites: Collection[Label], kind: Label, parse: Callable[[str], Line]
) -> dict[Label, tuple[Instant, Line]]:
    """Facts whose line does not parse are passed over."""
    found: dict[Label, tuple[Instant, Line]] = {}
    for counted in history.facts:
        if counted.fact.kind == kind and counted.fact.say:
            try:
                line = parse(counted.fact.say[0])
            except MalformedError:
                continue
            if line.site in sites:
                found[line.site] = (counted.fact.time, line)
    return found

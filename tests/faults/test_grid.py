"""Each site killed, cut off, filled, slow and hostile, at every step of backup, failover, sync, rebuild and evacuation.

The steps are the calls that a run without faults makes at a site. By default the first, the last and another one are
tried at each site, and of hostile hosts one for each manner; all with ``EXCLAVE_FAULTS=all`` (``make faults``). Each
case runs to its end and is judged by the outsider's verifier and by restores; ``docs/faults.md`` says what counts as
found, healed and lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from exclave.ids import Label
from support.fault_case import EVERYTHING, play, steps
from support.fault_table import FAULTS, OPERATIONS, FaultTable, Row
from support.fault_world import World, empty, world
from support.struck import MANNERS, WRITES, Struck


@dataclass(frozen=True, slots=True)
class Case:
    """One fault at one step at one site."""

    label: Label
    at: int
    step: str
    manner: str


def cases(made: World, operation: str, fault: str) -> Iterator[Case]:
    """All, or the sample; of a full disk and of one that lies only the writes."""
    for label, calls in steps(made, operation).items():
        for manner in MANNERS if fault == "hostile" else ("",):
            only_writes = fault == "filled" or manner == "lies"
            places = [n for n, call in enumerate(calls, 1) if not only_writes or call.operation in WRITES]
            if not EVERYTHING and places:
                one = random.Random(f"{operation} {fault} {label} {manner}").choice(places)
                places = [one] if manner else sorted({places[0], one, places[-1]})
            for at in places:
                yield Case(label, at, f"{calls[at - 1].operation} {calls[at - 1].name}", manner)


def played(made: World, operation: str, fault: str, case: Case) -> Row:
    """One case from its beginning to its end."""
    made.begin(operation)
    plain, folder = made.plain(), made.folder(case.label)
    bad = Struck(plain[case.label], fault, case.at, manner=case.manner, destroy=lambda: empty(folder))
    whole = fault in ("killed", "hostile") or operation == "rebuild"
    return play(made, operation, case.label, bad, plain, whole=whole)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_step(operation: str, fault: str, fault_table: FaultTable) -> None:
    """Backups and failovers go on; each fault is named or changes nothing; sites heal from each other without home;
    the watch holds the RPO or sounds its alarm; every version that was promised comes back as it was: while the fault
    lasts, without the site, and from it alone."""
    made, wrong, chosen = world(), [], list(cases(world(), operation, fault))
    assert chosen
    for case in chosen:
        try:
            row = played(made, operation, fault, case)
        except AssertionError as error:
            row = Row(1)
            wrong.append(f"{case.manner} {case.label} {case.at} {case.step}: {error}")
        if not row.whole:
            wrong.append(f"{case.manner} {case.label} {case.at} {case.step}: {row}")
        fault_table.told(operation, fault, row)
    assert not wrong, "\n".join(wrong)

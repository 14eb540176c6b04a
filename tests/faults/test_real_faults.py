"""A real gateway and a real S3 engine killed, filled, frozen and turned hostile at steps of each operation.

The host is a process of its own on a small disk. At a call it is killed (SIGKILL) and comes back on the same disk, or
not a byte of the disk is left, or it takes connections and answers none, or whoever owns it changes every object: on a
gateway's disk behind its back, at S3 in the answers. By default a few steps; more with ``EXCLAVE_FAULTS=all``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from exclave.ids import Label
from support.fault_case import EVERYTHING, play, steps
from support.fault_table import OPERATIONS, REAL, FaultTable, Row
from support.fault_world import LUX, NORD, World, world
from support.real_hosts import MANNERS, GatewayHost, RealHost, S3Host, gateway_host, place_of_its_own, s3_host
from support.struck import WRITES, Struck

CASES = [
    (kind, operation, fault)
    for (kind, fault), operations in REAL.items()
    for operation in (OPERATIONS if EVERYTHING else operations)
]
EVERY = {("gateway", "killed"): 4, ("gateway", "filled"): 3, ("gateway", "slow"): 12, ("gateway", "hostile"): 4,
         ("s3", "killed"): 16, ("s3", "filled"): 8, ("s3", "slow"): 24, ("s3", "hostile"): 8}  # fmt: skip
"""With ``EXCLAVE_FAULTS=all``: the distance from one call that is tried to the next."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayHost]:
    """A gateway that is loaded anew for each case."""
    with place_of_its_own() as folder, gateway_host(folder, world().town.state) as host:
        yield host


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Host]:
    """An S3 engine in which each case has a place of its own."""
    with place_of_its_own() as folder, s3_host(folder) as host:
        yield host


def label_of(operation: str) -> Label:
    """Which site the real host is: of an evacuation the new one."""
    return NORD if operation == "evacuate" else LUX


def places(made: World, kind: str, operation: str, fault: str) -> list[tuple[int, str]]:
    """(call, manner) of each case. A full disk is only noticed by writes."""
    calls = steps(made, operation)[label_of(operation)]
    able = [n for n, call in enumerate(calls, 1) if fault != "filled" or call.operation in WRITES]
    chance = random.Random(f"{kind} {operation} {fault}")
    if not EVERYTHING:
        return [(chance.choice(able), chance.choice(MANNERS))]
    apart = EVERY[kind, fault]
    chosen = able[chance.randrange(min(apart, len(able))) :: apart]
    return [(at, MANNERS[number % len(MANNERS)]) for number, at in enumerate(chosen)]


def played(made: World, host: RealHost, operation: str, fault: str, at: int, manner: str) -> Row:
    """One case from its beginning to its end."""
    label = label_of(operation)
    made.begin(operation)
    host.load(made.folder(label))
    bad = Struck(host.site(fault), "real", at, destroy=lambda: host.strike(fault, manner))
    plain = {**made.plain(), label: host.site()}
    whole = fault == "hostile" or operation == "rebuild"
    try:
        return play(made, operation, label, bad, plain, back=host.mend, whole=whole)
    finally:
        host.mend()


@pytest.mark.parametrize(("kind", "operation", "fault"), CASES)
def test_real_hosts(
    kind: str, operation: str, fault: str, request: pytest.FixtureRequest, fault_table: FaultTable
) -> None:
    """As in the grid: the operation goes on or ends with an error, the host is named, the RPO holds, nothing is lost,
    and the host that is back is whole again without home."""
    host: RealHost = request.getfixturevalue(kind)
    made, wrong = world(), []
    for at, manner in places(made, kind, operation, fault):
        try:
            row = played(made, host, operation, fault, at, manner)
        except AssertionError as error:
            row = Row(1)
            wrong.append(f"{manner} {at}: {error}")
        if not row.whole:
            wrong.append(f"{manner} {at}: {row}")
        fault_table.told(f"{kind}: {operation}", fault, row)
    assert not wrong, "\n".join(wrong)

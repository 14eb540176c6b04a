"""A host carries out orders to delete by himself, and only those that hold."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from exclave.app import open_named_sites
from exclave.errors import Busy, ConfigError, NotAuthorised
from exclave.ids import Instant, Label, now
from exclave.operations.host_erasure import HostErasure
from exclave.rules.deletion import OrderState
from exclave.rules.hostclock import ClockMark, clock_fault
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.sites.erasing import DirectoryEraser
from support.deleting import DAY, AgeingHome


def host_of(home: AgeingHome, *others: str, label: str | None = "lux") -> HostErasure:
    """What the host of lux runs, told of ``others``."""
    folder = str(home.site("lux"))

    def opened() -> Mapping[Label, Site]:
        return open_named_sites(f"{name}={home.urls[name]}" for name in others) if others else {}

    return HostErasure(
        Label(label) if label else None, DirectorySite(folder), DirectoryEraser(folder), home.pinned, opened
    )


def in_days(days: float) -> Instant:
    return Instant(now() + int(days * DAY))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> AgeingHome:
    """Three versions, of which an order in the open names two."""
    made = AgeingHome(tmp_path_factory.mktemp("ageing")).found()
    assert isinstance(made, AgeingHome)
    made.grown(3)
    made.ordered()
    return made


def test_nothing_goes_without_its_delay_or_in_doubt(home: AgeingHome) -> None:
    """Too early, alone, without knowing which site it is, or with a clock that was set: nothing goes."""
    before = home.packs()
    others = [name for name in home.sites if name != "lux"]
    [waiting] = host_of(home, *others).run(in_days(1))
    assert waiting.verdict.state is OrderState.WAITING
    with pytest.raises(NotAuthorised):
        host_of(home).run(in_days(31))
    with pytest.raises(ConfigError):
        host_of(home, *others, label=None).run(in_days(31))
    with pytest.raises(Busy):
        host_of(home, *others).run(in_days(31), clock_fault="it was set forward by 2678400 s since the start")
    assert home.packs() == before


def test_a_due_order_leaves_what_the_operators_command_leaves(home: AgeingHome) -> None:
    """After the delay the packs of the order go, those of living versions stay, and asking again costs nothing."""
    before, others = home.packs(), [name for name in home.sites if name != "lux"]
    host = host_of(home, *others)
    [done] = host.run(in_days(31))
    assert (done.complete, done.erased > 0) == (True, True)
    assert len(home.packs()) == len(before) - done.erased
    assert host.run(in_days(31)) == (done,)
    [same] = home.erase_all("lux")
    assert (same.verdict.state, same.erased, same.absent) == (OrderState.DONE, 0, done.erased)


def test_a_clock_that_was_set_is_found() -> None:
    """Forward, back, or behind what was written down; small corrections are none."""
    first, minute = ClockMark(Instant(10**15), 0), 60_000_000

    def fault(wall: int, ran: int, written: int = 0) -> str:
        return clock_fault(first, ClockMark(Instant(10**15 + wall), ran), Instant(written))

    assert not fault(minute, minute, 10**15)
    assert not fault(minute + 1_000_000, minute)
    assert "forward" in fault(40 * DAY, minute)
    assert "back" in fault(-10 * minute, minute)
    assert "already" in fault(minute, minute, 10**15 + DAY)

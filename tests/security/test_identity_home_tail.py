"""A thief who sat at home and revokes everybody: home's return takes little of that unread."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave.identity.contract import IdentityState
from exclave.identity.journal import Journal
from exclave.identity.merging import MAX_TAKEN
from exclave.identity.status_log import Good, Revoked
from exclave.ids import now
from support.moving_places import MovingPlaces, late, stop


@pytest.mark.parametrize(("tail", "wanted", "taken"), [("none", Good, 0), ("all", Revoked, MAX_TAKEN + 1)])
def test_a_mass_revocation_of_home_s_waits_for_people(
    tmp_path: Path, tail: str, wanted: type[Good] | type[Revoked], taken: int
) -> None:
    """More than the limit stop the return, which says how many there are and what to do; home answers nothing until
    people have said it, and the report names each."""
    state = MovingPlaces(tmp_path / "state").made()
    state.step("home")
    state.ok(state.fail_over())
    thief = [stop(serial) for serial in range(1, MAX_TAKEN + 2)]
    Journal.open(str(state.journal)).append(thief, time=now(), epoch=1)
    state.enter(stop(1, since=1_700_000_000_000_000), at="lux", clock=late)
    state.step("lux", late)
    Journal.open(str(state.journal)).append([stop(MAX_TAKEN + 2)], time=now(), epoch=1)  # 1 is known abroad already
    arguments = state.come_back()
    said = state.small.fails(2, *arguments)
    report = state.at_home / "state" / "merge-report.txt"
    assert f"{MAX_TAKEN + 1} of which exile knows nothing" in said["message"]
    assert report.read_text().count(" taken: ") == MAX_TAKEN + 1
    assert state.authority("home").state is IdentityState.RETURNING
    state.ok([*arguments, "--home-tail", tail])
    assert state.authority("home").state is IdentityState.HOME
    assert isinstance(state.status(1, "home"), Revoked)
    assert isinstance(state.status(2, "home"), wanted)
    assert (state.merge().taken, state.merge().listed) == (taken, MAX_TAKEN + 1)
    assert report.read_text().count(" not taken: ") == MAX_TAKEN + 1 - taken


def test_as_many_as_an_honest_home_stops_are_taken(tmp_path: Path) -> None:
    """At the limit nobody is asked."""
    state = MovingPlaces(tmp_path / "state").made()
    state.step("home")
    state.ok(state.fail_over())
    Journal.open(str(state.journal)).append([stop(n) for n in range(1, MAX_TAKEN + 1)], time=now(), epoch=1)
    state.step("lux", late)
    state.ok(state.come_back())
    assert state.merge().taken == MAX_TAKEN
    assert isinstance(state.status(5, "home"), Revoked)

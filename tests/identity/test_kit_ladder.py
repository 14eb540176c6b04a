"""Ladders of certificates: what they cover, when more must be asked for, and which one signs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import UsageError
from exclave.ids import Instant
from exclave.rules.ladder import ALARM_DAYS, DAY_S, Window, choose, look, next_begin, plan

DAY = DAY_S * 1_000_000
NOW = Instant(1_790_000_000_000_000)
HOUR = 3_600_000_000


def _w(begin_days: float, end_days: float) -> Window:
    return Window(Instant(NOW + int(begin_days * DAY)), Instant(NOW + int(end_days * DAY)))


@pytest.mark.parametrize(
    ("windows", "until", "gaps", "ends", "alarm", "due"),
    [
        ([], None, [], None, True, 0),
        ([_w(-50, -5)], None, [], None, True, 0),
        ([_w(-5, 40)], 40, [], 40, True, 0),
        ([_w(-5, 90)], 90, [], 90, False, 0),
        ([_w(-5, 89.9)], 89.9, [], 89.9, True, 0),
        ([_w(-5, 40), _w(25, 70), _w(55, 100)], 100, [], 100, False, 10),
        ([_w(55, 100), _w(-5, 40), _w(25, 70)], 100, [], 100, False, 10),
        ([_w(-5, 40), _w(40, 100)], 100, [], 100, False, 10),
        ([_w(-5, 40), _w(41, 100)], 40, [(40, 41)], 100, True, 0),
        ([_w(1, 300)], None, [(0, 1)], 300, True, 0),
        ([_w(-5, 200), _w(5, 20), _w(210, 250), _w(251, 252)], 200, [(200, 210), (250, 251)], 252, False, 110),
        ([_w(5, -5)], None, [], None, True, 0),
    ],
)  # fmt: skip
def test_what_a_ladder_covers(
    windows: list[Window],
    until: float | None,
    gaps: list[tuple[float, float]],
    ends: float | None,
    alarm: bool,
    due: float,
) -> None:
    """Cover, gaps, end, alarm and the day of the next request for ladders that are whole, short, gappy and absent."""

    def at(days: float | None) -> int | None:
        return None if days is None else NOW + int(days * DAY)

    state = look(windows, now=NOW)
    assert state.covered_until == at(until)
    assert [(gap.begin, gap.end) for gap in state.gaps] == [(at(a), at(b)) for a, b in gaps]
    assert (state.ends, state.alarm, state.request_due) == (at(ends), alarm, at(due))


_windows = st.lists(
    st.builds(
        lambda begin, size: Window(Instant(NOW + begin * HOUR), Instant(NOW + (begin + size) * HOUR)),
        st.integers(-500, 3000), st.integers(0, 800),
    ), max_size=15,
)  # fmt: skip


@given(_windows, st.integers(0, 5000))
def test_a_moment_is_covered_or_in_a_gap(windows: list[Window], hours: int) -> None:
    """Up to the end each hour from now on lies in some certificate or in exactly one gap, and cover ends at a gap."""
    moment = Instant(NOW + hours * HOUR)
    state = look(windows, now=NOW)
    held = any(w.begin <= moment <= w.end for w in windows)
    gaps = [gap for gap in state.gaps if gap.begin < moment < gap.end]
    if state.ends is not None and moment <= state.ends:
        assert held or len(gaps) == 1 or any(moment in (gap.begin, gap.end) for gap in state.gaps)
        assert not (held and gaps)
    else:
        assert not held
    if state.covered_until is not None and moment <= state.covered_until:
        assert held or moment == NOW
    assert state.alarm == (state.covered_until is None or state.covered_until - NOW < ALARM_DAYS * DAY)


@given(_windows)
def test_what_signs_is_valid_and_lasts(windows: list[Window]) -> None:
    """The chosen certificate is valid now; if any is an hour away from both ends, so is it, and none of those lasts
    longer."""
    at = choose(windows, now=NOW)
    valid = [w for w in windows if w.begin <= NOW <= w.end]
    settled = [w for w in valid if w.begin + HOUR <= NOW <= w.end - HOUR]
    if at is None:
        assert not valid
        return
    assert windows[at] in (settled or valid)
    assert windows[at].end == max(w.end for w in settled or valid)


@given(st.integers(1, 100), st.integers(2, 400), st.data())
def test_a_planned_ladder_is_whole(rungs: int, lasts: int, data: st.DataObject) -> None:
    """Every plan covers its whole time without a gap, and going on from it leaves none either."""
    overlap = data.draw(st.integers(1, lasts - 1))
    windows = plan(NOW, rungs=rungs, lasts_days=lasts, overlap_days=overlap)
    state = look(windows, now=NOW)
    assert state.gaps == ()
    assert state.ends == state.covered_until == NOW + ((rungs - 1) * (lasts - overlap) + lasts) * DAY
    more = plan(next_begin(windows, now=NOW, overlap_days=overlap), rungs=2, lasts_days=lasts, overlap_days=overlap)
    assert look([*windows, *more], now=NOW).gaps == ()


def test_the_default_reaches_over_a_year() -> None:
    """Twelve certificates of 45 days that overlap by 15 reach 375 days, and the alarm comes after 285."""
    state = look(plan(NOW), now=NOW)
    assert state.covered_until == NOW + 375 * DAY
    assert state.request_due == NOW + 285 * DAY


@pytest.mark.parametrize(("rungs", "lasts", "overlap"), [(0, 45, 15), (101, 45, 15), (3, 0, 0), (3, 401, 1), (3, 5, 5)])
def test_impossible_ladders_are_refused(rungs: int, lasts: int, overlap: int) -> None:
    """No rung, too many, too long ones, or ones that overlap wholly are a mistake of the caller."""
    with pytest.raises(UsageError):
        plan(NOW, rungs=rungs, lasts_days=lasts, overlap_days=overlap)

"""Where a place stands: every combination of what it is, what it has seen, and what it has taken up."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.ids import Digest, Instant
from exclave.rules.exile import IdentityState, Seen, Standing, stands

ME, OTHER = Digest(b"m" * 32), Digest(b"o" * 32)
NOW = Instant(1_795_000_000_000_000)
LEASE_S = 3600
EPOCH = 5

FRESH, LAST_MOMENT, OVER = 0, LEASE_S * 1_000_000, LEASE_S * 1_000_000 + 1
"""Ages of the last reading: just now, at the lease's last microsecond, and one beyond."""


def _stands(home: bool, seen: Seen | None, taken_up: int) -> Standing:
    return stands(home=home, me=ME, seen=seen, taken_up=taken_up, now=NOW, lease_s=LEASE_S)


def _seen(writer: Digest, by_charter: bool, age: int) -> Seen:
    return Seen(writer, EPOCH, by_charter, Instant(NOW - age))


# (home, writer, by charter, taken up, age of the last reading) → the state
_H, _S, _E, _R = IdentityState.HOME, IdentityState.STANDBY, IdentityState.EXILE, IdentityState.RETURNING
TABLE: dict[tuple[bool, Digest | None, bool, int, int], IdentityState] = {
    # Nothing was read since the process started: what it took up once is worth nothing.
    **{(True, None, by, taken, age): _R for by, taken, age in product((True, False), (0, 4, 5, 6), (FRESH, OVER))},
    **{(False, None, by, taken, age): _S for by, taken, age in product((True, False), (0, 4, 5, 6), (FRESH, OVER))},
    # Another place has the newest epoch: however it got it, and whatever this one took up.
    **{(True, OTHER, by, taken, age): _R
       for by, taken, age in product((True, False), (0, 4, 5, 6), (FRESH, LAST_MOMENT, OVER))},
    **{(False, OTHER, by, taken, age): _S
       for by, taken, age in product((True, False), (0, 4, 5, 6), (FRESH, LAST_MOMENT, OVER))},
    # Mine by charter: nothing was before it, so there is nothing to take up.
    **{(True, ME, True, taken, age): _H for taken, age in product((0, 4, 5, 6), (FRESH, LAST_MOMENT))},
    **{(True, ME, True, taken, OVER): _R for taken in (0, 4, 5, 6)},
    **{(False, ME, True, taken, age): _E for taken, age in product((0, 4, 5, 6), (FRESH, LAST_MOMENT, OVER))},
    # Mine by warrant: only once this very epoch was taken up.
    **{(True, ME, False, taken, age): _R for taken, age in product((0, 4, 6), (FRESH, LAST_MOMENT, OVER))},
    **{(False, ME, False, taken, age): _S for taken, age in product((0, 4, 6), (FRESH, LAST_MOMENT, OVER))},
    **{(True, ME, False, 5, age): _H for age in (FRESH, LAST_MOMENT)},
    (True, ME, False, 5, OVER): _R,
    # An embassy in exile has no lease: others are silent, so it was made the authority.
    **{(False, ME, False, 5, age): _E for age in (FRESH, LAST_MOMENT, OVER)},
}  # fmt: skip


def test_the_table_is_whole() -> None:
    """Every combination stands in it once."""
    ages = {None: (FRESH, OVER), ME: (FRESH, LAST_MOMENT, OVER), OTHER: (FRESH, LAST_MOMENT, OVER)}
    every = {
        (home, writer, by, taken, age)
        for home, writer, by, taken in product((True, False), (None, ME, OTHER), (True, False), (0, 4, 5, 6))
        for age in ages[writer]
    }
    assert set(TABLE) == every


@pytest.mark.parametrize("row", TABLE, ids=lambda row: "-".join(str(part)[:12] for part in row))
def test_table(row: tuple[bool, Digest | None, bool, int, int]) -> None:
    """Each row ends where the table says; whoever waits is told why, whoever decides is told nothing."""
    home, writer, by_charter, taken, age = row
    found = _stands(home, _seen(writer, by_charter, age) if writer is not None else None, taken)
    assert found.state is TABLE[row]
    assert found.epoch == (0 if writer is None else EPOCH)
    decides = found.state in (IdentityState.HOME, IdentityState.EXILE)
    assert (found.why == "") is decides


@pytest.mark.parametrize("home", [True, False])
@pytest.mark.parametrize("by_charter", [True, False])
def test_in_doubt_nothing_is_decided(home: bool, by_charter: bool) -> None:
    """An older copy of the journal, or an epoch that was granted twice: the place waits, and says why."""
    seen = _seen(ME, by_charter, FRESH)
    found = stands(home=home, me=ME, seen=seen, taken_up=5, now=NOW, lease_s=LEASE_S, doubt="an older copy")
    assert (found.state, found.why) == (_R if home else _S, "an older copy")


def test_a_clock_that_was_set_back_ends_the_lease() -> None:
    """A reading in the future is as bad as one too long ago."""
    for age, state in ((-LAST_MOMENT, _H), (-OVER, _R)):
        assert _stands(True, _seen(ME, True, age), 0).state is state


def test_reasons_are_for_people() -> None:
    """The reason names the epoch, or the seconds without a site."""
    assert "no site has been read" in _stands(True, None, 5).why
    assert _stands(False, _seen(OTHER, False, FRESH), 5).why == "epoch 5 belongs to another place"
    assert "has not taken it up yet" in _stands(False, _seen(ME, False, FRESH), 4).why
    never = Seen(ME, EPOCH, True, None)
    assert "since this process started" in _stands(True, never, 0).why
    assert _stands(False, never, EPOCH).why == ""  # an embassy in exile: others are silent
    assert "for 3700 s" in _stands(True, _seen(ME, True, 3_700_000_000), 0).why


@given(
    home=st.booleans(), me=st.sampled_from((ME, OTHER)), by=st.booleans(), epoch=st.integers(1, 4),
    taken=st.integers(0, 4), verified=st.none() | st.integers(-(10**10), 10**10), lease=st.integers(1, 10_000),
)  # fmt: skip
def test_two_places_never_both_decide(
    home: bool, me: Digest, by: bool, epoch: int, taken: int, verified: int | None, lease: int
) -> None:
    """Of two places that have seen the same epoch, at most its writer decides; and home only within its lease."""
    seen = Seen(ME, epoch, by, None if verified is None else Instant(NOW + verified))
    found = stands(home=home, me=me, seen=seen, taken_up=taken, now=NOW, lease_s=lease)
    if found.state in (IdentityState.HOME, IdentityState.EXILE):
        assert me == ME
        assert by or taken == epoch
        assert not home or (seen.verified is not None and abs(NOW - seen.verified) <= lease * 1_000_000)
    assert (found.state in (IdentityState.HOME, IdentityState.RETURNING)) is home

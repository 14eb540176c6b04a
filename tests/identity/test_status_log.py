"""What is known of a certificate, and how two statuses of one are joined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import MalformedError
from exclave.identity.status_log import (
    Good,
    Held,
    Reason,
    Revoked,
    Serial,
    StatusLog,
    Stop,
    Unknown,
    joined,
)
from exclave.ids import Instant, sha256

ISSUER = sha256(b"the issuer")
T = Instant(1_790_000_000_000_000)
HOUR = 3_600_000_000
COMPROMISED = Revoked(T, Reason.KEY_COMPROMISE)


def serials(*numbers: int) -> frozenset[Serial]:
    return frozenset(Serial(n) for n in numbers)


def log(
    as_of: int = T,
    issued: frozenset[Serial] | None = serials(1, 2, 3),
    stopped: dict[int, Stop] | None = None,
    next_update: int | None = None,
) -> StatusLog:
    """A log of one issuer."""
    told = {Serial(n): stop for n, stop in (stopped or {}).items()}
    return StatusLog(ISSUER, Instant(as_of), issued, told, None if next_update is None else Instant(next_update))


def test_statuses() -> None:
    """Issued is good, a number that was never issued is unknown, revoked and held are told with their time."""
    known = log(stopped={2: COMPROMISED, 3: Held(T)})
    assert [known.status(Serial(n)) for n in (1, 2, 3, 4)] == [Good(), COMPROMISED, Held(T), Unknown()]


def test_a_log_without_the_issued_never_says_good() -> None:
    """What was read from a CRL alone tells revocations and nothing else."""
    known = log(issued=None, stopped={2: COMPROMISED})
    assert known.status(Serial(2)) == COMPROMISED
    assert known.status(Serial(1)) == Unknown()


def test_revoked_must_have_been_issued() -> None:
    """A list of issued serials that lacks a revoked one is not such a list."""
    with pytest.raises(MalformedError, match="never issued"):
        log(issued=serials(1), stopped={2: COMPROMISED})


def test_a_log_does_not_change_with_what_it_was_made_of() -> None:
    """The mapping is the log's own."""
    given_: dict[Serial, Stop] = {Serial(1): COMPROMISED}
    made = StatusLog(ISSUER, T, None, given_)
    given_.clear()
    assert made.status(Serial(1)) == COMPROMISED


LATER = Instant(T + HOUR)


@pytest.mark.parametrize(
    ("here", "there", "taken"),
    [
        (COMPROMISED, None, COMPROMISED),
        (Held(T), None, Held(T)),
        (Held(LATER), Held(T), Held(T)),
        (Held(T), Revoked(LATER, Reason.SUPERSEDED), Revoked(T, Reason.SUPERSEDED)),
        (Held(LATER), COMPROMISED, COMPROMISED),
        (COMPROMISED, Revoked(LATER, Reason.SUPERSEDED), COMPROMISED),
        (Revoked(T, Reason.UNSPECIFIED), COMPROMISED, COMPROMISED),
        (Revoked(T, Reason.SUPERSEDED), COMPROMISED, COMPROMISED),
        (Revoked(T, Reason.SUPERSEDED), Revoked(LATER, Reason.KEY_COMPROMISE), COMPROMISED),
    ],
)
def test_joined(here: Stop | None, there: Stop | None, taken: Stop) -> None:
    """The graver of two statuses, since the earlier of two times, from either side."""
    assert joined(here, there) == joined(there, here) == taken


TIMES = st.integers(0, 3).map(lambda n: Instant(T + n))
STOPS: st.SearchStrategy[Stop] = st.one_of(
    TIMES.map(Held),
    st.builds(Revoked, TIMES, st.sampled_from([Reason.UNSPECIFIED, Reason.SUPERSEDED, Reason.KEY_COMPROMISE])),
)


@given(STOPS, STOPS, STOPS)
def test_joining_only_grows(one: Stop, two: Stop, three: Stop) -> None:
    """Whatever the order, the result is the same, and nothing is stopped later or less gravely than before."""
    both = joined(one, two)
    assert both == joined(two, one)
    assert joined(both, one) == both
    assert joined(both, three) == joined(one, joined(two, three))
    for stop in (one, two):
        assert both.time <= stop.time
        assert isinstance(both, Revoked) or isinstance(stop, Held)

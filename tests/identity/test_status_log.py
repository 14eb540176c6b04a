"""What may be answered of a certificate, and how two logs are joined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import MalformedError, WrongFingerprint
from exclave.identity.status_log import (
    Good,
    Held,
    MergeReport,
    Reason,
    Revoked,
    Serial,
    StatusLog,
    Stop,
    Unknown,
    merge,
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
    one, two = (log(stopped={2: stop} if stop else {}) for stop in (here, there))
    for report in (merge(one, two), merge(two, one)):
        assert report.merged.stopped == {2: taken}
        assert [(d.serial, d.taken) for d in report.differences] == [(2, taken)]


def test_merge_tells_what_a_newer_log_lacks() -> None:
    """A revocation that the newer list has lost stays, and is reported; one that it gained is no suspicion."""
    old, new = log(stopped={2: COMPROMISED}), log(LATER, stopped={3: Held(LATER)})
    report = merge(old, new)
    assert report.withdrawn == merge(new, old).withdrawn == (2,)
    assert report.merged == log(LATER, stopped={2: COMPROMISED, 3: Held(LATER)})
    assert [(d.here, d.there) for d in report.differences] == [(COMPROMISED, Good()), (Good(), Held(LATER))]


def test_merge_of_a_crl_into_a_list_of_the_issued() -> None:
    """The CRL brings its revocations and its time; a serial that only it knows was issued, too."""
    index, crl = log(), log(LATER, None, {3: COMPROMISED, 9: COMPROMISED}, LATER + HOUR)
    joined = merge(index, crl).merged
    assert joined == log(LATER, serials(1, 2, 3, 9), {3: COMPROMISED, 9: COMPROMISED}, LATER + HOUR)
    assert merge(crl, crl).merged == crl


def test_merge_tells_who_issued_what() -> None:
    """After a split both sides' certificates stand, and each side's own are named."""
    report = merge(log(issued=serials(1, 2)), log(issued=serials(2, 3)))
    assert (report.issued_only_here, report.issued_only_there) == (serials(1), serials(3))
    assert report.merged.issued == serials(1, 2, 3)


def test_merge_of_two_issuers() -> None:
    """Serials of two issuers have nothing to do with each other."""
    with pytest.raises(WrongFingerprint):
        merge(log(), StatusLog(sha256(b"another"), T, None, {}))


TIMES = st.integers(0, 3).map(lambda n: Instant(T + n))
STOPS: st.SearchStrategy[Stop] = st.one_of(
    TIMES.map(Held),
    st.builds(Revoked, TIMES, st.sampled_from([Reason.UNSPECIFIED, Reason.SUPERSEDED, Reason.KEY_COMPROMISE])),
)


@st.composite
def logs(draw: st.DrawFn) -> StatusLog:
    """Small logs that overlap."""
    stopped = draw(st.dictionaries(st.integers(1, 5), STOPS))
    issued = draw(st.none() | st.frozensets(st.integers(1, 5).map(Serial)))
    whole = None if issued is None else issued | serials(*stopped)
    return log(draw(TIMES), whole, stopped, draw(st.none() | TIMES))


@given(logs(), logs(), logs())
def test_merge_only_grows(one: StatusLog, two: StatusLog, three: StatusLog) -> None:
    """Whatever the order, the result is the same, and nothing that was stopped is good again or stopped later."""
    joined = merge(one, two).merged
    assert joined == merge(two, one).merged
    assert merge(joined, one).merged.stopped == joined.stopped
    assert merge(joined, three).merged.stopped == merge(one, merge(two, three).merged).merged.stopped
    for part in (one, two):
        for serial, stop in part.stopped.items():
            now = joined.stopped[serial]
            assert now.time <= stop.time
            assert isinstance(now, Revoked) or isinstance(stop, Held)


@given(logs(), logs())
def test_every_difference_is_reported(one: StatusLog, two: StatusLog) -> None:
    """What differs is listed, what agrees is not."""
    report: MergeReport = merge(one, two)
    listed = {d.serial for d in report.differences}
    for serial in report.merged.stopped:
        assert (serial in listed) == (one.stopped.get(serial) != two.stopped.get(serial))

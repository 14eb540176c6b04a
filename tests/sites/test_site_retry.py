"""Patience, and the fate of writes whose answer was lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from exclave.errors import (
    AlreadyExists,
    CorruptObject,
    HeadMoved,
    MissingObject,
    OutcomeUnknown,
    SiteFull,
    SiteUnavailable,
)
from exclave.ids import Key
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat, Site
from exclave.sites.memory import MemorySite
from exclave.sites.retry import RetryingSite, RetryPolicy
from support.hostile import FailingSite, Fault, Killed, PassThrough, SlowSite

KEY = Key("folder/object")


class FakeClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    def read(self) -> float:
        return self.now_s


def _retrying(inner: Site, clock: FakeClock | None = None, **policy: float) -> RetryingSite:
    clock = clock or FakeClock()
    return RetryingSite(
        inner,
        sleep=clock.sleep,
        clock=clock.read,
        spread=lambda: 0.0,
        policy=RetryPolicy(**policy),  # type: ignore[arg-type]
    )


class _Flaky(PassThrough):
    """Reads fail ``failures`` times; every third item of a listing breaks it off."""

    def __init__(self, inner: Site, failures: int, error: SiteUnavailable | None = None) -> None:
        super().__init__(inner)
        self.failures = failures
        self.error = error or SiteUnavailable("for the moment")

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self._fail()
        return self.inner.get(key, limit=limit)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        for number, item in enumerate(self.inner.list(prefix)):
            if number % 3 == 2:
                self._fail()
            yield item

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error


def test_backoff_is_exponential_and_bounded() -> None:
    """Waits double up to the longest, and end after the allowed number of calls."""
    clock = FakeClock()
    inner = MemorySite()
    inner.put_new(KEY, b"data")
    site = _retrying(_Flaky(inner, 5), clock, first_s=1, longest_s=5)
    assert site.get(KEY) == b"data"
    assert clock.slept_s == [1, 2, 4, 5, 5]
    with pytest.raises(SiteUnavailable):
        _retrying(_Flaky(inner, 6)).get(KEY)


def test_total_time_is_bounded() -> None:
    """No wait begins that would end after the total."""
    clock = FakeClock()
    with pytest.raises(SiteUnavailable):
        _retrying(_Flaky(MemorySite(), 99), clock, first_s=4, total_s=13, attempts=99).get(KEY)
    assert clock.slept_s == [4, 8]


def test_spread_shortens_waits() -> None:
    """The random part takes away at most half of a wait."""
    policy = RetryPolicy(first_s=1)
    assert (policy.wait_s(3, 0), policy.wait_s(3, 1)) == (4, 2)


@pytest.mark.parametrize("error", [SiteFull("full"), SiteUnavailable("no bucket", permanent=True)])
def test_lasting_failures_are_not_retried(error: SiteUnavailable) -> None:
    """What cannot succeed later is reported at once."""
    clock = FakeClock()
    with pytest.raises(type(error)):
        _retrying(_Flaky(MemorySite(), 1, error), clock).get(KEY)
    assert clock.slept_s == []


def test_listing_goes_on_where_it_broke_off() -> None:
    """A listing that breaks off again and again still gives each object once and in order."""
    inner = MemorySite()
    keys = [Key(f"x/{number:02d}") for number in range(10)]
    for key in keys:
        inner.put_new(key, b"")
    assert [item.key for item in _retrying(_Flaky(inner, 5)).list("")] == keys
    with pytest.raises(SiteUnavailable):
        list(_retrying(_Flaky(inner, 99)).list(""))


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.LOST, Fault.APPLIED])
@pytest.mark.parametrize("times", [1, 3])
def test_every_write_succeeds_in_the_end(fault: Fault, times: int) -> None:
    """A write whose tries were refused, lost or done without an answer is done exactly once and succeeds."""
    writes: list[Callable[[Site], object]] = [
        lambda s: s.put_new(KEY, b"data"),
        lambda s: s.put_same(KEY, b"data"),
        lambda s: s.replace_if(KEY, b"data", None),
    ]
    for write in writes:
        inner = MemorySite()
        write(_retrying(FailingSite(inner, nth=1, fault=fault, times=times)))
        assert inner.get(KEY) == b"data"
    inner = MemorySite()
    tag = inner.replace_if(KEY, b"one", None)
    new = _retrying(FailingSite(inner, nth=1, fault=fault, times=times)).replace_if(KEY, b"two", tag)
    head = inner.read_head(KEY)
    assert head is not None
    assert (head.data, head.tag) == (b"two", new)


def test_the_other_racer_won() -> None:
    """After a lost answer, another writer's bytes under the name are another writer's."""
    for fault in (Fault.LOST, Fault.REFUSED):
        inner = MemorySite()
        inner.put_new(KEY, b"theirs")
        with pytest.raises(AlreadyExists):
            _retrying(FailingSite(inner, nth=1, fault=fault)).put_new(KEY, b"mine is longer")
        with pytest.raises(CorruptObject):
            _retrying(FailingSite(inner, nth=1, fault=fault)).put_same(KEY, b"mine")


def test_own_bytes_without_a_lost_answer_are_taken() -> None:
    """put_new of bytes that are there already stays AlreadyExists when nothing was lost."""
    inner = MemorySite()
    inner.put_new(KEY, b"data")
    with pytest.raises(AlreadyExists):
        _retrying(FailingSite(inner, nth=1, fault=Fault.REFUSED)).put_new(KEY, b"data")


def test_head_moved() -> None:
    """A moved head is told as such; where an answer was lost before, only the caller can tell what happened."""
    inner = MemorySite()
    inner.replace_if(KEY, b"theirs", None)
    with pytest.raises(HeadMoved):
        _retrying(inner).replace_if(KEY, b"mine", None)
    with pytest.raises(OutcomeUnknown):
        _retrying(FailingSite(inner, nth=1, fault=Fault.LOST)).replace_if(KEY, b"mine", None)


class _LostThenGone(PassThrough):
    """The first write's answer is lost, and the site with it."""

    lost = False

    def _write(self) -> None:
        if self.lost:
            raise SiteUnavailable("gone")
        self.lost = True
        raise OutcomeUnknown("lost")

    def put_new(self, key: Key, data: bytes) -> None:
        self._write()

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        self._write()
        return ""


def test_unknown_stays_unknown() -> None:
    """If the site goes away before the fate of a write is settled, the caller hears that it is unknown."""
    with pytest.raises(OutcomeUnknown):
        _retrying(_LostThenGone(MemorySite())).put_new(KEY, b"data")
    with pytest.raises(OutcomeUnknown):
        _retrying(_LostThenGone(MemorySite())).replace_if(KEY, b"data", None)
    with pytest.raises(OutcomeUnknown):
        _retrying(FailingSite(MemorySite(), nth=1, fault=Fault.LOST, times=99)).put_new(KEY, b"data")


def test_unsettled_read_back() -> None:
    """If the object cannot be read back after a lost answer, the fate stays unknown."""

    class _Unreadable(FailingSite):
        def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
            raise SiteUnavailable("gone")

        def read_head(self, key: Key) -> None:
            raise SiteUnavailable("gone")

    with pytest.raises(OutcomeUnknown):
        _retrying(_Unreadable(MemorySite(), nth=1, fault=Fault.APPLIED)).put_new(KEY, b"data")
    with pytest.raises(OutcomeUnknown):
        _retrying(_Unreadable(MemorySite(), nth=1, fault=Fault.APPLIED)).replace_if(KEY, b"data", None)


def test_slow_site_is_timed_by_the_clock() -> None:
    """Time that failing calls themselves take counts against the total."""
    clock = FakeClock()
    slow = SlowSite(_Flaky(MemorySite(), 99), seconds=30, sleep=clock.sleep)
    with pytest.raises(SiteUnavailable):
        _retrying(slow, clock).get(KEY)
    assert clock.now_s <= 61


@pytest.mark.parametrize("fault", [Fault.KILLED_BEFORE, Fault.KILLED_AFTER])
def test_killed_is_not_retried(fault: Fault) -> None:
    """A simulated kill passes through, and the dead process does nothing any more."""
    inner = MemorySite()
    failing = FailingSite(inner, nth=2, fault=fault)
    site = _retrying(failing)
    site.put_new(Key("a"), b"")
    with pytest.raises(Killed):
        site.put_new(Key("b"), b"")
    for call in (lambda: site.put_new(Key("c"), b""), lambda: site.get(Key("a")), lambda: list(site.list(""))):
        with pytest.raises(Killed):
            call()
    assert [item.key for item in inner.list("")] == (["a"] if fault is Fault.KILLED_BEFORE else ["a", "b"])


class _Mute(PassThrough):
    """Says nothing before ``until_s``; each try costs a connection's timeout."""

    def __init__(self, clock: FakeClock, until_s: float = math.inf) -> None:
        super().__init__(MemorySite())
        self.inner.put_new(KEY, b"data")
        self.clock, self.until_s, self.asked = clock, until_s, 0

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self.asked += 1
        if self.clock.now_s < self.until_s:
            self.clock.now_s += 3
            raise SiteUnavailable("no answer", silent=True)
        return self.inner.get(key, limit=limit)


def test_a_site_that_never_answered_is_given_up_soon() -> None:
    """Within ten seconds; and then it is left alone, so that the next steps of a recovery cost nothing."""
    clock = FakeClock()
    inner = _Mute(clock)
    site = _retrying(inner, clock)
    with pytest.raises(SiteUnavailable):
        site.get(KEY)
    assert clock.now_s < 13
    asked, began_s = inner.asked, clock.now_s
    for _ in range(5):
        with pytest.raises(SiteUnavailable, match="no answer"):
            site.get(KEY)
    assert (inner.asked, clock.now_s) == (asked, began_s)


def test_a_site_that_is_left_alone_is_tried_once_at_growing_intervals() -> None:
    """After 5, 10, 20, 40, 60, 60 seconds, with one try each; an answer ends it."""
    clock = FakeClock()
    inner = _Mute(clock)
    site = _retrying(inner, clock)
    with pytest.raises(SiteUnavailable):
        site.get(KEY)
    for rest_s in (5, 10, 20, 40, 60, 60):
        clock.now_s += rest_s
        asked = inner.asked
        for _ in range(2):
            with pytest.raises(SiteUnavailable):
                site.get(KEY)
        assert inner.asked == asked + 1
    clock.now_s += 60
    inner.until_s = clock.now_s
    assert [site.get(KEY) for _ in range(3)] == [b"data"] * 3


def test_a_site_that_has_answered_is_waited_for_longer() -> None:
    """A blip of half a minute in the middle of a backup is sat out."""
    clock = FakeClock()
    inner = _Mute(clock, 0)
    site = _retrying(inner, clock, first_s=2)
    site.get(KEY)
    inner.until_s = clock.now_s + 30
    assert site.get(KEY) == b"data"
    assert clock.now_s > inner.until_s


def test_an_error_is_an_answer() -> None:
    """A missing object, or a server that is busy, does not make a site count as silent."""
    busy, empty = _retrying(_Flaky(MemorySite(), 99)), _retrying(MemorySite())
    for _ in range(3):
        with pytest.raises(SiteUnavailable, match="for the moment"):
            busy.get(KEY)
        with pytest.raises(MissingObject):
            empty.get(KEY)

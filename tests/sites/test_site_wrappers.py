"""The recording wrapper, the memory site's own checks, and the hostile wrappers that other tests rely on."""

from __future__ import annotations

import pytest

from exclave.errors import AlreadyExists, Bug, HeadMoved, MissingObject, OutcomeUnknown, SiteUnavailable
from exclave.ids import Key
from exclave.sites.contract import Site
from exclave.sites.memory import MemorySite
from exclave.sites.probe import PROMISES, try_promise
from exclave.sites.recording import Call, RecordingSite
from support.hostile import (
    FailingSite,
    Fault,
    FlippingSite,
    LyingSite,
    MissingSite,
    StaleSite,
    SwappingSite,
    TruncatingSite,
    containing,
)

A, B, HEAD = Key("x/a"), Key("x/b"), Key("x/checkpoint")


def _filled() -> MemorySite:
    site = MemorySite()
    site.put_new(A, b"aaaa")
    site.put_new(B, b"bbbb")
    site.replace_if(HEAD, b"head", None)
    return site


def test_recording_counts() -> None:
    """Operations, bytes both ways and failures are counted, and every call is kept on demand."""
    site = RecordingSite(_filled(), keep_calls=True)
    site.get(A)
    site.get_range(B, 1, 2)
    site.stat(A)
    site.put_new(Key("x/c"), b"12345")
    with pytest.raises(AlreadyExists):
        site.put_new(A, b"12345")
    site.put_same(A, b"aaaa")
    head = site.read_head(HEAD)
    assert head is not None
    site.replace_if(HEAD, b"next", head.tag)
    next(iter(site.list("x/")))
    totals = site.totals
    assert totals.operations["put_new"] == 2
    assert sum(totals.operations.values()) == 9
    assert totals.failures == {"already-exists": 1}
    assert (totals.read_bytes, totals.written_bytes) == (4 + 2 + 4, 5 + 4 + 4)
    assert site.calls[0] == Call("get", A, read_bytes=4)
    assert site.calls[4] == Call("put_new", A, failure="already-exists")
    assert site.calls[-1] == Call("list", "x/")
    site.forget()
    assert site.calls == ()
    assert site.totals.operations == {}
    assert RecordingSite(MemorySite()).address == "memory:memory"


@pytest.mark.parametrize("name", PROMISES)
def test_recording_changes_nothing(name: str) -> None:
    """A recorded site keeps every promise of the one inside."""
    promise = try_promise(RecordingSite(MemorySite()), name, token="t")
    assert promise.kept, promise.detail


def test_memory_holds_callers_to_their_duties() -> None:
    """Mixing heads with write-once objects, or objects with folders, is a bug."""
    site = _filled()
    tag = site.read_head(HEAD).tag  # type: ignore[union-attr]
    for broken in (
        lambda: site.put_new(HEAD, b""),
        lambda: site.put_same(HEAD, b"head"),
        lambda: site.replace_if(A, b"", tag),
        lambda: site.put_new(Key("x"), b""),
        lambda: site.put_new(Key("x/a/b"), b""),
        lambda: site.replace_if(Key("x"), b"", None),
        lambda: site.get(Key("X")),
    ):
        with pytest.raises(Bug):
            broken()


def test_missing_truncated_flipped_swapped() -> None:
    """Each reading wrapper spoils the chosen objects alone, in every way of reading."""
    missing = MissingSite(_filled(), containing("/a"))
    with pytest.raises(MissingObject):
        missing.get(A)
    assert missing.stat(A) is None
    assert [item.key for item in missing.list("")] == [B, HEAD]
    assert missing.get(B) == b"bbbb"

    short = TruncatingSite(_filled(), containing("/a"))
    assert (short.get(A), short.get(B)) == (b"aa", b"bbbb")
    assert [item.size_bytes for item in short.list("")] == [2, 4, 4]

    flipped = FlippingSite(_filled(), position=0, bit=1)
    assert (flipped.get(A), flipped.get_range(A, 0, 1)) == (b"caaa", b"c")
    assert flipped.read_head(HEAD).data == b"jead"  # type: ignore[union-attr]

    swapped = SwappingSite(_filled(), {A: B})
    assert (swapped.get(A), swapped.get(B)) == (b"bbbb", b"bbbb")


def test_stale_and_lying() -> None:
    """A stale site shows the past after freezing; a lying one confirms writes that it does not do."""
    inner = _filled()
    stale = StaleSite(inner)
    stale.freeze()
    tag = inner.read_head(HEAD).tag  # type: ignore[union-attr]
    stale.replace_if(HEAD, b"new", tag)
    stale.put_new(Key("x/c"), b"c")
    assert stale.read_head(HEAD).data == b"head"  # type: ignore[union-attr]
    assert stale.stat(Key("x/c")) is None
    assert len(list(stale.list(""))) == 3
    stale.thaw()
    assert stale.get(HEAD) == b"new"

    lying = LyingSite(inner, containing("/lie"))
    lying.put_new(Key("x/lie"), b"")
    lying.put_same(Key("x/lie"), b"")
    lying.put_new(Key("x/true"), b"")
    assert inner.stat(Key("x/lie")) is None
    assert inner.stat(Key("x/true")) is not None
    with pytest.raises(HeadMoved):
        LyingSite(inner).replace_if(HEAD, b"", None)


@pytest.mark.parametrize(
    ("fault", "error", "done"),
    [
        (Fault.REFUSED, SiteUnavailable, False),
        (Fault.LOST, OutcomeUnknown, False),
        (Fault.APPLIED, OutcomeUnknown, True),
    ],
)
def test_failing_site(fault: Fault, error: type[Exception], done: bool) -> None:
    """The chosen write fails in the chosen way, and the next one works."""
    inner: Site = MemorySite()
    site = FailingSite(inner, nth=2, fault=fault)
    site.put_new(A, b"")
    with pytest.raises(error):
        site.put_new(B, b"")
    assert (inner.stat(B) is not None) == done
    site.put_new(Key("x/c"), b"")
    assert site.writes == 3

"""Questions that are put to far sources before their turn: fewer waits, and the same verdicts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from exclave.errors import CorruptObject, MissingObject, SiteUnavailable
from exclave.ids import Key
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat, Site, is_far
from exclave.sites.memory import MemorySite
from exclave.sites.recording import RecordingSite
from exclave.verify.ahead import SMALL_BYTES, Ahead, AheadSource, foresee, foresee_below
from exclave.verify.embassy import verify_embassy
from exclave.verify.guard import GuardedSource
from support.hostile import PassThrough
from support.shown_sites import world

LUX = "luxembourg"


class Far(PassThrough):
    """A site over a network, which counts what is asked of it; ``gate`` holds every answer up until it is opened."""

    far = True

    def __init__(self, inner: Site) -> None:
        super().__init__(RecordingSite(inner))
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Semaphore(0)

    def _answer(self) -> None:
        self.waiting.release()
        assert self.gate.wait(60)

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self._answer()
        return super().get(key, limit=limit)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        self._answer()
        yield from super().list(prefix)

    @property
    def asked(self) -> dict[str, int]:
        assert isinstance(self.inner, RecordingSite)
        return self.inner.totals.operations


def small_site() -> MemorySite:
    site = MemorySite()
    for name in ("a/1", "a/2", "a/3", "b/1"):
        site.put_new(Key(name), name.encode())
    return site


def test_several_questions_are_on_their_way_at_once() -> None:
    """None of three answers has come when the third question is put."""
    far = Far(small_site())
    far.gate.clear()
    with Ahead({"far": far}) as ahead:
        source = ahead.sources["far"]
        foresee([source], [Key("a/1"), Key("b/1")])
        foresee_below([source], ["a/"])
        for _ in range(3):
            assert far.waiting.acquire(timeout=60)
        far.gate.set()
        assert [stat.key for stat in source.list("a/")] == ["a/1", "a/2", "a/3"]
        assert [source.get(Key(name)) for name in ("a/1", "a/2", "a/3", "b/1")] == [b"a/1", b"a/2", b"a/3", b"b/1"]
    assert far.asked == {"list": 1, "get": 4}


def test_what_was_foreseen_is_handed_out_once() -> None:
    """Who asks again gets what the site shows then."""
    inner = small_site()
    far = Far(inner)
    with Ahead({"far": far}) as ahead:
        source = ahead.sources["far"]
        foresee([source], [Key("a/1")])
        assert source.get(Key("a/1")) == b"a/1"
        inner._objects[Key("a/1")] = b"other"
        assert source.get(Key("a/1")) == b"other"


def test_near_sources_are_left_as_they_are() -> None:
    """No thread is started, and no name is made, for a folder."""
    near = small_site()
    with Ahead({"near": near}) as ahead:
        assert ahead.sources == {"near": near}
        foresee(ahead.sources.values(), iter([pytest.fail]))  # type: ignore[list-item]
    assert not is_far(near)
    assert is_far(GuardedSource("far", RecordingSite(Far(near))))


def test_faults_come_where_they_would_have_come() -> None:
    """A missing object, a site that fails and an object that is too long are told to whoever asks for them."""
    inner = small_site()
    inner.put_new(Key("long/1"), bytes(SMALL_BYTES + 1))

    class Failing(Far):
        def list(self, prefix: str) -> Iterator[ObjectStat]:
            yield from list(super().list(prefix))[:1]
            raise SiteUnavailable("the line is cut")

    with Ahead({"far": Failing(inner)}) as ahead:
        source = ahead.sources["far"]
        foresee([source], [Key("no/1"), Key("long/1"), Key("a/1")])
        foresee_below([source], ["b/"])
        with pytest.raises(MissingObject):
            source.get(Key("no/1"))
        assert len(source.get(Key("long/1"))) == SMALL_BYTES + 1
        listed = source.list("b/")
        assert next(listed).key == "b/1"
        with pytest.raises(SiteUnavailable):
            next(listed)
        foresee([source], [Key("long/1")])
        with pytest.raises(CorruptObject):
            source.get(Key("long/1"), limit=SMALL_BYTES)


@pytest.mark.parametrize(
    "part", ["", "/charter/", "/card/", "/epoch/", "checkpoint", "/tile/0/", "/list/", "/box/", "/pack/"]
)
def test_far_sites_get_the_same_verdict(part: str) -> None:
    """Whatever one object of a kind is changed into, a far site is accused of the same as a near one."""
    w = world()
    if part:
        w.flip(LUX, next(key for key in w.names(LUX) if part in key and ".p/" not in key))
    far = {name: Far(site) for name, site in w.sites.items()}
    near_report, far_report = (verify_embassy(s, w.state, now=w.now) for s in (w.sites, far))  # type: ignore[arg-type]
    assert set(far_report.findings) == set(near_report.findings)
    assert far_report.registers == near_report.registers
    assert bool(part) != near_report.ok


def test_little_is_asked_in_vain() -> None:
    """What nobody asks for after all is a twentieth of it at most."""
    w = world()
    near = {name: RecordingSite(site) for name, site in w.sites.items()}
    far = {name: Far(site) for name, site in w.sites.items()}
    assert verify_embassy(near, w.state, now=w.now).ok
    assert verify_embassy(far, w.state, now=w.now).ok  # type: ignore[arg-type]
    for name, site in near.items():
        assert sum(far[name].asked.values()) <= 1.05 * sum(site.totals.operations.values()), far[name].asked
        assert isinstance(Ahead({name: far[name]}).sources[name], AheadSource)

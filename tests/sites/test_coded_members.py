"""How a coded site asks its members: k of them, others when one is wrong or late; and what it says of their roles."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exclave.errors import MissingObject, SiteUnavailable
from exclave.ids import Instant, Key, sha256
from exclave.sites.coded import CodedSite
from exclave.sites.coded_form import Code, part_key
from exclave.sites.coded_locking import LockingCodedSite, locks_enough
from exclave.sites.conditions import KEEPS_HEADS, KEEPS_OBJECTS
from exclave.sites.contract import MAX_OBJECT_BYTES, Site
from exclave.sites.locking import locking_of
from exclave.sites.memory import MemorySite
from exclave.sites.open_coded import read_coded
from exclave.sites.open_probe import open_probe
from exclave.sites.roles import roles_of
from support.hostile import FlippingSite, PassThrough, SlowSite, containing

DATA = os.urandom(300_000)
KEY = Key(f"state/pack/ab/{sha256(DATA).hex()}")


class Counted(PassThrough):
    """Counts what it is asked for."""

    def __init__(self, inner: Site) -> None:
        super().__init__(inner)
        self.shards = 0

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self.shards += "/part/" in key
        return super().get(key, limit=limit)


@contextmanager
def coded(wrap: Callable[[int, Site], Site], k: int = 3, n: int = 5, late_s: float = 60) -> Iterator[CodedSite]:
    members: list[Site] = [MemorySite(f"host-{at}") for at in range(n)]
    CodedSite(members, k).put_same(KEY, DATA)
    yield CodedSite([wrap(at, member) for at, member in enumerate(members)], k, late_s=late_s, clock=lambda: 0.0)


def test_a_read_asks_k_members_and_no_more() -> None:
    """Of five members, three shards are read, those that hold the object's own bytes."""
    members: list[Counted] = []

    def wrap(at: int, member: Site) -> Site:
        members.append(Counted(member))
        return members[-1]

    with coded(wrap) as site:
        assert site.get(KEY) == DATA
    assert [member.shards for member in members] == [1, 1, 1, 0, 0]


def test_others_are_asked_for_a_wrong_shard() -> None:
    """A shard that is not what it is named by is replaced by another member's, and named; nothing wrong is decoded."""
    with coded(lambda at, m: FlippingSite(m, containing("/part/")) if at in (0, 2) else m) as site:
        assert site.get(KEY) == DATA
    assert {fault.split(": ")[0] for fault in site.faults} == {"memory:host-0", "memory:host-2"}


def test_others_are_asked_for_a_late_shard() -> None:
    """A member that does not answer holds up no read, and is asked after the others from then on."""
    gone = threading.Event()
    slow = SlowSite(MemorySite("x"), containing("/part/"), seconds=1, sleep=lambda seconds: bool(gone.wait(60)))  # type: ignore[arg-type,return-value]

    def wrap(at: int, member: Site) -> Site:
        slow.inner = member if at == 0 else slow.inner
        return slow if at == 0 else member

    try:
        with coded(wrap, late_s=0.2) as site:
            assert site.get(KEY) == DATA
            assert not gone.is_set()
            for _ in range(5):
                assert site.get(KEY) == DATA
            assert site._asking.by_speed()[-1] == 0
    finally:
        gone.set()


def test_a_forged_descriptor_of_the_right_name() -> None:
    """One that claims the object's hash and names shards of the forger's own leads nowhere: others are read."""
    plan, shards = Code(3, 5).cut(os.urandom(300_000))
    forged = bytearray(plan.encode())
    forged[20:52] = sha256(DATA)

    def wrap(at: int, member: Site) -> Site:
        for number, shard in enumerate(shards[:4]):
            if number == at:
                member.put_same(part_key(KEY, sha256(shard)), shard)
        if at:
            return member
        forger = MemorySite("forger")
        forger.put_same(KEY, bytes(forged))
        forger.put_same(part_key(KEY, sha256(shards[0])), shards[0])
        return forger

    with coded(wrap) as site:
        assert site.get(KEY) == DATA
        assert any("forger" in fault for fault in site.faults)


@dataclass
class Locking(PassThrough):
    """A member that locks."""

    inner: Site
    end: int
    locks: dict[Key, Instant] = field(default_factory=dict)

    def lock_end(self) -> Instant:
        return Instant(self.end)

    def locked_until(self, key: Key) -> Instant | None:
        if self.inner.stat(key) is None:
            raise MissingObject(f"{key} is not there")
        return self.locks.get(key)

    def extend(self, key: Key, until: Instant) -> None:
        if self.inner.stat(key) is None:
            raise MissingObject(f"{key} is not there")
        self.locks[key] = max(until, self.locks.get(key, Instant(0)))


def test_locks_reach_the_members() -> None:
    """Locked is what k members hold, shard and name; with fewer that lock it is no site that locks."""
    members: list[Site] = [Locking(MemorySite(f"host-{at}"), 100 + at) for at in range(3)]
    members += [MemorySite("host-3"), MemorySite("host-4")]
    assert locks_enough(members, 3)
    assert not locks_enough(members, 4)
    assert locking_of(CodedSite(members, 3)) is None
    site = LockingCodedSite(members, 3)
    assert locking_of(site) is site
    site.put_same(KEY, DATA)
    assert site.lock_end() == 100
    assert site.locked_until(KEY) is None
    site.extend(KEY, Instant(50))
    assert site.locked_until(KEY) == 50
    first = members[0]
    assert isinstance(first, Locking)
    assert len(first.locks) == 2, "its shard and its name"
    first.locks[KEY] = Instant(20)
    assert site.locked_until(KEY) == 20
    with pytest.raises(MissingObject):
        site.locked_until(Key("state/nothing"))
    first.inner = MemorySite("emptied")
    with pytest.raises(SiteUnavailable):
        site.extend(KEY, Instant(60))


def test_the_probe_asks_each_member(tmp_path: Path) -> None:
    """All roles of good folders; a member that is no site takes its role from the whole."""
    for name in "abc":
        (tmp_path / name).mkdir()
    url = "coded:2?" + "&".join(f"member=dir:{tmp_path / name}" for name in "abc")
    _, promises = open_probe(url, "token")
    found = list(promises)
    assert [p.name for p in found if not p.kept] == []
    assert [p.name for p in found if p.name.startswith("member-")] == [
        f"member-{kind}{at}" for at in range(3) for kind in ("", "heads-")
    ]
    assert [(role.name, role.given) for role in roles_of(found)][:2] == [(KEEPS_OBJECTS, True), (KEEPS_HEADS, True)]
    assert not roles_of(found)[2].given


def test_addresses() -> None:
    """``need=`` is one number; the usual one is not written."""
    members = "member=dir:/a&member=dir:/b&member=dir:/c"
    assert read_coded(f"coded:2?need=2&{members}").need == 2
    assert read_coded(f"coded:2?{members}").need is None
    assert CodedSite([MemorySite(name) for name in "abc"], 2, 2).address.startswith("coded:2?need=2&member=memory:a")

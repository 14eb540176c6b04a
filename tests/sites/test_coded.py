"""A site made of several: any k of n give everything back, whoever of the others is lost or lies."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.errors import (
    Bug,
    ConfigError,
    CorruptObject,
    ExclaveError,
    HeadMoved,
    MalformedError,
    MissingObject,
    SiteUnavailable,
)
from exclave.ids import Key, sha256
from exclave.operations.coded_mend import mend as verb
from exclave.sites.coded import CodedSite
from exclave.sites.coded_form import MAGIC, WHOLE_BYTES, Code, parse_descriptor, part_key, vote_key
from exclave.sites.coded_mending import mend
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat, Site
from exclave.sites.directory import DirectorySite
from exclave.sites.memory import MemorySite
from exclave.sites.opening import open_site
from exclave.sites.probe import PROMISES, try_promise
from support.hostile import FailingSite, Fault, FlippingSite, Killed, MissingSite, StaleSite, TruncatingSite, containing
from support.hostile_town import Away

BULK = Key("state/pack/ab/" + "ab" * 32)
SMALL = Key("state/list/" + "cd" * 32)
PLACED = Key("state/ledger/tile/entries/000")
HEAD = Key("state/ledger/checkpoint")
SIZES = (1, WHOLE_BYTES, WHOLE_BYTES + 1, 100_003, 1 << 20, (16 << 20) + 7)


def brought(site: CodedSite) -> set[tuple[Key, int]]:
    """What a mending brought, all of it taken."""
    done = list(mend(site))
    assert not [error for _, _, error in done if error]
    return {(key, at) for key, at, _ in done}


def folders(root: Path, n: int) -> list[Site]:
    for at in range(n):
        (root / str(at)).mkdir(parents=True)
    return [DirectorySite(str(root / str(at))) for at in range(n)]


def test_what_nobody_can_mend_keeps_no_other_from_it(tmp_path: Path) -> None:
    """A thief plants a descriptor under a name that nobody wrote: it is told, and an emptied member gets all else."""
    members = folders(tmp_path, 3)
    site = CodedSite(members, 2)
    data = os.urandom(300_000)
    good = Key(f"state/r/pack/zz/{sha256(data).hex()}")
    site.put_same(good, data)
    plan, _ = Code(2, 3).cut(os.urandom(300_000))
    planted = Key(f"state/r/pack/00/{sha256(b'never').hex()}")
    members[0].put_same(planted, replace(plan, digest=sha256(b"never")).encode())
    shutil.rmtree(tmp_path / "2")
    (tmp_path / "2").mkdir()
    done = verb(CodedSite([DirectorySite(str(tmp_path / str(at))) for at in range(3)], 2))
    assert (done.beyond_count, [said.split(":")[0] for said in done.beyond]) == (1, [planted])
    assert done.brought[str(members[2].address)] == 1
    left = CodedSite([MissingSite(members[0]), members[1], DirectorySite(str(tmp_path / "2"))], 2)
    assert left.get(good) == data


@pytest.mark.parametrize("promise", PROMISES)
def test_the_contract(tmp_path: Path, promise: str) -> None:
    """A coded site keeps every promise that any site makes."""
    result = try_promise(CodedSite(folders(tmp_path, 3), 2), promise, token="coded")
    assert result.kept, result.detail


@pytest.mark.parametrize(("k", "n"), [(2, 3), (2, 4), (3, 5), (4, 6), (10, 14)])
def test_any_k_give_everything_back(k: int, n: int) -> None:
    """Whichever n - k members are away or empty, every object comes back; with one more, none that is cut does."""
    members: list[Site] = [MemorySite(str(at)) for at in range(n)]
    site = CodedSite(members, k)
    objects = {Key(f"o/{size:064x}"): os.urandom(size) for size in SIZES}
    for key, data in objects.items():
        site.put_same(key, data)
    choices = list(itertools.combinations(range(n), n - k))
    for away in (*choices[:4], *choices[-4:]):
        for kind in (Away, MissingSite):
            left = CodedSite([kind(m) if at in away else m for at, m in enumerate(members)], k)
            assert {key: left.get(key) for key in objects} == objects
            assert {s.key: s.size_bytes for s in left.list("o/")} == {key: len(data) for key, data in objects.items()}
    lost = CodedSite([MissingSite(m) if at <= n - k else m for at, m in enumerate(members)], k)
    with pytest.raises(CorruptObject, match="shards"):
        lost.get(Key(f"o/{SIZES[-1]:064x}"))
    silent = CodedSite([Away(m) if at <= n - k else m for at, m in enumerate(members)], k)
    with pytest.raises(SiteUnavailable):
        silent.get(Key(f"o/{SIZES[-1]:064x}"))
    with pytest.raises(SiteUnavailable):
        list(silent.list(""))
    with pytest.raises(SiteUnavailable):
        silent.stat(Key("never/put"))


def test_no_member_holds_a_whole_object() -> None:
    """Of an object that is cut a host has 1/k of the bytes, and needs k - 1 others for the rest."""
    members = [MemorySite(str(at)) for at in range(3)]
    data = os.urandom(1 << 20)
    CodedSite(members, 2).put_same(BULK, data)
    for member in members:
        held = b"".join(member.get(item.key) for item in member.list(""))
        assert len(held) < len(data) * 0.51
        assert data[: 1 << 19] not in held or data[1 << 19 :] not in held


@pytest.mark.parametrize("liar", [FlippingSite, TruncatingSite, MissingSite])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_lying_member_is_left_out_and_named(liar: type[FlippingSite], at: int) -> None:
    """Wrong, short or missing shards at one member change nothing, and the member is named."""
    members: list[Site] = [MemorySite(f"host-{number}") for number in range(3)]
    data = os.urandom(300_000)
    CodedSite(members, 2).put_same(BULK, data)
    lying = CodedSite([liar(m, containing("part/")) if i == at else m for i, m in enumerate(members)], 2)
    assert lying.get(BULK) == data
    assert at == 2 or any(f"host-{at}" in fault and f"shard {at}" in fault for fault in lying.faults)


def test_a_forged_descriptor_is_outvoted() -> None:
    """A member that gives another descriptor, of shards that it made, is one against the others."""
    members = [MemorySite(str(at)) for at in range(3)]
    data, other = os.urandom(200_000), os.urandom(200_000)
    CodedSite(members, 2).put_same(BULK, data)
    plan, shards = Code(2, 3).cut(other)
    forger = MemorySite("forger")
    forger.put_same(BULK, plan.encode())
    forger.put_same(part_key(BULK, plan.shards[0]), shards[0])
    assert CodedSite([forger, *members[1:]], 2).get(BULK) == data


def test_a_lost_member_is_rebuilt() -> None:
    """An empty member gets its shards, small objects and heads back from the others; then it can stand for another."""
    members: list[Site] = [MemorySite(str(at)) for at in range(3)]
    site = CodedSite(members, 2)
    data = os.urandom(500_000)
    site.put_same(BULK, data)
    site.put_same(SMALL, b"a list")
    site.replace_if(HEAD, b"head 1", None)
    fresh = MemorySite("fresh")
    again = CodedSite([members[0], fresh, members[2]], 2)
    assert brought(again) == {(BULK, 1), (SMALL, 1), (HEAD, 1)}
    assert brought(again) == set()
    assert {i.key: fresh.get(i.key) for i in fresh.list("") if i.key != vote_key(HEAD)} == {
        i.key: members[1].get(i.key) for i in members[1].list("") if i.key != vote_key(HEAD)
    }
    assert CodedSite([MissingSite(members[0]), fresh, members[2]], 2).get(BULK) == data
    assert again.replace_if(HEAD, b"head 2", again.read_head(HEAD).tag)  # type: ignore[union-attr]
    assert fresh.get(HEAD) == b"head 2"


def test_spoilt_shards_are_mended(tmp_path: Path) -> None:
    """A disk that has spoilt a shard gets the right one in its place."""
    site = CodedSite(folders(tmp_path, 3), 2)
    data = os.urandom(500_000)
    site.put_same(BULK, data)
    shard = next(path for path in (tmp_path / "1" / "state" / "part").rglob("*") if path.is_file())
    good = shard.read_bytes()
    shard.chmod(0o600)
    shard.write_bytes(b"spoilt")
    assert site.get(BULK) == data
    assert brought(site) == {(BULK, 1)}
    assert shard.read_bytes() == good


@pytest.mark.parametrize(("k", "n", "need"), [(2, 3, 2), (2, 4, None), (3, 5, None), (4, 6, 5), (2, 6, None)])
def test_writes_go_on_while_enough_members_answer(k: int, n: int, need: int | None) -> None:
    """Up to n - need members may be away; who lacks what is told, and mended. With one more away nothing counts, and
    repeating settles it."""
    members: list[Site] = [MemorySite(str(at)) for at in range(n)]
    need = CodedSite(members, k, need).need
    data = os.urandom(200_000)
    some = CodedSite([Away(m) if at < n - need else m for at, m in enumerate(members)], k, need)
    some.put_new(BULK, data)
    some.put_same(SMALL, b"x")
    some.replace_if(HEAD, b"two", some.replace_if(HEAD, b"one", None))
    assert some.lacking == {m.address: 4 if at < n - need else 0 for at, m in enumerate(members)}
    whole = CodedSite(members, k, need)
    assert (whole.get(BULK), whole.get(SMALL), whole.get(HEAD)) == (data, b"x", b"two")
    assert brought(whole) == {(key, at) for key in (BULK, SMALL, HEAD) for at in range(n - need)}
    assert CodedSite([Away(m) if at >= k else m for at, m in enumerate(members)], k, need).get(BULK) == data
    few = CodedSite([Away(m) if at <= n - need else m for at, m in enumerate(members)], k, need)
    other = Key("state/pack/cd/" + "cd" * 32)
    for write in (
        lambda: few.put_same(other, data),
        lambda: few.put_new(Key("state/stage"), b"x"),
        lambda: few.replace_if(HEAD, b"three", sha256(b"two").hex()),
    ):
        with pytest.raises(SiteUnavailable):
            write()
    assert whole.stat(other) is None, "no descriptor without enough shards"
    assert whole.get(HEAD) == b"two"
    whole.put_same(other, data)
    assert whole.get(other) == data


def test_how_many_are_needed() -> None:
    """Fewer than k + 1 only of k + 1 members, and never half of them or fewer."""
    members = [MemorySite(str(at)) for at in range(6)]
    assert [CodedSite(members[:n], 2).need for n in (3, 4, 5, 6)] == [3, 3, 4, 4]
    for k, n, need in ((2, 3, 1), (2, 4, 2), (3, 6, 3), (2, 3, 4), (2, 5, 2)):
        with pytest.raises(ConfigError):
            CodedSite(members[:n], k, need)


def test_heads(tmp_path: Path) -> None:
    """One of two writers wins; every member has it, and any k show it while the others are away or have fallen back."""
    members = folders(tmp_path, 3)
    site = CodedSite(members, 2)
    tag = site.replace_if(HEAD, b"one", None)
    with pytest.raises(HeadMoved):
        site.replace_if(HEAD, b"other", None)
    site.replace_if(HEAD, b"two", tag)
    assert [member.get(HEAD) for member in members] == [b"two"] * 3
    assert CodedSite([Away(members[0]), *members[1:]], 2).get(HEAD) == b"two"
    stale = StaleSite(members[2])
    stale.freeze()
    site.replace_if(HEAD, b"three", site.read_head(HEAD).tag)  # type: ignore[union-attr]
    assert CodedSite([*members[:2], stale], 2).get(HEAD) == b"three", "one stale member is outvoted"
    assert CodedSite([Away(members[0]), members[1], stale], 2).get(HEAD) == b"three"


class Boaster(MemorySite):
    """Shows 64 MiB under every name, and says of every head that somebody else has just written it."""

    asked: int = 0

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self.asked = max(self.asked, limit)
        if limit < MAX_OBJECT_BYTES:
            raise CorruptObject(f"{key} is longer than {limit} bytes", key=key)
        return bytes(MAX_OBJECT_BYTES)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        raise HeadMoved(f"{key} has moved", key=key)


def test_a_member_cannot_fill_the_memory_or_hold_a_writer_for_ever() -> None:
    """What lies whole is short, so no member is asked for more; and a head that has always just moved is given up."""
    boaster = Boaster("boaster")
    site = CodedSite([MemorySite("a"), MemorySite("b"), boaster], 2)
    with pytest.raises(SiteUnavailable, match="boaster"):
        site.replace_if(HEAD, b"head", None)
    two = CodedSite([MemorySite("a"), MemorySite("b"), boaster], 2, 2)
    two.replace_if(HEAD, b"head", None)
    two.put_same(SMALL, b"small")
    assert (two.get(HEAD), two.get(SMALL)) == (b"head", b"small")
    with pytest.raises(MissingObject):
        two.get(Key("state/box/" + "ef" * 32))
    assert boaster.asked == WHOLE_BYTES
    assert any("boaster" in fault for fault in two.faults)


def test_other_numbers_are_refused() -> None:
    """An object that was cut 2 of 3 is not read as 2 of 4; impossible numbers make no site."""
    members = [MemorySite(str(at)) for at in range(4)]
    CodedSite(members[:3], 2).put_same(BULK, os.urandom(100_000))
    with pytest.raises(CorruptObject, match="2 of 3"):
        CodedSite(members, 2).get(BULK)
    for k, n in ((1, 3), (3, 3), (2, 17), (0, 2)):
        with pytest.raises(ConfigError):
            Code(k, n)


def test_what_looks_like_a_descriptor() -> None:
    """A small object that begins like a descriptor is cut too, so that nobody can pass one off as the other."""
    members = [MemorySite(str(at)) for at in range(3)]
    site = CodedSite(members, 2)
    site.put_same(SMALL, MAGIC + b" and more")
    assert parse_descriptor(members[0].get(SMALL)).digest == sha256(MAGIC + b" and more")
    assert site.get(SMALL) == MAGIC + b" and more"
    assert site.stat(SMALL) == ObjectStat(SMALL, len(MAGIC) + 9)
    for key in ("part/aa", "state/part/aa"):
        with pytest.raises(Bug):
            site.put_same(Key(key), b"x")


def test_what_is_named_by_its_place_lies_whole() -> None:
    """Ledgers and heads stand at every member as they are, so that each can be read, and checks them, by itself."""
    members = [MemorySite(str(at)) for at in range(3)]
    site = CodedSite(members, 2)
    for key, data in ((PLACED, os.urandom(200_000)), (Key("state/stage/001"), MAGIC + bytes(200))):
        site.put_new(key, data)
        assert site.get(key) == data
        assert [member.get(key) for member in members] == [data] * 3
        assert site.stat(key) == ObjectStat(key, len(data))


def test_its_address(tmp_path: Path) -> None:
    """``coded:2?member=…&member=…&member=…`` opens it; wrong ones say what is wrong."""
    folders(tmp_path, 3)
    members = "&".join(f"member=dir:{tmp_path}/{at}" for at in range(3))
    site = open_site(f"coded:2?{members}")
    site.put_new(BULK, os.urandom(100_000))
    assert site.get(BULK)
    assert site.address == f"coded:2?{members}"
    with pytest.raises(MissingObject):
        site.get(SMALL)
    for wrong in ("coded:", "coded:2", f"coded:3?{members}", f"coded:x?{members}", "coded:2?host=a&host=b&host=c",
                  f"coded:2?{members}&member=coded:2?x", f"coded:2?{members}&member=dir:{tmp_path}/0"):  # fmt: skip
        with pytest.raises(ConfigError):
            open_site(wrong)


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("put", ["put_same", "put_new"])
def test_whatever_write_fails(fault: Fault, put: str) -> None:
    """Each write to each member is refused, lost, done unseen or killed: afterwards the object is there whole or not at
    all, and putting it again settles it."""
    data = os.urandom(200_000)
    for at, nth in itertools.product(range(3), (1, 2) if put == "put_same" else (1, 2, 3, 4)):
        members: list[Site] = [MemorySite(str(number)) for number in range(3)]
        failing = FailingSite(members[at], nth=nth, fault=fault)
        site = CodedSite([failing if number == at else m for number, m in enumerate(members)], 2)
        ended = False
        with suppress(ExclaveError, Killed):
            getattr(site, put)(BULK, data)
            ended = True
        assert failing.writes >= nth
        assert not ended or (put == "put_new" and not failing.dead), "a vote is asked for again"
        again = CodedSite(members, 2)
        assert not ended or again.get(BULK) == data
        if again.stat(BULK) is not None:
            assert again.get(BULK) == data
        again.put_same(BULK, data)
        assert all(CodedSite([MissingSite(m) if n == gone else m for n, m in enumerate(members)], 2).get(BULK) == data
                   for gone in range(3))  # fmt: skip


VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "coded" / "vectors.json").read_text())


@pytest.mark.parametrize("at", range(len(VECTORS["cut"])))
def test_vectors(at: int) -> None:
    """Shards are what they were; parity is what the page says; any k give the object back."""
    v = VECTORS["cut"][at]
    data, shards = bytes.fromhex(v["object"]), [bytes.fromhex(shard) for shard in v["shards"]]
    plan, made = Code(v["k"], v["n"]).cut(data)
    assert (plan.encode().hex(), made) == (v["descriptor"], shards)
    assert parse_descriptor(plan.encode()) == plan
    padded = [shard + bytes(plan.shard_bytes - len(shard)) for shard in shards]
    for parity in range(v["k"], v["n"]):
        sums = bytearray(plan.shard_bytes)
        for number in range(v["k"]):
            factor = _inverse(parity ^ number)
            sums = bytearray(a ^ _times(b, factor) for a, b in zip(sums, padded[number], strict=True))
        assert bytes(sums) == shards[parity]
    for some in itertools.combinations(range(v["n"]), v["k"]):
        assert Code(v["k"], v["n"]).join(plan, {number: shards[number] for number in some}) == data


def _times(a: int, b: int) -> int:
    """In GF(2^8) with the polynomial 0x11D."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = (a << 1) ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


def _inverse(a: int) -> int:
    return next(b for b in range(1, 256) if _times(a, b) == 1)


@pytest.mark.parametrize("name", VECTORS["malformed"])
def test_malformed_descriptors(name: str) -> None:
    """Impossible numbers are refused before anything is read by them."""
    with pytest.raises(MalformedError):
        parse_descriptor(bytes.fromhex(VECTORS["malformed"][name]))

"""A few members of a coded site work together: what they show is outvoted, and a mending spoils nothing by it."""

from __future__ import annotations

import itertools
import os

import pytest

from exclave.errors import AlreadyExists, CorruptObject
from exclave.ids import Key, sha256
from exclave.sites.coded import CodedSite
from exclave.sites.coded_form import MAGIC, Code, descriptor_bytes
from exclave.sites.coded_mending import mend
from exclave.sites.contract import Site
from exclave.sites.memory import MemorySite
from support.hostile_town import Away

TILE = Key("state/ledger/tile/entries/000")
TRUE, FALSE = b"a true tile", b"a false one"


@pytest.mark.parametrize(("k", "n", "liars", "away"), [(10, 14, 2, 3), (10, 14, 6, 0), (3, 5, 2, 0), (3, 5, 1, 1)])
def test_a_minority_is_outvoted(k: int, n: int, liars: int, away: int) -> None:
    """Whichever members lie alike and answer the soonest, the others' tile is shown, also while some are away."""
    honest: list[Site] = [MemorySite(str(at)) for at in range(n)]
    CodedSite(honest, k).put_same(TILE, TRUE)
    for lying in itertools.islice(itertools.combinations(range(n), liars), 20):
        gone = [at for at in range(n) if at not in lying][:away]
        members: list[Site] = []
        for at, member in enumerate(honest):
            members.append(Away(member) if at in gone else member)
            if at in lying:
                members[at] = MemorySite(f"liar-{at}")
                members[at].put_same(TILE, FALSE)
        assert CodedSite(members, k).get(TILE) == TRUE


@pytest.mark.parametrize("liars", [1, 2, 6])
def test_a_mending_spoils_nothing(liars: int) -> None:
    """Members who show a false tile get the true one; those who have that keep it."""
    members = [MemorySite(str(at)) for at in range(14)]
    CodedSite(members, 10).put_same(TILE, TRUE)
    for at in range(liars):
        members[at] = MemorySite(f"liar-{at}")
        members[at].put_same(TILE, FALSE)
    done = list(mend(CodedSite(members, 10)))
    if liars <= 4:  # ten of fourteen vouch for it
        assert done == [(TILE, at, None) for at in range(liars)]
        assert {member.get(TILE) for member in members} == {TRUE}
    else:
        assert [(key, at, type(error)) for key, at, error in done] == [(TILE, None, CorruptObject)]
        assert {member.get(TILE) for member in members[liars:]} == {TRUE}


def test_a_tie_is_told_and_nothing_is_replaced() -> None:
    """Two against two: nobody can say which is right, so both stay as they are."""
    members = [MemorySite(str(at)) for at in range(4)]
    for at, member in enumerate(members):
        member.put_same(TILE, TRUE if at < 2 else FALSE)
    done = list(mend(CodedSite(members, 2)))
    assert [(key, at, type(error)) for key, at, error in done] == [(TILE, None, CorruptObject)]
    assert [member.get(TILE) for member in members] == [TRUE, TRUE, FALSE, FALSE]


def test_a_made_up_name_is_not_spread() -> None:
    """Junk under the next name of a ledger, at one member, would stand in its writer's way at all of them."""
    members = [MemorySite(str(at)) for at in range(3)]
    members[1].put_same(TILE, FALSE)
    done = list(mend(CodedSite(members, 2)))
    assert [(key, at, type(error)) for key, at, error in done] == [(TILE, None, CorruptObject)]
    assert [list(member.list("")) for member in (members[0], members[2])] == [[], []]
    site = CodedSite([members[0], members[2], MemorySite("new")], 2)
    site.put_same(TILE, TRUE)
    assert site.get(TILE) == TRUE


def test_junk_under_a_hash_replaces_no_descriptor() -> None:
    """Shards are gone for now, so nobody can join the object; what two members show in its place is not put over the
    descriptors of the others, which lead to it again once the shards are back."""
    members = [MemorySite(str(at)) for at in range(5)]
    data = os.urandom(100_000)
    key = Key(f"state/pack/{sha256(data).hex()}")
    plan, _ = Code(3, 5).cut(data)
    for at, member in enumerate(members):
        member.put_same(key, FALSE if at < 2 else plan.encode())
    done = list(mend(CodedSite(members, 3)))
    assert [(name, at, type(error)) for name, at, error in done] == [(key, None, CorruptObject)]
    assert [member.get(key) for member in members[2:]] == [plan.encode()] * 3


@pytest.mark.parametrize("size", [descriptor_bytes(5), 300, 40_000])
def test_one_members_nonsense_ends_no_listing(size: int) -> None:
    """Under a name of its own it shows what begins like a descriptor and is none: all else is listed and mended."""
    members = [MemorySite(str(at)) for at in range(5)]
    data = os.urandom(100_000)
    key, planted = Key(f"state/pack/{sha256(data).hex()}"), Key(f"state/pack/{'0' * 64}")
    CodedSite(members, 3).put_same(key, data)
    members[4].put_same(planted, MAGIC + bytes(size - len(MAGIC)))
    site = CodedSite([MemorySite("new"), *members[1:]], 3)
    assert {stat.key: stat.size_bytes for stat in site.list("")} == {key: len(data), planted: size}
    assert {(name, at, type(error)) for name, at, error in mend(site)} == {
        (key, 0, type(None)), (planted, None, CorruptObject),
    }  # fmt: skip


@pytest.mark.parametrize("name", [TILE, Key(f"state/pack/{'0' * 64}")])
@pytest.mark.parametrize("made_up", [FALSE, MAGIC + bytes(descriptor_bytes(14) - len(MAGIC))])
def test_one_member_takes_no_name(name: Key, made_up: bytes) -> None:
    """What it alone shows there keeps no writer out, also while others are away; what counts does."""
    members: list[Site] = [MemorySite(str(at)) for at in range(14)]
    members[2].put_same(name, made_up)
    site = CodedSite([Away(m) if at < 2 else m for at, m in enumerate(members)], 10)
    site.put_new(name, TRUE)
    assert site.get(name) == TRUE
    for away in range(14):
        with pytest.raises(AlreadyExists):
            CodedSite([Away(m) if at == away else m for at, m in enumerate(members)], 10).put_new(name, b"another")


def test_what_was_put_before_keeps_its_name() -> None:
    """Without votes about it: as many as must show it do, whichever members are away or were emptied."""
    members: list[Site] = [MemorySite(str(at)) for at in range(14)]
    gone = [Away(m) if at < 3 else m for at, m in enumerate(members)]
    CodedSite(gone, 10).put_same(TILE, TRUE)
    for away in ((11, 12, 13), (0, 1, 13), (3, 4, 5)):
        left = [Away(m) if at in away else m for at, m in enumerate(members)]
        with pytest.raises(AlreadyExists):
            CodedSite(left, 10).put_new(TILE, FALSE)

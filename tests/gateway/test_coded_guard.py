"""What a host takes as a member of a coded site, and what a thief with the state's credentials makes of it: nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exclave.errors import CorruptObject, ExclaveError, HeadMoved, MalformedError, NotAuthorised, RolledBack
from exclave.formats.paths import charter_key, pack_key
from exclave.formats.tile import stage_key
from exclave.ids import Key, sha256
from exclave.operations.host_scrub import scrub_host
from exclave.sites.coded_form import Code, part_key, vote_key
from exclave.sites.coded_votes import MAX_INLINE_BYTES, NEVER, Ballot, Vote, accept, promise
from support.hosted import ENTRIES, Hosted

DATA = os.urandom(100_000)
PLAN, SHARDS = Code(2, 3).cut(DATA)


@pytest.fixture
def hosted(tmp_path: Path) -> Hosted:
    return Hosted(tmp_path)


def pack(hosted: Hosted, data: bytes = DATA) -> Key:
    return pack_key(hosted.state.state, hosted.state.register, sha256(data))


def ballot(counter: int) -> Ballot:
    return Ballot(counter, bytes(16))


def vote_for(hosted: Hosted, head: bytes, counter: int = 1) -> bytes:
    vote = accept(Vote(hosted.head_key), ballot(counter), head)
    assert vote is not None
    return vote.encode()


def test_shards_and_descriptors_come_in(hosted: Hosted) -> None:
    """A shard has its own hash, a descriptor names that of its object; the host's own scrub finds nothing wrong."""
    key = pack(hosted)
    hosted.put(part_key(key, sha256(SHARDS[0])), SHARDS[0])
    hosted.put(key, PLAN.encode())
    found = scrub_host(hosted.site)
    assert (found.wrong, found.foreign) == (0, 0)
    with pytest.raises(CorruptObject):
        hosted.put(part_key(key, sha256(SHARDS[1])), SHARDS[0])
    with pytest.raises(CorruptObject):
        hosted.put(pack(hosted, b"other"), PLAN.encode())
    with pytest.raises(CorruptObject):
        hosted.put(charter_key(hosted.state.state, DATA), PLAN.encode())
    for name in ("part/aa", f"part/ab/{'cd' * 32}", "part/vote/ab/head", f"part/vote/{'ab' * 32}/tail"):
        with pytest.raises(MalformedError):
            hosted.put(Key(f"{hosted.state.state}/{name}"), b"x")


def test_a_descriptor_takes_no_good_objects_place(hosted: Hosted) -> None:
    """What is right, whole or cut, is replaced by no descriptor; what is spoilt is."""
    key = pack(hosted)
    hosted.put(key, DATA)
    with pytest.raises(NotAuthorised):
        hosted.repair(key, PLAN.encode())
    assert hosted.site.get(key) == DATA
    other, _ = Code(2, 4).cut(DATA)
    path = hosted.folder / key
    path.chmod(0o600)
    path.write_bytes(PLAN.encode())
    with pytest.raises(NotAuthorised):
        hosted.repair(key, other.encode())
    path.write_bytes(b"spoilt")
    assert scrub_host(hosted.site).wrong == 1
    hosted.repair(key, PLAN.encode())
    assert hosted.site.get(key) == PLAN.encode()
    hosted.repair(key, DATA)
    assert hosted.site.get(key) == DATA


def test_votes_for_heads_are_let_in_where_the_heads_are(hosted: Hosted) -> None:
    """A vote for a head that grows comes in; for one that is smaller, not signed by the writer, or forked, it does
    not."""
    name = vote_key(hosted.head_key)
    longer = [*ENTRIES, b"entry 3\n"]
    hosted.lay_out(longer)
    hosted.replace(name, Vote(hosted.head_key, ballot(1)).encode())
    hosted.replace(name, vote_for(hosted, hosted.head(longer)))
    hosted.replace(hosted.head_key, hosted.head(longer))
    for wrong, error in (
        (hosted.head(ENTRIES[:2]), RolledBack),
        (b"made up", ExclaveError),
        (hosted.head([b"x", *longer[1:]]), ExclaveError),
        (b"x" * (MAX_INLINE_BYTES + 1), NotAuthorised),
    ):
        with pytest.raises(error):
            hosted.replace(name, vote_for(hosted, wrong, 2))
    with pytest.raises(HeadMoved):
        hosted.replace(name, vote_for(hosted, hosted.head(longer), 2), expected="0" * 64)
    with pytest.raises(NotAuthorised):
        hosted.put(name, vote_for(hosted, hosted.head(longer), 2))


def test_votes_go_forward_and_not_too_far(hosted: Hosted) -> None:
    """Promises do not go back; a thief drives no counter to its end; a vote stands where its name says."""
    stage = stage_key(hosted.prefix, 7)
    name = vote_key(stage)
    hosted.replace(name, Vote(stage, ballot(5)).encode())
    for wrong in (Vote(stage, ballot(4)), Vote(stage, ballot((1 << 62) - 1))):
        with pytest.raises(NotAuthorised):
            hosted.replace(name, wrong.encode())
    with pytest.raises(NotAuthorised):
        hosted.replace(name, Vote(stage_key(hosted.prefix, 8), ballot(6)).encode())
    stray = Key(f"{hosted.state.state}/stray")
    with pytest.raises(MalformedError):
        hosted.replace(vote_key(stray), Vote(stray, ballot(1)).encode())
    hosted.replace(name, Vote(stage, ballot(1 << 40)).encode())
    with pytest.raises(NotAuthorised):
        hosted.replace(name, Vote(stage, ballot(1 << 41)).encode())
    further = promise(Vote(stage), ballot((1 << 40) + 1))
    assert further is not None
    assert further.accepted == NEVER
    hosted.replace(name, further.encode())

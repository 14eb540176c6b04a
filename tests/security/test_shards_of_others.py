"""Erasing by order at a coded site's members: what a thief planted takes no living object along."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.ids import Key, sha256
from exclave.sites.coded import CodedSite
from exclave.sites.coded_erasing import MemberEraser
from exclave.sites.coded_form import Code
from exclave.sites.coded_votes import NEVER, Ballot, Quorum, Vote, accept
from exclave.sites.directory import DirectorySite
from exclave.sites.erasing import DirectoryEraser
from exclave.sites.open_erasing import open_erasing

DATA = os.urandom(300_000)
LIVING = Key(f"state/register/pack/ab/{sha256(DATA).hex()}")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("a", "b", "c")]
    for folder in made:
        folder.mkdir()
    coded(made).put_same(LIVING, DATA)
    return made


def coded(folders: list[Path]) -> CodedSite:
    return CodedSite([DirectorySite(str(folder)) for folder in folders], 2)


def erase(folders: list[Path], key: Key, *, by_hosts: bool) -> None:
    if by_hosts:
        for folder in folders:
            MemberEraser(DirectorySite(str(folder)), DirectoryEraser(str(folder))).erase(key)
    else:
        open_erasing("coded:2?" + "&".join(f"member=dir:{folder}" for folder in folders)).erase(key)


@pytest.mark.parametrize("by_hosts", [True, False])
def test_a_planted_descriptor_erases_no_living_shard(folders: list[Path], *, by_hosts: bool) -> None:
    """Of an object that never was, a thief puts a descriptor that names the shards of a living one."""
    plan, _ = Code(2, 3).cut(DATA)
    digest = sha256(b"an object of a version that will be deleted")
    dead = Key(f"state/register/pack/ab/{digest.hex()}")
    for folder in folders:
        DirectorySite(str(folder)).put_same(dead, replace(plan, digest=digest).encode())
    erase(folders, dead, by_hosts=by_hosts)
    assert not any((folder / dead).exists() for folder in folders)
    assert coded(folders).get(LIVING) == DATA


@pytest.mark.parametrize("by_hosts", [True, False])
def test_the_same_bytes_in_another_register_stay(folders: list[Path], *, by_hosts: bool) -> None:
    """A thief puts a register's pack into another one too, whose version is deleted in time."""
    copy = Key(LIVING.replace("/register/", "/other/"))
    coded(folders).put_same(copy, DATA)
    erase(folders, copy, by_hosts=by_hosts)
    assert coded(folders).get(LIVING) == DATA


def test_one_liar_invents_no_first_head() -> None:
    """Where all others have no vote, since nobody ever wrote that head, mending takes none that a member made up."""
    head = Key("state/register/ledger/checkpoint")
    invented = accept(Vote(head), Ballot(9, bytes(16)), b"made up")
    assert invented is not None
    others = [Vote(head, promised=invented.promised) for _ in range(2)]
    assert all(vote.accepted == NEVER for vote in others)
    quorum = Quorum(3, 3)
    assert quorum.inventing == 1
    assert quorum.standing([invented, *others], empty=2) is None
    assert Quorum(3, 2).standing([invented, *others[:1]], empty=1) == invented

"""The first site of a writer gives back what it was given until that was looked at, and hides it from all others.

Others get the ledger from the site at which it was written, and a writer goes on from the largest head that is shown.
So this is the site that could hold up all backups, and it may choose its moment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exclave.errors import AlreadyExists, HeadMoved, SiteUnavailable
from exclave.ids import Key, Label
from exclave.sites.contract import Site
from support.fault_table import FaultTable, Row
from support.fault_world import HOME, LUX, NORD, World, world
from support.hostile import Hiding, PassThrough

NIGHTS = 3


def _tiles(key: Key) -> bool:
    return "/tile/" in key


def _log(key: Key) -> bool:
    return "/ledger/" in key


def _head(key: Key) -> bool:
    return key.endswith("/checkpoint")


def _all_but_the_head(key: Key) -> bool:
    return not _head(key)


class Taken(PassThrough):
    """Says of each new name that it is taken."""

    def put_new(self, key: Key, data: bytes) -> None:
        raise AlreadyExists(f"{key} is taken")


class Moved(PassThrough):
    """Says of each head that it was replaced meanwhile."""

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        raise HeadMoved(f"{key} was replaced")


Host = Callable[[Site], Site]
HOSTS: dict[str, Host] = {
    "hides tiles and bundles": lambda site: Hiding(site, _tiles),
    "hides the ledger": lambda site: Hiding(site, _log),
    "hides the head": lambda site: Hiding(site, _head),
    "hides all but heads": lambda site: Hiding(site, _all_but_the_head),
    "names are taken": Taken,
    "heads have moved": Moved,
}


class Down(PassThrough):
    """Takes packs, and nothing of the ledger."""

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        if _log(key):
            raise SiteUnavailable("the host does not answer")
        super().put_same(key, data)


def _judge(made: World, promised: frozenset[int], told: FaultTable, host: Site, *, named: bool) -> None:
    """The site is named, by the receipts or by whoever verifies it, or holds all; without it every version restores;
    then it is level again from the others."""
    plain = made.plain()
    others: dict[Label, Site] = {label: plain[label] for label in (LUX, NORD)}
    sites: dict[Label, Site] = {HOME: host, **others}
    found = named or any(f.site == HOME for f in made.verified(sites).findings)
    harmless = not found and made.whole(HOME, sites)
    lost = made.lost(others, promised)
    healed = made.heal(HOME, plain, whole=True) and made.whole(HOME, plain)
    row = Row(1, int(harmless), int(found), int(healed), lost)
    told.told("backup", "host hides what it was given", row)
    assert row.whole


@pytest.mark.parametrize("again", [True, False], ids=["each night anew", "for good"])
@pytest.mark.parametrize("manner", HOSTS)
def test_the_first_site_stops_no_backup(manner: str, again: bool, fault_table: FaultTable) -> None:
    """Night after night the version is protected within its rule, and whoever looks finds the site that hides."""
    made = world()
    made.begin("backup")
    host, named = HOSTS[manner](made.plain()[HOME]), True
    promised = {1, 2}
    for night in range(NIGHTS):
        if again:
            host = HOSTS[manner](made.plain()[HOME])
        (made.root / "acts" / f"night-{night}").write_text(f"what became law on day {night}")
        done = made.run("backup", {**made.plain(), HOME: host})
        assert done.ok, done.why
        named = named and HOME in done.named
        promised |= done.promised
    assert len(promised) == 2 + NIGHTS
    _judge(made, frozenset(promised), fault_table, host, named=named)


def test_the_only_site_that_shows_the_newest_head_hides_what_leads_to_it(fault_table: FaultTable) -> None:
    """The others were away when the last entry was written: what the writer remembers brings them to that head, and
    no second history begins."""
    made = world()
    made.begin("backup")
    plain = made.plain()
    broken = made.run("backup", {HOME: plain[HOME], LUX: Down(plain[LUX]), NORD: Down(plain[NORD])})
    assert not broken.ok
    host = Hiding(plain[HOME], _all_but_the_head, at_once=True)
    done = made.run("backup", {**plain, HOME: host})
    assert done.ok, done.why
    assert [f.fault for f in made.verified(plain).findings if f.grave] == []
    _judge(made, frozenset({1, 2}) | done.promised, fault_table, host, named=HOME in done.named)


def test_a_writer_without_memory_forks_nothing(tmp_path: Path) -> None:
    """Where the writer does not remember what led to the largest head, no other site is led past it."""
    made = world()
    made.begin("backup")
    plain = made.plain()
    assert not made.run("backup", {HOME: plain[HOME], LUX: Down(plain[LUX]), NORD: Down(plain[NORD])}).ok
    (outbox,) = (made.root / "home" / "state").glob("*.outbox")
    outbox.unlink()
    done = made.run("backup", {**plain, HOME: Hiding(plain[HOME], _all_but_the_head, at_once=True)})
    assert not done.ok
    assert "shows" in done.why
    assert made.run("backup", plain).ok
    assert [f.fault for f in made.verified(plain).findings if f.grave] == []

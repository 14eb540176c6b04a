"""Since when an order lies open: by witnesses' clocks and the store's, never by the one of whoever gives it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from exclave.errors import SiteUnavailable
from exclave.formats.deletion import ORDERED
from exclave.formats.fact import Fact
from exclave.ids import Epoch, Instant, Key, Label, now
from exclave.sites.directory import DirectorySite
from exclave.sites.erasing import DirectoryEraser
from exclave.verify.history import CountedFact, RegisterHistory, read_history
from exclave.verify.state import read_state
from exclave.verify.witnessed import witnessed_since
from support.witnessed import HOUR, WitnessedState


@pytest.fixture
def state() -> WitnessedState:
    return WitnessedState(witnesses=("north", "south", "west"), needed=2)


def fact_of(history: RegisterHistory) -> CountedFact:
    return next(f for f in history.facts if f.fact.kind == ORDERED)


def order(state: WitnessedState, claimed: Instant) -> None:
    """A fact whose writer claims that it is of ``claimed``."""
    state.append(Fact(state.register, Epoch(1), claimed, ORDERED, None, ("00" * 32,)).encode())


def since(state: WitnessedState) -> Instant | None:
    view = read_state(state.sites, state.state)
    history = read_history(view, state.sites, state.register, allow_unwitnessed=True)
    return witnessed_since(view, state.sites, history, fact_of(history))


def test_the_last_witness_that_is_needed(state: WitnessedState) -> None:
    """With two needed, one that dates itself back changes nothing: the second one's time counts."""
    order(state, Instant(1))
    assert since(state) is None, "nobody vouches for it yet"
    state.cosign({"north": Instant(5 * HOUR)})
    assert since(state) is None
    state.cosign({"north": Instant(5 * HOUR), "south": Instant(900 * HOUR)})
    assert since(state) == Instant(900 * HOUR)


def test_later_heads_change_nothing(state: WitnessedState) -> None:
    """A delay that runs is not begun again by the backups that follow."""
    order(state, Instant(1))
    state.cosign({"north": Instant(800 * HOUR), "south": Instant(900 * HOUR)})
    state.append(Fact(state.register, Epoch(1), Instant(2), Label("drill")).encode())
    state.cosign({"north": Instant(1800 * HOUR), "south": Instant(1900 * HOUR)})
    assert since(state) == Instant(900 * HOUR)


def test_a_head_before_the_order(state: WitnessedState) -> None:
    """What witnesses vouched for earlier says nothing of it, and neither do strangers or a head of another history."""
    state.append(Fact(state.register, Epoch(1), Instant(2), Label("drill")).encode())
    state.cosign({"north": Instant(8 * HOUR), "south": Instant(9 * HOUR)})
    order(state, Instant(1))
    assert since(state) is None
    state.cosign({"north": Instant(800 * HOUR), "south": Instant(900 * HOUR)})
    assert since(state) == Instant(900 * HOUR)


def test_a_folder_tells_its_own_time(tmp_path: Path) -> None:
    """The inode's change time: dating the file back, or putting it again, makes it no older and no younger."""
    site, eraser = DirectorySite(str(tmp_path)), DirectoryEraser(str(tmp_path))
    key = Key("a/b")
    assert eraser.shown_since(key) is None
    site.put_same(key, b"order")
    first = eraser.shown_since(key)
    assert first is not None
    assert abs(first - now()) < 5_000_000
    time.sleep(0.05)
    site.put_same(key, b"order")
    assert eraser.shown_since(key) == first
    os.utime(tmp_path / "a" / "b", (1, 1))
    later = eraser.shown_since(key)
    assert later is not None
    assert later > first
    assert eraser.erase(key) is None
    assert site.stat(key) is None
    with pytest.raises(SiteUnavailable):
        DirectoryEraser(str(tmp_path / "away")).erase(key)


def test_nothing_outside_goes(tmp_path: Path) -> None:
    """A host's links lead no erasure out of the site."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"1")
    root = tmp_path / "site"
    root.mkdir()
    (root / "a").symlink_to(outside)
    assert DirectoryEraser(str(root)).erase(Key("a/precious")) is None
    assert DirectoryEraser(str(root)).shown_since(Key("a/precious")) is None
    assert (outside / "precious").exists()

"""What a place of the identity services believes: of its own disk, of sites that hide, of clocks that are wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.errors import NotAuthorised
from exclave.identity.contract import IdentityState
from exclave.identity.status_log import Revoked
from exclave.ids import Digest, Instant, now
from exclave.rules.exile import Seen, stands
from support.moving_places import MovingPlaces, stop

ME = Digest(b"m" * 32)
HOUR = 3_600_000_000


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[MovingPlaces, Path]:
    """A state in peace; home and the embassy have the same entries."""
    state = MovingPlaces(tmp_path_factory.mktemp("believing") / "state").made()
    state.step("home")
    state.step("lux")
    return state, state.keep()


@pytest.fixture
def state(kept: tuple[MovingPlaces, Path]) -> MovingPlaces:
    kept[0].back_to(kept[1])
    return kept[0]


@pytest.mark.parametrize("name", ["home", "lux"])
def test_a_place_from_an_old_backup_answers_only_once_it_has_read_its_own_feed(state: MovingPlaces, name: str) -> None:
    """Home says nothing, an embassy in exile says how old it is, until the entries are back from the sites; then the
    place decides again, and what was revoked after the backup is revoked."""
    if name == "lux":
        state.ok(state.fail_over())
    backup = state.root / "backup"
    shutil.copytree(state.at(name), backup, symlinks=True)
    state.enter(stop(2), at=name)
    state.step(name)
    shutil.rmtree(state.at(name))
    shutil.copytree(backup, state.at(name), symlinks=True)
    with state.place(name) as place:
        authority = place.authority()
        assert not authority.decides
        assert authority.state is (IdentityState.RETURNING if name == "home" else IdentityState.STANDBY)
        assert "older copy" in authority.why
        with pytest.raises(NotAuthorised):
            place.writer.enter([stop(3)])
    state.step(name)
    assert state.authority(name).decides
    assert isinstance(state.status(2, name), Revoked)


def test_an_epoch_that_was_seen_is_not_forgotten_with_the_process(state: MovingPlaces) -> None:
    """Home saw that another place has the pen; after a restart the only site that it reaches hides that."""
    before = state.root / "site-before"
    shutil.copytree(state.small.site("nord"), before)
    state.ok(state.fail_over())
    state.step("home")
    for site in ("home", "lux"):
        shutil.move(state.small.site(site), state.root / f"away-{site}")
    shutil.rmtree(state.small.site("nord"))
    shutil.copytree(before, state.small.site("nord"))
    with state.place("home") as place:
        assert place.authority().state is IdentityState.RETURNING
        assert place.authority().epoch == 2


def test_a_clock_of_home_that_was_ahead_makes_no_answer_fresh(state: MovingPlaces) -> None:
    """A head that is dated half an hour ahead: the embassy knows what it knows as of now, and it grows old from then
    on. One of tomorrow counts for nothing, so nobody can make old answers look fresh for ever; why is told."""
    state.step("home", clock=lambda: Instant(now() + HOUR // 2))
    began = now()
    with state.place("lux") as place:
        place.watch.look_at_feed(place.journal.head())
        assert began <= place.authority().as_of <= now()
    state.step("home", clock=lambda: Instant(now() + 24 * HOUR))
    with state.place("lux") as place:
        heads = place.watch.look_at_feed(place.journal.head())
        assert heads is not None
        assert heads.best is None
        assert {why.partition(" ahead of this clock")[0][-6:] for why in heads.problems.values()} == {"24.0 h"}


def test_a_clock_that_was_set_back_does_not_prolong_the_lease() -> None:
    """Home that reads no site stops after the lease, whichever way its clock jumps."""
    seen = Seen(ME, 1, True, Instant(1000 * HOUR))
    for jump, state in ((1, IdentityState.HOME), (-1, IdentityState.HOME), (3, IdentityState.RETURNING),
                        (-3, IdentityState.RETURNING)):  # fmt: skip
        at = Instant(seen.verified + jump * HOUR)
        assert stands(home=True, me=ME, seen=seen, taken_up=0, now=at, lease_s=7200).state is state
    assert stands(home=True, me=ME, seen=replace(seen, epoch=2), taken_up=0, now=seen.verified, lease_s=1).epoch == 2


@pytest.mark.parametrize("damaged", [b"x\n", b"\xff\n", b""])
def test_a_damaged_memory_of_epochs_lets_nobody_decide(state: MovingPlaces, damaged: bytes) -> None:
    """It is told, with the file's name, and nothing is decided until a person has looked."""
    (state.at("home") / "state" / "seen-epoch").write_bytes(damaged)
    with state.place("home") as place:
        assert not place.authority().decides
        assert "seen-epoch is damaged" in place.watch.problem

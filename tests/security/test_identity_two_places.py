"""Two places that each believe to decide, and what is told while a place begins anew."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from exclave.errors import UnavailableError
from exclave.formats.journal import PlaceKeys
from exclave.identity.contract import IdentityState
from exclave.identity.op.keys import _public, published
from exclave.ids import Label, now
from exclave.operations.identity_carry import TOKEN_KEYS, enter_carried
from exclave.operations.identity_follow import Follower
from exclave.operations.identity_kit_check import check_place
from support.moving_places import MovingPlaces
from support.op_place import Keys, Known, Place


class _Asleep(Keys):
    """No key of this place answers: what is published comes from the journal."""

    def token(self, algorithm: str) -> Any:
        raise UnavailableError(f"no key for {algorithm}")


def _sites(state: MovingPlaces) -> list[Path]:
    return [Path(state.small.site(name)) for name in state.small.sites]


def test_an_epoch_that_was_granted_twice_lets_nobody_decide(tmp_path: Path) -> None:
    """Custodians sign a warrant for each of two embassies, which cannot reach each other's sites. Once they can,
    neither decides any more, and neither does home, until a charter says which of them it is."""
    state = MovingPlaces(tmp_path / "state", embassies=("lux", "nord")).made()
    state.step("home")
    before = tmp_path / "before"
    for site in _sites(state):
        shutil.copytree(site, before / site.name)
    moves = [state.fail_over("lux"), state.fail_over("nord")]
    state.ok(moves[0])
    for site in _sites(state):
        shutil.copytree(site, tmp_path / "of-lux" / site.name)
        shutil.rmtree(site)
        shutil.copytree(before / site.name, site)
    state.ok(moves[1])
    with state.place("nord") as nord, state.place("home") as home:
        assert nord.authority().state is IdentityState.EXILE
        for site in _sites(state):
            shutil.copytree(tmp_path / "of-lux" / site.name, site, dirs_exist_ok=True)
        for place in (nord, home):
            place.watch.refresh()
            assert not place.authority().decides
        assert "granted twice" in nord.authority().why
    assert not state.authority("lux").decides


def test_a_home_that_reads_its_own_site_alone_does_not_decide(tmp_path: Path) -> None:
    """Cut off together with the site in its cellar it cannot know whether another place decides. It goes on for its
    lease, and none at all if it starts then."""
    state = MovingPlaces(tmp_path / "state").made()
    own, *abroad = _sites(state)
    assert abroad
    with state.place("home") as running:
        for site in abroad:
            site.rename(site.with_suffix(".away"))
        running.watch.refresh()
        assert running.authority().decides
        running.watch.lease_s = 0
        assert "more than half of the charter's sites" in running.authority().why
    with state.place("home") as restarted:
        assert not restarted.authority().decides
        assert "since this process started" in restarted.authority().why
        for site in abroad:
            site.with_suffix(".away").rename(site)
        restarted.watch.refresh()
        assert restarted.authority().decides
    assert own.is_dir()


def test_what_a_place_knew_before_it_began_anew_dates_nothing(tmp_path: Path) -> None:
    """A journal that was put aside is read anew in parts: the first of them is not complete as of a moment ago."""
    state = MovingPlaces(tmp_path / "state").made()
    state.step("home")
    state.step("lux")
    with state.place("lux") as place:
        place.watch.note_as_of(now())
        later: Any = SimpleNamespace(number=2)
        Follower(place)._set_aside(later)
        assert place.authority().as_of == 0


def test_token_keys_of_a_stolen_embassy_are_taken_away(tmp_path: Path) -> None:
    """Home enters an empty set for it; the keys stand in the published one no longer."""
    state = MovingPlaces(tmp_path / "state").made()
    x, y = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
    jwks = msgspec.json.encode({"keys": [{"kty": "EC", "crv": "P-256", "kid": "a", "x": x, "y": y}]})
    state.enter(PlaceKeys("lux", jwks))
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / TOKEN_KEYS).write_bytes(b'{"keys":[]}')
    with state.place("home") as home:
        assert len(_public(home.store.place_keys()[Label("lux")])) == 1
        assert enter_carried(home, Label("lux"), folder, now=now()).keys
        assert _public(home.store.place_keys()[Label("lux")]) == []


def test_token_keys_of_a_place_that_an_entry_invents_are_not_published(tmp_path: Path) -> None:
    """A thief of home enters keys for ``atlantis`` before the embassy takes over: the charter knows no such place."""
    state = MovingPlaces(tmp_path / "state").made()
    state.enter(*(PlaceKeys(place, Keys().jwks()) for place in ("atlantis", "home", "lux")))
    state.step("home")
    state.ok(state.fail_over())
    with state.place("lux") as lux:
        assert lux.authority().state is IdentityState.EXILE
        parts = Place(Known(), label="lux", keys=_Asleep()).parts
        for kept in ("atlantis", "home", "lux"):
            known = Known()
            known.keys = {Label(kept): lux.store.place_keys()[Label(kept)]}
            published_here = replace(parts, store=known, places=lux.places)
            if kept == "atlantis":
                with pytest.raises(UnavailableError):
                    published(published_here)
            else:
                assert published(published_here)
        strange = [row.detail for row in check_place(lux).rows if row.what == "token keys of strangers"]
        assert len(strange) == 1
        assert strange[0].endswith(": atlantis")

"""A thief at home, before the embassy takes over, enters what shall harm whoever comes after him."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave.errors import ConfigError, MalformedError
from exclave.formats import journal as form
from exclave.formats.identityconfig import parse_identity_config, parse_place_config
from exclave.formats.journal import Entry, Head, entry_at, parse_entry
from exclave.identity.journal import Journal
from exclave.identity.status_log import Revoked
from exclave.ids import Instant, now
from support.moving_places import MovingPlaces, stop

FAR = Instant(2**61)
"""A time that no calendar has."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[MovingPlaces, Path]:
    state = MovingPlaces(tmp_path_factory.mktemp("poisoned") / "state").made()
    state.step("home")
    state.step("lux")
    return state, state.keep()


@pytest.fixture
def state(kept: tuple[MovingPlaces, Path]) -> MovingPlaces:
    kept[0].back_to(kept[1])
    return kept[0]


def _can_decide(state: MovingPlaces) -> None:
    state.enter(stop(3), at="lux")
    assert isinstance(state.status(3, "lux"), Revoked)


def test_an_entry_of_a_later_epoch_fences_nobody(state: MovingPlaces) -> None:
    """Entries say their epoch; one that says the last of all would keep every later writer from deciding."""
    state.enter(stop(2))
    Journal.open(str(state.journal)).append([stop(4)], time=now(), epoch=2**32 - 1)
    state.step("home")
    state.step("lux")
    assert len(state.entries("lux")) == 2, "the batch with it is not taken"
    said = state.ok(state.fail_over())
    assert "says that it is of epoch 4294967295" in said.err
    _can_decide(state)


def test_a_version_with_an_entry_of_a_later_epoch_is_named(state: MovingPlaces) -> None:
    """The take-over stops before the place has taken anything up, and says from where people can go on."""
    Journal.open(str(state.journal)).append([stop(4)], time=now(), epoch=9)
    state.small.backup()
    signed = state.fail_over()
    said = state.small.fails(21, *signed)
    assert "epoch 9, which is yet to come" in said["message"]
    state.ok([*signed, "--version", "identity=1"])
    _can_decide(state)


def test_a_time_that_no_calendar_has_stops_no_take_over(state: MovingPlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not in the format, so the entries before it are gone by, and the statement says what is missing."""
    with monkeypatch.context() as thief:
        thief.setattr(form, "_TIME_LIMIT", 2**62)
        Journal.open(str(state.journal)).append([stop(4)], time=FAR, epoch=1)
        with state.place("home") as place:
            writer = place.watch.chain()
            assert writer is not None
        state.step("home")
    state.ok(state.fail_over())
    assert state.gap().last_number == 2
    _can_decide(state)


@pytest.mark.parametrize("entry", [
    entry_at(Head(), FAR, 1, stop(1)), entry_at(Head(), Instant(0), 1, stop(1, since=FAR)),
])  # fmt: skip
def test_times_that_no_calendar_has_are_not_in_the_format(entry: Entry) -> None:
    """Whoever prints them would fail: statements, reports of a merge, lists of what is revoked."""
    with pytest.raises(MalformedError):
        parse_entry(form._encoder.encode(entry))


def test_settings_that_are_nested_without_end_are_refused() -> None:
    """They travel in the journal, and each request looks at them."""
    with pytest.raises(ConfigError):
        parse_identity_config(b"a = " + b"[" * 100_000)


@pytest.mark.parametrize(("place", "role"), [("tallinn", "home"), ("home", "embassy")])
def test_home_alone_is_called_home(place: str, role: str) -> None:
    """In exile the token keys of the place of that name are dropped, since a thief may have them."""
    text = f'place = "{place}"\nrole = "{role}"\nfingerprint = "{"11" * 32}"\nregister = "{"ab" * 16}"\nkey = "k"\n'
    with pytest.raises(ConfigError, match="called home"):
        parse_place_config(text.encode() + b'[[site]]\nname = "lux"\nurl = "dir:/srv"\n')

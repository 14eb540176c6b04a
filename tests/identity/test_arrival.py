"""An embassy at which nothing arrives says so, and what to do; its table of issuers can be watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.moving_places import MovingPlaces, stop
from support.small_home import run


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[MovingPlaces, Path]:
    """Home has entered something, and sent nothing."""
    state = MovingPlaces(tmp_path_factory.mktemp("arrival") / "state").made()
    return state, state.keep()


@pytest.fixture
def state(kept: tuple[MovingPlaces, Path]) -> Iterator[MovingPlaces]:
    yield kept[0]
    kept[0].back_to(kept[1])


def told(state: MovingPlaces) -> Any:
    return state.small.ok("identity", "state", "--dir", str(state.at("lux")))


def feed_row(state: MovingPlaces) -> Any:
    rows = state.small.fails(1, "identity", "check", "--dir", str(state.at("lux")))["rows"]
    return next(row for row in rows if row["what"] == "identity feed")


def test_nothing_was_sent(state: MovingPlaces) -> None:
    """For people, for machines and in the weekly check."""
    problem = told(state)["problem"]
    assert problem.startswith("nothing has arrived here yet: no site shows the identity feed")
    assert "start `exclave serve identity`" in problem
    said = run("identity", "state", "--dir", str(state.at("lux"))).out
    assert f"PROBLEM: {problem}" in said
    assert "1970" not in said
    assert (feed_row(state)["state"], feed_row(state)["detail"]) == ("alarm", problem)


def test_it_waits_at_the_sites(state: MovingPlaces) -> None:
    """Home has sent it, and nobody takes it in here; once somebody does, all is well and the issuers are told."""
    state.step("home")
    assert (
        "the feed ends at entry 2, the journal here at 0; start `exclave serve identity` here" in told(state)["problem"]
    )
    state.step("lux")
    found = told(state)
    assert (found["problem"], found["entries"]) == ("", 2)
    (issuer,) = found["issuers"]
    assert (issuer["label"], issuer["live"], issuer["issued_known"]) == ("first", True, True)
    assert feed_row(state)["state"] == "ok"
    state.enter(stop(1))
    state.step("home")
    assert told(state)["problem"].startswith("the feed ends at entry 3, the journal here at 2")


def test_it_is_sealed_to_somebody_else(state: MovingPlaces, tmp_path: Path) -> None:
    """Home was given another machine's card."""
    typed = ["--dir", str(tmp_path / "nord"), "--place", "nord", "--register", state.register]
    other = state.small.ok("identity", "init", *typed, *state.small.where())["card"]
    (state.at_home / "lux.card").write_bytes(Path(other).read_bytes())
    state.step("home")
    problem = told(state)["problem"]
    assert "cannot be read here" in problem
    assert "name this place's machine.card as an [[embassy]]" in problem


def test_no_site_answers(state: MovingPlaces) -> None:
    """The problem is the sites'."""
    place = state.at("lux") / "place.toml"
    place.write_text(place.read_text().replace("/sites/", "/gone/"))
    assert "the [[site]]s of place.toml" in told(state)["problem"]


def test_home_awaits_nothing(state: MovingPlaces) -> None:
    """Where it is decided, there is no feed to follow."""
    assert state.small.ok("identity", "state", "--dir", str(state.at_home))["problem"] == ""
    rows = state.small.fails(1, "identity", "check", "--dir", str(state.at_home))["rows"]
    assert "identity feed" not in {row["what"] for row in rows}

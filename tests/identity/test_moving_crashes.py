"""A move that dies anywhere and is started again ends as one that was left in peace: every durable step, killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from exclave.formats.journal import Head, Released, ServiceGone, serial_bytes
from exclave.identity.contract import IdentityState
from exclave.identity.journal import Journal
from exclave.identity.status_log import CertificateStatus, Serial
from exclave.ids import Instant, now
from exclave.operations import failover, register_recovery
from exclave.operations.identity_authority import read_taken_up
from support.moving_places import MovingPlaces, dying, issuer, late, stop
from support.small_home import run, tree_of

ZERO = Instant(0)


@dataclass(frozen=True)
class End:
    """What a move comes to, without the times at which it was made."""

    entries: list[tuple[int, int, bytes, Any]]
    statuses: list[CertificateStatus]
    state: IdentityState
    taken: tuple[int, int, bytes, bytes]
    statement: Any
    statements: dict[str, int]
    facts: set[str]
    aside: list[dict[str, bytes]]
    left: list[str]


def _end(state: MovingPlaces, at: str) -> End:
    folder = state.at(at)
    taken = read_taken_up(folder)
    assert taken is not None
    gap = replace(state.gap(), authority_from=ZERO) if at == "lux" else replace(state.merge(), time=ZERO)
    with state.place(at) as place:
        statuses, authority = [place.store.status(issuer(), Serial(n)) for n in range(1, 6)], place.authority()
    kept = [p for p in folder.iterdir() if p.is_dir() and p.name.startswith("journal-")]
    return End(
        [(e.number, e.epoch, e.warrant, e.body) for e in state.entries(at)],
        statuses,
        authority.state,
        (taken.epoch, taken.number, taken.chain, taken.warrant),
        gap,
        {name: len(notes) for name, notes in state.statements().items()},
        {fact.kind for fact in state.facts()},
        [tree_of(path) for path in kept],
        sorted(p.name for p in folder.iterdir() if not p.name.startswith("journal-aside-")),
    )


@dataclass(frozen=True)
class Move:
    """A moment before a move, its command, and the end of it when nothing disturbs it."""

    state: MovingPlaces
    kept: Path
    arguments: list[str]
    at: str
    within: tuple[Any, str]
    calls: int
    end: End

    def die(self, *at: int) -> None:
        """Killed there, again and again; then run to its end, which is the same."""
        self.state.back_to(self.kept)
        for call in at:
            code, _ = dying(self.arguments, call, within=self.within)
            assert code == -9, f"it was not killed: {code}"
        self.state.ok(self.arguments)
        assert _end(self.state, self.at) == self.end, f"killed after call {at}"


def _move(root: Path, prepare: Callable[[MovingPlaces], list[str]], at: str, within: tuple[Any, str]) -> Move:
    state = MovingPlaces(root / "state").made()
    arguments = prepare(state)
    kept = state.keep()
    code, calls = dying(arguments, 0, within=within)
    assert code == 0
    return Move(state, kept, arguments, at, within, calls, _end(state, at))


def _abroad(state: MovingPlaces) -> list[str]:
    """Of four entries the version has two, the embassy three."""
    state.step("home")
    state.enter(stop(1))
    state.step("home")
    state.step("lux")
    state.enter(stop(2))
    state.step("home")
    return state.fail_over()


def _misled(state: MovingPlaces) -> list[str]:
    """As above, and the embassy's journal parts from the feed."""
    arguments = _abroad(state)
    journal = Journal.open(str(state.at("lux") / "journal"))
    journal.append([ServiceGone("lie")], time=Instant(1), epoch=1)
    return arguments


def _home(state: MovingPlaces) -> list[str]:
    """Home and exile have entries of which the other knows nothing."""
    state.ok(_abroad(state))
    own = [stop(3), Released(issuer(), serial_bytes(4)), ServiceGone("nobody")]
    Journal.open(str(state.journal)).append(own, time=now(), epoch=1)
    state.enter(stop(4, reason="certificateHold"), at="lux", clock=late)
    state.step("lux", late)
    return state.come_back()


def _home_bare(state: MovingPlaces) -> list[str]:
    """As above, and home's journal is lost with its machine."""
    arguments = _home(state)
    for path in state.journal.iterdir():
        path.unlink()
    return arguments


IN_MOVE = (register_recovery, "move_authority")
CASES: dict[str, tuple[Callable[[MovingPlaces], list[str]], str, tuple[Any, str]]] = {
    "take-over": (_abroad, "lux", IN_MOVE),
    "take-over, misled": (_misled, "lux", IN_MOVE),
    "take-over, entered": (_abroad, "lux", (failover, "record_register")),
    "return": (_home, "home", IN_MOVE),
    "return, bare": (_home_bare, "home", IN_MOVE),
    "return, entered": (_home, "home", (failover, "record_register")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_durable_steps(tmp_path: Path, case: str) -> None:
    """Killed right after each (so right before the next), the same command ends where an undisturbed one does."""
    move = _move(tmp_path, *CASES[case])
    print(f"{case}: {move.calls} durable calls")
    assert move.calls >= 5
    # The ledger's own steps have their matrix elsewhere, and variants share most steps: some of them are enough.
    step = 4 if case.endswith("entered") else 2 if "," in case else 1
    for at in range(1, move.calls + 1, step):
        move.die(at)
    assert move.state.small.verify()["ok"]


def test_the_ends_are_what_they_should_be(tmp_path: Path) -> None:
    """The undisturbed ends themselves: so that a matrix of wrong ends cannot pass."""
    abroad = _move(tmp_path / "abroad", *CASES["take-over"]).end
    assert [entry[0] for entry in abroad.entries] == [1, 2, 3, 4]
    assert (abroad.state, abroad.taken[:2], abroad.aside) == (IdentityState.EXILE, (2, 4), [])
    assert abroad.statements == {"home": 1, "lux": 1, "nord": 1}
    back = _move(tmp_path / "back", *CASES["return"]).end
    assert (back.state, back.taken[:2]) == (IdentityState.HOME, (3, 5))
    assert [entry[1] for entry in back.entries] == [1, 1, 1, 1, 2, 3, 3]
    assert len(back.aside) == 1
    assert back.aside[0]
    assert back.statements == {"home": 2, "lux": 2, "nord": 2}
    assert back.facts == {"failover", "identity-returning", "identity-home"}


def test_killed_twice(tmp_path: Path) -> None:
    """A second death in the restart changes nothing either."""
    move = _move(tmp_path, *CASES["return"])
    move.die(move.calls // 2, 2)
    move.die(move.calls - 1, move.calls // 2, 5)


def test_another_place_took_over_in_between(tmp_path: Path) -> None:
    """A move that died and was overtaken by another warrant is not finished: the command says who has the pen now."""
    move = _move(tmp_path, *CASES["take-over"])
    state = move.state
    state.back_to(move.kept)
    assert dying(move.arguments, 2, within=move.within)[0] == -9
    state.ok(["failover", "run", *state.small.where(), *state.small.granted("failover", machine="other"), "--dir",
              str(state.root / "other")])  # fmt: skip
    told = run(*move.arguments, "--json")
    assert (told.code, told.json["error"]) == (34, "fenced")
    assert state.authority("lux").state is IdentityState.STANDBY
    assert Journal.open(str(state.at("lux") / "journal")).head() != Head()

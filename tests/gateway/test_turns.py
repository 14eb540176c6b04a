"""Turns between states: at most half for one, and those who wait are served state by state."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from exclave.serve.site_turns import Turns
from support.gateway import wait_until


def _waits(turns: Turns, state: str, order: list[str], name: str) -> threading.Thread:
    """A thread that notes its name once it had a turn; returns when it stands in line."""
    before = sum(map(len, turns._waiting.values()))

    def take() -> None:
        with turns.of(state):
            order.append(name)

    thread = threading.Thread(target=take)
    thread.start()
    wait_until(lambda: sum(map(len, turns._waiting.values())) == before + 1, f"{name} waits")
    return thread


def test_a_crowd_leaves_half_to_others() -> None:
    """A state that takes all it can get has half; another one gets a turn at once, and its crowd waits for its own."""
    turns, order = Turns(4), list[str]()
    with ExitStack() as held:
        held.enter_context(turns.of("loud"))
        held.enter_context(turns.of("loud"))
        crowd = [_waits(turns, "loud", order, f"loud {number}") for number in range(20)]
        for _ in range(50):
            with turns.of("quiet"), turns.of("quiet"):
                assert order == []
    for thread in crowd:
        thread.join(60)
    assert len(order) == 20
    assert turns._free == 4
    assert not turns._held


class _Noted(Turns):
    """Notes to whom turns are given."""

    def __init__(self, at_work: int) -> None:
        super().__init__(at_work)
        self.given: list[str] = []

    def _grant(self, state: str) -> None:
        self.given.append(state)
        super()._grant(state)


def test_lines_are_served_in_the_round() -> None:
    """Whoever comes last with a single request is served after one of each state, not after all of the crowd's."""
    turns, order = _Noted(2), list[str]()
    with turns.of("c"), turns.of("d"):
        threads = [_waits(turns, "a", order, f"a{number}") for number in range(5)]
        threads += [_waits(turns, "b", order, f"b{number}") for number in range(2)]
    for thread in threads:
        thread.join(60)
    assert sorted(order) == ["a0", "a1", "a2", "a3", "a4", "b0", "b1"]
    assert turns.given[:4] == ["c", "d", "a", "b"]


def test_a_failure_gives_its_turn_back() -> None:
    """Work that fails in its turn does not keep it."""
    turns = Turns(2)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), turns.of("a"):
            _ = 1 // 0
    assert turns._free == 2

"""The order in which registers come back, and the next safe step of a failover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from exclave.errors import ConfigError

Name = TypeVar("Name", bound=str)


def recovery_order(depends: Mapping[Name, frozenset[Name]]) -> tuple[Name, ...]:
    """Registers so that each comes after those it depends on; equals in order of name.

    Dependencies on registers that are not among the keys are passed over. ``ConfigError`` for a circle.
    """
    left = {name: {d for d in needs if d in depends} for name, needs in depends.items()}
    order: list[Name] = []
    while left:
        free = sorted(name for name, needs in left.items() if not needs)
        if not free:
            raise ConfigError(f"these registers depend on each other in a circle: {', '.join(sorted(left))}")
        order += free
        for name in free:
            del left[name]
        for needs in left.values():
            needs.difference_update(free)
    return tuple(order)


class Step(StrEnum):
    """What a failover does for one register, in this order."""

    GRANT = "grant"
    """A new epoch: from here on the former writer is fenced."""
    RESTORE = "restore"
    START = "start"
    PROBE = "probe"
    NAMES = "names"
    """Names that lead to its services lead here from now on."""
    RECORD = "record"
    """RTO and RPO become a fact in the ledger."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """One step for one register."""

    step: Step
    register: str


def next_step(order: Sequence[str], done: Mapping[str, frozenset[Step]]) -> NextStep | None:
    """The next safe step, or None when all is done.

    All registers are granted before anything is restored, so that home cannot go on writing one register while
    another is already served abroad. A register is started only after those before it in ``order`` answer.
    """
    for name in order:
        if Step.GRANT not in done.get(name, frozenset()):
            return NextStep(Step.GRANT, name)
    for name in order:
        for step in Step:
            if step not in done.get(name, frozenset()):
                return NextStep(step, name)
    return None

"""Backups of many registers from one machine, round after round.

Registers do not wait for each other: a round is cut into small batches that any process takes, and each register has
its own lock, ledger and caches. Nothing here is remembered: a round that dies leaves what each backup leaves, and the
next round begins with all registers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from exclave.errors import ExclaveError
from exclave.operations.receipt import Receipt

BATCH = 8
"""Registers in one batch: few, so that no process waits long for another at the end of a round."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one register in a round."""

    register: str
    took_s: float
    sequence: int = 0
    """Of its new version; 0 if there is none."""
    witnessed: bool = True
    protected: bool = True
    error: str = ""
    """Code of the error that ended its backup; empty if it ended well."""
    message: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What a round did."""

    number: int
    took_s: float
    late_s: float
    """How far behind its time it began: 0 while rounds are not longer than the pause between their beginnings."""
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(o for o in self.outcomes if o.error or not o.witnessed or not o.protected)

    @property
    def slowest(self) -> Outcome | None:
        return max(self.outcomes, key=lambda o: o.took_s, default=None)


def batches(registers: Sequence[str], jobs: int, size: int = BATCH) -> Iterator[tuple[str, ...]]:
    """``registers`` in their order, cut so that each of ``jobs`` processes gets several."""
    step = max(1, min(size, -(-len(registers) // (2 * jobs))))
    for first in range(0, len(registers), step):
        yield tuple(registers[first : first + step])


def next_start(due: float, every_s: float, now: float) -> tuple[float, float]:
    """When the round after the one that was due at ``due`` is due, and by how much that lies before ``now``.

    Rounds that have become impossible are left out: a machine that was away makes one version, not all it missed.
    """
    following = due + every_s
    late = max(0.0, now - following)
    return (following if not late else now), late


def back_up_batch(names: Iterable[str], back_up: Callable[[str], Receipt]) -> list[Outcome]:
    """Each of ``names`` in turn; an error of one ends no other."""
    done: list[Outcome] = []
    for name in names:
        began = time.monotonic()
        try:
            receipt = back_up(name)
        except ExclaveError as error:
            took = time.monotonic() - began
            done.append(
                Outcome(name, took, error=error.code, message=error.message, exit_code=error.exit_code)
            )  # fmt: skip
            continue
        took = time.monotonic() - began
        done.append(Outcome(name, took, receipt.sequence, receipt.witnessed, receipt.protected))
    return done

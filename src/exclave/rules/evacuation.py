"""How a site is given up so that every register's rule holds at every moment: what the next safe step is. Pure.

::

    copy ──► propose ──► sign and publish ──► leave ──► done
    (while the site stands, nothing that it holds is counted out; it goes only when the rule holds without it)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from exclave.ids import RegisterId


class Step(StrEnum):
    """What is to be done next."""

    BASIS = "basis"
    """A charter must let registers lie at the new site first."""
    COPY = "copy"
    """The new site lacks something."""
    WAIT = "wait"
    """Without the site a rule would not hold, and no copying helps: another site has to come up or to be added."""
    PROPOSE = "propose"
    """A charter that leaves the site out can be drafted."""
    LEAVE = "leave"
    """The charter in force leaves it out: its operator erases."""
    DONE = "done"
    """Nothing of the state is there any more."""


@dataclass(frozen=True, slots=True)
class RegisterOutlook:
    """One register at the site that is to be given up, as the sites show it."""

    register: RegisterId
    versions: int
    """Living versions that count."""
    objects: int
    """Packs that they need."""
    bytes: int
    only_here: int
    """Versions that are whole at no other site."""
    at_risk: int
    """Versions that would not meet the rule without the site, as things are."""
    lacks: str
    """What the newest of these would lack; empty if none is at risk."""
    basis: bool
    """Whether it may be brought to the new site."""
    lacking_bytes: int
    """What the new site lacks of it; all of it if it may not be brought there."""


def next_step(*, named: bool, present: bool, registers: Sequence[RegisterOutlook]) -> Step:
    """``named``: the charter in force names the site; ``present``: something of the state lies there."""
    if not named:
        return Step.LEAVE if present else Step.DONE
    if any(not one.basis for one in registers):
        return Step.BASIS
    if any(one.lacking_bytes for one in registers):
        return Step.COPY
    return Step.WAIT if any(one.at_risk for one in registers) else Step.PROPOSE

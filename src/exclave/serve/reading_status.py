"""What a reading room says of itself: how old what it shows is, who checked it when, and whether home is dark. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exclave.ids import Instant
from exclave.operations.reading_room import Shown
from exclave.rules.watch import CLOCK_TOLERANCE_US
from exclave.serve.reading_pages import moment

UNCHECKED_US: Final = 10 * 60 * 1_000_000
"""After so long without an answer from any source, readers are told."""
LATE: Final = 2
"""So many RPOs after its moment, a copy is called old."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What was proven of the register at ``checked``, the last time that it could be."""

    sequence: int
    """The version that is shown."""
    time: int
    """The moment whose state it holds."""
    newest: int
    """The newest version in the ledger; it may not be public yet."""
    rpo_s: int
    exile: str
    """The place that has the register since a failover; empty: it is at home."""
    sources: tuple[str, ...]
    away: tuple[str, ...]
    checked: int


@dataclass(frozen=True, slots=True)
class Band:
    """The line above every page."""

    level: str
    """``good``, ``late`` or ``exile``."""
    headline: str
    detail: str


def proven_of(shown: Shown, checked: Instant) -> Proven:
    edition = shown.published.edition
    return Proven(
        edition.sequence, edition.time, shown.newest, shown.rpo_s, shown.exile or "", shown.sources, shown.away, checked
    )


def band(proven: Proven, now: Instant, place: str) -> Band:
    """``place``: where this room stands, as readers shall read it; may be empty."""
    state = f"State of {moment(proven.time)}, version {proven.sequence}."
    here = f" at {place}" if place else ""
    if now - proven.checked > UNCHECKED_US:
        return Band(
            "late", "Verified, but not lately.", f"{state} No other copy answers since {moment(proven.checked)}."
        )
    verified = f"Verified{here} on {moment(proven.checked)}."
    if proven.exile:
        return Band("exile", "This register is kept abroad now.", f"{state} {verified}")
    if proven.time > now + CLOCK_TOLERANCE_US:
        return Band("late", "The time of this copy lies ahead: nobody can tell how old it is.", f"{state} {verified}")
    if now - proven.time > LATE * proven.rpo_s * 1_000_000:
        return Band("late", "The state has not renewed this copy since then.", f"{state} {verified}")
    return Band("good", "Verified copy.", f"{state} {verified}")

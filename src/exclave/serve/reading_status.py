"""What a reading room says of itself: how old what it shows is, who checked it when, and whether home is dark. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exclave.ids import Instant
from exclave.operations.reading_room import Shown
from exclave.serve.reading_pages import moment

UNCHECKED_US: Final = 10 * 60 * 1_000_000
"""After so long without an answer from any source, readers are told."""
LATE: Final = 2
"""So many RPOs after its moment, a copy is called old."""


@dataclass(frozen=True, slots=True)
class Band:
    """The line above every page."""

    level: str
    """``good``, ``late`` or ``exile``."""
    headline: str
    detail: str


def band(shown: Shown, checked: Instant, now: Instant, place: str) -> Band:
    """``shown``: what was proven at ``checked``, the last time that it could be; ``place``: where this room stands."""
    edition = shown.published.edition
    state = f"State of {moment(edition.time)}, version {edition.sequence}."
    here = f" at {place}" if place else ""
    if now - checked > UNCHECKED_US:
        return Band("late", "Verified, but not lately.", f"{state} No other copy answers since {moment(checked)}.")
    verified = f"Verified{here} on {moment(checked)}."
    if shown.exile is not None:
        return Band("exile", "This register is kept abroad now.", f"{state} {verified}")
    if now - edition.time > LATE * shown.rpo_s * 1_000_000:
        return Band("late", "The state has not renewed this copy since then.", f"{state} {verified}")
    return Band("good", "Verified copy.", f"{state} {verified}")

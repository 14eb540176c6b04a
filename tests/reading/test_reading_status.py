"""What readers are told of a copy's age: a table of everything that can be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exclave.ids import Instant
from exclave.serve.reading_status import UNCHECKED_US, Proven, band

NOW = Instant(1_795_443_721_000_000)
MINUTE = 60_000_000
FRESH = Proven(12, NOW - 30 * MINUTE, 12, 3600, "", ("lux", "nord"), (), NOW - MINUTE)


@pytest.mark.parametrize(
    ("proven", "level", "says"),
    [
        (FRESH, "good", "Verified copy."),
        (replace(FRESH, time=NOW - 120 * MINUTE), "good", "Verified copy."),
        (replace(FRESH, time=NOW - 121 * MINUTE), "late", "not renewed"),
        (replace(FRESH, exile="lux"), "exile", "kept abroad"),
        (replace(FRESH, exile="lux", time=NOW - 9999 * MINUTE), "exile", "kept abroad"),
        (replace(FRESH, checked=NOW - UNCHECKED_US), "good", "Verified copy."),
        (replace(FRESH, checked=NOW - UNCHECKED_US - 1), "late", "not lately"),
        (replace(FRESH, checked=NOW - 60 * MINUTE, exile="lux"), "late", "not lately"),
        (replace(FRESH, time=NOW + 60 * MINUTE), "good", "Verified copy."),
    ],
)
def test_levels(proven: Proven, level: str, says: str) -> None:
    """Fresh, old, abroad, not compared: what is worst to know comes first; the moments are always named."""
    line = band(proven, NOW, "Luxembourg")
    assert line.level == level
    assert says in line.headline
    assert "version 12" in line.detail
    assert "2026" in line.detail


def test_a_room_without_a_place_names_none() -> None:
    """The operator may leave out where it stands."""
    assert " at " not in band(FRESH, NOW, "").detail

"""A disk, or a site, that stops answering while it is looked at: nothing is taken for complete without its notes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from exclave.errors import SiteUnavailable
from exclave.ids import Instant, Label
from exclave.operations.ship import DISK, take_over
from exclave.sites.memory import MemorySite
from exclave.verify.state import StateView

LUX = Label("lux")


@pytest.mark.parametrize("answers", [{LUX}, {DISK}, set()])
def test_silence_is_no_empty_site(answers: set[Label]) -> None:
    """What did not answer is named; it is neither a crash nor a site that lacks nothing."""
    shown = {label: SimpleNamespace(epochs={}) for label in answers}
    silent = DISK if DISK not in answers else LUX
    found = SimpleNamespace(site=silent, what="site", detail="input/output error")
    newest = SimpleNamespace(charter=SimpleNamespace(registers=()))
    view = SimpleNamespace(shown=shown, findings=[found], chain=SimpleNamespace(newest=newest))
    with pytest.raises(SiteUnavailable, match=f"{silent} could not be read: input/output error"):
        take_over(cast(StateView, view), MemorySite(), LUX, MemorySite(), now=Instant(0))

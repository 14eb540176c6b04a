"""A machine that rekeys leaves out keys that no order takes away: everybody says so, without a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave.ids import Epoch
from exclave.operations import rekey as verb
from support.small_home import SmallHome


def test_a_key_that_nobody_ordered_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens learns that the annex's key was left out by the newest epoch; `verify` calls it grave."""
    home = SmallHome(tmp_path / "state", sites=("home", "lux"))
    home.found()
    home.backup()
    monkeypatch.setattr(verb, "keys_due", lambda *_: frozenset({Epoch(1)}))
    home.ok("rekey", *home.granted("rekey", name="evil", machine="evil"), *home.where())
    granted = home.granted("restore", name="look")
    said = home.fails(21, "restore", "--target", str(tmp_path / "restored"), *granted, *home.where())
    assert "leaves out the key of epoch 1" in said["message"]
    report = home.verify(code=20)
    assert any(f["grave"] and "leaves out the key of epoch 1" in f["detail"] for f in report["findings"])

"""An order takes an epoch's key away: not before the last version that may need it has gone."""

from __future__ import annotations

import time
from pathlib import Path

from support.deleting import AgeingHome


class QuickHome(AgeingHome):
    """Orders lie open for one second."""

    delay_s = 1


def test_a_rekey_keeps_a_key_that_a_living_version_needs(tmp_path: Path) -> None:
    """An order for a key that is due, beside a version that no order names: a rekey takes the key along."""
    home = QuickHome(tmp_path / "state", sites=("home", "lux"))
    home.found()
    home.grown(2)
    home.ok("rekey", *home.granted("rekey", name="first", machine="first"), *home.where())
    home.backup()
    home.new_charter("names-2")
    order = home.propose("keys", "--keys", "1")
    home.publish(order, home.signed(order))
    home.change()
    home.backup()
    time.sleep(1.3)
    home.ok("rekey", *home.granted("rekey", name="second", machine="second"), *home.where())
    home.backup()
    target = tmp_path / "restored"
    home.ok("restore", "--target", str(target), "--version", "3", *home.granted("restore", name="look"), *home.where())
    assert (target / "acts" / "steady").stat().st_size == 30_000
    assert not [path for path in home.objects("epoch") if " without " in path.read_text()]

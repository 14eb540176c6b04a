"""Destroying an epoch's key: nobody opens any more what was sealed to it, and nothing else is lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from exclave.operations.erasure import SiteErasure
from exclave.rules.deletion import OrderState
from support.deleting import AgeingHome


class QuickHome(AgeingHome):
    """Orders lie open for one second."""

    delay_s = 1


def rekey(home: QuickHome, name: str) -> Any:
    return home.ok("rekey", *home.granted("rekey", name=name, machine=name), *home.where())


def wait() -> None:
    time.sleep(1.3)


def erase(home: QuickHome, site: str) -> list[SiteErasure]:
    return list(home.erase_all(site, days=0))


def boxes(home: QuickHome, site: str) -> set[str]:
    return {path.name for path in home.objects("box", site)}


def shares(home: QuickHome, epoch: int) -> set[str]:
    """Boxes with the shares of an epoch, and with its older keys, as its note names them."""
    found: set[str] = set()
    for path in home.objects("epoch"):
        text = path.read_text()
        if f"\nepoch {epoch}\n" in text:
            found |= {line.split(" ")[4] for line in text.splitlines() if line.startswith("share ")}
            found |= {line.split(" ")[1] for line in text.splitlines() if line.startswith("ancestor ")}
    return found - {"none"}


def test_an_epoch_is_made_unreadable(tmp_path: Path) -> None:
    """Its shares and the older keys that hold it go, once nothing living can need it; all later ones stay readable."""
    home = QuickHome(tmp_path / "state")
    home.found()
    home.grown(2)
    rekey(home, "first")
    home.backup()
    home.new_charter("names-2")
    first = home.propose("keys", "--keys", "1")
    home.publish(first, home.signed(first))
    (home.root / "acts" / "act-3").write_bytes(b"new")
    home.backup()
    wait()
    (waiting,) = erase(home, "lux")
    assert waiting.verdict.state is OrderState.DUE
    assert (waiting.complete, "version 3 may need" in waiting.waits) == (False, True)
    assert shares(home, 1) <= boxes(home, "lux"), "a living version may be sealed to it"

    second = home.propose("rest")
    home.publish(second, home.signed(second))
    wait()
    assert [(one.complete, one.waits[:41]) for one in erase(home, "lux")] == [
        (False, "the key of epoch 1 is among the older key"), (True, "")
    ]  # fmt: skip

    rekey(home, "second")
    home.backup()
    gone, kept = shares(home, 1) | shares(home, 2) & _ancestors(home, 2), shares(home, 3)
    for site in home.sites:
        assert all(one.complete for one in erase(home, site))
        assert not gone & boxes(home, site)
        assert kept <= boxes(home, site)
        assert shares(home, 2) - _ancestors(home, 2) <= boxes(home, site), "the key of epoch 2 stays"
    home.ok("delete", "record", "gazette", *home.home)
    report = home.verify()
    assert report["ok"], report["findings"]
    target = tmp_path / "restored"
    home.ok("restore", "--target", str(target), *home.granted("restore", name="after"), *home.where())
    assert (target / "acts" / "act-3").read_bytes() == b"new"
    home.new_charter("names-3")
    home.backup()
    assert home.verify()["ok"]


def _ancestors(home: QuickHome, epoch: int) -> set[str]:
    found = set()
    for path in home.objects("epoch"):
        text = path.read_text()
        if f"\nepoch {epoch}\n" in text:
            found |= {line.split(" ")[1] for line in text.splitlines() if line.startswith("ancestor ")}
    return found


def test_a_key_is_left_out_only_by_an_order(tmp_path: Path) -> None:
    """Without one that is due, a rekey takes all former keys along: no warrant to rekey can lose what is stored."""
    home = QuickHome(tmp_path / "state")
    home.found()
    home.grown(1)
    rekey(home, "first")
    home.backup()
    home.new_charter("names-2")
    home.delay_s = 1000
    order = home.propose("keys", "--keys", "1")
    home.publish(order, home.signed(order))
    home.object_to(
        "aino", "--order", str(home.ok("delete", "status", *home.home)["registers"][0]["orders"][0]["digest"])
    )
    wait()
    rekey(home, "second")
    home.backup()
    notes = [path.read_text() for path in home.objects("epoch")]
    assert len(notes) == 3
    assert not [note for note in notes if " without " in note]
    assert home.verify()["ok"]

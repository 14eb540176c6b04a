"""``exclave delete`` and ``exclave retention`` as people and scripts use them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from support.deleting import AgeingHome
from support.json_shape import DELETION, has, shape
from support.refusal import refused
from support.small_home import run


class Brisk(AgeingHome):
    """Orders lie open for one second."""

    delay_s = 1


@pytest.fixture
def home(tmp_path: Path) -> Brisk:
    made = Brisk(tmp_path / "state")
    made.found()
    made.grown(2)
    return made


def test_json_of_every_command(home: Brisk) -> None:
    """Each prints one object with the keys that are promised."""
    seen: dict[str, Any] = {}
    order = home.root / "o.order"
    at = f"lux={home.urls['lux']}"

    def ok(name: str, *arguments: str, code: int = 0) -> Any:
        seen[name] = home.fails(code, "delete", name, *arguments)
        return seen[name]

    ok("propose", "gazette", str(order), "--reason", "r", *home.home)
    ok("publish", str(order), *home.signed(order), *home.home)
    ok("status", *home.where())
    waiting = ok("run", at, *home.where("home"), code=1)
    assert waiting["orders"][0]["state"] == "waiting"
    time.sleep(1.2)
    assert ok("run", at, *home.where("home"))["orders"][0]["complete"]
    ok("record", "gazette", *home.home)
    ok("object", home.id_of(), "--key", str(home.key("aino")), "--reason", "r", *home.where())
    assert sorted(seen) == sorted(DELETION)
    for name, keys in DELETION.items():
        assert has(keys, seen[name]), f"{name}: {shape(seen[name])}"


def test_what_is_typed_wrong(home: Brisk, tmp_path: Path) -> None:
    """Each mistake is told in a sentence, and nothing changes."""
    order = home.propose("old")
    at, key = f"lux={home.urls['lux']}", str(home.key("kaja"))
    refused(2, "delete", "propose", "nothing", str(tmp_path / "x"), "--reason", "r", *home.home, says="no register")
    refused(4, "delete", "publish", key, "--warrant", key, *home.home)
    refused(2, "delete", "publish", str(tmp_path / "no"), "--warrant", key, *home.home)
    refused(2, "delete", "object", home.id_of(), "--key", key, "--reason", "r", "--order", "51fe", *home.where())
    refused(2, "delete", "run", at, "--fingerprint", "3f9a", says="fingerprint")
    refused(2, "delete", "run", at, *home.where("home"), "--order", "ab" * 32, says="no ledger names")
    refused(2, "delete", "run", "lux=ftp://host", *home.where("home"))
    other = tmp_path / "other.order"
    other.write_text(order.read_text().replace("Archives", "Archive"))
    refused(33, "delete", "publish", str(other), *home.signed(order), *home.home, says="another order file")
    assert home.verify()["ok"]


def test_an_order_that_was_changed(home: Brisk, tmp_path: Path) -> None:
    """Custodians sign for one file: another one is neither shown to them as it, nor published."""
    order = home.propose("old")
    signed = home.signed(order)
    lines = order.read_text().splitlines(True)
    shorter = tmp_path / "shorter.order"
    shorter.write_text("".join(line.replace("delay 1", "delay 2") for line in lines))
    refused(33, "warrant", "show", signed[1], "--object", str(shorter), says="another order file")
    said = run("warrant", "show", signed[1], "--object", str(order))
    assert "Deletes 1 version of register" in said.out
    assert "It lies open for 1 s; 1 custodian who objects stops it." in said.out


def test_another_home(home: Brisk, tmp_path: Path) -> None:
    """Only the register's writer makes an order public."""
    order = home.propose("old")
    signed = home.signed(order)
    (home.folder / "keys" / "writer.key").unlink()
    home.ok("custodian", "new", "writer", "--out", str(tmp_path))
    said = run("delete", "publish", str(order), *signed, *home.home, "--json")
    assert said.code not in (0, 70)
    assert home.ok("delete", "status", *home.where())["registers"][0]["orders"] == []

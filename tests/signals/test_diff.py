"""``exclave diff``: what it tells of files and tables, how it ends, and what it costs."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from support.clerk import Office
from support.small_home import Register, SmallHome, run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SmallHome:
    """Three versions of a register with two folders and a database: from 1 to 2 much differs, from 2 to 3 nothing."""
    root = tmp_path_factory.mktemp("diff")
    acts, app, database = root / "acts", root / "app", root / "d.sqlite"
    for folder in (acts, app, acts / "old"):
        folder.mkdir()
    for name in ("same", "amended", "moved", "gone", "mode", "dated", "old/one", "old/two"):
        (acts / name).write_text(f"{name} act\n")
    (acts / "link").symlink_to("same")
    (app / "app.py").write_text("print('register')\n")
    (acts / b"caf\xe9".decode("utf-8", "surrogateescape")).write_text("name in bytes")
    with sqlite3.connect(database) as connection:
        connection.executescript(
            "CREATE TABLE deed (id INTEGER PRIMARY KEY, who); CREATE TABLE old (x);"
            " INSERT INTO deed (who) VALUES ('a'), ('b'); INSERT INTO old VALUES (1);"
        )
    connection.close()
    datasets: list[tuple[str, str, dict[str, object]]] = [
        ("acts", "files", {"path": str(acts)}),
        ("app", "files", {"path": str(app)}),
        ("db", "sqlite", {"path": str(database)}),
    ]
    made = SmallHome(root, [Register("land", datasets, at=("lux",), copies=1, countries=1)], sites=["lux"]).found()
    made.backup()
    (acts / "amended").write_text("amended twice\n")
    (acts / "moved").rename(acts / "old" / "moved-there")
    (acts / "gone").unlink()
    (acts / "new").write_text("a new act\n")
    (acts / "mode").chmod(0o600)
    os.utime(acts / "dated", ns=(5, 5))
    (acts / "link").unlink()
    (acts / "link").write_text("no link any more\n")
    (acts / b"caf\xe9".decode("utf-8", "surrogateescape")).unlink()
    with sqlite3.connect(database) as connection:
        connection.executescript("UPDATE deed SET who = 'thief' WHERE id = 1; DROP TABLE old; CREATE TABLE fresh (y);")
    connection.close()
    made.backup()
    made.backup()
    return made


@pytest.fixture(scope="module")
def granted(home: SmallHome) -> list[str]:
    return [*home.where(), *home.granted("restore")]


def test_each_kind_of_change_is_told(home: SmallHome, granted: list[str]) -> None:
    """New, gone, renamed and changed entries with what changed of them; and tables by their rows and digests."""
    found = home.fails(1, "diff", "land", "1", "2", *granted)
    datasets = {d["name"]: d for d in found["datasets"]}
    told = {c["path"]: (c["kind"], tuple(c["aspects"]), c["former"]) for c in datasets["acts"]["changes"]}
    assert told == {
        "amended": ("changed", ("content", "time"), ""),
        "old/moved-there": ("renamed", (), "moved"),
        "gone": ("gone", (), ""),
        "caf\\xe9": ("gone", (), ""),
        "new": ("new", (), ""),
        "mode": ("changed", ("mode",), ""),
        "dated": ("changed", ("time",), ""),
        "link": ("changed", ("type",), ""),
    }
    counts = datasets["acts"]["counts"]
    assert (counts["new"], counts["gone"], counts["renamed"], counts["changed"], counts["content"]) == (1, 2, 1, 4, 1)
    assert (datasets["app"]["counts"], found["same"]) == ({}, False)
    tables = {t["name"]: (t["rows_before"], t["rows_after"], t["state"]) for t in datasets["db"]["tables"]}
    assert tables == {"deed": (2, 2, "differs"), "fresh": (0, 0, "new"), "old": (1, 0, "gone")}


def test_exit_codes(home: SmallHome, granted: list[str]) -> None:
    """0 for the same, 1 for different, and the usual codes for what cannot be compared."""
    assert home.ok("diff", "land", "1", "1", *granted)["same"]
    assert home.ok("diff", "land", "1", "2", "--dataset", "app", *granted)["same"]
    same = run("diff", "land", "2", "3", *granted, "--dataset", "acts")
    assert (same.code, same.out.startswith("land: versions 2 (")) == (0, True)
    assert same.out.rstrip().endswith("are the same.")
    assert run("diff", "land", "2", "1", *granted).code == 1
    assert run("diff", "land", "2", "9", *granted).code == 2
    assert run("diff", "water", "2", "1", *granted).code == 2
    assert run("diff", "land", "2", "1", *home.where(), *granted[-4:-2]).code == 2


def test_lists_are_bounded_and_counts_are_not(home: SmallHome, granted: list[str]) -> None:
    """With --most and --stat fewer entries are listed; how many there are is said all the same."""
    few = home.fails(1, "diff", "land", "1", "2", "--most", "2", *granted)["datasets"][0]
    assert (
        len(few["changes"]),
        few["left_out"],
        sum(few["counts"][k] for k in ("new", "gone", "renamed", "changed")),
    ) == (2, 6, 8)
    text = run("diff", "land", "1", "2", "--stat", *granted).out
    assert "acts" in text
    assert "amended" not in text


def test_a_version_that_is_gone_is_named(home: SmallHome, granted: list[str], tmp_path: Path) -> None:
    """Where no site has a version's objects, diff says what is missing and invents nothing."""
    site = home.site("lux")
    away = tmp_path / "away"
    packs = next(p for p in site.rglob("pack") if p.is_dir())
    packs.rename(away)
    try:
        said: dict[str, Any] = home.fails(22, "diff", "land", "1", "2", *granted)
        assert said["error"] == "missing-object"
    finally:
        away.rename(packs)


def test_cost_follows_what_differs(tmp_path: Path) -> None:
    """Three hundred documents more or less, one of which changed: a handful of nodes is read."""
    office = Office(tmp_path)
    office.night()
    office.files()[0].write_bytes(b"changed")
    office.night()
    granted = [*office.home.where(), *office.home.granted("restore")]
    found = office.home.fails(1, "diff", "land", "1", "2", "--dataset", "documents", *granted)
    assert found["nodes_read"] <= 6
    assert found["datasets"][0]["counts"]["content"] == 1

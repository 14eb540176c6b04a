"""Dormant attackers in a registry office are found, the last clean version is right, honest months raise nothing."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from support.clerk import Office
from support.small_home import run


def judged(office: Office) -> dict[str, Any]:
    """What ``exclave snapshots`` says of the register at home."""
    return dict(office.home.ok("snapshots", "land", *office.home.home)["registers"][0])


def codes(told: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in told["findings"]}


def encrypt(office: Office, path: Path, rng: random.Random, *, keep_date: bool) -> None:
    """What ransomware leaves of a document."""
    time = path.stat().st_mtime_ns
    path.write_bytes(rng.randbytes(path.stat().st_size))
    if keep_date:
        os.utime(path, ns=(time, time))
    else:
        office._date(path)


def test_sixty_ordinary_days_raise_nothing(tmp_path: Path) -> None:
    """Two months of ordinary work, with append-only rows and immutable files declared: every version is ok."""
    office = Office(tmp_path, append_only=True)
    for _ in range(60):
        office.day()
    told = judged(office)
    assert (told["findings"], told["last_clean"], told["suspicious_since"]) == ([], 60, None)
    assert {version["signals"] for version in told["versions"]} == {"ok"}


@pytest.mark.parametrize("keep_date", [True, False])
def test_slow_encryptor_is_found(tmp_path: Path, keep_date: bool) -> None:
    """One per cent of the documents a day, amid ordinary work: found within two days, and where it began is right."""
    office, rng = Office(tmp_path, seed=2), random.Random(9)
    for _ in range(24):
        office.day()
    for _ in range(3):
        office.work()
        for path in rng.sample([p for p in office.files() if p.parent.name != "2026"], len(office.files()) // 100):
            encrypt(office, path, rng, keep_date=keep_date)
        office.night()
    told = judged(office)
    assert told["last_clean"] == 24
    assert told["suspicious_since"] == 25
    assert min(finding["found"] for finding in told["findings"]) <= 26
    assert codes(told) >= ({"mismatch", "silent"} if keep_date else {"mismatch"})
    words = [version["signals"] for version in told["versions"]]
    assert set(words[:24]) == {"ok"}
    assert set(words[24:]) <= {"suspicious", "after 25"}


def test_renaming_encryptor_is_found(tmp_path: Path) -> None:
    """Documents that get an ending added are told with that ending."""
    office, rng = Office(tmp_path, seed=3), random.Random(9)
    for _ in range(12):
        office.day()
    for path in rng.sample(office.files(), 9):
        encrypt(office, path, rng, keep_date=True)
        path.rename(path.with_name(path.name + ".locked"))
    office.day()
    told = judged(office)
    (finding,) = [f for f in told["findings"] if f["code"] == "suffix"]
    assert told["last_clean"] == 12
    assert "(.locked)" in finding["text"]
    assert finding["examples"][0].endswith(".locked")


def alter(office: Office, rows: int) -> None:
    with sqlite3.connect(office.database) as database:
        database.execute("UPDATE entry SET owner = 'thief' WHERE id % 97 = 5 AND id <= ?", (rows * 97,))
    database.close()


def test_silent_altering_of_declared_rows_is_found_at_once(tmp_path: Path) -> None:
    """One old row of an append-only table, altered on a day on which others are added, in the register's first week."""
    office = Office(tmp_path, append_only=True)
    for _ in range(3):
        office.day()
    office.work()
    alter(office, 1)
    office.night()
    office.day()
    told = judged(office)
    (finding,) = told["findings"]
    assert (finding["code"], finding["dataset"], finding["since"], told["last_clean"]) == ("append-only", "db", 4, 3)
    assert finding["text"] == "in table entry, which is only added to, at least 1 old row is altered or gone"


def test_silent_altering_is_found_where_nothing_was_declared(tmp_path: Path) -> None:
    """A table that was only added to for two weeks and then has another old row is noticed, a table of states not."""
    office = Office(tmp_path)
    for _ in range(14):
        office.day()
    office.work()
    alter(office, 3)
    office.night()
    office.day()
    told = judged(office)
    assert [(f["code"], f["since"]) for f in told["findings"]] == [("altered", 15)]
    assert told["last_clean"] == 14


def test_immutable_files(tmp_path: Path) -> None:
    """A file that was declared never to change is told by name when it does, and when it is gone."""
    office = Office(tmp_path, immutable=True)
    office.night()
    old = [path for path in office.files() if path.suffix == ".pdf"]
    old[0].write_bytes(b"%PDF-1.7\nanother deed\n%%EOF\n")
    assert office.night().suspicious == ("documents: 1 file is changed or gone, although declared never to change",)
    old[1].unlink()
    office.night()
    told = judged(office)
    assert [(f["code"], f["since"]) for f in told["findings"]] == [("sealed", 2), ("sealed", 3)]
    assert told["findings"][0]["examples"] == [str(old[0].relative_to(office.documents))]
    assert told["last_clean"] == 1


def test_people_accept_what_was_meant_to_be(tmp_path: Path) -> None:
    """An accepted finding is still told, with its reason, and moves the last clean version no more; others do."""
    office = Office(tmp_path, immutable=True)
    office.night()
    old = [path for path in office.files() if path.suffix == ".pdf"]
    old[0].write_bytes(b"%PDF-1.7\nmigrated\n%%EOF\n")
    office.night()
    accept = ["snapshots", "land", *office.home.home, "--accept"]
    office.home.fails(2, *accept, "1", "--because", "nothing was found there")
    office.home.fails(2, *accept, "2")
    told = office.home.ok(*accept, "2", "--because", "The archive was migrated")["registers"][0]
    assert (told["last_clean"], told["findings"][0]["accepted"]) == (2, True)
    assert "[accepted: The archive was migrated]" in run("snapshots", "land", *office.home.home).out
    old[1].unlink()
    office.night()
    assert judged(office)["last_clean"] == 2


def test_without_a_home_a_warrant_shows_the_same(tmp_path: Path) -> None:
    """The verdict can be read from the manifests abroad; hosts and strangers see nothing of it."""
    office = Office(tmp_path, append_only=True)
    office.day()
    alter(office, 1)
    office.day()
    at_home = judged(office)
    stranger = office.home.ok("snapshots", office.home.id_of(), *office.home.where())["registers"][0]
    assert "findings" not in stranger
    assert "signals" not in stranger["versions"][0]
    granted = office.home.granted("restore")
    abroad = office.home.ok("snapshots", "land", *office.home.where(), *granted)["registers"][0]
    for key in ("findings", "last_clean", "suspicious_since"):
        assert abroad[key] == at_home[key]
    for path in tmp_path.joinpath("sites").rglob("*"):
        assert not path.is_file() or b"exclave/signals" not in path.read_bytes()


def test_lost_cache_is_told(tmp_path: Path) -> None:
    """A version that could be compared with nothing is shown as blind, and the next one is compared with it."""
    office = Office(tmp_path)
    office.day()
    office.day()
    cache = office.home.folder / "cache" / office.home.id_of()
    for path in (*cache.glob("*.catalogue"), *cache.glob("*.rows")):
        path.unlink()
    office.day()
    office.day()
    told = judged(office)
    assert [version["signals"] for version in told["versions"]] == ["ok", "ok", "blind", "ok"]
    assert told["findings"] == []


def test_torn_notes_spoil_nothing(tmp_path: Path) -> None:
    """A damaged line in the home's notes costs that version's signals, and no other's."""
    office = Office(tmp_path)
    for _ in range(3):
        office.day()
    notes = office.home.folder / "cache" / office.home.id_of() / "signals"
    lines = notes.read_bytes().splitlines(keepends=True)
    notes.write_bytes(lines[0] + lines[1][:200] + b"\n" + lines[2][:-20])
    office.day()
    assert [version["signals"] for version in judged(office)["versions"]] == ["ok", "-", "-", "ok"]

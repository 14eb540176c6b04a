"""What people see: answers to questions, names for numbers, and tables on a terminal of 80 columns."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import typer
from rich.console import Console

from exclave.cli import main, output
from support.small_home import SmallHome, run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SmallHome:
    """A home with a charter in force and one version."""
    made = SmallHome(tmp_path_factory.mktemp("screens")).found()
    made.backup()
    return made


def test_a_no_is_an_answer(home: SmallHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is asked for a signature and says no hears that nothing was signed, and no advice about options."""
    draft = str(tmp_path / "draft")
    home.ok("charter", "propose", draft, *home.home)
    monkeypatch.setattr(typer, "confirm", lambda question: False)
    said = run("charter", "sign", draft, "--key", str(home.key("kaja")), *home.where())
    assert said.code == 2
    assert said.out.endswith("Not signed.\n")
    assert "--help" not in said.out + said.err
    warrant = home.request("restore", name="declined")
    said = run("warrant", "sign", str(warrant), "--key", str(home.key("kaja")), *home.where())
    assert (said.code, said.out.endswith("Not signed.\n"), said.err) == (2, True, "")
    assert list(warrant.parent.glob("declined-*.answer")) == []


def test_one_is_no_plural(home: SmallHome) -> None:
    """One share is a share."""
    warrant = home.request("restore", name="one")
    said = run("warrant", "sign", str(warrant), "--yes", "--key", str(home.key("kaja")), *home.where())
    assert "kaja consents; 1 share was sealed to the machine." in said.out


def test_versions_take_one_line_each(
    home: SmallHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 80 columns a version is one line of `snapshots`; sites are counted where all have it, named where not."""
    monkeypatch.setattr(output, "out", Console(width=80, highlight=False, emoji=False, soft_wrap=True))
    assert main.run(["snapshots", *home.home]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("1 "))
    assert "all 3" in row
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row)
    assert max(map(len, lines[1:])) <= 80
    assert main.run(["snapshots", *home.where("lux")]) == 0
    assert "all" not in capsys.readouterr().out


def test_tables_break_between_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At 80 columns no word, date or path is torn; what alone is longer than the terminal stays whole as well."""
    monkeypatch.setattr(output, "out", Console(width=80, highlight=False, emoji=False, soft_wrap=True))
    row = ("gazette", 1, "home-writer", 12, "2026-11-26 22:57:01", "4 min 10 s", "1 h 0 min", "NO: older than its RPO")
    output.table(("register", "epoch", "writer", "version", "state of (UTC)", "age", "RPO", "protected"), [row])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for word in ("gazette", "home-writer", "2026-11-26", "22:57:01", "older"):
        assert any(word in line for line in lines), word
    output.table(("version", "state of (UTC)", "why"), [(1, "2026-11-26 22:57:01", "one word after another " * 5)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("2026-11-26 22:57:01" in line for line in lines)
    path = "/srv/restored/" + "x" * 90
    output.table(("dataset", "folder"), [("acts", path)])
    assert path in capsys.readouterr().out


def test_a_register_is_chosen(home: SmallHome, tmp_path: Path) -> None:
    """A register that the warrant does not name is refused without advice about an option that ``diff`` has not."""
    granted = home.granted("restore")
    said = home.fails(2, "diff", "land", "1", "1", *home.where(), *granted)
    assert "the warrant has: gazette" in said["message"]
    assert "--register" not in said["message"] + said["hint"]


def test_too_few_sites_are_chosen(home: SmallHome) -> None:
    """``backup --to`` with sites that alone cannot meet the rule says so before anything is captured."""
    said = home.fails(16, "backup", "gazette", "--to", "home", *home.home)
    assert "1 of 2 copies" in said["message"]
    assert "--to" in said["hint"]
    assert len(home.versions()) == 1


def test_one_line_per_site(tmp_path: Path) -> None:
    """``status`` says once that a site is empty or away, with what to do, and not what follows from it."""
    home = SmallHome(tmp_path).found()
    home.backup()
    shutil.rmtree(home.site("nord"))
    shutil.rmtree(home.site("lux"))
    home.site("lux").mkdir()
    said = run("status", *home.home)
    assert said.code == 1
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["nord does not answer", "lux is empty"]
    assert "exclave site rebuild lux" in said.err
    away, empty = home.fails(1, "status", *home.home)["findings"]
    assert (away["site"], away["fault"], away["grave"]) == ("nord", "site-unavailable", False)
    assert (empty["site"], empty["fault"], empty["grave"]) == ("lux", "missing-object", True)


def test_registers_have_names_at_home(tmp_path: Path) -> None:
    """``verify`` and ``scrub`` call a register by its name where it is known, and by its whole id elsewhere."""
    home = SmallHome(tmp_path).found()
    home.backup()
    pack = next(p for p in home.site("nord").rglob("*") if p.is_file() and "/pack/" in str(p))
    pack.chmod(0o600)
    pack.write_bytes(b"spoilt")
    said = run("verify", *home.home)
    assert said.out.count("gazette") == 3  # in the table, at its fault, and where it lies whole
    assert "FAULT nord: gazette: corrupt-object: " in said.out
    assert home.id_of() in run("verify", *home.where()).out.split("FAULT")[0]
    assert "nord: gazette: corrupt-object: " in run("scrub", "nord", "--days", "1", "--check-only", *home.home).out

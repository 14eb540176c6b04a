"""What people see: answers to questions, names for numbers, and tables on a terminal of 80 columns."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from rich.console import Console

from exclave.cli import output
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

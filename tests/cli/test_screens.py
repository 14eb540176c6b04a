"""What people see: answers to questions, names for numbers, and tables on a terminal of 80 columns."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
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


def test_what_is_signed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the question stand the rules in words and what they change; after it, what was compared and where."""
    home, draft = SmallHome(tmp_path).found(), str(tmp_path / "draft")
    config = home.folder / "exclave.toml"
    config.write_text(config.read_text().replace("rpo_s = 3600", "rpo_s = 7200"))
    home.ok("charter", "propose", draft, *home.home)
    monkeypatch.setattr(typer, "confirm", lambda question: True)
    said = run("charter", "sign", draft, "--key", str(home.key("kaja")), *home.where())
    assert said.code == 0
    assert f"  Register gazette ({home.id_of()}):\n" in said.out
    assert "An order to delete waits 30 days in the open; 1 custodian's objection stops it.\n" in said.out
    changed = said.out.partition("Against charter 1, which is in force:\n")[2]
    assert changed.startswith(f"  changed: register gazette ({home.id_of()}). Before: At most 1 hour of changes")
    assert "Now: At most 2 hours of changes may be lost (RPO)" in changed
    where = ", ".join(home.sites)
    assert f"no new shares in this charter; 1 epoch compared with that in force at {where}.\n" in said.out
    (shown,) = home.ok("charter", "show", *home.home)["charter"]["registers"]
    assert (shown["deletion"], shown["hold"]) == ({"delay_s": 2592000, "objections": 1}, None)
    assert shown["placement"] == {"copies": 2, "countries": 2, "outside_home": 1, "administrators": 1}


def test_where_nobody_can_be_asked(home: SmallHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a timer or a pipe nothing is signed, and it is said what to do; that is no interruption."""
    draft = str(tmp_path / "draft")
    home.ok("charter", "propose", draft, *home.home)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    said = run("charter", "sign", draft, "--key", str(home.key("kaja")), *home.where())
    assert said.code == 2
    assert "nobody can be asked here, so nothing was signed" in said.err
    assert "--yes" in said.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("site", "add"), "`exclave site add NAME URL [OPTIONS]`. `exclave site add --help`"),
        (("diff", "gazette", "--home", "x"), "`exclave diff REGISTER BEFORE AFTER [OPTIONS]`"),
        (("backup", "--to"), "`exclave backup [REGISTERS] [OPTIONS]`"),
        (("status", "--site", "lux", "--fingerprint", "00"), "lux=dir:/mnt/lux"),
        (("nosuch",), "`exclave --help`"),
        (("failover", "status", "--dir", "/nowhere"), "`exclave failover run`"),
    ],
)
def test_what_was_mistyped_gets_a_next_step(arguments: tuple[str, ...], told: str) -> None:
    """The hint names the command that was called, how it is called, and where more of it stands."""
    said = run(*arguments)
    assert said.code == 2
    assert told in said.err
    assert "Possible options: --help" not in said.err


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


def _all_tables() -> list[tuple[str, ...]]:
    """The columns of every table that a command prints."""
    found: list[tuple[str, ...]] = []
    for file in sorted(Path(output.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "table":
                words = [n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)]
                found.append(tuple(word for word in words if isinstance(word, str)))
    return found


_LONG = "a" + "n" * 39
_CELLS = {
    "long names": lambda at: _LONG,
    "moments": lambda at: "2026-11-26 22:57:01",
    "sentences": lambda at: f"NO: {_LONG} is older than its RPO of 4 min 10 s, and so is what it holds",
    "a long path": lambda at: "/srv/" + "x" * 90 if at == 1 else "acts",
    "a usual row": lambda at: ("gazette", _LONG, "12", "2026-11-26 22:57:01", "1.5 MiB", "all 3")[at % 6],
}


@pytest.mark.parametrize("cells", _CELLS.values(), ids=_CELLS)
@pytest.mark.parametrize("columns", _all_tables(), ids=" ".join)
def test_no_table_tears_a_word(
    columns: tuple[str, ...], cells: Callable[[int], str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """At 80 columns each word of each table stands whole in a line that fits; a longer one has its own line."""
    monkeypatch.setattr(output, "out", Console(width=80, highlight=False, emoji=False, soft_wrap=True))
    row = [cells(at) for at in range(len(columns))]
    output.table(columns, [row, row])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80 and len(line.split()) > 1] == []
    words = [word for text in (*columns, *row) for word in text.split()]
    assert [word for word in words if not any(word in line.split() for line in lines)] == []


def test_there_are_tables() -> None:
    """An empty list of tables would pass; and no command has a way of its own."""
    assert len(_all_tables()) > 40
    users = [f.name for f in Path(output.__file__).parent.glob("*.py") if "rich.table" in f.read_text()]
    assert users == ["tables.py"]


def test_quantities_stay_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is room for it, a moment or a time stands in one line, and a long text takes what is left."""
    monkeypatch.setattr(output, "out", Console(width=80, highlight=False, emoji=False, soft_wrap=True))
    row = ("gazette", "home-writer (epoch 1)", 12, "2026-11-26 22:57:01", "4 min 10 s", "1 h", "NO: older than its RPO")
    output.table(("register", "writer", "version", "state of (UTC)", "age", "RPO", "protected"), [row])
    assert any("4 min 10 s" in line and "gazette" in line for line in capsys.readouterr().out.splitlines())
    output.table(("version", "state of (UTC)", "why"), [(1, "2026-11-26 22:57:01", "one word after another " * 5)])
    assert any("2026-11-26 22:57:01" in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(("columns", "width"), [("", 120), ("200", 200)])
def test_a_pipe_has_its_own_width(home: SmallHome, columns: str, width: int) -> None:
    """What goes into a pipe is as wide wherever it was typed, unless COLUMNS says how wide; no name is folded there."""
    environment = {**os.environ, "COLUMNS": columns, "EXCLAVE_HOME": str(home.folder)}
    shown = "from exclave.cli import output; print(output.out.width)"
    done = subprocess.run([sys.executable, "-c", shown], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{width}\n"


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
    told = [line.split(":")[0] for line in said.err.splitlines() if not line.startswith("  Next: ")]
    assert told == ["nord does not answer", "lux is empty"]
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

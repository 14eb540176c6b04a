"""Names that an enemy gave his files and tables, shown on an operator's terminal."""

from __future__ import annotations

import pytest

from exclave.cli.output import say, table, visible
from exclave.cli.progress import Work, describe


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name with brackets ends no `exclave diff`, and no part of it disappears."""
    table(("path",), [["a[/b]"], ["report[final].pdf"], ["[conceal]hidden"]])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("a[/b]", "report[final].pdf", "[conceal]hidden"))


def test_name_is_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    """A line end in a name begins no row of its own."""
    table(("kind", "path"), [["new", "a\nchanged  b"]])
    assert "a\\nchanged  b" in capsys.readouterr().out


def test_names_do_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, turned text and what has no character are shown as what they are."""
    hostile = "x\x1b[2K\x1b]52;c;eA==\x07\x9b1A\r\u202egpj.exe\udcff"
    table(("path",), [[hostile]])
    say(hostile)
    first, _ = describe(Work("r", hostile), passed_s=1, read_rate=0, shipped_rate=0, width=200)
    shown = capsys.readouterr().out + first
    assert not set(shown) & set("\x1b\x07\x9b\r\u202e\udcff")
    assert shown.count(r"\x1b[2K") == 3
    assert visible("õ\t– \n日") == "õ\t– \n日"

"""What is said after Ctrl-C holds for the command that was broken off."""

from __future__ import annotations

import pytest
import typer

from exclave.cli import main
from support.small_home import run

CASES = [
    ("backup", "goes on from it"),
    ("site import disk --into lux", "goes on from it"),
    ("restore --target there", "while TARGET.restoring lies beside the target"),
    ("scrub lux", "reads its part anew"),
    ("verify", "it begins anew"),
    ("export acts", "nothing was exported"),
    ("warrant sign a.warrant", "not signed"),
    ("charter sign draft", "not signed"),
    ("status", "nothing was changed"),
    ("init", "what it wrote so far stays"),
]


@pytest.mark.parametrize(("line", "told"), CASES)
def test_interrupted(monkeypatch: pytest.MonkeyPatch, line: str, told: str) -> None:
    """Each command says for itself what is kept and what has to be done again; the exit code is 130."""

    def broken_off(**arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "build", lambda only: broken_off)
    said = run(*line.split())
    assert said.code == 130
    assert said.err.startswith("exclave: interrupted; ")
    assert told in said.err
    assert ("goes on from it" in said.err) == (line.split(maxsplit=1)[0] in ("backup", "site", "restore"))


def test_commands_are_there() -> None:
    """Every command that something is said about exists: a misspelt one would get what holds for others."""
    root = typer.main.get_command(main.app)
    for name in main._IF_INTERRUPTED:
        command = root
        for word in name.split():
            assert word in command.commands, name
            command = command.commands[word]
        assert not hasattr(command, "commands"), name

"""What people see: answers to questions, names for numbers, and tables on a terminal of 80 columns."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

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

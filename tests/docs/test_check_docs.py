"""The checker of the documents: the project passes it, and each fault that it looks for is found."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "tools" / "check_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checker = _load()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The documents, and the formats that they describe, in a place of their own."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "src/exclave/formats", tmp_path / "src/exclave/formats")
    for name in ("README.md", "ARCHITECTURE.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for linked in ("bench", "tools"):
        (tmp_path / linked).mkdir()
    return tmp_path


def test_documents_are_right() -> None:
    """Nothing is wrong with the documents as they stand."""
    assert checker.check() == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda p: _write(p / "docs/new.md", "[here](nowhere.md)\n"), "leads nowhere"),
        (lambda p: _write(p / "docs/new.md", "[here](threats.md#of-mice)\n"), "no heading"),
        (lambda p: _write(p / "src/exclave/formats/new.py", '"""A new one."""\n'), "names no page"),
        (lambda p: _write(p / "src/exclave/formats/new.py", '"""Page: ``docs/spec/new.md``."""\n'), "is not there"),
        (lambda p: _write(p / "docs/spec/new.md", "# New\n"), "is not listed"),
        (lambda p: _write(p / "docs/adr/0001-again.md", "# 1. Again\n"), "is taken"),
        (lambda p: _write(p / "docs/adr/0999-other.md", "# 7. Other\n"), "title"),
        (lambda p: _write(p / "docs/new.md", "as seen in " + "/wor" + "k/x\n"), "does not belong"),
        (lambda p: _change(p / "docs/cli.md", "| 31 |", "| 32 |"), "does not say what the code says"),
        (lambda p: _change(p / "docs/cli.md", "### exclave backup", "### exclave save"), "does not say"),
        (lambda p: _change(p / "docs/spec/config.md", "| `rpo_s` |", "| `rpo` |"), "rpo_s of [[register]]"),
        (lambda p: _change(p / "README.md", ", `coded mend`", ""), "lacks exclave coded mend"),
        (lambda p: _change(p / "README.md", ", `rebuild`", ", `rebuild`, `refill`"), "has refill"),
    ],
)
def test_faults_are_found(project: Path, spoil: Callable[[Path], None], told: str) -> None:
    """One planted fault gives one line that says so."""
    assert checker.check(project) == []
    spoil(project)
    found = checker.check(project)
    assert len(found) == 1, found
    assert told in found[0]


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_every_option_is_told() -> None:
    """Each command, each of its options and each error's name and exit code stand in the reference."""
    page = (ROOT / "docs/cli.md").read_text()
    for name, command in checker.commands():
        part = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
        for parameter in command.params:
            if parameter.name != "help" and parameter.param_type_name == "option":
                names = ", ".join((*parameter.opts, *parameter.secondary_opts))
                assert f"`{names}`" in part, f"{name} {names}"
    for kind in checker.all_errors():
        if kind is not checker.ExclaveError:
            assert f"| {kind.exit_code} | `{kind.code}` |" in page

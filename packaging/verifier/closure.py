"""Which modules the verifier's wheel holds: its command, all that this imports, and nothing else of Exclave."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path(__file__).resolve().parents[2] / "src"
COMMAND = "exclave.verify.command"
ALLOWED = frozenset({"crypto", "durable", "errors", "formats", "ids", "rules", "sites", "verify"})
"""Parts of Exclave that may come along. Whoever makes the verifier import another one breaks its build."""


def find_modules(name: str = COMMAND) -> dict[str, Path]:
    """Files by name of module: ``name``, the packages it is in, and everything imported from there on."""
    found: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        path = _path(module)
        if module in found or path is None:
            continue
        found[module] = path
        if "." in module:
            waiting.append(module.rpartition(".")[0])
        waiting += _imported(path)
    foreign = sorted(module for module in found if module.split(".")[1:2] and module.split(".")[1] not in ALLOWED)
    if foreign:
        raise ValueError(f"the verifier would bring along {', '.join(foreign)}")
    return found


def _path(module: str) -> Path | None:
    """The file of a module of ours; None for anything else."""
    place = SOURCES.joinpath(*module.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class VerifierFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling for each wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the modules, each where Python looks for it."""
        for path in find_modules().values():
            build_data["force_include"][str(path)] = str(path.relative_to(SOURCES))

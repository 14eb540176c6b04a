"""Lines about sites, by their vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exclave.errors import MalformedError
from exclave.formats.sitefacts import LockLine, ProbeLine, parse_lock_line, parse_probe_line
from exclave.ids import Label
from exclave.operations.status import locks_problem

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "sitefacts" / "vectors.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['form']}: {case['name']}")
def test_vectors(case: dict[str, str]) -> None:
    """Each line does what its vector says, and what parses encodes to the same text."""
    parse = parse_probe_line if case["form"] == "probe" else parse_lock_line
    if case["expect"] == "ok":
        line: ProbeLine | LockLine = parse(case["text"])
        assert line.encode() == case["text"]
    else:
        with pytest.raises(MalformedError):
            parse(case["text"])


@pytest.mark.parametrize(
    ("until", "short", "told"),
    [(1100, 0, ""), (1014, 0, "locks end on"), (990, 0, "locks end on"), (1100, 1, "1 of 9")],
)
def test_when_locks_are_told_of(until: int, short: int, told: str) -> None:
    """A fortnight before the first lock ends, and whenever something is not held."""
    found = locks_problem(LockLine(Label("lux"), until, 9, 0, short), 1000)
    assert found.startswith(told)
    assert bool(found) == bool(told)

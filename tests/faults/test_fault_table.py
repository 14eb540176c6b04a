"""The table itself: what makes a run fail, and when missing rows are missed."""

from __future__ import annotations

import pytest

from support.fault_table import EXPECTED, FaultTablePlugin, Row, lines


@pytest.mark.parametrize(
    ("row", "whole"),
    [
        (Row(2, 1, 1, 2, 0), True),
        (Row(2, 0, 2, 2, 1), False),
        (Row(2, 0, 1, 2, 0), False),
        (Row(2, 0, 2, 1, 0), False),
        (Row(), False),
    ],
)
def test_what_fails_a_run(row: Row, whole: bool, pytestconfig: pytest.Config) -> None:
    """Anything lost, not found, not healed or not tried is a problem of the run."""
    plugin = FaultTablePlugin(pytestconfig)
    plugin.rows[EXPECTED[0]] = row
    told = [problem for problem in plugin.problems() if "no test told" not in problem]
    assert (not told) == whole
    assert list(lines(plugin.rows))[-1].split() == [
        "all",
        *map(str, (row.tried, row.harmless, row.found, row.healed, row.lost)),
    ]


@pytest.mark.parametrize("everything", [True, False])
def test_missing_rows(everything: bool, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of all tests misses each row that nobody told of; a run of some tests misses none."""
    plugin = FaultTablePlugin(pytestconfig)
    monkeypatch.setattr(plugin, "_everything", lambda: everything)
    plugin.rows[EXPECTED[0]] = Row(1, 0, 1, 1, 0)
    assert len(list(plugin.problems())) == (len(EXPECTED) - 1 if everything else 0)

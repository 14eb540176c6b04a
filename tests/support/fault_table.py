"""The fault and attack table: tests of faults tell what they tried and what became of it; the end of a run shows it.

A test asks for the fixture ``fault_table`` and calls ``told`` for each case, or ``suite`` for many alike. What it
told travels with the test's report, so it arrives from every worker process. A run of all tests in which a row of
``EXPECTED`` is missing fails, as does any run in which something was lost; a run of some tests shows what it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

_NAME = "exclave fault"
FAULTS = ("killed", "cut off", "filled", "slow", "hostile")
"""What happens to a site in the grid, at a step of each of ``OPERATIONS``."""
OPERATIONS = ("backup", "failover", "sync", "rebuild", "evacuate")
REAL = {
    ("gateway", "killed"): ("backup", "rebuild"),
    ("gateway", "filled"): ("backup", "evacuate"),
    ("gateway", "slow"): ("sync", "failover"),
    ("gateway", "hostile"): ("backup", "failover"),
    ("s3", "killed"): ("backup",),
    ("s3", "filled"): ("sync",),
    ("s3", "slow"): ("failover",),
    ("s3", "hostile"): ("rebuild",),
}
"""What happens to a real host, and the operations at whose steps it is tried by default."""
BAD_LINES: dict[tuple[str, str], tuple[str, ...]] = {
    ("gateway", "delay"): ("backup",),
    ("gateway", "loss"): ("evacuate",),
    ("gateway", "bandwidth"): ("sync",),
    ("gateway", "partition"): ("failover", "rebuild"),
    ("s3", "delay"): (),
    ("s3", "loss"): ("backup",),
    ("s3", "bandwidth"): (),
    ("s3", "partition"): ("sync",),
}
"""Lines to hosts in namespaces, and the operations that are done over them by default."""
OTHERS = (
    *((f"{kind}: {operation}", f"line: {line}") for (kind, line), some in BAD_LINES.items() for operation in some),
    *((f"{kind}: {operation}", fault) for (kind, fault), operations in REAL.items() for operation in operations),
    ("restore", "hostile host, any object"),
    ("backup", "host lies about writes"),
    ("backup", "host hides what it was given"),
    ("backup", "process or disk fails"),
    ("sync", "process or disk fails"),
    ("evacuate", "process or disk fails"),
    ("delete", "process or disk fails"),
    ("rekey", "process or disk fails"),
    ("gateway", "cut off"),
    ("s3", "cut off"),
    ("readers", "split view"),
    ("gateway", "thief with all credentials"),
    ("s3", "thief with all credentials"),
    ("gateway", "malicious neighbour"),
    ("gateway", "hostile protocol"),
    ("gateway", "fuzzed protocol"),
    ("hosts", "search for plaintext"),
)
"""Further rows that a run of all tests must have."""
EXPECTED = (*((operation, fault) for operation in OPERATIONS for fault in FAULTS), *OTHERS)


@dataclass(slots=True)
class Row:
    """One line of the table, or a part of it from one test."""

    tried: int = 0
    """Cases."""
    harmless: int = 0
    """Of them, those in which the fault changed nothing that there would be to find."""
    found: int = 0
    """Those in which the product named the site or refused the attack."""
    healed: int = 0
    """Those after which everything was whole again, or had never ceased to be."""
    lost: int = 0
    """Promised versions, or objects, that did not come back as they were."""

    def add(self, other: Row) -> None:
        self.tried += other.tried
        self.harmless += other.harmless
        self.found += other.found
        self.healed += other.healed
        self.lost += other.lost

    @property
    def whole(self) -> bool:
        """Each case was found or did nothing, each was healed, and nothing was lost."""
        return self.tried > 0 and self.found + self.harmless == self.tried == self.healed and self.lost == 0


class FaultTable:
    """What one test tells."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def told(self, operation: str, fault: str, row: Row) -> None:
        """Adds ``row`` to the line of ``operation`` and ``fault``."""
        line = [operation, fault, row.tried, row.harmless, row.found, row.healed, row.lost]
        self._properties.append((_NAME, json.dumps(line)))

    def suite(self, operation: str, fault: str, tried: int) -> None:
        """``tried`` cases, all found and healed: to be called last, when the test's own assertions have held."""
        self.told(operation, fault, Row(tried, 0, tried, tried, 0))


class FaultTablePlugin:
    """Collects, shows, and fails the run if something was lost or a row is missing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.rows: dict[tuple[str, str], Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":
            return
        for name, value in report.user_properties:
            if name == _NAME:
                operation, fault, *numbers = json.loads(str(value))
                self.rows.setdefault((operation, fault), Row()).add(Row(*numbers))

    def problems(self) -> Iterator[str]:
        """What makes the run fail, in words."""
        for (operation, fault), row in self.rows.items():
            if not row.whole:
                yield f"{operation}, {fault}: not every fault was found and healed, or something was lost"
        if self._everything():
            for operation, fault in EXPECTED:
                if (operation, fault) not in self.rows:
                    yield f"{operation}, {fault}: no test told of it"

    def _everything(self) -> bool:
        """Whether nothing was named or left out on the command line."""
        option = self._config.option
        chosen = option.keyword or option.markexpr or option.deselect or option.ignore or option.maxfail
        cached = getattr(option, "lf", False) or getattr(option, "collectonly", False)
        return self._config.args_source is pytest.Config.ArgsSource.TESTPATHS and not chosen and not cached

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and any(self.problems()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.rows:
            return
        terminalreporter.section("faults and attacks")
        for line in lines(self.rows):
            terminalreporter.write_line(line)
        for problem in self.problems():
            terminalreporter.write_line(f"FAILED {problem}", red=True)


def lines(rows: dict[tuple[str, str], Row]) -> Iterator[str]:
    """The table, with its sum."""
    form = "{:<18}{:<30}{:>7}{:>10}{:>7}{:>8}{:>6}"
    yield form.format("operation", "fault or attack", "tried", "harmless", "found", "healed", "lost")
    total = Row()
    known = [place for place in EXPECTED if place in rows]
    for place in (*known, *sorted(set(rows) - set(known))):
        row = rows[place]
        total.add(row)
        yield form.format(*place, row.tried, row.harmless, row.found, row.healed, row.lost)
    yield form.format("all", "", total.tried, total.harmless, total.found, total.healed, total.lost)


def register(config: pytest.Config) -> None:
    """Called once by ``conftest.py``; a worker process of xdist only reports."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FaultTablePlugin(config), "fault-table")

"""Rounds over many registers, in several processes."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from exclave.operations.rounds import batches, next_start
from support.small_home import Register, SmallHome, run, start


def _town(root: Path, count: int) -> SmallHome:
    registers = []
    for number in range(count):
        folder = root / f"files-{number}"
        folder.mkdir()
        (folder / "act").write_text(f"Act {number}")
        registers.append(Register(f"register-{number}", [("acts", "files", {"path": str(folder)})]))
    return SmallHome(root, registers).found()


@pytest.mark.parametrize(
    ("count", "jobs", "sizes"), [(0, 2, []), (1, 4, [1]), (5, 2, [2, 2, 1]), (40, 2, [8] * 5), (9, 1, [5, 4])]
)
def test_batches(count: int, jobs: int, sizes: Sequence[int]) -> None:
    """Every register is in one batch, in order; each process gets several batches where there are enough."""
    names = [f"r{n}" for n in range(count)]
    cut = list(batches(names, jobs))
    assert [len(batch) for batch in cut] == sizes
    assert [name for batch in cut for name in batch] == names


@pytest.mark.parametrize(
    ("now", "start", "late"), [(100.0, 160.0, 0.0), (159.9, 160.0, 0.0), (165.0, 165.0, 5.0), (1000.0, 1000.0, 840.0)]
)
def test_next_start(now: float, start: float, late: float) -> None:
    """Rounds begin at even intervals; one that took too long is followed at once, and what was missed is left out."""
    assert next_start(100.0, 60.0, now) == (start, late)


def test_a_round_in_two_processes(tmp_path: Path) -> None:
    """Each register gets its version; one whose source is gone fails by name and ends no other."""
    home = _town(tmp_path, 5)
    shutil.rmtree(tmp_path / "files-3")
    done = run("backup", "--jobs", "2", "--json", *home.home)
    report = json.loads(done.out)
    assert {o["register"]: o["sequence"] for o in report["outcomes"]} == {
        f"register-{n}": int(n != 3) for n in range(5)
    }
    failed = [o for o in report["outcomes"] if o["error"]]
    assert [(o["register"], o["error"], o["exit_code"]) for o in failed] == [
        ("register-3", "source-unavailable", done.code)
    ]
    assert done.code == 14
    (tmp_path / "files-3").mkdir()
    told = run("backup", "--jobs", "2", *home.home)
    assert told.code == 0
    assert "round 1: 5 versions of 5 registers in" in told.out
    home.verify()
    assert [len(home.versions(f"register-{n}")) for n in range(5)] == [2, 2, 2, 1, 2]


def test_rounds_until_told_to_stop(tmp_path: Path) -> None:
    """Round follows round, each with a line of its own; SIGTERM ends them between versions."""
    home = _town(tmp_path, 3)
    process = start("backup", "--every", "1s", "--jobs", "2", "--json", *home.home)
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    rest, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    rounds = [*lines, *(json.loads(line) for line in rest.splitlines())]
    assert [r["number"] for r in rounds] == list(range(1, len(rounds) + 1))
    made = sum(1 for r in rounds for o in r["outcomes"] if o["sequence"])
    assert sum(len(home.versions(f"register-{n}")) for n in range(3)) == made
    home.verify()


def test_wrong_intervals(tmp_path: Path) -> None:
    """What is no interval is a usage error."""
    home = _town(tmp_path, 1)
    for wrong in ("1", "1 h", "0s", "-1s", "fast"):
        assert run("backup", f"--every={wrong}", *home.home).code == 2

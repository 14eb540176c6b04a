"""What the benchmark concludes from its figures: goals met, missed or without a figure, and where time went."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))  # last: its modules have plain names

from goals import growth_goals, link_goal, peak_goal, tree_goals
from measuring import Run, differences
from profiling import stages_of
from rounds import CHANGED, COPY, FULL, OURS, RESTORE, UNCHANGED, VERIFY, Figures

MIB = 1 << 20


def figures(walls: dict[str, float], *, full: int = 100, added: int = 10, peak: int = MIB) -> Figures:
    runs = {operation: [Run(wall, wall, 0.0, peak)] for operation, wall in walls.items()}
    return Figures(runs, [full], [added], [1000 * 10**6], [0.3], [1000.0])


def verdicts(name: str, ours: Figures, **peers: Figures) -> dict[str, bool | None]:
    return {goal.measure: goal.met for goal in tree_goals(name, {OURS: ours, **peers}, 10_000)}


def test_goals_of_a_tree() -> None:
    """Each goal is decided against the better peer, exactly at its bound."""
    ours = figures({FULL: 1.0, UNCHANGED: 1.0, CHANGED: 1.0, RESTORE: 1.0, VERIFY: 1.5}, full=102, added=200)
    restic = figures({FULL: 2.0, UNCHANGED: 2.9, CHANGED: 5.0, RESTORE: 1.6}, full=100, added=1)
    borg = figures({FULL: 9.0, UNCHANGED: 9.0, CHANGED: 1.9, RESTORE: 1.5}, full=300, added=2)
    assert verdicts("usr", ours, restic=restic, borg=borg) == {
        FULL: True, UNCHANGED: False, CHANGED: False, RESTORE: True, "shipped after 1 % changed": True,
        "keyless verification, packs": True, "peak memory": True, "stored after the full backup": True,
    }  # fmt: skip
    assert verdicts("database", ours, restic=restic)["shipped after 1 % changed"] is False


def test_what_is_not_there_is_neither_met_nor_missed() -> None:
    """Without a figure of ours, of any peer, or with a site too small to tell, there is no verdict."""
    ours = figures({FULL: 1.0, VERIFY: 0.5})
    found = verdicts("random", ours)
    assert found[FULL] is None
    assert found["restore beside cp -a"] is None
    assert found["keyless verification, packs"] is None  # 0.5 s, of it 0.3 s for the start
    assert set(verdicts("million", Figures(), restic=figures({FULL: 1.0})).values()) == {None}


def test_a_copy_is_no_peer() -> None:
    """`cp -a` counts for its own goal only."""
    copy = figures({RESTORE: 0.1})
    found = verdicts("random", figures({RESTORE: 0.13}), **{COPY: copy, "restic": figures({RESTORE: 1.0})})
    assert found[RESTORE] is True
    assert found["restore beside cp -a"] is True


@pytest.mark.parametrize(("peak", "met"), [(350 * MIB, True), (350 * MIB + 1, False)])
def test_the_other_goals(peak: int, met: bool) -> None:
    """Memory, the link, and the cost of a version."""
    assert peak_goal("usr", {FULL: 5, RESTORE: peak}).met is met
    assert link_goal(FULL, 90.0, 100.0).met is True
    assert link_goal(FULL, 89.0, 100.0).met is False
    assert [goal.met for goal in growth_goals((100, 10), (130, 14))] == [True, False]


def test_a_profile_names_our_functions() -> None:
    """A call into C counts for our function that made it; shares add up to what the kernel counted."""
    lines = [
        'process 7:"python exclave/x";main (exclave/cli/main.py:1);open (exclave/vault/opener.py:12);encrypt (rust) 30',
        "main (exclave/cli/main.py:1);read (site-packages/other.py:3) 10",
        "boot (importlib/bootstrap.py:1) 10",
    ]
    assert dict(stages_of(lines, 5.0)) == {
        "vault/opener.py: open": 3.0, "cli/main.py: main": 1.0, "Python itself: start, imports, threads": 1.0,
    }  # fmt: skip


def test_a_difference_is_found(tmp_path: Path) -> None:
    """Another content, mode, time or name in a restored tree is named."""
    for folder in ("saved", "restored"):
        (tmp_path / folder).mkdir()
        for name in ("same", "content", "mode", "time"):
            (tmp_path / folder / name).write_bytes(b"content")
            os.utime(tmp_path / folder / name, ns=(1, 1))
    (tmp_path / "saved" / "gone").touch()
    (tmp_path / "restored" / "content").write_bytes(b"CONTENT")
    os.utime(tmp_path / "restored" / "content", ns=(1, 1))
    (tmp_path / "restored" / "mode").chmod(0o600)
    (tmp_path / "saved" / "mode").chmod(0o644)
    os.utime(tmp_path / "restored" / "time", ns=(1, 2))
    found = differences(tmp_path / "saved", tmp_path / "restored")
    assert [text.split(":")[0] for text in found] == ["content", "gone", "mode", "time"]

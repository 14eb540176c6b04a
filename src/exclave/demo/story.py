"""The story of ``exclave demo``: a small state loses home and lives on abroad.

Each step is a command that any user has; what is not one (generating the state's data, ending home, the enemies'
acts) is what the world does to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from exclave.demo.commands import Commands
from exclave.demo.enemies_story import a_hostile_host
from exclave.demo.exile_story import after, failover, the_quorum
from exclave.demo.home_story import a_state_with_a_home, home_is_lost, protection
from exclave.demo.stage import Report, Stage
from exclave.demo.state import REGISTERS, Places, Ports, end_all
from exclave.errors import Bug, TargetNotEmpty, UsageError


def play(root: Path, *, scale: int, keep: bool, tell: Callable[[str], None], chapter: Callable[[str], None]) -> Report:
    """Plays the whole story below ``root``, a new or empty folder. With ``keep`` the embassy goes on running."""
    if root.exists() and any(root.iterdir()):
        raise TargetNotEmpty(f"the demo's folder {root} is not empty")
    root.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    report = Report(folder=str(root))
    try:
        with ThreadPoolExecutor() as apart:
            commands = Commands(lambda line: tell(stage.brief(line)), apart)
            stage = Stage(Places(root), Ports(), scale, commands, tell, chapter, report)
            tell(f"D={root}")
            a_state_with_a_home(stage)
            protection(stage)
            lost = home_is_lost(stage)
            a_hostile_host(stage)
            answers = the_quorum(stage)
            failover(stage, answers, lost)
            after(stage)
        report.seconds = round(time.monotonic() - begun, 1)
        report.ok = all(p["kept"] for p in report.promises) and all(a["detected"] for a in report.hostile_acts)
    finally:
        if not (keep and report.ok):
            stop_everything(root)
    return report


def stop_everything(root: Path) -> list[str]:
    """Ends every process that a demo in ``root`` left running, by process id; their names."""
    places = Places(root)
    return end_all(
        [*_run_folders(places.exile), *(places.run / name for name in ("world", "home", "embassy", "hosts"))]
    )


def _run_folders(exile: Path) -> Iterator[Path]:
    if (exile / "run").is_dir():
        yield from (p for p in sorted((exile / "run").iterdir()) if p.is_dir() and p.name in REGISTERS)


def require_demo(root: Path) -> None:
    """``UsageError`` unless a demo was played in ``root``."""
    if not (root / "embassy").is_dir() or not (root / "sites").is_dir():
        raise UsageError(f"there is no demo in {root}", hint="Name its folder with --dir.")


def require_kept(report: Report) -> None:
    """``Bug`` if the story did not come out as promised."""
    if not report.ok:
        broken = [p["promise"] for p in report.promises if not p["kept"]]
        broken += [a["act"] + " was not detected" for a in report.hostile_acts if not a["detected"]]
        raise Bug(f"the demo did not keep its promises: {'; '.join(broken)}")

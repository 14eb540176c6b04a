"""The benchmark's tables: on the terminal, and between the markers of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from goals import MB, MIB, Goal
from limits import Limits
from measuring import Run
from rich.console import Console
from rich.table import Table
from rounds import OPERATIONS, Figures
from treefiles import WORK

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
GOAL_HEAD = ("tree", "measure", "goal", "exclave", "beside it", "reached", "")

Row = tuple[str, ...]


def goal_rows(goals: Sequence[Goal]) -> list[Row]:
    """One line for each goal."""
    return [(g.tree, g.measure, g.goal, g.ours, g.other, g.reached, g.verdict) for g in goals]


def figure_rows(figures: Mapping[str, Figures]) -> list[Row]:
    """All figures of one tree: medians over the rounds, a column for each tool."""
    made: list[Row] = []
    columns: list[tuple[str, Callable[[Run], float], int]] = [
        ("wall, s", lambda run: run.wall_s, 2),
        ("CPU, s", lambda run: run.cpu_s, 2),
        ("peak memory, MiB", lambda run: run.peak_bytes / MIB, 0),
    ]
    for operation in OPERATIONS:
        for unit, value, digits in columns:
            cells = [_median([value(run) for run in one.runs.get(operation, [])], digits) for one in figures.values()]
            made.append((f"{operation}: {unit}", *cells))
    full = [_median([size / MB for size in one.full_bytes], 1) for one in figures.values()]
    added = [_median([size / MB for size in one.added_bytes], 2) for one in figures.values()]
    return [*made, ("repository after the full backup, MB", *full), ("added by the third backup, MB", *added)]


def _median(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f}" if values else "-"


def notes(figures: Mapping[str, Figures]) -> list[str]:
    """Why a figure is not there, and how far the rounds lie apart."""
    said = [f"{name}: FAILED: {one.failure}" for name, one in figures.items() if one.failure is not None]
    spreads = [
        (max(walls) / min(walls) - 1, f"{name}, {operation}")
        for name, one in figures.items()
        for operation, runs in one.runs.items()
        if len(walls := [run.wall_s for run in runs]) > 1
    ]
    if spreads:
        widest, where = max(spreads)
        said.append(f"Widest spread of the wall time between rounds: {100 * widest:.0f} % ({where}).")
    return said


def limit_lines(limits: Limits) -> list[str]:
    """What the machine can do, in the words of the page."""
    return [
        f"- Limits: SHA-256 {limits.sha256_one_core:.0f} MB/s on one core, {limits.sha256_all_cores:.0f} on all;"
        f" AES-GCM {limits.aes_gcm_all_cores:.0f} on all; memory copy {limits.memory_copy_one_core:.0f} on one;"
        f" disk, each 16 MiB synced, {limits.disk_write_synced:.0f}"
    ]


def print_table(console: Console, title: str, head: Sequence[str], rows: Sequence[Row]) -> None:
    """A table on the terminal."""
    drawn = Table(title=title, title_justify="left")
    for place, name in enumerate(head):
        drawn.add_column(name, justify="left" if place == 0 or len(head) == len(GOAL_HEAD) else "right")
    for row in rows:
        drawn.add_row(*(cell.replace("**", "") for cell in row))
    console.print(drawn)


def markdown_table(head: Sequence[str], rows: Sequence[Row]) -> str:
    """A table for the page."""
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def machine() -> str:
    """One line about the machine; no names and no paths."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    done = subprocess.run(["stat", "-f", "-c", "%T", str(WORK)], capture_output=True, text=True, check=True)
    cores = len(os.sched_getaffinity(0))
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{model}, {cores} cores used, {memory_gb:.0f} GB of memory, {done.stdout.strip()} file system, {system}"


def rewrite_page(text: str) -> None:
    """Replace what stands between the page's two markers."""
    page = PAGE.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE.name}: the markers {BEGIN} and {END} are not there")
    PAGE.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}")

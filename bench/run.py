"""Compare Exclave with restic and borg on four trees, over a slow link, and as versions pile up; goals met or MISSED.

    python bench/run.py [--quick | --rounds 3] [--tree usr,random] [--tools exclave,restic] [--write] [--keep]
    python bench/run.py --profile --tree usr        where Exclave's time goes, nothing else

Trees: usr (or a), database (b), random (c), million (d); and link, history: measures of their own. A tree's data is
removed before the next is made (`--keep` keeps it for another run), so 30 GB of free disk are enough. `--quick` is one
round of everything, under half an hour on two quiet cores. The method, and what it does not show: docs/benchmarks.md.
`--scale 0.05` makes small trees, to try the benchmark itself; their figures mean nothing.

Exit code 1: a tool failed, or restored something else than what was saved. Missed goals are figures, not failures.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import profiling
import trees
from exclave_adapter import Exclave
from goals import MB, Goal, growth_goals, link_goal, peak_goal, tree_goals
from history import VERSIONS, bench_history
from limits import measure_limits
from link import LinkImpossible
from link_bench import bench_link
from measuring import RunFailed
from peers import PeerMissing
from report import GOAL_HEAD, figure_rows, goal_rows, limit_lines, machine, markdown_table, notes, print_table
from report import rewrite_page as rewrite
from rich.console import Console
from rounds import (
    CHANGED,
    FULL,
    OURS,
    RESTORE,
    RUN,
    UNCHANGED,
    VERIFY,
    Say,
    bench_tree,
    delete_aside,
    put_aside,
    read_files,
)
from tools import TOOLS, Tool, ToolMissing
from treefiles import WORK, TreeImpossible

RESULTS = WORK / "results"
MAKERS: dict[str, Callable[[dict[str, str]], Tool]] = {OURS: Exclave, **TOOLS}
CORES = 2
LINK, HISTORY = "link", "history"
PARTS = ("random", LINK, "database", "usr", "million", HISTORY)
"""In this order: trees with few files first, since the removal of many slows the making of others for minutes."""
LETTERS = {"a": "usr", "b": "database", "c": "random", "d": "million"}


@dataclass(slots=True)
class Results:
    """What the parts of one run found."""

    goals: list[Goal] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)  # markdown
    raw: dict[str, object] = field(default_factory=dict)
    failed: bool = False


def main() -> int:
    """Measure, print, keep the raw figures, and rewrite the page after a whole run."""
    options = _options()
    console = Console(highlight=False, width=max(150, Console().width))
    # Everything inherits this: Go's scheduler and all thread pools see two cores on any machine.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(RUN / "home"), "TMPDIR": str(RUN / "tmp")}
    WORK.mkdir(exist_ok=True)
    lock = (WORK / "lock").open("w")  # until this process ends: two runs would change each other's trees
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.print("another benchmark is running")
        return 1
    delete_aside()
    began, started, load = time.monotonic(), datetime.datetime.now(datetime.UTC), os.getloadavg()[0]

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - began:5.0f} s] {text}", markup=False)
        sys.stdout.flush()  # into a file too, so that a long run can be watched

    if options.profile:
        return _profile(options, environment, say)
    tools, results = _tools(options.tools, environment, console)
    limits = measure_limits(WORK)
    for line in limit_lines(limits):
        say(line)
    for name in options.tree:
        _part(name, options, tools, environment, results, console, say)
    print_table(console, "Goals", GOAL_HEAD, goal_rows(results.goals))
    command = "python bench/run.py" + "".join(f" {word}" for word in sys.argv[1:])
    took = time.monotonic() - began
    head = [
        f"- Date: {started:%Y-%m-%d %H:%M} UTC; the run took {took / 60:.0f} minutes",
        f"- Command: `{command}` (rounds: {options.rounds})",
        f"- Machine: {machine()}; load average at the start {load:.2f}",
        *limit_lines(limits),
        f"- Versions: {', '.join(tool.version for tool in tools)}",
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    raw = {"started": started.isoformat(), "head": head, "limits": asdict(limits), **results.raw}
    raw["goals"] = [asdict(goal) for goal in results.goals]
    (RESULTS / f"{started:%Y%m%dT%H%M%SZ}.json").write_text(json.dumps(raw, indent=1) + "\n")
    if options.write:
        table = markdown_table(GOAL_HEAD, goal_rows(results.goals))
        rewrite("\n\n".join(["\n".join(head), "### Goals", table, *results.sections]))
    say("deleting what was left aside")
    delete_aside()
    return 1 if results.failed else 0


def _tools(names: Sequence[str], environment: dict[str, str], console: Console) -> tuple[list[Tool], Results]:
    tools, results = [], Results()
    for name in names:
        try:
            tools.append(MAKERS[name](environment))
        except ToolMissing as error:
            results.failed = True
            results.sections.append(f"**{name}: not measured: {error}**")
            console.print(results.sections[-1], markup=False)
    return tools, results


def _part(
    name: str,
    options: argparse.Namespace,
    tools: list[Tool],
    environment: dict[str, str],
    results: Results,
    console: Console,
    say: Say,
) -> None:
    """One tree or measure; whatever prevents it stands loudly where its figures would be."""
    try:
        if name == LINK:
            _link(options, environment, results, say)
        elif name == HISTORY:
            _history(options, environment, results, say)
        else:
            _tree(name, options, tools, environment, results, console, say)
    except (TreeImpossible, LinkImpossible, RunFailed, ToolMissing) as error:
        results.failed = True
        results.sections.append(f"### {name}\n\n**NOT MEASURED: {error}**")
        say(f"{name}: NOT MEASURED: {error}")


def _tree(
    name: str,
    options: argparse.Namespace,
    tools: list[Tool],
    environment: dict[str, str],
    results: Results,
    console: Console,
    say: Say,
) -> None:
    say(f"{name}: the tree is made")
    tree = trees.prepare(name, options.scale)
    figures = bench_tree(tree, tools, options.rounds, environment, say)
    results.failed = results.failed or any(one.failure is not None for one in figures.values())
    facts = tree.facts()
    varied = f", {facts['varied_files']} of them variations" if facts["varied_files"] else ""
    title = f"{name}: {facts['files']} files{varied}, {int(facts['bytes']) / MB:.0f} MB"
    head, rows = ("", *figures), figure_rows(figures)
    print_table(console, title, head, rows)
    goals, said = tree_goals(name, figures, int(facts["bytes"])), notes(figures)
    print_table(console, "", GOAL_HEAD, goal_rows(goals))
    for note in said:
        say(note)
    results.goals += goals
    results.sections.append("\n\n".join([f"### {title}", markdown_table(head, rows), *said]))
    results.raw[name] = {tool: asdict(one) for tool, one in figures.items()}
    if not options.keep and not (name == "random" and LINK in options.tree):
        put_aside(tree.folder)


def _link(options: argparse.Namespace, environment: dict[str, str], results: Results, say: Say) -> None:
    tree = trees.prepare("random", options.scale)
    figures = bench_link(tree, environment, say)
    size = figures.tree_bytes / MB
    for operation, raw in ((FULL, figures.raw_there), (RESTORE, figures.raw_back)):
        results.goals.append(link_goal(operation, size / figures.runs[operation].wall_s, raw))
    lines = [
        f"- {operation}: {run.wall_s:.2f} s, CPU {run.cpu_s:.2f} s, {run.peak_bytes >> 20} MiB"
        for operation, run in figures.runs.items()
    ]
    raw_line = f"- plain TCP: {figures.raw_there:.1f} MB/s there, {figures.raw_back:.1f} MB/s back"
    results.sections.append("\n".join([f"### link: {size:.0f} MB over 40 ms and 1 Gbit/s\n", raw_line, *lines]))
    results.raw[LINK] = asdict(figures)
    if not options.keep:
        put_aside(tree.folder)


def _history(options: argparse.Namespace, environment: dict[str, str], results: Results, say: Say) -> None:
    figures = bench_history(environment, say, versions=options.versions)
    results.goals += growth_goals(figures.small, figures.large)
    peaks = {operation: run.peak_bytes for operation, run in figures.runs.items()}
    results.goals.append(peak_goal(f"{figures.versions} versions", peaks))
    lines = [
        f"- {operation}: {run.wall_s:.2f} s, CPU {run.cpu_s:.2f} s, {run.peak_bytes >> 20} MiB"
        for operation, run in figures.runs.items()
    ]
    title = f"### history: 50,000 files of 0 to 8 KiB, at version {figures.versions}\n"
    results.sections.append("\n".join([title, *lines]))
    results.raw[HISTORY] = asdict(figures)


def _profile(options: argparse.Namespace, environment: dict[str, str], say: Say) -> int:
    """Exclave alone, each operation under py-spy."""
    tool = Exclave(environment)
    for name in options.tree:
        if name in (LINK, HISTORY):
            continue
        try:
            tree = trees.prepare(name, options.scale)
            put_aside(RUN)
            for folder in ("tmp", "home", OURS, "restored"):
                (RUN / folder).mkdir(parents=True)
            read_files(tree.path)
            state = tool.prepare(RUN / OURS, tree.path)
            target = RUN / "restored"
            for operation in (FULL, UNCHANGED, CHANGED, RESTORE, VERIFY):
                if operation == CHANGED:
                    trees.switch(tree, "changed")
                commands = {RESTORE: tool.restore(state, target), VERIFY: tool.verify(state)}
                for command in commands.get(operation, tool.backup(state)):
                    profile = profiling.profiled(command, environment, RUN)
                    say(f"{name}: " + profiling.text(operation, profile))
        except (TreeImpossible, RunFailed, ToolMissing, PeerMissing) as error:
            say(f"{name}: NOT PROFILED: {error}")
            return 1
        if not options.keep:
            put_aside(tree.folder)
    put_aside(RUN)
    delete_aside()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare Exclave with restic and borg.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each tree (3)")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--tree", default=",".join(PARTS), help="only these trees and measures, with commas")
    parser.add_argument("--tools", default=",".join(MAKERS), help="only these tools, with commas")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the trees' full size, to try the benchmark")
    parser.add_argument("--versions", type=int, default=VERSIONS, help=f"versions of the history ({VERSIONS})")
    parser.add_argument("--profile", action="store_true", help="where Exclave's time goes; nothing is compared")
    parser.add_argument("--keep", action="store_true", help="keep the trees for another run")
    parser.add_argument("--write", action="store_true", help="rewrite the page also after a partial run")
    options = parser.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    options.tree = [LETTERS.get(name, name) for name in options.tree.split(",")]
    options.tools = options.tools.split(",")
    if options.rounds < 1 or not set(options.tree) <= set(PARTS) or not set(options.tools) <= set(MAKERS):
        parser.error("at least one round; trees are " + ", ".join(PARTS) + "; tools are " + ", ".join(MAKERS))
    whole = options.tree == list(PARTS) and options.tools == list(MAKERS) and options.scale == 1.0
    options.write = options.write or (whole and options.versions == VERSIONS)
    return options


if __name__ == "__main__":
    sys.exit(main())

"""Compare Exclave with restic and borg on three trees, and write the figures into docs/benchmarks.md.

    python bench/run.py [--rounds 3 | --quick] [--trees source,large] [--tools exclave,restic] [--write]

One round of one tree: every tool in turn makes its full backup, the tree changes, every tool in turn makes its second
backup, then restores the result into an empty folder, then checks its whole repository. The next round begins with
another tool. The tree is read once before each run (warm cache), and everything is written to disk between runs.
Figures are medians over the rounds. The method, and what it does not show, stands in docs/benchmarks.md.

Exit code 1: a tool failed, or restored something else than what was saved.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import filecmp
import json
import os
import platform
import shutil
import signal
import stat
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trees
from exclave_adapter import Exclave
from rich.console import Console
from rich.table import Table
from tools import TOOLS, Command, State, Tool, ToolMissing
from trees import Tree, TreeImpossible

WORK = Path(__file__).resolve().parent / "work"
RUN = WORK / "run"
MEASURE = Path(__file__).resolve().parent / "measure.py"
ASIDE = WORK / "aside"  # what is deleted at the end
ASIDE_FILES = 5_000
RESULTS = WORK / "results"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
OURS = "exclave"
MAKERS: dict[str, Callable[[dict[str, str]], Tool]] = {OURS: Exclave, **TOOLS}
OPERATIONS = ("full backup", "second backup", "restore", "verify")
CORES = 2
MB = 1_000_000


class RunFailed(Exception):
    """A measured command failed, or what it restored is not what was saved."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one operation cost, once."""

    wall_s: float
    user_s: float  # processor time of the process and all that it waited for
    system_s: float
    peak_bytes: int  # resident set of the largest single process

    @property
    def cpu_s(self) -> float:
        """User and system time together."""
        return self.user_s + self.system_s


@dataclass(slots=True)
class Figures:
    """All that was measured of one tool on one tree."""

    runs: dict[str, list[Run]] = field(default_factory=dict)  # by operation
    full_bytes: list[int] = field(default_factory=list)  # repository after the full backup
    added_bytes: list[int] = field(default_factory=list)  # what the second backup added to it
    failure: str | None = None  # why there are no (more) figures


@dataclass(slots=True)
class Entrant:
    """One tool in the running round of one tree."""

    tool: Tool
    figures: Figures
    state: State | None = None

    def must_state(self) -> State:
        """The state that the full backup left."""
        if self.state is None:
            raise RunFailed("there is no repository")
        return self.state


# measuring


def measure(command: Command, environment: dict[str, str], log: Path) -> Run:
    """Run one command to its end. Raises RunFailed with the end of its output when it does not exit with 0."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as figures, log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(MEASURE), str(writer), *command.argv], cwd=command.cwd,
            env=environment | command.env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=[writer],
            start_new_session=True,
        )  # fmt: skip
        os.close(writer)
        try:
            text = figures.read()
            code = process.wait()
        finally:
            if process.returncode is None:  # interrupted: the tool must not go on writing
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code != 0:
        end = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        raise RunFailed(f"{Path(command.argv[0]).name} exited with {code}: {end}")
    cost = json.loads(text)
    return Run(cost["wall_s"], cost["user_s"], cost["system_s"], cost["peak_kib"] * 1024)


def measure_all(commands: list[Command], environment: dict[str, str], log: Path) -> Run:
    """The sum of several commands that make one operation."""
    os.sync()
    runs = [measure(command, environment, log) for command in commands]
    os.sync()
    return Run(
        sum(run.wall_s for run in runs),
        sum(run.user_s for run in runs),
        sum(run.system_s for run in runs),
        max(run.peak_bytes for run in runs),
    )


def folder_bytes(folder: Path) -> int:
    """Sum of the lengths of all files, as `du --apparent-size` counts them."""
    return sum(os.lstat(os.path.join(parent, name)).st_size for parent, _, names in os.walk(folder) for name in names)


def differences(saved: Path, restored: Path) -> list[str]:
    """Where the restored tree is not the saved one: names, kinds, modes, times to the nanosecond, contents."""
    found = []
    before, after = _entries(saved), _entries(restored)
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            found.append(f"{name}: only in the {'saved' if name in before else 'restored'} tree")
            continue
        one, other = before[name], after[name]
        if one.st_mode != other.st_mode:
            found.append(f"{name}: mode {one.st_mode:o} became {other.st_mode:o}")
        elif one.st_mtime_ns != other.st_mtime_ns:
            found.append(f"{name}: time {one.st_mtime_ns} became {other.st_mtime_ns}")
        elif stat.S_ISLNK(one.st_mode) and os.readlink(saved / name) != os.readlink(restored / name):
            found.append(f"{name}: the link points elsewhere")
        elif stat.S_ISREG(one.st_mode) and not filecmp.cmp(saved / name, restored / name, shallow=False):
            found.append(f"{name}: other content")
    filecmp.clear_cache()
    return found


def _entries(folder: Path) -> dict[str, os.stat_result]:
    """Everything below the folder by its relative name; the folder itself is the user's own, not restored."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            found[os.path.relpath(path, folder)] = os.lstat(path)
    return found


# rounds


def bench_tree(
    tree: Tree, tools: list[Tool], rounds: int, environment: dict[str, str], say: Callable[[str], None]
) -> dict[str, Figures]:
    """Measure all tools on one tree; a tool that fails keeps its reason and leaves the tree's later rounds."""
    entrants = [Entrant(tool, Figures()) for tool in tools]
    for number in range(rounds):
        turn = number % max(1, len(entrants))
        order = [entrant for entrant in entrants[turn:] + entrants[:turn] if entrant.figures.failure is None]
        _clear(RUN)
        (RUN / "tmp").mkdir(parents=True)
        (RUN / "home").mkdir()
        for operation in OPERATIONS:
            trees.switch(tree, "original" if operation == "full backup" else "changed")
            for entrant in order:
                if entrant.figures.failure is not None:
                    continue
                try:
                    run = _one(operation, entrant, tree, environment, compare=number == 0)
                except (RunFailed, ToolMissing) as error:
                    entrant.figures.failure = f"{operation}: {error}"
                    say(f"{tree.name}, round {number + 1}, {operation}: {entrant.tool.name}: FAILED: {error}")
                    continue
                entrant.figures.runs.setdefault(operation, []).append(run)
                cost = f"{run.wall_s:.2f} s, CPU {run.user_s:.2f} + {run.system_s:.2f} s, {run.peak_bytes / MB:.0f} MB"
                say(f"{tree.name}, round {number + 1}, {operation}: {entrant.tool.name}: {cost}")
    trees.switch(tree, "original")
    _clear(RUN)
    return {entrant.tool.name: entrant.figures for entrant in entrants}


def _one(operation: str, entrant: Entrant, tree: Tree, environment: dict[str, str], *, compare: bool) -> Run:
    """One operation of one tool, with the sizes it leaves. Raises RunFailed or ToolMissing."""
    tool, figures, log = entrant.tool, entrant.figures, RUN / f"{entrant.tool.name}.log"
    if operation == "full backup":
        work = RUN / tool.name
        work.mkdir()
        entrant.state = tool.prepare(work, tree.path)
    state = entrant.must_state()
    trees.read_once(tree)
    if operation == "full backup":
        run = measure_all(tool.backup(state), environment, log)
        figures.full_bytes.append(folder_bytes(state.repository))
        return run
    if operation == "second backup":
        before = folder_bytes(state.repository)
        run = measure_all(tool.incremental(state), environment, log)
        figures.added_bytes.append(folder_bytes(state.repository) - before)
        return run
    if operation == "verify":
        return measure_all(tool.verify(state), environment, log)
    target = RUN / "restored"
    target.mkdir()
    try:
        run = measure_all(tool.restore(state, target), environment, log)
        wrong = differences(tree.path, tool.restored(state, target)) if compare else []
    finally:
        _clear(target)
    if wrong:
        raise RunFailed(f"{len(wrong)} differences after the restore, first: {'; '.join(wrong[:3])}")
    return run


def _clear(folder: Path) -> None:
    """Take a folder away; one with many files is only put aside until the end of the whole run.

    ext4 does not reuse the number of a file that was deleted in the last minutes and searches past all of them: a
    restore that follows the deletion of 60,000 files spends up to 40 s of system time on that, whatever tool does it.
    """
    if not folder.exists():
        return
    if sum(len(names) for _, _, names in os.walk(folder)) < ASIDE_FILES:
        shutil.rmtree(folder)
        return
    ASIDE.mkdir(exist_ok=True)
    folder.rename(ASIDE / f"{len(os.listdir(ASIDE))}")


# reporting


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: the figure of each tool, None where there is none."""

    label: str
    values: list[float | None]
    digits: int

    def ratio(self, names: list[str]) -> str:
        """Ours against the smallest of the peers, for example "1.25 x restic"; more than 1 is worse."""
        figures = dict(zip(names, self.values, strict=True))
        ours = figures.pop(OURS, None)
        peers = {name: value for name, value in figures.items() if value is not None}
        if ours is None or not peers:
            return "-"
        best = min(peers, key=lambda name: peers[name])
        return f"{ours / peers[best]:.2f} × {best}" if peers[best] > 0 else "-"

    def texts(self) -> list[str]:
        """The figures as they are printed."""
        return ["-" if value is None else f"{value:.{self.digits}f}" for value in self.values]


def rows(figures: dict[str, Figures]) -> list[Row]:
    """The table of one tree: medians over the rounds."""
    made = []
    columns: list[tuple[str, Callable[[Run], float], int]] = [
        ("wall, s", lambda run: run.wall_s, 2),
        ("CPU, s", lambda run: run.cpu_s, 2),
        ("peak memory, MB", lambda run: run.peak_bytes / MB, 0),
    ]
    for operation in OPERATIONS:
        for unit, value, digits in columns:
            cells = [_median([value(run) for run in one.runs.get(operation, [])]) for one in figures.values()]
            made.append(Row(f"{operation}: {unit}", cells, digits))
    sizes = [_median([size / MB for size in one.full_bytes]) for one in figures.values()]
    added = [_median([size / MB for size in one.added_bytes]) for one in figures.values()]
    return [
        *made,
        Row("repository after the full backup, MB", sizes, 1),
        Row("added by the second backup, MB", added, 2),
    ]


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def notes(figures: dict[str, Figures], missing: dict[str, str]) -> list[str]:
    """Why a figure is not there, and how far the rounds lie apart."""
    said = [f"{name}: not measured: {reason}" for name, reason in missing.items()]
    said += [f"{name}: FAILED: {one.failure}" for name, one in figures.items() if one.failure is not None]
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


def print_table(console: Console, title: str, names: list[str], table: list[Row]) -> None:
    """The table on the terminal."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("")
    for name in names:
        drawn.add_column(name, justify="right")
    drawn.add_column(f"{OURS} : best peer", justify="right")
    for row in table:
        drawn.add_row(row.label, *row.texts(), row.ratio(names))
    console.print(drawn)


def markdown_table(names: list[str], table: list[Row]) -> str:
    """The table for the page."""
    lines = [f"| | {' | '.join(names)} | {OURS} : best peer |", f"| --- |{' ---: |' * (len(names) + 1)}"]
    lines += [f"| {row.label} | {' | '.join(row.texts())} | {row.ratio(names)} |" for row in table]
    return "\n".join(lines)


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


# the command


def main() -> int:
    """Measure, print, keep the raw figures, and rewrite the page after a whole run."""
    options = _options()
    console = Console(highlight=False)
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
    shutil.rmtree(ASIDE, ignore_errors=True)  # of a run that was cut off
    started = datetime.datetime.now(datetime.UTC)
    load = os.getloadavg()[0]
    tools, missing = [], {}
    for name in options.tools:
        try:
            tools.append(MAKERS[name](environment))
        except ToolMissing as error:
            missing[name] = str(error)
            console.print(f"{name}: not measured: {error}", markup=False)
    measured, sections, failed = {}, [], bool(missing)
    for name in options.trees:
        try:
            tree = trees.prepare(name)
        except TreeImpossible as error:
            failed = True
            sections.append(f"### {name}\n\nNot measured: {error}")
            console.print(sections[-1], markup=False)
            continue
        figures = bench_tree(tree, tools, options.rounds, environment, lambda text: console.print(text, markup=False))
        failed = failed or any(one.failure is not None for one in figures.values())
        facts = tree.facts()
        title = f"{name}: {facts['files']} files, {int(facts['bytes']) / MB:.0f} MB"
        # A tool that is not there keeps its column, empty, with the reason below.
        shown = {tool: figures.get(tool, Figures()) for tool in options.tools}
        names, table, said = list(shown), rows(shown), notes(figures, missing)
        print_table(console, title, names, table)
        for note in said:
            console.print(note, markup=False)
        sections.append("\n\n".join([f"### {title}", markdown_table(names, table), *said]))
        measured[name] = {tool: asdict(one) for tool, one in figures.items()}
    versions = ", ".join(tool.version for tool in tools)
    command = "python bench/run.py" + "".join(f" {word}" for word in sys.argv[1:])
    head = [
        f"- Date: {started:%Y-%m-%d %H:%M} UTC", f"- Command: `{command}` ({options.rounds} rounds)",
        f"- Machine: {machine()}; load average at the start {load:.2f}", f"- Versions: {versions}",
    ]  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    raw = {"started": started.isoformat(), "head": head, "missing": missing, "trees": measured}
    (RESULTS / f"{started:%Y%m%dT%H%M%SZ}.json").write_text(json.dumps(raw, indent=1) + "\n")
    if options.write:
        rewrite_page("\n".join(head) + "\n\n" + "\n\n".join(sections))
    shutil.rmtree(ASIDE, ignore_errors=True)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare Exclave with restic and borg.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each tree (3)")
    parser.add_argument("--quick", action="store_true", help="one round; the page stays as it is")
    parser.add_argument("--trees", default=",".join(trees.NAMES), help="only these trees, with commas")
    parser.add_argument("--tools", default=",".join(MAKERS), help="only these tools, with commas")
    parser.add_argument("--write", action="store_true", help="rewrite the page also after a partial or quick run")
    options = parser.parse_args()
    whole = not options.quick and options.trees == ",".join(trees.NAMES) and options.tools == ",".join(MAKERS)
    options.rounds = 1 if options.quick else options.rounds
    options.trees, options.tools = options.trees.split(","), options.tools.split(",")
    options.write = options.write or whole
    if options.rounds < 1 or not set(options.trees) <= set(trees.NAMES) or not set(options.tools) <= set(MAKERS):
        parser.error("at least one round; trees are " + ", ".join(trees.NAMES) + "; tools are " + ", ".join(MAKERS))
    return options


if __name__ == "__main__":
    sys.exit(main())

"""One tree, all tools: the operations in turn, what each cost, and what it left at its repository.

One round: every tool in turn makes its full backup, then one with nothing changed, then the tree changes and every
tool makes a third; each restores that into an empty folder. `cp -a` copies the tree in the same place of the round.
The next round begins with another tool, with fresh repositories and caches.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trees
from exclave_adapter import Exclave
from limits import sha256_of_files
from measuring import Run, RunFailed, differences, folder_size, measure_all
from tools import Command, State, Tool, ToolMissing
from treefiles import MIB, WORK, Tree, entries, files

from exclave.verify.embassy import WORKERS

RUN = WORK / "run"
ASIDE = WORK / "aside"  # what is deleted at the end
OURS, COPY = "exclave", "cp"
FULL, UNCHANGED, CHANGED, RESTORE, VERIFY = "full backup", "nothing changed", "1 % changed", "restore", "verify"
OPERATIONS = (FULL, UNCHANGED, CHANGED, RESTORE, VERIFY)
COPIED_FILES = 200_000
"""Trees with more files are not copied with `cp`: no goal asks for it, and it would take a minute."""


@dataclass(slots=True)
class Figures:
    """All that was measured of one tool on one tree; one value for each round."""

    runs: dict[str, list[Run]] = field(default_factory=dict)  # by operation
    full_bytes: list[int] = field(default_factory=list)  # repository after the full backup
    added_bytes: list[int] = field(default_factory=list)  # what the third backup added to it
    verified_bytes: list[int] = field(default_factory=list)  # what the verification read
    fixed_s: list[float] = field(default_factory=list)  # wall time of a verification that reads no packs
    sha256_rates: list[float] = field(default_factory=list)  # MB/s at which the same files can be read and hashed
    failure: str | None = None  # why there are no (more) figures


@dataclass(slots=True)
class Entrant:
    """One tool in the running round of one tree; `cp` has no tool."""

    name: str
    tool: Tool | None
    figures: Figures
    state: State | None = None


Say = Callable[[str], None]


def bench_tree(
    tree: Tree, tools: Sequence[Tool], rounds: int, environment: dict[str, str], say: Say
) -> dict[str, Figures]:
    """Measure all tools on one tree; a tool that fails keeps its reason and leaves the tree's later rounds."""
    entrants = [Entrant(tool.name, tool, Figures()) for tool in tools]
    if int(tree.facts()["files"]) <= COPIED_FILES:
        entrants.append(Entrant(COPY, None, Figures()))
    for number in range(rounds):
        put_aside(RUN)
        (RUN / "tmp").mkdir(parents=True)
        (RUN / "home").mkdir()
        turn = number % len(entrants)
        for operation in OPERATIONS:
            if operation in (FULL, CHANGED):
                trees.switch(tree, "original" if operation == FULL else "changed")
                read_files(tree.path)
            for entrant in entrants[turn:] + entrants[:turn]:
                if entrant.figures.failure is not None or not takes_part(entrant, operation):
                    continue
                try:
                    run = _one(operation, entrant, tree, environment, compare=number == 0)
                except (RunFailed, ToolMissing) as error:
                    entrant.figures.failure = f"{operation}: {error}"
                    say(f"{tree.name}, round {number + 1}, {operation}: {entrant.name}: FAILED: {error}")
                    continue
                entrant.figures.runs.setdefault(operation, []).append(run)
                cost = (
                    f"{run.wall_s:.2f} s, CPU {run.user_s:.2f} + {run.system_s:.2f} s, {run.peak_bytes / 2**20:.0f} MiB"
                )
                say(f"{tree.name}, round {number + 1}, {operation}: {entrant.name}: {cost}")
    put_aside(RUN)
    return {entrant.name: entrant.figures for entrant in entrants}


def takes_part(entrant: Entrant, operation: str) -> bool:
    """`cp` only restores; only Exclave can verify without a key."""
    return operation == RESTORE or (entrant.tool is not None and (operation != VERIFY or entrant.name == OURS))


def _one(operation: str, entrant: Entrant, tree: Tree, environment: dict[str, str], *, compare: bool) -> Run:
    """One operation of one tool, with the sizes it leaves. Raises RunFailed or ToolMissing."""
    tool, figures, log = entrant.tool, entrant.figures, RUN / f"{entrant.name}.log"
    if tool is None:
        return _copy(tree, environment, log)
    if operation == FULL:
        work = RUN / tool.name
        work.mkdir()
        entrant.state = tool.prepare(work, tree.path)
        run = measure_all(tool.backup(entrant.state), environment, log)
        figures.full_bytes.append(folder_size(entrant.state.repository)[0])
        return run
    if entrant.state is None:
        raise RunFailed("there is no repository")
    if operation == UNCHANGED:
        return measure_all(tool.again(entrant.state), environment, log)
    if operation == CHANGED:
        before = folder_size(entrant.state.repository)[0]
        run = measure_all(tool.again(entrant.state), environment, log)
        figures.added_bytes.append(folder_size(entrant.state.repository)[0] - before)
        return run
    if operation == VERIFY:
        return _verify(tool, entrant.state, figures, environment, log)
    return _restore(tool, entrant.state, tree, environment, log, compare=compare and tool.name == OURS)


def _verify(tool: Tool, state: State, figures: Figures, environment: dict[str, str], log: Path) -> Run:
    assert isinstance(tool, Exclave)
    paths = [Path(entry.path) for entry in entries(str(state.repository)) if entry.is_file(follow_symlinks=False)]
    paths.sort()
    figures.sha256_rates.append(sha256_of_files(paths, WORKERS))
    figures.verified_bytes.append(sum(path.stat().st_size for path in paths))
    figures.fixed_s.append(measure_all(tool.verify_without_packs(state), environment, log).wall_s)
    return measure_all(tool.verify(state), environment, log)


def _restore(tool: Tool, state: State, tree: Tree, environment: dict[str, str], log: Path, *, compare: bool) -> Run:
    target = RUN / "restored"
    target.mkdir()
    read_files(state.repository)
    free_pages(int(tree.facts()["bytes"]))
    try:
        run = measure_all(tool.restore(state, target), environment, log)
        wrong = differences(tree.path, tool.restored(state, target)) if compare else []
    finally:
        put_aside(target)
    if wrong:
        raise RunFailed(f"{len(wrong)} differences after the restore, first: {'; '.join(wrong[:3])}")
    return run


def _copy(tree: Tree, environment: dict[str, str], log: Path) -> Run:
    target = RUN / "copied"
    free_pages(int(tree.facts()["bytes"]))
    try:
        return measure_all([Command(["cp", "-a", str(tree.path), str(target)], RUN)], environment, log)
    finally:
        put_aside(target)


def read_files(folder: Path) -> None:
    """Read every byte below the folder, so that it stands in the page cache whoever wrote it, and however."""
    for path in sorted(files(folder)):
        with path.open("rb", buffering=0) as reader:
            while reader.read(MIB):
                pass


def free_pages(size: int) -> None:
    """Leave so many bytes of memory free, taken from the oldest of the page cache.

    Else whoever restores first pays for emptying a full cache, and those after it find the pages of its files, which
    were emptied: measured here as five times the system time.
    """
    with mmap.mmap(-1, size + 512 * MIB) as pages:
        for at in range(0, len(pages), mmap.PAGESIZE):
            pages[at] = 1


def put_aside(folder: Path) -> None:
    """Take a folder away: its files are emptied now and deleted at the end of the whole run.

    ext4 does not reuse the number of a file that was deleted in the last minutes and searches past all of them: a
    restore that follows the deletion of 60,000 files spends up to 40 s of system time on that, whatever tool does it.
    """
    if not folder.exists():
        return
    for entry in entries(str(folder)):
        if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size:
            os.truncate(entry.path, 0)
    ASIDE.mkdir(exist_ok=True)
    folder.rename(ASIDE / f"{len(os.listdir(ASIDE))}")


def delete_aside() -> None:
    """At the end, or of a run that was cut off."""
    shutil.rmtree(ASIDE, ignore_errors=True)

"""What a new version costs as a register grows, and what a hundred versions cost in memory.

Small files as in tree (d): 5,000 of them (20 MB), and 50,000 (205 MB). After a full backup of each, the same change is
made in both (50 files, one line each), and the bytes and objects that the next version adds to the site are counted.
The larger one then gets a hundred versions with ten changed files each; the peaks of the last backup, of a restore and
of a verification are kept. (A million files in one version are tree (d); a hundred versions of a million files would
take an hour and differ from this only in what tree (d) shows.)
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from exclave_adapter import Exclave
from measuring import Run, folder_size, measure_all
from rounds import CHANGED, RESTORE, RUN, VERIFY, Say, put_aside
from tools import State
from tree_synthetic import small_files
from treefiles import SEED, TREES, Tree, files

FOLDERS = (50, 500)  # of a hundred files each
CHANGED_FILES = 50
VERSIONS = 100
CHANGED_EACH = 10


@dataclass(frozen=True, slots=True)
class HistoryFigures:
    """(bytes, objects) of the same change with 1 × and 10 × the data; the runs at the hundredth version."""

    small: tuple[int, int]
    large: tuple[int, int]
    versions: int
    runs: dict[str, Run]


def bench_history(environment: dict[str, str], say: Say, *, versions: int = VERSIONS) -> HistoryFigures:
    """Raises RunFailed or ToolMissing."""
    put_aside(RUN)
    (RUN / "tmp").mkdir(parents=True)
    (RUN / "home").mkdir()
    tool, log = Exclave(environment), RUN / "exclave.log"
    costs, state, tree = [], None, Tree("", TREES)
    for folders in FOLDERS:
        tree = Tree(f"history-{folders}", TREES / f"history-{folders}")
        shutil.rmtree(tree.folder, ignore_errors=True)
        tree.folder.mkdir(parents=True)
        small_files(tree, random.Random(SEED), folders, 100, 1 << 62)
        work = RUN / tree.name
        work.mkdir()
        state = tool.prepare(work, tree.path)
        measure_all(tool.backup(state), environment, log)
        before = folder_size(state.repository)
        _edit(tree, CHANGED_FILES, random.Random(1))
        run = measure_all(tool.again(state), environment, log)
        after = folder_size(state.repository)
        costs.append((after[0] - before[0], after[1] - before[1]))
        say(f"history, {folders * 100} files, {CHANGED_FILES} changed: {costs[-1]} bytes, objects; {run.wall_s:.2f} s")
    assert state is not None  # FOLDERS is not empty
    runs = _many_versions(tool, state, tree, versions, environment, log)
    for operation, run in runs.items():
        say(f"history, after {versions} versions, {operation}: {run.wall_s:.2f} s, {run.peak_bytes / 2**20:.0f} MiB")
    put_aside(RUN)
    for folders in FOLDERS:
        put_aside(TREES / f"history-{folders}")
    return HistoryFigures(costs[0], costs[1], versions, runs)


def _many_versions(
    tool: Exclave, state: State, tree: Tree, versions: int, environment: dict[str, str], log: Path
) -> dict[str, Run]:
    runs = {}
    for number in range(2, versions):  # two are there
        _edit(tree, CHANGED_EACH, random.Random(number))
        runs[CHANGED] = measure_all(tool.again(state), environment, log)
    target = RUN / "restored"
    target.mkdir()
    runs[RESTORE] = measure_all(tool.restore(state, target), environment, log)
    runs[VERIFY] = measure_all(tool.verify(state), environment, log)
    return runs


def _edit(tree: Tree, count: int, choose: random.Random) -> None:
    """Another first line in ``count`` files of the first folders, which both sizes have alike."""
    first = sorted(files(tree.path / "000"))[: FOLDERS[0] * 100]
    for path in choose.sample(first, count):
        path.write_bytes(b"edited: %016x\n" % choose.getrandbits(64) + path.read_bytes().partition(b"\n")[2])

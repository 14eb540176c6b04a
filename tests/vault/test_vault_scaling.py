"""What a version costs in a register that holds much, and how much memory it takes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from exclave.ids import Label
from exclave.sites.memory import MemorySite
from exclave.vault.catalogue import FormerLeaf
from support.listed import MadeTree
from support.vault import DOCS, Vault

ONE = Label("one")
FOLDERS = 200
"""Of 100 files each: the register that is compared with one ten times as large."""


@dataclass
class Register:
    """A made tree, its vault, and its one site."""

    tree: MadeTree
    vault: Vault
    site: MemorySite

    def cost(self, change: Callable[[MadeTree], None]) -> tuple[int, int, int]:
        """Bytes and objects that a version after ``change`` brings to the site, and files that it reads."""
        before = {item.key for item in self.site.list("")}
        change(self.tree)
        self.tree.read_files = 0
        self.vault.back_up(self.tree.items())
        new = [item.size_bytes for item in self.site.list("") if item.key not in before]
        return sum(new), len(new), self.tree.read_files


def one_file(tree: MadeTree, turn: int) -> None:
    tree.edit(b"%06d/050" % (7 + 31 * turn))


def one_folder(tree: MadeTree, turn: int) -> None:
    for n in range(200):
        tree.edit(b"%06d/new-%03d" % (11 + 29 * turn, n))


def here_and_there(tree: MadeTree, turn: int) -> None:
    for n in random.Random(turn).sample(range(tree.folders), 3):
        tree.edit(b"%06d/%03d" % (n, n % 100))


@pytest.fixture(scope="module")
def registers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Register, Register]:
    """Two registers with a few versions behind them, the second ten times as large."""
    made = []
    for folders in (FOLDERS, 10 * FOLDERS):
        tree, site = MadeTree(folders, most_bytes=200), MemorySite("one")
        register = Register(tree, Vault(tmp_path_factory.mktemp("scaling") / "cache", {ONE: site}), site)
        register.vault.back_up(tree.items())
        for n in range(2):
            register.cost(lambda tree, n=n: tree.edit(b"%06d/first-%d" % (tree.folders // 3, n)))
        made.append(register)
    return made[0], made[1]


VERSIONS = 5
STEP_BYTES = 4096
"""A size class more, by chance of how the secret keys cut the trees."""
STEP_OBJECTS = 3
"""Packs' names are random, and cut the list of them into one node, or into several below a root."""


@pytest.mark.parametrize(
    ("change", "files", "most"), [(one_file, 1, 1.3), (one_folder, 200, 1.3), (here_and_there, 3, 1.6)]
)
def test_ten_times_the_data_and_the_same_change_cost_the_same(
    change: Callable[[MadeTree, int], None], files: int, most: float, registers: tuple[Register, Register]
) -> None:
    """At most 1.3 times the bytes, and no more objects than one more level of a tree makes; only what changed is read.

    Scattered changes each touch a branch of their own in the larger tree, and share some in the smaller one: about 1.3
    times, more or less as the secret keys cut the trees.
    """
    sums = []
    for register in registers:
        costs = [register.cost(lambda tree, turn=turn: change(tree, turn)) for turn in range(VERSIONS)]
        assert [read for _, _, read in costs] == [files] * VERSIONS
        sums.append((sum(size for size, _, _ in costs), sum(objects for _, objects, _ in costs)))
    small, large = sums
    assert large[0] <= most * small[0] + VERSIONS * STEP_BYTES, f"{small[0]} and {large[0]} bytes"
    assert large[1] <= small[1] + VERSIONS * STEP_OBJECTS, f"{small[1]} and {large[1]} objects"


def test_leaves_of_unchanged_folders_are_not_taken_apart(
    registers: tuple[Register, Register], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change in one place, records of a few leaves are decoded, whatever the register holds."""
    taken: list[int] = []
    was = FormerLeaf.open

    def count(self: FormerLeaf) -> None:
        if not self.opened:
            taken.append(self.frame.entries)
        was(self)

    monkeypatch.setattr(FormerLeaf, "open", count)
    registers[1].cost(lambda tree: tree.edit(b"001000/050"))
    assert 0 < len(taken) <= 4


CHILD = """
import sys
from pathlib import Path
from exclave.app import collect_seldom, keep_freed_memory
from exclave.ids import Label
from exclave.sites.directory import DirectorySite
from exclave.vault.catalogue import FormerLeaf
from support.listed import MadeTree
from support.vault import Vault
keep_freed_memory()
collect_seldom()
work = Path(sys.argv[1])
(work / "site").mkdir()
tree = MadeTree(2000, most_bytes=600)
vault = Vault(work / "cache", {Label("one"): DirectorySite(str(work / "site"))})
for round in range(3):
    vault.back_up(tree.items())
    for folder in range(tree.folders):
        tree.edit(b"%06d/%03d" % (folder, (folder + round) % 100))
    peak = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(peak[0].split()[1]) >> 10, flush=True)
"""


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    """200,000 files: a first version, and two after 1 % of them changed all over the tree."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peaks = [int(line) for line in done.stdout.split()]
    assert len(peaks) == 3
    assert max(peaks) <= 250, f"{peaks} MiB"
    assert (tmp_path / "cache" / f"{DOCS}.catalogue").stat().st_size < 200_000 * 400

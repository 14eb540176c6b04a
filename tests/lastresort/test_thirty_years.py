"""A copy made today opens in thirty years: every variant of the formats, by the reader that needs nothing of ours.

Once as the product makes them now, and once from an archive that was made when the formats were frozen
(``tests/vectors/site``), which no later product may fail to open.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support.thirty_years import LOST, ThirtyYears, entries, expected, made, out_of_order, told

TOOL = Path(__file__).parents[2] / "tools" / "last_resort.py"
FROZEN = Path(__file__).parents[1] / "vectors" / "site"
PEOPLE = ("anna", "boris", "clara")


def run(site: Path, keys: Path, state: str, version: int, target: Path) -> subprocess.CompletedProcess[str]:
    """The tool in a process with nothing of the package in reach."""
    named = [part for name in PEOPLE for part in ("--key", str(keys / f"{name}.key"))]
    command = [sys.executable, "-I", str(TOOL), "--site", str(site), "--state", state, "--version", str(version)]
    return subprocess.run(
        [*command, *named, "--target", str(target)],
        capture_output=True, text=True, timeout=120, env={"LC_ALL": "C.UTF-8"}, check=False,
    )  # fmt: skip


def restore(site: Path, keys: Path, state: str, version: int, target: Path) -> dict[str, str]:
    """What the tool brings back of a version."""
    done = run(site, keys, state, version, target)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    return told(target)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> ThirtyYears:
    """As the product makes it now, with noise enough for a bulk pack."""
    return made(tmp_path_factory.mktemp("new") / "state", large=18 << 20, register_name=None, devices=os.geteuid() == 0)


def test_every_variant_of_now(new: ThirtyYears, tmp_path: Path) -> None:
    """All kinds of datasets, entries, content and trees of the first version come back, two epochs later."""
    found = restore(new.site_folder("home"), new.folder, new.state, 1, tmp_path / "out")
    assert expected(entries(18 << 20, devices=os.geteuid() == 0), "acts")(found) == []
    assert expected(out_of_order(), "cluster")(found) == []
    assert {name.partition("/")[0] for name in found} == {"acts", "cluster", "db", "identity"}
    assert found["acts/same-as-noise"].endswith("same as acts/noise")
    holes = (tmp_path / "out" / "acts" / "holes").stat()
    assert holes.st_blocks * 512 < holes.st_size / 2


def test_every_epoch_of_now(new: ThirtyYears, tmp_path: Path) -> None:
    """The same people open versions of a first, a failover's and a rekey's epoch, but none whose key was left out."""
    for version in (3, 4):
        found = restore(new.site_folder("home"), new.folder, new.state, version, tmp_path / str(version))
        assert sorted(found) == ["acts", "acts/act"]
    lost = run(new.site_folder("home"), new.folder, new.state, LOST, tmp_path / "lost")
    assert (lost.returncode, "Traceback" in lost.stderr) == (1, False)
    assert "opens with none of the keys of the epochs [1, 3, 4]" in lost.stderr


def test_a_failover_and_an_empty_dataset(tmp_path: Path) -> None:
    """Before that key was left out, its version opened; an empty dataset of it is no folder."""
    state = made(tmp_path / "state", large=50_000, register_name=None, lost=False)
    first = restore(state.site_folder("home"), state.folder, state.state, 1, tmp_path / "first")
    second = restore(state.site_folder("home"), state.folder, state.state, 2, tmp_path / "second")
    assert second == {path: what for path, what in first.items() if path.partition("/")[0] == "acts"}


def test_sizes_of_packs(new: ThirtyYears) -> None:
    """The state has packs of the smallest and of the largest class, and of some between."""
    sizes = {path.stat().st_size for path in new.paths("pack")}
    assert max(sizes) == 16 << 20
    assert min(sizes) <= 8192
    assert len(sizes) >= 4


@pytest.mark.parametrize("name", ["sealed", "public"])
def test_frozen_copy(tmp_path: Path, name: str) -> None:
    """The archive of the day on which the formats were frozen gives what it gave then, entry by entry."""
    with tarfile.open(FROZEN / f"{name}.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    state = json.loads((FROZEN / f"{name}.json").read_text())
    for path in (tmp_path / "keys").iterdir():
        path.chmod(0o600)
    for version, listing in state["versions"].items():
        found = restore(tmp_path / "site", tmp_path / "keys", state["state"], int(version), tmp_path / version)
        assert found == listing

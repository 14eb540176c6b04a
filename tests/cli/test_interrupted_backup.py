"""Backups that are killed, and how much memory one needs: real processes on real files."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exclave.formats.pack import ROOT_ID
from exclave.ids import Epoch, Label, RegisterId, parse_fingerprint
from exclave.operations.home import Home
from exclave.sites.directory import DirectorySite
from exclave.vault.index import ChunkIndex
from exclave.vault.reindex import reconcile
from support.small_home import Register, SmallHome, command, run, start, tree_of

SEED = 20261123
KILLS = 10


def _tree(folder: Path, size_bytes: int) -> None:
    """Files of 1 kB to 8 MB, as many as ``size_bytes`` need; the same each time."""
    random_ = random.Random(SEED)
    made = number = 0
    while made < size_bytes:
        size = min(int(1000 * 8000 ** random_.random()), size_bytes - made + 1000)
        path = folder / f"{number % 7}" / f"act-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(random_.randbytes(size))
        made, number = made + size, number + 1


def _chunk_tables(home: SmallHome, site: str) -> list[bytes]:
    """Ids of all chunks in all packs at ``site``, as the writer's own index key shows them; one for each copy."""
    opened = Home.open(home.folder)
    register = RegisterId(home.id_of())
    secrets = opened.register_secrets(register)
    index = ChunkIndex(home.root / f"index-{site}.sqlite")
    ids: list[bytes] = []

    real = index.adopt

    def adopt(name, size_bytes, epoch, rows, label):  # type: ignore[no-untyped-def]
        kept = list(rows)
        ids.extend(bytes(row.id) for row in kept if row.id != ROOT_ID)
        real(name, size_bytes, epoch, kept, label)

    index.adopt = adopt  # type: ignore[method-assign]
    try:
        reconcile(
            index, Label(site), DirectorySite(str(home.site(site))), parse_fingerprint(home.fingerprint), register,
            {Epoch(e): key for e, key in secrets.index_keys.items()},
        )  # fmt: skip
    finally:
        index.close()
    return ids


@pytest.mark.slow
def test_killed_ten_times(tmp_path: Path) -> None:
    """Killed ten times at random moments: earlier versions stay whole, the next run ends it, no chunk is sent twice."""
    acts = tmp_path / "acts"
    acts.mkdir()
    _tree(acts, 2_000_000)
    home = SmallHome(tmp_path, [Register("gazette", [("acts", "files", {"path": str(acts)})])]).found()
    home.backup()
    _tree(acts, 40_000_000)
    random_ = random.Random(SEED)
    killed = rounds = 0
    while killed < KILLS:
        (acts / f"more-{rounds}").write_bytes(random_.randbytes(2_000_000))
        process = start("backup", *home.home)
        opened = home.folder / "cache" / home.id_of() / "index.sqlite-wal"
        # The cache is open from when the real work begins.
        while not opened.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(0.5 * random_.random())
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        rounds += 1
        assert rounds < 20 * KILLS
        assert run("verify", *home.where(), "--quick").code in (0, 1)  # 1: a version lies at too few sites yet
    done = home.versions()
    assert done[0]["sequence"] == 1
    receipt = home.backup()[0]
    # A version that the last kill left logged but not yet at enough sites is ended first, under its own number.
    assert receipt["sequence"] in (len(done) + 1, len(done) + 2)
    assert [v["sequence"] for v in home.versions()] == list(range(1, receipt["sequence"] + 1))
    assert home.verify()["findings"] == []
    assert all(v["sites"] == list(home.sites) for v in home.versions())
    for site in home.sites:
        ids = _chunk_tables(home, site)
        assert len(ids) == len(set(ids)), "chunks were sent twice"
    granted = home.granted("restore")
    for version in (1, receipt["sequence"]):
        target = tmp_path / f"target-{version}"
        home.ok(
            "restore", *home.where("lux"), *granted, "--target", str(target), "--version", str(version), "--compare"
        )
    assert tree_of(tmp_path / f"target-{receipt['sequence']}" / "acts") == tree_of(acts)


_PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _peak_kib(arguments: list[str]) -> int:
    """Most memory that the process ever held (resident), in KiB, as the kernel tells when it ends.

    A small process starts it: to the kernel, what the one that forks holds counts for its child too.
    """
    said = subprocess.run([sys.executable, "-c", _PEAK, *arguments], stdout=subprocess.PIPE, check=True).stdout
    return int(said)


@pytest.mark.slow
def test_memory(tmp_path: Path) -> None:
    """A backup of 1.5 GB that cannot be compressed stays below 400 MiB, and so does the verification."""
    acts = tmp_path / "acts"
    acts.mkdir()
    with (acts / "bulk").open("wb") as file:
        for number in range(100):
            file.write(random.Random(number).randbytes(10_000_000))
    for number in range(50):
        (acts / f"part-{number}").write_bytes(random.Random(-number - 1).randbytes(10_000_000))
    at = ("lux", "nord")
    register = Register("gazette", [("acts", "files", {"path": str(acts)})], at=at, copies=1, countries=1)
    home = SmallHome(tmp_path, [register], sites=at).found()
    peak = _peak_kib(command("backup", "--to", "lux", *home.home))
    assert peak < 400 << 10, f"{peak >> 10} MiB"
    peak = _peak_kib(command("verify", *home.where("lux")))
    assert peak < 400 << 10, f"{peak >> 10} MiB"

"""Keyless verification of a whole site, beside the speed at which these cores hash; peak memory.

    python bench/verification.py [--gb 20] [--quick] [--folder bench/work/verification]

The site is filled by `exclave backup`, a version for each piece of at most 1 GB; a piece is gone before the next is
made, and all versions stay. Two sites: `noise`, which nothing compresses, and `mixed`, of which every second file of 1
to 64 MiB is text. Measured: `exclave verify` as a process of its own, all packs read. Beside it, in the same run and on
the same files in the same state of the page cache, hashlib on as many threads as the verifier has: that is what disk
and cores allow. And the cores alone, hashing what is in memory. A site larger than memory is read from disk by both.
`--quick`: 1.5 GB of each kind.

Tables, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from exclave_adapter import Exclave
from limits import MB, hash_files, measure_limits
from measuring import RunFailed, measure, measure_all
from treefiles import MIB, SEED, WORK, files

from exclave.verify.embassy import WORKERS

GOAL_RATIO, GOAL_MIB = 0.8, 200
KINDS = ("noise", "mixed")
PIECE_BYTES = 1_000_000_000
GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Verified:
    """One site, verified."""

    kind: str
    site_mb: float
    packs: int
    rate: float
    """MB/s of the whole command."""
    hashed: float
    """MB/s at which hashlib gets through the same files."""
    cores: float
    """MB/s at which these cores hash what is in memory."""
    start_s: float
    """Of the command's time, what `--quick` takes: start, signatures, ledgers and lists."""
    cpu_s: float
    hashed_cpu_s: float
    """Processor time of the command, and of hashlib over the same files."""
    peak_mib: int

    @property
    def limit(self) -> float:
        """What the machine allows: its cores, or its disk."""
        return min(self.cores, self.hashed)


def pieces(kind: str, size_bytes: int, tree: Path) -> Iterator[int]:
    """Fills ``tree`` with one piece after the other; yields its bytes. The former piece is removed."""
    choose, left, words = random.Random(SEED), size_bytes, b"parcel deed owner act register state of the republic\n"
    while left > 0:
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        room = piece = min(left, PIECE_BYTES)
        number = 0
        while room > 0:
            size = min(room, choose.randint(1, 64) * MIB)
            with (tree / f"{left}-{number}").open("wb") as file:
                for at in range(0, size, MIB):
                    noise = kind == "noise" or number % 2 == 0
                    lines = b"".join(b"%016x %s" % (choose.getrandbits(64), words) for _ in range(MIB // 68))
                    data = choose.randbytes(MIB) if noise else lines
                    file.write(data[: size - at])
            room -= size
            number += 1
        yield piece
        left -= piece


def fill(folder: Path, kind: str, size_bytes: int, tool: Exclave) -> float:
    """Makes the site; seconds."""
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tree = folder / "tree"
    tree.mkdir()
    state = tool.prepare(folder, tree)
    for _ in pieces(kind, size_bytes, tree):
        measure_all(tool.backup(state), dict(os.environ), folder / "log")
    shutil.rmtree(tree)
    return time.monotonic() - started


def verify(folder: Path, kind: str, cores: float) -> Verified:
    """Three turns of each where the site is small enough for that not to take long; the better one counts."""
    paths = [path for path in files(folder / "site") if "/pack/" in str(path)]
    size_mb = sum(path.stat().st_size for path in paths) / MB
    fingerprint = (folder / "embassy" / "state" / "fingerprint").read_text().strip()
    (command,) = Exclave(dict(os.environ)).verify_at(folder, fingerprint)
    start = replace(command, argv=[*command.argv, "--quick"])
    hashed, hashed_cpu, runs, starts = [], [], [], []
    for _ in range(3 if size_mb < 5000 else 1):
        for path in paths:  # into the page cache, as far as it goes, and not counted
            path.read_bytes()
        before = time.process_time()
        hashed.append(hash_files(paths, WORKERS))
        hashed_cpu.append(time.process_time() - before)
        runs.append(measure(command, dict(os.environ), folder / "log"))
        starts.append(measure(start, dict(os.environ), folder / "log"))
    best = min(runs, key=lambda run: run.wall_s)
    return Verified(
        kind, size_mb, len(paths), size_mb / best.wall_s, max(hashed), cores, min(run.wall_s for run in starts),
        min(run.cpu_s for run in runs), min(hashed_cpu), max(run.peak_bytes for run in runs) // MIB,
    )  # fmt: skip


def main() -> int:
    """Exit code 0 also for a missed goal: it is a figure. 1 if a command failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=20.0, help="of each kind")
    parser.add_argument("--quick", action="store_true", help="1.5 GB of each kind")
    parser.add_argument("--folder", type=Path, default=WORK / "verification")
    options = parser.parse_args()
    size_bytes = int((1.5 if options.quick else options.gb) * GB)
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    cores = measure_limits(folder).sha256_all_cores
    rows = []
    print(f"these cores hash {cores:.0f} MB/s")
    print(
        f"{'':8}{'site':>10}{'packs':>8}{'verify':>12}{'hashlib':>12}{'ratio':>8}{'start':>9}{'CPU':>9}{'hashlib':>9}{'peak':>10}"
    )
    for kind in KINDS:
        try:
            made_s = fill(folder / kind, kind, size_bytes, Exclave(dict(os.environ)))
            row = verify(folder / kind, kind, cores)
        except RunFailed as error:
            print(error)
            return 1
        finally:
            shutil.rmtree(folder / kind, ignore_errors=True)
        ratio = row.rate / row.limit
        ok = ratio >= GOAL_RATIO and row.peak_mib <= GOAL_MIB
        figures = f"{row.rate:>7.0f} MB/s{row.hashed:>7.0f} MB/s{ratio:>8.2f}{row.start_s:>7.2f} s"
        figures += f"{row.cpu_s:>7.2f} s{row.hashed_cpu_s:>7.2f} s{row.peak_mib:>6} MiB"
        verdict = f"{'met' if ok else 'MISSED'} (made in {made_s:.0f} s)"
        print(f"{kind:8}{row.site_mb:>7.0f} MB{row.packs:>8}{figures}  {verdict}")
        rows.append(asdict(row) | {"ratio": ratio})
    print(f"goals: {GOAL_RATIO} of what cores and disk allow, {GOAL_MIB} MiB")
    print(json.dumps({"verification": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

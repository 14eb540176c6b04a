"""Keyless verification of a whole site, beside the speed at which these cores hash; peak memory.

    python bench/verification.py [--gb 20] [--quick] [--folder bench/work/verification]

The site is filled by `exclave backup`, a version for each piece of at most 1 GB; a piece is gone before the next is
made, and all versions stay. Two sites: `noise`, which nothing compresses, and `mixed`, of which every second file of 1
to 64 MiB is text. Measured: `exclave verify` as a process of its own, start and all, every byte read. Beside it, in
the same round and on the same files in the same state of the page cache, hashlib's SHA-256 on as many threads as the
verifier has: that is the hash speed that the goal speaks of. Three rounds, taking turns in who begins; the median round
counts. On a machine that does other work too, processor time tells more than the clock: the ratio is given for both. A
site larger than memory is read from disk by both. `--quick`: 1.5 GB of each kind; `--only` one kind.

Tables, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from exclave_adapter import Exclave
from limits import MB, hash_files
from measuring import Run, RunFailed, measure, measure_all
from tools import Command
from treefiles import MIB, SEED, WORK, files

from exclave.verify.embassy import WORKERS

GOAL_RATIO, GOAL_MIB = 0.8, 200
KINDS = ("noise", "mixed")
ROUNDS = 3
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
    """MB/s at which hashlib gets through the same files in the same round."""
    ratio: float
    """Of the two, by the clock."""
    cpu_s: float
    hashed_cpu_s: float
    """Processor time of the command, and of hashlib."""
    cpu_ratio: float
    start_s: float
    start_cpu_s: float
    """Of the command, what `--quick` takes: start, signatures, ledgers and lists."""
    peak_mib: int


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


def verify(folder: Path, kind: str) -> Verified:
    """The median round by the clock's ratio."""
    paths = [path for path in files(folder / "site") if "/pack/" in str(path)]
    site_mb = sum(path.stat().st_size for path in paths) / MB
    fingerprint = (folder / "embassy" / "state" / "fingerprint").read_text().strip()
    (command,) = Exclave(dict(os.environ)).verify_at(folder, fingerprint)
    start = replace(command, argv=[*command.argv, "--quick"])
    rows = []
    for turn in range(ROUNDS):
        for path in paths:  # into the page cache, as far as it goes, and not counted
            path.read_bytes()
        if turn % 2:
            run, (hash_s, hash_cpu_s) = _run(command, folder), _hashlib(paths)
        else:
            (hash_s, hash_cpu_s), run = _hashlib(paths), _run(command, folder)
        quick = _run(start, folder)
        rows.append(
            Verified(
                kind, site_mb, len(paths), site_mb / run.wall_s, site_mb / hash_s, hash_s / run.wall_s, run.cpu_s,
                hash_cpu_s, hash_cpu_s / run.cpu_s, quick.wall_s, quick.cpu_s, run.peak_bytes // MIB,
            )
        )  # fmt: skip
    peak_mib = max(row.peak_mib for row in rows)
    cpu_ratio = statistics.median(row.cpu_ratio for row in rows)
    middle = sorted(rows, key=lambda row: row.ratio)[len(rows) // 2]
    return replace(middle, peak_mib=peak_mib, cpu_ratio=cpu_ratio)


def _run(command: Command, folder: Path) -> Run:
    return measure(command, dict(os.environ), folder / "log")


def _hashlib(paths: list[Path]) -> tuple[float, float]:
    """Seconds by the clock and of processor time."""
    cpu, wall = time.process_time(), time.monotonic()
    hash_files(paths, WORKERS)
    return time.monotonic() - wall, time.process_time() - cpu


def main() -> int:
    """Exit code 0 also for a missed goal: it is a figure. 1 if a command failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=20.0, help="of each kind")
    parser.add_argument("--quick", action="store_true", help="1.5 GB of each kind")
    parser.add_argument("--only", choices=KINDS, help="this kind alone")
    parser.add_argument("--folder", type=Path, default=WORK / "verification")
    options = parser.parse_args()
    size_bytes = int((1.5 if options.quick else options.gb) * GB)
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    print(
        f"{'':8}{'site':>10}{'packs':>8}{'verify':>12}{'hashlib':>12}{'ratio':>7}"
        f"{'CPU':>9}{'hashlib':>9}{'ratio':>7}{'start':>9}{'CPU':>9}{'peak':>10}"
    )
    for kind in KINDS if options.only is None else (options.only,):
        try:
            made_s = fill(folder / kind, kind, size_bytes, Exclave(dict(os.environ)))
            row = verify(folder / kind, kind)
        except RunFailed as error:
            print(error)
            return 1
        finally:
            shutil.rmtree(folder / kind, ignore_errors=True)
        ok = row.ratio >= GOAL_RATIO and row.peak_mib <= GOAL_MIB
        figures = f"{row.rate:>7.0f} MB/s{row.hashed:>7.0f} MB/s{row.ratio:>7.2f}"
        figures += f"{row.cpu_s:>7.2f} s{row.hashed_cpu_s:>7.2f} s{row.cpu_ratio:>7.2f}"
        figures += f"{row.start_s:>7.2f} s{row.start_cpu_s:>7.2f} s{row.peak_mib:>6} MiB"
        verdict = f"{'met' if ok else 'MISSED'} (made in {made_s:.0f} s)"
        print(f"{kind:8}{row.site_mb:>7.0f} MB{row.packs:>8}{figures}  {verdict}")
        rows.append(asdict(row))
    print(f"goals: {GOAL_RATIO} of the hash speed by the clock, {GOAL_MIB} MiB")
    print(json.dumps({"verification": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

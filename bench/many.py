"""Many registers from one machine: versions of all of them, round after round, at three sites.

    python bench/many.py [--registers 100,300,1000] [--rounds 3] [--jobs 2] [--every 60] [--quick] [--folder /var/tmp]

Each register is a folder with one file of some kB that changes before each round; the sites are folders, written
durably. ``exclave backup --jobs`` backs all of them up, and each round's versions are checked against what the sites
show. For each number of registers: time of a round, processor time, memory of the largest process, calls at the sites
and durable writes for each register, and whether a round fits into ``--every`` seconds. The curve is a straight line
through the last two points; what it says of 100,000 registers is a calculation, not a measurement.

Tables, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.small_home import Register, SmallHome, command

FILE_BYTES = 4096
WISHED = 100_000
SYSTEM_CALLS = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s.*?(\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Row:
    """What one number of registers came to: medians over the rounds after the first."""

    registers: int
    first_s: float
    """Wall time of the first round, which makes all folders."""
    round_s: float
    cpu_ms: float
    """Processor time for a register, user and system, of all processes."""
    peak_mib: int
    """Memory of the largest process."""
    requests: float
    """Reads, listings and writes at the sites for a version; 0 if they were not counted."""
    fsyncs: float
    """Durable writes for a version; 0 if they were not counted."""


def town(folder: Path, count: int) -> SmallHome:
    registers = []
    for number in range(count):
        data = folder / "data" / f"{number:05d}"
        data.mkdir(parents=True)
        registers.append(Register(f"r{number:05d}", [("acts", "files", {"path": str(data)})], copies=3, countries=3))
        registers[-1].abroad = 2
    home = SmallHome(folder, registers)
    change(folder, count, 0)
    return home.found()


def change(folder: Path, count: int, turn: int) -> None:
    for number in range(count):
        (folder / "data" / f"{number:05d}" / "act").write_bytes(b"%d of %d " % (turn, number) + os.urandom(FILE_BYTES))


def back_up(home: SmallHome, jobs: int, around: list[str] | None = None) -> dict[str, object]:
    arguments = [*(around or []), *command("backup", "--jobs", str(jobs), "--json", *home.home)]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        raise SystemExit(f"a round failed with {done.returncode}: {done.stdout[-500:]}")
    return dict(json.loads(done.stdout))


def measure(folder: Path, count: int, rounds: int, jobs: int) -> Row:
    home = town(folder, count)
    took, used = [], []
    for turn in range(rounds + 1):
        change(folder, count, turn)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        report = back_up(home, jobs)
        took.append(time.monotonic() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        outcomes = report["outcomes"]
        if not isinstance(outcomes, list) or {o["sequence"] for o in outcomes} != {turn + 1} or len(outcomes) != count:
            raise SystemExit("a round did not make one version of each register")
    requests, fsyncs = calls(folder, home, count, jobs) if shutil.which("strace") and count <= 100 else (0.0, 0.0)
    shown = home.ok("status", *home.where())
    if len(shown["registers"]) != count:
        raise SystemExit("the sites do not show all registers")
    return Row(
        count, took[0], statistics.median(took[1:]), 1000 * statistics.median(used[1:]) / count,
        after.ru_maxrss >> 10, requests, fsyncs,
    )  # fmt: skip


def calls(folder: Path, home: SmallHome, count: int, jobs: int) -> tuple[float, float]:
    """Opens, listings and names made, and ``fsync``, for each register, of one more round under ``strace -c``."""
    change(folder, count, 99)
    out = folder / "calls"
    back_up(
        home, jobs, ["strace", "-f", "-c", "-o", str(out), "-e", "trace=openat,getdents64,link,linkat,fsync,rename"]
    )
    counted: dict[str, int] = {}
    for number, name in SYSTEM_CALLS.findall(out.read_text()):
        counted[name] = counted.get(name, 0) + int(number)
    return sum(v for k, v in counted.items() if k != "fsync") / count, counted.get("fsync", 0) / count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registers", default="100,300,1000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--every", type=float, default=60.0)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--quick", action="store_true", help="One round after the first.")
    options = parser.parse_args()
    rows = []
    for count in (int(part) for part in options.registers.split(",")):
        folder = Path(tempfile.mkdtemp(prefix="many-", dir=options.folder))
        try:
            rows.append(measure(folder, count, 1 if options.quick else options.rounds, options.jobs))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        show(rows[-1], options.every)
    told = curve(rows, options.every)
    print(told)
    print(json.dumps({"rows": [asdict(row) for row in rows], "curve": told}))
    return 0


def show(row: Row, every: float) -> None:
    fits = "fits into" if row.round_s <= every else "does NOT fit into"
    counted = f", {row.requests:.0f} file calls and {row.fsyncs:.0f} fsyncs" if row.fsyncs else ""
    print(
        f"{row.registers:6d} registers: {row.round_s:6.1f} s a round (first {row.first_s:.1f} s), {fits} {every:.0f} s;"
        f" each {1000 * row.round_s / row.registers:.0f} ms, {row.cpu_ms:.0f} ms of processor{counted};"
        f" largest process {row.peak_mib} MiB",
        flush=True,
    )


def curve(rows: list[Row], every: float) -> str:
    """What a straight line through the last two points says of ``WISHED`` registers."""
    if len(rows) < 2:
        return "one point is no curve"
    a, b = rows[-2:]
    slope = (b.round_s - a.round_s) / (b.registers - a.registers)
    seconds = b.round_s + slope * (WISHED - b.registers)
    return (
        f"straight on, {WISHED} registers would take {seconds / 60:.0f} min a round on this machine:"
        f" {seconds / every:.0f} such machines for a round in {every:.0f} s, or a round in {seconds / 3600:.1f} h here"
    )


if __name__ == "__main__":
    raise SystemExit(main())

"""An auditor checks a year: hourly versions of ten registers, read from one site with nothing but the fingerprint.

    python bench/auditor.py [--registers 10] [--versions 8760] [--quick] [--folder bench/work/auditor]

Each version is a folder with one small file that changes, sealed, entered and signed by the product's own writer;
only the disk's `fsync` is left out while they are made, and the writer's cache lies in memory. On two quiet cores the
year takes 5 to 10 minutes to make. It stays in the folder and serves another run of the same size. Measured: `exclave
verify`, with all packs and with `--quick`, and the verifier that installs alone (`exclave-verify`), each as a process
of its own: wall and processor time, peak memory. `--quick` makes 438 versions of each register, a twentieth of the
year; the time per version is printed for both, and what it says of the year is a calculation, which counts the start
of the program twenty times.

Tables, then one line of JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from measuring import RunFailed, measure
from tools import Command
from treefiles import WORK

from exclave.formats.entry import Captured, Entry, Kind
from exclave.formats.paths import box_key
from exclave.ids import Instant, RegisterId, now, sha256
from support import small_state
from support.small_state import HOUR, SmallState

GOAL_S, YEAR, REGISTERS, QUICK = 60.0, 8760, 10, 438
SITE = "home"
IN_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Checked:
    """One check of the whole embassy."""

    what: str
    wall_s: float
    cpu_s: float
    peak_mib: int


class _Text:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def blocks(self) -> list[bytes]:
        return [self._data]


def one_file(number: int) -> list[Captured]:
    data = b"act as of hour %d\n" % number
    file = Captured(Entry(b"act", Kind.FILE, 0o644, 0, 0, number, len(data)), content=_Text(data))
    return [Captured(Entry(b"", Kind.FOLDER, 0o755, 0, 0, 0)), file]


def make(folder: Path, registers: int, versions: int) -> str:
    """The embassy below ``folder``, its last version made just now; the state's fingerprint."""
    small_state.START = Instant(now() - versions * HOUR)
    first = SmallState(folder, sites=(SITE,))
    states = [first, *(_another(first, number) for number in range(1, registers))]
    rules = tuple(
        replace(first.charter.registers[0], id=state.register, epoch_note=state.epoch.note.digest) for state in states
    )
    ordered = tuple(sorted(rules, key=lambda rule: rule.id))
    first.next_charter(lambda charter: replace(charter, registers=ordered))
    lives = multiprocessing.get_context("fork")  # keys cannot be handed over in another way
    cores = len(os.sched_getaffinity(0))
    parts = [lives.Process(target=_live, args=(states[place::cores], versions)) for place in range(cores)]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
        if part.exitcode != 0:
            raise SystemExit("the embassy could not be made")
    return str(first.state)


def _another(first: SmallState, number: int) -> SmallState:
    """Another register of the same state, with an epoch of its own."""
    made = copy.copy(first)
    made.register = RegisterId(f"{number:032x}")
    made.epochs = [made._make_epoch(1, first.epoch.by, None, None)]
    made._put_epoch(made.epoch)
    return made


def _live(states: list[SmallState], versions: int) -> None:
    os.fsync = lambda fd: None  # type: ignore[assignment]
    for state in states:
        state.primary.put_same(box_key(state.state, state.register, sha256(b"box")), b"box")  # the annex
        with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as cache:
            state.cache = Path(cache)
            for number in range(versions):
                state.write_version(one_file(number))


def prepare(folder: Path, registers: int, versions: int) -> tuple[str, float]:
    """The embassy of that size, made or found; its fingerprint, and how long the making took (0: it was there)."""
    told = folder / "made.json"
    wanted = {"registers": registers, "versions": versions}
    if told.exists() and {k: v for k, v in json.loads(told.read_text()).items() if k in wanted} == wanted:
        return str(json.loads(told.read_text())["fingerprint"]), 0.0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    fingerprint = make(folder / "state", registers, versions)
    told.write_text(json.dumps(wanted | {"fingerprint": fingerprint}))
    return fingerprint, time.monotonic() - started


def check(folder: Path, fingerprint: str) -> list[Checked]:
    """Each way to check; RunFailed unless it finds everything right."""
    site = f"{SITE}=dir:{folder}/state/sites/{SITE}"
    whole = [sys.executable, "-m", "exclave.cli.main", "verify", "--site", site, "--fingerprint", fingerprint]
    alone = [sys.executable, "-m", "exclave.verify.command", site, "--fingerprint", fingerprint]
    commands = {"exclave verify": whole, "exclave verify --quick": [*whole, "--quick"], "exclave-verify": alone}
    rows = []
    for what, argv in commands.items():
        run = measure(Command(argv, folder), dict(os.environ), folder / "log")
        rows.append(Checked(what, run.wall_s, run.cpu_s, run.peak_bytes >> 20))
    return rows


def main() -> int:
    """Exit code 0 also for a missed goal: it is a figure. 1 if the embassy is not right."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--registers", type=int, default=REGISTERS)
    parser.add_argument("--versions", type=int, default=YEAR, help="of each register")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} versions of each register")
    parser.add_argument("--folder", type=Path, default=WORK / "auditor")
    options = parser.parse_args()
    versions = QUICK if options.quick else options.versions
    folder = options.folder.absolute() / f"{options.registers}x{versions}"
    fingerprint, made_s = prepare(folder, options.registers, versions)
    count = options.registers * versions
    print(f"{count} versions ({options.registers} registers, {versions} each); made in {made_s:.0f} s")
    try:
        rows = check(folder, fingerprint)
    except RunFailed as error:
        print(error)
        return 1
    print(f"{'':26}{'wall':>9}{'CPU':>9}{'a version':>12}{'peak':>9}")
    for row in rows:
        each = f"{row.wall_s / count * 1000:.3f} ms"
        print(f"{row.what:26}{row.wall_s:>7.2f} s{row.cpu_s:>7.2f} s{each:>12}{row.peak_mib:>5} MiB")
    year = rows[0].wall_s / count * YEAR * REGISTERS
    measured = "measured" if count == YEAR * REGISTERS else f"calculated from 1/{YEAR * REGISTERS / count:.0f} of it"
    print(f"a year of ten registers: {year:.0f} s, {measured}; goal {GOAL_S:.0f} s:"
          f" {'met' if year <= GOAL_S else 'MISSED'}")  # fmt: skip
    told = {"versions": count, "year_s": year, "measured": measured == "measured", "rows": [asdict(r) for r in rows]}
    print(json.dumps({"auditor": told}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

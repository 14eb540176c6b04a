"""What a coded site costs beside a plain one: room, processor seconds, and the same with n - k members lost.

``python bench/coded.py FOLDER``: 24 packs of 16 MiB of noise through folders below FOLDER (five times 403 MB of room),
medians of three rounds. Members are folders on one disk, so no wait for a network is in the figures.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from exclave.ids import Key, sha256
from exclave.sites.opening import open_site

PACKS, PACK_BYTES, ROUNDS = 24, 16 << 20, 3
NUMBERS = ((1, 1), (2, 3), (3, 5), (4, 6), (10, 14))


def measured(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of processor."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu


def one_round(folder: Path, k: int, n: int, packs: dict[Key, bytes]) -> tuple[float, ...]:
    """Room as a multiple of the bytes; then clock and processor of writing, reading, and reading with losses."""
    folders = [folder / str(at) for at in range(n)]
    for member in folders:
        member.mkdir(parents=True)
    url = f"dir:{folders[0]}" if n == 1 else f"coded:{k}?" + "&".join(f"member=dir:{member}" for member in folders)
    site = open_site(url)

    def write() -> None:
        for key, data in packs.items():
            site.put_same(key, data)

    def read() -> None:
        for key in packs:
            site.get(key)

    written = measured(write)
    room = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    whole = measured(read)
    for member in folders[: n - k]:
        shutil.rmtree(member)
    lost = measured(read)
    shutil.rmtree(folder)
    return room / sum(map(len, packs.values())), *written, *whole, *lost


def main(folder: Path) -> None:
    noise = [os.urandom(PACK_BYTES) for _ in range(PACKS)]
    packs = {Key(f"state/pack/{sha256(data).hex()[:2]}/{sha256(data).hex()}"): data for data in noise}
    print("| site | room | write, wall | write, CPU | read, wall | read, CPU | n - k lost: read, wall | CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for k, n in NUMBERS:
        rounds = [one_round(folder / f"{k}-{n}-{number}", k, n, packs) for number in range(ROUNDS)]
        room, *seconds = (statistics.median(column) for column in zip(*rounds, strict=True))
        name = "one folder" if n == 1 else f"{k} of {n}"
        print(f"| {name} | {room:.2f} × | " + " | ".join(f"{value:.2f} s" for value in seconds) + " |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

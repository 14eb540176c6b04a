"""What a mount can do: `exclave mount` of one large file and many small ones, beside `exclave restore` of the same.

    python bench/mount.py [--large-mib 1024] [--small 50000] [--folder /var/tmp]

Figures are wall and processor seconds: of the mounting process, since other work on the machine hardly moves those; of
the command itself for the restore. Needs libfuse 3, and twice the data in free space.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.mounted import Mounted, mounted
from support.small_home import Register, SmallHome, command

PER_FOLDER = 100
READS = 1000


def fill(folder: Path, large_mib: int, small: int) -> None:
    """One file that does not compress, and ``small`` short ones in folders of a hundred."""
    folder.mkdir()
    with open(folder / "large", "wb") as file:
        for _ in range(large_mib):
            file.write(os.urandom(1 << 20))
    for number in range(small):
        if number % PER_FOLDER == 0:
            (folder / "small" / f"{number // PER_FOLDER:05}").mkdir(parents=True)
        (folder / "small" / f"{number // PER_FOLDER:05}" / f"{number % PER_FOLDER:02}").write_bytes(b"%d" % number * 9)


def processor_s(pid: int) -> float:
    """What a process has used until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(mount: Mounted, what: str, work: Callable[[], object], unit: str, count: float) -> None:
    """Runs ``work`` and prints how many ``unit`` it made in a second, by the clock and by processor time."""
    used, began = processor_s(mount.process.pid), time.monotonic()
    work()
    wall, used = time.monotonic() - began, processor_s(mount.process.pid) - used
    rates = f"{count / wall:9.0f} {unit}/s {count / used:9.0f} {unit}/cpu-s"
    print(f"{what:34} {wall:6.2f} s {used:6.2f} s processor {rates}")


def read_at_random(path: Path, size: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    chooser = random.Random(1)
    for _ in range(READS):
        os.pread(fd, 4096, chooser.randrange(size - 4096))
    os.close(fd)


def silently(*argv: str) -> None:
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def read_small(folder: Path) -> None:
    for path in sorted(folder.glob("*/*")):
        path.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large-mib", type=int, default=1024)
    parser.add_argument("--small", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="exclave-mount-", dir=options.folder))
    try:
        run(root, options.large_mib, options.small)
    finally:
        shutil.rmtree(root)


def run(root: Path, large_mib: int, small: int) -> None:
    fill(root / "acts", large_mib, small)
    register = Register("gazette", [("acts", "files", {"path": str(root / "acts")})], at=("home", "lux"))
    home = SmallHome(root, [register], sites=("home", "lux")).found()
    home.backup()
    granted = home.granted("restore")
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command("restore", *granted, *home.where(), "--target", str(root / "out")), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{'restore of everything':34} {time.monotonic() - began:6.2f} s {used:6.2f} s processor")
    shutil.rmtree(root / "out")
    with mounted(home, granted=granted) as mount:
        acts = mount.dataset("acts")
        in_order = ["dd", f"if={acts / 'large'}", "of=/dev/null", "bs=1M"]
        measured(mount, "large file in order", lambda: silently(*in_order), "MiB", large_mib)
        listing = ["ls", "-lR", str(acts / "small")]
        measured(mount, "ls -lR of the small files", lambda: silently(*listing), "names", small)
        measured(mount, "the same again", lambda: silently(*listing), "names", small)
        measured(mount, "small files read", lambda: read_small(acts / "small"), "files", small)
        measured(mount, "4 KiB at random of the large file", lambda: read_at_random(acts / "large", large_mib << 20),
                 "reads", READS)  # fmt: skip
        status = Path(f"/proc/{mount.process.pid}/status").read_text()
        print(f"peak memory {int(status.split('VmHWM:')[1].split()[0]) >> 10} MiB")


if __name__ == "__main__":
    main()

"""The gateway beside SeaweedFS through our S3 site: packs in and out, and heads of 100 registers, in one run.

    python bench/gateway.py [--quick] [--rounds 3] [--packs 48] [--seconds 10] [--folder /var/tmp]

Each engine runs by itself on loopback, with its data in the same file system; the client is this process, with four
threads for packs of 16 MiB, whose names are their SHA-256, as packs have it. SeaweedFS is told to fsync each object,
as the gateway does by itself; both speak TLS. The limit is what four threads write to the disk (O_DIRECT, fsync each),
or a link of 1 Gbit/s if that is less. Heads: 100 threads with a head each, one update a second: alone, while a process
of its own puts packs at 1 Gbit/s, and while it puts them as fast as it can. What the disk alone needs for the same
durable replacements is measured beside them. Rounds alternate; figures are medians.
Objects read were just written, so both read from memory: what is compared is the engines. Files go only between rounds,
and are gone from the disk before the next one: a file system that discards them answers slowly meanwhile.

Processor time of client and engine for each GB is told too. It holds on a busy machine, where rates do not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from goals import MB, Goal

from exclave.app import keep_freed_memory
from exclave.errors import ExclaveError
from exclave.ids import Key
from exclave.sites.contract import Site
from exclave.sites.opening import open_site
from exclave.sites.plainfiles import write_whole
from support.gateway import HostPlace, host_place
from support.loopback_tls import loopback_tls
from support.seaweed import Seaweed, free_ports, weed_command, weed_program, write_files

PACK_BYTES = 16 << 20
THREADS, REGISTERS = 4, 100
LINK_MB_S = 125.0
SHARE, P99_MS = 0.8, 50.0
OURS, PEER = "gateway", "SeaweedFS"


@dataclass(slots=True)
class Figures:
    """Of one engine: MB/s and milliseconds, a value for each round."""

    put: list[float] = field(default_factory=list)
    get: list[float] = field(default_factory=list)
    heads_p99: list[float] = field(default_factory=list)
    link_p99: list[float] = field(default_factory=list)
    """While packs are put at the link's rate."""
    busy_p99: list[float] = field(default_factory=list)
    """While packs are put as fast as they go."""
    busy_put: list[float] = field(default_factory=list)
    """MB/s of packs put meanwhile."""
    put_cpu: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of processor for each GB: client, engine."""
    get_cpu: list[tuple[float, float]] = field(default_factory=list)
    late: int = 0
    """Head updates that began more than a second late: the engine does not keep up."""


def main() -> int:
    options = argparse.ArgumentParser(description="see the file")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--packs", type=int, default=48)
    options.add_argument("--seconds", type=int, default=10)
    options.add_argument("--folder", default="/var/tmp")
    options.add_argument("--putting", help=argparse.SUPPRESS, default="")
    options.add_argument("--mb-s", type=float, default=0, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    keep_freed_memory()  # as every command does
    if chosen.putting:
        keep_putting(open_site(chosen.putting), chosen.mb_s)
        return 0
    if chosen.quick:
        chosen.rounds, chosen.packs, chosen.seconds = 1, 16, 5
    rows, raw = measure(chosen.rounds, chosen.packs, chosen.seconds, chosen.folder)
    print("| what | goal | measured | beside | ratio | met |\n|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.measure} | {row.goal} | {row.ours} | {row.other} | {row.reached} | {row.verdict} |")
    print("\n| processor time of a GB, client + engine | gateway | SeaweedFS |\n|---|---:|---:|")
    for what in ("put", "get"):
        told = [" + ".join(f"{s:.2f} s" for s in raw[name][f"{what}_cpu_median"]) for name in (OURS, PEER)]
        print(f"| {what} of packs | {told[0]} | {told[1]} |")
    print("\n" + json.dumps(raw))
    return 0


def measure(rounds: int, packs: int, seconds: int, folder: str) -> tuple[list[Goal], dict[str, Any]]:
    """All rounds; rows for the table of goals, and the raw figures."""
    found = {OURS: Figures(), PEER: Figures()}
    disk: list[float] = []
    disk_heads: list[float] = []
    for number in range(rounds):
        order = [OURS, PEER] if number % 2 == 0 else [PEER, OURS]
        with tempfile.TemporaryDirectory(dir=folder) as name:
            (Path(name) / "disk").mkdir()
            disk.append(disk_limit(Path(name) / "disk", packs))
            disk_heads.append(updates(partial(replace_durably, Path(name) / "disk"), seconds, Figures()))
            for engine in order:
                place = Path(name) / engine
                place.mkdir()
                with ENGINES[engine](place) as (site, url, pid):
                    one_round(site, url, pid, found[engine], packs, seconds)
        os.sync()
    raw: dict[str, Any] = {"disk_mb_s": disk, "disk_heads_p99": disk_heads}
    for name, one in found.items():
        raw[name] = {k: getattr(one, k) for k in one.__slots__}
        for what in ("put", "get"):
            pairs = getattr(one, f"{what}_cpu")
            raw[name][f"{what}_cpu_median"] = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return goals(found[OURS], found[PEER], statistics.median(disk), statistics.median(disk_heads)), raw


def goals(ours: Figures, peer: Figures, disk: float, disk_heads_ms: float) -> list[Goal]:
    limit, median = min(disk, LINK_MB_S), statistics.median
    rows = []
    for what, mine, other in (("put of packs", ours.put, peer.put), ("get of packs", ours.get, peer.get)):
        rate, beside = median(mine), median(other)
        told = f"{rate:.0f} MB/s"
        shown = f"{limit:.0f} MB/s (disk {disk:.0f})"
        rows.append(
            Goal(
                "gateway",
                what,
                f"≥ {SHARE} of disk or 1 Gbit/s",
                told,
                shown,
                f"{rate / limit:.2f}",
                rate >= SHARE * limit,
            )
        )
        rows.append(
            Goal("gateway", what, f"≥ {PEER}", told, f"{beside:.0f} MB/s", f"{rate / beside:.2f}", rate >= beside)
        )
    for what, held, others in (
        ("head update, 100 registers, p99", ours.heads_p99, peer.heads_p99),
        ("the same while packs are put at 1 Gbit/s", ours.link_p99, peer.link_p99),
        ("the same while packs are put as fast as they go", ours.busy_p99, peer.busy_p99),
    ):
        took_ms, other_ms = median(held), median(others)
        rows.append(
            Goal(
                "gateway",
                what,
                f"< {P99_MS:.0f} ms",
                f"{took_ms:.1f} ms",
                f"{other_ms:.1f} ms (the disk alone {disk_heads_ms:.1f})",
                f"{took_ms / P99_MS:.2f}",
                took_ms < P99_MS,
            )
        )
    return rows


class Packs:
    """Packs that differ in their first bytes, under names as packs have them."""

    def __init__(self, count: int) -> None:
        self._base = os.urandom(PACK_BYTES)
        self._run = secrets.token_bytes(4)
        self.names = [hashlib.sha256(self[number]).hexdigest() for number in range(count)]

    def __getitem__(self, number: int) -> memoryview:
        data = bytearray(self._base)
        data[:8] = self._run + number.to_bytes(4, "big")
        return memoryview(data)

    def key(self, number: int) -> Key:
        return Key(f"probe/{self.names[number][:2]}/{self.names[number]}")


def one_round(site: Site, url: str, pid: int, figures: Figures, packs: int, seconds: int) -> None:
    made, run = Packs(packs), secrets.token_hex(4)

    def put(number: int) -> None:
        site.put_same(made.key(number), made[number])

    def get(number: int) -> None:
        if len(site.get(made.key(number))) != PACK_BYTES:
            raise SystemExit("a pack came back short")

    gigabytes = packs * PACK_BYTES / 1e9
    for act, rates, spent in ((put, figures.put, figures.put_cpu), (get, figures.get, figures.get_cpu)):
        before = _spent_s(os.getpid()), _spent_of_all_s(pid)
        rates.append(_rate(act, packs))
        after = _spent_s(os.getpid()), _spent_of_all_s(pid)
        spent.append(((after[0] - before[0]) / gigabytes, (after[1] - before[1]) / gigabytes))
    figures.heads_p99.append(heads(site, run + "a", seconds, figures))
    with putting(url, LINK_MB_S, []):
        figures.link_p99.append(heads(site, run + "b", seconds, figures))
    with putting(url, 0, figures.busy_put):
        figures.busy_p99.append(heads(site, run + "c", seconds, figures))


@contextmanager
def putting(url: str, mb_s: float, rates: list[float]) -> Iterator[None]:
    """Another process puts packs until the block ends; ``rates`` gets what it reached. ``mb_s``: at most; 0: any."""
    argv = [sys.executable, __file__, "--putting", url, "--mb-s", str(mb_s)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the first pack is there
        try:
            yield
        finally:
            told, _ = process.communicate("", timeout=120)
    rates.append(float(told))


def keep_putting(site: Site, mb_s: float) -> None:
    """With two threads, until standard input ends."""
    ended, made = threading.Event(), threading.Semaphore(0)
    begin, count, lock = time.monotonic(), 0, threading.Lock()

    def work() -> None:
        nonlocal count
        packs = Packs(0)
        while not ended.is_set():
            data = packs[len(packs.names)]
            packs.names.append(hashlib.sha256(data).hexdigest())
            site.put_same(packs.key(len(packs.names) - 1), data)
            with lock:
                count += 1
                ahead_s = begin + count * PACK_BYTES / MB / mb_s - time.monotonic() if mb_s else 0.0
            made.release()
            ended.wait(max(0.0, ahead_s))

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(work) for _ in range(2)]
        made.acquire()
        print("putting", flush=True)
        sys.stdin.read()
        ended.set()
        for one in running:
            one.result()
    print(count * PACK_BYTES / MB / (time.monotonic() - begin))


def _spent_of_all_s(pid: int) -> float:
    """Processor time of a process and of those below it."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    below = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return _spent_s(pid) + sum(_spent_of_all_s(child) for child in below)


def _spent_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rate(act: Callable[[int], None], packs: int) -> float:
    """MB/s."""
    with ThreadPoolExecutor(THREADS) as pool:
        begin = time.perf_counter()
        list(pool.map(act, range(packs)))
        return packs * PACK_BYTES / MB / (time.perf_counter() - begin)


def heads(site: Site, run: str, seconds: int, figures: Figures) -> float:
    """The 99th percentile, in ms, of updates of heads at a site."""
    tags: dict[int, str] = {}

    def update(number: int, data: bytes) -> None:
        tags[number] = site.replace_if(Key(f"probe/{run}/head-{number}"), data, tags.get(number))

    return updates(update, seconds, figures)


def updates(update: Callable[[int, bytes], None], seconds: int, figures: Figures) -> float:
    """The same of whatever ``update`` does: one a second by each of ``REGISTERS`` threads."""
    took: list[float] = []
    lock = threading.Lock()
    begin = time.monotonic() + 1

    def register(number: int) -> None:
        mine = []
        for turn in range(seconds):
            due = begin + turn + number / REGISTERS
            late = time.monotonic() - due
            if late < 0:
                time.sleep(-late)
            started = time.perf_counter()
            update(number, os.urandom(400))
            mine.append(1000 * (time.perf_counter() - started))
            if late > 1:
                figures.late += 1
        with lock:
            took.extend(mine[1:])  # the first of each opens its connection

    threads = [threading.Thread(target=register, args=(number,)) for number in range(REGISTERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(took) != REGISTERS * (seconds - 1):
        raise SystemExit("a head's update failed")
    return sorted(took)[int(len(took) * 0.99)]


def replace_durably(folder: Path, number: int, data: bytes) -> None:
    """What a head costs at least where files are replaced whole: file, fsync, rename, fsync of the folder."""
    temp = folder / f"new-{number}"
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temp.rename(folder / f"head-{number}")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def disk_limit(folder: Path, packs: int) -> float:
    data = os.urandom(PACK_BYTES)

    def write(number: int) -> None:
        fd = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            write_whole(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    return _rate(write, packs)


# Each engine: its site, that site's address, and the process.


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[Site, str, int]]:
    port = free_ports(1)[0]
    more = f"connections = {2 * REGISTERS}\nuploads = {2 * REGISTERS}\nquota_bytes = 100_000_000_000"
    place: HostPlace = host_place(folder, port=port, north=more)
    config = folder / "host.toml"
    config.write_text(config.read_text().replace("[limits]", '[duties]\npage = ""\n[limits]'))
    argv = [sys.executable, "-m", "exclave.cli.main", "serve", "site", "--config", str(config)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while b"listening" not in (folder / "log").read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.05)
        yield open_site(place.url(port)), place.url(port), process.pid
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def seaweed(folder: Path) -> Iterator[tuple[Site, str, int]]:
    write_files(folder)
    loopback_tls(folder)
    ports = free_ports(5, offset=10_000)
    argv = [*weed_command(ports), f"-s3.cert.file={folder}/server.pem", f"-s3.key.file={folder}/server.key"]
    environment = {**os.environ, "TMPDIR": str(folder), "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log, env=environment)
    engine = Seaweed(f"https://127.0.0.1:{ports[0]}", folder, process.pid)
    try:
        url = f"{engine.url('bench', credentials=engine.credentials_file(folder))}&authorities={folder}/ca.pem"
        site = open_site(url)
        deadline = time.monotonic() + 60
        while not _writable(site):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder / "log").read_text()[-3000:])
            time.sleep(0.2)
        _sync_each_object(ports)
        yield site, url, process.pid
    finally:
        process.kill()
        process.wait(60)


def _writable(site: Site) -> bool:
    try:
        site.put_same(Key("probe/ready"), b"x")
    except ExclaveError:
        return False
    return True


def _sync_each_object(ports: list[int]) -> None:
    """As docs/spec/layout.md asks of whoever runs it."""
    subprocess.run(
        [weed_program(), "shell", f"-master=127.0.0.1:{ports[1]}", f"-filer=127.0.0.1:{ports[3]}"],
        input=b"fs.configure -locationPrefix=/buckets/ -fsync=true -apply\n",
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


ENGINES = {OURS: gateway, PEER: seaweed}


if __name__ == "__main__":
    if shutil.which("openssl") is None:
        raise SystemExit("openssl is needed")
    sys.exit(main())

"""Status of two million certificates: start to first answer, memory, look-ups, and a CRL of 200,000 entries taken in
while others ask. ``python bench/status.py [--certificates N] [--revoked N] [--postgres CONNINFO]``; JSON at the end.

Everything is made in a temporary folder. Each figure is of a process of its own, started with the journal on disk.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from array import array
from itertools import cycle
from pathlib import Path

from cryptography import x509

from exclave.crypto.crl import issuer_id
from exclave.demo.pki import make_pki
from exclave.formats.journal import Issuer
from exclave.identity.contract import Authority, IdentityState
from exclave.identity.feeding.difference import issued_bodies
from exclave.identity.feeding.source import Source, SourceKind
from exclave.identity.journal import Journal
from exclave.identity.status_log import Serial
from exclave.identity.store import Store
from exclave.identity.store_postgres import open_postgres
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.sync import Pen, catch_up
from exclave.ids import Digest, Instant, Label, now
from exclave.operations.identity_feed import Feed

LABEL = Label("esteid-2018")
SEED = 20_261_126


def serials(count: int) -> list[Serial]:
    """Random ones of 16 octets, the same every time."""
    draw = random.Random(SEED)
    return [Serial(draw.getrandbits(127) | 1 << 126) for _ in range(count)]


def opened(folder: Path, postgres: str) -> Store:
    return open_postgres(postgres) if postgres else open_sqlite(str(folder / "status.db"))


def memory_mib() -> tuple[float, float]:
    """(now, at most) of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def ask(store: Store, issuer: Digest, chosen: list[Serial], seconds: float) -> tuple[float, array[float]]:
    """(look-ups per second, each one's µs)"""
    taken = array("d")
    began = last = time.perf_counter()
    for serial in cycle(chosen):
        store.status(issuer, serial)
        at = time.perf_counter()
        taken.append((at - last) * 1e6)
        last = at
        if at - began > seconds:
            break
    return len(taken) / (time.perf_counter() - began), taken


def percentile(values: array[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)]


def child(folder: Path, role: str, count: int, postgres: str) -> None:
    """One process: starts, says JSON lines."""
    began = float(sys.argv[-1])
    journal, store = Journal.open(str(folder / "journal")), opened(folder, postgres)
    catch_up(journal, store)
    issuer = store.issuers()[0].id
    (first,) = serials(1)
    store.status(issuer, first)
    ready = time.time() - began
    rss, peak = memory_mib()
    print(json.dumps({"ready_s": round(ready, 2), "rss_mib": round(rss), "peak_mib": round(peak)}), flush=True)
    if role == "start":
        return
    if role == "take-in":
        print(json.dumps(intake(folder, journal, store, issuer)), flush=True)
        return
    chosen = serials(count)[:: max(1, count // 50_000)]
    random.shuffle(chosen)
    if role == "ask":
        rate, taken = ask(store, issuer, chosen, 5.0)
        result = {"per_s": round(rate), "p50_us": round(percentile(taken, 0.5), 1), "p99_us": percentile(taken, 0.99)}
        print(json.dumps(result | {"rss_mib": round(memory_mib()[0])}), flush=True)
        return
    sys.stdin.readline()
    taken = array("d")
    while not (folder / "done").exists():
        taken += ask(store, issuer, chosen, 0.1)[1]
    worst = {"p50_us": percentile(taken, 0.5), "p99_us": percentile(taken, 0.99), "worst_ms": max(taken) / 1e3}
    print(json.dumps({name: round(value, 1) for name, value in worst.items()} | {"asked": len(taken)}), flush=True)


def start(folder: Path, role: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    arguments = [sys.executable, __file__, "--child", role, "--folder", str(folder)]
    arguments += ["--certificates", str(options.certificates), "--postgres", options.postgres, str(time.time())]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str]) -> list[dict[str, float]]:
    out, _ = process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificates", type=int, default=2_000_000)
    parser.add_argument("--revoked", type=int, default=200_000)
    parser.add_argument("--postgres", default="")
    parser.add_argument("--child", default="")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("began", nargs="?")
    options = parser.parse_args()
    if options.child:
        child(options.folder, options.child, options.certificates, options.postgres)
        return
    with tempfile.TemporaryDirectory(prefix="exclave-bench-") as name:
        measure(Path(name), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    result: dict[str, object] = {"certificates": options.certificates, "revoked": options.revoked}
    made = now()
    ca = make_pki(made).first
    issuer, all_serials = issuer_id(ca.der), serials(options.certificates)
    (folder / "journal").mkdir()
    began = time.perf_counter()
    journal = Journal.open(str(folder / "journal"))
    journal.append([Issuer(LABEL, ca.der, False)], time=made, epoch=1)
    for at in range(0, len(all_serials), 200_000):
        journal.append(issued_bodies(issuer, all_serials[at : at + 200_000]), time=made, epoch=1)
    result["journal_s"] = round(time.perf_counter() - began, 2)
    if options.postgres:
        opened(folder, options.postgres).replace([])
    result["start_from_the_journal_alone"] = lines(start(folder, "start", options))[0]
    result["start"] = lines(start(folder, "start", options))[0]
    result["lookups"] = lines(start(folder, "ask", options))[1]
    crl = ca.crl(
        {int(s): (Instant(made - 10**6), x509.ReasonFlags.superseded) for s in all_serials[: options.revoked]},
        this_update=made,
    )
    (folder / "list.crl").write_bytes(crl)
    readers = [start(folder, "watch", options)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdin is not None
        reader.stdout.readline()
        reader.stdin.write("\n")
        reader.stdin.flush()
    result["intake"] = lines(start(folder, "take-in", options))[1]
    (folder / "done").touch()
    result["reader_meanwhile"] = lines(readers[0])[0]
    print(json.dumps(result, indent=1))


def intake(folder: Path, journal: Journal, store: Store, issuer: Digest) -> dict[str, float]:
    """The list from the file to the answers, by this process."""
    pen = Pen(journal, store, lambda: Authority(IdentityState.HOME, Label("home"), 1, Instant(0)), now)
    der = store.issuers()[0].certificates[0]
    source = Source(SourceKind.CRL, LABEL, issuer, der, path=str(folder / "list.crl"))
    began, worked = time.perf_counter(), time.process_time()
    (report,) = Feed((source,), store, pen, now).once().sources
    taken, worked = time.perf_counter() - began, time.process_time() - worked
    assert report.problem == ""
    return {
        "s": round(taken, 2), "cpu_s": round(worked, 2), "entries": report.changed, "peak_mib": round(memory_mib()[1])
    }  # fmt: skip


if __name__ == "__main__":
    main()

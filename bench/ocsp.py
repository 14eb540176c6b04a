"""Answers per second of ``openssl ocsp`` and of Exclave's status service, side by side in one run.

    python bench/ocsp.py [--seconds 5] [--rounds 3] [--certificates 100000]

Both run one process on core 0 with the same P-256 delegate, the same issuer and the same certificates (``index.txt``;
an SQLite store); the load comes from core 1: Apache's ``ab`` with 8 connections to find out what they can take (for
kept connections ``wrk``, which spends less on each request, so that the server is the limit and not the client), then
``ocsp_paced.py`` (kept connections: ``h2load``) at half of that for the time an answer takes. Everything runs in a
network namespace of its own, since ``openssl ocsp`` listens on all addresses. Rounds alternate; figures are medians.
*per CPU second*: answers divided by the processor time that the server used, which other work on the machine disturbs
less.

``ab`` sends the same nonce each time; neither server keeps answers to nonces, so each is signed. Each load has a server
of its own: when a client leaves without having asked, as ``ab`` does at the end, ``openssl ocsp`` 3.0 is at work for
ever and answers nobody.

``openssl ocsp`` serves one connection after the other and none that is kept: kept ones are compared with its figure for
a connection each.

Tables, then one line of JSON. What it does not show stands in docs/spec/ocsp.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from exclave import ids
from exclave.crypto.crl import issuer_id
from exclave.demo.pki import make_pki, pem
from exclave.formats.journal import MAX_SERIALS, Confirmed, Head, Issued, Issuer, Responder, encode_entry, entry_at
from exclave.formats.journal import serial_bytes as key_of
from exclave.formats.keyring import KeyUse
from exclave.identity.key_folder import KeyFolder
from exclave.identity.store_sqlite import open_sqlite
from exclave.ids import Instant

HERE = Path(__file__).resolve().parent
INSIDE = "EXCLAVE_BENCH_INSIDE"
DAY = 86_400_000_000
PORT = 8901
LOADS = {
    "nonce, a connection each": ("nonce.der", True),
    "nonce, kept connections": ("nonce.der", False),
    "no nonce, a connection each": ("plain.der", True),
    "no nonce, kept connections": ("plain.der", False),
}
EACH = "nonce, a connection each"
HALVES = (EACH, "nonce, kept connections")
KEPT = 16
"""Connections at half the load."""
CLIENT_MAX = 2500
"""Connections a second that the paced client can make without being late itself; beyond, it would time itself."""


@dataclass(frozen=True, slots=True)
class Run:
    """One load on one server."""

    per_s: float
    per_cpu_s: float
    bad: int


def main() -> None:
    options = argparse.ArgumentParser(description="see the file")
    options.add_argument("--seconds", type=int, default=5)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--certificates", type=int, default=100_000)
    chosen = options.parse_args()
    if INSIDE not in os.environ:
        isolated = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
        os.execvpe(isolated[0], [*isolated, sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for program, package in (("ab", "apache2-utils"), ("wrk", "wrk")):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is needed (apt install {package})")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), chosen.certificates)
        measure(Path(folder), chosen)


# What both serve


def prepare(folder: Path, certificates: int) -> None:
    """One issuer, a delegate, an index and a store of the same certificates, and two requests for one of them."""
    now = ids.now()
    ca = make_pki(now).first
    card = ca.card()
    key = ec.generate_private_key(ec.SECP256R1())
    responder = ca.responder(key, "BENCH OCSP RESPONDER", begin=Instant(now - DAY))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for name, data in (("ca.pem", pem(ca.certificate)), ("responder.pem", pem(responder)), ("responder.key", private)):
        (folder / name).write_bytes(data)
    serials = sorted({card.serial, *(x509.random_serial_number() for _ in range(certificates - 1))})
    lines = (f"V\t291231235959Z\t\t{_index_serial(serial)}\tunknown\t/CN=x\n" for serial in serials)
    (folder / "index.txt").write_text("".join(lines))
    (folder / "index.txt.attr").write_text("unique_subject = no\n")
    issuer = issuer_id(ca.der)
    bodies = [Issuer("bench", ca.der, True)]
    for at in range(0, len(serials), MAX_SERIALS):
        bodies.append(Issued(issuer, tuple(sorted(map(key_of, serials[at : at + MAX_SERIALS])))))
    bodies.append(Responder(issuer, "embassy", responder.public_bytes(serialization.Encoding.DER)))
    bodies.append(Confirmed(issuer, now, 0))
    store, head, entries = open_sqlite(str(folder / "status.sqlite")), Head(), []
    for body in bodies:
        entry = entry_at(head, now, 1, body)
        head = head.after(encode_entry(entry))
        entries.append((entry, head))
    store.apply(entries)
    store.close()
    (folder / "keys").mkdir(mode=0o700)
    KeyFolder(folder / "keys").store("responder", KeyUse.OCSP, issuer, private)
    for name, nonce in (("nonce.der", b"n" * 32), ("plain.der", None)):
        builder = ocsp.OCSPRequestBuilder().add_certificate(card.certificate, ca.certificate, hashes.SHA1())
        if nonce:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        (folder / name).write_bytes(builder.build().public_bytes(serialization.Encoding.DER))


def _index_serial(serial: int) -> str:
    text = f"{serial:X}"
    return text if len(text) % 2 == 0 else "0" + text


PEER = "openssl ocsp"
SERVERS = {
    PEER: [
        "openssl", "ocsp", "-port", str(PORT), "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "responder.pem",
        "-rkey", "responder.key", "-nmin", "720", "-ignore_err",
    ],
    "exclave": [sys.executable, str(HERE / "ocsp_server.py"), ".", str(PORT)],
}  # fmt: skip


@contextmanager
def server(name: str, folder: Path) -> Iterator[int]:
    """Its process id, once it gives a good answer."""
    log = (folder / "log").open("wb")
    command = ["taskset", "-c", "0", *SERVERS[name]]
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not _answers_well(folder):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"{name} does not answer: {(folder / 'log').read_text()[-500:]}")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        log.close()


def _answers_well(folder: Path) -> bool:
    body = (folder / "nonce.der").read_bytes()
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=5) as sock:
            sock.sendall(
                b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/ocsp-request\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            found = b""
            while piece := sock.recv(65536):
                found += piece
    except OSError:
        return False
    answer = ocsp.load_der_ocsp_response(found.partition(b"\r\n\r\n")[2])
    nonce = answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    return answer.certificate_status is ocsp.OCSPCertStatus.GOOD and nonce == b"n" * 32


# Measuring


def load(folder: Path, pid: int, request: str, *, close: bool, seconds: int) -> Run:
    return _load_ab(folder, pid, request, seconds) if close else _load_wrk(folder, pid, request, seconds)


def _load_wrk(folder: Path, pid: int, request: str, seconds: int) -> Run:
    script = folder / "post.lua"
    script.write_text(
        f'local f = io.open("{folder / request}", "rb")\nwrk.body = f:read("*a")\nwrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/ocsp-request"\n'
    )
    command = ["taskset", "-c", "1", "wrk", "-t", "1", "-c", "8", "-d", f"{seconds}s", "-s", str(script)]
    before = _cpu_s(pid)
    done = subprocess.run([*command, f"http://127.0.0.1:{PORT}/"], capture_output=True, text=True, check=True)
    used_s = _cpu_s(pid) - before
    answers = int(_number(r"(\d+) requests in", done.stdout))
    bad = int(_number(r"Non-2xx or 3xx responses: (\d+)", done.stdout, "0"))
    return Run(float(_number(r"Requests/sec: +([\d.]+)", done.stdout)), answers / used_s, bad)


def _load_ab(folder: Path, pid: int, request: str, seconds: int) -> Run:
    options = ["-q", "-l", "-r", "-c", "8", "-t", str(seconds), "-n", str(100_000 * seconds)]
    options += ["-T", "application/ocsp-request"]
    command = ["taskset", "-c", "1", "ab", *options, "-p", request]
    before = _cpu_s(pid)
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{PORT}/"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"ab failed: {done.stderr}")
    used_s = _cpu_s(pid) - before
    told = done.stdout
    answers = int(_number(r"Complete requests: +(\d+)", told))
    bad = int(_number(r"Failed requests: +(\d+)", told)) + int(_number(r"Non-2xx responses: +(\d+)", told, "0"))
    return Run(float(_number(r"Requests per second: +([\d.]+)", told)), answers / used_s, bad)


def _number(pattern: str, text: str, default: str | None = None) -> str:
    match = re.search(pattern, text)
    if match is None and default is None:
        raise SystemExit(f"the load client said {text!r}")
    return match[1] if match else str(default)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, chosen: argparse.Namespace) -> None:
    runs: dict[str, dict[str, list[Run]]] = {name: {what: [] for what in LOADS} for name in SERVERS}
    names = list(SERVERS)
    for number in range(chosen.rounds):
        for name in names[number % 2 :] + names[: number % 2]:
            for what, (request, close) in LOADS.items():
                if name == PEER and not close:
                    continue
                with server(name, folder) as pid:
                    runs[name][what].append(load(folder, pid, request, close=close, seconds=chosen.seconds))
    paced: dict[str, dict[str, dict[str, float]]] = {what: {} for what in HALVES}
    for name in names:
        for what in HALVES:
            if runs[name][what]:
                half = statistics.median(run.per_s for run in runs[name][what]) / 2
                with server(name, folder):
                    paced[what][name] = _half(folder, half, what == EACH, chosen.seconds)
    show(runs, paced, chosen)


def _half(folder: Path, rate: float, close: bool, seconds: int) -> dict[str, float]:
    """How long answers take at ``rate``: a connection each as ``ocsp_paced.py`` can, kept ones by ``h2load``."""
    pinned = ["taskset", "-c", "1"]
    if close:
        command = [*pinned, sys.executable, HERE / "ocsp_paced.py", str(PORT), folder / "nonce.der",
                   str(min(rate, CLIENT_MAX)), str(seconds)]  # fmt: skip
        figures: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return figures
    log = folder / "times"
    log.unlink(missing_ok=True)
    subprocess.run(
        [*pinned, "h2load", "--h1", "-c", str(KEPT), "--rps", str(round(rate / KEPT)), "-D", str(seconds),
         "-d", folder / "nonce.der", "-H", "Content-Type: application/ocsp-request", f"--log-file={log}",
         f"http://127.0.0.1:{PORT}/"], capture_output=True, check=True,
    )  # fmt: skip
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    took = sorted(int(row[2]) for row in rows)
    return {
        "rate": round(len(rows) / seconds), "p50_ms": took[len(took) // 2] / 1000,
        "p99_ms": took[int(len(took) * 0.99)] / 1000, "failed": sum(row[1] != "200" for row in rows),
    }  # fmt: skip


def show(
    runs: dict[str, dict[str, list[Run]]], paced: dict[str, dict[str, dict[str, float]]], chosen: argparse.Namespace
) -> None:
    print("\n| load | server | answers/s | times openssl | answers per CPU second | times openssl | failed |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for what in LOADS:
        peer = runs[PEER][what] or runs[PEER][what.replace("kept connections", "a connection each")]
        for name, by in runs.items():
            if not by[what]:
                continue
            wall, cpu = (statistics.median(getattr(run, of) for run in by[what]) for of in ("per_s", "per_cpu_s"))
            wall_0, cpu_0 = (statistics.median(getattr(run, of) for run in peer) for of in ("per_s", "per_cpu_s"))
            bad = sum(run.bad for run in by[what])
            print(f"| {what} | {name} | {wall:,.0f} | {wall / wall_0:.1f} | {cpu:,.0f} | {cpu / cpu_0:.1f} | {bad} |")
    print("\n| at half the load, live | server | answers/s | p50 ms | p99 ms | of it client late, p99 ms | failed |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for what, by_name in paced.items():
        for name, of in by_name.items():
            late = of.get("late_ms", "")
            print(f"| {what} | {name} | {of['rate']} | {of['p50_ms']} | {of['p99_ms']} | {late} | {of['failed']} |")
    found = {name: {what: [asdict(run) for run in of] for what, of in by.items()} for name, by in runs.items()}
    print("\n" + json.dumps({"certificates": chosen.certificates, "runs": found, "half": paced}))


if __name__ == "__main__":
    main()

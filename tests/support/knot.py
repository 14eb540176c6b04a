"""Real Knot DNS servers in the foreground, in folders of their own: a signed primary, and a secondary of it."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dns.message
import dns.query

ZONE = "demo.test"
UPDATER = ("hmac-sha256", "exclave", base64.b64encode(b"a secret of thirty-two bytes.....").decode())
STRANGER = ("hmac-sha512", "stranger", base64.b64encode(b"another secret, known to the server").decode())

_CONF = """
server:
    rundir: "{run}"
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: "{run}/db"
    journal-db-max-size: 32M
    kasp-db-max-size: 32M
    timer-db-max-size: 8M
key:
  - id: {updater[1]}
    algorithm: {updater[0]}
    secret: "{updater[2]}"
  - id: {stranger[1]}
    algorithm: {stranger[0]}
    secret: "{stranger[2]}"
{more}
"""
_PRIMARY = """
{remotes}
acl:
  - id: updates
    key: {updater[1]}
    action: [query, update, transfer]
  - id: strangers
    key: {stranger[1]}
    action: [query]
  - id: transfers
    address: 127.0.0.1
    action: [query, transfer]
zone:
  - domain: {zone}
    storage: "{run}"
    file: "zone"
    acl: [updates, strangers, transfers]
    {notify}
    zonefile-sync: -1
    zonefile-load: difference-no-serial
    journal-content: all
    journal-max-usage: 8M
    dnssec-signing: on
"""
_SECONDARY = """
remote:
  - id: primary
    address: 127.0.0.1@{primary}
acl:
  - id: notified
    address: 127.0.0.1
    action: notify
zone:
  - domain: {zone}
    storage: "{run}"
    file: "zone"
    master: primary
    acl: notified
    zonefile-sync: -1
    zonefile-load: none
    journal-content: all
    journal-max-usage: 8M
"""


def free_port() -> int:
    """A port of 127.0.0.1 that is free for UDP and TCP just now."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass
class Knot:
    """One knotd."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it serves the zone."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(["knotd", "-c", self.folder / "knot.conf"], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            query = dns.message.make_query(f"{ZONE}.", "SOA")
            try:
                if dns.query.udp(query, "127.0.0.1", 0.3, self.port).answer:
                    return
            except (OSError, dns.exception.DNSException):
                pass
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError(f"knotd does not serve {ZONE}: {(self.folder / 'log').read_text()}")

    def freeze(self) -> None:
        """It takes connections and says nothing, like a machine that hangs."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None:
            self.thaw()
            self.process.terminate()
            self.process.wait(20)
            self.process = None


@contextmanager
def primary(folder: Path, records: str, *, secondary: int = 0) -> Iterator[Knot]:
    """A primary that signs its zone and takes updates of ``UPDATER``; ``secondary``: port of one to tell of changes."""
    folder.mkdir()
    port = free_port()
    remotes = f"remote:\n  - id: second\n    address: 127.0.0.1@{secondary}" if secondary else ""
    notify = "notify: second" if secondary else ""
    more = _PRIMARY.format(run=folder, zone=ZONE, updater=UPDATER, stranger=STRANGER, remotes=remotes, notify=notify)
    conf = _CONF.format(run=folder, port=port, updater=UPDATER, stranger=STRANGER, more=more)
    soa = f"$ORIGIN {ZONE}.\n$TTL 300\n@ SOA ns.{ZONE}. hostmaster.{ZONE}. 1 60 20 86400 60\n@ NS ns\nns A 127.0.0.1\n"
    (folder / "zone").write_text(soa + records)
    yield from _run(folder, port, conf)


@contextmanager
def secondary_of(folder: Path, port: int, primary_port: int) -> Iterator[Knot]:
    """A secondary on ``port`` that follows the primary."""
    folder.mkdir()
    more = _SECONDARY.format(run=folder, zone=ZONE, primary=primary_port)
    yield from _run(folder, port, _CONF.format(run=folder, port=port, updater=UPDATER, stranger=STRANGER, more=more))


def _run(folder: Path, port: int, conf: str) -> Iterator[Knot]:
    (folder / "knot.conf").write_text(conf)
    (folder / "db").mkdir()
    knot = Knot(folder, port)
    try:
        knot.start()
        yield knot
    finally:
        knot.stop()


def key_file(path: Path, key: tuple[str, str, str]) -> Path:
    """The key as ``names.toml`` names it, mode 600."""
    path.write_text(":".join(key) + "\n")
    path.chmod(0o600)
    return path

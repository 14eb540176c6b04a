"""Real hosts of a site to which real things happen: a gateway's process and an S3 engine's, each on a small disk.

``strike`` does it, ``mend`` ends it, ``load`` begins anew with a copy of a folder. Needs root: the disk is a tmpfs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from exclave.errors import ExclaveError
from exclave.ids import Key
from exclave.runners.ports import free_port
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.sites.opening import open_site
from exclave.sites.patience import Patience
from exclave.sites.retry import RetryPolicy
from support.gateway import NORTH, host_place, wait_until
from support.gateway_process import RunningGateway, gateways
from support.lying_proxy import LyingProxy, lying_proxy
from support.seaweed import Seaweed, start_weed, wait_until_writable, weed_ports

MANNERS = ("flips", "cuts short", "hides", "shows the past", "swaps")
"""What a hostile host does to its objects."""
_ONCE = Patience(RetryPolicy(attempts=1, rest_s=60, longest_rest_s=60), small_timeout_s=2, large_timeout_s=2)
"""Of a client for whom a host that says nothing is given up at once."""
_PATIENT = Patience(RetryPolicy(attempts=1))


class RealHost(Protocol):
    """What a test does with either kind."""

    def load(self, folder: Path) -> None:
        """A host that runs and holds what ``folder`` holds, and nothing else."""

    def site(self, fault: str = "") -> Site:
        """A client; for a slow host one with little patience."""

    def strike(self, fault: str, manner: str = "") -> None: ...

    def mend(self) -> None: ...


@contextmanager
def place_of_its_own() -> Iterator[Path]:
    """A folder for disks, outside those of pytest: whoever tidies up there must not meet a disk that is in use."""
    with TemporaryDirectory(prefix="exclave-host-") as name:
        yield Path(name)


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Path]:
    """A disk of its own at ``folder`` while the block runs."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr.strip()} (this test needs root)"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def fill(disk: Path) -> None:
    """Not a byte is left."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\xff" * size)
            except OSError:
                continue


def alter(folder: Path, manner: str, past: dict[Path, bytes]) -> None:
    """Changes every object below ``folder``, as whoever owns the disk can. ``past``: former contents of what moves."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and ".tmp" not in p.parts)
    held = {path: path.read_bytes() for path in found}
    for place, path in enumerate(found):
        data = held[path]
        if manner == "hides" or (manner == "shows the past" and path not in past):
            path.unlink()
            continue
        changed = {
            "flips": lambda data=data: data[:-1] + bytes([data[-1] ^ 1]),
            "cuts short": lambda data=data: data[: len(data) // 2],
            "shows the past": lambda path=path: past[path],
            "swaps": lambda place=place: held[found[(place + 1) % len(found)]],
        }[manner]()
        path.chmod(0o600)
        path.write_bytes(changed)


@dataclass
class GatewayHost:
    """``exclave serve site`` in a process of its own."""

    url: str
    process: RunningGateway
    disk: Path
    struck: str = ""
    past: dict[Path, bytes] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.disk / "north"

    def load(self, folder: Path) -> None:
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(folder, self.folder)
        self.past = {p: p.read_bytes() for p in self.folder.rglob("*") if p.is_file() and ".tmp" not in p.parts}
        self.process.start()

    def site(self, fault: str = "") -> Site:
        return open_site(self.url, patience=_ONCE if fault == "slow" else _PATIENT)

    def strike(self, fault: str, manner: str = "") -> None:
        self.struck = fault
        match fault:
            case "killed":
                self.process.kill()
            case "filled":
                fill(self.disk)
            case "slow":
                self.process.freeze()
            case "hostile":
                alter(self.folder, manner, self.past)

    def mend(self) -> None:
        match self.struck:
            case "killed":
                self.process.start()
            case "filled":
                (self.disk / "filler").unlink()
            case "slow":
                self.process.thaw()
        self.struck = ""


@contextmanager
def gateway_host(
    folder: Path, fingerprint: str, *, prefix: Sequence[str] = (), address: str = "127.0.0.1"
) -> Iterator[GatewayHost]:
    """In ``folder``; not yet running: ``load`` starts it. ``prefix``: what enters its namespace."""
    port = free_port()
    place = host_place(folder, port=port, address=address)
    config = folder / "host.toml"
    text = config.read_text().replace(NORTH, fingerprint).replace('"disk-north"', '"disk/north"')
    config.write_text(text.replace("[limits]", '[duties]\npage = ""\n[limits]'))
    url = place.url(port).replace(NORTH, fingerprint).replace("127.0.0.1", address)
    with small_disk(folder / "disk", 24) as disk, gateways(prefix) as started:
        (disk / "north").mkdir()
        host = GatewayHost(url, RunningGateway(started, config), disk)
        try:
            yield host
        finally:
            host.process.kill()


@dataclass
class S3Host:
    """SeaweedFS, behind a proxy that lies when it is told to."""

    folder: Path
    disk: Path
    ports: list[int]
    proxy: LyingProxy
    process: subprocess.Popen[bytes]
    number: int = 0
    struck: str = ""
    held: tuple[Key, ...] = ()
    """What lay there when it was killed."""

    @property
    def seaweed(self) -> Seaweed:
        return Seaweed(f"http://127.0.0.1:{self.proxy.port}", self.folder, self.process.pid)

    @property
    def url(self) -> str:
        return self.seaweed.url(f"place-{self.number}", credentials=self.folder / "EXCLAVETEST.toml")

    def load(self, folder: Path) -> None:
        self.number += 1
        self.seaweed.credentials_file(self.folder)
        site, source = self.site(), DirectorySite(str(folder))
        for item in source.list(""):
            copy(source, site, item.key)
        self.proxy.heads = {
            f"place-{self.number}/{item.key}": source.get(item.key) for item in source.list("") if _moves(item.key)
        }

    def site(self, fault: str = "") -> Site:
        return open_site(self.url, patience=_ONCE if fault == "slow" else _PATIENT)

    def strike(self, fault: str, manner: str = "") -> None:
        self.struck = fault
        match fault:
            case "killed":
                self.held = tuple(item.key for item in self.site().list(""))
                self.process.kill()
                self.process.wait()
            case "filled":
                fill(self.disk)
            case "slow":
                self.process.send_signal(signal.SIGSTOP)
                os.waitpid(self.process.pid, os.WUNTRACED)
            case "hostile":
                self.proxy.manner = manner

    def mend(self) -> None:
        match self.struck:
            case "killed":
                self.process, endpoint = start_weed(self.folder, self.ports)
                wait_until_writable(self.process, endpoint, self.folder)
                # It takes new objects a moment before it gives all old ones.
                wait_until(self._gives_all, "the engine gives again what it held")
            case "filled":
                (self.disk / "filler").unlink()
            case "slow":
                self.process.send_signal(signal.SIGCONT)
            case "hostile":
                self.proxy.manner = ""
        self.struck = ""

    def _gives_all(self) -> bool:
        site = self.site()
        try:
            return all(site.get(key) is not None for key in self.held)
        except ExclaveError:
            return False


@contextmanager
def s3_host(folder: Path) -> Iterator[S3Host]:
    """Running, and empty until ``load``."""
    with small_disk(folder / "data", 96) as disk:
        ports = weed_ports()
        process, endpoint = start_weed(folder, ports)
        try:
            wait_until_writable(process, endpoint, folder)
            with lying_proxy(ports[0]) as proxy:
                host = S3Host(folder, disk, ports, proxy, process)
                try:
                    yield host
                finally:
                    process = host.process
        finally:
            process.kill()
            process.wait(30)


def _moves(key: Key) -> bool:
    """Whether an object may be replaced."""
    return key.endswith(("/checkpoint", "/head"))


def copy(source: Site, target: Site, key: Key) -> None:
    """One object, where nothing is yet."""
    data = source.get(key)
    if _moves(key):
        target.replace_if(key, data, None)
    else:
        target.put_same(key, data)

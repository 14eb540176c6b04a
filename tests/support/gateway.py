"""A real gateway for tests, on a loopback port of its own, with two states and their certificates."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from exclave.formats.hostconfig import HostConfig, parse_host_config
from exclave.serve.site import Gateway, read_hosting
from exclave.serve.site_carried import Carriers
from exclave.serve.site_contract import Duties
from exclave.serve.site_counts import GatewayCounts
from exclave.sites.gateway import GatewaySite
from exclave.sites.open_gateway import read_gateway
from exclave.sites.patience import Patience
from support.loopback_tls import loopback_tls

NORTH, SOUTH = "a1" * 32, "b2" * 32


def client_certificate(folder: Path, name: str) -> None:
    """``NAME.pem`` and ``NAME.key``, as the runbook makes them."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "3650", "-subj", f"/CN={name}",
         "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / f"{name}.key").chmod(0o600)


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
    """Returns once it holds; fails when it does not for a long time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class HostPlace:
    """A host's folder: ``host.toml`` and what it names."""

    folder: Path

    def url(self, port: int, name: str = "north", *, anonymous: bool = False) -> str:
        query = {"authorities": str(self.folder / "ca.pem")}
        if not anonymous:
            query |= {"certificate": str(self.folder / f"{name}.pem"), "key": str(self.folder / f"{name}.key")}
        fingerprint = SOUTH if name == "south" else NORTH
        return f"https://127.0.0.1:{port}/{fingerprint}?{urlencode(query, safe='/')}"

    @property
    def config(self) -> HostConfig:
        return parse_host_config((self.folder / "host.toml").read_bytes())

    def site(self, port: int, name: str = "north", *, anonymous: bool = False, timeout_s: float = 20) -> GatewaySite:
        """A client without retries."""
        patience = Patience(small_timeout_s=timeout_s, large_timeout_s=timeout_s)
        return read_gateway(urlsplit(self.url(port, name, anonymous=anonymous)), patience)


def host_place(
    folder: Path, *, limits: str = "", north: str = "", south: str = "", port: int = 0, address: str = "127.0.0.1"
) -> HostPlace:
    """Writes it; ``limits``, ``north`` and ``south`` are further lines of TOML. ``address``: where it will listen."""
    loopback_tls(folder, address)
    (folder / "server.key").chmod(0o600)
    text = f'name = "lux"\nlisten = "{address}:{port}"\ncertificate = "server.pem"\nkey = "server.key"\n'
    text += f"[limits]\nfree_bytes = 0\n{limits}\n"
    for name, fingerprint, more in (("north", NORTH, north), ("south", SOUTH, south)):
        client_certificate(folder, name)
        (folder / f"disk-{name}").mkdir()
        quota = "" if "quota_bytes" in more else "quota_bytes = 1_000_000_000\n"
        text += f'[[state]]\nname = "{name}"\nfingerprint = "{fingerprint}"\nfolder = "disk-{name}"\n'
        text += f'certificates = ["{name}.pem"]\n{quota}{more}\n'
    (folder / "host.toml").write_text(text)
    return HostPlace(folder)


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway in this process."""

    place: HostPlace
    port: int
    gateway: Gateway
    counts: GatewayCounts
    carriers: Carriers

    def site(self, name: str = "north", *, anonymous: bool = False, timeout_s: float = 20) -> GatewaySite:
        return self.place.site(self.port, name, anonymous=anonymous, timeout_s=timeout_s)


@contextmanager
def running_carriers(place: HostPlace, processes: int) -> Iterator[Carriers]:
    """The processes of a host's gateway that carry bytes; with one, there are none besides the one that decides."""
    hosting = read_hosting(place.config, str(place.folder))
    carriers = Carriers(processes, hosting.tls, hosting.context)
    try:
        carriers.start()
        yield carriers
    finally:
        carriers.stop()


@contextmanager
def running_gateway(
    place: HostPlace, duties: Duties | None = None, *, processes: int = 1, carriers: Carriers | None = None
) -> Iterator[Running]:
    """Starts it, and stops it at once at the end. ``carriers``: running ones, in place of ``processes`` new ones."""
    with ExitStack() as stack:
        used = carriers or stack.enter_context(running_carriers(place, processes))
        counts = GatewayCounts()
        gateway = Gateway(read_hosting(place.config, str(place.folder)), duties or Duties(), counts, used)
        port = gateway.start(("127.0.0.1", 0))
        try:
            yield Running(place, port, gateway, counts, used)
        finally:
            gateway.stop(within_s=0)

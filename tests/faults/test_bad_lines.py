"""Hosts in network namespaces of their own, behind lines with delay, loss, little bandwidth, and cut in the middle.

Home's machine, a gateway and an S3 engine are three hosts on one switch; nothing joins them but their links, which a
process shapes (``support/shaped_link.py``). By default some operations over each line; all with ``EXCLAVE_FAULTS=all``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.fault_case import EVERYTHING, steps
from support.fault_lines import (
    LINES,
    fill_site,
    over_a_line,
    seconds_to_connect,
    seconds_to_fill,
    wait_for_buckets,
)
from support.fault_table import BAD_LINES, OPERATIONS, FaultTable
from support.fault_world import LUX, NORD, world
from support.netns import Host, network
from support.real_hosts import GatewayHost, gateway_host, place_of_its_own
from support.seaweed import Seaweed, weed_command, weed_ports, write_files
from support.shaped_link import Shape

HOME_AT, GATEWAY_AT, S3_AT = "10.79.0.2", "10.79.0.3", "10.79.0.4"
CASES = [
    (kind, operation, line)
    for (kind, line), operations in BAD_LINES.items()
    for operation in (OPERATIONS if EVERYTHING else operations)
]


@dataclass
class Town:
    """The three machines."""

    home: Host
    lux: Host
    nord: Host
    gateway: GatewayHost
    s3: Seaweed
    number: int = 0

    def begin(self, kind: str, folder: Path) -> tuple[Host, str]:
        """The machine of ``kind``, and the address of a site there that holds what ``folder`` holds."""
        if kind == "gateway":
            self.gateway.load(folder)
            return self.lux, self.gateway.url
        url = self.new_place()
        self.home.call(fill_site, url, folder, seconds=300)
        return self.nord, url

    def new_place(self) -> str:
        """Address of a site at the engine that holds nothing."""
        self.number += 1
        return self.s3.url(f"place-{self.number}", credentials=self.s3.credentials_file(self.s3.folder))


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """Up for all cases of this file."""
    with ExitStack() as stack:
        folder = stack.enter_context(place_of_its_own())
        for name in ("logs", "gateway", "weed"):
            (folder / name).mkdir()
        net = stack.enter_context(network(folder / "logs", {"GOMEMLIMIT": "300MiB", "TMPDIR": str(folder / "weed")}))
        home = net.host("home", HOME_AT)
        lux, nord = net.host("lux", GATEWAY_AT, shaped=True), net.host("nord", S3_AT, shaped=True)
        write_files(folder / "weed")
        ports = weed_ports()
        process = nord.start("weed", *weed_command(ports, S3_AT), cwd=folder / "weed")
        gateway = stack.enter_context(
            gateway_host(folder / "gateway", world().town.state, prefix=lux.argv(), address=GATEWAY_AT)
        )
        nord.wait_listening(ports[0], process, seconds=120)
        s3 = Seaweed(f"http://{S3_AT}:{ports[0]}", folder / "weed", process.process.pid)
        home.call(wait_for_buckets, s3.endpoint, seconds=120)
        yield Town(home, lux, nord, gateway, s3)


def test_lines_are_as_they_are_told(town: Town) -> None:
    """A delayed line takes the delay both ways, a narrow one as long as the bytes need, a cut one for ever."""
    port = urlsplit(town.s3.endpoint).port
    folder = world().root / "then" / "sites" / "lux"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size > 40_000
    try:
        town.nord.shape(Shape(delay_s=0.2))
        assert 0.4 <= town.home.call(seconds_to_connect, S3_AT, port, 60) < float("inf")
        town.nord.shape(Shape(bytes_per_s=40_000))
        assert town.home.call(seconds_to_fill, town.new_place(), folder, seconds=300) >= size / 40_000
        town.nord.shape(Shape(cut=True))
        assert town.home.call(seconds_to_connect, S3_AT, port, 2) == float("inf")
    finally:
        town.nord.shape(Shape())
    assert town.home.call(seconds_to_connect, S3_AT, port, 60) < float("inf")


@pytest.mark.parametrize(("kind", "operation", "line"), CASES)
def test_bad_lines(kind: str, operation: str, line: str, town: Town, fault_table: FaultTable) -> None:
    """Over a slow or lossy line everything is done; where the line is cut the host is named, and what was missed is
    brought once it holds again, without home. The RPO holds and nothing is lost."""
    made = world()
    label = NORD if operation == "evacuate" else LUX
    calls = steps(made, operation)[label]
    made.begin(operation)
    host, url = town.begin(kind, made.folder(label))
    at = len(calls) // 2 if LINES[line].cut else 1
    assert host.link is not None
    row = town.home.call(over_a_line, made, operation, label, url, at, line, host.link, seconds=600)
    fault_table.told(f"{kind}: {operation}", f"line: {line}", row)
    assert row.whole

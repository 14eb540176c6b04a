"""A state whose site is a host's gateway with all its duties: ordinary commands, from sync to failover."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from exclave.formats.hostconfig import parse_host_config
from exclave.ids import now
from exclave.serve.host_start import running_host
from exclave.serve.site import Gateway, read_hosting
from exclave.serve.site_counts import GatewayCounts
from support.gateway import NORTH, host_place
from support.small_home import SmallHome


@pytest.fixture
def home(tmp_path: Path) -> Iterator[SmallHome]:
    """Its site `lux` is new, empty, and behind a gateway; the others are folders."""
    made = SmallHome(tmp_path / "state").found()
    made.backup()
    (tmp_path / "host").mkdir()
    place = host_place(tmp_path / "host")
    config = place.folder / "host.toml"
    text = config.read_text().replace(NORTH, made.fingerprint)
    config.write_text(text + '[duties]\npage = ""\nscrub_days = 0\n')
    with ExitStack() as stack:
        hosting = read_hosting(parse_host_config(config.read_bytes()), str(place.folder))
        duties = stack.enter_context(running_host(hosting, place.folder, GatewayCounts(), now, print))
        gateway = Gateway(hosting, duties, GatewayCounts())
        port = gateway.start(("127.0.0.1", 0))
        stack.callback(gateway.stop, within_s=0)
        made.urls["lux"] = place.url(port).replace(NORTH, made.fingerprint)
        made.write_config()
        yield made


def test_ordinary_commands_work_through_the_guard(home: SmallHome, tmp_path: Path) -> None:
    """An empty host is caught up, takes versions and a new charter, and verifies; after a failover, home is fenced."""
    home.ok("site", "sync", "lux", "--home", str(home.folder))
    (home.root / "acts" / "act-3").write_text("Act 3\n")
    home.backup()
    home.new_charter("draft-2")
    (home.root / "acts" / "act-4").write_text("Act 4\n")
    home.backup()
    report = home.ok("verify", *home.where())
    assert not report.get("findings"), report
    granted = home.granted("failover")
    home.ok("failover", "run", *granted, "--dir", str(tmp_path / "embassy"), *home.where())
    (home.root / "acts" / "act-5").write_text("Act 5\n")
    home.fails(34, "backup", *home.home)

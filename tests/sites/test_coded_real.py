"""A coded site of hosts as they are: two gateways with all their duties, a bucket, two folders."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from test_coded import Away

from exclave.formats.hostconfig import parse_host_config
from exclave.ids import now
from exclave.serve.host_start import running_host
from exclave.serve.site import Gateway, read_hosting
from exclave.serve.site_counts import GatewayCounts
from exclave.sites.coded import CodedSite
from exclave.sites.opening import open_site
from support.gateway import NORTH, HostPlace, host_place
from support.seaweed import Seaweed
from support.small_home import SmallHome, run


class Host:
    """A host of one state, which can be turned off and lose its disk."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        folder.mkdir()
        self.place: HostPlace = host_place(folder)
        self._config = self.place.folder / "host.toml"
        text = self._config.read_text().replace(NORTH, fingerprint)
        self._config.write_text(text + '[duties]\npage = ""\nscrub_days = 0\n')
        self._fingerprint, self._stack, self._port = fingerprint, ExitStack(), 0
        self.start()

    @property
    def url(self) -> str:
        return self.place.url(self._port).replace(NORTH, self._fingerprint)

    def start(self) -> None:
        hosting = read_hosting(parse_host_config(self._config.read_bytes()), str(self.place.folder))
        duties = self._stack.enter_context(running_host(hosting, self.place.folder, GatewayCounts(), now, print))
        gateway = Gateway(hosting, duties, GatewayCounts())
        self._port = gateway.start(("127.0.0.1", self._port))
        self._stack.callback(gateway.stop, within_s=0)
        self.folder = Path(hosting.states[0].folder)

    def stop(self) -> None:
        self._stack.close()
        self._stack = ExitStack()


@pytest.fixture
def started() -> Iterator[Callable[[Path, str], Host]]:
    """Starts hosts, and stops them at the end."""
    hosts: list[Host] = []

    def start(folder: Path, fingerprint: str) -> Host:
        hosts.append(Host(folder, fingerprint))
        return hosts[-1]

    yield start
    for host in hosts:
        host.stop()


def test_two_gateways_a_bucket_and_two_folders(
    tmp_path: Path, seaweed: Seaweed, started: Callable[[Path, str], Host]
) -> None:
    """Backups go through all kinds of members; any two of five may be lost: what is there verifies and is restored from
    the coded site alone, and new, empty members are filled by a mending."""
    home = SmallHome(tmp_path / "state").found()
    home.backup()
    hosts = [started(tmp_path / name, home.fingerprint) for name in ("oslo", "bern")]
    folders = [tmp_path / name for name in ("riga", "rome")]
    for folder in folders:
        folder.mkdir()
    keys = seaweed.credentials_file(tmp_path)
    members = [hosts[0].url, f"dir:{folders[0]}", seaweed.url("coded", credentials=keys), hosts[1].url]
    members.append(f"dir:{folders[1]}")
    coded = "coded:3?" + "&".join(f"member={quote(member, safe='')}" for member in members)
    home.urls["lux"] = coded
    home.write_config()
    (home.root / "acts" / "bulk").write_bytes(os.urandom(600_000))
    home.ok("site", "sync", "lux", "--home", str(home.folder))
    assert set(home.backup()[0]["sites"]) == {"home", "lux", "nord"}
    site = open_site(coded)
    assert isinstance(site, CodedSite)
    assert (site.k, site.need) == (3, 4)
    whole = {stat.key: site.get(stat.key) for stat in site.list(f"{home.fingerprint}/")}
    assert not site.faults
    for away in itertools.combinations(range(5), 2):
        left = CodedSite([Away(m) if at in away else m for at, m in enumerate(site.members)], 3)
        assert {key: left.get(key) for key in whole} == whole

    shutil.rmtree(folders[0])
    (home.root / "acts" / "act-3").write_text("Act 3\n")
    assert set(home.backup()[0]["sites"]) == {"home", "lux", "nord"}, "one may be away"
    hosts[1].stop()
    shutil.rmtree(hosts[1].folder)
    hosts[1].folder.mkdir()
    assert home.verify("lux")["packs_read"] > 0
    granted = home.granted("restore", sites=("lux",))
    home.ok("restore", *granted, "--only-these-sites", "--target", str(tmp_path / "back"), *home.where("lux"))
    assert [path.read_text() for path in (tmp_path / "back").rglob("act-3")] == ["Act 3\n"]

    hosts[1].start()
    folders[0].mkdir()
    said = run("coded", "mend", coded, "--json")
    assert said.code == 0, said.out + said.err
    assert min(said.json["brought"].values()) == 0
    assert len([count for count in said.json["brought"].values() if count > 5]) == 2, said.json
    again = run("coded", "mend", coded, "--json").json
    assert not any(again["brought"].values()), again
    hosts[0].stop()
    shutil.rmtree(folders[1])
    assert home.verify("lux")["packs_read"] > 0

"""A home with one site that is cut across three hosts: one of them is lost, and comes back empty."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from support.small_home import SmallHome, run


def test_a_state_with_a_coded_site(tmp_path: Path) -> None:
    """Backups, verification, the watch and a restore go through it; a lost host stops writes there, loses nothing, and
    is rebuilt from the others."""
    hosts = [tmp_path / "hosts" / name for name in ("oslo", "bern", "riga")]
    for host in hosts:
        host.mkdir(parents=True)
    coded = "coded:2?" + "&".join(f"member=dir:{host}" for host in hosts)
    home = SmallHome(tmp_path, urls={"lux": coded}).found()
    (tmp_path / "acts" / "bulk").write_bytes(os.urandom(600_000))
    home.backup()
    assert home.verify("lux")["packs_read"] > 0
    shutil.rmtree(hosts[1])
    (tmp_path / "acts" / "act-3").write_text("Act 3\n")
    (receipt,) = home.backup()
    assert set(receipt["sites"]) == {"home", "nord"}, "the others take it"
    said = run("watch", "--once", *home.where())
    assert said.code == 0, "what it has can still be read"
    hosts[1].mkdir()
    done = home.ok("coded", "mend", coded)
    assert done["brought"][f"dir:{hosts[1]}"] > 5
    assert {done["brought"][f"dir:{hosts[at]}"] for at in (0, 2)} == {0}
    shutil.rmtree(next(hosts[0].glob("*/part")))
    home.ok("coded", "mend", coded)
    (receipt,) = home.backup()
    assert set(receipt["sites"]) == {"home", "lux", "nord"}
    assert home.verify()["ok"]
    shutil.rmtree(hosts[2])
    granted = home.granted("restore", sites=("lux",))
    home.ok("restore", *granted, "--only-these-sites", "--target", str(tmp_path / "back"), *home.where("lux"))
    assert [path.read_text() for path in (tmp_path / "back").rglob("act-3")] == ["Act 3\n"]


def test_a_receipt_says_which_member_lacks_something(tmp_path: Path) -> None:
    """With need=2 of three hosts a backup counts while one is away: the receipt names it, and a mending fills it."""
    hosts = [tmp_path / name for name in ("a", "b", "c")]
    for host in hosts:
        host.mkdir()
    coded = "coded:2?need=2&" + "&".join(f"member=dir:{host}" for host in hosts)
    home = SmallHome(tmp_path / "state", urls={"lux": coded}).found()
    home.backup()
    hosts[2].rename(tmp_path / "away")
    (tmp_path / "state" / "acts" / "act-3").write_text("Act 3\n")
    told = home.ok("backup", *home.home)
    assert set(told["receipts"][0]["sites"]) == {"home", "lux", "nord"}
    assert list(told["lacking"]["lux"]) == [f"dir:{hosts[2]}"]
    assert told["lacking"]["lux"][f"dir:{hosts[2]}"] >= 4
    (tmp_path / "state" / "acts" / "act-3").write_text("Act 3, as amended\n")
    assert f"not its member dir:{hosts[2]}" in run("backup", *home.home).out
    (tmp_path / "away").rename(hosts[2])
    assert home.ok("coded", "mend", coded)["brought"][f"dir:{hosts[2]}"] > 4
    assert "lacking there" not in run("backup", *home.home).out
    shutil.rmtree(hosts[0])
    assert home.verify("lux")["packs_read"] > 0


def test_what_cannot_be_mended(tmp_path: Path) -> None:
    """Another kind of site is refused; with too few shards it says which object."""
    hosts = [tmp_path / name for name in ("a", "b", "c")]
    for host in hosts:
        host.mkdir()
    coded = "coded:2?" + "&".join(f"member=dir:{host}" for host in hosts)
    assert run("coded", "mend", f"dir:{hosts[0]}").code == 2
    home = SmallHome(tmp_path / "state", urls={"lux": coded}).found()
    (tmp_path / "state" / "acts" / "bulk").write_bytes(os.urandom(600_000))
    home.backup()
    for host in hosts[:2]:
        shutil.rmtree(next(host.glob("*/part")))
    failed = home.fails(21, "coded", "mend", coded)
    assert "1 of 2 shards" in failed["beyond"][0]

"""Backups while sites and sources fail: the run goes on where the rule allows, and nothing stored is ever harmed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exclave.errors import SiteUnavailable
from exclave.ids import Key
from exclave.operations.home import Home
from exclave.runners.ports import free_port
from exclave.sites.directory import DirectorySite
from support.refusal import refused
from support.small_home import Register, SmallHome, run, start, tree_of

AS_ROOT = os.geteuid() == 0


def _home(root: Path, copies: int, size_bytes: int = 200_000) -> SmallHome:
    """Three sites, ``copies`` of which must hold each version; one version is there."""
    acts = root / "acts"
    acts.mkdir(parents=True)
    (acts / "act-1").write_bytes(os.urandom(size_bytes))
    home = SmallHome(root, [Register("gazette", [("acts", "files", {"path": str(acts)})], copies=copies)]).found()
    home.backup()
    (acts / "act-2").write_bytes(os.urandom(size_bytes))
    return home


def _all_whole(home: SmallHome, versions: int) -> None:
    """Every site holds every version, each byte right."""
    assert [v["sequence"] for v in home.versions()] == list(range(1, versions + 1))
    assert all(v["sites"] == list(home.sites) for v in home.versions())
    assert home.verify()["findings"] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """Mounts a memory disk over a folder, with options; unmounted in the end."""
    if not AS_ROOT:
        pytest.skip("mounting a disk needs root")
    mounted: list[Path] = []

    def mount(folder: Path, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
        mounted.append(folder)

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", str(folder)], check=True)


def test_site_gone_before(tmp_path: Path) -> None:
    """A site that is away is reported and left out; when it is back, the next run brings it everything."""
    home = _home(tmp_path, copies=2)
    home.site("nord").rename(tmp_path / "away")
    receipt = home.backup()[0]
    assert (receipt["sites"], list(receipt["failed"])) == (["home", "lux"], ["nord"])
    shown = home.fails(1, "status", *home.home)  # protected, but a monitor must learn that a site is away
    assert shown["registers"][0]["protected"]
    (tmp_path / "away").rename(home.site("nord"))
    assert home.backup()[0]["sequence"] == 3
    _all_whole(home, 3)


def test_placement_cannot_be_met(tmp_path: Path) -> None:
    """With too few sites no version is claimed and the lack is named; the same command later goes on."""
    home = _home(tmp_path, copies=3)
    home.site("nord").rename(tmp_path / "away")
    before = tree_of(home.site("lux"))
    told = refused(16, "backup", *home.home, says="2 of 3 copies; nord: ")
    assert "only what is missing is sent" in told["hint"]
    assert tree_of(home.site("lux")) == before, "packs were sent although the rule cannot be met"
    (tmp_path / "away").rename(home.site("nord"))
    assert home.backup()[0]["sequence"] == 2
    _all_whole(home, 2)


@pytest.mark.parametrize("missed", [1, 2])
def test_sites_take_turns(tmp_path: Path, missed: int) -> None:
    """With one copy asked for and the sites there in turns, the writer goes on or waits, and never forks history."""
    acts = tmp_path / "acts"
    acts.mkdir()
    (acts / "act").write_bytes(os.urandom(50_000))
    at = ("home", "lux")
    register = Register("gazette", [("acts", "files", {"path": str(acts)})], at=at, copies=1, countries=1, abroad=0)
    home = SmallHome(tmp_path, [register], sites=at).found()
    home.backup()
    home.site("lux").rename(tmp_path / "lux-away")
    for number in range(missed):
        (acts / f"act-{number}").write_bytes(os.urandom(50_000))
        assert home.backup()[0]["sites"] == ["home"]
    home.site("home").rename(tmp_path / "home-away")
    (tmp_path / "lux-away").rename(home.site("lux"))
    (acts / "act").write_bytes(os.urandom(50_000))
    if missed == 1:
        # The writer kept what it entered last, and enters the same at the other site first.
        assert home.backup()[0]["sequence"] == 3
        assert [v["sequence"] for v in home.versions("", "lux")] == [1, 2, 3]
    else:
        told = refused(23, "backup", *home.home, says="no site shows")
        assert "fork" in told["hint"]
    (tmp_path / "home-away").rename(home.site("home"))
    receipt = home.backup()[0]
    assert receipt["sequence"] == 4
    assert receipt["sites"] == ["home", "lux"]
    _all_whole(home, 4)


class _LeavesMidway:
    """Renames a site's folder away at the ``nth`` write to it."""

    def __init__(self, folder: Path, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.nth, self.writes = folder, nth, 0
        real = DirectorySite.put_same

        def put_same(site: DirectorySite, key: Key, data: bytes | memoryview) -> None:
            if site.address.endswith(str(folder)):
                self.writes += 1
                if self.writes == nth:
                    folder.rename(folder.with_name("away"))
            real(site, key, data)

        monkeypatch.setattr(DirectorySite, "put_same", put_same)

    def comes_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        self.folder.with_name("away").rename(self.folder)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_site_leaves_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """A site's folder that vanishes during a backup is named in the receipt; the version is whole at the others."""
    home = _home(tmp_path, copies=2, size_bytes=9_000_000)
    leaving = _LeavesMidway(home.site("nord"), nth, monkeypatch)
    receipt = home.backup()[0]
    assert (receipt["sites"], list(receipt["failed"])) == (["home", "lux"], ["nord"])
    leaving.comes_back(monkeypatch)
    assert home.verify("home", "lux")["ok"]
    home.backup()
    _all_whole(home, 3)


def test_needed_site_leaves_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the rule needs the site that vanished, no version is claimed; a later run goes on and repeats no pack."""
    home = _home(tmp_path, copies=3, size_bytes=9_000_000)
    leaving = _LeavesMidway(home.site("nord"), 2, monkeypatch)
    said = run("backup", *home.home, "--json")
    assert (said.code, said.json["error"]) == (16, "placement-unmet")
    leaving.comes_back(monkeypatch)
    assert [v["sequence"] for v in home.versions()] == [1]
    shipped = {n for n in tree_of(home.site("lux")) if "/pack/" in n}
    receipt = home.backup()[0]
    assert receipt["sequence"] == 2
    _all_whole(home, 2)
    assert shipped <= {n for n in tree_of(home.site("lux")) if "/pack/" in n}
    assert receipt["shipped_bytes"] < 9_000_000


@pytest.mark.parametrize("failing", ["ledger", "list", "checkpoint"])
def test_site_fails_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """A site that takes the packs but not what follows them is reported, whether or not it is the first one."""
    home = _home(tmp_path, copies=2)
    for name in ("home", "nord"):
        with monkeypatch.context() as patch:
            for verb in ("put_same", "put_new", "replace_if"):
                real = getattr(DirectorySite, verb)

                def write(site: DirectorySite, key: Key, *rest: object, real: Callable[..., object] = real) -> object:
                    if site.address.endswith(str(home.site(name))) and f"{failing}" in key:  # noqa: B023
                        raise SiteUnavailable("the disk is on strike")
                    return real(site, key, *rest)

                patch.setattr(DirectorySite, verb, write)
            receipt = home.backup()[0]
        assert name not in receipt["sites"]
        assert "on strike" in receipt["failed"][name]
        others = [n for n in home.sites if n != name]
        assert home.verify(*others)["ok"]
    home.backup()
    _all_whole(home, 4)


def test_full_site(tmp_path: Path, small_disk: Callable[[Path, str], None]) -> None:
    """A full site is named with the reason; what it holds stays whole, and with space the next run goes on."""
    (tmp_path / "sites" / "nord").mkdir(parents=True)
    small_disk(tmp_path / "sites" / "nord", "size=2m")
    home = _home(tmp_path, copies=2)
    (tmp_path / "acts" / "act-2").write_bytes(os.urandom(6_000_000))
    receipt = home.backup()[0]
    assert receipt["sites"] == ["home", "lux"]
    assert "space" in receipt["failed"]["nord"]
    assert [v["sequence"] for v in home.versions("", "nord")] == [1]
    subprocess.run(["mount", "-o", "remount,size=60m", str(home.site("nord"))], check=True)
    home.backup()
    _all_whole(home, 3)


def test_only_full_sites(tmp_path: Path, small_disk: Callable[[Path, str], None]) -> None:
    """If the sites that the rule needs are full, the error says so."""
    (tmp_path / "sites" / "nord").mkdir(parents=True)
    small_disk(tmp_path / "sites" / "nord", "size=2m")
    home = _home(tmp_path, copies=3)
    (tmp_path / "acts" / "act-2").write_bytes(os.urandom(6_000_000))
    refused(16, "backup", *home.home, says="nord: ")
    assert [v["sequence"] for v in home.versions()] == [1]
    assert home.verify("home", "lux")["ok"]


def test_read_only_site(tmp_path: Path, small_disk: Callable[[Path, str], None]) -> None:
    """A site that refuses writes is named; it still serves what it has."""
    (tmp_path / "sites" / "nord").mkdir(parents=True)
    small_disk(tmp_path / "sites" / "nord", "size=60m")
    home = _home(tmp_path, copies=2)
    subprocess.run(["mount", "-o", "remount,ro", str(home.site("nord"))], check=True)
    receipt = home.backup()[0]
    assert list(receipt["failed"]) == ["nord"]
    assert "read-only" in receipt["failed"]["nord"].lower()
    assert home.versions("", "nord")[-1]["sequence"] == 1
    subprocess.run(["mount", "-o", "remount,rw", str(home.site("nord"))], check=True)
    home.backup()
    _all_whole(home, 3)


def test_slow_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that takes its time holds the backup up, and nothing else happens."""
    home = _home(tmp_path, copies=2)
    real = DirectorySite.put_same

    def put_same(site: DirectorySite, key: Key, data: bytes | memoryview) -> None:
        if site.address.endswith("nord"):
            time.sleep(0.1)
        real(site, key, data)

    monkeypatch.setattr(DirectorySite, "put_same", put_same)
    assert home.backup()[0]["failed"] == {}
    _all_whole(home, 2)


def test_full_home_disk(tmp_path: Path, small_disk: Callable[[Path, str], None]) -> None:
    """With no space left for the home's own cache the backup ends with a clear error; with space it goes on."""
    home = _home(tmp_path, copies=2)
    for number in range(300):
        (tmp_path / "acts" / f"{number}-{'x' * 150}").write_bytes(os.urandom(3000))
    kept = tree_of(home.folder / "cache")
    small_disk(home.folder / "cache", "size=400k")
    for name, data in kept.items():
        (home.folder / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (home.folder / "cache" / name).write_bytes(data)
    filler = home.folder / "cache" / "filler"
    free = os.statvfs(home.folder / "cache")
    filler.write_bytes(bytes(free.f_bavail * free.f_bsize))
    refused(10, "backup", *home.home)
    assert [v["sequence"] for v in home.versions()] == [1]
    assert home.verify()["ok"]
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=60m", str(home.folder / "cache")], check=True)
    assert home.backup()[0]["sequence"] == 2
    _all_whole(home, 2)


def test_damaged_cache(tmp_path: Path) -> None:
    """A lost, cut, scrambled or emptied cache costs time, and at most the chunks where two files meet."""
    home = _home(tmp_path, copies=2, size_bytes=9_000_000)
    home.backup()
    cache = home.folder / "cache" / home.id_of()
    for number, spoil in enumerate((
        lambda p: p.unlink(),
        lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
        lambda p: p.write_bytes(os.urandom(p.stat().st_size)),
        lambda p: p.write_bytes(b""),
    )):  # fmt: skip
        for path in cache.iterdir():
            if path.is_file():
                spoil(path)
        if number == 2:
            (cache / "staging").mkdir()
            (cache / "staging" / "left").write_bytes(b"by a run that died")
        receipt = home.backup()[0]
        assert receipt["shipped_bytes"] < 5_000_000, f"chunks were shipped again: {number}"
        assert receipt["sequence"] == 3 + number
    _all_whole(home, 6)


def test_damaged_outbox(tmp_path: Path) -> None:
    """A damaged outbox is never passed over in silence: it is named, and the way on is told."""
    home = _home(tmp_path, copies=2)
    outbox = home.folder / "state" / f"{home.id_of()}.outbox"
    for bad in (b"", b"garbage", os.urandom(200)):
        outbox.write_bytes(bad)
        told = refused(21, "backup", *home.home, says=outbox.name)
        assert "exclave verify" in told["hint"]
    assert home.verify()["ok"]
    outbox.unlink()
    assert home.backup()[0]["sequence"] == 2


def test_two_at_once(tmp_path: Path) -> None:
    """A second backup of the same register is refused while the first one runs; of another register it is not."""
    home = _home(tmp_path, copies=2)
    with Home.open(home.folder).alone(home.id_of()):  # type: ignore[arg-type]
        told = refused(43, "backup", *home.home, says="another process")
        assert told["retryable"]
    assert home.backup()[0]["sequence"] == 2


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Of several real processes at the same time each makes a version of its own or is told to wait; none is lost."""
    home = _home(tmp_path, copies=2, size_bytes=4_000_000)
    processes = [start("backup", *home.home) for _ in range(3)]
    codes = [(process.wait(60), process.communicate())[0] for process in processes]
    assert set(codes) <= {0, 43}
    made = codes.count(0)
    assert made >= 1
    _all_whole(home, 1 + made)


def test_interrupted_by_the_user(tmp_path: Path) -> None:
    """Ctrl-C ends a backup with 130 and a word on how to go on; the next one does."""
    home = _home(tmp_path, copies=2)
    fifo_data = tmp_path / "acts" / "act-3"
    with fifo_data.open("wb") as file:
        file.truncate(60_000_000_000)  # a hole: reading it takes seconds, storing it nothing
    process = start("backup", *home.home)
    lock = home.folder / "cache" / home.id_of()
    deadline = time.monotonic() + 30
    while not (lock / "index.sqlite-wal").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"interrupted" in err
    assert b"Traceback" not in err
    fifo_data.unlink()
    assert home.backup()[0]["sequence"] == 2
    _all_whole(home, 2)


def test_wrong_fingerprint(tmp_path: Path) -> None:
    """Under another fingerprint nothing is shown, verified or restored."""
    home = _home(tmp_path, copies=2)
    wrong = ["--site", f"lux={home.urls['lux']}", "--fingerprint", "0" * 64]
    for command in ("snapshots", "status"):
        refused(25, command, *wrong)
    assert [f["fault"] for f in home.fails(25, "verify", *wrong)["findings"]] == ["wrong-fingerprint"]
    refused(25, "charter", "show", *wrong)
    refused(25, "warrant", "request", str(tmp_path / "w"), "--act", "restore", "--place", "lux", "--reason", "r",
            "--key", str(tmp_path / "m.key"), *wrong)  # fmt: skip
    assert not (tmp_path / "w").exists()
    assert not (tmp_path / "m.key").exists()
    refused(2, "verify", "--site", home.urls["lux"], "--fingerprint", "abc", says="64 lower-case hex digits")
    refused(2, "verify", "--site", home.urls["lux"])


def test_postgres_refuses(tmp_path: Path) -> None:
    """A database that does not answer, or lacks an option, is named; no version is claimed."""
    options: dict[str, object] = {"host": "127.0.0.1", "port": free_port(), "user": "nobody", "dbname": "land"}
    home = SmallHome(tmp_path, [Register("land", [("db", "postgres", options)])]).found()
    told = refused(14, "backup", *home.home)
    assert told["retryable"]
    assert home.versions() == []
    home.registers[0].datasets[0][2]["hots"] = "127.0.0.1"
    home.write_config()
    refused(3, "backup", *home.home, says="hots")


def test_one_of_two_registers(tmp_path: Path) -> None:
    """A register that cannot be captured does not hold up the others; the exit code and the JSON name it."""
    (tmp_path / "acts").mkdir()
    registers = [Register("gazette", [("acts", "files", {"path": str(tmp_path / "none")})]),
                 Register("land", [("acts", "files", {"path": str(tmp_path / "acts")})])]  # fmt: skip
    home = SmallHome(tmp_path / "small", registers).found()
    told = home.fails(14, "backup", *home.home)
    assert [r["register"] for r in told["receipts"]] == ["land"]
    assert str(tmp_path / "none") in told["failures"]["gazette"]
    said = run("backup", *home.home)
    assert said.code == 14
    assert "gazette: " in said.err
    assert [v["sequence"] for v in home.versions("land")] == [1, 2]
    assert home.versions("gazette") == []


def test_source_is_missing(tmp_path: Path) -> None:
    """A folder or database file that is not there is named, and the earlier versions stay."""
    home = _home(tmp_path, copies=2)
    (tmp_path / "acts").rename(tmp_path / "moved")
    refused(14, "backup", *home.home, says=str(tmp_path / "acts"))
    (tmp_path / "acts").write_bytes(b"a file now")
    refused(14, "backup", *home.home, says=str(tmp_path / "acts"))
    home.registers[0].datasets[0] = ("acts", "sqlite", {"path": str(tmp_path / "none.sqlite")})
    home.write_config()
    refused(14, "backup", *home.home, says="none.sqlite")
    home.registers[0].datasets[0] = ("acts", "files", {"path": "acts"})
    home.write_config()
    refused(3, "backup", *home.home, says="absolute")
    assert len(home.versions()) == 1
    assert home.verify()["ok"]

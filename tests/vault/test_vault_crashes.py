"""Backups that die at any moment: nothing earlier is harmed, and the next run ships nothing twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exclave.errors import ExclaveError, PlacementUnmet
from exclave.ids import Label
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.sites.memory import MemorySite
from support import vault_process
from support.hostile import FailingSite, Fault, Killed
from support.vault import Vault, packs, picture, repeated_chunks

ONE, TWO = Label("one"), Label("two")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, vault_process.__file__, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "start\n"
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, int | str]:
    out, _ = process.communicate()
    assert process.returncode == 0
    found: dict[str, int | str] = json.loads(out)
    return found


def test_killed_ten_times(tmp_path: Path) -> None:
    """A backup of 150 MB is killed at ten random moments and then runs to its end: each chunk was shipped once."""
    site = tmp_path / "site"
    site.mkdir()
    src, small = tmp_path / "src", tmp_path / "small"
    noise = random.Random(77)
    for root, count in ((small, 15), (src, 150)):
        for n in range(count):
            path = root / f"{n % 7}" / f"{n}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(noise.randbytes(noise.choice([10_000, 500_000, 2_500_000])))
    cache, good = str(tmp_path / "cache"), DirectorySite(str(site))
    earlier = str(finish(start("back-up", str(site), cache, str(small)))["manifest"])
    shipped = 0
    for n in range(10):
        process = start("back-up", str(site), cache, str(src))
        wanted = len(packs(good)) + noise.choice([0, 0, 1, 1, 2])
        while len(packs(good)) < wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(noise.uniform(0, 0.15))  # somewhere in the packs after these
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        now = len(packs(good))
        shipped = max(shipped, now)
        assert now == shipped, "a pack went away"
        if n % 3 == 0:
            Vault(tmp_path, {ONE: good}).restore(bytes.fromhex(earlier), tmp_path / f"earlier{n}")  # type: ignore[arg-type]
            assert picture(tmp_path / f"earlier{n}") == picture(small)
    done = finish(start("back-up", str(site), cache, str(src)))
    assert shipped > 2
    assert not repeated_chunks(good)
    Vault(tmp_path, {ONE: good}).restore(bytes.fromhex(str(done["manifest"])), tmp_path / "out")  # type: ignore[arg-type]
    assert picture(tmp_path / "out") == picture(src)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A small tree, and a further version of it of five packs."""
    noise = random.Random(3)
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        root.mkdir()
        (root / "kept").write_bytes(b"kept " * 5000)
    for n in range(4):
        (second / f"{n}").write_bytes(noise.randbytes(700_000))
    return first, second


@pytest.fixture
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    from exclave.vault import sealer

    monkeypatch.setattr(sealer, "BULK_BYTES", 1 << 20)


@pytest.mark.usefixtures("_small_packs")
@pytest.mark.parametrize("fault", list(Fault))
def test_every_write_fails_once(fault: Fault, trees: tuple[Path, Path], tmp_path: Path) -> None:
    """Whichever write of a version is refused, lost, applied without an answer, or the process's last: the earlier
    version restores, the next run completes, and no chunk lies at the site twice."""
    first, second = trees
    writes = nth = 1
    while nth <= writes:
        work = tmp_path / f"{nth}"
        (work / "site").mkdir(parents=True)
        good = DirectorySite(str(work / "site"))
        vault = Vault(work / "cache", {ONE: good})
        earlier = vault.back_up(first)
        bad = FailingSite(good, nth=nth, fault=fault)
        vault.sites = {ONE: bad}
        try:
            vault.back_up(second)
        except (ExclaveError, Killed):
            pass
        else:
            assert nth > bad.writes
        if nth == 1:
            counting = FailingSite(MemorySite(), nth=0, fault=fault)
            Vault(work / "count", {ONE: counting}).back_up(second)
            writes = counting.writes
            assert writes >= 5
        vault.sites = {ONE: good}
        vault.restore(earlier, work / "earlier")
        assert picture(work / "earlier") == picture(first)
        version = vault.back_up(second)
        vault.restore(version, work / "out")
        assert picture(work / "out") == picture(second)
        assert not repeated_chunks(good)
        nth += 1


@pytest.mark.usefixtures("_small_packs")
@pytest.mark.parametrize("nth", range(1, 6))
def test_one_of_two_sites_fails_midway(nth: int, trees: tuple[Path, Path], tmp_path: Path) -> None:
    """The run goes on at the other site if one copy is enough, and ends with PlacementUnmet if not."""
    _, second = trees
    good = MemorySite("two")
    sites: dict[Label, Site] = {ONE: FailingSite(MemorySite("one"), nth=nth, fault=Fault.REFUSED, times=99), TWO: good}
    vault = Vault(tmp_path / "cache", sites)
    version = vault.back_up(second)
    assert set(vault.failed) == {ONE}
    vault.restore(version, tmp_path / "out", {TWO: good})
    assert picture(tmp_path / "out") == picture(second)

    def needs_both(found: frozenset[Label]) -> None:
        if len(found) < 2:
            raise PlacementUnmet("two copies are needed")

    strict = Vault(tmp_path / "strict", {**sites, TWO: MemorySite("three")})
    with pytest.raises(PlacementUnmet):
        strict.back_up(second, check=needs_both)


@pytest.mark.usefixtures("_small_packs")
def test_a_site_that_holds_other_bytes_does_not_stop_the_rest(trees: tuple[Path, Path], tmp_path: Path) -> None:
    """A host that answers every write with "other bytes are there" is left out like one that is down."""
    from exclave.errors import CorruptObject
    from exclave.ids import Key
    from support.hostile import PassThrough

    class Spiteful(PassThrough):
        def put_same(self, key: Key, data: bytes | memoryview) -> None:
            raise CorruptObject(f"{key} holds other bytes")

    good = MemorySite("two")
    vault = Vault(tmp_path / "cache", {ONE: Spiteful(MemorySite()), TWO: good})
    version = vault.back_up(trees[1])
    assert set(vault.failed) == {ONE}
    vault.restore(version, tmp_path / "out", {TWO: good})


@pytest.mark.usefixtures("_small_packs")
def test_nobody_reads_on_when_the_rule_cannot_be_met(tmp_path: Path) -> None:
    """Once no site is left the source is not read to its end first."""
    read = 0

    def items():  # type: ignore[no-untyped-def]
        nonlocal read
        for item in vault_process.generated(100):
            read += item.entry.size
            yield item

    vault = Vault(tmp_path / "cache", {ONE: FailingSite(MemorySite(), nth=3, fault=Fault.REFUSED, times=10**6)})
    with pytest.raises(PlacementUnmet):
        vault.back_up(items())
    assert read <= 130 << 20, "one large file and what was in flight"
    assert not [name for name in os.listdir(vault.cache) if name.endswith(".new")]


def test_a_restore_during_a_backup(tmp_path: Path) -> None:
    """A version restores while the next one of the same register is being written to the same sites."""
    import threading

    src = tmp_path / "src"
    src.mkdir()
    noise = random.Random(8)
    for n in range(20):
        (src / f"{n}").write_bytes(noise.randbytes(1 << 20))
    before = picture(src)
    site = DirectorySite(str(tmp_path))
    (tmp_path / "site").mkdir()
    site = DirectorySite(str(tmp_path / "site"))
    vault = Vault(tmp_path / "cache", {ONE: site})
    version = vault.back_up(src)
    for n in range(20):
        (src / f"{n}").write_bytes(noise.randbytes(1 << 20))
    failures: list[BaseException] = []

    def back_up() -> None:
        try:
            for _n in range(3):
                (src / "more").write_bytes(noise.randbytes(1 << 20))
                vault.back_up(src)
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=back_up)
    writer.start()
    rounds = 0
    while writer.is_alive() or rounds < 2:
        Vault(tmp_path, {ONE: site}).restore(version, tmp_path / f"out{rounds}")
        assert picture(tmp_path / f"out{rounds}") == before
        rounds += 1
    writer.join()
    assert not failures


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Backup and restore of 1.5 GB stay below 300 MiB, and hardly more than for 0.7 GB, when every queue is full."""
    peaks: dict[tuple[int, str], int] = {}
    for megabytes in (700, 1500):
        site = tmp_path / f"site{megabytes}"
        site.mkdir()
        cache = tmp_path / f"cache{megabytes}"
        done = finish(start("back-up-generated", str(site), str(cache), str(megabytes)))
        peaks[megabytes, "back-up"] = int(done["peak_mib"])
        target = tmp_path / f"out{megabytes}"
        peaks[megabytes, "restore"] = int(
            finish(start("restore", str(site), str(done["manifest"]), str(target)))["peak_mib"]
        )
        assert (target / "large").stat().st_size == megabytes << 20
        subprocess.run(["rm", "-rf", str(site), str(target)], check=True)
    for verb in ("back-up", "restore"):
        assert peaks[1500, verb] < 300, peaks
        # A restore may have 64 MiB on their way; how many of them are used depends on how busy the machine is.
        assert peaks[1500, verb] - peaks[700, verb] < (60 if verb == "back-up" else 120), peaks

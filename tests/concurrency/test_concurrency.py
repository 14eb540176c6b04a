"""Several at once: writers of one register, many registers, restores during backups, a site that goes meanwhile."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exclave.operations import backup as backup_verb
from exclave.operations import rekey as rekey_verb
from exclave.sites.directory import DirectorySite
from support.meanwhile import meanwhile
from support.rekeying import People
from support.small_home import Register, command, tree_of


def _register(root: Path, name: str) -> Register:
    acts = root / "acts" / name
    acts.mkdir(parents=True)
    for number in range(3):
        (acts / f"act-{number}").write_bytes(random.Random(f"{name}/{number}").randbytes(200_000))
    return Register(name, [("acts", "files", {"path": str(acts)})])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> People:
    """A home with three registers of one version each."""
    root = tmp_path_factory.mktemp("template") / "small"
    home = People(root, [_register(root, name) for name in ("court", "gazette", "land")])
    home.found()
    home.backup()
    return home


@pytest.fixture
def home(template: People, tmp_path: Path) -> People:
    return template.copy(tmp_path / "small")


def _change(home: People, register: str) -> dict[str, bytes]:
    acts = home.root / "acts" / register
    (acts / "act-1").write_bytes(os.urandom(300_000))
    return tree_of(acts)


def _restored(home: People, register: str, version: int, name: str, *sites: str) -> dict[str, bytes]:
    granted = home.granted("restore", name=name, registers=[home.id_of(register)], sites=sites)
    target = home.root / name
    home.ok("restore", *home.where(*sites), *granted, "--version", str(version), "--target", str(target))
    return tree_of(target / "acts")


def test_the_second_writer_on_a_machine_is_refused(home: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one backup of a register runs, another one of it is told so at once; other registers go on."""
    said: list[Any] = []

    def second() -> None:
        for name in ("gazette", "land"):
            said.append(
                subprocess.run(command("backup", name, *home.home), capture_output=True, check=False).returncode
            )

    meanwhile(monkeypatch, backup_verb, "_hand_round", second, after=False)
    home.backup("gazette")
    assert said == [43, 0]
    assert home.verify()["findings"] == []


def test_the_second_machine_with_the_same_key_is_refused(
    home: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A clone of home enters a version in between: the first one's does not take the same number."""
    clone = tmp_path / "clone"
    shutil.copytree(home.folder, clone)
    tree = _change(home, "gazette")
    meanwhile(
        monkeypatch, backup_verb, "enter", lambda: home.ok("backup", "gazette", "--home", str(clone)), after=False
    )
    told = home.fails(42, "backup", "gazette", *home.home)
    assert "second machine" in told["hint"]
    assert home.backup("gazette")[0]["sequence"] == 3
    assert [v["sequence"] for v in home.versions("gazette")] == [1, 2, 3]
    assert home.verify()["findings"] == []
    assert _restored(home, "gazette", 3, "look") == tree


def test_several_registers_at_once(home: People) -> None:
    """Backups of two registers and a rekey of the third, as processes at the same time; then all of it again."""
    options = home.to_rekey(registers=[home.id_of("land")], name="keys")
    trees = {name: _change(home, name) for name in ("court", "gazette")}
    runs = [["backup", "court", *home.home], ["backup", "gazette", *home.home], ["rekey", *options]]
    processes = [subprocess.Popen(command(*r), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for r in runs]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, (out, err)
    assert {r["epoch"] for r in home.backup("land")} == {2}
    assert home.verify()["findings"] == []
    for name, tree in trees.items():
        assert _restored(home, name, 2, f"look-{name}") == tree


def test_a_restore_during_a_backup(home: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between packs and ledger of the next version, the former one restores as it was, and the other way round."""
    before = tree_of(home.root / "acts" / "gazette")
    tree = _change(home, "gazette")
    seen: list[Any] = []
    with monkeypatch.context() as patch:
        meanwhile(
            patch, backup_verb, "enter", lambda: seen.append(_restored(home, "gazette", 1, "during")), after=False
        )
        home.backup("gazette")
    assert seen == [before]
    later = _change(home, "gazette")
    with monkeypatch.context() as patch:
        meanwhile(patch, DirectorySite, "get_range", lambda: home.backup("gazette"), after=False)
        assert _restored(home, "gazette", 2, "around") == tree
    assert _restored(home, "gazette", 3, "last") == later


def test_restores_while_backups_run(home: People) -> None:
    """Processes that write versions one after another, and restores all the while: each is what was captured."""
    before = tree_of(home.root / "acts" / "gazette")
    granted = home.granted("restore", name="many", registers=[home.id_of("gazette")])
    program = "import sys; from exclave.cli import main as cli\nsys.exit(any(cli.run(sys.argv[1:]) for _ in range(6)))"
    writer = subprocess.Popen(
        [sys.executable, "-c", program, "backup", "gazette", *home.home], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    rounds = 0
    while writer.poll() is None or rounds == 0:
        target = home.root / f"many-{rounds}"
        home.ok("restore", *home.where(), *granted, "--version", "1", "--target", str(target))
        assert tree_of(target / "acts") == before
        rounds += 1
    assert writer.communicate()[0] is not None
    assert writer.returncode == 0
    assert home.versions("gazette")[-1]["sequence"] == 7


# A site is lost in the middle of each


def _lose(home: People, site: str) -> Callable[[], None]:
    return lambda: home.site(site).rename(home.root / f"lost-{site}")


def _find(home: People, site: str) -> None:
    (home.root / f"lost-{site}").rename(home.site(site))


@pytest.mark.parametrize("site", ["home", "lux"])
@pytest.mark.parametrize("at", ["_hand_round", "enter"])
def test_a_site_is_lost_during_a_backup(home: People, monkeypatch: pytest.MonkeyPatch, site: str, at: str) -> None:
    """The version is made without it, and the next run brings it what it missed."""
    tree = _change(home, "gazette")
    with monkeypatch.context() as patch:
        meanwhile(patch, backup_verb, at, _lose(home, site), after=False)
        receipt = home.backup("gazette")[0]
    assert (receipt["sequence"], sorted(receipt["failed"])) == (2, [site])
    assert _restored(home, "gazette", 2, "without", *[s for s in home.sites if s != site]) == tree
    _find(home, site)
    assert home.backup("gazette")[0]["failed"] == {}
    assert home.verify()["findings"] == []
    assert _restored(home, "gazette", 2, "at-it", site) == tree


def test_a_site_is_lost_during_a_restore(home: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sites give what it no longer does."""
    before = tree_of(home.root / "acts" / "gazette")
    meanwhile(monkeypatch, DirectorySite, "get_range", _lose(home, "home"), after=True)
    assert _restored(home, "gazette", 1, "look") == before


def test_a_site_is_lost_during_a_rekey(home: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others take the new epoch; the next backup brings it."""
    options = home.to_rekey(registers=[home.id_of("gazette")], name="keys")
    with monkeypatch.context() as patch:
        meanwhile(patch, rekey_verb, "put_epoch", _lose(home, "lux"), after=False)
        assert sorted(home.ok("rekey", *options)["registers"][0]["failed"]) == ["lux"]
    _find(home, "lux")
    assert home.backup("gazette")[0]["epoch"] == 2
    assert home.verify()["findings"] == []


def test_a_site_is_lost_while_several_registers_are_written(home: People) -> None:
    """Every register is written to the others, or says which copies are missing; afterwards all is whole."""
    trees = {name: _change(home, name) for name in ("court", "gazette", "land")}
    processes = [
        subprocess.Popen(command("backup", name, *home.home), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in trees
    ]
    packs = home.site("nord") / home.fingerprint
    known = sum(1 for _ in packs.rglob("*"))
    while sum(1 for _ in packs.rglob("*")) == known and any(p.poll() is None for p in processes):
        pass
    _lose(home, "nord")()
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, (out, err)
    _find(home, "nord")
    assert all(receipt["failed"] == {} for receipt in home.backup())
    assert home.verify()["findings"] == []
    for name, tree in trees.items():
        assert _restored(home, name, 2, f"look-{name}", "nord") == tree

"""Failover as a user has it: crashes at every step, second machines, fenced writers, and life in the embassy."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from exclave.operations.failover import stop_all
from support.refusal import refused
from support.small_home import SERVICE, Register, SmallHome, run, served, tree_of

DYING = Path(__file__).parents[1] / "support" / "dying.py"


def _two(root: Path) -> SmallHome:
    """Two registers, one of which depends on the other, with one version each; home's own site is lost."""
    registers = [
        served("gazette", root / "systems" / "gazette"),
        served("court", root / "systems" / "court", depends=("gazette",)),
    ]
    home = SmallHome(root, registers).found()
    home.backup()
    return home


@pytest.fixture
def embassies() -> Iterator[list[Path]]:
    """Folders of failovers; whatever runs in them is stopped in the end."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        if (folder / "state" / "progress.json").exists():
            stop_all(folder)


@pytest.fixture
def home(tmp_path: Path) -> SmallHome:
    return _two(tmp_path / "small")


def _run(home: SmallHome, folder: Path, granted: list[str], *sites: str) -> list[str]:
    return ["failover", "run", *home.where(*sites), *granted, "--dir", str(folder)]


def _processes(folder: Path) -> list[str]:
    """Command lines of all processes that work in ``folder`` now."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            cwd, line = (process / "cwd").readlink(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if process.name.isdigit() and line and folder in (cwd, *cwd.parents):
            found.append(line.replace(b"\0", b" ").decode())
    return found


def _dies(at: int, when: str, arguments: list[str]) -> bool:
    """Runs a command that dies at its ``at``-th save; False if it came to its end before."""
    done = subprocess.run(
        [sys.executable, str(DYING), str(at), when, *arguments], capture_output=True, check=False, timeout=120
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


def _check(home: SmallHome, report: Any, folder: Path, epoch: int = 2) -> None:
    """Everything runs once, answers, and each register has ``epoch``."""
    assert report["epoch"] == dict.fromkeys(("court", "gazette"), epoch)
    assert [s["name"] for s in report["services"]] == ["court/web", "gazette/web"]
    for service in report["services"]:
        name = service["name"].removesuffix("/web")
        answer = httpx.get(f"{service['address']}/act-1", trust_env=False)
        assert answer.json() == {"register": name}
    assert len(_processes(folder)) == 2, _processes(folder)
    for register in report["registers"]:
        assert all(d["digest_home"] == d["digest_embassy"] != "" for d in register["datasets"])
        assert register["done"] == ["grant", "restore", "start", "probe", "record"]
        assert register["rto_s"] > 0
    for name in ("court", "gazette"):
        acts = folder / "registers" / name / "acts"
        assert tree_of(acts) == tree_of(home.root / "systems" / name / "acts")
        notes = {p.name for s in home.sites for p in home.site(s).glob(f"*/{home.id_of(name)}/epoch/*")}
        assert len(notes) == epoch, "more than one epoch was granted"


@pytest.mark.parametrize("when", ["after", "before"])
def test_dies_at_every_step(home: SmallHome, tmp_path: Path, embassies: list[Path], when: str) -> None:
    """Killed again and again, at each save of its progress, the same command goes on: one epoch, one process each."""
    granted = home.granted("failover")
    embassies.append(folder := tmp_path / "embassy")
    command = _run(home, folder, granted)
    # Two saves come before the first step, and a start saves twice: from the fifth on, each run comes at least one
    # step further, and repeats the one that was not noted.
    deaths = 0
    while _dies(min(1 + deaths, 4 if when == "after" else 5), when, command):
        deaths += 1
        assert deaths < 40, "it does not come to its end"
        assert len(_processes(folder)) <= 2
    assert deaths >= 7
    _check(home, home.ok(*command), folder)
    _check(home, home.ok(*command), folder)
    assert home.verify()["ok"]


def test_status_and_stop(home: SmallHome, tmp_path: Path, embassies: list[Path]) -> None:
    """``failover status`` shows what runs; ``stop`` ends it and leaves what was restored; ``run`` brings it back."""
    refused(2, "failover", "status", "--dir", str(tmp_path / "embassy"), says="no failover")
    refused(2, "failover", "stop", "--dir", str(tmp_path / "embassy"), says="no failover")
    embassies.append(folder := tmp_path / "embassy")
    shutil.rmtree(home.site("home"))
    command = _run(home, folder, home.granted("failover", sites=("lux", "nord")), "lux", "nord")
    report = home.ok(*command)
    _check(home, report, folder)
    shown = home.ok("failover", "status", "--dir", str(folder))
    assert shown["services"] == report["services"]
    assert [r["done"][-1] for r in shown["registers"]] == ["record", "record"]
    assert sorted(home.ok("failover", "stop", "--dir", str(folder))["stopped"]) == ["court/web", "gazette/web"]
    assert _processes(folder) == []
    assert home.ok("failover", "stop", "--dir", str(folder))["stopped"] == []
    assert home.ok("failover", "status", "--dir", str(folder))["services"] == []
    assert (folder / "registers" / "gazette" / "acts" / "act-1").exists()
    again = home.ok(*command)
    _check(home, again, folder)
    assert [r["rto_s"] for r in again["registers"]] == [r["rto_s"] for r in report["registers"]]


def test_second_machine(home: SmallHome, tmp_path: Path, embassies: list[Path]) -> None:
    """A second failover by another machine makes epoch 3; home and the first machine may write no more."""
    first, second = tmp_path / "first", tmp_path / "second"
    embassies += [first, second]
    granted = home.granted("failover")
    home.ok(*_run(home, first, granted))
    (first / "registers" / "gazette" / "acts" / "act-2").write_text("made in exile")
    assert [r["epoch"] for r in home.ok("backup", "--home", str(first))["receipts"]] == [2, 2]
    refused(34, "backup", "gazette", *home.home, says="another writer")
    stop_all(first)
    home.ok(*_run(home, second, home.granted("failover", machine="second", place="nord")))
    assert (second / "registers" / "gazette" / "acts" / "act-2").read_text() == "made in exile"
    refused(34, "backup", "court", "--home", str(first), says="another writer")
    refused(34, "backup", "court", *home.home)
    refused(34, *_run(home, first, granted), says="epoch 3")
    assert {r["epoch"] for r in home.ok("backup", "--home", str(second))["receipts"]} == {3}
    assert [(v["sequence"], v["epoch"]) for v in home.versions("gazette")] == [(1, 1), (2, 2), (3, 3)]
    assert home.verify()["ok"]


def test_folder_of_another_warrant(home: SmallHome, tmp_path: Path, embassies: list[Path]) -> None:
    """A new warrant is not taken for the old one: a folder in which one failover was made is not used for the next."""
    embassies += [tmp_path / "embassy", tmp_path / "new"]
    home.ok(*_run(home, tmp_path / "embassy", home.granted("failover")))
    again = home.granted("failover", name="again")
    refused(2, *_run(home, tmp_path / "embassy", again), says="another warrant")
    _check_epochs(home, 2)
    stop_all(tmp_path / "embassy")
    home.ok(*_run(home, tmp_path / "new", again))
    _check_epochs(home, 3)


def _check_epochs(home: SmallHome, epoch: int) -> None:
    found = run("status", *home.where(), "--json").json["registers"]
    assert {r["epoch"] for r in found} == {epoch}


def test_register_without_a_version(tmp_path: Path, embassies: list[Path]) -> None:
    """A register that was never backed up is named before home is fenced; a warrant without it succeeds."""
    home = SmallHome(tmp_path / "small", [served("gazette", tmp_path / "gazette"), served("new", tmp_path / "new")])
    home.found().backup("gazette")
    embassies.append(folder := tmp_path / "embassy")
    told = refused(22, *_run(home, folder, home.granted("failover")), says="register new has no version")
    assert "--register" in told["hint"]
    _check_epochs(home, 1)
    assert not folder.exists()
    home.backup("gazette")
    only = home.granted("failover", name="only", registers=[home.id_of("gazette")])
    report = home.ok(*_run(home, folder, only))
    assert report["epoch"] == {"gazette": 2}
    assert home.backup("new")[0]["epoch"] == 1, "home lost a register that nobody took over"


def test_service_that_does_not_come_up(tmp_path: Path, embassies: list[Path]) -> None:
    """A service that ends at once is named with exit code 15; put right, the same command goes on."""
    register = served("gazette", tmp_path / "gazette")
    app = tmp_path / "gazette" / "app" / "app.py"
    app.write_text("raise SystemExit('the application is broken')\n")
    home = SmallHome(tmp_path / "small", [register]).found()
    home.backup()
    embassies.append(folder := tmp_path / "embassy")
    command = _run(home, folder, home.granted("failover"))
    told = refused(15, *command)
    assert "log" in told["hint"] + told["message"]
    (folder / "registers" / "gazette" / "app" / "app.py").write_text(SERVICE)
    report = home.ok(*command)
    assert httpx.get(f"{report['services'][0]['address']}/act-1", trust_env=False).status_code == 200
    assert report["epoch"] == {"gazette": 2}


def test_restore_of_an_older_version(tmp_path: Path) -> None:
    """``restore --version`` brings an earlier version back as it was, also one from before a failover's epoch."""
    home = SmallHome(tmp_path).found()
    acts, states = tmp_path / "acts", {}
    for number in (1, 2, 3):
        (acts / f"new-{number}").write_text(f"of version {number}")
        states[number] = tree_of(acts)
        home.backup()
    granted = home.granted("restore")
    for number, state in states.items():
        target = tmp_path / f"target-{number}"
        command = ["restore", *home.where("lux"), *granted, "--target", str(target), "--version", str(number)]
        assert home.ok(*command, "--compare")["restored"]["sequence"] == number
        assert tree_of(target / "acts") == state


def test_charter_in_exile(home: SmallHome, tmp_path: Path, embassies: list[Path]) -> None:
    """The embassy can change the charter: epochs stay, a new register is added, backups and restores go on."""
    embassies.append(folder := tmp_path / "embassy")
    home.ok(*_run(home, folder, home.granted("failover")))
    home.ok("backup", "--home", str(folder))
    config = folder / "exclave.toml"
    (tmp_path / "tax").mkdir()
    (tmp_path / "tax" / "roll").write_text("taxes")
    new = Register("tax", [("roll", "files", {"path": str(tmp_path / "tax")})])
    config.write_text(config.read_text().replace("rpo_s = 3600", "rpo_s = 600") + new.block())
    published = home.new_charter("draft-exile", home=folder)
    assert (published["number"], published["fingerprint"]) == (2, home.fingerprint)
    shown = home.ok("charter", "show", *home.where())["charter"]
    assert sorted(r["epoch"] for r in shown["registers"]) == [1, 2, 2]
    receipts = home.ok("backup", "--home", str(folder))["receipts"]
    assert {r["register"]: (r["epoch"], r["sequence"]) for r in receipts} == {
        "gazette": (2, 3), "court": (2, 3), "tax": (1, 1),
    }  # fmt: skip
    refused(34, "backup", "gazette", *home.home)
    granted = home.granted("restore", machine="reader")
    for name in ("gazette", "tax"):
        done = home.ok(
            "restore", *home.where("nord"), *granted, "--register", name, "--target", str(tmp_path / f"back-{name}"),
            "--compare",
        )  # fmt: skip
        assert done["restored"]["sequence"] == {"gazette": 3, "tax": 1}[name]
    assert home.verify()["ok"]


def test_site_that_has_not_heard_of_the_epoch(home: SmallHome, tmp_path: Path, embassies: list[Path]) -> None:
    """At the end it is said what that means, and which command heals it; the command does."""
    embassies.append(folder := tmp_path / "embassy")
    home.site("nord").rename(tmp_path / "away")
    said = run(*_run(home, folder, home.granted("failover", sites=("lux", "home")), "lux", "home"))
    assert said.code == 0
    assert "nord has NOT heard of the new epoch: " in said.out
    assert "Who also sees another site is not deceived" in said.out
    (tmp_path / "away").rename(home.site("nord"))
    told, _, step = said.out.splitlines()[-1].partition(": exclave ")
    assert told == "  When nord is back"
    assert run(*shlex.split(step)).code == 0
    assert home.verify()["findings"] == []


def test_site_away_during_failover(home: SmallHome, tmp_path: Path, embassies: list[Path]) -> None:
    """A site that missed the failover is brought everything by the embassy's next backup."""
    embassies.append(folder := tmp_path / "embassy")
    home.site("nord").rename(tmp_path / "away")
    home.ok(*_run(home, folder, home.granted("failover", sites=("lux", "home")), "lux", "home"))
    (tmp_path / "away").rename(home.site("nord"))
    receipts = home.ok("backup", "--home", str(folder))["receipts"]
    assert all(r["sites"] == ["home", "lux", "nord"] or set(r["sites"]) == set(home.sites) for r in receipts)
    assert home.verify("nord")["ok"]
    assert home.verify()["findings"] == []

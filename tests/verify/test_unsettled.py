"""A check that did not reach everything, or found too few copies, does not end as one that found all in order."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.verify.command import run as run_alone
from exclave.verify.state import Finding
from support.shown_sites import world
from support.small_home import Register, SmallHome, run


def _home(root: Path, copies: int) -> SmallHome:
    acts = root / "acts"
    acts.mkdir()
    (acts / "act").write_bytes(os.urandom(50_000))
    register = Register("gazette", [("acts", "files", {"path": str(acts)})], copies=copies)
    home = SmallHome(root, [register]).found()
    home.backup()
    return home


def test_silent_site(tmp_path: Path) -> None:
    """A named site that does not answer is named in the last line; the exit code is 1, and 0 without it."""
    home = _home(tmp_path, copies=2)
    home.site("nord").rename(tmp_path / "away")
    for options in (home.home, home.where()):
        said = run("verify", *options)
        assert said.code == 1
        assert said.out.splitlines()[-1] == "1 site was NOT looked at, or not wholly: nord."
        told = home.fails(1, "verify", *options)
        assert (told["ok"], told["unread"], told["placement_unmet"]) == (False, ["nord"], [])
    assert home.verify("home", "lux")["ok"]
    (tmp_path / "away").rename(home.site("nord"))
    assert home.verify()["ok"]


def test_too_few_copies(tmp_path: Path) -> None:
    """The placement rule is judged where all sites of the register were named; an auditor may look at some alone."""
    home = _home(tmp_path, copies=3)
    home.site("nord").rename(tmp_path / "away")
    told = home.verify(code=1)
    assert told["placement_unmet"] == [home.id_of()]
    assert "The placement rule is not met: gazette." in run("verify", *home.home).out.splitlines()
    alone = home.verify("lux")
    assert (alone["ok"], alone["placement_unmet"]) == (True, [])


@pytest.mark.parametrize("fault", ["site-unavailable", "not-erased", "placement", "rpo"])
def test_what_unsettles(fault: str) -> None:
    """Each of the three alone is enough; the age of a version is asked about apart (`EmbassyReport.old`)."""
    report = world().report()
    assert report.ok
    assert report.settled
    if fault == "placement":
        changed = replace(report, placement_unmet=(report.registers[0].register,))
    else:
        changed = replace(report, findings=(Finding("lux", fault, "packs", "", None, grave=False),))
    assert changed.ok
    assert changed.settled == (fault == "rpo")


def test_a_site_that_is_not_in_the_charter_yet(tmp_path: Path) -> None:
    """Between `site add` and the charter that names it a site is empty and no fault: it is said what it waits for."""
    home = _home(tmp_path, copies=2)
    new = tmp_path / "sites" / "new"
    new.mkdir()
    block = f'\n[[site]]\nname = "new"\nurl = "dir:{new}"\ncountry = "FI"\noperator = "new-it"\n'
    with open(home.folder / "exclave.toml", "a") as file:
        file.write(block)
    said = run("verify", *home.home)
    assert said.code == 1
    assert "FAULT" not in said.out
    assert "not yet in the charter" in said.out.replace("\n", " ")


def test_who_only_verifies_is_asked_for_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home nobody is told to make one, but what to name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tlog-proof").write_bytes(b"proof")
    for arguments in (("--proof", "a.tlog-proof"), ()):
        said = run("verify", *arguments)
        assert said.code == 2
        assert "--fingerprint" in said.err
        assert "init" not in said.err


def test_quick_says_what_was_not_read(tmp_path: Path) -> None:
    """Over a spoilt pack a quick look says nothing of bytes, with either program."""
    home = _home(tmp_path, copies=2)
    pack = next(p for p in home.site("lux").rglob("pack/**/*") if p.is_file())
    pack.chmod(0o644)
    pack.write_bytes(bytes(pack.stat().st_size))
    ends = "Every signature, history and list that was read is right. Packs were NOT read (--quick)."
    said = run("verify", "--quick", *home.home)
    assert (said.code, said.out.splitlines()[-1]) == (0, ends)
    assert run("verify", *home.home).code == 20


def test_quick_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``exclave-verify --quick`` says it too."""
    home = _home(tmp_path, copies=2)
    sites = [f"{name}=dir:{home.site(name)}" for name in home.sites]
    assert run_alone(["--fingerprint", home.fingerprint, "--quick", *sites]) == 0
    assert capsys.readouterr().out.endswith("Packs were NOT read (--quick).\n")


def test_a_site_that_cannot_be_read_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If no site can be read, nothing was found out: that is said, with what to do, and the code of the reason."""
    away = f"lux=dir:{tmp_path}/nowhere"
    said = run("verify", "--site", away, "--fingerprint", "ab" * 32)
    assert said.code == 11
    assert run_alone(["--fingerprint", "ab" * 32, away]) == 11
    for text in (said.out, capsys.readouterr().out):
        assert "FAULT" not in text
        assert "There are faults" not in text
        assert "NOT READ" in text
        assert "Next: " in text
        assert text.endswith("No site could be read: nothing was found out, neither good nor bad.\n")


def test_a_copy_under_another_name(tmp_path: Path) -> None:
    """What counts for nothing because the charter calls it otherwise is told so, with the charter's names."""
    home = _home(tmp_path, copies=2)
    said = run("verify", "--site", f"dir:{home.site('lux')}", "--fingerprint", home.fingerprint)
    (line,) = (line for line in said.out.splitlines() if "too few hold" in line)
    assert line.startswith("note  of the sites that were named, too few hold version 1 whole: 0 of 2 copies")
    assert line.endswith("Not counted: site-1. Name each site as the charter does: home, lux, nord (NAME=ADDRESS)")
    named = run("verify", *home.where("lux")).out
    assert "too few hold version 1 whole: 1 of 2 copies" in named
    assert "Not counted" not in named

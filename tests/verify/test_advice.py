"""What a verification says to a person: what was checked, what it means, what to do next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exclave.cli.main import run
from exclave.errors import Forked, all_errors
from exclave.ids import Key
from exclave.verify.advice import _MEANING, advice
from exclave.verify.command import run as run_alone
from exclave.verify.report import EmbassyReport
from exclave.verify.state import Finding
from support.hostile import MissingSite, containing
from support.shown_sites import World, world
from support.small_state import SmallState


def told(w: World, report: EmbassyReport) -> str:
    return "\n".join(advice(report, {w.register: "land"}))


def test_all_is_well() -> None:
    """Then there is nothing to explain."""
    w = world()
    assert told(w, w.report()) == ""


def test_one_site_lost_its_packs() -> None:
    """The site and the way to mend it are named, and that the newest version is whole elsewhere."""
    w = world()
    bad = MissingSite(w.sites["luxembourg"], containing("/pack/"))
    text = told(w, w.report(sources={**w.sites, "luxembourg": bad}))
    assert "missing-object (luxembourg)" in text
    assert "exclave scrub" in text
    assert "land: version 3, the newest that counts, lies whole at home, monaco." in text


def test_one_site_was_rolled_back() -> None:
    """A head of before, long after: an old copy, and what brings the site up to date."""
    w = world()
    state = SmallState.ledger_prefix(w.small, w.epoch(2))
    w.put("monaco", Key(state + "checkpoint"), None)
    w.now = type(w.now)(w.now + 10**12)
    text = told(w, w.report())
    assert "(monaco)" in text
    assert "lies whole at home, luxembourg." in text


def test_no_site_has_it_whole() -> None:
    """That is said as loudly as it must be."""
    w = world()
    bad = {name: MissingSite(site, containing("/pack/")) for name, site in w.sites.items()}
    assert "is NOT whole at any of these sites" in told(w, w.report(sources=bad))


def test_packs_that_were_not_read() -> None:
    """A quick look does not claim more than it was."""
    w = world()
    bad = MissingSite(w.sites["luxembourg"], containing("/box/"))
    text = told(w, w.report(sources={**w.sites, "luxembourg": bad}, read_packs=False))
    assert "no packs (only their sizes)" in text


def test_nothing_could_be_read() -> None:
    """Without a chain of charters nothing is claimed to be checked."""
    w = world()
    bad = {name: MissingSite(site) for name, site in w.sites.items()}
    assert "Checked: nothing" in told(w, w.report(sources=bad))


@pytest.mark.parametrize("code", sorted(_MEANING))
def test_each_kind_is_explained_once(code: str) -> None:
    """However many findings of a kind there are at a site, its meaning and the next step are told once."""
    w = world()
    findings = tuple(Finding("monaco", code, f"object {n}", "…", w.register) for n in range(3))
    text = told(w, replace(w.report(), findings=findings))
    assert text.count(f"{code} (monaco): ") == 1
    assert "Next: " in text


def test_every_explained_code_exists() -> None:
    """A code that no error has would never be explained."""
    assert set(_MEANING) <= {cls.code for cls in all_errors()}
    assert Forked.code in _MEANING


def test_both_commands_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`exclave verify` and the verifier that installs alone explain alike."""
    state = SmallState(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "act").write_bytes(b"act" * 1000)
    state.write_version(tmp_path / "docs")
    address = f"home=dir:{state.site_folder('home')}"
    assert run(["verify", "--site", address, "--fingerprint", state.state]) == 20
    first = " ".join(capsys.readouterr().out.split())
    assert run_alone(["--fingerprint", state.state, address]) == 20
    second = " ".join(capsys.readouterr().out.split())
    for text in (first, second):
        assert "missing-object (home): objects are gone there that must be there. Next: `exclave scrub`" in text

"""No charter changes who has the pen without somebody saying so, and nobody signs what he cannot see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.errors import BadShare, Forked, UsageError
from exclave.formats.note import ParsedNote
from exclave.formats.paths import epoch_key
from exclave.ids import Digest, RegisterId
from exclave.operations.home import Home
from exclave.rules.signatures import sign_text
from exclave.sites.opening import open_site
from exclave.verify.state import StateView, read_state
from support.small_home import SmallHome


@pytest.fixture
def home(tmp_path: Path) -> SmallHome:
    return SmallHome(tmp_path).found()


def failed_over(home: SmallHome) -> None:
    granted = home.granted("failover")
    home.ok("failover", "run", *home.where(), *granted, "--dir", str(home.root / "embassy"))


def test_a_charter_drafted_before_a_failover_is_not_published_after_it(home: SmallHome) -> None:
    """It would give the pen back to the former writer."""
    home.backup()
    draft = str(home.root / "draft-2")
    home.ok("charter", "propose", draft, *home.home)
    for name in ("kaja", "luc"):
        home.ok("charter", "sign", draft, "--yes", "--key", str(home.key(name)), *home.where())
    failed_over(home)
    told = home.fails(Forked.exit_code, "charter", "publish", draft, *home.home)
    assert "anew" in json.dumps(told)
    refused = home.fails(
        Forked.exit_code, "charter", "sign", draft, "--yes", "--key", str(home.key("aino")), *home.where()
    )
    assert "epoch 2" in json.dumps(refused)


def test_a_later_charter_is_not_signed_blind(home: SmallHome) -> None:
    """Without sites to compare with, a custodian's tool refuses, and says what to add."""
    draft = str(home.root / "draft-2")
    home.ok("charter", "propose", draft, *home.home)
    told = home.fails(UsageError.exit_code, "charter", "sign", draft, "--yes", "--key", str(home.key("kaja")))
    assert "--site" in json.dumps(told)


def test_a_first_charter_without_its_shares_is_not_signed(tmp_path: Path) -> None:
    """Nobody signs a register whose share he could not open."""
    home = SmallHome(tmp_path)
    home.make()
    draft = home.root / "draft"
    home.ok("charter", "propose", str(draft), *home.home)
    for note in (draft / "epochs").iterdir():
        note.unlink()
    home.fails(BadShare.exit_code, "charter", "sign", str(draft), "--yes", "--key", str(home.key("kaja")))


def test_json_signs_nothing_without_a_word(home: SmallHome) -> None:
    """``--json`` asks nobody; so it needs ``--yes``."""
    draft = str(home.root / "draft-2")
    home.ok("charter", "propose", draft, *home.home)
    home.fails(UsageError.exit_code, "charter", "sign", draft, "--key", str(home.key("kaja")), *home.where())
    warrant = home.request("drill")
    home.fails(UsageError.exit_code, "warrant", "sign", str(warrant), "--key", str(home.key("kaja")), *home.where())


def view_of(home: SmallHome) -> StateView:
    opened = Home.open(home.folder)
    return read_state({name: open_site(home.urls[name]) for name in home.sites}, opened.fingerprint())


def test_an_epoch_that_was_granted_twice_is_healed_by_naming_one(home: SmallHome) -> None:
    """The machine made two notes for one warrant: `--epoch` names the one that counts, and the register goes on."""
    home.backup()
    failed_over(home)
    register = RegisterId(home.id_of())
    embassy = Home.open(home.root / "embassy")
    newest = view_of(home).epoch_chain(register).newest
    key = embassy.writer_key()
    text = replace(newest.note, ancestor=Digest(bytes([1]) * 32)).encode()
    second = ParsedNote(text, sign_text(text, key.name, key.signing())).encode()
    for name in home.sites:
        open_site(home.urls[name]).put_same(epoch_key(embassy.fingerprint(), register, second), second)
    assert register not in view_of(home).epochs
    draft, at = str(home.root / "healing"), ["--home", str(home.root / "embassy")]
    home.ok("charter", "propose", draft, "--epoch", f"{register}={newest.digest.hex()}", *at)
    for name in ("kaja", "luc"):
        home.ok("charter", "sign", draft, "--yes", "--key", str(home.key(name)), *home.where())
    home.ok("charter", "publish", draft, *at)
    view = view_of(home)
    assert view.epoch_chain(register).newest.digest == newest.digest
    assert not [found for found in view.findings if found.grave]


def test_an_epoch_between_two_charters_is_not_lost_without_a_word(home: SmallHome) -> None:
    """A charter went to sites that hid the failover: both epochs are named, and the embassy can heal it."""
    home.backup()
    hidden = {name: {p: p.read_bytes() for p in home.site(name).rglob("*") if p.is_file()} for name in home.sites}
    failed_over(home)
    later = {p for name in home.sites for p in home.site(name).rglob("*/epoch/*") if p not in hidden[name]}
    kept = {path: path.read_bytes() for path in later}
    for path in later:
        path.unlink()
    home.new_charter("draft-2")
    for path, data in kept.items():
        path.write_bytes(data)
    view = view_of(home)
    register = RegisterId(home.id_of())
    told = [found for found in view.findings if found.grave and found.fault == "forked"]
    assert told
    assert view.epoch_chain(register).newest.number == 1
    (rejected,) = view.epoch_chain(register).rejected
    draft, at = str(home.root / "healing"), ["--home", str(home.root / "embassy")]
    assert rejected.digest is not None
    home.ok("charter", "propose", draft, "--epoch", f"{register}={rejected.digest.hex()}", *at)
    for name in ("kaja", "luc"):
        home.ok("charter", "sign", draft, "--yes", "--key", str(home.key(name)), *home.where())
    home.ok("charter", "publish", draft, *at)
    assert view_of(home).epoch_chain(register).newest.number == 2

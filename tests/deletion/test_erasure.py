"""Deleting versions for good: who may, when, what goes and what stays, against all who would have it otherwise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from exclave.errors import Busy, MissingObject, NotAuthorised
from exclave.formats.deletion import DONE, ORDERED
from exclave.formats.fact import Fact
from exclave.ids import Label, now, parse_digest
from exclave.operations import act_fact, backup_level, deletion
from exclave.rules.deletion import OrderState
from exclave.sites.contract import Site
from exclave.verify.erasable import doomed_packs
from exclave.verify.inventory import read_lists
from support.deleting import AgeingHome, facts_of
from support.refusal import refused
from support.small_home import run

SOURCE = Path(__file__).parents[2] / "src" / "exclave"
Packs = dict[str, set[str]]


def shown(home: AgeingHome, *sites: str, code: int = 0) -> Any:
    """A verification with every byte, at any time after the delay; what it holds may be of any age."""
    return home.fails(code, "verify", "--at-least", "any", *home.where(*sites))


def restored(home: AgeingHome, target: Path, *options: str, code: int = 0) -> Any:
    grant = home.granted("restore", name=f"restore-{target.name}")
    return home.fails(code, "restore", "--target", str(target), *grant, *options, *home.where())


# The way it is meant


def test_the_whole_way(home: AgeingHome, tmp_path: Path) -> None:
    """What goes is gone everywhere, what stays is whole, and everybody can read who allowed it."""
    data = (home.root / "acts" / "act-1").read_bytes()
    before = home.packs()
    for site in home.sites:
        done = home.erase(site)
        assert done.complete
        assert (done.absent, done.pending) == (0, [])
        assert done.erased >= 3
        assert home.packs(site) < before
        again = home.erase(site)
        assert (again.complete, again.erased, again.absent) == (True, 0, done.erased)
    assert home.packs("home") == home.packs("lux") == home.packs("nord")
    assert len(home.objects("list")) >= 4, "lists stay: they prove what is gone"
    restored(home, tmp_path / "newest")
    assert (tmp_path / "newest" / "acts" / "act-1").read_bytes() == data


def test_what_the_ledger_and_the_checker_say(home: AgeingHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record names the order, the warrant, the packs by one digest, and each site; verify counts no damage."""
    _later(monkeypatch)
    done = home.erase("lux")
    told = home.ok("delete", "record", "gazette", *home.home)
    assert len(told["orders"]) == 1
    report = shown(home, code=1)
    assert not any(f["grave"] for f in report["findings"]), report["findings"]
    assert report["not_erased"] == ["home", "nord"]
    (register,) = report["registers"]
    assert [(e["sequence"], e["done"]) for e in register["erased"]] == [(1, True), (2, True), (3, True)]
    assert {f["site"] for f in report["findings"] if f["fault"] == "not-erased"} == {"home", "nord"}
    for site in ("home", "nord"):
        assert home.erase(site).digest == done.digest
    home.ok("delete", "record", "gazette", *home.home)
    report = shown(home)
    assert report["ok"]
    assert [f for f in report["findings"] if f["fault"] == "not-erased"] == []
    assert {s["versions"] for s in report["registers"][0]["sites"]} == {1}
    assert home.ok("delete", "record", "gazette", *home.home)["orders"].popitem()[1]["new"] is False
    said = run("restore", "--target", str(tmp_path / "old"), *home.granted("restore", name="old"), "--version", "2",
               *home.where())  # fmt: skip
    assert said.code == MissingObject.exit_code
    assert "version 2" in said.err
    assert "erased on" in said.err
    assert home.ok("retention", "gazette", *home.home)["registers"][0]["versions"][0]["sequence"] == 4
    listed = home.versions()
    assert [v["sequence"] for v in listed if "erased on" in v.get("erased", "")] == [1, 2, 3]
    (state,) = home.fails(1, "status", *home.home)["registers"]
    assert "versions 1, 2, 3: erased on" in state["deletions"][0]


def _later(monkeypatch: pytest.MonkeyPatch, days: int = 31) -> None:
    """The commands' clock is that of the day after the delay."""
    for name in ("delete", "verify", "retention", "warrant", "opening", "snapshots", "status"):
        monkeypatch.setattr(f"exclave.cli.{name}.now", lambda: now() + days * 86_400_000_000)


# Too early, not allowed, objected to


def test_too_early(home: AgeingHome) -> None:
    """Before the delay is over nothing goes, not even by a second."""
    before = home.packs()
    for days in (0, 1, 29.99):
        found = home.erase("lux", days=days)
        assert (found.verdict.state, found.erased, found.complete) == (OrderState.WAITING, 0, False)
    assert home.packs() == before


def test_a_time_stamp_that_was_set_back(home: AgeingHome) -> None:
    """The delay counts from the site's own clock: files that a writer dated back shorten nothing."""
    for path in (p for part in ("deletion", "ledger") for p in home.objects(part)):
        os.utime(path, (1, 1))
    for path in (home.site("lux") / home.fingerprint / "warrant").iterdir():
        os.utime(path, (1, 1))
    assert home.erase("lux", days=29).verdict.state is OrderState.WAITING


def test_an_order_that_is_hidden_from_a_site(home: AgeingHome) -> None:
    """Where the order or its warrant does not lie open, its delay has not begun, however long it lies elsewhere."""
    for path in home.objects("deletion"):
        path.unlink()
    assert home.erase("lux", days=3000).verdict.state is OrderState.WAITING
    for path in (home.site("nord") / home.fingerprint / "warrant").iterdir():
        path.unlink()
    assert home.erase("nord", days=3000).verdict.state is OrderState.WAITING


def test_too_few_custodians(home: AgeingHome) -> None:
    """M - 1 signatures publish nothing."""
    home.grown(1)
    order = home.propose("few")
    said = run("delete", "publish", str(order), *home.signed(order, "kaja"), *home.home, "--json")
    assert said.code == 31


@pytest.mark.parametrize("custodian", ["aino", "kaja"])
def test_any_one_custodian_stops_it(home: AgeingHome, custodian: str) -> None:
    """One who did not sign, or one who signed under duress, objects at one site: nothing goes at any."""
    before = home.packs()
    home.object_to(custodian, "--order", _order(home), sites=["nord"])
    for site in home.sites:
        found = home.erase(site)
        assert found.verdict.state is OrderState.STOPPED
        assert custodian in found.verdict.why
    assert home.packs() == before
    assert shown(home)["ok"]


def _order(home: AgeingHome) -> str:
    return str(home.ok("delete", "status", *home.home)["registers"][0]["orders"][0]["digest"])


def test_an_objection_that_no_site_takes(home: AgeingHome, tmp_path: Path) -> None:
    """It is brought to the operator as a file, and counts."""
    note = tmp_path / "note"
    home.object_to("aino", "--order", _order(home), "--out", str(note), sites=["nord"])
    for path in home.objects("objection", "nord"):
        path.unlink()
    assert home.erase("lux", brought=[note.read_bytes()]).verdict.state is OrderState.STOPPED
    assert home.erase("lux", brought=[note.read_bytes()[:-1], b"", b"\0" * 100]).verdict.state is OrderState.DUE


def test_objections_of_others(home: AgeingHome, tmp_path: Path) -> None:
    """Whoever is no custodian stops nothing: not with a key of a custodian's name, and not with junk."""
    home.ok("custodian", "new", "aino", "--out", str(tmp_path))
    stranger = ("delete", "object", home.id_of(), "--key", str(tmp_path / "aino.key"), "--reason", "x", *home.where())
    refused(30, *stranger)
    folder = home.site("lux") / home.fingerprint / home.id_of() / "objection"
    folder.mkdir()
    for number in range(50):
        (folder / f"{number:064x}").write_bytes(b"junk")
    assert home.erase("lux", look=True).verdict.state is OrderState.DUE


def test_objections_that_nobody_can_read_to_the_end(home: AgeingHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood could hide one, so nothing may go."""
    monkeypatch.setattr("exclave.verify.objections.MAX_OBJECTIONS", 10)
    folder = home.site("nord") / home.fingerprint / home.id_of() / "objection"
    folder.mkdir()
    for number in range(11):
        (folder / f"{number:064x}").write_bytes(b"junk")
    assert home.erase("lux").verdict.state is OrderState.STOPPED


def test_a_legal_hold_by_custodians(home: AgeingHome) -> None:
    """It stops this order and every other; nothing new can be proposed or published; the next charter lifts it."""
    home.object_to("luc")
    assert "hold" in home.erase("lux").verdict.why
    refused(30, "delete", "propose", "gazette", str(home.root / "more"), "--reason", "x", *home.home)
    assert home.ok("retention", "gazette", *home.home)["registers"][0]["hold"]
    drafted = home.ok("charter", "propose", str(home.root / "warned"), *home.home)
    assert any("legal hold by luc ends with this charter" in warning for warning in drafted["warnings"])
    home.new_charter("lifted")
    assert home.erase("lux").verdict.state is OrderState.DUE


def test_a_legal_hold_by_charter(home: AgeingHome) -> None:
    """A charter that comes while the order waits stops it, whatever the warrant says, until a charter lifts it."""
    home.extra = 'legal_hold = "Case 7/2027"'
    home.write_config()
    home.new_charter("held")
    found = home.erase("lux")
    assert (found.verdict.state, found.erased) == (OrderState.STOPPED, 0)
    assert "Case 7/2027" in found.verdict.why
    home.extra = ""
    home.write_config()
    home.new_charter("lifted")
    assert home.erase("lux").complete


def test_a_shorter_charter(home: AgeingHome) -> None:
    """Versions under a longer rule are not deleted by a charter that shortens it; nor is an order's delay shortened."""
    home.retention_days, home.delay_s = 400, 5
    home.write_config()
    home.new_charter("longer")
    home.grown(1)
    home.retention_days, home.delay_s = 0, 1
    home.write_config()
    home.new_charter("shorter")
    home.grown(2)
    rows = home.ok("retention", "gazette", *home.home)["registers"][0]["versions"]
    assert [(r["sequence"], r["charter"], r["kept"]) for r in rows] == [
        (1, 1, True), (2, 1, True), (3, 1, True), (4, 1, True), (5, 2, True), (6, 3, False), (7, 3, True)
    ]  # fmt: skip
    found = home.erase("lux", days=32)
    assert found.verdict.state is OrderState.STOPPED, "what was ordered is kept by the longer rule now"


# Enemies


def test_no_site_of_home_deletes() -> None:
    """The contract of sites has no such method, and only what a site's operator runs reaches the other contract."""
    assert not [name for name in dir(Site) if "delete" in name or "erase" in name or "remove" in name]
    allowed = {
        "app.py", "cli/delete.py", "cli/site_leave.py", "operations/erasure.py", "operations/host_erasure.py",
        "serve/host_start.py", "sites/coded_erasing.py", "sites/open_erasing.py", "sites/s3_erasing.py",
    }  # fmt: skip
    using = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if any(word in path.read_text() for word in ("sites.erasing", "_erasing", "open_eraser", "_eraser"))
    }
    assert using == allowed


def test_a_writer_who_says_that_it_is_done(home: AgeingHome) -> None:
    """A coerced home cannot skip the delay: sites do not go by its word, and the checker accuses it."""
    where = facts_of(home)
    view, facts, history = where
    order = deletion.read_deletions(view, facts.sites, history, now=now()).orders[0]
    note = view.warrants[order.warrant.digest]
    granted = deletion.Granted(order.warrant, note, (), {})
    facts.record(DONE, granted, (order.digest.hex(), "erased 5 packs"), again=True, now=now())
    assert home.erase("lux", days=1).verdict.state is OrderState.WAITING
    report = shown(home, code=20)
    assert any(f["grave"] and "against the rules" in f["detail"] for f in report["findings"])
    for path in home.objects("pack"):
        path.unlink()
    report = shown(home, code=20)
    missing = [f for f in report["findings"] if f["site"] == "lux" and f["fault"] == "missing-object"]
    assert len(missing) >= 4, "packs of the versions that were to go are still damage"


def test_a_fact_without_a_warrant(home: AgeingHome) -> None:
    """What the writer alone enters orders nothing: no site goes by it, and a missing pack stays damage."""
    home.grown(1)
    order = home.propose("alone")
    parsed = deletion.read_order_file(order)
    view, facts, _ = facts_of(home)
    for site in facts.sites.values():
        site.put_same(deletion.deletion_key(view.state, parsed.register, parsed.digest), parsed.encode().encode())
    with facts.alone():
        entry = Fact(parsed.register, parsed.epoch, now(), ORDERED, None, (parsed.digest.hex(),))
        act_fact.enter(view, view.epoch_chain(parsed.register).newest, facts.machine, [entry.encode()],
                       sites=facts.sites, witnesses={}, now=now(), outbox=facts.outbox)  # fmt: skip
    found = home.erase_all("lux", look=True)
    assert parsed.digest not in {one.order for one in found}
    assert any("order to delete" in f["what"] for f in shown(home)["findings"])


def test_a_site_alone(home: AgeingHome) -> None:
    """One site's word is not enough: it may be behind, or its host may hide an objection."""
    for name in ("home", "nord"):
        home.site(name).rename(home.site(name).with_name(f"{name}-away"))
    with pytest.raises(NotAuthorised):
        home.erase("lux")


def test_a_host_who_deletes_by_himself(home: AgeingHome) -> None:
    """He is found out, and what he took comes back from the others."""
    home.grown(1)
    newest = set(home.packs()) - {p for p in home.packs() if p in _doomed(home)}
    taken = next(path for path in home.objects("pack") if path.name in newest)
    taken.unlink()
    report = shown(home, code=20)
    assert any(f["site"] == "lux" and taken.name in f["what"] for f in report["findings"])
    home.backup()
    assert taken.exists()
    assert shown(home)["ok"]


def _doomed(home: AgeingHome) -> set[str]:
    view, facts, history = facts_of(home)
    deletions = deletion.read_deletions(view, facts.sites, history, now=now())
    return {name.hex() for name in doomed_packs(view, facts.sites, history, deletions)}


def test_a_living_list_that_nobody_has(home: AgeingHome) -> None:
    """If it cannot be told what living versions need, nothing goes."""
    _, _, history = facts_of(home)
    root = history.latest.leaf.objects.hex()
    for site in home.sites:
        (home.site(site) / home.fingerprint / home.id_of() / "list" / root).unlink()
    before = home.packs()
    with pytest.raises(MissingObject):
        home.erase("lux")
    assert home.packs() == before


# Beside backups


def test_a_backup_leaves_alone_what_is_to_go(home: AgeingHome, tmp_path: Path) -> None:
    """Content of an ordered version that comes back is shipped again, so the erasure breaks no version."""
    doomed = _doomed(home)
    old = tmp_path / "version-2"
    restored(home, old, "--version", "2")
    shutil.copy(old / "acts" / "act-1", home.root / "acts" / "act-1")
    home.backup()
    assert not doomed & _needed(home)
    for site in home.sites:
        assert home.erase(site).complete
        assert not doomed & home.packs(site)
    home.backup()
    assert not doomed & home.packs("nord")
    restored(home, tmp_path / "again")
    assert (tmp_path / "again" / "acts" / "act-1").read_bytes() == (old / "acts" / "act-1").read_bytes()


def _needed(home: AgeingHome) -> set[str]:
    """Packs of the newest version."""
    view, facts, history = facts_of(home)
    found = read_lists(view.state, history.register, [history.latest.leaf.objects], facts.sites)
    return {name.hex() for name in found.packs}


def test_a_writer_who_names_a_pack_since(home: AgeingHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that was entered after the order, by a writer who knew nothing of it, loses nothing."""
    old = tmp_path / "version-3"
    restored(home, old, "--version", "3")
    shutil.copy(old / "acts" / "act-1", home.root / "acts" / "act-1")
    doomed = _doomed(home)
    monkeypatch.setattr(backup_level, "leave_doomed", lambda *parts: 0)
    home.backup()
    assert doomed & _needed(home), "it names a pack that only ordered versions had"
    for site in home.sites:
        assert home.erase(site).complete
    restored(home, tmp_path / "again")
    assert (tmp_path / "again" / "acts" / "act-1").read_bytes() == (old / "acts" / "act-1").read_bytes()


def test_publishing_during_a_backup(home: AgeingHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the backup to end, so no version is entered that was composed without knowing of the order."""
    home.grown(1)
    order = home.propose("second")
    signed = home.signed(order)
    monkeypatch.setattr(act_fact, "WAIT_S", 1.0)
    _, facts, _ = facts_of(home)
    with facts.alone():
        refused(Busy.exit_code, "delete", "publish", str(order), *signed, *home.home)
    assert parse_digest(home.publish(order, signed)["order"])


def test_two_orders_that_share_a_pack(home: AgeingHome) -> None:
    """A pack that only the versions of two due orders name goes with them; one is not kept for the other."""
    home.grown(2)
    home.ordered("second")
    found = home.erase_all("lux")
    assert [one.complete for one in found] == [True, True]
    assert home.packs() == _needed(home)
    assert Label("lux") not in found

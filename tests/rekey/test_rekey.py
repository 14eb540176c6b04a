"""Rekey, as custodians change: who opens what before and after, and that nothing stored is touched."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from support.rekeying import People, lie
from support.small_home import Register, run, tree_of


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> People:
    """A home with custodians aino, kaja and luc (two open), one register, and one version of it."""
    home = People(tmp_path_factory.mktemp("template") / "small")
    home.found()
    home.backup()
    return home


@pytest.fixture
def home(template: People, tmp_path: Path) -> People:
    return template.copy(tmp_path / "small")


def _packs(home: People, site: str = "lux") -> dict[str, int]:
    found = (home.site(site) / home.fingerprint / home.id_of() / "pack").rglob("*")
    return {p.name: p.stat().st_size for p in found if p.is_file()}


def test_a_custodian_is_lost(home: People, tmp_path: Path) -> None:
    """The two that are left rekey at home; versions before and after open with new shares, and the ledger says so."""
    before = _packs(home)
    done = home.rekey("kaja", "luc")["registers"][0]
    assert (done["epoch"], done["threshold"], done["used"]) == (2, 2, ["kaja", "luc"])
    assert (done["overtaken"], done["fact"], done["failed"]) == (0, True, {})
    assert _packs(home) == before, "no stored object was touched"
    (home.root / "acts" / "act-3").write_text("Act 3\n")
    assert home.backup()[0]["epoch"] == 2
    assert [f.kind for f in home.facts()].count("rekey") == 1
    assert home.verify()["findings"] == []
    home.restore_all(tmp_path / "out", "aino", "kaja")
    assert tree_of(tmp_path / "out" / "2" / "acts") == tree_of(home.root / "acts")


def test_the_next_backup_ships_a_root_and_tables(tmp_path: Path) -> None:
    """Of 24 MB that did not change, the first backup after a rekey ships one pack of a few kilobytes; cache or none."""
    acts = tmp_path / "acts"
    acts.mkdir()
    for number in range(60):
        (acts / f"act-{number}").write_bytes(random.Random(number).randbytes(400_000))
    home = People(tmp_path / "small", [Register("gazette", [("acts", "files", {"path": str(acts)})])]).found()
    home.backup()
    before = _packs(home)
    home.rekey(name="first")
    receipt = home.backup()[0]
    fresh = {name: size for name, size in _packs(home).items() if name not in before}
    print(f"first backup after a rekey: {receipt['shipped_bytes']} B in {len(fresh)} packs")
    assert len(fresh) == 1
    assert sum(fresh.values()) <= 16 << 10
    assert receipt["new_chunks"] <= 2
    home.rekey(name="second")
    shutil.rmtree(home.folder / "cache")
    after = _packs(home)
    receipt = home.backup()[0]
    fresh = {name: size for name, size in _packs(home).items() if name not in after}
    assert sum(fresh.values()) <= 16 << 10, "tables of both epochs of this pen are believed"
    assert home.verify()["findings"] == []


def test_a_custodian_is_replaced(home: People, tmp_path: Path) -> None:
    """First the charter, which both quorums sign; then a ceremony, to which the dismissed one brings his old share."""
    home.change(["aino", "kaja", "mart"], people=["aino", "kaja", "mart"])
    done = home.rekey("kaja", "luc", "mart", ceremony="ceremony")["registers"][0]
    assert (done["charter"], done["custodians"], done["used"]) == (2, ["aino", "kaja", "mart"], ["kaja", "luc"])
    assert not done["fact"], "the ceremony's machine cannot write the ledger"
    chain = home.epochs()
    assert chain.newest.maker.name == "ceremony"
    assert chain.newest.writer == chain.epochs[0].writer
    assert home.backup()[0]["epoch"] == 2
    assert "rekey" in [f.kind for f in home.facts()], "home's next backup says it"
    home.restore_all(tmp_path / "out", "aino", "mart")
    assert "custodian" in home.fails(30, "warrant", "sign", str(home.request("restore", name="late")), "--yes",
                                     "--key", str(home.key("luc")), *home.where())["message"]  # fmt: skip


def test_all_custodians_are_replaced(home: People, tmp_path: Path) -> None:
    """Approvals come from the new ones, shares from the old ones. After it old shares open what was there before, from
    boxes that still lie at a site, and nothing made later.
    """
    home.change(["kaja", "luc", "mart", "nele"], people=["mart", "nele", "olav"])
    told = home.rekey("mart", "nele", "luc", ceremony="ceremony", name="short", code=31)
    assert "aino" in told["message"]
    home.rekey("mart", "nele", "luc", "aino", ceremony="ceremony")
    (home.root / "acts" / "act-3").write_text("Secret from here on\n")
    home.backup()
    home.restore_all(tmp_path / "out", "nele", "olav")
    site = home.site("lux")
    assert home.last_resort(site, tmp_path / "new", "mart", "olav").returncode == 0
    refused = home.last_resort(site, tmp_path / "old", "aino", "kaja", "luc")
    assert refused.returncode == 1
    assert tree_of(tmp_path / "old") == {}
    # What dismissed custodians can still do: a copy of the site from before the rekey, or its old boxes, open for them.
    shutil.copytree(site, tmp_path / "kept")
    epochs = tmp_path / "kept" / home.fingerprint / home.id_of() / "epoch"
    for note in epochs.iterdir():
        if b"\nepoch 2\n" in note.read_bytes():
            note.unlink()
    charters = tmp_path / "kept" / home.fingerprint / "charter"
    for note in charters.iterdir():
        if b"\nnumber 2\n" in note.read_bytes():
            note.unlink()
    done = home.last_resort(tmp_path / "kept", tmp_path / "earlier", "aino", "kaja")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "earlier" / "acts" / "act-3").exists()
    assert (tmp_path / "earlier" / "acts" / "act-1").exists()


def test_a_key_is_replaced_and_the_name_stays(home: People, tmp_path: Path) -> None:
    """Kaja lost her key file and got another: she approves with the new one, and two others open."""
    old = home.key("kaja").read_bytes()
    home.key("kaja").unlink()
    home.change(["aino", "luc", "kaja"], people=["aino", "kaja", "luc"])
    assert home.rekey("kaja", "luc", name="one-share", code=31)["error"] == "quorum-missing"
    done = home.rekey("kaja", "luc", "aino", name="both")["registers"][0]
    assert done["used"] == ["aino", "luc"]
    home.backup()
    home.restore_all(tmp_path / "out", "kaja", "luc")
    home.key("kaja").write_bytes(old)
    home.fails(30, "warrant", "sign", str(home.request("restore", name="old-key")), "--yes", "--key",
               str(home.key("kaja")), *home.where())  # fmt: skip


@pytest.mark.parametrize("threshold", [1, 3])
def test_the_threshold_changes(home: People, tmp_path: Path, threshold: int) -> None:
    """Raised or lowered by a charter, it holds for the new shares, over all versions."""
    home.change(["aino", "kaja", "luc"], threshold=threshold)
    names = ["aino", "kaja", "luc"]
    done = home.rekey(*names)["registers"][0]
    assert done["threshold"] == threshold
    home.backup()
    home.restore_all(tmp_path / "out", *names[:threshold])
    if threshold > 1:
        granted = home.granted("restore", *names[: threshold - 1], name="few")
        home.fails(31, "restore", *home.where(), *granted, "--target", str(tmp_path / "few"))


def test_a_wrong_share_is_named(home: People) -> None:
    """Who sends a wrong share is left out by name; without enough others nothing is made."""
    options = home.to_rekey("aino", "kaja", "luc", name="lied")
    lie(home.root / "warrants" / "lied-kaja.answer", home.root / "warrants" / "lied.card", home.key("kaja"))
    done = home.ok("rekey", *options)["registers"][0]
    assert (done["bad"], done["used"]) == (["kaja"], ["aino", "luc"])


def test_one_custodian_too_few(home: People) -> None:
    """One answer of two opens nothing and makes nothing; a liar's does not count either."""
    assert home.rekey("kaja", code=31)["facts"]["needed"] == 1
    options = home.to_rekey("kaja", "luc", name="liar")
    lie(home.root / "warrants" / "liar-kaja.answer", home.root / "warrants" / "liar.card", home.key("kaja"))
    told = home.fails(31, "rekey", *options)
    assert told["facts"]["bad"] == "kaja"
    assert home.epochs().newest.number == 1


def test_a_warrant_is_used_once(home: People) -> None:
    """Run again, the command says what it did; once another epoch followed, that warrant does nothing any more."""
    options = home.to_rekey("kaja", "luc", name="first")
    first = home.ok("rekey", *options)["registers"][0]
    note = home.epochs().newest.digest
    again = home.ok("rekey", *options)["registers"][0]
    elsewhere = home.ok("rekey", *options, "--dir", str(home.root / "other"))["registers"][0]
    assert first["epoch"] == again["epoch"] == elsewhere["epoch"] == 2
    assert home.epochs().newest.digest == note
    home.rekey("kaja", "aino", name="second")
    assert home.fails(34, "rekey", *options)["error"] == "fenced"
    assert home.epochs().newest.number == 3


def test_other_acts_do_not_rekey(home: People) -> None:
    """A warrant to restore or to fail over rekeys nothing, and one to rekey restores nothing."""
    for act in ("restore", "failover"):
        granted = home.granted(act, name=f"for-{act}")
        assert home.fails(33, "rekey", *granted, *home.where())["error"] == "warrant-foreign"
    granted = home.granted("rekey", name="for-rekey")
    home.fails(33, "restore", *home.where(), *granted, "--target", str(home.root / "out"))


def test_several_registers_in_one_go(tmp_path: Path) -> None:
    """One warrant, one command: each register gets keys of its own, and each next version ships next to nothing."""
    registers = []
    for name in ("court", "gazette", "land"):
        folder = tmp_path / "acts" / name
        folder.mkdir(parents=True)
        (folder / "act").write_bytes(random.Random(name).randbytes(300_000))
        registers.append(Register(name, [("acts", "files", {"path": str(folder)})]))
    home = People(tmp_path / "small", registers).found()
    home.backup()
    done = home.rekey(ceremony="ceremony")["registers"]
    assert sorted((r["name"], r["epoch"]) for r in done) == [("court", 2), ("gazette", 2), ("land", 2)]
    openings = {home.epochs(name).newest.note.opening for name in ("court", "gazette", "land")}
    assert len(openings) == 3
    assert all(r["shipped_bytes"] <= 16 << 10 for r in home.backup())
    assert home.verify()["findings"] == []


def test_a_site_is_away(home: People) -> None:
    """Sites that are there take the new epoch; the next backup brings it to the one that was away."""
    site, hidden = home.site("nord"), home.root / "hidden"
    site.rename(hidden)
    done = home.rekey()["registers"][0]
    assert sorted(done["failed"]) == ["nord"]
    hidden.rename(site)
    assert home.backup()[0]["failed"] == {}
    assert home.verify()["findings"] == []
    assert home.versions("", "nord")[-1]["epoch"] == 2


def test_an_embassy_rekeys(tmp_path: Path) -> None:
    """Who took a register over can rekey it like home; deduplication goes on there."""
    home = People(tmp_path / "small").found()
    home.backup()
    home.ok(
        "failover", "run", *home.granted("failover", name="move"), "--dir", str(tmp_path / "embassy"), *home.where()
    )
    embassy = tmp_path / "embassy"
    home.ok("backup", "--home", str(embassy))
    key = home.root / "warrants" / "exile.key"
    shutil.copy(embassy / "keys" / "writer.key", key)
    granted = home.granted("rekey", machine="exile", name="exile-rekey")
    done = home.ok("rekey", *granted, "--home", str(embassy))["registers"][0]
    assert (done["epoch"], done["fact"]) == (3, True)
    receipt = home.ok("backup", "--home", str(embassy))["receipts"][0]
    assert (receipt["epoch"], receipt["shipped_bytes"] <= 16 << 10) == (3, True)
    assert home.verify()["findings"] == []


def test_both_quorums_are_told(home: People, tmp_path: Path) -> None:
    """Who signs a change of custodians is told how far the former and the new quorum are, and who may still sign."""
    home.people = {"aino": "FI", "kaja": "EE", "mart": "EE"}
    home.ok("custodian", "new", "mart", "--out", str(home.folder / "cards"))
    home.write_config()
    draft = str(tmp_path / "draft")
    home.ok("charter", "propose", draft, *home.home)
    for name in ("kaja", "mart"):
        said = run("charter", "sign", draft, "--yes", "--key", str(home.key(name)), *home.where())
        assert said.code == 0, said.err
    out = " ".join(said.out.split())
    assert "former charter: 1 of at least 2 signatures is there (kaja); aino, luc may still sign." in out
    assert "this charter: 2 of at least 2 signatures are there (kaja, mart)." in out
    home.fails(31, "charter", "publish", draft, *home.home)
    done = home.ok("charter", "sign", draft, "--yes", "--key", str(home.key("luc")), *home.where())
    assert done["signatures"] == 2
    assert [(q["signed"], q["may_sign"]) for q in done["quorums"]] == [
        (["kaja", "luc"], ["aino"]),
        (["kaja", "mart"], ["aino"]),
    ]
    home.ok("charter", "publish", draft, *home.home)

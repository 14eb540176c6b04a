"""What is told to whoever proposes, signs, stops and carries out an order: nothing that matters happens in silence."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from support.deleting import AgeingHome
from support.refusal import refused
from support.small_home import run


class Watched(AgeingHome):
    """Orders lie open for one second, and one act is declared never to change."""

    delay_s = 1

    def config(self) -> str:
        return super().config().replace('name = "acts"', 'name = "acts"\nimmutable = ["law-*"]')


@pytest.fixture
def home(tmp_path: Path) -> Watched:
    made = Watched(tmp_path / "state")
    made.found()
    (made.root / "acts" / "law-1").write_text("Act 1: everybody may read this.\n")
    made.grown(2)
    return made


def spoil(home: Watched) -> None:
    """What somebody does who alters an old act, and the backup after it."""
    (home.root / "acts" / "law-1").write_text("Act 1: nobody may read this.\n")
    home.backup()


def test_the_last_clean_version_is_not_ordered_away_in_silence(home: Watched) -> None:
    """The newest version is suspicious, and no rule keeps an older one: home refuses, or the order itself says so."""
    spoil(home)
    assert home.ok("snapshots", "gazette", *home.home)["registers"][0]["last_clean"] == 2
    order = home.root / "o.order"
    propose = ("delete", "propose", "gazette", str(order), "--reason", "Too old", *home.home)
    told = refused(30, *propose, says="version 2 is the last that is known to be clean")
    assert "exclave snapshots" in told["hint"]
    assert not order.exists()
    made = home.ok(*propose, "--last-clean-too")
    assert [v["sequence"] for v in made["order"]["versions"]] == [1, 2]
    shown = run("warrant", "show", home.signed(order)[1], "--object", str(order)).out
    assert "Reason: Too old (version 2, the last known to be clean, goes too: 3 is suspicious)" in shown
    away = run("delete", "propose", home.id_of(), str(order), "--reason", "Too old", *home.where())
    assert "Signals were not looked at" in away.err
    published = run("delete", "publish", str(order), *home.signed(order), *home.home)
    assert "WARNING: version 2, the last known to be clean, goes too: 3 is suspicious." in published.out


def test_findings_that_were_accepted_keep_nothing(home: Watched) -> None:
    """Once somebody said that the change was meant to be, the order is proposed as ever."""
    spoil(home)
    home.ok("snapshots", "gazette", "--accept", "3", "--because", "The law was changed", *home.home)
    home.propose("old")
    assert "clean" not in (home.root / "orders" / "old.order").read_text()


def test_an_earlier_objection_is_told_with_the_next_order(home: Watched) -> None:
    """A second order over the same versions is another one, so its maker, its signers and its writer are told."""
    first = home.ordered("first")
    home.object_to("aino", "--order", first.hex(), sites=["nord"])
    order = home.root / "orders" / "second.order"
    proposed = run("delete", "propose", "gazette", str(order), "--reason", "Once more", *home.home)
    words = f"to the order {first.hex()}, which names version 1 too: Case 7/2027"
    assert words in proposed.out
    signed = home.signed(order, "kaja")
    sign = ("warrant", "sign", signed[1], "--object", str(order), "--key", str(home.key("luc")), "--yes")
    said = run(*sign, *home.where())
    assert "OBJECTION: aino objected on" in said.out
    assert words in said.out
    assert "Not asked whether anybody objected before: home, nord;" in run(*sign, *home.where("lux")).out
    told = home.ok(*sign, *home.where())
    (earlier,) = told["objected"]
    assert (earlier["custodian"], earlier["reason"], earlier["versions"]) == ("aino", "Case 7/2027", [1])
    published = run("delete", "publish", str(order), *signed, "--answer", told["path"], *home.home)
    assert published.code == 0
    assert words in published.out
    home.object_to("aino", sites=["nord"])
    assert "objected on" in run(*sign, *home.where()).out
    assert "to every order: Case 7/2027" in run(*sign, *home.where()).out


def test_nobody_signs_a_deletion_that_he_has_not_at_hand(home: Watched) -> None:
    """Without the order file there is no answer, and an earlier answer is not replaced without a word."""
    order = home.propose("old")
    warrant = home.signed(order, "kaja")[1]
    sign = ("warrant", "sign", warrant, "--yes", "--key", str(home.key("luc")), *home.where())
    assert "--object" in refused(2, *sign, says="order file is not at hand")["hint"]
    answer = Path(warrant).with_name("old-luc.answer")
    assert not answer.exists()
    assert run(*sign, "--object", str(order)).err == ""
    again = run(*sign, "--object", str(order))
    assert f"{answer} held an earlier answer, which this one replaced." in again.err
    other = home.root / "other.order"
    other.write_text(order.read_text().replace("Archives", "Archive"))
    refused(33, *sign, "--object", str(other), says="another order file")


def test_who_was_not_asked(home: Watched) -> None:
    """An objection at one site is not seen by an operator who reads others: both are told which sites there are."""
    digest = home.ordered()
    at, say = f"lux={home.urls['lux']}", ("--reason", "Case 7/2027", "--key", str(home.key("aino")))
    time.sleep(1.2)
    seen = run("delete", "run", at, "--look", *home.where("home"))
    assert "no objection at home, lux; nord was not asked" in seen.out
    said = run("delete", "object", home.id_of()[:8], "--order", digest.hex(), *say, *home.where("nord"))
    assert said.code == 0
    assert "Not yet at: home, lux – name them with --site." in said.out
    assert "It stops this order alone." in said.out
    assert run("delete", "run", at, "--look", *home.where("home")).code == 1, "so it can be missed, and this is said"
    asked = run("delete", "run", at, *home.where("home", "nord"))
    assert (asked.code, "objected to by aino" in asked.out) == (0, True)
    everywhere = run("delete", "object", home.id_of()[:8], *say, *home.where())
    assert "Not yet at" not in everywhere.out
    assert "not asked whether anybody objects: nord" in run("delete", "status", *home.where("home", "lux")).out


def test_names_of_registers_away_from_home(home: Watched) -> None:
    """The beginning of an id is enough; of what is unknown the message says where the id stands."""
    wrong = ("delete", "object", "gazette", "--reason", "r", "--key", str(home.key("aino")), *home.where())
    assert "exclave verify" in refused(2, *wrong, says="no register 'gazette'")["hint"]
    refused(2, "delete", "status", home.id_of()[:7], *home.where(), says="no register")
    assert run("delete", "status", home.id_of()[:12] + "…", *home.where()).code == 0
    order = home.propose("old")
    asked = home.ok(
        "warrant", "request", str(home.root / "w.warrant"), "--act", "delete", "--place", "lux", "--reason", "r",
        "--key", str(home.folder / "keys" / "writer.key"), "--object", str(order), "--register", home.id_of()[:8],
        *home.where(),
    )  # fmt: skip
    assert home.id_of() in asked["text"]["registers"]


def run_at(home: AgeingHome, site: str, code: int, *options: str) -> Any:
    """What the operator of ``site`` is told of its orders, in their order."""
    said = run("delete", "run", f"{site}={home.urls[site]}", *home.where(), *options, "--json")
    assert said.code == code, (said.code, said.out, said.err)
    return json.loads(said.out)["orders"]


def test_what_is_done_or_stopped_is_not_open(home: Watched) -> None:
    """The exit code is 1 only while there is something to come back for."""
    first = home.ordered("first")
    home.object_to("aino", "--order", first.hex())
    time.sleep(1.2)
    assert [one["state"] for one in run_at(home, "lux", 0)] == ["stopped"]
    second = home.ordered("second")
    assert [(one["state"], one["open"]) for one in run_at(home, "lux", 1)] == [("stopped", False), ("waiting", True)]
    time.sleep(1.2)
    assert [one["state"] for one in run_at(home, "lux", 1, "--look")] == ["stopped", "due"]
    assert [one["erased"] > 0 for one in run_at(home, "lux", 0)] == [False, True]
    done = run_at(home, "lux", 0)
    assert [(one["state"], one["order"]) for one in done] == [("stopped", first.hex()), ("done", second.hex())]
    assert done[1]["why"] == "nothing of it is at lux any more"


def test_a_site_that_hides_objections_leaves_it_open(home: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stopped only because nobody can tell whether somebody objects must be looked at again."""
    home.ordered()
    time.sleep(1.2)
    monkeypatch.setattr("exclave.verify.objections.MAX_OBJECTIONS", 1)
    folder = home.site("nord") / home.fingerprint / home.id_of() / "objection"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number:064x}").write_bytes(os.urandom(4))
    assert [(one["state"], one["open"]) for one in run_at(home, "lux", 1)] == [("stopped", True)]


def test_what_is_left_is_told(home: Watched) -> None:
    """The record says who still has something, and the checker what to do about it."""
    home.ordered()
    time.sleep(1.2)
    assert "No order was carried out at any site yet." in run("delete", "record", "gazette", *home.home).out
    run_at(home, "lux", 0)
    record = run("delete", "record", "gazette", *home.home).out.splitlines()
    assert record[0].endswith(": entered.")
    assert "  lux has nothing of it any more" in record
    for site in ("home", "nord"):
        (line,) = [line for line in record if line.startswith(f"  {site} still has ")]
        assert line.endswith("`exclave delete run` was not run there yet")
    report = run("verify", *home.where(), "--json").json
    findings = [f for f in report["findings"] if f["fault"] == "not-erased"]
    assert len(findings) == 2
    assert all("exclave delete run" in f["detail"] for f in findings)


def test_a_list_of_versions_shows_what_is_gone(home: Watched) -> None:
    """Of an erased version no site has more than its entry in the ledger, so the list names none."""
    home.ordered()
    time.sleep(1.2)
    for site in home.sites:
        run_at(home, site, 0)
    home.ok("delete", "record", "gazette", *home.home)
    rows = run("snapshots", "gazette", *home.home).out.splitlines()
    (first,) = [row for row in rows if row.startswith("1 ")]
    (second,) = [row for row in rows if row.startswith("2 ")]
    assert ("erased" in first, "lux" in first, "all 3" in first) == (True, False, False)
    assert "erased" not in second

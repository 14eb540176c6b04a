"""A rekey that meets a backup, a failover or another rekey: one of the two wins, and nothing is lost."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from exclave.cli import main as cli
from exclave.formats.note import parse_note
from exclave.operations import backup as backup_verb
from exclave.operations import rekey as rekey_verb
from support.meanwhile import meanwhile
from support.rekeying import People
from support.small_home import run


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> People:
    """A home with one register and one version."""
    home = People(tmp_path_factory.mktemp("template") / "small")
    home.found()
    home.backup()
    return home


@pytest.fixture
def home(template: People, tmp_path: Path) -> People:
    return template.copy(tmp_path / "small")


@pytest.fixture
def fresh(tmp_path: Path) -> People:
    """The same, whose annex tells its own sites' addresses, which an embassy goes by."""
    made = People(tmp_path / "small")
    made.found()
    made.backup()
    return made


def _whole(home: People, target: Path, versions: int) -> None:
    """Everything that was ever reported as stored is there and restores."""
    assert home.verify()["findings"] == []
    assert [v["sequence"] for v in home.versions()] == list(range(1, versions + 1))
    home.restore_all(target, name="whole")


def test_a_rekey_before_the_backups_ledger(home: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backup is refused before it enters anything; the next one enters the same under the new epoch."""
    options = home.to_rekey(ceremony="ceremony")
    (home.root / "acts" / "act-3").write_bytes(bytes(300_000))
    meanwhile(monkeypatch, backup_verb, "_hand_round", lambda: home.ok("rekey", *options), after=True)
    told = home.fails(34, "backup", *home.home)
    assert "again" in told["hint"]
    receipt = home.backup()[0]
    assert (receipt["epoch"], receipt["sequence"]) == (2, 2)
    _whole(home, tmp_path / "out", 2)


def test_a_rekey_in_the_backups_last_moment(home: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the backup's last look and its entry: the entry is cut off, the backup knows, and nothing is shipped
    again.
    """
    options = home.to_rekey(ceremony="ceremony")
    (home.root / "acts" / "act-3").write_bytes(bytes(300_000))
    meanwhile(monkeypatch, backup_verb, "enter", lambda: home.ok("rekey", *options), after=False)
    home.fails(34, "backup", *home.home)
    assert len(home.versions()) == 1
    receipt = home.backup()[0]
    assert (receipt["epoch"], receipt["sequence"], receipt["new_chunks"] <= 2) == (2, 2, True)
    # An epoch that cuts off what a site showed is never passed over in silence, whoever made it.
    found = home.verify(code=20)["findings"]
    assert {f["fault"] for f in found} == {"fenced"}
    home.restore_all(tmp_path / "out", name="whole")


def test_a_backup_in_the_rekeys_last_moment(home: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup between the cut and the note: its version does not count, the rekey says so, the next one does."""
    options = home.to_rekey(ceremony="ceremony")
    (home.root / "acts" / "act-3").write_bytes(bytes(300_000))
    meanwhile(monkeypatch, rekey_verb, "put_epoch", lambda: home.backup() and None, after=False)
    done = home.ok("rekey", *options)["registers"][0]
    assert done["overtaken"] == 1
    receipt = home.backup()[0]
    assert (receipt["epoch"], receipt["sequence"], receipt["new_chunks"] <= 2) == (2, 2, True)
    home.restore_all(tmp_path / "out", name="whole")


def test_a_kept_epoch_is_made_anew_if_the_writer_went_on(
    home: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ceremony that stopped before it published goes on a day later: versions made meanwhile are not cut off."""
    options = home.to_rekey(ceremony="ceremony")

    def die() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        meanwhile(patch, rekey_verb, "put_epoch", die, after=False)
        assert run("rekey", *options).code == 130
    home.backup()
    hidden = home.root / "hidden"
    home.site("nord").rename(hidden)
    assert "nord" in home.fails(10, "rekey", *options)["message"], "nord might have the first note"
    hidden.rename(home.site("nord"))
    assert home.ok("rekey", *options)["registers"][0]["overtaken"] == 0
    home.backup()
    _whole(home, tmp_path / "out", 3)


def test_at_home_a_rekey_waits_for_the_backup(home: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the writer's own machine the two never meet: the rekey waits, and begins after the version."""
    options = home.to_rekey()
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.append(_rekey_by_verb(home, options)))
    meanwhile(monkeypatch, backup_verb, "_hand_round", thread.start, after=False)
    home.backup()
    thread.join()
    assert said == [2]
    assert home.backup()[0]["sequence"] == 3
    assert home.verify()["findings"] == []


def _rekey_by_verb(home: People, options: list[str]) -> int:
    """The command in another thread, without its output, which only one thread can redirect."""
    with contextlib.suppress(SystemExit):
        assert cli.run(["rekey", *options, "--json"]) == 0
    return home.epochs().newest.number


def test_a_failover_came_first(fresh: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The embassy takes the pen while a rekey is being made: nothing of it is published, and the pen stays there."""
    home = fresh
    options, failover = home.to_rekey(ceremony="ceremony"), home.granted("failover", name="move")
    where = ["failover", "run", *failover, "--dir", str(tmp_path / "embassy"), *home.where()]
    meanwhile(monkeypatch, rekey_verb, "make_epoch", lambda: home.ok(*where), after=True)
    assert home.fails(34, "rekey", *options)["facts"]["epoch"] == 2
    chain = home.epochs()
    assert (chain.newest.number, chain.newest.writer.name) == (2, "embassy")
    home.fails(34, "backup", *home.home)
    assert home.ok("backup", "--home", str(tmp_path / "embassy"))["receipts"][0]["sequence"] == 2
    assert home.verify()["findings"] == []


def test_in_one_moment_people_decide(fresh: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rekey and failover publish in the same moment: a fork that stops both, until a charter names one of the two."""
    home = fresh
    options, failover = home.to_rekey(ceremony="ceremony"), home.granted("failover", name="move")
    where = ["failover", "run", *failover, "--dir", str(tmp_path / "embassy"), *home.where()]
    meanwhile(monkeypatch, rekey_verb, "put_epoch", lambda: home.ok(*where), after=False)
    assert "granted twice" in home.fails(22, "rekey", *options)["message"]
    assert home.fails(22, "backup", *home.home)["error"] == "missing-object"
    home.heal(_notes(home, "lux")["ceremony"])
    assert home.backup()[0]["sequence"] == 2
    home.restore_all(tmp_path / "out", name="whole")
    home.fails(34, "backup", "--home", str(tmp_path / "embassy"))


def test_two_rekeys_and_a_charter_that_picks_one(home: People, tmp_path: Path) -> None:
    """Home wrote under one of two rekeys, and the custodians pick the other: what was sealed under the first opens for
    nobody, so nothing of it is built on.
    """
    first, second = home.to_rekey(name="one"), home.to_rekey(ceremony="ceremony", name="two")
    hidden = home.root / "hidden"
    home.site("nord").rename(hidden)
    home.ok("rekey", *first)
    (home.root / "acts" / "act-3").write_bytes(b"only sealed under the first" * 9000)
    home.backup()
    lost = [home.root / f"lost-{name}" for name in ("home", "lux")]
    for name, path in zip(("home", "lux"), lost, strict=True):
        home.site(name).rename(path)
    hidden.rename(home.site("nord"))
    home.ok("rekey", *second)
    for name, path in zip(("home", "lux"), lost, strict=True):
        path.rename(home.site(name))
    assert home.fails(22, "backup", *home.home)["error"] == "missing-object"
    home.heal(_notes(home, "nord")["ceremony"])
    receipt = home.backup()[0]
    assert (receipt["epoch"], receipt["sequence"]) == (2, 2)
    home.restore_all(tmp_path / "out", name="whole")
    assert (tmp_path / "out" / "2" / "acts" / "act-3").read_bytes() == b"only sealed under the first" * 9000


def _notes(home: People, site: str) -> dict[str, str]:
    """Digests of the notes of epoch 2 that ``site`` has, by who made them."""
    folder = home.site(site) / home.fingerprint / home.id_of() / "epoch"
    found = [parse_note(path.read_bytes()) for path in folder.iterdir()]
    return {note.signatures[0].name: note.digest.hex() for note in found if "\nepoch 2\n" in note.text}

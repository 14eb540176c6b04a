"""What may be wrong with warrants, answers, machines and targets when something is to be opened."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from exclave.app import open_named_sites
from exclave.formats.warrant import Act
from exclave.ids import Instant, Label, now, parse_fingerprint
from exclave.keys.file import load
from exclave.operations.custody import request_warrant, sign_warrant
from exclave.verify.state import read_state
from support.refusal import refused
from support.small_home import SmallHome, run, tree_of

HOUR = 3_600_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SmallHome:
    """A home with one version, and a warrant of the machine ``embassy`` to restore it."""
    made = SmallHome(tmp_path_factory.mktemp("small")).found()
    made.backup()
    made.request("restore")
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def _restore(
    home: SmallHome, target: Path, warrant: Path, answers: Iterable[str], machine: str = "embassy"
) -> list[str]:
    key = str(home.machine(machine))
    return ["restore", *home.where(), "--warrant", str(warrant), *answers, "--key", key, "--target", str(target)]


def _failover(home: SmallHome, target: Path, warrant: Path, answers: Iterable[str]) -> list[str]:
    key = str(home.machine())
    return ["failover", "run", *home.where(), "--warrant", str(warrant), *answers, "--key", key, "--dir", str(target)]


def _old_warrant(home: SmallHome, act: Act, at: Instant, valid_s: int, name: str) -> tuple[Path, list[str]]:
    """A warrant requested and signed when it was ``at``; its file and its answers."""
    sites = open_named_sites([f"{n}={home.urls[n]}" for n in home.sites])
    view = read_state(sites, parse_fingerprint(home.fingerprint))
    path = home.root / "warrants" / f"{name}.warrant"
    request_warrant(
        view, load(str(home.machine())), path, act=act, registers=[], place=Label("lux"), reason="Long ago", now=at,
        valid_s=valid_s,
    )  # fmt: skip
    answers = []
    for custodian in ("kaja", "luc"):
        out = path.with_name(f"{name}-{custodian}.answer")
        sign_warrant(path, view, sites, load(str(home.key(custodian))), out, now=at)
        answers += ["--answer", str(out)]
    return path, answers


def test_expired(home: SmallHome, target: Path) -> None:
    """A warrant that has expired, or does not hold yet, opens nothing; an expired one is not signed any more."""
    for number, (at, valid_s) in enumerate(((now() - 2 * HOUR, 3600), (now() + 2 * HOUR, 3600))):
        for act in (Act.RESTORE, Act.FAILOVER):
            warrant, answers = _old_warrant(home, act, Instant(at), valid_s, f"old-{act}-{number}")
            command = _restore if act is Act.RESTORE else _failover
            told = refused(32, *command(home, target, warrant, answers))
            assert "new warrant" in told["hint"]
            if at < now():
                refused(32, "warrant", "sign", str(warrant), "--yes", "--key", str(home.key("aino")), *home.where())
    assert not target.exists()
    assert home.verify()["ok"]


def test_too_few_answers(home: SmallHome, target: Path) -> None:
    """Fewer answers than the threshold, or one of them twice, open nothing; who is missing is told."""
    warrant = home.request("restore", name="few")
    one = home.answer(warrant, "kaja")
    for answers in ([], one, [*one, *one], [*one, *one, *one]):
        told = refused(31, *_restore(home, target, warrant, answers))
        assert "2" in told["message"]
    other = home.answer(warrant, "luc")
    assert not target.exists()
    assert home.ok(*_restore(home, target, warrant, [*one, *one, *other]))["bad_shares"] == []


def test_answers_to_another_warrant(home: SmallHome, target: Path) -> None:
    """An answer to another request of the same machine does not count, and the message says why."""
    warrant = home.request("restore", name="first")
    elsewhere = home.answer(home.request("restore", name="second"), "luc")
    told = refused(31, *_restore(home, target, warrant, [*home.answer(warrant, "kaja"), *elsewhere]))
    assert "second-luc.answer" in told["message"]
    assert not target.exists()


@pytest.mark.parametrize("spoil", ["cut", "flipped", "empty", "text", "huge", "missing"])
def test_corrupted_answer(home: SmallHome, target: Path, spoil: str) -> None:
    """A damaged answer is left out and named; with enough other answers the restore goes on."""
    warrant = home.request("restore", name=f"spoilt-{spoil}")
    good, bad = home.answer(warrant, "kaja"), home.answer(warrant, "luc")
    path = Path(bad[1])
    data = path.read_bytes()
    if spoil == "missing":
        path.unlink()
    else:
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        path.write_bytes(
            {"cut": data[:-100], "flipped": bytes(flipped), "empty": b"", "text": b"yes, go on\n",
             "huge": data + bytes(3 << 20)}[spoil]
        )  # fmt: skip
    told = refused(31, *_restore(home, target, warrant, [*good, *bad]))
    assert path.name in told["message"]
    assert not target.exists()
    said = run(*_restore(home, target, warrant, [*good, *bad, *home.answer(warrant, "aino")]))
    assert said.code == 0
    assert path.name in said.err


def test_another_state(home: SmallHome, target: Path, tmp_path: Path) -> None:
    """A warrant of another state, with its own custodians' answers, opens nothing here."""
    other = SmallHome(tmp_path / "other").found()
    warrant = other.request("restore")
    answers = other.answer(warrant, "kaja", "luc")
    refused(33, *_restore(home, target, warrant, answers), says="another state")
    refused(33, "warrant", "sign", str(warrant), "--yes", "--key", str(home.key("kaja")), *home.where())
    assert not target.exists()


def test_another_machine(home: SmallHome, target: Path) -> None:
    """A thief with the warrant and all answers cannot use them on a machine of his own."""
    warrant = home.request("restore", name="stolen")
    answers = home.answer(warrant, "kaja", "luc", "aino")
    home.request("restore", machine="thief")
    refused(33, *_restore(home, target, warrant, answers, machine="thief"))
    assert not target.exists()


def test_another_act(home: SmallHome, target: Path) -> None:
    """To restore does not fail over; to rekey, drill or fail back does not restore; to delete names a file."""
    warrant = home.request("restore", name="only-restore")
    refused(33, *_failover(home, target, warrant, home.answer(warrant, "kaja", "luc")))
    for act in ("rekey", "failback", "drill"):
        warrant = home.request(act)
        refused(33, *_restore(home, target, warrant, home.answer(warrant, "kaja", "luc")))
    asked = ("warrant", "request", str(home.root / "warrants" / "blind.warrant"), "--act", "delete", "--place", "lux")
    refused(2, *asked, "--reason", "All", "--key", str(home.machine()), *home.where(), says="order file")
    assert not target.exists()
    assert [v["epoch"] for v in home.versions()] == [1]


def test_strangers(home: SmallHome, target: Path, tmp_path: Path) -> None:
    """Only the charter's custodians answer, each with his own key."""
    warrant = home.request("restore", name="strange")
    home.ok("custodian", "new", "kaja", "--out", str(tmp_path))
    home.ok("custodian", "new", "eve", "--out", str(tmp_path))
    for name in ("kaja", "eve"):
        sign = ("warrant", "sign", str(warrant), "--yes", "--key", str(tmp_path / f"{name}.key"), *home.where())
        refused(30, *sign, says=name)
    refused(36, *_restore_with_open_key(home, target, warrant))


def _restore_with_open_key(home: SmallHome, target: Path, warrant: Path) -> list[str]:
    shown = home.root / "warrants" / "shown.key"
    shown.write_bytes(home.machine().read_bytes())
    shown.chmod(0o640)
    command = _restore(home, target, warrant, [])
    command[command.index("--key") + 1] = str(shown)
    return command


def test_request_is_wrong(home: SmallHome, tmp_path: Path) -> None:
    """A request for an unknown place, register or act is refused and leaves no file."""
    rest = ["--reason", "r", "--key", str(tmp_path / "m.key"), *home.where()]
    path = str(tmp_path / "w.warrant")
    refused(2, "warrant", "request", path, "--act", "restore", "--place", "mars", *rest, says="it has: home, lux")
    refused(2, "warrant", "request", path, "--act", "restore", "--place", "lux", "--register", "a" * 32, *rest)
    refused(2, "warrant", "request", path, "--act", "restore", "--place", "lux", "--register", "gazette", *rest)
    refused(2, "warrant", "request", path, "--act", "steal", "--place", "lux", *rest, says="steal")
    refused(2, "warrant", "request", path, "--act", "restore", "--place", "lux", "--hours", "0", *rest)
    assert not Path(path).exists()


def test_request_is_damaged(home: SmallHome, tmp_path: Path) -> None:
    """A custodian does not sign a request that was changed, or whose machine's card was swapped."""
    warrant = home.request("restore", name="changed")
    sign = ("warrant", "sign", str(warrant), "--yes", "--key", str(home.key("kaja")), *home.where())
    good, card = warrant.read_text(), warrant.with_suffix(".card")
    warrant.write_text(good.replace("place lux", "place home"))
    refused(21, *sign, says="does not verify")
    warrant.write_text(good[:-40])
    refused(4, *sign)
    warrant.write_text(good)
    own = card.read_bytes()
    card.write_bytes((home.folder / "cards" / "luc.card").read_bytes())
    refused(33, *sign)
    card.unlink()
    refused(2, *sign, says="changed.card")
    card.write_bytes(own)
    assert not list(warrant.parent.glob("changed-*.answer"))
    refused(4, "warrant", "show", str(home.key("kaja")))
    refused(2, "warrant", "show", str(tmp_path / "none"))


def test_target_not_empty(home: SmallHome, tmp_path: Path) -> None:
    """Nothing is restored or started over what lies in the target folder."""
    (tmp_path / "target" / "acts").mkdir(parents=True)
    (tmp_path / "target" / "acts" / "mine").write_text("mine")
    warrant = home.request("restore", name="full")
    command = _restore(home, tmp_path / "target", warrant, home.answer(warrant, "kaja", "luc"))
    refused(5, *command)
    refused(5, *command, "--dataset", "acts")
    warrant = home.request("failover", name="full-failover")
    refused(5, *_failover(home, tmp_path / "target", warrant, home.answer(warrant, "kaja", "luc")))
    assert tree_of(tmp_path / "target") == {"acts/mine": b"mine"}
    assert [v["epoch"] for v in home.versions()] == [1]


def test_what_is_restored_is_named_wrongly(home: SmallHome, target: Path) -> None:
    """An unknown version, dataset or register is named, together with those that there are; nothing is written."""
    warrant = home.request("restore", name="names")
    command = _restore(home, target, warrant, home.answer(warrant, "kaja", "luc"))
    refused(2, *command, "--version", "7", says="the last ones are: 1")
    refused(22, *command, "--dataset", "deeds", says="it has: acts")
    refused(2, *command, "--register", "land", says="the warrant has: gazette")
    assert not target.exists()


def test_harmed_version(home: SmallHome, tmp_path: Path) -> None:
    """If no site has a good copy of a pack, the restore says so; a site with a good one makes up for the others."""
    warrant = home.request("restore", name="harmed")
    answers = home.answer(warrant, "kaja", "luc")
    kept: dict[Path, bytes] = {}
    for name in home.sites:
        for path in (home.site(name) / home.fingerprint / home.id_of() / "pack").rglob("*"):
            if path.is_file():
                kept[path] = path.read_bytes()
                path.write_bytes(os.urandom(len(kept[path])))
    told = refused(22, *_restore(home, tmp_path / "none", warrant, answers))
    assert "other" in told["hint"] or "another" in told["hint"]
    assert not any(p.is_file() for p in (tmp_path / "none").rglob("*"))
    for path, data in kept.items():
        if home.site("nord") in path.parents:
            path.write_bytes(data)
    done = home.ok(*_restore(home, tmp_path / "some", warrant, answers))
    assert done["restored"]["faults"], "the harmed copies are not named"
    assert tree_of(tmp_path / "some" / "acts") == tree_of(home.root / "acts")
    for path, data in kept.items():
        path.write_bytes(data)
    assert home.verify()["ok"]

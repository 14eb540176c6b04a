"""From a register to its readers: publish at home, serve from several sites, on through attacks and exile."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from exclave.ids import Fingerprint, parse_fingerprint
from exclave.verify.proof import verify_document, verify_proof
from support.gazette_room import FIRST, RunningRoom, act_files, law
from support.gazette_state import TITLE, WitnessedGazette, gazette_home, put, serving
from support.small_home import SmallHome, run

PATIENCE_S = 120.0
SECOND = act_files("2025/0001", "Ice Road Act", [law("Ice Road Act", "Roads over the ice.")])


@pytest.fixture
def town(tmp_path: Path) -> tuple[SmallHome, Path]:
    home, acts = gazette_home(tmp_path)
    home.backup()
    home.ok("publish", "gazette", "--yes", *home.home)
    return home, acts


def publish_more(home: SmallHome, acts: Path) -> None:
    put(acts, SECOND)
    home.backup()
    home.ok("publish", "gazette", "--yes", *home.home)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def build(home: SmallHome, room: Path, *sites: str, code: int = 0) -> str:
    said = run("serve", "public", TITLE, "--dir", str(room), *home.where(*sites), "--once")
    assert said.code == code, said.err
    return said.err


def version(room: Path) -> int:
    return int(json.loads((room / "current" / "latest.json").read_bytes())["version"])


def test_what_the_commands_say_as_json(town: tuple[SmallHome, Path], tmp_path: Path) -> None:
    """`publish` and `serve public --once` with --json: the same keys each time, from now on."""
    home, _ = town
    assert set(home.ok("publish", "gazette", "--yes", *home.home)) == {
        "register", "name", "sequence", "time", "edition", "files", "removed", "left_out", "bundles", "shipped_bytes",
        "sites", "failed", "nothing_new", "lacking", "lost",
    }  # fmt: skip
    once = ["serve", "public", TITLE, "--dir", str(tmp_path / "room"), *home.where(), "--once"]
    assert home.ok(*once) == {"changed": True}
    assert home.ok(*once) == {"changed": False}


def test_what_no_witness_vouches_for_is_not_shown(tmp_path: Path) -> None:
    """The publication says that it does not count yet, and rooms show nothing of it until it was witnessed."""
    put(tmp_path / "gazette", FIRST)
    home = WitnessedGazette(tmp_path, tmp_path / "gazette")
    home.found()
    with home.witness():
        home.backup()
    assert home.fails(31, "publish", "gazette", "--yes", *home.home)["lacking"] == "wit"
    build(home, tmp_path / "room", code=22)
    with home.witness():
        home.ok("publish", "gazette", "--yes", *home.home)
    build(home, tmp_path / "room")
    assert version(tmp_path / "room") == 1


def test_what_is_read_can_be_proven(town: tuple[SmallHome, Path], tmp_path: Path) -> None:
    """Every text, record and part of every act comes with a proof that holds for it, and for nothing else."""
    home, _ = town
    build(home, tmp_path / "room", "lux")
    pinned = parse_fingerprint(home.fingerprint)
    documents = sorted((tmp_path / "room" / "permanent" / "v").rglob("*.txt"))
    assert len(documents) == 5
    for path in documents:
        proven = verify_proof(path.with_suffix(".proof").read_bytes(), pinned)
        verify_document(proven.record, [path.read_bytes()])
        assert (proven.title, proven.leaf.sequence) == (TITLE, 1)
    said = run("verify", str(documents[0]), "--proof", str(documents[1].with_suffix(".proof")), "--fingerprint", pinned)
    assert said.code != 0


def test_publishing_again_changes_nothing(town: tuple[SmallHome, Path]) -> None:
    """The same version twice is one edition; the ledger and the sites stay clean for the verifier."""
    home, _ = town
    before = home.verify()
    again = home.ok("publish", "gazette", "--yes", *home.home)
    assert (again["nothing_new"], again["shipped_bytes"]) == (True, 0)
    assert home.verify()["registers"] == before["registers"]


def test_who_publishes_sees_what_and_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acts, and files that have no address, are told before; without a yes, or anybody to ask, nothing is published."""
    home, acts = gazette_home(tmp_path)
    put(acts, {"notes/todo.txt": b"not for everybody", "acts/2030/0001/v1.txt": b"no record beside it"})
    (acts / "link").symlink_to("/etc/passwd")
    home.backup()
    said = run("publish", "gazette", "--look", *home.home)
    assert said.code == 0
    assert "4 acts in all: /act/2023/0100, /act/2023/0200, /act/2024/0001, /act/2024/0002" in said.out
    assert (
        "3 new files without an address: no act's, but public: acts/2030/0001/v1.txt, gazette.json, notes" in said.out
    )
    assert "1 new file that belongs to acts: acts/2023/0100/map & <b>.html" in said.out
    assert "left out: 1 × a symbolic link: link" in said.out
    monkeypatch.setattr("sys.stdin", io.StringIO())
    asked = run("publish", "gazette", *home.home)
    assert (asked.code, asked.out.startswith(said.out), "--yes" in asked.err) == (2, True, True)
    assert "--look" in home.fails(2, "publish", "gazette", *home.home)["hint"]
    monkeypatch.setattr(typer, "confirm", lambda question: False)
    assert run("publish", "gazette", *home.home).out == said.out + "Nothing was published.\n"
    assert not list((tmp_path / "sites").rglob("public"))
    seen = home.ok("publish", "gazette", "--look", *home.home)
    assert (len(seen["acts"]), seen["without_address"]) == (
        4,
        ["acts/2030/0001/v1.txt", "gazette.json", "notes/todo.txt"],
    )
    monkeypatch.setattr(typer, "confirm", lambda question: True)
    assert "version 1 is public" in run("publish", "gazette", *home.home).out
    assert "is public already" in run("publish", "gazette", *home.home).out
    assert run("publish", "gazette", "--look", *home.home).out.startswith("Nothing new")


def test_only_what_was_looked_at_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes, or a backup that ends, between the look and the yes, stops the publication."""
    home, acts = gazette_home(tmp_path)
    home.backup()
    text = acts / "acts/2024/0001/v1.txt"

    def meanwhile(*backups: str) -> Callable[[str], bool]:
        def answer(question: str) -> bool:
            text.write_text("Another law.")
            return bool([home.backup(name) for name in backups] or True)

        return answer

    monkeypatch.setattr(typer, "confirm", meanwhile())
    said = run("publish", "gazette", *home.home)
    assert (said.code, "was changed while you looked" in said.err) == (14, True)
    text.write_text("Another one.")
    home.backup()
    monkeypatch.setattr(typer, "confirm", meanwhile("gazette"))
    said = run("publish", "gazette", *home.home)
    assert (said.code, "version 3 was taken meanwhile" in said.err) == (42, True)
    assert not list((tmp_path / "sites").rglob("public"))


def test_only_what_changed_is_shipped(town: tuple[SmallHome, Path]) -> None:
    """The second edition adds one bundle with the new act's two files."""
    home, acts = town
    put(acts, SECOND)
    home.backup()
    receipt = home.ok("publish", "gazette", "--yes", *home.home)
    assert (receipt["files"], receipt["removed"], receipt["bundles"]) == (2, 0, 1)


def test_a_folder_that_went_on_is_not_published(town: tuple[SmallHome, Path]) -> None:
    """What is not in the newest version has no proof: nothing is published until there is a version with it."""
    home, acts = town
    put(acts, SECOND)
    home.backup()
    (acts / "acts/2024/0001/v1.txt").write_text("Something else.")
    failure = home.fails(14, "publish", "gazette", "--yes", *home.home)
    assert "acts/2024/0001/v1.txt" in failure["message"]
    home.backup()
    assert home.ok("publish", "gazette", "--yes", *home.home)["sequence"] == 3


def test_a_sealed_register_is_never_published(tmp_path: Path) -> None:
    """Without the custodians' word that it is public, nothing of a register leaves in the clear."""
    home = SmallHome(tmp_path).found()
    home.backup()
    assert "sealed" in home.fails(2, "publish", "gazette", "--yes", *home.home)["message"]
    assert not list((tmp_path / "sites").rglob("public"))


def test_links_and_odd_names_are_left_out_and_told(tmp_path: Path) -> None:
    """Links out of the folder, devices and names with hidden characters are not published; the rest is."""
    home, acts = gazette_home(tmp_path)
    (acts / "acts/2024/0001/passwd").symlink_to("/etc/passwd")
    (acts / "acts/2024/0001/turn\u202e.txt").write_text("x")
    os.link(acts / "acts/2024/0001/v1.txt", acts / "acts/2024/0001/zweitname.txt")
    os.mkfifo(acts / "acts/2024/0001/pipe")
    home.backup()
    receipt = home.ok("publish", "gazette", "--yes", *home.home)
    assert receipt["left_out"] == [
        "1 × a name that cannot be published: acts/2024/0001/turn\u202e.txt",
        "1 × a symbolic link: acts/2024/0001/passwd",
        "1 × no plain file: acts/2024/0001/pipe",
    ]
    assert receipt["files"] == len(FIRST) + 1


def test_the_freshest_of_several_sites_is_shown(town: tuple[SmallHome, Path], tmp_path: Path) -> None:
    """A site that is behind makes nobody read old law, and with it alone a room does not go back."""
    home, acts = town
    shutil.copytree(home.site("nord"), tmp_path / "nord-then")
    publish_more(home, acts)
    shutil.rmtree(home.site("nord"))
    shutil.copytree(tmp_path / "nord-then", home.site("nord"))
    room = tmp_path / "room"
    build(home, room, "nord", "lux")
    assert version(room) == 2
    build(home, room, "nord", code=23)
    assert version(room) == 2


@pytest.mark.parametrize("harm", ["bundle", "edition", "both-elsewhere"])
def test_a_host_that_alters_what_is_published_is_of_no_effect(
    town: tuple[SmallHome, Path], tmp_path: Path, harm: str
) -> None:
    """Altered objects are taken from another site; if no site has them unharmed, nothing new is shown."""
    home, _ = town
    for site in ("lux", "nord") if harm == "both-elsewhere" else ("lux",):
        for path in (home.site(site) / home.fingerprint / home.id_of() / "public").rglob("*"):
            if path.is_file() and (harm != "edition" or path.read_bytes().startswith(b"exclave/edition")):
                path.chmod(0o644)
                path.write_bytes(path.read_bytes().replace(b"Riigi", b"Vale!")[:-1] + b"?")
    room = tmp_path / "room"
    if harm == "both-elsewhere":
        build(home, room, "lux", "nord", code=22)
        assert not (room / "current").exists()
    else:
        build(home, room, "lux", "nord")
        assert version(room) == 1


def test_another_state_is_not_served(town: tuple[SmallHome, Path], tmp_path: Path) -> None:
    """With another fingerprint nothing is shown, whatever the sites hold."""
    home, _ = town
    home.fingerprint = Fingerprint("0" * 64)
    assert run("serve", "public", TITLE, "--dir", str(tmp_path / "room"), *home.where(), "--once").code in (22, 25)


def test_readers_notice_nothing_while_sites_go_away_and_come_back(town: tuple[SmallHome, Path], tmp_path: Path) -> None:
    """One site, then home, then all are gone: every page is read. A new version appears once one is back."""
    home, acts = town
    room = tmp_path / "room"
    with serving(home, room, "lux", "nord", "home") as running:
        assert "Verified copy" in running.get("/status").text
        for name in ("lux", "home"):
            home.site(name).rename(tmp_path / f"{name}-away")
        until(lambda: len(status(running)["away"]) == 2)
        readable(running)
        home.site("nord").rename(tmp_path / "nord-away")
        time.sleep(2.5)
        readable(running)
        for name in ("lux", "home", "nord"):
            (tmp_path / f"{name}-away").rename(home.site(name))
        publish_more(home, acts)
        until(lambda: running.get("/act/2025/0001").status == 200)
        assert "/act/2025/0001" in running.get("/search?q=ice+road").text
        until(lambda: status(running)["version"] == 2)


def test_a_room_starts_again_without_any_site(town: tuple[SmallHome, Path], tmp_path: Path) -> None:
    """After a reboot in the middle of the war, what was built before is served at once; a new room cannot invent it."""
    home, _ = town
    room = tmp_path / "room"
    build(home, room)
    for name in home.sites:
        home.site(name).rename(tmp_path / f"{name}-away")
    long_ago = json.loads((room / "seen.json").read_bytes())
    long_ago["proven"]["checked"] -= 3_600_000_000
    (room / "seen.json").write_text(json.dumps(long_ago))
    with serving(home, room) as running:
        readable(running)
        assert "not lately" in running.get("/status").text
    build(home, tmp_path / "other", code=11)


def test_in_exile_readers_are_told_and_the_embassy_goes_on_publishing(
    town: tuple[SmallHome, Path], tmp_path: Path
) -> None:
    """After a failover the pages say that the register is kept abroad; no custodian is needed to read on."""
    home, _ = town
    granted = home.granted("failover", sites=("lux", "nord"))
    shutil.rmtree(home.site("home"))
    embassy = tmp_path / "embassy"
    home.ok("failover", "run", *home.where("lux", "nord"), *granted, "--dir", str(embassy))
    with serving(home, tmp_path / "room", "lux", "nord") as running:
        readable(running)
        assert "kept abroad" in running.get("/status").text
        assert status(running)["exile"] == "lux"
        (record,) = embassy.rglob("acts/2024/0001/act.json")
        put(record.parents[3], SECOND)
        home.ok("backup", "gazette", "--home", str(embassy))
        receipt = home.ok("publish", "gazette", "--yes", "--home", str(embassy))
        assert (receipt["sequence"], receipt["files"]) == (2, 2)
        until(lambda: running.get("/act/2025/0001").status == 200)
        proof = running.get("/v/2/act/2025/0001/v1.proof").body
        assert verify_proof(proof, parse_fingerprint(home.fingerprint)).leaf.epoch == 2


def readable(room: RunningRoom) -> None:
    for path in ("/", "/act/2024/0002", "/v/1/act/2024/0002/v2.txt", "/v/1/act/2024/0002/v2.proof", "/search?q=kala"):
        assert room.get(path).status == 200


def status(room: RunningRoom) -> dict[str, object]:
    return dict(json.loads(room.get("/status.json").body))

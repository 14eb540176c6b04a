"""``exclave demo``: the whole story once, what it reports, what it leaves running, and a restore without Exclave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.small_home import command, tree_of

pytestmark = pytest.mark.slow
READER = Path(__file__).parents[2] / "tools" / "last_resort.py"
SEEN_TO = {
    "a bit flipped in an object", "an object dropped", "an old checkpoint replayed", "two custodians",
    "a custodian sends wrong shares", "a revived copy of home", "host that hides the new epoch", "fenced entries",
    "home's certificate deletes", "home's certificate overwrites", "home's certificate rolls a head back",
    "home's keys empties the bucket", "one letter altered",
}  # fmt: skip


@dataclass
class Played:
    """A demo that was played with ``--keep``."""

    folder: Path
    code: int
    said: dict[str, Any]
    report: dict[str, Any]
    stderr: str


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    # Not below pytest's own folder, which only its user may enter: PostgreSQL runs under an account of its own.
    folder = Path(tempfile.mkdtemp(prefix="exclave-story-"))
    report = tmp_path_factory.mktemp("story") / "report.json"
    done = subprocess.run(
        command("demo", "--dir", str(folder), "--keep", "--report", str(report), "--json"),
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=900,
    )  # fmt: skip
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield Played(folder, done.returncode, json.loads(done.stdout), json.loads(report.read_text()), done.stderr)
    finally:
        subprocess.run(command("demo", "--stop", "--dir", str(folder)), capture_output=True, check=False)
        shutil.rmtree(folder)


def _processes(folder: Path) -> list[str]:
    """Command lines of all processes that mention ``folder`` or work in it."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            cwd, line = (process / "cwd").readlink(), (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if process.name.isdigit() and int(process.name) != os.getpid() and (folder in (cwd, *cwd.parents)):
            found.append(line.replace("\0", " "))
    return found


def test_report(played: Played) -> None:
    """The report says what was promised and measured, for each register and each hostile act; all is well."""
    report = played.report
    assert report == played.said
    assert report["ok"] is True
    assert report["seconds"] > 0
    assert [p["promise"] for p in report["promises"] if not p["kept"]] == []
    assert [r["name"] for r in report["registers"]] == ["gazette", "land", "business"]
    for register in report["registers"]:
        assert register["digest_home"] == register["digest_embassy"]
        assert len(register["digest_home"]) == 64
        assert 0 < register["rto_s"] < register["rto_limit_s"]
        assert 0 <= register["rpo_s"] < register["rpo_limit_s"]
        assert register["answered"]
        assert register["rows_same"]
        assert register["rows"]
    acts = {act["act"]: act["detected"] for act in report["hostile_acts"]}
    assert set(acts.values()) == {True}
    assert {mark for mark in SEEN_TO if any(mark in act for act in acts)} == SEEN_TO


def test_hosts_and_readers(played: Played) -> None:
    """Sites of three kinds; the gazette is read and one act proven in exile; the statement to the public holds."""
    report = played.report
    assert {site["kind"] for site in report["sites"]} == {"folder", "gateway", "bucket with Object Lock"}
    reading = report["reading"]
    assert reading["pages_read"] == 6
    assert reading["proof_checked"] is True
    assert reading["altered_refused"]
    assert httpx.get(f"{reading['address']}/latest.json", trust_env=False, timeout=20).json()["version"] == 2
    assert report["statement"]["holds"] is True
    assert (played.folder / "embassy" / "said" / "statement.note").exists()


def test_told_as_commands(played: Played) -> None:
    """What the story did is shown as commands that a person can type."""
    commands = [line for line in played.stderr.splitlines() if line.startswith("$ exclave ")]
    for verb in ("init", "custodian new", "charter propose", "charter sign", "charter publish", "backup", "verify",
                 "warrant request", "warrant sign", "failover run", "snapshots", "serve witness", "serve site",
                 "serve public", "publish", "site probe", "site rebuild", "watch", "statement make"):  # fmt: skip
        assert any(line.startswith(f"$ exclave {verb}") for line in commands), verb


def test_last_resort_reader(played: Played, tmp_path: Path) -> None:
    """The printed reader brings the gazette's acts back from one site and three keys, bit for bit, without Exclave."""
    ids = (played.folder / "embassy" / "exile" / "state" / "registers").read_text().split()
    register = ids[ids.index("gazette") + 1]
    keys = [part for name in ("kaja", "mart", "aino")
            for part in ("--key", str(played.folder / "custodians" / name / f"{name}.key"))]  # fmt: skip
    target = tmp_path / "target"
    done = subprocess.run(
        [sys.executable, "-I", str(READER), "--site", str(played.folder / "sites" / "south"), "--state",
         played.report["fingerprint"], "--register", register, *keys, "--target", str(target)],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tree_of(target / "acts") == tree_of(played.folder / "embassy" / "exile" / "registers" / "gazette" / "acts")


def test_keep_and_stop(played: Played) -> None:
    """With ``--keep`` every register answers until ``--stop`` ends it; then no process of the demo is left."""
    addresses = [r["address"] for r in played.report["registers"]]
    assert all(httpx.get(f"{a}/health", trust_env=False, timeout=20).status_code == 200 for a in addresses)
    done = subprocess.run(
        command("demo", "--stop", "--dir", str(played.folder), "--json"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stopped"]
    for address in addresses:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health", trust_env=False, timeout=5)
    deadline = time.monotonic() + 10
    while (left := _processes(played.folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def test_in_a_folder_with_something_in_it(tmp_path: Path) -> None:
    """The demo plays only in a new folder, and ``--stop`` acts only where one was played."""
    (tmp_path / "mine").write_text("mine")
    for more, code in (([], 5), (["--stop"], 2)):
        done = subprocess.run(
            command("demo", "--dir", str(tmp_path), "--json", *more), capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert json.loads(done.stdout)["hint"]
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]

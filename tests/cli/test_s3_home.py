"""A home with one folder and one real S3 site: everything from init to a restore from S3 alone."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from support.refusal import refused
from support.seaweed import Seaweed, running_seaweed
from support.small_home import Register, SmallHome, run, tree_of


def _home(root: Path, engine: Seaweed, prefix: str, copies: int = 2) -> SmallHome:
    acts = root / "acts"
    acts.mkdir(parents=True)
    for number in range(20):
        (acts / f"act-{number}").write_bytes(os.urandom(150_000))
    keys = engine.credentials_file(root)
    register = Register(
        "gazette", [("acts", "files", {"path": str(acts)})], at=("home", "lux"), copies=copies, countries=copies,
        abroad=copies - 1,
    )  # fmt: skip
    return SmallHome(root, [register], sites=("home", "lux"), urls={"lux": engine.url(prefix, credentials=keys)})


def test_whole_story(tmp_path: Path, seaweed: Seaweed) -> None:
    """Two backups to a folder and a bucket; with the folder gone, the bucket alone gives everything back."""
    home = _home(tmp_path, seaweed, "cli/whole-story").found()
    first = home.backup()[0]
    assert first["sites"] == ["home", "lux"]
    (tmp_path / "acts" / "act-0").write_bytes(os.urandom(1000))
    second = home.backup()[0]
    assert second["shipped_bytes"] < first["shipped_bytes"] / 4
    assert home.verify()["findings"] == []
    assert [v["sites"] for v in home.versions()] == [["home", "lux"]] * 2
    assert {s["state"] for s in home.ok("site", "list", *home.home)["sites"]} == {"answers"}
    shutil.rmtree(home.site("home"))
    shutil.rmtree(home.folder / "cache")
    granted = home.granted("restore", sites=("lux",))
    target = tmp_path / "target"
    done = home.ok("restore", *home.where("lux"), *granted, "--target", str(target), "--compare")
    assert done["restored"]["sequence"] == 2
    assert tree_of(target / "acts") == tree_of(tmp_path / "acts")
    home.site("home").mkdir()
    assert home.backup()[0]["sites"] == ["home", "lux"], "the lost site was not rebuilt from the other one"
    assert home.verify("home")["ok"]
    assert home.verify()["findings"] == []


def test_wrong_credentials(tmp_path: Path, seaweed: Seaweed) -> None:
    """Wrong, missing, exposed or reading keys are told apart and named; the file with the right ones goes on."""
    home = _home(tmp_path, seaweed, "cli/credentials").found()
    home.backup()
    keys = tmp_path / "EXCLAVETEST.toml"
    right = keys.read_text()
    keys.write_text(right.replace("only-for", "not-for"))
    told = refused(16, "backup", *home.home, says="lux: ")
    assert "only-for" not in str(told)
    keys.write_text('access_key = "EXCLAVETEST"\n')
    refused(3, "backup", *home.home, says="access_key and secret_key")
    keys.write_text(right)
    keys.chmod(0o644)
    refused(36, "backup", *home.home)
    keys.unlink()
    refused(3, "backup", *home.home, says=str(keys))
    keys.touch(0o600)
    keys.write_text('access_key = "EXCLAVEREADER"\nsecret_key = "may-read-and-list-only"\n')
    (tmp_path / "acts" / "act-0").write_bytes(os.urandom(1000))
    refused(16, "backup", *home.home, says="lux: ")
    assert home.verify("lux")["ok"]
    keys.write_text(right)
    assert home.backup()[0]["sequence"] == 2
    assert home.verify()["findings"] == []


@pytest.mark.parametrize("copies", [1, 2])
def test_engine_is_stopped(tmp_path: Path, copies: int) -> None:
    """With the S3 engine killed a backup goes on at the folder if that suffices, and says clearly so if it does not."""
    with running_seaweed(tmp_path / "weed") as engine:
        home = _home(tmp_path / "small", engine, "cli/stopped", copies).found()
        home.backup()
        os.kill(engine.pid, signal.SIGKILL)
        (tmp_path / "small" / "acts" / "act-0").write_bytes(os.urandom(1000))
        said = run("backup", *home.home, "--json")
        if copies == 1:
            assert said.code == 0, said.out
            receipt = said.json["receipts"][0]
            assert (receipt["sites"], list(receipt["failed"])) == (["home"], ["lux"])
        else:
            assert (said.code, said.json["error"]) == (16, "placement-unmet")
            assert "lux: " in said.json["message"]
        assert home.verify("home")["ok"]

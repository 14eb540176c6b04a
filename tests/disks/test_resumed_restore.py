"""Restores that are killed go on where they were, in the same folder, and end with exactly what was captured."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest

from exclave.registers.files_restore import FolderSink
from support.signalled_restore import start_signalled
from support.small_home import SmallHome, tree_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallHome, list[str]]:
    """Many small files, some large ones, links and closed folders; and the options of a restore."""
    home = SmallHome(tmp_path_factory.mktemp("resume"))
    acts, chance = home.root / "acts", random.Random(3)
    for number in range(1500):
        folder = acts / f"f{number % 30}"
        folder.mkdir(exist_ok=True)
        (folder / f"act-{number}").write_bytes(chance.randbytes(chance.randrange(30_000)))
    for number in range(4):
        (acts / f"large-{number}").write_bytes(chance.randbytes(6_000_000))
    (acts / "sym").symlink_to("act-1")
    os.link(acts / "act-1", acts / "hard")
    (acts / "empty").touch()
    closed = acts / "closed"
    closed.mkdir()
    (closed / "within").write_bytes(b"x")
    (closed / "within").chmod(0o400)
    closed.chmod(0o500)
    home.found().backup()
    (acts / "act-new").write_bytes(b"new")
    home.backup()
    return home, [*home.where("lux"), *home.granted("restore")]


def test_killed_and_gone_on(made: tuple[SmallHome, list[str]], tmp_path: Path) -> None:
    """Killed again and again, the same command goes on; files that were complete are not written again."""
    home, options = made
    target, chance = tmp_path / "target", random.Random(5)
    command = ["restore", *options, "--target", str(target), "--compare", "--json"]
    complete: dict[str, int] = {}
    for _ in range(3):
        process = start_signalled(signal.SIGKILL, chance.randrange(50, 400), command)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert (tmp_path / "target.restoring").exists()
        for path in (target / "acts").rglob("f*/act-*"):
            original = (home.root / "acts" / path.relative_to(target / "acts")).stat()
            found = path.stat()
            if (found.st_size, found.st_mtime_ns) == (original.st_size, original.st_mtime_ns):
                assert complete.setdefault(str(path), found.st_ino) == found.st_ino
    assert complete
    home.ok("restore", *options, "--target", str(target), "--compare")
    for name, inode in complete.items():
        assert Path(name).stat().st_ino == inode
    assert tree_of(target / "acts") == tree_of(home.root / "acts")
    assert (target / "acts" / "sym").readlink() == Path("act-1")
    assert (target / "acts" / "hard").stat().st_ino == (target / "acts" / "act-1").stat().st_ino
    assert not (tmp_path / "target.restoring").exists()


def test_other_boot_and_other_version(made: tuple[SmallHome, list[str]], tmp_path: Path) -> None:
    """After a restart of the machine every file is written anew; another version never goes into the same folder."""
    home, options = made
    target, mark = tmp_path / "target", tmp_path / "target.restoring"
    restore = ["restore", *options, "--target", str(target)]
    home.ok(*restore)
    told = home.fails(5, *restore)
    assert told["error"] == "target-not-empty"
    newest = home.versions()[-1]
    values = {"register": home.id_of(), "epoch": 1, "sequence": newest["sequence"], "time": 0, "only": "", "boot": "-"}
    mark.write_text(json.dumps(values))
    assert home.fails(5, *restore)["error"] == "target-not-empty"
    mark.write_text("{")
    assert home.fails(4, *restore)["error"] == "malformed"
    mark.unlink()
    real = FolderSink.close
    FolderSink.close = lambda self: (_ for _ in ()).throw(OSError("died"))  # type: ignore[method-assign]
    other = tmp_path / "other"
    try:
        assert home.fails(70, "restore", *options, "--target", str(other))["error"] == "bug"
    finally:
        FolderSink.close = real  # type: ignore[method-assign]
    left = tmp_path / "other.restoring"
    kept = json.loads(left.read_text())
    assert home.fails(5, "restore", *options, "--target", str(other), "--version", "1")["error"] == "target-not-empty"
    left.write_text(json.dumps({**kept, "boot": "another"}))
    torn = next((other / "acts").glob("f1/act-*"))
    times = torn.stat()
    torn.write_bytes(bytes(times.st_size))  # what a machine that went down may leave: right size and time, wrong bytes
    os.utime(torn, ns=(times.st_mtime_ns, times.st_mtime_ns))
    home.ok("restore", *options, "--target", str(other), "--compare")
    assert tree_of(other / "acts") == tree_of(home.root / "acts")


def test_planted_links_are_not_followed(made: tuple[SmallHome, list[str]], tmp_path: Path) -> None:
    """Going on never writes through a link that somebody put into the folder meanwhile."""
    home, options = made
    target, outside = tmp_path / "target", tmp_path / "outside"
    outside.write_bytes(b"mine")
    home.ok("restore", *options, "--target", str(target))
    victim = target / "acts" / "act-2"
    victim.unlink()
    victim.symlink_to(outside)
    (target / "acts" / "large-0").unlink()
    os.mkfifo(target / "acts" / "large-0")
    # As if it had been interrupted just before its end.
    twin = ["restore", *options, "--target", str(tmp_path / "twin")]
    start_signalled(signal.SIGKILL, 20, twin).communicate()
    (tmp_path / "target.restoring").write_bytes((tmp_path / "twin.restoring").read_bytes())
    home.ok("restore", *options, "--target", str(target), "--compare")
    assert outside.read_bytes() == b"mine"
    assert not victim.is_symlink()
    assert tree_of(target / "acts") == tree_of(home.root / "acts")


def test_interrupted_and_gone_on(made: tuple[SmallHome, list[str]], tmp_path: Path) -> None:
    """After Ctrl-C the mark lies there and the same command ends the restore; what it makes nobody else can enter."""
    home, options = made
    target = tmp_path / "target"
    command = ["restore", *options, "--target", str(target), "--compare"]
    process = start_signalled(signal.SIGINT, 20, command)
    _, said = process.communicate()
    assert target.stat().st_mode & 0o777 == 0o700
    assert process.returncode == 130
    assert b"while TARGET.restoring lies beside" in said
    assert (tmp_path / "target.restoring").exists()
    home.ok(*command)
    assert not (tmp_path / "target.restoring").exists()
    assert tree_of(target / "acts") == tree_of(home.root / "acts")
    assert target.stat().st_mode & 0o777 == 0o700


def test_two_at_once(made: tuple[SmallHome, list[str]], tmp_path: Path) -> None:
    """While one restore is at work in a folder, another does not touch it; when it is ended, the other goes on."""
    home, options = made
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    command = ["restore", *options, "--target", str(target), "--compare"]
    process = start_signalled(signal.SIGSTOP, 20, command)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    try:
        assert home.fails(43, *command)["error"] == "busy"
    finally:
        process.kill()
        process.communicate()
    home.ok(*command)
    assert tree_of(target / "acts") == tree_of(home.root / "acts")
    assert target.stat().st_mode & 0o777 == 0o755  # it was there before


def test_mark_is_gone_or_cannot_be_set(made: tuple[SmallHome, list[str]], tmp_path: Path) -> None:
    """Without its mark a broken restore is not gone on with, and none begins where no mark can be set."""
    home, options = made
    target, mark = tmp_path / "target", tmp_path / "target.restoring"
    command = ["restore", *options, "--target", str(target)]
    start_signalled(signal.SIGKILL, 20, command).communicate()
    mark.unlink()
    left = tree_of(target)
    told = home.fails(5, *command)
    assert "target.restoring" in told["message"]
    assert "may be incomplete" in told["hint"]
    assert tree_of(target) == left
    home.fails(2, "restore", *options, "--target", "/")
    (tmp_path / "other.restoring.new").mkdir()
    home.fails(2, "restore", *options, "--target", str(tmp_path / "other"))
    assert not list((tmp_path / "other").iterdir())

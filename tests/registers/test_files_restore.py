"""Where a folder is restored to: full disks, other users, targets that hold something."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.errors import TargetNotEmpty, UnavailableError
from exclave.registers import files_restore as files
from exclave.registers.files_restore import FolderSink
from exclave.sites.directory import DirectorySite
from support.vault import Vault

AS_ROOT = os.geteuid() == 0


def test_a_target_that_holds_something(tmp_path: Path) -> None:
    """A folder with anything in it is refused and left alone; an empty or new one is fine; a file is none."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TargetNotEmpty):
        FolderSink(tmp_path / "full")
    with pytest.raises(UnavailableError):
        FolderSink(tmp_path / "full" / "mine")
    FolderSink(tmp_path / "empty")
    FolderSink(tmp_path / "new" / "deep")
    assert (tmp_path / "full" / "mine").read_text() == "kept"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=200", "none", str(disk)]
    if not AS_ROOT or subprocess.run(mount, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["large file", "small files", "folders", "links", "pipes"])
def test_a_full_disk(kind: str, small_disk: Path, tmp_path: Path) -> None:
    """Running out of bytes or of inodes ends the restore: nothing is reported as restored that is not."""
    src = tmp_path / "src"
    src.mkdir()
    for n in range(300):
        if kind == "small files":
            (src / f"{n}").write_bytes(os.urandom(20_000))
        elif kind == "folders":
            (src / f"{n}").mkdir()
        elif kind == "links":
            (src / f"{n}").symlink_to("x" * 100)
        elif kind == "pipes":
            os.mkfifo(src / f"{n}")
    if kind == "large file":
        (src / "large").write_bytes(os.urandom(5 << 20))
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(src)
    with pytest.raises(UnavailableError):
        vault.restore(version, small_disk / "out")


def test_a_write_that_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that writes less than it is given is asked again."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "f").write_bytes(os.urandom(100_000))
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(src)
    whole = os.pwrite
    monkeypatch.setattr(files.os, "pwrite", lambda fd, data, at: whole(fd, data[:7000], at))
    vault.restore(version, tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out" / "f").read_bytes() == (src / "f").read_bytes()


RESTORE = """
import os, sys
from pathlib import Path
from support.vault import Vault, Label
from exclave.sites.directory import DirectorySite
os.setgroups([]); os.setgid(65534); os.setuid(65534)
vault = Vault(Path("/nonexistent"), {Label("one"): DirectorySite(sys.argv[1])})
sink, _ = vault.restore(bytes.fromhex(sys.argv[2]), Path(sys.argv[3]))
print(sink.unrestored.count)
for what, path in sink.unrestored.first:
    print(what, path, sep="|")
"""


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("inherits", ["nothing", "group", "list"])
def test_what_a_target_gives_new_files(mask: int, inherits: str, tmp_path: Path) -> None:
    """Modes and owners are the captured ones, whatever the umask, the target's group or its default list would give."""
    src, out = tmp_path / "src", tmp_path / "out"
    src.mkdir()
    out.mkdir()
    (src / "deep").mkdir()
    for mode in (0o644, 0o755, 0o600, 0o666, 0o777, 0o444, 0o4755, 0o000):
        for folder in (src, src / "deep"):
            (folder / f"{mode:o}").write_bytes(b"content")
            (folder / f"{mode:o}").chmod(mode)
    if inherits == "group":
        if AS_ROOT:
            os.chown(out, -1, 12)
        out.chmod(0o2755)
    if inherits == "list":
        entries = [(1, 7), (4, 5), (16, 5), (32, 0)]
        packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, 0xFFFFFFFF) for tag, perm in entries)
        os.setxattr(out, "system.posix_acl_default", packed)
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(src)
    before = os.umask(mask)
    try:
        sink, _ = vault.restore(version, out)
    finally:
        os.umask(before)
    assert sink.unrestored.count == 0, sink.unrestored.first
    for path in sorted(src.rglob("*")):
        one, other = path.lstat(), (out / path.relative_to(src)).lstat()
        assert (one.st_mode, one.st_uid, one.st_gid) == (other.st_mode, other.st_uid, other.st_gid), path


def test_a_file_that_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose writing fails is left with mode 600: whoever finds one with another mode finds it complete."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "short").write_bytes(b"content")
    (src / "short").chmod(0o644)
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(src)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "pwrite", full)
    with pytest.raises(UnavailableError, match="No space left"):
        vault.restore(version, tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out" / "short").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not AS_ROOT, reason="needs root to become nobody")
def test_restore_as_nobody() -> None:
    """Without root everything but owners and devices comes back: read-only folders, closed ones, links into them."""
    work = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        work.chmod(0o755)
        (work / "site").mkdir()
        src = work / "src"
        src.mkdir()
        _plant(src)
        vault = Vault(work / "cache", {"one": DirectorySite(str(work / "site"))})  # type: ignore[dict-item]
        version = vault.back_up(src)
        (work / "for nobody").mkdir()
        os.chown(work / "for nobody", 65534, 65534)
        out = work / "for nobody" / "out"
        done = subprocess.run(
            [sys.executable, "-c", RESTORE, str(work / "site"), version.manifest.hex(), str(out)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert int(lines[0]) == len(lines) - 1
        reported = {tuple(line.split("|")) for line in lines[1:]}
        assert ("owner", "roots") in reported
        assert ("set-id bits", "roots program") in reported
        assert ("set-id bits", "nobodys program") not in reported
        assert ("char_device (Operation not permitted)", "null") in reported
        assert not any("link" in what for what, _ in reported)
        for path in ["readonly", "readonly/inner", "closed", "shut/down"]:
            assert (out / path).stat().st_mode == (src / path).stat().st_mode, path
            assert (out / path).stat().st_mtime_ns == (src / path).stat().st_mtime_ns, path
        assert (out / "readonly" / "file").read_text() == "x"
        assert (out / "z link").samefile(out / "closed" / "file")
        assert (out / "roots program").stat().st_mode & 0o7777 == 0o755
        assert (out / "nobodys program").stat().st_mode & 0o7777 == 0o4755
    finally:
        subprocess.run(["rm", "-rf", str(work)], check=True)


def _plant(src: Path) -> None:
    (src / "roots").write_text("x")
    for name in ["roots program", "nobodys program"]:
        (src / name).write_text("x")
    os.chown(src / "nobodys program", 65534, 65534)
    for name in ["roots program", "nobodys program"]:
        (src / name).chmod(0o4755)
    os.mknod(src / "null", 0o020666, os.makedev(1, 3))
    (src / "readonly" / "inner").mkdir(parents=True)
    (src / "readonly" / "file").write_text("x")
    (src / "readonly" / "inner" / "file").write_text("x")
    (src / "closed").mkdir()
    (src / "closed" / "file").write_text("x")
    os.link(src / "closed" / "file", src / "z link")
    (src / "shut" / "down").mkdir(parents=True)
    (src / "shut" / "down" / "file").write_text("x")
    (src / "readonly" / "inner").chmod(0o555)
    (src / "readonly").chmod(0o555)
    (src / "closed").chmod(0)
    (src / "shut" / "down").chmod(0)
    (src / "shut").chmod(0)

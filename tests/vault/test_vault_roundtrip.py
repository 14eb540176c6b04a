"""Trees of every odd kind come back as they were."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exclave.formats import manifest
from exclave.vault import ingest, restore, tree
from support.vault import Vault, picture

AS_ROOT = os.geteuid() == 0
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, who)
    for tag, perm, who in [
        (1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)
    ]
)  # fmt: skip
"""POSIX.1e draft access list as Linux keeps it: owner rw, user 1000 r, group r, mask rw, others r."""


def there_and_back(source: Path, work: Path) -> Vault:
    vault = Vault(work / "cache")
    version = vault.back_up(source)
    sink, reader = vault.restore(version, work / "out")
    assert picture(work / "out") == picture(source)
    assert sink.unrestored.count == 0, sink.unrestored.first
    assert not reader.faults
    assert not vault.notes.changed
    return vault


def sparse(path: Path, size: int, pieces: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        os.truncate(path, size)
        for at, data in pieces.items():
            file.seek(at)
            file.write(data)
            file.flush()


def test_names_are_any_bytes(tmp_path: Path) -> None:
    """Names with newlines, quotes, non-UTF-8 bytes, 255 bytes, and ones that sort oddly around the slash."""
    base = os.fsencode(tmp_path / "src")
    os.mkdir(base)
    for name in [b"a\nb", b"\xff\xfe\x80", b"a" * 255, b"-rf", b" ", b"'\"\\", b"a", b"a.b", b"\x01", "ü".encode()]:
        os.mkdir(base + b"/" + name)
        for inner in [b"x\n", b"\xff", b".hidden", b"...", b"\\n"]:
            with open(base + b"/" + name + b"/" + inner, "wb") as file:
                file.write(name * 3 + inner)
    there_and_back(tmp_path / "src", tmp_path)


def test_modes_times_and_kinds(tmp_path: Path) -> None:
    """Set-id, sticky and empty modes, times before 1970, links of all sorts, FIFOs, sockets, empty folders."""
    src = tmp_path / "src"
    src.mkdir()
    for mode in [0o0, 0o400, 0o4755, 0o2755, 0o1644, 0o7777, 0o606]:
        (src / f"f{mode:o}").write_bytes(b"x" * mode)
        (src / f"f{mode:o}").chmod(mode)
        (src / f"d{mode:o}").mkdir()
        (src / f"d{mode:o}" / "inside").write_bytes(b"y")
        os.utime(src / f"d{mode:o}" / "inside", ns=(1, mode))
        (src / f"d{mode:o}").chmod(mode)
    (src / "old").write_text("old")
    os.utime(src / "old", ns=(0, -123_456_789_012_345_678))
    (src / "late").write_text("late")
    os.utime(src / "late", ns=(0, 4_102_444_800_123_456_789))
    (src / "empty").touch()
    (src / "hollow").mkdir()
    (src / "link").symlink_to("old")
    (src / "dangling").symlink_to(os.fsdecode(b"/no/such\xff\nplace"))
    (src / "loop").symlink_to("loop")
    (src / "up").symlink_to("../../..")
    os.utime(src / "dangling", ns=(5, -7), follow_symlinks=False)
    os.mkfifo(src / "fifo", 0o640)
    (src / "z").mkdir()
    os.link(src / "old", src / "z" / "again")
    os.link(src / "old", src / "a-first")
    os.link(src / "fifo", src / "z" / "fifo too")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(src)
        listener.bind("sock")
        os.chdir("/")
    if AS_ROOT:
        os.chown(src / "old", 12345, 54321)
        os.chown(src / "dangling", 1, 2, follow_symlinks=False)
        os.chown(src / "hollow", 77, 88)
        os.chown(src / "f4755", 99, 99)
        os.chmod(src / "f4755", 0o4755)
        os.mknod(src / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(src / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    os.utime(src / "hollow", ns=(0, 0))
    os.utime(src, ns=(0, 99))
    there_and_back(src, tmp_path)


def test_attributes_and_access_lists(tmp_path: Path) -> None:
    """Extended attributes of files and folders, POSIX access lists and default lists among them."""
    src = tmp_path / "src"
    (src / "folder").mkdir(parents=True)
    (src / "file").write_text("x")
    os.setxattr(src / "file", "user.empty", b"")
    os.setxattr(src / "file", "user.bytes", bytes(range(256)))
    os.setxattr(src / "file", "system.posix_acl_access", ACL)
    os.setxattr(src / "folder", "system.posix_acl_default", ACL)
    os.setxattr(src / "folder", "user.note", b"kept")
    (src / "readonly").write_text("x")
    os.setxattr(src / "readonly", "user.a", b"b")
    (src / "readonly").chmod(0o444)
    if AS_ROOT:
        os.setxattr(src / "file", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
        (src / "link").symlink_to("file")
        os.setxattr(src / "link", "trusted.note", b"on the link", follow_symlinks=False)
    there_and_back(src, tmp_path)


def test_holes(tmp_path: Path) -> None:
    """Holes at the start, in the middle and at the end, whole-hole files, and holes longer than memory stay holes."""
    src = tmp_path / "src"
    src.mkdir()
    noise = random.Random(1).randbytes(70_000)
    sparse(src / "start", 300_000, {200_000: noise})
    sparse(src / "middle", 5 << 20, {0: noise, (4 << 20) + 1: noise})
    sparse(src / "end", 3 << 20, {0: noise})
    sparse(src / "only", 9 << 20, {})
    sparse(src / "one byte", 8193, {8192: b"!"})
    sparse(src / "long hole", 300 << 20, {(200 << 20) + 5: b"here"})
    sparse(src / "many", 4 << 20, dict.fromkeys(range(0, 4 << 20, 65536), b"x" * 100))
    there_and_back(src, tmp_path)
    for name in ["start", "middle", "end", "only", "many", "long hole"]:
        assert os.stat(tmp_path / "out" / name).st_blocks <= os.stat(src / name).st_blocks + 8


def test_nothing_and_deep(tmp_path: Path) -> None:
    """An empty folder, and one nested 300 deep."""
    (tmp_path / "void").mkdir()
    (tmp_path / "one").mkdir()
    there_and_back(tmp_path / "void", tmp_path / "one")
    deep = tmp_path / "src"
    for n in range(300):
        deep = deep / f"d{n % 10}"
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("here")
    (tmp_path / "two").mkdir()
    there_and_back(tmp_path / "src", tmp_path / "two")


def test_identical_content_is_shipped_once(tmp_path: Path) -> None:
    """Copies of a large file, and a file of one repeated block, cost one copy."""
    src = tmp_path / "src"
    src.mkdir()
    noise = random.Random(2).randbytes(3 << 20)
    for n in range(4):
        (src / f"copy{n}").write_bytes(noise)
    (src / "shifted").write_bytes(b"some bytes in front" + noise)
    (src / "zeros").write_bytes(bytes(20 << 20))
    vault = there_and_back(src, tmp_path)
    site = next(iter(vault.sites.values()))
    assert sum(item.size_bytes for item in site.list("")) < 5 << 20


def test_long_files_use_extent_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with more extents than a leaf keeps come back, alone and between others, and are not read again."""
    monkeypatch.setattr(ingest, "MAX_INLINE_EXTENTS", 7)
    monkeypatch.setattr(ingest, "MOST_WAITING", 5)
    src = tmp_path / "src"
    src.mkdir()
    noise = random.Random(3)
    for n in range(6):
        (src / f"long{n}").write_bytes(noise.randbytes(4 << 20) + bytes([n]))
        for m in range(4):
            (src / f"long{n}-{m}").write_bytes(noise.randbytes(3000))
    sparse(src / "holes", 2 << 20, dict.fromkeys(range(0, 2 << 20, 1 << 17), b"y" * 5000))
    for path in src.iterdir():
        os.utime(path)
    vault = there_and_back(src, tmp_path)
    _age(src)
    vault.back_up(src)
    again = vault.back_up(src)
    assert again.read_bytes == 0
    sink, _ = vault.restore(again, tmp_path / "again")
    assert picture(tmp_path / "again") == picture(src)
    assert sink.unrestored.count == 0
    assert manifest.MAX_INLINE_EXTENTS == 1024


def _age(src: Path) -> None:
    """Waits until no file is as young as a clock's tick."""
    import time

    newest = max(os.lstat(path).st_ctime_ns for path in src.rglob("*"))
    while time.time_ns() - newest < 60_000_000:
        os.sched_yield()


def test_twenty_thousand_tiny_files(tmp_path: Path) -> None:
    """Many leaves and branches: 20 000 small files in 100 folders."""
    src = tmp_path / "src"
    noise = random.Random(4)
    for folder in range(100):
        (src / f"{folder:03}").mkdir(parents=True)
        for n in range(200):
            with open(src / f"{folder:03}" / f"{n}", "wb") as file:
                file.write(noise.randbytes(n))
    there_and_back(src, tmp_path)


def test_small_windows_and_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiny limits everywhere, every boundary between windows, leaves, branches and packs is met."""
    monkeypatch.setattr(restore, "WINDOW_BYTES", 50_000)
    monkeypatch.setattr(restore, "WINDOW_RECORDS", 3)
    monkeypatch.setattr(tree, "LEAF_LEAST", 1)
    monkeypatch.setattr(tree, "LEAF_MOST", 3)
    monkeypatch.setattr(tree, "BRANCH_MOST", 3)
    monkeypatch.setattr(ingest, "MOST_WAITING", 4)
    monkeypatch.setattr(ingest, "MAX_INLINE_EXTENTS", 2)
    src = tmp_path / "src"
    noise = random.Random(5)
    for folder in range(6):
        (src / f"{folder}" / "sub").mkdir(parents=True)
        for n in range(9):
            (src / f"{folder}" / f"{n}").write_bytes(noise.randbytes(n * 400))
            (src / f"{folder}" / "sub" / f"{n}").write_bytes(noise.randbytes(n * 30_000))
        os.link(src / f"{folder}" / "3", src / f"{folder}" / "sub" / "linked")
        (src / f"{folder}" / "s").symlink_to("3")
        os.utime(src / f"{folder}", ns=(1, folder))
    (src / "3" / "sub").chmod(0o555)
    (src / "large").write_bytes(noise.randbytes(3 << 20))
    vault = there_and_back(src, tmp_path)
    (src / "4" / "5").write_bytes(b"changed")
    version = vault.back_up(src)
    vault.restore(version, tmp_path / "second")
    assert picture(tmp_path / "second") == picture(src)


NAMES = st.binary(min_size=1, max_size=12).filter(lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b".."))
FILES = st.one_of(
    st.binary(max_size=300),
    st.integers(0, 3_000_000).map(lambda n: random.Random(n).randbytes(n)),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=50)), max_size=4),
)
LEAVES = st.one_of(
    st.tuples(st.just("file"), FILES, st.integers(0, 0o7777), st.integers(-(10**18), 10**18)),
    st.tuples(st.just("link"), st.binary(min_size=1, max_size=40).filter(lambda t: b"\0" not in t)),
    st.just(("fifo",)),
    st.just(("same",)),
)
TREES = st.recursive(LEAVES, lambda kids: st.dictionaries(NAMES, kids, max_size=5), max_leaves=14).filter(
    lambda found: isinstance(found, dict)
)


def _plant(base: bytes, found: dict[bytes, object], former: list[bytes]) -> None:
    os.mkdir(base)
    for name, what in found.items():
        path = base + b"/" + name
        if isinstance(what, dict):
            _plant(path, what, former)
            continue
        assert isinstance(what, tuple)
        if what[0] == "file":
            with open(path, "wb") as file:
                if isinstance(what[1], bytes):
                    file.write(what[1])
                else:
                    for at, data in what[1]:
                        file.seek(at)
                        file.write(data)
            os.chmod(path, what[2])
            os.utime(path, ns=(0, what[3]))
            former.append(path)
        elif what[0] == "link":
            os.symlink(what[1], path)
        elif what[0] == "fifo":
            os.mkfifo(path)
        elif former:
            os.link(former[-1], path)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(found=TREES, second=TREES)
def test_any_tree(found: dict[bytes, object], second: dict[bytes, object]) -> None:
    """Whatever tree there is comes back; so does the next version of it, from the same sites and cache."""
    import shutil
    import tempfile

    work = Path(tempfile.mkdtemp())
    try:
        vault = Vault(work / "cache")
        for n, planted in enumerate([found, second]):
            src = work / f"src{n}"
            _plant(os.fsencode(src), planted, [])
            version = vault.back_up(src)
            sink, _ = vault.restore(version, work / f"out{n}")
            assert picture(work / f"out{n}") == picture(src)
            assert sink.unrestored.count == 0
    finally:
        shutil.rmtree(work)

"""``exclave mount`` with a real kernel: what is there, what serves from it, and what becomes of it when things fail."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exclave.app import open_named_sites
from exclave.formats.warrant import Act
from exclave.ids import Label, now
from exclave.keys.file import load
from exclave.operations.custody import request_warrant
from exclave.operations.export_postgres import running_copy
from exclave.registers.postgres_digest import postgres_digest
from exclave.runners.ports import free_port
from exclave.verify.state import read_state
from support.mounted import PATIENCE_S, mounted
from support.postgres import open_folder, running_server
from support.small_home import Register, SmallHome, run
from support.vault import picture


def a_home(root: Path, *, sites: tuple[str, ...] = ("home", "lux", "nord"), copies: int = 2) -> SmallHome:
    """A register of one folder, ``root/acts``, at those sites."""
    (root / "acts").mkdir(parents=True, exist_ok=True)
    register = Register("gazette", [("acts", "files", {"path": str(root / "acts")})], at=sites, copies=copies)
    return SmallHome(root, [register], sites=sites)


def oddities(folder: Path) -> None:
    """One of everything."""
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "file").write_bytes(b"f" * 100_000)
    (folder / "big").write_bytes(random.Random(5).randbytes(9_000_000))
    os.link(folder / "big", folder / "second name")
    os.symlink("../no where", folder / "link")
    os.symlink("big", folder / os.fsdecode(b"link\xff"))
    (folder / os.fsdecode(b"not utf-8 \xfe\n")).write_bytes(b"x")
    with open(folder / "sparse", "wb") as file:
        file.truncate(16 << 20)
        file.seek(10 << 20)
        file.write(b"in the middle")
    os.mkfifo(folder / "pipe", 0o620)
    os.setxattr(folder / "deep" / "er" / "file", "user.note", b"\0\xff")
    os.chmod(folder / "deep" / "er" / "file", 0o4751)
    os.chmod(folder / "deep", 0o1751)
    if os.geteuid() == 0:
        os.mknod(folder / "null", 0o20666, os.makedev(1, 3))
        os.chown(folder / "deep" / "er", 12345, 54321)
    for path in (folder / "deep" / "er", folder / "big", folder / "deep", folder):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789))


def test_everything_is_as_it_was(tmp_path: Path) -> None:
    """Modes, owners, times, links, holes, attributes, devices and names that are no text look as in the source; former
    versions stay as they were; nothing can be changed, and no device can be opened.
    """
    home = a_home(tmp_path)
    oddities(tmp_path / "acts")
    home.found().backup()
    before = picture(tmp_path / "acts")
    (tmp_path / "acts" / "later").write_bytes(b"later")
    home.backup()
    with mounted(home) as mount:
        names = sorted(os.listdir(mount.folder))
        assert names[-1] == "latest"
        assert [name[:7] for name in names[:-1]] == ["000001_", "000002_"]
        assert os.readlink(mount.folder / "latest") == names[1]
        assert picture(mount.folder / names[0] / "acts") == before
        assert picture(mount.dataset("acts")) == picture(tmp_path / "acts")
        assert os.stat(mount.dataset("acts") / "sparse").st_size == 16 << 20
        with pytest.raises(OSError, match="Read-only") as refused:
            (mount.dataset("acts") / "new").write_bytes(b"")
        assert refused.value.errno == errno.EROFS
        if os.geteuid() == 0:
            with pytest.raises(OSError, match="denied"):
                os.open(mount.dataset("acts") / "null", os.O_RDONLY)
        assert "nosuid,nodev" in Path("/proc/self/mountinfo").read_text().split(str(mount.folder))[1]
        assert mount.end() == 0
        assert not os.path.ismount(mount.folder)
        assert "was unmounted" in mount.said()


def test_web_server_and_database_work_from_it(tmp_path: Path) -> None:
    """nginx serves files and ranges of them, and SQLite answers queries, without anything being restored first."""
    home = a_home(tmp_path)
    page = random.Random(6).randbytes(5_000_000)
    (tmp_path / "acts" / "page.bin").write_bytes(page)
    with sqlite3.connect(tmp_path / "acts" / "land.db") as db:
        db.execute("CREATE TABLE parcel(id INTEGER PRIMARY KEY, owner TEXT)")
        db.executemany("INSERT INTO parcel VALUES(?, ?)", ((n, f"owner {n % 977}") for n in range(50_000)))
        db.execute("CREATE INDEX by_owner ON parcel(owner)")
    db.close()
    home.found().backup()
    with mounted(home, "--allow-other") as mount:
        source = f"file:{mount.dataset('acts') / 'land.db'}?immutable=1"
        there = sqlite3.connect(source, uri=True)
        assert there.execute("SELECT count(*) FROM parcel WHERE owner = 'owner 17'").fetchone() == (52,)
        assert there.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        there.close()
        port = free_port()
        config = tmp_path / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log;\n"
            "events {}\n"
            f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {mount.dataset('acts')}; }} }}\n"
        )
        server = subprocess.Popen(["nginx", "-c", str(config), "-p", str(tmp_path)], stderr=subprocess.DEVNULL)
        try:
            assert fetch(port, "page.bin") == page
            assert fetch(port, "page.bin", "bytes=3000000-3004095") == page[3_000_000:3_004_096]
        finally:
            server.terminate()
            server.wait(PATIENCE_S)
        assert mount.end() == 0


def fetch(port: int, name: str, span: str = "") -> bytes:
    """A page, or a part of it, once the server is up."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{name}", headers={"Range": span} if span else {})
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bytes(answer.read())
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_site_that_goes_away(tmp_path: Path) -> None:
    """A site that vanishes while it is read changes nothing; without any site, a read fails and says so in the log."""
    home = a_home(tmp_path)
    content = random.Random(7).randbytes(20 << 20)
    (tmp_path / "acts" / "big").write_bytes(content)
    home.found().backup()
    with mounted(home) as mount:
        with open(mount.dataset("acts") / "big", "rb", buffering=0) as file:
            assert file.read(1 << 20) == content[: 1 << 20]
            home.site("lux").rename(tmp_path / "lux is gone")
            home.site("home").rename(tmp_path / "home is gone")
            file.seek(9 << 20)
            assert file.read(100_000) == content[9 << 20 : (9 << 20) + 100_000]
            for pack in home.site("nord").rglob("pack/**/*"):
                if pack.is_file():
                    pack.write_bytes(bytes(pack.stat().st_size))
            assert errno.EIO in {failure_at(file.fileno(), content, at) for at in range(0, 20 << 20, 1 << 20)}
        said = mount.said()
        assert "nord: pack " in said
        assert "all sites: " in said
        assert mount.end() == 0


def failure_at(fd: int, content: bytes, at: int) -> int:
    """The error of reading a page at ``at``; 0 if it was read, and then it is the right one."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        assert os.pread(fd, 4096, at) == content[at : at + 4096]
    except OSError as error:
        return error.errno or -1
    return 0


def test_many_readers_at_once(tmp_path: Path) -> None:
    """Sixteen threads reading random places of several files all get the right bytes."""
    home = a_home(tmp_path)
    contents = {f"file-{n}": random.Random(n).randbytes(4 << 20) for n in range(4)}
    for name, content in contents.items():
        (tmp_path / "acts" / name).write_bytes(content)
    home.found().backup()
    with mounted(home, "--cache-mib", "16") as mount:

        def read(seed: int) -> None:
            chooser = random.Random(seed)
            for _ in range(25):
                name = chooser.choice(sorted(contents))
                at = chooser.randrange(4 << 20)
                with open(mount.dataset("acts") / name, "rb", buffering=0) as file:
                    assert os.pread(file.fileno(), 50_000, at) == contents[name][at : at + 50_000]

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(read, range(16)))
        assert mount.end() == 0


def test_a_mount_that_was_killed(tmp_path: Path) -> None:
    """What a killed mount leaves behind is taken away by the next one; a folder in use is refused."""
    home = a_home(tmp_path).found()
    home.backup()
    granted = home.granted("restore", name="look")
    with mounted(home, granted=granted) as mount:
        mount.process.kill()
        mount.process.wait(PATIENCE_S)
        with pytest.raises(OSError, match="not connected"):
            os.listdir(mount.folder)
    with mounted(home, granted=granted) as mount:
        assert "latest" in os.listdir(mount.folder)
        again = run("mount", str(mount.folder), *granted, *home.where())
        assert again.code == 5
        assert mount.end() == 0
    (tmp_path / "mnt" / "something").write_text("here")
    assert run("mount", str(tmp_path / "mnt"), *granted, *home.where()).code == 5


def test_no_quorum_no_mount(tmp_path: Path) -> None:
    """One answer of two that are needed mounts nothing."""
    home = a_home(tmp_path).found()
    home.backup()
    said = run("mount", str(tmp_path / "mnt"), *home.granted("restore", "kaja"), *home.where())
    assert said.code == 31
    assert not os.path.ismount(tmp_path / "mnt")


def test_it_ends_with_the_warrant(tmp_path: Path) -> None:
    """When the warrant's time is over the mount is taken down, and the command says why."""
    home = a_home(tmp_path).found()
    home.backup()
    view = read_state(open_named_sites(f"{n}={u}" for n, u in home.urls.items()), home.fingerprint)  # type: ignore[arg-type]
    home.granted("restore", name="another")  # makes the machine's key
    warrant = tmp_path / "warrants" / "short.warrant"
    request_warrant(
        view, load(str(home.machine())), warrant, act=Act.RESTORE, registers=(), place=Label("lux"), reason="A test",
        now=now(), valid_s=8,
    )  # type: ignore[arg-type]  # fmt: skip
    granted = ["--warrant", str(warrant), "--key", str(home.machine()), *home.answer(warrant, "kaja", "luc")]
    with mounted(home, granted=granted) as mount:
        assert mount.process.wait(PATIENCE_S) == 32
        assert not os.path.ismount(mount.folder)
        assert "the warrant ended" in mount.said()


def test_a_postgres_copied_out_of_it() -> None:
    """A PostgreSQL data folder that was copied out of the mount starts and says what was captured."""
    with open_folder() as root, running_server(17) as server:
        server.run("CREATE TABLE parcel AS SELECT g AS id, md5(g::text) AS deed FROM generate_series(1, 5000) g")
        options: dict[str, object] = {"host": str(server.socket_dir), "port": server.port, "user": "postgres"}
        register = Register("land", [("db", "postgres", {**options, "dbname": "postgres"})])
        home = SmallHome(root, [register]).found()
        home.backup()
        (root / "copy").mkdir()
        with mounted(home) as mount:
            subprocess.run(["cp", "-a", str(mount.dataset("db")), str(root / "copy" / "db")], check=True)
            assert mount.end() == 0
        expected = postgres_digest(server.source())
        with running_copy(root / "copy" / "db", "postgres", "postgres") as copy:
            assert copy.digest() == expected.value


def test_one_version_alone(tmp_path: Path) -> None:
    """With ``--version`` only that one is there; one that does not exist is refused before anything is mounted."""
    home = a_home(tmp_path).found()
    home.backup()
    (tmp_path / "acts" / "later").write_bytes(b"later")
    home.backup()
    granted = home.granted("restore", name="look")
    with mounted(home, "--version", "1", granted=granted) as mount:
        assert [name[:6] for name in sorted(os.listdir(mount.folder))] == ["000001", "latest"]
        assert "later" not in os.listdir(mount.dataset("acts"))
        assert mount.end() == 0
    assert run("mount", str(tmp_path / "mnt"), "--version", "7", *granted, *home.where()).code == 2

"""Bags: RFC 8493 as another implementation reads it, and nothing of the documents lost on the way."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import time
from pathlib import Path

import bagit
import pytest

from exclave.registers.bag import payload_name
from support.small_home import Register, SmallHome, run, start


@pytest.fixture
def home(tmp_path: Path) -> SmallHome:
    """A register of documents with one of everything."""
    acts = tmp_path / "acts"
    (acts / "year 2026" / "empty").mkdir(parents=True)
    (acts / "year 2026" / "act-1.txt").write_text("Act 1\n")
    (acts / "big.bin").write_bytes(random.Random(1).randbytes(9_000_000))
    with open(acts / "sparse", "wb") as file:
        file.truncate(3 << 20)
    os.link(acts / "big.bin", acts / "year 2026" / "again.bin")
    os.symlink("act-1.txt", acts / "year 2026" / "link")
    (acts / "õigus – закон.txt").write_text("names are text")
    for name in (b"100%.txt", b"two\nlines", b"not \xff utf-8", b"exclave-bytes=me"):
        (acts / os.fsdecode(name)).write_bytes(b"content of " + name)
    os.mkfifo(acts / "pipe")
    made = SmallHome(tmp_path, [Register("gazette", [("acts", "files", {"path": str(acts)})])]).found()
    made.backup()
    return made


def test_another_reader_accepts_it(home: SmallHome, tmp_path: Path) -> None:
    """The Library of Congress's implementation finds the bag complete and unchanged, and finds each change to it."""
    done = home.ok("export", "acts", "--format", "bagit", "--out", str(tmp_path / "bag"), *home.granted("restore"),
                   *home.where())["exported"]  # fmt: skip
    bag = bagit.Bag(str(tmp_path / "bag"))
    bag.validate()
    assert bag.version_info == (1, 0)
    assert set(bag.algorithms) == {"sha256", "sha512"}
    info = bag.info
    assert info["Exclave-State"] == home.fingerprint
    assert info["Exclave-Version"] == "1"
    assert home.id_of() in info["Exclave-Register"]
    assert len(info["Exclave-Manifest-SHA256"]) == 64
    assert info["Payload-Oxum"] == f"{done['bytes']}.{done['entries']}"
    note = (tmp_path / "bag" / "exclave" / "checkpoint").read_text()
    assert note.startswith("exclave")
    assert "\n\n— " in note
    assert done["renamed"] == 4
    changed = tmp_path / "bag" / "data" / "year 2026" / "act-1.txt"
    changed.write_text("Act 2\n")
    with pytest.raises(bagit.BagValidationError):
        bagit.Bag(str(tmp_path / "bag")).validate()


def test_every_byte_and_name_is_in_it(home: SmallHome, tmp_path: Path) -> None:
    """The list of entries leads from every name of the source, whatever its bytes, to its content in the bag."""
    home.ok("export", "acts", "--format", "bagit", "--out", str(tmp_path / "bag"), *home.granted("restore"),
            *home.where())  # fmt: skip
    found = {}
    for line in (tmp_path / "bag" / "exclave" / "entries.jsonl").read_text().splitlines():
        told = json.loads(line)
        raw = base64.b64decode(told["path_base64"]) if "path_base64" in told else told["path"].encode()
        found[raw] = told
    source = os.fsencode(tmp_path / "acts")
    for folder, folders, files in os.walk(source):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            told = found.pop(os.path.relpath(path, source))
            if "payload" in told:
                with open(path, "rb") as one, open(tmp_path / "bag" / told["payload"], "rb") as other:
                    assert one.read() == other.read()
            elif told["kind"] == "symlink":
                assert base64.b64decode(told["target_base64"]) == os.readlink(path)
            else:
                assert told["kind"] in ("folder", "fifo")
    assert list(found) == [b""]
    assert (tmp_path / "bag" / "data" / "year 2026" / "empty").is_dir()


def test_nobody_else_can_read_it(home: SmallHome, tmp_path: Path) -> None:
    """Whatever the umask, an export is its owner's alone."""
    before = os.umask(0)
    try:
        home.ok("export", "acts", "--format", "bagit", "--out", str(tmp_path / "bag"), *home.granted("restore"),
                *home.where())  # fmt: skip
    finally:
        os.umask(before)
    made = [tmp_path / "bag", *(tmp_path / "bag").rglob("*")]
    assert len(made) > 10
    assert {path.stat().st_mode & 0o7777 for path in made if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o7777 for path in made if path.is_file()} == {0o600}


def test_names_stay_apart() -> None:
    """What is written otherwise can be told from every name that is not, and no two names become one."""
    names = [b"a", b"%41", b"\xff", b"\xff\xfe", b"exclave-bytes=74", b"exclave-bytes=", b"a\rb", b"a\nb", "ÿ".encode()]
    shown = [payload_name(b"dir/" + name) for name in names]
    assert len(set(shown)) == len(names)
    assert all(not set(name) & set("%\r\n") for name in shown)
    assert payload_name("õ/– b".encode()) == "õ/– b"


def test_nothing_half_done_under_the_name(home: SmallHome, tmp_path: Path) -> None:
    """A name that is taken is refused, remains of a killed export are thrown away, and a failure leaves no name."""
    granted = home.granted("restore")
    out = tmp_path / "bag"
    out.mkdir()
    taken = run("export", "acts", "--format", "bagit", "--out", str(out), *granted, *home.where())
    assert taken.code == 5
    out.rmdir()
    remains = tmp_path / "bag.partial"
    remains.mkdir()
    (remains / "half").write_text("of a killed export")
    assert run("export", "acts", "--format", "sql", "--out", str(out), *granted, *home.where()).code == 2
    assert run("export", "nothing", "--format", "bagit", "--out", str(out), *granted, *home.where()).code == 22
    for site in home.sites:
        for pack in home.site(site).rglob("pack/**/*"):
            if pack.is_file() and pack.stat().st_size > 1 << 20:
                pack.rename(tmp_path / f"{site}-{pack.name}")
    failed = run("export", "acts", "--format", "bagit", "--out", str(out), *granted, *home.where())
    assert failed.code == 22, failed.err
    assert not out.exists()
    assert not remains.exists()


def test_a_killed_export(home: SmallHome, tmp_path: Path) -> None:
    """An export that is killed while it writes leaves nothing under its name, and the next one is whole."""
    arguments = ["export", "acts", "--format", "bagit", "--out", str(tmp_path / "bag"), *home.granted("restore")]
    killed = 0
    for wait_s in (0.0, 0.02, 0.05, 0.1):
        process = start(*arguments, *home.where())
        while process.poll() is None and not (tmp_path / "bag.partial").exists():
            time.sleep(0.005)
        time.sleep(wait_s)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if (tmp_path / "bag").exists():
            break
    assert killed
    if not (tmp_path / "bag").exists():
        home.ok(*arguments, *home.where())
    bagit.Bag(str(tmp_path / "bag")).validate()

"""Directory sites on hostile, full and read-only disks."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from exclave.errors import (
    AlreadyExists,
    ConfigError,
    CorruptObject,
    MalformedError,
    MissingObject,
    SiteFull,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.ids import Key
from exclave.sites.contract import MAX_HEAD_BYTES, MAX_OBJECT_BYTES, ObjectStat
from exclave.sites.directory import DirectorySite

KEY = Key("folder/object")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty site's folder, beside a secret that must not be reached."""
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "site"
    (folder / "folder").mkdir(parents=True)
    return folder


def _plant(kind: str, path: Path) -> None:
    if kind == "link":
        path.symlink_to("../../secret")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "oversized":
        path.touch()
        os.truncate(path, MAX_OBJECT_BYTES + 1)


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "socket"])
def test_planted_object(root: Path, kind: str) -> None:
    """What is no plain file is refused by reads and writes, is not listed, and does not hang anybody."""
    _plant(kind, root / KEY)
    site = DirectorySite(str(root))
    for read in (site.get, site.read_head, lambda key: site.get_range(key, 0, 1)):
        with pytest.raises(CorruptObject):
            read(KEY)
    assert site.stat(KEY) is None
    assert list(site.list("")) == []
    with pytest.raises(AlreadyExists):
        site.put_new(KEY, b"mine")
    with pytest.raises(CorruptObject):
        site.put_same(KEY, b"secret")
    with pytest.raises((CorruptObject, SiteUnavailable)):
        site.replace_if(KEY, b"mine", None)
    assert (root.parent / "secret").read_bytes() == b"secret"


def test_planted_folder_link(root: Path) -> None:
    """A folder that is a link leads nowhere: nothing is read, listed or written through it."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "object").write_bytes(b"secret")
    (root / "away").symlink_to(outside)
    site = DirectorySite(str(root))
    key = Key("away/object")
    with pytest.raises(MissingObject):
        site.get(key)
    assert site.stat(key) is None
    assert list(site.list("")) == list(site.list("away/")) == []
    for write in (
        lambda: site.put_new(Key("away/new"), b""),
        lambda: site.put_same(Key("away/new"), b""),
        lambda: site.replace_if(Key("away/new"), b"", None),
    ):
        with pytest.raises(SiteUnavailable) as caught:
            write()
        assert caught.value.facts["permanent"]
    assert os.listdir(outside) == ["object"]


def test_planted_temp_folder_link(root: Path) -> None:
    """Temporary files are not written through a link either."""
    (root / ".tmp").symlink_to(root.parent)
    with pytest.raises(SiteUnavailable):
        DirectorySite(str(root)).put_new(KEY, b"data")
    assert sorted(os.listdir(root.parent)) == ["secret", "site"]


def test_oversized_object(root: Path) -> None:
    """A file over the limit is refused unread, yet listed with its size."""
    _plant("oversized", root / KEY)
    site = DirectorySite(str(root))
    with pytest.raises(CorruptObject, match="at most"):
        site.get(KEY)
    with pytest.raises(CorruptObject):
        site.put_same(KEY, b"x")
    assert list(site.list("")) == [ObjectStat(KEY, MAX_OBJECT_BYTES + 1)]
    os.truncate(root / KEY, MAX_HEAD_BYTES + 1)
    with pytest.raises(CorruptObject):
        site.read_head(KEY)


def test_foreign_names_are_ignored(root: Path) -> None:
    """Files whose names are no keys are left out of listings and left alone."""
    for name in ("UPPER", ".hidden", "sp ace", "new\nline", "folder/~backup", "folder/ü"):
        (root / name).write_bytes(b"x")
    (root / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
    (root / "lost+found").mkdir()
    site = DirectorySite(str(root))
    site.put_new(KEY, b"data")
    assert list(site.list("")) == [ObjectStat(KEY, 4)]
    assert (root / "UPPER").exists()


def test_file_where_a_folder_belongs(root: Path) -> None:
    """A planted file in the place of a folder makes the writes below it fail for good, and reads find nothing."""
    (root / "file").write_bytes(b"x")
    site = DirectorySite(str(root))
    with pytest.raises(SiteUnavailable):
        site.put_new(Key("file/object"), b"")
    with pytest.raises(MissingObject):
        site.get(Key("file/object"))
    assert list(site.list("file/")) == []


def test_missing_root(tmp_path: Path) -> None:
    """An absent root, as of an unmounted disk, is an unavailable site and never an empty one; it is not created."""
    site = DirectorySite(str(tmp_path / "disk"))
    for call in (
        lambda: site.get(KEY),
        lambda: site.stat(KEY),
        lambda: list(site.list("")),
        lambda: site.read_head(KEY),
        lambda: site.put_new(KEY, b""),
        lambda: site.put_same(KEY, b""),
        lambda: site.replace_if(KEY, b"", None),
    ):
        with pytest.raises(SiteUnavailable, match="cannot be opened") as caught:
            call()
        assert caught.value.facts["permanent"]
    assert os.listdir(tmp_path) == []


def test_root_may_be_a_link(root: Path) -> None:
    """The operator's own link to the root is followed."""
    link = root.parent / "link"
    link.symlink_to(root)
    site = DirectorySite(str(link))
    site.put_new(KEY, b"x")
    assert (root / KEY).read_bytes() == b"x"


def test_odd_arguments(root: Path) -> None:
    """A relative root and names that a file system cannot hold are the user's errors."""
    with pytest.raises(ConfigError):
        DirectorySite("site")
    with pytest.raises(MalformedError, match="255"):
        DirectorySite(str(root)).put_new(Key("a" * 299), b"")


def test_held_lock_is_not_waited_for_forever(root: Path) -> None:
    """A lock that a hostile process keeps makes replace_if give up after its bounded wait."""
    now = [0.0]
    site = DirectorySite(
        str(root), clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + 100 * seconds)
    )
    tag = site.replace_if(KEY, b"1", None)
    (lock,) = (root / ".tmp").glob("lock-*")
    with lock.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SiteUnavailable, match="lock"):
            site.replace_if(KEY, b"2", tag)
    site.replace_if(KEY, b"2", tag)


def test_repeated_link_request(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that links, loses the answer, and then says "exists" has still done our write."""
    real = os.link

    def link(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)  # type: ignore[arg-type]
        raise FileExistsError(errno.EEXIST, "exists")

    monkeypatch.setattr(os, "link", link)
    DirectorySite(str(root)).put_new(KEY, b"data")


@pytest.mark.parametrize(
    ("call", "code", "kind"),
    [
        ("write", errno.ENOSPC, SiteFull),
        ("write", errno.EDQUOT, SiteFull),
        ("write", errno.EFBIG, SiteFull),
        ("fsync", errno.ENOSPC, SiteFull),
        ("link", errno.ENOSPC, SiteFull),
        ("mkdir", errno.EROFS, SiteReadOnly),
        ("mkdir", errno.EACCES, SiteReadOnly),
        ("link", errno.EPERM, SiteReadOnly),
        ("write", errno.EIO, SiteUnavailable),
    ],
)
def test_error_kinds(root: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, kind: type) -> None:
    """Each kind of refusal reaches the caller as its own kind of error, and leaves no temporary file."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    site = DirectorySite(str(root))
    site.put_new(KEY, b"")
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(kind) as caught:
        site.put_new(Key("new/object"), b"data")
    assert type(caught.value) is kind
    monkeypatch.undo()
    assert site.stat(Key("new/object")) is None
    assert os.listdir(root / ".tmp") == []


SMALL_DISK = """
import os, subprocess, sys
from exclave.errors import SiteFull, SiteReadOnly
from exclave.ids import Key
from exclave.sites.directory import DirectorySite
root = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], check=True)
site = DirectorySite(root)
site.put_new(Key("a/small"), b"x" * 1000)
try:
    site.put_new(Key("a/large"), b"x" * (2 << 20))
except SiteFull:
    print("full")
assert [item.key for item in site.list("")] == ["a/small"] and os.listdir(root + "/.tmp") == []
site.put_same(Key("a/next"), b"x" * 1000)
tag = site.replace_if(Key("a/head"), b"1", None)
subprocess.run(["mount", "-o", "remount,ro", root], check=True)
for write in (
    lambda: site.put_new(Key("a/new"), b""),
    lambda: site.put_same(Key("a/new"), b""),
    lambda: site.replace_if(Key("a/head"), b"2", tag),
    lambda: DirectorySite(root).put_new(Key("b/new"), b""),
):
    try:
        write()
    except SiteReadOnly:
        print("read-only")
assert site.get(Key("a/head")) == b"1" and site.get(Key("a/small")) == b"x" * 1000
site.put_same(Key("a/small"), b"x" * 1000)
"""


def test_real_full_and_read_only_disk(tmp_path: Path) -> None:
    """A real small disk fills up and later refuses writes; what was stored before stays readable."""
    # In a mount namespace of its own, which the kernel clears away with the process.
    flags = "-m" if os.geteuid() == 0 else "-Urm"
    command = ["unshare", flags, sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["full"] + ["read-only"] * 4, done.stderr

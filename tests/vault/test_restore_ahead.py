"""A restore asks ahead: several requests at once, within its memory, with everything in its place and order."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from exclave.errors import MissingObject, SiteUnavailable
from exclave.formats.manifest import Ref
from exclave.ids import Key, Label
from exclave.sites.memory import MemorySite
from exclave.vault import restore
from exclave.vault.opener import runs
from support.hostile import PassThrough
from support.vault import Vault, picture

ONE = Label("one")
MIB = 1 << 20


class FarSite(PassThrough):
    """A site behind a long line; remembers how many requests, and bytes, were on their way at once."""

    def __init__(self, inner: MemorySite, delay_s: float) -> None:
        super().__init__(inner)
        self.delay_s = delay_s
        self.most = self.most_bytes = self._now = self._bytes = 0
        self._lock = threading.Lock()

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        with self._lock:
            self._now += 1
            self._bytes += length
            self.most, self.most_bytes = max(self.most, self._now), max(self.most_bytes, self._bytes)
        time.sleep(self.delay_s)
        with self._lock:
            self._now -= 1
            self._bytes -= length
        return super().get_range(key, offset, length)


def large_tree(src: Path, size: int) -> None:
    src.mkdir()
    (src / "large").write_bytes(random.Random(1).randbytes(size))


def test_a_far_site_is_asked_for_much_at_once(tmp_path: Path) -> None:
    """Several requests of some MiB are on their way over a long line, never more bytes than there is room for."""
    near = MemorySite("one")
    vault = Vault(tmp_path / "cache", {ONE: near})
    large_tree(tmp_path / "src", 96 * MIB)
    version = vault.back_up(tmp_path / "src")
    far = FarSite(near, 0.04)
    vault.restore(version, tmp_path / "out", {ONE: far})
    assert picture(tmp_path / "out") == picture(tmp_path / "src")
    assert 6 <= far.most <= restore.FETCHERS
    assert 24 * MIB <= far.most_bytes <= restore.FLYING_BYTES


@pytest.mark.parametrize("room", [1, 1 << 16, 1 << 22])
def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """However little may be on its way, a single run always may: the restore comes to its end."""
    monkeypatch.setattr(restore, "FLYING_BYTES", room)
    vault = Vault(tmp_path / "cache")
    large_tree(tmp_path / "src", 9 * MIB)
    version = vault.back_up(tmp_path / "src")
    vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(tmp_path / "src")


def test_many_windows_on_their_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to files of other windows, folders that are left late, their times: all is right with tiny windows too."""
    monkeypatch.setattr(restore, "WINDOW_RECORDS", 3)
    src, choose = tmp_path / "src", random.Random(2)
    for number in range(40):
        folder = src / f"d{number % 7}" / f"e{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(choose.randbytes(choose.randrange(30_000)))
        (folder / f"s{number}").symlink_to("nowhere")
        if number > 5:
            os.link(src / "d0" / "e0" / "f0", folder / f"h{number}")
    for folder in sorted((p for p in src.rglob("*") if p.is_dir() and not p.is_symlink()), reverse=True):
        os.utime(folder, ns=(choose.randrange(10**18),) * 2)
    near = MemorySite("one")
    vault = Vault(tmp_path / "cache", {ONE: near})
    version = vault.back_up(src)
    vault.restore(version, tmp_path / "out", {ONE: FarSite(near, 0.002)})
    assert picture(tmp_path / "out") == picture(src)


class Breaking(PassThrough):
    """Gives so many ranges, then no more."""

    left = 6

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise SiteUnavailable("the line is cut")
        return super().get_range(key, offset, length)


def test_a_line_that_is_cut_with_much_on_its_way(tmp_path: Path) -> None:
    """The failure is told, no thread goes on, and no file is left open."""
    near = MemorySite("one")
    vault = Vault(tmp_path / "cache", {ONE: near})
    large_tree(tmp_path / "src", 48 * MIB)
    version = vault.back_up(tmp_path / "src")
    files = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with pytest.raises(MissingObject, match="no site has a good copy"):
        vault.restore(version, tmp_path / "out", {ONE: Breaking(near)})
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() == threads


def test_runs_are_no_longer_than_asked() -> None:
    """Neighbours are grouped up to a length; what lies apart, or is longer alone, is a run of its own."""
    refs = [Ref(b"p" * 32, at, length, length, b"i" * 32) for at, length in [(0, 60), (60, 30), (90, 20), (10**6, 500)]]
    assert [[ref.offset for ref in run] for run in runs(refs, most=100)] == [[0, 60], [90], [10**6]]

"""Long objects are written past the page cache where that is possible, and come out the same where it is not."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
from pathlib import Path

import pytest

from exclave.errors import SiteFull
from exclave.ids import Key
from exclave.sites.directory import DirectorySite

KEY = Key("state/reg/pack/ab/abcd")


def aligned(length: int) -> memoryview:
    """Random bytes that begin at the start of a page."""
    view = memoryview(mmap.mmap(-1, length))
    view[:] = random.Random(length).randbytes(length)
    return view


@pytest.mark.parametrize("length", [1, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20])
@pytest.mark.parametrize("shift", [0, 1])
def test_any_length_from_anywhere(tmp_path: Path, length: int, shift: int) -> None:
    """Whatever its length, and wherever its bytes lie in memory, an object is stored whole."""
    data = aligned(length + shift)[shift:]
    site = DirectorySite(str(tmp_path))
    site.put_same(KEY, data)
    assert site.get(KEY) == data
    site.put_same(KEY, data)


def test_the_page_cache_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bulk pack in a room's memory is written with O_DIRECT: the reason why a backup is as fast as its disk."""
    flags: list[int] = []
    real = os.write

    def write(fd: int, data: memoryview) -> int:
        flags.append(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    DirectorySite(str(tmp_path)).put_same(KEY, aligned(16 << 20))
    assert flags[0] == os.O_DIRECT


@pytest.mark.parametrize("first", [1, 511, 4096, 1_000_001])
def test_a_short_write_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """A kernel that takes only some of the bytes gets the rest, also where it may no longer be written directly."""
    real = os.write
    calls = 0

    def write(fd: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT and calls > 1:
            raise OSError(errno.EINVAL, "not aligned")
        if calls == 1:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
            done = real(fd, bytes(data[:first]))
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
            return done
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    data = aligned(2 << 20)
    site = DirectorySite(str(tmp_path))
    site.put_same(KEY, data)
    assert site.get(KEY) == data
    assert calls == 3


def test_a_full_disk_is_still_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only "not like this" is tried again another way; every other error keeps its meaning."""

    def write(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    site = DirectorySite(str(tmp_path))
    with pytest.raises(SiteFull):
        site.put_same(KEY, aligned(1 << 20))
    assert site.stat(KEY) is None
    assert not [name for name in os.listdir(tmp_path / ".tmp") if not name.startswith("lock")]


def test_a_file_system_that_knows_no_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the flag is refused, the object goes through the page cache."""
    real = fcntl.fcntl

    def refuse(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return int(real(fd, command, argument))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    data = aligned(2 << 20)
    site = DirectorySite(str(tmp_path))
    site.put_same(KEY, data)
    assert site.get(KEY) == data

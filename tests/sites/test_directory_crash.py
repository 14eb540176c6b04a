"""What a directory site holds after each of its system calls failed or was the last one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exclave.errors import OutcomeUnknown, SiteUnavailable
from exclave.ids import Key
from exclave.sites.directory import DirectorySite
from support.hostile import Killed

CALLS = ("mkdir", "write", "fsync", "link", "rename", "unlink")
KEY = Key("state/reg/pack/ab/abcd")
HEAD = Key("state/reg/ledger/checkpoint")
DATA = bytes(range(256)) * 40


class Interceptor:
    """Replaces the system calls that change a disk: spoils the ``nth`` one and notes all."""

    def __init__(self, nth: int = 0, mode: str = "") -> None:
        self.nth = nth
        self.mode = mode
        self.trace: list[tuple[str, str]] = []
        self.dead = False
        self.real = {name: getattr(os, name) for name in CALLS}

    def call(self, name: str, *args: object, **kwargs: object) -> object:
        if self.dead:
            raise Killed
        self.trace.append((name, _place(name, args, kwargs)))
        real = self.real[name]
        if len(self.trace) != self.nth:
            return real(*args, **kwargs)
        if self.mode in ("half", "killed-half") and name == "write":
            fd, data = args
            real(fd, bytes(data)[: len(data) // 2])  # type: ignore[arg-type,call-overload]
        elif self.mode in ("after", "killed-after"):
            real(*args, **kwargs)
        if self.mode.startswith("killed"):
            self.dead = True
            raise Killed
        raise OSError(errno.EIO, "spoilt on purpose")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        try:
            for name in CALLS:
                setattr(os, name, lambda *a, _name=name, **k: self.call(_name, *a, **k))
            yield
        finally:
            for name, real in self.real.items():
                setattr(os, name, real)


def _place(name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """The path that a call works on."""
    if name in ("write", "fsync"):
        return os.readlink(f"/proc/self/fd/{args[0]}")
    folder = kwargs.get("dst_dir_fd", kwargs.get("dir_fd"))
    return os.readlink(f"/proc/self/fd/{folder}") + "/" + str(args[1] if name in ("link", "rename") else args[0])


def _head_tag(site: DirectorySite) -> str:
    head = site.read_head(HEAD)
    assert head is not None
    return head.tag


Operation = Callable[[DirectorySite], object]
OPERATIONS: dict[str, tuple[Key, Operation, Operation, set[bytes | None]]] = {
    # name: key, preparation, operation, contents that may be found afterwards
    "put_new": (KEY, lambda s: None, lambda s: s.put_new(KEY, DATA), {None, DATA}),
    "put_same": (KEY, lambda s: None, lambda s: s.put_same(KEY, DATA), {None, DATA}),
    "put_same-again": (KEY, lambda s: s.put_new(KEY, DATA), lambda s: s.put_same(KEY, DATA), {DATA}),
    "first-head": (HEAD, lambda s: None, lambda s: s.replace_if(HEAD, b"one", None), {None, b"one"}),
    "next-head": (
        HEAD,
        lambda s: s.replace_if(HEAD, b"one", None),
        lambda s: s.replace_if(HEAD, b"two", _head_tag(s)),
        {b"one", b"two"},
    ),
}


def _found(site: DirectorySite, key: Key) -> bytes | None:
    return None if site.stat(key) is None else site.get(key)


@pytest.mark.parametrize("mode", ["before", "half", "after", "killed-before", "killed-half", "killed-after"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_crash_matrix(tmp_path: Path, operation: str, mode: str) -> None:
    """Whichever call fails or is the last: the object is whole or absent, and repeating the operation completes it."""
    key, prepare, act, allowed = OPERATIONS[operation]
    nth = 0
    while True:
        nth += 1
        root = tmp_path / str(nth)
        root.mkdir()
        prepare(DirectorySite(str(root)))
        interceptor = Interceptor(nth, mode)
        outcome: BaseException | None = None
        with interceptor.at_work():
            try:
                act(DirectorySite(str(root)))
            except (Killed, SiteUnavailable, OutcomeUnknown) as error:
                outcome = error
        reopened = DirectorySite(str(root))
        found = _found(reopened, key)
        assert found in allowed, interceptor.trace
        assert [item.key for item in reopened.list("")] == ([] if found is None else [key])
        if outcome is None:
            assert found == {"first-head": b"one", "next-head": b"two"}.get(operation, DATA)
        elif isinstance(outcome, SiteUnavailable) and operation in ("put_new", "first-head", "next-head"):
            assert found == {"next-head": b"one"}.get(operation), "said that nothing happened, but it did"
        _complete(reopened, operation, found)
        if nth > len(interceptor.trace):
            break
    assert nth > 4, "the matrix has lost its rows"


def _complete(site: DirectorySite, operation: str, found: bytes | None) -> None:
    if operation.startswith("put"):
        site.put_same(KEY, DATA)
        assert site.get(KEY) == DATA
    else:
        site.replace_if(HEAD, b"three", None if found is None else _head_tag(site))
        assert site.get(HEAD) == b"three"


def test_order_of_durable_calls(tmp_path: Path) -> None:
    """Bytes reach the disk before the name, the name before success, and each new folder's name before that."""
    interceptor = Interceptor()
    site = DirectorySite(str(tmp_path))
    with interceptor.at_work():
        site.put_new(Key("a/b/object"), DATA)
    trace = [(name, os.path.relpath(place, tmp_path)) for name, place in interceptor.trace]
    temp = next(place for name, place in trace if name == "write")
    assert temp.startswith(".tmp/")
    assert trace == [
        ("mkdir", ".tmp"),
        ("fsync", "."),
        ("mkdir", "a"),
        ("fsync", "."),
        ("mkdir", "a/b"),
        ("fsync", "a"),
        ("write", temp),
        ("fsync", temp),
        ("link", "a/b/object"),
        ("unlink", temp),
        ("fsync", "a/b"),
    ]
    interceptor.trace.clear()
    with interceptor.at_work():
        tag = site.replace_if(Key("a/b/head"), b"1", None)
        interceptor.trace.clear()
        site.replace_if(Key("a/b/head"), b"2", tag)
    assert [name for name, _ in interceptor.trace] == ["write", "fsync", "rename", "unlink", "fsync"]


def test_short_writes_are_continued(tmp_path: Path) -> None:
    """A system that takes only some bytes at a time still gets them all."""
    real = os.write
    site = DirectorySite(str(tmp_path))
    try:
        os.write = lambda fd, data: real(fd, bytes(data)[:100])  # type: ignore[assignment]
        site.put_new(KEY, DATA)
    finally:
        os.write = real
    assert site.get(KEY) == DATA


WRITER = """
import sys
from exclave.ids import Key
from exclave.sites.directory import DirectorySite
site = DirectorySite(sys.argv[1])
tag = None
for number in range(100000):
    site.put_new(Key(f"a/{number % 7}/{number:06d}"), b"%06d" % number * 2000)
    tag = site.replace_if(Key("a/head"), b"%06d" % number, tag)
    print(number, flush=True)
"""


def test_killed_process(tmp_path: Path) -> None:
    """A writer that is killed for real leaves whole objects, all that it reported among them."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            done = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
    done = int(rest[-1]) if rest and rest[-1].isdigit() else done
    site = DirectorySite(str(tmp_path))
    found = {item.key: site.get(item.key) for item in site.list("")}
    head = int(found.pop(Key("a/head")))
    assert head in (done, done + 1)
    assert len(found) in (done + 1, done + 2)
    assert all(data == key[-6:].encode() * 2000 for key, data in found.items())
    site.replace_if(Key("a/head"), b"next", site.read_head(Key("a/head")).tag)  # type: ignore[union-attr]


def test_stray_temporary_files_are_swept(tmp_path: Path) -> None:
    """The first write removes temporary files over a day old, and nothing else."""
    temps = tmp_path / ".tmp"
    temps.mkdir()
    old, young, foreign = temps / ("a" * 32), temps / ("b" * 32), temps / "notes"
    for path in (old, young, foreign):
        path.write_bytes(b"x")
    for path in (old, foreign):
        os.utime(path, (0, 0))
    DirectorySite(str(tmp_path)).put_new(KEY, DATA)
    assert sorted(temps.iterdir()) == [young, foreign]

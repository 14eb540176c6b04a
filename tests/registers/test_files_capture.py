"""Folders that change while they are captured, and what cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from exclave.errors import SourceUnavailable
from exclave.formats.entry import Captured, LiveContent
from exclave.registers.files import FolderCapture
from exclave.registers.folder_digest import folder_digest
from support.vault import TIME, Vault, picture


class Meddled(FolderCapture):
    """Calls ``meddle(path)`` between the listing of a file and its opening."""

    def __init__(self, root: Path, meddle: Callable[[bytes], None]) -> None:
        super().__init__(root, lambda: TIME)
        self._meddle = meddle

    def items(self) -> Iterator[Captured]:
        for item in super().entries():
            self._meddle(item.entry.path)
            yield item


class Restless:
    """A file's content, with ``after_begin`` and ``before_end`` called at these moments of each reading."""

    def __init__(self, inner: LiveContent, after_begin: Callable[[], None], before_end: Callable[[], None]) -> None:
        self._inner, self._after_begin, self._before_end = inner, after_begin, before_end

    def begin(self) -> object:
        found = self._inner.begin()
        self._after_begin()
        return found

    def unchanged(self) -> bool:
        self._before_end()
        return self._inner.unchanged()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def _nothing() -> None: ...


class RestlessCapture(FolderCapture):
    """The file ``b`` is ``Restless``."""

    def __init__(
        self, root: Path, *, after_begin: Callable[[], None] = _nothing, before_end: Callable[[], None] = _nothing
    ) -> None:
        super().__init__(root, lambda: TIME)
        self._moments = after_begin, before_end

    def items(self) -> Iterator[Captured]:
        for item in super().entries():
            if item.entry.path == b"b" and item.live is not None:
                yield msgspec.structs.replace(item, live=Restless(item.live, *self._moments))
            else:
                yield item


@pytest.fixture
def src(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    root.mkdir()
    for name in "abc":
        (root / name).write_bytes(name.encode() * 1000)
        os.utime(root / name, ns=(0, 10**18))
    return root


def _back_up(tmp_path: Path, capture: FolderCapture) -> Path:
    vault = Vault(tmp_path / "cache")
    sink, _ = vault.restore(vault.back_up(capture.items()), tmp_path / "out")
    assert sink.unrestored.count == 0, sink.unrestored.first
    return tmp_path / "out"


def _once(path: bytes, act: Callable[[], None]) -> Callable[[bytes], None]:
    left = [act]
    return lambda found: left.pop()() if found == path and left else None


def test_a_file_that_changed_once_is_captured_as_it_is_afterwards(src: Path, tmp_path: Path) -> None:
    """Rewritten between listing and reading, longer or shorter: read again, with nothing to report."""
    for n, size in enumerate([5000, 3, 0]):
        work = tmp_path / f"{n}"
        capture = Meddled(src, _once(b"b", lambda size=size: (src / "b").write_bytes(b"n" * size)))  # type: ignore[misc]
        out = _back_up(work, capture)
        assert picture(out) == picture(src)
        assert not capture.notes.changed


@pytest.mark.parametrize("size", [1000, 3_000_000])
@pytest.mark.parametrize("step", [-10, 10])
def test_a_file_that_never_rests_is_reported(step: int, size: int, src: Path, tmp_path: Path) -> None:
    """It grows or shrinks during each reading: captured as last seen, named in the notes, not trusted the next time."""
    (src / "b").write_bytes(b"b" * size)

    def change() -> None:
        os.truncate(src / "b", os.stat(src / "b").st_size + step)

    vault = Vault(tmp_path / "cache")
    capture = RestlessCapture(src, after_begin=change)
    version = vault.back_up(capture.items())
    assert capture.notes.changed == ["b"]
    vault.restore(version, tmp_path / "out")
    assert abs((tmp_path / "out" / "b").stat().st_size - size) <= 40
    assert folder_digest(tmp_path / "out").value == version.datasets[0].digest
    vault.restore(vault.back_up(src), tmp_path / "again")
    assert picture(tmp_path / "again") == picture(src)


def test_many_files_that_change_once_while_they_are_read(tmp_path: Path) -> None:
    """Content and hash of each are those of its last reading, whatever the first one left on its way."""
    src = tmp_path / "src"
    src.mkdir()
    for n in range(60):
        (src / f"{n:02}").write_bytes(bytes([n]) * 400_000)

    class AllRestless(FolderCapture):
        def items(self) -> Iterator[Captured]:
            for item in super().entries():
                if item.live is None:
                    yield item
                    continue
                left = [src / os.fsdecode(item.entry.path)]

                def change(left: list[Path] = left) -> None:
                    if left:
                        path = left.pop()
                        path.write_bytes(os.urandom(300_000 if path.name > "30" else 0))

                yield msgspec.structs.replace(item, live=Restless(item.live, _nothing, change))

    vault = Vault(tmp_path / "cache")
    version = vault.back_up(AllRestless(src, lambda: TIME).items())
    vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)
    assert folder_digest(tmp_path / "out").value == version.datasets[0].digest


def test_files_that_vanish_are_noted(src: Path, tmp_path: Path) -> None:
    """A file, and a folder, that go away between listing and reading are left out and noted."""
    (src / "d").mkdir()

    def vanish(path: bytes) -> None:
        if path == b"b":
            (src / "b").unlink()
        if path == b"c":
            (src / "d").rmdir()

    capture = Meddled(src, vanish)
    out = _back_up(tmp_path, capture)
    assert sorted(os.listdir(out)) == ["a", "c"]
    assert capture.notes.gone == ["b", "d"]


def test_a_file_that_vanishes_while_it_is_read_again(src: Path, tmp_path: Path) -> None:
    """Changed during the first reading and gone before the second: left out, and all else is captured."""

    def vanish() -> None:
        (src / "b").write_bytes(b"other")
        (src / "b").unlink()

    capture = RestlessCapture(src, before_end=vanish)
    out = _back_up(tmp_path, capture)
    assert sorted(os.listdir(out)) == ["a", "c"]
    assert capture.notes.gone == ["b"]


def test_a_hard_link_whose_first_name_vanishes(src: Path, tmp_path: Path) -> None:
    """The content is captured under the other name instead of a link to nothing."""
    os.link(src / "a", src / "z")
    out = _back_up(tmp_path, Meddled(src, _once(b"a", (src / "a").unlink)))
    assert (out / "z").read_bytes() == b"a" * 1000


def test_a_hard_link_whose_first_name_becomes_another_file(src: Path, tmp_path: Path) -> None:
    """The other name keeps the content that it has, and does not become a link to the newcomer."""
    os.link(src / "a", src / "z")

    def replace() -> None:
        (src.parent / "new").write_bytes(b"newcomer")
        os.replace(src.parent / "new", src / "a")

    out = _back_up(tmp_path, Meddled(src, _once(b"a", replace)))
    assert (out / "a").read_bytes() == b"newcomer"
    assert (out / "z").read_bytes() == b"a" * 1000


def test_a_file_that_becomes_something_else_does_not_hang(src: Path, tmp_path: Path) -> None:
    """A FIFO, folder, link or socket in place of a listed file ends the capture at once, in Exclave's words."""

    def fifo() -> None:
        (src / "b").unlink()
        os.mkfifo(src / "b")

    def folder() -> None:
        (src / "b").unlink()
        (src / "b").mkdir()

    def link() -> None:
        (src / "b").rmdir()
        (src / "b").symlink_to("/etc/passwd")

    vault = Vault(tmp_path / "cache")
    with pytest.raises(SourceUnavailable):
        vault.back_up(Meddled(src, _once(b"b", fifo)).items())
    (src / "b").unlink()
    (src / "b").write_text("file")
    with pytest.raises(SourceUnavailable):
        vault.back_up(Meddled(src, _once(b"b", folder)).items())
    (src / "b").rmdir()
    (src / "b").write_text("file")
    (src / "b").unlink()
    (src / "b").mkdir()
    (src / "keep").write_text("x")
    vault.restore(vault.back_up(src), tmp_path / "out")
    link()
    assert vault.back_up(src).manifest


def test_what_was_written_a_moment_ago_is_read_again(src: Path, tmp_path: Path) -> None:
    """A change within one tick of the file system's clock, of the same length, is not missed by the next version."""
    vault = Vault(tmp_path / "cache")
    (src / "a").write_bytes(b"1" * 1000)
    stamp = os.stat(src / "a")
    vault.back_up(src)
    with (src / "a").open("r+b") as file:
        file.write(b"2" * 1000)
    os.utime(src / "a", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    vault.restore(vault.back_up(src), tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == b"2" * 1000


def test_a_source_that_is_no_folder(tmp_path: Path) -> None:
    """A missing source, or a file in its place, is unavailable."""
    (tmp_path / "file").touch()
    for name in ["file", "missing"]:
        with pytest.raises(SourceUnavailable):
            list(FolderCapture(tmp_path / name, lambda: TIME).entries())


def test_paths_longer_than_the_system_allows_are_not_left_out_silently(tmp_path: Path) -> None:
    """A tree deeper than PATH_MAX ends the capture with an error."""
    start = os.getcwd()
    (tmp_path / "src").mkdir()
    os.chdir(tmp_path / "src")
    try:
        for _ in range(22):
            os.mkdir("n" * 200)
            os.chdir("n" * 200)
    finally:
        os.chdir(start)
    with pytest.raises(SourceUnavailable):
        list(FolderCapture(tmp_path / "src", lambda: TIME).entries())
    subprocess.run(["rm", "-rf", str(tmp_path / "src")], check=True)


def test_skipped_paths_are_left_out_with_all_below(src: Path, tmp_path: Path) -> None:
    """``skip`` takes whole folders out, and only these."""
    (src / "d" / "deep").mkdir(parents=True)
    (src / "d" / "deep" / "x").touch()
    (src / "dd").touch()
    found = [i.entry.path for i in FolderCapture(src, lambda: TIME, skip=frozenset({b"d", b"a"})).entries()]
    assert found == [b"", b"b", b"c", b"dd"]


UNREADABLE = """
import os, sys
from pathlib import Path
from exclave.errors import SourceUnavailable
from exclave.registers.files import FolderCapture
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    for item in FolderCapture(Path(sys.argv[1]), lambda: 0).entries():
        if item.live is not None and item.live.begin():
            list(item.live.blocks())
except SourceUnavailable as error:
    print(error.message)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
@pytest.mark.parametrize("kind", ["file", "folder", "search"])
def test_what_may_not_be_read_ends_the_capture(kind: str) -> None:
    """An unreadable file, an unlistable folder or an unsearchable one is named; nothing is left out in silence."""
    import shutil
    import tempfile

    work = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        work.chmod(0o755)
        (work / "d").mkdir()
        (work / "d" / "secret").write_text("x")
        {"file": work / "d" / "secret"}.get(kind, work / "d").chmod({"file": 0, "folder": 0o111, "search": 0o444}[kind])
        done = subprocess.run([sys.executable, "-c", UNREADABLE, str(work)], capture_output=True, text=True, check=True)
        assert ("secret" if kind != "folder" else "/d") in done.stdout
    finally:
        shutil.rmtree(work)


def test_a_digest_of_a_folder_with_a_long_hole(tmp_path: Path) -> None:
    """The digest of a restored folder is the captured one, and a hole does not have to fit into memory."""
    (tmp_path / "src").mkdir()
    with (tmp_path / "src" / "f").open("wb") as file:
        file.truncate(600 << 20)
    vault = Vault(tmp_path / "cache")
    vault.restore(version := vault.back_up(tmp_path / "src"), tmp_path / "out")
    assert folder_digest(tmp_path / "out").value == version.datasets[0].digest

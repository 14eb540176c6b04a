"""The generated gazette: the same for the same seed, large enough, and strange enough."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from exclave.demo.gazette import (
    KNOWN_PHRASE,
    REFERENCE_ACT,
    GazetteFacts,
    change_gazette,
    gazette_reference,
    write_gazette,
)
from exclave.demo.oddities import ATTRIBUTE, OUTSIDE, SPARSE_BYTES
from exclave.errors import TargetNotEmpty, UsageError

SEED = 7
Written = tuple[Path, GazetteFacts]


def tree_digest(folder: Path) -> str:
    """Everything that a faithful copy keeps: names, kinds, modes, times, link counts and targets, attributes, bytes."""
    total = hashlib.sha256()
    for where, folders, files in os.walk(os.fsencode(folder)):
        folders.sort()
        for name in [b".", *sorted(files), *sorted(folders)]:
            path = os.path.join(where, name)
            status = os.lstat(path)
            is_file = stat.S_ISREG(status.st_mode)
            content = b""
            if is_file:
                with open(path, "rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").digest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            attributes = {} if stat.S_ISLNK(status.st_mode) else {n: os.getxattr(path, n) for n in os.listxattr(path)}
            relative = os.path.relpath(path, os.fsencode(folder))
            links = status.st_nlink if is_file else 0
            total.update(repr((relative, status.st_mode, status.st_mtime_ns, links, content, attributes)).encode())
    return total.hexdigest()


@pytest.fixture(scope="module")
def gazette(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("gazette") / "a"
    return folder, write_gazette(folder, seed=SEED, scale=1)


def acts_of(folder: Path) -> dict[str, dict[str, object]]:
    return {line["act"]: line for line in map(json.loads, (folder / "index.jsonl").read_text().splitlines())}


def check_acts(folder: Path) -> None:
    """Every act of the index, and no other, is whole on disk."""
    index = acts_of(folder)
    assert {str(path.parent.relative_to(folder / "acts")) for path in folder.glob("acts/*/*/act.json")} == set(index)
    for name, line in index.items():
        act = folder / "acts" / name
        record = json.loads((act / "act.json").read_bytes())
        assert len(record["versions"]) == line["version"]
        assert os.readlink(act / "latest") == f"v{line['version']}.txt"
        for version in record["versions"]:
            text = (act / version["file"]).read_bytes()
            assert hashlib.sha256(text).hexdigest() == version["sha256"]
            assert text.endswith(f"Remember: {KNOWN_PHRASE}.\n".encode())
            assert text.count(KNOWN_PHRASE.encode()) == 1


def test_same_seed_same_folder_also_after_days_of_work(gazette: Written, tmp_path: Path) -> None:
    """Two folders of one seed agree to the nanosecond whatever the umask, before and after two days of changes."""
    folder, facts = gazette
    before = os.umask(0o077)
    try:
        assert write_gazette(tmp_path / "b", seed=SEED, scale=1) == facts
    finally:
        os.umask(before)
    first = tree_digest(tmp_path / "b")
    assert first == tree_digest(folder)
    days = [change_gazette(tmp_path / "b", SEED) for _ in range(2)]
    assert [day.day for day in days] == [1, 2]
    assert days[0].amended != days[1].amended
    write_gazette(tmp_path / "c", seed=SEED, scale=1)
    assert [change_gazette(tmp_path / "c", SEED) for _ in range(2)] == days
    assert tree_digest(tmp_path / "c") == tree_digest(tmp_path / "b") != first


def test_another_seed_is_another_gazette(gazette: Written) -> None:
    """The reference act of another seed has another text."""
    assert gazette_reference(seed=SEED).expected != gazette_reference(seed=SEED + 1).expected


def test_size_and_counts(gazette: Written) -> None:
    """At least 2,000 whole acts, 60 to 100 MB, and counts that agree with what lies there."""
    folder, facts = gazette
    check_acts(folder)
    assert facts.acts == len(acts_of(folder)) >= 2000
    assert facts.versions == len(list(folder.glob("acts/*/*/v*.txt")))
    assert 60_000_000 <= facts.bytes <= 100_000_000
    names = [(where, name) for where, _, files in os.walk(folder) for name in files]
    assert sum(stat.S_ISREG(os.lstat(os.path.join(*name)).st_mode) for name in names) == facts.files
    assert len(list(folder.glob("acts/*/*/v*.html"))) > 100
    assert all(path.stat().st_size >= 4 << 20 for path in (folder / "annexes").iterdir())


def test_scripts(gazette: Written) -> None:
    """Names and titles come in Latin with diacritics, Cyrillic, Arabic, Hebrew and Han, and one name is not UTF-8."""
    folder, _ = gazette
    names = {path.name for path in folder.glob("acts/*/*/*")}
    assert {"Перевод на русский.txt", "ترجمة عربية.txt", "תרגום לעברית.txt", "中文譯本.txt"} <= names
    assert b"avis-l\xe9gal-1994.txt" in os.listdir(os.fsencode(folder / "desk"))


def test_oddities(gazette: Written) -> None:
    """Links, modes, holes, pipes and attributes are as promised."""
    folder, facts = gazette
    desk = folder / "desk"
    assert os.readlink(desk / "outside") == OUTSIDE
    assert not (desk / "dangling").exists()
    assert list((desk / "tühi kaust").iterdir()) == []
    assert stat.S_ISFIFO(os.lstat(desk / "inbox").st_mode)
    modes = {name: stat.S_IMODE(os.lstat(desk / name).st_mode) for name in ("sealed-note.txt", "print.sh", "shared")}
    assert modes == {"sealed-note.txt": 0o400, "print.sh": 0o751, "shared": 0o2775}
    sparse = os.stat(desk / "scan.img")
    assert sparse.st_size == SPARSE_BYTES > 4 * 512 * sparse.st_blocks
    annex = next((folder / "annexes").iterdir())
    linked = folder / "acts" / annex.name[:9].replace("-", "/") / "kaart.tif"
    assert os.path.samefile(annex, linked)
    assert os.stat(folder / "acts" / REFERENCE_ACT / "v1.txt").st_mtime_ns % 1_000_000_000 != 0
    assert facts.has_attribute == (ATTRIBUTE[0] in os.listxattr(desk / "marked.txt"))


def test_days_work_is_small_and_leaves_whole_acts(tmp_path: Path) -> None:
    """A day amends one act in a hundred, adds three, removes one, spares the reference act, and changes under 2 %."""
    facts = write_gazette(tmp_path / "g", seed=3, scale=1)
    before = acts_of(tmp_path / "g")
    sizes = {path: (os.lstat(path).st_mtime_ns, os.lstat(path).st_size) for path in (tmp_path / "g").rglob("*")}
    change = change_gazette(tmp_path / "g", 3)
    after = acts_of(tmp_path / "g")
    check_acts(tmp_path / "g")
    assert len(change.amended) == facts.acts // 100
    assert set(after) == (set(before) | set(change.added)) - set(change.removed)
    assert {name for name in set(before) & set(after) if before[name] != after[name]} == set(change.amended)
    assert REFERENCE_ACT not in (*change.amended, *change.removed)
    changed = [
        os.lstat(path).st_size
        for path in (tmp_path / "g").rglob("*")
        if path.is_file() and sizes.get(path) != (os.lstat(path).st_mtime_ns, os.lstat(path).st_size)
    ]
    assert sum(changed) < 0.02 * facts.bytes
    assert list((tmp_path / "g").rglob("*.new")) == []


@pytest.mark.parametrize("scale", [0, -1, 76])
def test_impossible_scales(tmp_path: Path, scale: int) -> None:
    """A scale that the numbering cannot hold is refused before anything is written."""
    with pytest.raises(UsageError):
        write_gazette(tmp_path / "g", seed=1, scale=scale)
    assert list(tmp_path.iterdir()) == []


def test_full_folder_is_refused(tmp_path: Path) -> None:
    """Nothing is written over what lies there."""
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(TargetNotEmpty):
        write_gazette(tmp_path, seed=1, scale=1)
    assert os.listdir(tmp_path) == ["mine"]


def test_reference_is_on_disk(gazette: Written) -> None:
    """The text that the reference query expects is the newest one on disk."""
    folder, _ = gazette
    expected = gazette_reference(seed=SEED).expected
    assert (folder / "acts" / REFERENCE_ACT / "latest").read_text() == expected["text"]

"""Versions made with the last catalogue at hand are those that would be made without it."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from exclave.formats.manifest import Record
from exclave.formats.paths import pack_prefix
from exclave.ids import Digest
from exclave.registers.folder_digest import folder_digest
from exclave.vault import tree
from support.vault import REGISTER, STATE, Vault, picture

NAMES = [f"{n:02}" for n in range(14)]


def rest() -> None:
    """Until what was just written is old enough to be known by its stamp."""
    end = time.monotonic() + 0.06
    while time.monotonic() < end:
        os.sched_yield()


def plant(root: Path, rng: random.Random) -> None:
    for folder in NAMES:
        for below in ("", "inner"):
            place = root / folder / below
            place.mkdir(parents=True)
            for name in NAMES[: rng.randrange(len(NAMES))]:
                (place / name).write_bytes(rng.randbytes(rng.choice([0, 10, 3000])))


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def edit(root: Path, rng: random.Random) -> str:
    """One random change; what it was."""
    path = rng.choice(files(root))
    new = path.with_name(f"{rng.randrange(100):02}-new")
    what = rng.choice(["write", "mode", "touch", "delete", "add", "link", "symlink", "xattr", "rename", "move", "kind"])
    if what == "write":
        path.write_bytes(rng.randbytes(rng.choice([0, 10, 3000])))
    elif what == "mode":
        path.chmod(rng.choice([0o600, 0o644, 0o755]))
    elif what == "touch":
        os.utime(path)
    elif what == "delete":
        path.unlink()
    elif what == "add" or new.exists() or new.is_symlink():
        path.with_name(f"added-{rng.randrange(10**9)}").write_bytes(b"new")
    elif what == "link":
        os.link(path, new)
    elif what == "symlink":
        new.symlink_to("somewhere")
    elif what == "xattr":
        os.setxattr(path, "user.mark", rng.randbytes(3))
    elif what == "rename":
        path.rename(new)
    elif what == "move":
        path.parent.rename(path.parent.with_name(f"moved-{rng.randrange(10**9)}"))
    else:
        path.unlink()
        path.mkdir()
        (path / "below").write_bytes(b"it was a file")
    return what


def records(vault: Vault, manifest: Digest) -> list[Record]:
    reader = vault.reader()
    root = reader.root(manifest)
    return [record for leaf in reader.leaves(root.datasets[0]) for record in leaf.records]


@pytest.mark.parametrize("seed", range(4))
def test_random_edits(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version has the digest of the folder as it lies there, and the entries of one made without the cache."""
    monkeypatch.setattr(tree, "LEAF_LEAST", 3)
    monkeypatch.setattr(tree, "LEAF_MASK", 0x07)
    rng = random.Random(seed)
    src = tmp_path / "src"
    plant(src, rng)
    vault = Vault(tmp_path / "cache")
    for turn in range(8):
        done = [edit(src, rng) for _ in range(rng.choice([0, 1, 1, 2, 12]))] if turn else []
        rest()
        version = vault.back_up(src)
        assert version.datasets[0].digest == folder_digest(src).value, done
        fresh = Vault(tmp_path / f"cache-{turn}", vault.sites)
        again = fresh.back_up(src)
        assert again.datasets[0].digest == version.datasets[0].digest
        assert [r.entry for r in records(vault, again.manifest)] == [r.entry for r in records(vault, version.manifest)]
        assert version.reused_files or not turn
    vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)


def test_a_second_name_in_another_leaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first name of a file goes away: the other one, in a leaf where nothing else changed, has the content now."""
    monkeypatch.setattr(tree, "LEAF_LEAST", 1)
    monkeypatch.setattr(tree, "LEAF_MASK", 0x01)
    src = tmp_path / "src"
    for folder in "abc":
        (src / folder).mkdir(parents=True)
        for n in range(20):
            (src / folder / f"{n}").write_bytes(b"%d" % n)
    os.link(src / "a" / "7", src / "c" / "7-too")
    rest()
    vault = Vault(tmp_path / "cache")
    vault.back_up(src)
    (src / "a" / "7").unlink()
    rest()
    vault.restore(vault.back_up(src), tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)
    assert (tmp_path / "out" / "c" / "7-too").read_bytes() == b"7"


def test_a_leaf_whose_pack_is_gone_is_read_again(tmp_path: Path) -> None:
    """Packs vanish from the only site between two versions of an unchanged tree: nothing refers to them any more."""
    src = tmp_path / "src"
    rng = random.Random(3)
    plant(src, rng)
    rest()
    vault = Vault(tmp_path / "cache")
    first = vault.back_up(src)
    (site,) = vault.sites.values()
    for item in list(site.list(pack_prefix(STATE, REGISTER))):
        site._objects.pop(item.key)  # type: ignore[attr-defined]
    second = vault.back_up(src)
    assert second.read_bytes == first.read_bytes > 0
    assert second.reused_files == sum(path.stat().st_size == 0 for path in files(src))
    assert second.datasets[0].digest == first.datasets[0].digest
    vault.restore(second, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)

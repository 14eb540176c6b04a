"""Scrub of real sites: what is spoilt or missing is found, repaired where another site has it, and told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.small_home import SmallHome

SPOILS = ("flip", "truncate", "empty", "swap", "drop", "huge", "link", "fifo")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallHome:
    """A home with two versions at three sites; each test spoils another object of ``lux`` and repairs it."""
    home = SmallHome(tmp_path_factory.mktemp("scrub")).found()
    home.backup()
    (home.root / "acts" / "act-3").write_bytes(os.urandom(300_000))
    home.backup()
    return home


def objects(home: SmallHome, part: str, site: str = "lux") -> list[Path]:
    """Files of ``site`` with ``part`` in their path."""
    root = home.site(site)
    return [
        p for p in sorted(root.rglob("*")) if p.is_file() and part in f"/{p.relative_to(root)}" and ".tmp" not in str(p)
    ]


def newest(paths: list[Path]) -> Path:
    """The last one; of partial tiles and bundles the widest, since nobody needs the others any more."""
    return max(paths, key=lambda path: (int(path.name) if path.name.isdigit() and len(path.name) < 4 else 0, str(path)))


def spoil(path: Path, how: str, other: Path) -> None:
    """Makes one object bad, as a dying disk or its host may."""
    data = path.read_bytes()
    path.unlink()
    if how == "flip":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "swap":
        path.write_bytes(other.read_bytes())
    elif how == "huge":
        with path.open("wb") as file:
            file.truncate(70 << 20)
    elif how == "link":
        path.symlink_to("/etc/passwd")
    elif how == "fifo":
        os.mkfifo(path)


KINDS = {
    "pack": "/pack/", "list": "/list/", "box": "/box/", "card": "/card/", "charter": "/charter/", "epoch": "/epoch/",
    "bundle": "/tile/entries/", "tile": "/tile/0/",
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILS)
@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_object_is_repaired(made: SmallHome, kind: str, how: str) -> None:
    """Every kind of object, spoilt in every way at one site, is found by one scrub and comes back from another site."""
    victim = newest(objects(made, KINDS[kind]))
    right = victim.read_bytes()
    spoil(victim, how, objects(made, "/box/" if kind != "box" else "/card/")[0])
    done = made.fails(1, "scrub", "lux", "--days", "1", *made.home)
    found = done["registers"][0]["found"]
    assert [f["key"] for f in found] == [str(victim.relative_to(made.site("lux")))]
    assert found[0]["repaired_from"] in ("home", "nord")
    if how in ("flip", "truncate", "empty", "swap"):
        assert found[0]["found"] is not None
    assert victim.is_file()
    assert not victim.is_symlink()
    assert victim.read_bytes() == right
    assert made.ok("scrub", "lux", "--days", "1", *made.home)["registers"][0]["found"] == []

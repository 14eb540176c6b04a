"""Sites brought up to date from each other, without home and without keys; and rebuilt when they are lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.seaweed import Seaweed
from support.small_home import SmallHome, tree_of


def world(root: Path, versions: int = 2) -> SmallHome:
    """A home whose backups went to two sites; the third, ``lux``, is empty. Home itself is gone for what follows."""
    home = SmallHome(root).found()
    for version in range(versions):
        (home.root / "acts" / f"more-{version}").write_bytes(os.urandom(200_000))
        home.ok("backup", *home.home, "--to", "home", "--to", "nord")
    empty(home, "lux")
    return home


def empty(home: SmallHome, name: str) -> None:
    shutil.rmtree(home.site(name))
    home.site(name).mkdir()


def kept(home: SmallHome, name: str, part: str = "") -> dict[str, bytes]:
    """What lies at a site, without its scratch files."""
    return {key: data for key, data in tree_of(home.site(name)).items() if ".tmp/" not in key and part in key}


def test_empty_site_is_filled_without_home(tmp_path: Path) -> None:
    """With addresses and the fingerprint alone an empty site gets all that the others have, and then stands alone."""
    home = world(tmp_path)
    shutil.move(home.folder, tmp_path / "gone")
    done = home.ok("site", "sync", "lux", *home.where())
    assert done["sites"][0]["level"]
    assert kept(home, "lux", "/pack/") == kept(home, "nord", "/pack/")
    assert kept(home, "lux", "/checkpoint") == kept(home, "nord", "/checkpoint")
    assert {f["fault"] for f in home.verify("lux")["findings"]} == {"placement-unmet"}
    assert home.verify()["findings"] == []
    again = home.ok("site", "sync", "lux", *home.where())["sites"][0]["registers"][0]
    assert (again["objects"], again["bytes"]) == (0, 0)


def test_only_what_is_missing_travels(tmp_path: Path) -> None:
    """A site that was away is caught up with just what it missed, by a sync as by the next backup."""
    home = SmallHome(tmp_path).found()
    home.backup()
    before = kept(home, "lux", "/pack/")
    (home.root / "acts" / "more").write_bytes(os.urandom(300_000))
    home.ok("backup", *home.home, "--to", "home", "--to", "nord")
    missed = sum(len(data) for key, data in kept(home, "nord", "/pack/").items() if key not in before)
    done = home.ok("site", "sync", "lux", "--from", "nord", *home.where())["sites"][0]["registers"][0]
    assert missed <= done["bytes"] < missed + 20_000
    assert home.verify()["findings"] == []


def test_several_sites_at_once(tmp_path: Path) -> None:
    """Sites that each have what the others lack are all level after one run."""
    home = SmallHome(tmp_path).found()
    home.backup()
    for name in ("lux", "nord"):
        for key in sorted(kept(home, name, "/pack/"))[:: 2 if name == "lux" else 3]:
            (home.site(name) / key).unlink()
    done = home.ok("site", "sync", "lux", "nord", *home.where())
    assert [s["level"] for s in done["sites"]] == [True, True]
    assert home.verify()["findings"] == []


def test_site_that_is_ahead_stays(tmp_path: Path) -> None:
    """Nothing is ever taken back: a target that shows more than its sources keeps its head, and others learn of it."""
    home = SmallHome(tmp_path).found()
    home.backup()
    old = tmp_path / "old"
    shutil.copytree(home.site("nord"), old)
    (home.root / "acts" / "more").write_bytes(os.urandom(1000))
    home.backup()
    shutil.rmtree(home.site("nord"))
    shutil.copytree(old, home.site("nord"))
    before = kept(home, "lux")
    home.ok("site", "sync", "lux", "--from", "nord", *home.where())
    assert kept(home, "lux") == before
    home.ok("site", "sync", "nord", "--from", "lux", *home.where())
    assert home.verify()["findings"] == []


@pytest.mark.parametrize("how", ["empty", "spoilt", "headless", "notes"])
def test_rebuild(tmp_path: Path, how: str) -> None:
    """An empty or damaged site is whole again, byte by byte, without home, and verified alone."""
    home = world(tmp_path)
    home.ok("site", "sync", "lux", *home.where())
    right = kept(home, "lux")
    if how == "empty":
        empty(home, "lux")
    else:
        part = {"spoilt": "/pack/", "headless": "/checkpoint", "notes": "/charter/"}[how]
        for number, key in enumerate(sorted(kept(home, "lux", part))):
            (home.site("lux") / key).chmod(0o600)
            (home.site("lux") / key).write_bytes(b"spoilt" if number % 2 else right[key][:-1] + b"\n\n"[:1])
    shutil.move(home.folder, tmp_path / "gone")
    done = home.ok("site", "rebuild", "lux", *home.where())
    assert done["verified"]
    assert done["empty"] == (how == "empty")
    assert {k: v for k, v in kept(home, "lux").items() if "/checkpoint" not in k} == {
        k: v for k, v in right.items() if "/checkpoint" not in k
    }
    assert home.verify()["findings"] == []


def test_from_and_to_buckets(tmp_path: Path, seaweed: Seaweed) -> None:
    """A lost folder is rebuilt from a bucket, and a new bucket from both, each over a real engine, held to a rate."""
    keys = seaweed.credentials_file(tmp_path)
    home = SmallHome(tmp_path, urls={"nord": seaweed.url("heal/nord", credentials=keys)}).found()
    home.backup()
    empty(home, "lux")
    assert home.ok("site", "rebuild", "lux", "--from", "nord", "--limit", "1 Gbit/s", *home.where())["verified"]
    home.urls["nord"] = seaweed.url("heal/nord-again", credentials=keys)
    assert home.ok("site", "rebuild", "nord", *home.where())["empty"]
    assert home.verify()["findings"] == []
    home.fails(2, "site", "sync", "lux", "--limit", "fast", *home.where())


def test_wrong_words(tmp_path: Path) -> None:
    """Names that are not there, and sites that may not hold anything, are refused before anything is written."""
    home = world(tmp_path, 1)
    assert "there is no site" in home.fails(2, "site", "sync", "luxe", *home.where())["message"]
    home.fails(2, "site", "sync", "lux", "--from", "luxe", *home.where())
    home.fails(2, "site", "sync", "lux", "--site", f"lux={home.urls['lux']}")
    stranger = ["--site", f"other={home.urls['lux']}", *home.where("nord")]
    home.fails(35, "site", "sync", "other", *stranger)
    home.fails(11, "site", "sync", "lux", *home.where("lux", "nord")[:2], *home.where("nord"), "--from", "lux")
    home.fails(2, "site", "evacuate", "lux", "--to", "lux", *home.home)
    home.fails(2, "site", "evacuate", "lux", "--to", "nord", *home.where())
    assert kept(home, "lux") == {}


def test_another_history_is_told_and_kept(tmp_path: Path) -> None:
    """A site that shows a history that contradicts the others is named, and not a byte of it is overwritten."""
    home = SmallHome(tmp_path).found()
    home.backup()
    for name in ("home", "sites"):
        shutil.copytree(tmp_path / name, tmp_path / f"{name}-then")
    (home.root / "acts" / "one").write_bytes(os.urandom(1000))
    home.backup()
    for name in ("home", "sites"):  # whoever has the writer's key goes on from the past
        (tmp_path / name).rename(tmp_path / f"{name}-one")
        (tmp_path / f"{name}-then").rename(tmp_path / name)
    (home.root / "acts" / "other").write_bytes(os.urandom(1000))
    home.backup()
    for name in ("home", "nord"):
        shutil.rmtree(home.site(name))
        shutil.copytree(tmp_path / "sites-one" / name, home.site(name))
    before = kept(home, "lux", "/checkpoint")
    done = home.fails(24, "site", "sync", "lux", *home.where())
    assert done["sites"][0]["registers"][0]["forked"]
    assert kept(home, "lux", "/checkpoint") == before
    home.fails(24, "site", "rebuild", "lux", *home.where())
    assert kept(home, "lux", "/checkpoint") == before
    third = kept(home, "nord")
    empty(home, "home")
    assert home.fails(24, "site", "sync", "home", *home.where())["sites"][0]["registers"][0]["waits"]
    assert kept(home, "home", "/checkpoint") == {}, "people decide which is right"
    assert kept(home, "nord") == third
    home.ok("site", "sync", "home", "--from", "nord", *home.where())

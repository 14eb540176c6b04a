"""Erasing by order at a coded site: at every member the shard and the name go, or it says who still has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exclave.errors import ConfigError, SiteUnavailable
from exclave.ids import Instant, Key, Label, sha256
from exclave.operations.erasure import Here, carry_out
from exclave.operations.host_scrub import scrub_host
from exclave.sites.coded import CodedSite
from exclave.sites.coded_erasing import CodedEraser, Member, MemberEraser
from exclave.sites.coded_form import Code, part_key
from exclave.sites.directory import DirectorySite
from exclave.sites.erasing import DirectoryEraser, Locked
from exclave.sites.open_erasing import open_erasing
from exclave.sites.opening import open_site
from support.deleting import DAY, AgeingHome
from support.small_home import run

DATA = os.urandom(300_000)
KEY = Key(f"state/pack/ab/{sha256(DATA).hex()}")
OTHER = os.urandom(300_000)
OTHER_KEY = Key(f"state/pack/cd/{sha256(OTHER).hex()}")
SMALL = Key("state/box/" + "ab" * 32)


def objects(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".tmp" not in path.parts}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three members with two objects that are cut and a small one."""
    made = [tmp_path / name for name in ("a", "b", "c")]
    for folder in made:
        folder.mkdir()
    site = CodedSite([DirectorySite(str(folder)) for folder in made], 2)
    for key, data in ((KEY, DATA), (OTHER_KEY, OTHER), (SMALL, b"small")):
        site.put_same(key, data)
    return made


def address(folders: list[Path]) -> str:
    return "coded:2?" + "&".join(f"member=dir:{folder}" for folder in folders)


def test_shards_go_with_their_object(folders: list[Path]) -> None:
    """What is erased is gone at every member with its shards; all else stays; it may be repeated."""
    eraser = open_erasing(address(folders))
    assert isinstance(eraser, CodedEraser)
    since = eraser.shown_since(KEY)
    assert since is not None
    assert eraser.erase(KEY) is None
    assert eraser.erase(SMALL) is None
    assert eraser.erase(KEY) is None
    assert (eraser.shown_since(KEY), eraser.shown_since(SMALL)) == (None, None)
    assert open_site(address(folders)).get(OTHER_KEY) == OTHER
    assert [len(objects(folder)) for folder in folders] == [2, 2, 2]


@pytest.mark.parametrize("at", range(6))
def test_an_erasure_that_dies_is_ended_by_the_next(folders: list[Path], at: int) -> None:
    """Killed before each removal at each member: the next run leaves nothing behind."""

    class Dying(DirectoryEraser):
        left = at

        def erase(self, key: Key) -> Locked | None:
            Dying.left -= 1
            if Dying.left < 0:
                raise KeyboardInterrupt
            return super().erase(key)

    members = [Member(DirectorySite(str(folder)), Dying(str(folder))) for folder in folders]
    with pytest.raises(KeyboardInterrupt):
        CodedEraser(members, 3).erase(KEY)
    eraser = open_erasing(address(folders))
    assert eraser.shown_since(KEY) is not None
    assert eraser.erase(KEY) is None
    assert [len(objects(folder)) for folder in folders] == [3, 3, 3]


def test_a_member_that_is_away_or_erases_by_itself(folders: list[Path]) -> None:
    """The others' are gone; who still has it is told, and it is not called done."""
    members = [Member(DirectorySite(str(f)), DirectoryEraser(str(f))) for f in folders[:2]]
    kept = CodedEraser([*members, Member(DirectorySite(str(folders[2])), None)], 3).erase(KEY)
    assert kept is not None
    assert str(folders[2]) in kept.why
    host = MemberEraser(DirectorySite(str(folders[2])), DirectoryEraser(str(folders[2])))
    assert host.erase(KEY) is None
    assert [len(objects(folder)) for folder in folders] == [3, 3, 3]
    folders[1].rename(folders[1].with_name("gone"))
    with pytest.raises(SiteUnavailable):
        open_erasing(address(folders)).erase(OTHER_KEY)
    assert [len(objects(folder)) for folder in (folders[0], folders[2])] == [1, 1]
    with pytest.raises(ConfigError):
        open_erasing("coded:2?" + "&".join(f"member=https://{name}.example/{'ab' * 32}" for name in "abc"))


def test_a_descriptor_of_another_object_erases_nothing_else(folders: list[Path]) -> None:
    """A member that shows another object's descriptor under the name takes none of that object's shards along."""
    plan, _ = Code(2, 3).cut(OTHER)
    path = folders[0] / KEY
    path.chmod(0o600)
    path.write_bytes(plan.encode())
    host = MemberEraser(DirectorySite(str(folders[0])), DirectoryEraser(str(folders[0])))
    assert host.erase(KEY) is None
    assert (folders[0] / part_key(OTHER_KEY, plan.shards[0])).is_file()
    assert open_erasing(address(folders)).erase(KEY) is None
    assert open_site(address(folders)).get(OTHER_KEY) == OTHER


def test_an_order_is_carried_out(tmp_path: Path) -> None:
    """A quorum's order: what goes is gone at every member, the living version is restored from there."""
    members = [tmp_path / "members" / name for name in ("a", "b", "c")]
    for folder in members:
        folder.mkdir(parents=True)
    url = address(members)
    home = AgeingHome(tmp_path / "state", urls={"lux": url}).found()
    assert isinstance(home, AgeingHome)
    home.grown(2)
    before = [len(objects(folder)) for folder in members]
    home.ordered()
    sites = {Label(name): open_site(home.urls[name]) for name in home.sites}
    lux = Label("lux")
    others = {name: site for name, site in sites.items() if name != lux}

    def carried(days: float) -> tuple[bool, int]:
        now = Instant(int(os.stat(members[0]).st_ctime_ns // 1000 + days * DAY))
        [done] = carry_out(Here(lux, sites[lux], open_erasing(url)), others, home.pinned, now=now)
        return done.complete, done.erased

    assert carried(1) == (False, 0)
    complete, erased = carried(32)
    assert complete
    assert erased >= 1
    assert carried(32)[1] == 0
    assert all(len(objects(folder)) < count + 20 for folder, count in zip(members, before, strict=True))
    assert {scrub_host(DirectorySite(str(folder))).wrong for folder in members} == {0}
    grant = home.granted("restore", sites=("lux",))
    home.ok("restore", *grant, "--only-these-sites", "--target", str(tmp_path / "back"), *home.where("lux"))
    assert len((tmp_path / "back" / "acts" / "act-1").read_bytes()) == 1_100_000
    assert run("coded", "mend", url, "--json").json["brought"] == {f"dir:{folder}": 0 for folder in members}

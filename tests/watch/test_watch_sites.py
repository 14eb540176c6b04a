"""The watch believes what it finds at the sites, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from exclave.ids import Key, RegisterId
from exclave.rules.watch import RegisterVerdict, State
from exclave.sites.opening import open_site
from exclave.sites.recording import RecordingSite
from support.hostile import FlippingSite, MissingSite, TruncatingSite, containing
from support.hostile_town import Silent
from support.small_home import SmallHome, run
from support.watched import Turning, World


def states(verdict: RegisterVerdict) -> dict[str, str]:
    return {str(cell.site): str(cell.state) for cell in verdict.cells} | {"rule": str(verdict.state)}


ALL_FRESH = {"home": "fresh", "lux": "fresh", "nord": "fresh", "rule": "fresh"}


def test_all_is_fresh(country: World) -> None:
    """Three whole copies: the register and each cell are fresh, by what was read and hashed there."""
    watch = country.watch()
    look = watch.look()
    (verdict,) = look.judge(country.clock())
    assert states(verdict) == ALL_FRESH
    assert (verdict.sequence, verdict.copies, verdict.countries) == (2, 3, 3)
    assert look.packs_read >= 3, "each site's manifest pack at least"
    assert look.problem is None


def test_a_fresh_head_without_its_packs(country: World) -> None:
    """A site that shows the newest head and has lost packs is damaged, and tells no good version."""
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    verdict = country.look(country.watch())
    assert states(verdict) == ALL_FRESH | {"lux": "damaged"}
    cell = next(c for c in verdict.cells if c.site == "lux")
    assert cell.sequence == 0
    assert "missing" in cell.why


def test_the_last_version_that_is_whole(country: World) -> None:
    """Where only the newest version lacks something, the site's age is that of the one before."""
    old = {str(item.key) for item in country.then["lux"].list("")}
    new = [str(i.key) for i in country.true("lux").list("") if "/pack/" in i.key and str(i.key) not in old]
    country.sites["lux"].inner = MissingSite(country.true("lux"), lambda key: key in new)
    cell = next(c for c in country.look(country.watch()).cells if c.site == "lux")
    assert (cell.state, cell.sequence) == (State.DAMAGED, 1)


def test_other_bytes_of_the_right_size(country: World) -> None:
    """A flipped bit in the packs that are read is found; sizes and names alone would not tell."""
    country.sites["lux"].inner = FlippingSite(country.true("lux"), containing("/pack/"))
    assert states(country.look(country.watch())) == ALL_FRESH | {"lux": "damaged"}


@pytest.mark.parametrize("part", ["/list/", "/box/", "/tile/"])
def test_what_an_opening_needs(country: World, part: str) -> None:
    """Lists, sealed boxes and the ledger's own tiles belong to a good version as much as its packs."""
    country.sites["nord"].inner = TruncatingSite(country.true("nord"), containing(part))
    assert states(country.look(country.watch()))["nord"] == "damaged"


def test_a_site_that_is_down(country: World) -> None:
    """Nothing is known of a silent site; the others go on counting."""
    country.sites["nord"].inner = Silent(country.true("nord"))
    assert states(country.look(country.watch())) == ALL_FRESH | {"nord": "unknown"}


def test_all_sites_down(country: World) -> None:
    """A watch that never read the state says so; one that did says that nothing is known now."""
    watch = country.watch()
    country.look(watch)
    for name, site in country.sites.items():
        site.inner = Silent(country.true(name))
    assert set(states(country.look(watch)).values()) == {"unknown"}
    look = country.watch().look()
    assert look.problem is not None
    assert look.judge(country.clock()) == ()


def test_a_site_that_is_behind(country: World) -> None:
    """A site that shows the version before is as old as that one, and not damaged: it may be brought up to date."""
    country.sites["lux"].inner = country.then["lux"]
    verdict = country.look(country.watch())
    cell = next(c for c in verdict.cells if c.site == "lux")
    assert (cell.state, cell.sequence, verdict.sequence) == (State.FRESH, 1, 2)


def test_a_site_that_goes_back(country: World) -> None:
    """Who showed version 2 and shows version 1 now has rolled back: the watch remembers."""
    watch = country.watch()
    assert states(country.look(watch)) == ALL_FRESH
    country.sites["lux"].inner = country.then["lux"]
    verdict = country.look(watch)
    assert states(verdict)["lux"] == "damaged"
    assert "rolled back" in next(c.why for c in verdict.cells if c.site == "lux")


def test_all_sites_go_back(country: World) -> None:
    """If all of them show less than before, no one contradicts them but the watch's own memory."""
    watch = country.watch()
    country.look(watch)
    for name, site in country.sites.items():
        site.inner = country.then[name]
    assert set(states(country.look(watch)).values()) >= {"damaged"}
    assert states(country.look(watch))["home"] == "damaged", "and it goes on remembering"


def test_late(country: World) -> None:
    """An hour and a minute later nothing new has come: late, since the RPO passed."""
    watch = country.watch()
    country.look(watch)
    country.skew_s = 3660
    verdict = country.look(watch)
    assert set(states(verdict).values()) == {"late"}
    assert verdict.since == verdict.time + 3600 * 1_000_000


def test_a_clock_that_is_slow(country: World) -> None:
    """A watch whose clock is an hour slow sees versions from the future: it says so instead of calling them fresh."""
    country.skew_s = -3600
    assert set(states(country.look(country.watch())).values()) == {"ahead-of-clock"}


def recorded(country: World) -> dict[str, RecordingSite]:
    found = {name: RecordingSite(country.true(name), keep_calls=True) for name in country.sites}
    for name, site in found.items():
        country.sites[name].inner = site
    return found


def calls(sites: dict[str, RecordingSite]) -> list[tuple[str, str]]:
    return [(call.operation, call.name) for site in sites.values() for call in site.calls]


def test_an_unchanged_state_costs_one_read_for_each_cell(country: World) -> None:
    """While nothing changes, a look reads the head of each register at each site, and nothing else."""
    watch = country.watch()
    country.look(watch)
    sites = recorded(country)
    country.look(watch)
    again = calls(sites)
    assert len(again) == 3
    assert all(operation == "get" and name.endswith("/checkpoint") for operation, name in again)


def test_a_new_version_costs_what_it_adds(country: World) -> None:
    """When version 2 comes, packs and list nodes of version 1 are not looked at again."""
    for name, site in country.sites.items():
        site.inner = country.then[name]
    watch = country.watch()
    country.look(watch)
    old = {str(item.key) for item in country.then["lux"].list("")}
    sites = recorded(country)
    verdict = country.look(watch)
    assert verdict.sequence == 2
    looked = [name for operation, name in calls(sites) if operation in ("get", "stat", "digest", "get_range")]
    assert not [name for name in looked if name in old and ("/pack/" in name or "/list/" in name)]


def test_proofs_end(country: World) -> None:
    """After ``proof_s`` everything is looked at again: a pack that was taken away meanwhile is missed then."""
    watch = country.watch(proof_s=7200)
    country.look(watch)
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    country.skew_s = 1800
    assert states(country.look(watch))["lux"] == "fresh", "proven half an hour ago"
    country.skew_s = 7201
    assert states(country.look(watch))["lux"] == "damaged"


def test_a_planted_object_changes_nothing(country: World) -> None:
    """Junk under a good-looking name is no reason for an alarm."""
    planted = Key(f"{country.home.fingerprint}/{country.register}/pack/00/{'00' * 32}")
    country.true("nord").put_same(planted, b"junk")
    assert states(country.look(country.watch())) == ALL_FRESH


def test_a_missing_address(country: World) -> None:
    """A site of the charter whose address nobody gave is unknown, not forgotten."""
    del country.sites["nord"]
    assert states(country.look(country.watch())) == ALL_FRESH | {"nord": "unknown"}


def test_another_history(tmp_path: Path) -> None:
    """All sites change together to another history, signed by the same writer: the watch remembers the former one."""
    home = SmallHome(tmp_path / "one").found()
    home.backup()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    config = tmp_path / "two" / "home" / "exclave.toml"
    config.write_text(config.read_text().replace(str(tmp_path / "one"), str(tmp_path / "two")))
    for name in ("one", "two"):
        (tmp_path / name / "acts" / name).write_text(name)
        assert run("backup", "--home", str(tmp_path / name / "home")).code == 0
    world = World(home, {}, register=RegisterId(home.id_of()))
    world.sites = {name: Turning(open_site(url)) for name, url in home.urls.items()}
    watch = world.watch()
    assert states(world.look(watch)) == ALL_FRESH
    for name, site in world.sites.items():
        site.inner = open_site(f"dir:{tmp_path / 'two' / 'sites' / name}")
    verdict = world.look(watch)
    assert states(verdict) == {"home": "damaged", "lux": "damaged", "nord": "damaged", "rule": "late"}
    assert all("others than were shown before" in cell.why for cell in verdict.cells)
    for site in world.sites.values():
        site.inner = open_site(f"dir:{tmp_path / 'one' / 'sites' / 'lux'}")
    assert states(world.look(watch)) == ALL_FRESH


def test_what_a_scrub_left_wrong(tmp_path: Path) -> None:
    """A site where a scrub left something wrong holds no version that can be called good, until one finds all right."""
    home = SmallHome(tmp_path).found()
    home.backup()
    pack = max(home.site("lux").rglob("pack/*/*"), key=lambda path: path.stat().st_size)
    good = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(b"spoilt")
    home.fails(20, "scrub", "lux", "--check-only", *home.home)
    pack.write_bytes(good)
    found = home.fails(20, "watch", "--once", *home.where())
    cell = next(cell for cell in found["registers"][0]["cells"] if cell["site"] == "lux")
    assert cell["state"] == "damaged"
    assert "a scrub left 1 object" in cell["why"]
    home.ok("scrub", "lux", "--days", "1", *home.home)
    assert home.ok("watch", "--once", *home.where())["worst"] == "fresh"

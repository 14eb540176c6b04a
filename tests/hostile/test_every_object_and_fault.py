"""Every kind of object that a host keeps, spoilt in every way: never wrong data, always the right name for the fault,
and every version that does not need the object still restores from that host alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exclave.errors import IntegrityError, NotAuthorised, UnavailableError
from exclave.ids import Instant, Key, Label, now
from exclave.operations.backup import backup
from exclave.operations.home import Home
from exclave.registers.files import FolderCapture
from exclave.sites.contract import ObjectStat, Site
from exclave.sites.opening import open_site
from exclave.verify.embassy import EmbassyReport, verify_embassy
from support.fault_table import FaultTable, Row
from support.hostile import FlippingSite, LyingSite, MissingSite, PassThrough, SwappingSite, TruncatingSite
from support.hostile_town import KINDS, LUX, Late, Silent, Town, WrongList, kind_of, town
from support.shown_sites import filled
from support.small_home import SmallHome, tree_of

NOTES = ("charter", "card", "warrant", "epoch")
SPOILT = {"corrupt-object", "wrong-fingerprint"}
GONE = {"missing-object", "rolled-back"}
UNSIGNED = {"quorum-missing", "not-authorised"}
"""What a note is, besides spoilt, whose signatures are spoilt."""
HOUR_US = 3_600_000_000


def chosen(made: Town, kind: str) -> list[Key]:
    """The objects of one kind that something still needs: a partial tile that a wider one replaced is none of them."""
    keys = made.keys(kind)
    widest: dict[str, int] = {}
    for key in keys:
        stem, _, width = key.partition(".p/")
        widest[stem] = max(widest.get(stem, 0), int(width or 0))
    return [key for key in keys if ".p/" not in key or int(key.partition(".p/")[2]) == widest[key.partition(".p/")[0]]]


def spoil(made: Town, fault: str, key: Key) -> Site:
    """The site ``lux`` with one fault at one object."""
    site = made.site(LUX)
    kind = kind_of(key)

    def only(other: Key) -> bool:
        return other == key

    def longer(items: list[ObjectStat]) -> list[ObjectStat]:
        return [ObjectStat(item.key, item.size_bytes + only(item.key)) for item in items]

    makers: dict[str, Callable[[], Site]] = {
        "flip-first": lambda: FlippingSite(site, only, position=0),
        "flip-middle": lambda: FlippingSite(site, only, position=len(site.get(key)) // 2, bit=3),
        "flip-last": lambda: FlippingSite(site, only, position=-1, bit=7),
        "truncate": lambda: TruncatingSite(site, only),
        "drop": lambda: MissingSite(site, only),
        "swap": lambda: SwappingSite(site, {key: next(k for k in made.keys(kind) if k != key)}),
        "delay": lambda: Silent(site, only),
        "unlisted": lambda: WrongList(site, lambda items: [item for item in items if not only(item.key)]),
        "listed-longer": lambda: WrongList(site, longer),
        "listed-twice": lambda: WrongList(site, lambda items: [i for item in items for i in (item, item)]),
        "listed-backwards": lambda: WrongList(site, lambda items: items[::-1]),
        "listed-elsewhere": lambda: WrongList(site, lambda items: [*items, ObjectStat(Key("f" * 64 + "/x"), 1)]),
    }
    return makers[fault]()


def looked_at(made: Town, bad: Site) -> EmbassyReport:
    """What the independent verifier says an hour later, when nobody can still be publishing."""
    return verify_embassy({**made.sites(), LUX: bad}, made.state, now=Instant(now() + HOUR_US))


def expected(kind: str, fault: str) -> tuple[set[str], set[str]]:
    """Codes of grave findings that may be told, and of those at least one that must be (none: nothing need be told)."""
    if fault.startswith("flip") or fault in ("truncate", "swap"):
        return (SPOILT | GONE | UNSIGNED, SPOILT) if kind in NOTES else (SPOILT, SPOILT)
    if fault == "drop":
        return GONE, GONE
    if fault == "unlisted":
        # What is looked up by its name is found all the same: the listing is not believed.
        return (GONE, GONE) if kind in ("charter", "warrant", "epoch") else (set(), set())
    if fault == "listed-longer":
        return (SPOILT, SPOILT) if kind == "pack" else (set(), set())
    if fault == "delay":
        return set(), set()  # a host that does not answer is told, and accused of nothing
    return {"corrupt-object"}, set()


def right_or_refused(made: Town, sources: dict[str, Site]) -> set[int]:
    """Versions that restore, each exactly as it was; all others end with a refusal. Nothing else may happen."""
    done = set()
    for number, restored in made.versions(sources):
        try:
            found = restored()
        except (IntegrityError, UnavailableError, NotAuthorised):
            continue
        assert found == made.trees[number], f"version {number} came back changed"
        done.add(number)
    return done


FAULTS = (
    "flip-first", "flip-middle", "flip-last", "truncate", "drop", "swap", "delay", "unlisted", "listed-longer",
    "listed-twice", "listed-backwards", "listed-elsewhere",
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_object_at_one_host(kind: str, fault: str, fault_table: FaultTable) -> None:
    """The host and the fault are named, nobody else is; all versions restore with the others' help, and from this host
    alone those that do not need the object."""
    made = town()
    keys = chosen(made, kind)
    assert keys
    for key in [keys[0], *keys[-1:]] if len(keys) > 1 else keys:
        if fault == "swap" and len(made.keys(kind)) < 2:
            continue  # there is only one of them
        bad = spoil(made, fault, key)
        everything = looked_at(made, bad).findings
        told = [f for f in everything if f.grave]
        may, must = expected(kind, fault)
        if fault == "delay":
            assert {(f.site, f.fault) for f in everything} - {("?", "rpo")} == {(LUX, "site-unavailable")}
        codes = {f.fault for f in told}
        assert {f.site for f in told} <= {LUX}
        assert codes <= may, (key, told)
        assert not must or codes & must, (key, told)
        if must == SPOILT:
            assert key in {f.what for f in told}
        assert right_or_refused(made, {LUX: bad, **{n: s for n, s in made.sites().items() if n != LUX}}) == {1, 2, 3, 4}
        alone = right_or_refused(made, {LUX: bad})
        if kind in ("pack", "list"):
            assert alone >= {number for number in made.trees if key not in made.needs(number)}
        told_of = any(f.site == LUX for f in everything)
        fault_table.told("restore", "hostile host, any object", Row(1, int(not told_of), int(told_of), 1, 0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [MissingSite, FlippingSite, TruncatingSite, Silent])
def test_all_objects_of_a_kind_at_all_hosts_but_one(kind: str, fault: type[PassThrough]) -> None:
    """Two hosts spoil everything of one kind: the third is enough; and the two alone never give wrong data."""
    made = town()

    def only(key: Key) -> bool:
        return kind_of(key) == kind

    bad: dict[str, Site] = {name: fault(made.site(name), only) for name in ("home", LUX)}
    assert right_or_refused(made, {**bad, "nord": made.site("nord")}) == {1, 2, 3, 4}
    right_or_refused(made, bad)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_as_it_was_before(kind: str) -> None:
    """A replay: what is new of this kind is hidden, what was replaced is old. It is told, unless nothing differs."""
    made = town()
    now_there = made.objects[LUX]
    shown = {key: made.before.get(key) if kind_of(key) == kind else data for key, data in now_there.items()}
    bad = filled(LUX, {key: data for key, data in shown.items() if data is not None})
    changed = shown != dict(now_there)
    told = [f for f in looked_at(made, bad).findings if f.grave]
    assert {f.site for f in told} == ({LUX} if changed else set())
    assert {f.fault for f in told} <= GONE | SPOILT
    everyone: dict[str, Site] = {**made.sites(), LUX: bad}
    assert right_or_refused(made, everyone) == {1, 2, 3, 4}
    right_or_refused(made, {LUX: bad})


def test_the_whole_site_as_it_was_before() -> None:
    """All of it together looks like an honest site of last week; beside another one it is a rollback."""
    made = town()
    told = [f for f in looked_at(made, filled(LUX, made.before)).findings if f.grave]
    assert {f.site for f in told} == {LUX}
    assert "rolled-back" in {f.fault for f in told}


@pytest.mark.parametrize("kind", KINDS)
def test_a_duplicate_under_another_name(kind: str) -> None:
    """A copy of a good object under another name of its kind: told where a name must be a hash; nothing is harmed."""
    made = town()
    key = chosen(made, kind)[0]
    held = dict(made.objects[LUX])
    folder, _, name = key.rpartition("/")
    other = f"{name[:-1]}{'0' if name[-1] != '0' else '1'}" if kind != "checkpoint" else "tile/1/000"
    double = Key(f"{folder}/{other}")
    assert double not in held
    bad = filled(LUX, {**held, double: held[key]})
    told = [f for f in looked_at(made, bad).findings if f.grave]
    assert {(f.site, f.fault) for f in told} <= {(LUX, "corrupt-object")}
    if kind in NOTES:
        assert [f.what for f in told] == [double]
    assert right_or_refused(made, {LUX: bad}) == {1, 2, 3, 4}


WRITTEN = ("pack", "list", "bundle", "tile", "checkpoint")
"""Kinds that every backup writes."""


def _made(tmp_path: Path) -> tuple[SmallHome, dict[Label, Site]]:
    home = SmallHome(tmp_path).found()
    home.backup()
    (tmp_path / "acts" / "act-9").write_bytes(b"act 9 " * 5000)
    return home, {Label(name): open_site(url) for name, url in home.urls.items()}


def _version(home: SmallHome, sites: dict[Label, Site]) -> None:
    backup(
        Home.open(home.folder), "gazette", sites=sites, witnesses={},
        open_capture=lambda dataset, staging, clock: FolderCapture(Path(dataset.options["path"]), clock), clock=now,
    )  # fmt: skip


def _told(home: SmallHome, sites: dict[Label, Site]) -> set[tuple[str, str]]:
    report = verify_embassy(sites, home.fingerprint, now=Instant(now() + HOUR_US))  # type: ignore[arg-type]
    return {(f.site, f.fault) for f in report.findings if f.grave}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("lie", [LyingSite, Late])
def test_a_host_that_says_it_is_done(
    kind: str, lie: type[PassThrough], tmp_path: Path, fault_table: FaultTable
) -> None:
    """It confirms writes that it did not do, or does them late: the verifier names it, the version restores from the
    others, and the next honest run brings what is missing."""
    home, sites = _made(tmp_path)
    lux = sites[Label(LUX)]
    liar = lie(lux, lambda key: kind_of(key) == kind)
    _version(home, {**sites, Label(LUX): liar})
    assert {site for site, _ in _told(home, sites)} == {LUX}
    assert {fault for _, fault in _told(home, sites)} <= GONE
    target = tmp_path / "back"
    home.ok("restore", "--target", str(target), *home.granted("restore"), *home.where())
    assert tree_of(target / "acts") == tree_of(tmp_path / "acts")
    if isinstance(liar, Late):
        liar.arrive()
        assert _told(home, sites) == set()
    (tmp_path / "acts" / "act-10").write_bytes(b"act 10 " * 5000)
    home.backup()
    assert _told(home, sites) == set()
    fault_table.suite("backup", "host lies about writes", 1)

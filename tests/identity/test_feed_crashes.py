"""The feed under faults: each write of a push is lost, done without anybody knowing, or the last before death."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from exclave.crypto.hpke import SealingKey
from exclave.errors import ExclaveError, SiteUnavailable
from exclave.formats.journal import Head, ServiceGone
from exclave.identity.feed_read import read_tail
from exclave.identity.feed_write import FeedWriter, Pushed, recipients
from exclave.identity.journal import Journal
from exclave.ids import Instant, Key, Label
from exclave.keys.file import KeyKind
from exclave.operations.home import write_private
from exclave.sites.contract import Site
from exclave.verify.embassy import verify_embassy
from exclave.verify.feeds import as_of, read_heads
from exclave.verify.state import read_state
from support.custody import actor
from support.hostile import Choice, FailingSite, Fault, Killed, PassThrough
from support.small_state import SmallState

NOW = Instant(1_795_000_000_000_000)
SECOND = 1_000_000
MACHINE = actor("embassy-machine", KeyKind.MACHINE)
LUX, NORD = Label("lux"), Label("nord")
FEED: Choice = lambda key: "/feed/" in key  # noqa: E731


class Home:
    """A journal and its feed at two sites; ``writer`` makes a process's own, which knows only what is on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.small = SmallState(folder / "state", sites=("lux", "nord"))
        self.good: dict[Label, Site] = dict(self.small.sites)  # type: ignore[arg-type]
        (folder / "journal").mkdir()
        self.journal = Journal.open(str(folder / "journal"))
        self.chain = read_state(self.good, self.small.state).epoch_chain(self.small.register)

    def writer(self) -> FeedWriter:
        keys = recipients(SealingKey(self.chain.newest.note.opening), {LUX: MACHINE.opening.public})
        return FeedWriter(
            self.small.state, self.chain.newest, self.small.epoch.by.pair, keys, Head(), self.folder / "position",
            write_private,
        )  # fmt: skip

    def enter(self, *names: str) -> Head:
        return self.journal.append([ServiceGone(name) for name in names], time=NOW, epoch=1)

    def push(self, writer: FeedWriter, sites: Mapping[Label, Site], now: int) -> Pushed:
        ends = self.journal.head()
        return writer.push(
            sites, lambda head: ((d, at) for _, d, at in self.journal.read_after(head)), ends, Instant(now)
        )

    def check(self, sites: Mapping[Label, Site], wanted: Head) -> None:
        """Each site alone leads a follower to ``wanted`` and says nothing else."""
        everything = [data for _, data, at in self.journal.read_after(Head()) if at.number <= wanted.number]
        keys = {epoch.number: MACHINE.opening for epoch in self.chain.epochs}
        for name, site in sites.items():
            best = read_heads(self.small.state, self.chain.newest, {name: site}).best
            assert best is not None
            assert best.head == wanted
            tail = read_tail(self.small.state, self.chain, {name: site}, keys, Head(), best=best)
            assert [data for entries in tail for data in entries] == everything

    def report_faults(self) -> set[str]:
        report = verify_embassy(self.good, self.small.state, now=NOW)  # type: ignore[arg-type]
        return {f.fault for f in report.findings if "/feed/" in f.what}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.enter("a", "b")
    made.push(made.writer(), made.good, NOW)
    return made


def _writes(folder: Path) -> int:
    """How many writes a push of one entry makes at one site."""
    made = Home(folder)
    made.enter("a", "b")
    made.push(made.writer(), made.good, NOW)
    counting = FailingSite(made.good[LUX], FEED, nth=0, fault=Fault.LOST)
    made.enter("c")
    made.push(made.writer(), {**made.good, LUX: counting}, NOW + SECOND)
    return counting.writes


def test_a_push_writes_a_batch_and_a_head(tmp_path: Path) -> None:
    """So the table below has every write in it."""
    assert _writes(tmp_path) == 2


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("where", ["lux", "nord", "both"])
@pytest.mark.parametrize("restart", [False, True], ids=["goes-on", "restarts"])
def test_every_write_of_a_push(home: Home, nth: int, fault: Fault, where: str, restart: bool) -> None:
    """Whatever happened to it, no site shows what is not whole, and the next push makes both sites show everything."""
    bad = {
        name: FailingSite(site, FEED, nth=nth, fault=fault) if where in (name, "both") else site
        for name, site in home.good.items()
    }
    wanted, writer = home.enter("c"), home.writer()
    try:
        pushed = home.push(writer, bad, NOW + SECOND)
        for name in pushed.sites:
            home.check({name: home.good[name]}, pushed.head)
        told = {LUX, NORD} - set(pushed.sites)
        assert set(pushed.failed) == told
    except Killed:
        restart = True
    assert home.report_faults() <= {"rolled-back"}  # one site behind the other, never one that is not whole
    heads = read_heads(home.small.state, home.chain.newest, home.good)
    assert heads.best is not None
    assert as_of(heads, Head()) == 0
    if heads.best.time > NOW:
        assert heads.best.head == wanted, "a head tells of a moment, and an entry that was made before it is missing"
    home.push(home.writer() if restart else writer, home.good, NOW + 2 * SECOND)
    home.check(home.good, wanted)
    assert home.report_faults() == set()


class _NoBatches(PassThrough):
    """Has room for heads only."""

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        raise SiteUnavailable("no room")


def test_a_head_never_tells_of_a_moment_when_an_entry_could_not_be_sent(home: Home) -> None:
    """Sites that take heads and no batches show the former moment, though the writer goes on and on."""
    full: dict[Label, Site] = {name: _NoBatches(site) for name, site in home.good.items()}
    writer, wanted = home.writer(), home.enter("c")
    for second in (1, 2):
        pushed = home.push(writer, full, NOW + second * SECOND)
        assert (pushed.sites, pushed.entries, set(pushed.failed)) == ((), 0, {LUX, NORD})
        best = read_heads(home.small.state, home.chain.newest, home.good).best
        assert best is not None
        assert (best.time, best.head.number) == (NOW, 2)
    assert home.push(writer, home.good, NOW + 3 * SECOND).entries == 1
    home.check(home.good, wanted)


@pytest.mark.parametrize("fault", [Fault.KILLED_BEFORE, Fault.KILLED_AFTER], ids=lambda fault: fault.name.lower())
def test_killed_around_the_position(home: Home, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's own file is a cache: with the former one, or without any, the next push goes on."""
    wanted, writer = home.enter("c"), home.writer()

    def save(path: Path, data: bytes) -> None:
        if fault is Fault.KILLED_AFTER:
            write_private(path, data)
        raise Killed

    writer.save = save
    with pytest.raises(Killed):
        home.push(writer, home.good, NOW + SECOND)
    home.check(home.good, Head(2, read_heads(home.small.state, home.chain.newest, home.good).best.head.chain))  # type: ignore[union-attr]
    for spoil in (None, b"", b"\xc1rubbish", b"\x94\xc4\x01a\x01\xc4\x01a\xc4\x00"):
        if spoil is not None:
            (home.folder / "position").write_bytes(spoil)
        home.push(home.writer(), home.good, NOW + 2 * SECOND)
        home.check(home.good, wanted)


def test_a_position_of_another_epoch_is_not_used(home: Home) -> None:
    """After a move the file of the former epoch says nothing about the new one's feed."""
    home.small.new_epoch(by=home.small.epoch.by)
    home.chain = read_state(home.good, home.small.state).epoch_chain(home.small.register)
    cut = home.journal.head()
    writer = home.writer()
    writer.start = cut
    home.journal.append([ServiceGone("abroad")], time=NOW, epoch=2)
    pushed = home.push(writer, home.good, NOW + SECOND)
    assert (pushed.entries, pushed.head.number) == (1, 3)


def test_a_site_away_for_many_pushes(home: Home) -> None:
    """It gets all batches before its head is replaced, though it fails once on the way."""
    lux: dict[Label, Site] = {LUX: home.good[LUX]}
    writer = home.writer()
    for second, name in enumerate("cdefg", 1):
        home.enter(name)
        home.push(writer, lux, NOW + second * SECOND)
    for nth in (1, 2, 3):
        failing = FailingSite(home.good[NORD], FEED, nth=nth, fault=Fault.LOST)
        pushed = home.push(writer, {**lux, NORD: failing}, NOW + 10 * SECOND)
        assert pushed.sites == (LUX,)
        home.check({NORD: home.good[NORD]}, Head(2, home.journal.at(2).chain))  # type: ignore[union-attr]
    home.push(writer, home.good, NOW + 11 * SECOND)
    home.check(home.good, home.journal.head())


def test_a_tag_that_moved_is_looked_at(home: Home) -> None:
    """Somebody wrote another head meanwhile: rubbish is replaced; this writer's own further one stops an older copy."""
    writer = home.writer()
    home.push(writer, home.good, NOW + SECOND)
    path = next(p for p in home.small.paths("feed", "lux") if p.name == "head")
    path.write_bytes(b"rubbish")
    assert home.push(writer, home.good, NOW + 2 * SECOND).sites == (LUX, NORD)
    home.enter("c")
    home.push(home.writer(), home.good, NOW + 3 * SECOND)
    older = home.writer()
    older._position = writer._position
    ends = Head(2, home.journal.at(2).chain)  # type: ignore[union-attr]
    pushed = older.push(home.good, lambda head: iter(()), ends, Instant(NOW + 4 * SECOND))
    assert set(pushed.failed) == {LUX, NORD}
    assert all("entry 3" in why for why in pushed.failed.values())
    home.check(home.good, home.journal.head())


def test_errors_are_of_the_tree() -> None:
    """The product's own handlers catch the faults that these sites make."""
    assert issubclass(SiteUnavailable, ExclaveError)
    assert not issubclass(Killed, Exception)

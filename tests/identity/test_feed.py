"""The identity feed: entries reach every site sealed, and lead nobody astray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from exclave.crypto.hpke import OpeningKey
from exclave.errors import CorruptObject, Forked, MalformedError, MissingObject, NotAuthorised, RolledBack
from exclave.formats.feed import parse_batch, parse_feed_head
from exclave.formats.journal import Head, ServiceGone
from exclave.formats.note import parse_note
from exclave.identity.feed_batch import open_batch
from exclave.identity.feed_read import read_tail
from exclave.identity.feed_write import FeedWriter, recipients
from exclave.identity.journal import Journal
from exclave.ids import Epoch, Instant, Label
from exclave.keys.file import KeyKind
from exclave.sites.contract import Site
from exclave.verify.feeds import as_of, batch_key, head_key, read_heads, verify_feed_head
from exclave.verify.state import read_state
from support.custody import actor
from support.hostile import FailingSite, Fault
from support.small_state import SmallState

NOW = Instant(1_795_000_000_000_000)
EMBASSY = actor("embassy-machine", KeyKind.MACHINE)


class Place:
    """A journal, the sites of a small state, and a writer of its feed."""

    def __init__(self, folder: Path, *, sites: tuple[str, ...] = ("lux", "nord")) -> None:
        self.state = SmallState(folder / "state", sites=sites)
        self.sites: dict[Label, Site] = dict(self.state.sites)  # type: ignore[arg-type]
        self.folder = folder
        (folder / "journal").mkdir()
        self.journal = Journal.open(str(folder / "journal"))
        self.feed = self.writer()

    @property
    def chain(self):  # type: ignore[no-untyped-def]
        return read_state(self.sites, self.state.state).epoch_chain(self.state.register)

    def writer(self, name: str = "feed") -> FeedWriter:
        epoch = self.chain.newest
        by = self.state.epoch.by
        from exclave.crypto.hpke import SealingKey

        return FeedWriter(
            self.state.state, epoch, by.pair,
            recipients(SealingKey(epoch.note.opening), {Label("lux"): EMBASSY.opening.public}),
            Head(), self.folder / f"{name}.position", lambda path, data: path.write_bytes(data) and None,
        )  # fmt: skip

    def enter(self, *names: str, epoch: int = 1) -> Head:
        return self.journal.append([ServiceGone(name) for name in names], time=NOW, epoch=epoch)

    def push(self, feed: FeedWriter | None = None, *, now: Instant = NOW, sites: Mapping[Label, Site] | None = None):  # type: ignore[no-untyped-def]
        ends = self.journal.head()
        return (feed or self.feed).push(self.sites if sites is None else sites, self.after, ends, now)

    def after(self, head: Head) -> Iterable[tuple[bytes, Head]]:
        return ((data, at) for _, data, at in self.journal.read_after(head))

    def tail(
        self, have: Head, *, sites: Mapping[Label, Site] | None = None, key: OpeningKey | None = None
    ) -> list[bytes]:
        where, chain = self.sites if sites is None else sites, self.chain
        best = read_heads(self.state.state, chain.newest, where).best
        assert best is not None
        keys = dict.fromkeys((e.number for e in chain.epochs), key or EMBASSY.opening)
        found = read_tail(self.state.state, chain, where, keys, have, best=best)
        return [data for entries in found for data in entries]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_entries_reach_every_site_and_lead_to_the_same_journal(place: Place) -> None:
    """A follower that has nothing gets everything, in order; one that has a part gets the rest."""
    place.enter("a", "b")
    place.push()
    middle = place.enter("c")
    pushed = place.push(now=Instant(NOW + 5_000_000))
    assert pushed.sites == ("lux", "nord")
    assert pushed.entries == 1
    everything = [data for _, data, _ in place.journal.read_after(Head())]
    for name in place.sites:
        assert place.tail(Head(), sites={name: place.sites[name]}) == everything
    assert place.tail(middle) == []
    best = read_heads(place.state.state, place.chain.newest, place.sites).best
    assert best is not None
    assert best.time == NOW + 5_000_000


def test_a_quorum_opens_the_feed_without_the_embassy(place: Place) -> None:
    """The register's opening key reads it too, so a bare machine needs nobody's machine key."""
    place.enter("a")
    place.push()
    assert len(place.tail(Head(), key=place.state.opening_keys[Epoch(1)])) == 1


def test_others_open_nothing(place: Place) -> None:
    """A batch that is not sealed to a key does not open with it, and holds no plain text."""
    place.enter("a-name-that-a-host-must-not-see")
    place.push()
    with pytest.raises(NotAuthorised):
        place.tail(Head(), key=actor("somebody").opening)
    for path in place.state.paths("feed", "lux"):
        assert b"a-name-that-a-host-must-not-see" not in path.read_bytes()


def test_a_site_that_was_away_gets_what_it_missed(place: Place) -> None:
    """It is whole again after the next push, though nothing new was entered."""
    lux = {Label("lux"): place.sites[Label("lux")]}
    nord = {Label("nord"): place.sites[Label("nord")]}
    for name in "abc":
        place.enter(name)
        place.push(sites=lux)
    assert read_heads(place.state.state, place.chain.newest, nord).best is None
    place.push()
    assert len(place.tail(Head(), sites=nord)) == 3


def test_a_site_that_comes_back_with_a_new_entry_gets_the_one_before_too(place: Place) -> None:
    """It takes the newest batch in the push in which it is back; the one that it missed comes before its head."""
    nord = place.sites[Label("nord")]
    place.enter("before")
    place.push()
    for forgetful in (False, True):
        place.sites[Label("nord")] = FailingSite(nord, nth=1, fault=Fault.REFUSED, times=99)
        place.enter("missed")
        assert place.push().sites == ("lux",)
        place.sites[Label("nord")] = nord
        place.enter("back")
        assert place.push(place.writer("other") if forgetful else None).sites == ("lux", "nord")
        assert len(place.tail(Head(), sites={Label("nord"): nord})) == place.journal.head().number


def test_a_writer_that_forgot_its_position_goes_on(place: Place) -> None:
    """The file is a cache: without it the sites tell how far the feed was sent."""
    place.enter("a", "b")
    place.push()
    place.enter("c")
    assert place.push(place.writer("other")).entries == 1
    assert len(place.tail(Head())) == 3


def test_a_heartbeat_says_how_recent_the_feed_is(place: Place) -> None:
    """A push without entries writes one head and no batch."""
    place.enter("a")
    place.push()
    before = len(place.state.paths("feed", "lux"))
    pushed = place.push(now=Instant(NOW + 60_000_000))
    assert pushed.entries == 0
    assert len(place.state.paths("feed", "lux")) == before
    best = read_heads(place.state.state, place.chain.newest, place.sites).best
    assert best is not None
    assert best.time == NOW + 60_000_000


def test_an_older_journal_does_not_overwrite_the_feed(place: Place, tmp_path: Path) -> None:
    """A home that was put back to an earlier day is told so; nothing of the feed changes."""
    place.enter("a")
    place.push()
    place.enter("b")
    place.push()
    (tmp_path / "old").mkdir()
    place.journal = Journal.open(str(tmp_path / "old"))
    place.enter("a")
    with pytest.raises(RolledBack):
        place.push(place.writer("other"))
    place.journal = Journal.open(str(tmp_path / "journal"))
    assert len(place.tail(Head())) == 2


def test_a_host_that_spoils_or_drops_a_batch_is_passed_over(place: Place) -> None:
    """The good copy of another site is taken; without one the reader says what is missing."""
    place.enter("a")
    place.push()
    batch = next(p for p in place.state.paths("feed", "lux") if p.name != "head")
    data = bytearray(batch.read_bytes())
    data[-1] ^= 1
    batch.chmod(0o600)
    batch.write_bytes(data)
    assert len(place.tail(Head())) == 1
    with pytest.raises(MissingObject):
        place.tail(Head(), sites={Label("lux"): place.sites[Label("lux")]})
    batch.unlink()
    assert len(place.tail(Head())) == 1


def test_an_old_head_is_only_an_old_head(place: Place) -> None:
    """A host that replays yesterday's head hides nothing that another site shows."""
    place.enter("a")
    place.push()
    head = next(p for p in place.state.paths("feed", "lux") if p.name == "head")
    old = head.read_bytes()
    place.enter("b")
    place.push()
    head.write_bytes(old)
    heads = read_heads(place.state.state, place.chain.newest, place.sites)
    assert heads.best is not None
    assert heads.best.head.number == 2
    assert heads.by_site["lux"].head.number == 1
    assert len(place.tail(Head())) == 2


def test_a_head_that_the_writer_did_not_sign_does_not_count(place: Place) -> None:
    """Whoever can write to a site can spoil its head; the next push puts it right."""
    place.enter("a")
    place.push()
    head = next(p for p in place.state.paths("feed", "lux") if p.name == "head")
    note = parse_note(head.read_bytes())
    with pytest.raises((CorruptObject, NotAuthorised)):
        verify_feed_head(head.read_bytes().replace(b"number 1", b"number 7"), place.chain.newest)
    head.write_bytes(b"rubbish")
    heads = read_heads(place.state.state, place.chain.newest, place.sites)
    assert "lux" in heads.problems
    assert heads.best is not None
    place.enter("b")
    place.push()
    assert set(read_heads(place.state.state, place.chain.newest, place.sites).by_site) == {"lux", "nord"}
    assert parse_feed_head(note.text).head.number == 1


def test_two_histories_are_a_fork(place: Place, tmp_path: Path) -> None:
    """A writer who shows one site another entry than the other is found out, and nothing is taken."""
    place.enter("a")
    place.push(sites={Label("lux"): place.sites[Label("lux")]})
    (tmp_path / "second").mkdir()
    place.journal = Journal.open(str(tmp_path / "second"))
    place.enter("z")
    other = place.writer("other")
    other.push({Label("nord"): place.sites[Label("nord")]}, place.after, place.journal.head(), NOW)
    with pytest.raises(Forked):
        read_heads(place.state.state, place.chain.newest, place.sites)


def test_a_follower_with_another_entry_takes_nothing(place: Place, tmp_path: Path) -> None:
    """What stands here and is not in the feed is never overwritten in silence."""
    place.enter("a", "b")
    place.push()
    (tmp_path / "mine").mkdir()
    mine = Journal.open(str(tmp_path / "mine"))
    have = mine.append([ServiceGone("x")], time=NOW, epoch=1)
    with pytest.raises(Forked):
        place.tail(have)
    with pytest.raises(Forked):
        place.tail(mine.append([ServiceGone("y"), ServiceGone("z")], time=NOW, epoch=1))


def test_a_new_epoch_goes_on_from_the_cut(place: Place) -> None:
    """What the former writer enters after the cut does not reach a follower; what it entered before does."""
    place.enter("a", "b")
    place.push()
    cut = place.journal.head()
    place.enter("late")
    place.push()  # home writes on, and does not know that it is fenced
    place.state.new_epoch()
    (place.folder / "exile").mkdir()
    exile = Journal.open(str(place.folder / "exile"))
    exile.extend([d for _, d, at in place.journal.read_after(Head()) if at.number <= cut.number], to=cut)
    exile.append([ServiceGone("abroad")], time=NOW, epoch=2)
    place.journal = exile
    feed = place.writer("second")
    feed.start = cut
    place.push(feed)
    everything = [data for _, data, _ in exile.read_after(Head())]
    assert place.tail(Head()) == everything
    assert place.tail(cut) == everything[-1:]


def test_sizes_are_padded(place: Place) -> None:
    """A host cannot tell one entry from a dozen."""
    sizes = set()
    for names in (("a",), tuple("bcdefghijkl")):
        place.enter(*names)
        place.push()
    for path in place.state.paths("feed", "lux"):
        if path.name != "head":
            sizes.add(path.stat().st_size)
    assert len(sizes) == 1


def test_every_flipped_byte_of_a_batch_is_found(place: Place) -> None:
    """Form, hash, or seal: one of them says no."""
    place.enter("a")
    place.push()
    path = next(p for p in place.state.paths("feed", "lux") if p.name != "head")
    data = path.read_bytes()
    for at in range(0, len(data), 97):
        spoilt = bytearray(data)
        spoilt[at] ^= 0x40
        with pytest.raises((CorruptObject, MalformedError, NotAuthorised)):
            open_batch(parse_batch(bytes(spoilt)), EMBASSY.opening, place.state.register, Epoch(1))
    for cut in (0, 10, 60, len(data) - 1):
        with pytest.raises(MalformedError):
            parse_batch(data[:cut])
    assert os.path.basename(head_key(place.state.state, place.chain.newest)) == "head"
    assert batch_key(place.state.state, place.chain.newest, place.chain.newest.digest)


def test_anybody_finds_what_a_host_did_to_the_feed(place: Place) -> None:
    """Without a key: a dropped or altered batch, a head that was taken back, a head of nobody."""
    from exclave.verify.embassy import verify_embassy

    later = Instant(NOW + 86_400_000_000)

    def wrong() -> set[tuple[str, str]]:
        report = verify_embassy(place.sites, place.state.state, now=later)
        return {(f.site, f.fault) for f in report.findings if "/feed/" in f.what}

    place.enter("a")
    place.push()
    head = next(p for p in place.state.paths("feed", "lux") if p.name == "head")
    old = head.read_bytes()
    place.enter("b")
    place.push(now=later)
    assert wrong() == set()
    new = head.read_bytes()
    head.write_bytes(old)
    assert wrong() == {("lux", "rolled-back")}
    head.write_bytes(b"rubbish")
    assert ("lux", "missing-object") in wrong()
    head.write_bytes(new)
    batch = next(p for p in place.state.paths("feed", "lux") if p.name != "head")
    batch.chmod(0o600)
    batch.write_bytes(b"x" + batch.read_bytes()[1:])
    assert wrong() == {("lux", "missing-object")}


def test_a_head_that_is_dated_ahead_counts_for_nothing(place: Place) -> None:
    """More than an hour ahead of the reader's clock it is refused, with the reason; it tells no age either, and whoever
    asks only how far the feed went still hears it."""
    place.enter("a")
    place.push()
    chain, state = place.chain, place.state.state
    shown = read_heads(state, chain.newest, place.sites).best
    assert shown is not None
    early = Instant(shown.time - 3_600_000_000 - 1)
    refused = read_heads(state, chain.newest, place.sites, now=early)
    assert refused.best is None
    assert all("ahead of this clock" in why for why in refused.problems.values())
    assert read_heads(state, chain.newest, place.sites, now=Instant(early + 1)).best == shown
    heads = read_heads(state, chain.newest, place.sites)
    assert as_of(heads, shown.head, early) == 0
    assert as_of(heads, shown.head, Instant(early + 1)) == shown.time

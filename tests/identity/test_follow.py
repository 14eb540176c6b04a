"""What a place's process does every second: it sends, or follows, and tells a problem once."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from exclave.errors import NotAuthorised
from exclave.formats.journal import Head, ServiceGone
from exclave.identity.contract import IdentityState
from exclave.identity.journal import Journal
from exclave.identity.status_log import Good, Revoked, Serial
from exclave.ids import Instant, Label, now
from exclave.operations.identity_follow import Follower, begin
from exclave.operations.identity_place import IdentityPlace
from exclave.sites.contract import Site
from support.hostile import MissingSite, StaleSite
from support.moving_places import MovingPlaces, issuer, late, stop
from support.small_home import tree_of


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[MovingPlaces, Path]:
    """In peace: three entries are everywhere."""
    state = MovingPlaces(tmp_path_factory.mktemp("follow") / "state").made()
    state.enter(stop(1))
    state.step("home")
    state.step("lux")
    return state, state.keep()


@pytest.fixture
def state(kept: tuple[MovingPlaces, Path]) -> MovingPlaces:
    kept[0].back_to(kept[1])
    return kept[0]


class Clock:
    """Moves only when told to."""

    def __init__(self) -> None:
        self.time = now()

    def __call__(self) -> Instant:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time = Instant(self.time + int(seconds * 1_000_000))


def _see(place: IdentityPlace, sites: Mapping[Label, Site]) -> None:
    """The place reads these sites from now on."""
    object.__setattr__(place, "sites", sites)
    place.watch.sites = sites


def test_a_push_and_a_look(state: MovingPlaces) -> None:
    """Home sends each new entry and a moment; the embassy has it after one look, and answers as of that moment."""
    with state.place("home") as home, state.place("lux") as lux:
        sends, follows = Follower(home), Follower(lux)
        for serial in (2, 3):
            home.writer.enter([stop(serial)])
            sends.step()
            assert sends.state.pushed is not None
            assert sends.state.pushed.entries == 1
            follows.step()
            assert lux.journal.head() == home.journal.head()
            assert isinstance(lux.store.status(issuer(), Serial(serial)), Revoked)
            assert lux.authority().as_of == sends.state.pushed.time
        assert (sends.state.problem, follows.state.problem) == ("", "")
        assert sorted(sends.state.pushed.sites) == ["home", "lux", "nord"]
        assert (follows.state.followed.number, follows.state.pushed) == (5, None)
        before = lux.authority().as_of
        sends.step()
        follows.step()
        assert lux.authority().as_of > before, "a moment without entries is news too"


def test_an_embassy_that_hears_nothing_claims_nothing(state: MovingPlaces) -> None:
    """Without home its answers stay of the last moment that it knows."""
    with state.place("lux") as lux:
        follower = Follower(lux)
        follower.step()
        known = lux.authority().as_of
        time.sleep(0.05)
        follower.step()
        assert lux.authority().as_of == known
        assert lux.authority().answers


def test_a_problem_is_told_once(state: MovingPlaces) -> None:
    """And once more when it has changed or has come back; the loop goes on."""
    said: list[str] = []
    with state.place("lux") as lux:
        follower, good = Follower(lux, said.append), dict(lux.sites)
        _see(lux, {name: MissingSite(site, lambda key: "/feed/" in key) for name, site in good.items()})
        for _ in range(3):
            follower.step()
        assert len(said) == 1
        assert "no site shows the identity feed of epoch 1" in said[0]
        _see(lux, good)
        follower.step()
        assert follower.state.problem == ""
        _see(lux, {name: MissingSite(site, lambda key: "/feed/" in key) for name, site in good.items()})
        follower.step()
        assert (len(said), follower.state.steps) == (2, 5)


def test_one_site_that_is_away_is_counted_and_stops_nothing(state: MovingPlaces) -> None:
    """The others show the head; the report names the one that failed."""
    with state.place("home") as home:
        follower = Follower(home)
        shutil.move(state.small.site("nord"), state.root / "away")
        home.writer.enter([stop(2)])
        follower.step()
        pushed = follower.state.pushed
        assert pushed is not None
        assert (sorted(pushed.sites), set(pushed.failed)) == (["home", "lux"], {"nord"})
        shutil.move(state.root / "away", state.small.site("nord"))
        follower.step()
        again = follower.state.pushed
        assert again is not None
        assert sorted(again.sites) == ["home", "lux", "nord"]


def test_a_place_that_took_over_sends(state: MovingPlaces) -> None:
    """In the process that stood by: it sees the mark of the take-over at once, and sends under its own epoch."""
    with state.place("lux") as lux:
        follower = Follower(lux)
        follower.step()
        assert lux.authority().state is IdentityState.STANDBY
        state.ok(state.fail_over())
        assert lux.watch.is_behind()
        follower.step()
        assert lux.authority().state is IdentityState.EXILE
        lux.writer.enter([stop(2)])
        follower.step()
        assert follower.state.pushed is not None
        assert follower.state.pushed.entries == 1
    assert any(path.name == "head" for path in state.feed_paths("nord", epoch=2))
    assert state.small.verify()["ok"]


def test_an_exile_that_lost_its_journal_reads_it_back(state: MovingPlaces) -> None:
    """The feed is sealed to the sender's own machine too; it decides nothing until it has what it once sent."""
    state.ok(state.fail_over())
    state.enter(stop(2), at="lux")
    state.step("lux")
    whole = state.entries("lux")
    shutil.rmtree(state.at("lux") / "journal")
    (state.at("lux") / "state" / "feed-position").unlink()
    with state.place("lux") as lux:
        assert not lux.authority().decides
        follower = Follower(lux)
        follower.step()
        assert follower.state.pushed is None
        assert [entry for entry, _, _ in lux.journal.read_after(Head())] == whole
    with state.place("lux") as lux:
        assert lux.authority().decides
        follower = Follower(lux)
        follower.step()
        assert follower.state.problem == ""


def test_the_store_is_made_anew_when_the_journal_was_replaced(state: MovingPlaces) -> None:
    """A store that knows other entries than the journal is a wrong cache; answers come from the journal's."""
    said: list[str] = []
    with state.place("lux") as lux:
        assert isinstance(lux.store.status(issuer(), Serial(1)), Revoked)
        other = state.root / "other"
        shutil.copytree(state.journal, other)
        shutil.rmtree(state.at("lux") / "journal")
        (state.at("lux") / "journal").mkdir()
        fresh = Journal.open(str(state.at("lux") / "journal"))
        first = [data for _, data, at in Journal.open(str(other)).read_after(Head()) if at.number <= 2]
        fresh.extend(first, to=Journal.open(str(other)).at(2) or Head())
        fresh.append([ServiceGone("x")], time=now(), epoch=1)
    with state.place("lux") as lux:
        follower = Follower(lux, said.append)
        follower.keep_up()
        assert isinstance(lux.store.status(issuer(), Serial(1)), Good)
        assert lux.store.head() == fresh.head()


def test_the_same_in_a_running_process(state: MovingPlaces) -> None:
    """The journal's folder is replaced under a process (home returns): it goes on from the new one."""
    said: list[str] = []
    with state.place("lux") as lux:
        follower = Follower(lux, said.append)
        follower.step()
        folder = state.at("lux") / "journal"
        folder.rename(state.root / "aside")
        folder.mkdir()
        source = Journal.open(str(state.journal))
        first = [data for _, data, at in source.read_after(Head()) if at.number <= 2]
        Journal.open(str(folder)).extend(first, to=source.at(2) or Head())
        follower.keep_up()
        assert isinstance(lux.store.status(issuer(), Serial(1)), Good)
        assert "made anew" in said[0]
        follower.step()
        assert isinstance(lux.store.status(issuer(), Serial(1)), Revoked)
        assert follower.state.problem == ""


def test_decisions_that_nobody_took_over_are_kept_and_told(state: MovingPlaces) -> None:
    """An embassy whose last entries home did not get keeps them aside when it follows home again."""
    state.ok(state.fail_over())
    state.step("lux", late)
    state.ok(state.come_back())
    # Entered by a process that had not seen the new epoch, and never sent.
    Journal.open(str(state.at("lux") / "journal")).append([stop(5)], time=now(), epoch=2)
    lost = tree_of(state.at("lux") / "journal")
    state.enter(stop(4))
    state.step("home")
    said: list[str] = []
    with state.place("lux") as lux:
        follower = Follower(lux, said.append)
        for _ in range(3):
            follower.step()
        assert lux.journal.head() == Journal.open(str(state.journal)).head()
        assert isinstance(lux.store.status(issuer(), Serial(4)), Revoked)
        assert isinstance(lux.store.status(issuer(), Serial(5)), Good)
    aside = list(state.at("lux").glob("journal-of-epoch-2-*"))
    assert [tree_of(path) for path in aside] == [lost]
    assert "have them entered there again" in " ".join(said)


def test_two_histories_stop_an_embassy(state: MovingPlaces) -> None:
    """Within one epoch nothing is moved aside by itself: somebody with the writer's key showed two histories."""
    Journal.open(str(state.at("lux") / "journal")).append([ServiceGone("lie")], time=now(), epoch=1)
    state.enter(stop(2), stop(3))
    state.step("home")
    before = tree_of(state.at("lux") / "journal")
    follower = state.step("lux")
    assert "cannot both be true" in follower.state.problem
    assert tree_of(state.at("lux") / "journal") == before
    assert not list(state.at("lux").glob("journal-of-epoch-*"))


# Who has the authority


def test_the_lease(state: MovingPlaces) -> None:
    """Home goes on for it without any site, not longer, and again once it reads one."""
    state.configure(state.at_home, "[[site]]", "[[site]]")
    clock = Clock()
    with state.place("home", clock) as home:
        follower, good = Follower(home), dict(home.sites)
        follower.step()
        none = {name: MissingSite(site) for name, site in good.items()}
        _see(home, none)
        clock.forward(home.config.lease_s - 1)
        follower.step()
        assert home.authority().state is IdentityState.HOME
        assert follower.state.problem
        clock.forward(2)
        follower.step()
        assert home.authority().state is IdentityState.RETURNING
        with pytest.raises(NotAuthorised):
            home.writer.enter([stop(2)])
        _see(home, good)
        clock.forward(home.config.verify_s)
        follower.step()
        assert home.authority().state is IdentityState.HOME


def test_an_exile_has_no_lease(state: MovingPlaces) -> None:
    """It was made the authority because others are silent."""
    state.ok(state.fail_over())
    clock = Clock()
    with state.place("lux", clock) as lux:
        _see(lux, {name: MissingSite(site) for name, site in lux.sites.items()})
        clock.forward(30 * 86_400)
        Follower(lux).step()
        assert lux.authority().state is IdentityState.EXILE


@pytest.mark.parametrize("hiding", [("home", "lux"), ("home",), ("nord", "lux")])
def test_a_host_that_hides_the_new_epoch(state: MovingPlaces, hiding: tuple[str, ...]) -> None:
    """One honest site is enough: home sees that it decides no more."""
    with state.place("home") as home:
        stale = {name: StaleSite(site) if name in hiding else site for name, site in home.sites.items()}
        for site in stale.values():
            if isinstance(site, StaleSite):
                site.freeze()
        _see(home, stale)
        state.ok(state.fail_over())
        home.watch.refresh()
        assert home.authority().state is IdentityState.RETURNING
        assert home.authority().epoch == 2


def test_all_hosts_hide_the_new_epoch(state: MovingPlaces) -> None:
    """Then home goes on, as the threats say; its first look at an honest site ends it."""
    with state.place("home") as home:
        good = dict(home.sites)
        stale = {name: StaleSite(site) for name, site in good.items()}
        for site in stale.values():
            site.freeze()
        _see(home, stale)
        state.ok(state.fail_over())
        home.watch.refresh()
        assert home.authority().state is IdentityState.HOME
        _see(home, {**stale, Label("nord"): good[Label("nord")]})
        home.watch.refresh()
        assert home.authority().state is IdentityState.RETURNING
        _see(home, stale)
        home.watch.refresh()
        assert home.authority().state is IdentityState.RETURNING, "seen once is not forgotten"


def test_a_process_remembers_the_newest_epoch(state: MovingPlaces) -> None:
    """Home is started again where all hosts hide the new epoch: one of its processes has seen it, so it waits."""
    former = {name: state.root / f"former-{name}" for name in state.small.sites}
    for name, folder in former.items():
        shutil.copytree(state.small.site(name), folder)
    state.ok(state.fail_over())
    state.step("home")
    for name, folder in former.items():
        shutil.rmtree(state.small.site(name))
        folder.rename(state.small.site(name))
    authority = state.authority("home")
    assert (authority.state, authority.epoch) == (IdentityState.RETURNING, 2)


# Several of them


def test_workers_share_a_place(state: MovingPlaces) -> None:
    """A second process of the place that does not follow sees what the first entered, and what it was told."""
    with state.place("lux") as first, state.place("lux") as second:
        follower = Follower(first)
        state.enter(stop(2))
        state.step("home")
        follower.step()
        assert isinstance(second.store.status(issuer(), Serial(2)), Revoked)
        state.ok(state.fail_over())
        follower.step()
        second.watch.refresh()
        assert second.authority().decides
        second.writer.enter([stop(3)])
        assert isinstance(first.store.status(issuer(), Serial(3)), Revoked)
        follower.step()
        assert follower.state.pushed is not None
        assert follower.state.pushed.head == second.journal.head()


def test_the_loop_ends_when_told(state: MovingPlaces) -> None:
    """``run`` steps until it is stopped."""
    with state.place("home") as home:
        follower, stop_it = Follower(home), threading.Event()
        loop = threading.Thread(target=follower.run, args=(stop_it,))
        loop.start()
        deadline = time.monotonic() + 10
        while follower.state.steps < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        stop_it.set()
        loop.join(10)
        assert not loop.is_alive()
        assert follower.state.steps >= 1


def test_begin_knows_how_recent_the_journal_is(state: MovingPlaces) -> None:
    """A process that starts without any site claims no more than its last entry."""
    with state.place("lux") as lux:
        last = state.entries("lux")[-1].time
        assert lux.authority().as_of == last
        begin(lux)
        assert lux.authority().as_of == last


def _heads(state: MovingPlaces, *names: str) -> list[Head]:
    return [Journal.open(str(state.at(name) / "journal")).head() for name in names]


def test_an_embassy_that_is_named_later_gets_everything(state: MovingPlaces) -> None:
    """What was sent before is not sealed to it: all is sent once more, and then only what is new."""
    state.stand_by("nord")
    assert state.step("nord").state.problem == "this batch of the feed is not sealed to this key"
    for entries, serial in ((4, 2), (1, 3)):
        state.enter(stop(serial))
        pushed = state.step("home").state.pushed
        assert pushed is not None
        assert pushed.entries == entries
        assert [state.step(name).state.problem for name in ("lux", "nord")] == ["", ""]
        assert len({*_heads(state, "home", "lux", "nord")}) == 1
        assert isinstance(state.status(serial, "nord"), Revoked)
    assert state.small.verify()["ok"] is True


def test_an_embassy_that_is_named_in_exile_gets_what_home_entered_too(state: MovingPlaces) -> None:
    state.ok(state.fail_over())
    state.step("lux")
    state.stand_by("nord", of="lux")
    state.enter(stop(2), at="lux")
    state.step("lux")
    assert state.step("nord").state.problem == ""
    assert len({*_heads(state, "lux", "nord")}) == 1
    assert isinstance(state.status(1, "nord"), Revoked)
    assert state.small.verify()["ok"] is True


def test_sites_that_cannot_be_asked_are_sent_nothing_anew(state: MovingPlaces) -> None:
    """Whether the last batch reaches everybody is not known then; it is looked up with the next step."""
    sites = [Path(state.small.site(name)) for name in state.small.sites]
    with state.place("home") as home:
        for site in sites:
            site.rename(site.with_suffix(".away"))
        sends = Follower(home)
        sends.step()
        assert sends.state.problem
        for site in sites:
            site.with_suffix(".away").rename(site)
        sends.step()
        assert sends.state.pushed is not None
        assert sends.state.pushed.entries == 0


def test_a_feed_whose_last_batch_is_gone_everywhere_is_sent_anew(state: MovingPlaces) -> None:
    for name in state.small.sites:
        for path in state.feed_paths(name):
            if path.name != "head":
                path.unlink()
    pushed = state.step("home").state.pushed
    assert pushed is not None
    assert (pushed.entries, sorted(pushed.sites)) == (3, ["home", "lux", "nord"])
    assert state.small.verify()["ok"] is True

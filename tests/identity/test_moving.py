"""The authority over identities moves: abroad, back home, on to another embassy; nothing that was decided is lost."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from exclave.errors import NotAuthorised
from exclave.formats.journal import Confirmed, Head, Released, ServiceGone, serial_bytes
from exclave.formats.note import parse_note
from exclave.identity.contract import IdentityState
from exclave.identity.journal import Journal
from exclave.identity.status_log import Good, Held, Revoked
from exclave.ids import now, sha256
from exclave.operations import identity_return
from exclave.operations.identity_authority import TakenUp, read_taken_up, write_taken_up
from exclave.operations.identity_follow import Follower
from exclave.operations.identity_place import place_text
from support.moving_places import MovingPlaces, issuer, late, stop
from support.small_home import run, tree_of


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[MovingPlaces, Path]:
    """A state in peace: two entries in the version, a third (serial 1 revoked) in the feed, both at the embassy."""
    state = MovingPlaces(tmp_path_factory.mktemp("moving") / "state").made()
    state.step("home")
    state.step("lux")
    state.enter(stop(1))
    state.step("home")
    state.step("lux")
    return state, state.keep()


@pytest.fixture
def state(kept: tuple[MovingPlaces, Path]) -> MovingPlaces:
    kept[0].back_to(kept[1])
    return kept[0]


def _whole(state: MovingPlaces) -> None:
    """The independent verifier finds nothing wrong."""
    assert state.small.verify()["ok"]


# Abroad


def test_what_no_version_has_is_not_lost(state: MovingPlaces) -> None:
    """Entries since the last version, and those that the embassy had not fetched yet, are there after the take-over."""
    state.enter(stop(2))
    state.step("home")
    at_home = state.entries("home")
    assert len(state.entries("lux")) == len(at_home) - 1
    shutil.rmtree(state.at_home)
    state.ok(state.fail_over())
    assert state.entries("lux") == at_home
    assert isinstance(state.status(2, "lux"), Revoked)
    authority = state.authority("lux")
    assert (authority.state, authority.epoch, authority.decides) == (IdentityState.EXILE, 2, True)
    taken = read_taken_up(state.at("lux"))
    assert taken is not None
    assert (taken.epoch, taken.number) == (2, 4)
    _whole(state)


def test_the_gap_is_said_signed_and_at_every_site(state: MovingPlaces) -> None:
    """How long home may have decided what nobody knows, and what to do about it; the command checks who says so."""
    head = max(entry.time for entry in state.entries("lux"))
    time.sleep(1.1)
    state.ok(state.fail_over())
    gap, note = state.gap(), (state.at("lux") / "state" / "gap.note").read_bytes()
    assert (gap.epoch, gap.place, gap.last_number, gap.last_time) == (2, "lux", 3, head)
    assert head < gap.complete_until < gap.lost < gap.authority_from
    assert 1 <= gap.gap_s <= 30
    assert "asks again" in gap.say[0]
    assert "hold" in gap.say[1]
    assert state.statements() == {name: [note] for name in state.small.sites}
    card = str(state.at("lux") / "machine.card")
    told = state.small.ok("identity", "gap", str(state.at("lux")), "--card", card)
    assert (told["checked"], told["gap_s"], told["last_number"]) == (True, gap.gap_s, 3)
    other = str(state.small.folder / "cards" / "kaja.card")
    assert state.small.fails(30, "identity", "gap", str(state.at("lux")), "--card", other)["error"] == "not-authorised"
    spoilt = state.root / "spoilt.note"
    spoilt.write_bytes(note.replace(b"gap-s ", b"gap-s 1", 1))
    assert run("identity", "gap", str(spoilt), "--card", card, "--json").code == 4


def test_no_gap_where_home_spoke_after_it_was_lost(state: MovingPlaces) -> None:
    """If home's last word is later than its loss, no decision is missing, and the statement says just that."""
    state.ok([*state.fail_over(), "--lost-at", "2026-01-01T00:00Z"])
    assert state.gap().gap_s == 0
    assert "no decision is missing" in state.gap().say[0]


def test_the_move_is_a_fact(state: MovingPlaces) -> None:
    """The ledger of the new epoch says who decides from which entry on, and names the statement by its digest."""
    state.ok(state.fail_over())
    note = parse_note((state.at("lux") / "state" / "gap.note").read_bytes())
    facts = {fact.kind: fact for fact in state.facts()}
    assert set(facts) == {"failover", "identity-exile"}
    said = " ".join(facts["identity-exile"].say)
    assert "decided at lux" in said
    assert "from entry 3 on" in said
    assert note.digest.hex() in said
    assert facts["identity-exile"].warrant == state.gap().warrant


def test_a_bare_machine(state: MovingPlaces) -> None:
    """Nothing stood by there: the quorum's key opens version and feed, and the place decides."""
    state.enter(stop(2))
    state.step("home")
    bare = state.root / "bare"
    granted = state.small.granted("failover")
    state.ok(["failover", "run", *state.small.where(), *granted, "--dir", str(bare)])
    journal = Journal.open(str(bare / "identity" / "journal"))
    assert [entry for entry, _, _ in journal.read_after(Head())] == state.entries("home")
    assert state.gap(folder=bare / "identity").last_number == 4
    text = place_text(
        place="lux", role="embassy", fingerprint=state.state, register=state.register, key="../keys/writer.key",
        sites=state.small.urls, status="127.0.0.1:8421", login="127.0.0.1:8422",
    )  # fmt: skip
    (bare / "identity" / "place.toml").write_text(text)
    told = state.small.ok("identity", "state", "--dir", str(bare / "identity"))
    assert (told["state"], told["decides"], told["entries"]) == ("exile", True, 4)
    _whole(state)


@pytest.mark.parametrize("where", ["within the version", "behind the feed", "instead of the feed"])
def test_a_journal_that_was_misled_is_moved_aside(state: MovingPlaces, where: str) -> None:
    """An embassy's journal that is not the one of version and feed is kept for people to look at, and not gone by."""
    state.enter(stop(2), stop(3))
    state.step("home")
    right = state.entries("home")
    folder = state.at("lux") / "journal"
    shared = {"within the version": 1, "behind the feed": 2, "instead of the feed": 2}[where]
    shutil.rmtree(folder)
    folder.mkdir()
    false = Journal.open(str(folder))
    source = Journal.open(str(state.journal))
    true = [data for _, data, at in source.read_after(Head()) if at.number <= shared]
    start = source.at(shared)
    assert start is not None
    false.extend(true, to=start)
    lies = 3 if where == "instead of the feed" else 1
    false.append([ServiceGone(f"lie-{n}") for n in range(lies)], time=now(), epoch=1)
    misled = tree_of(folder)
    said = state.ok(state.fail_over())
    assert state.entries("lux") == right, said.err
    aside = list(state.at("lux").glob("journal-aside-*"))
    assert [tree_of(path) for path in aside] == [misled]
    assert str(aside[0]) in said.err
    assert state.gap().last_number == 5
    assert state.gap().say[-1] == state.gap().say[1]


def test_sites_that_all_show_an_older_head(state: MovingPlaces) -> None:
    """What the embassy had followed before they were put back is kept; nothing is claimed for the time since."""
    older = {p: p.read_bytes() for site in state.small.sites for p in state.feed_paths(site) if p.name == "head"}
    state.enter(stop(2))
    state.step("home")
    state.step("lux")
    had = state.entries("lux")
    for path, data in older.items():
        path.write_bytes(data)
    state.ok(state.fail_over())
    assert state.entries("lux") == had
    assert state.gap().complete_until == had[-1].time
    assert not list(state.at("lux").glob("journal-aside-*"))


def test_one_site_spoils_the_feed(state: MovingPlaces) -> None:
    """A good copy elsewhere is enough; no word about it is in the statement."""
    state.enter(stop(2))
    state.step("home")
    for path in state.feed_paths("lux"):
        path.chmod(0o600)
        path.write_bytes(b"rubbish" if path.name == "head" else path.read_bytes()[:-1] + b"!")
    state.ok(state.fail_over())
    assert isinstance(state.status(2, "lux"), Revoked)
    assert len(state.gap().say) == 2


@pytest.mark.parametrize("how", ["gone", "heads spoilt", "batches spoilt"])
def test_every_site_spoils_the_feed(state: MovingPlaces, how: str) -> None:
    """The embassy takes over with what it had; the statement says from when on nothing is known, and why."""
    state.enter(stop(2))
    state.step("home")
    for site in state.small.sites:
        for path in state.feed_paths(site):
            path.chmod(0o600)
            if how == "gone":
                path.unlink()
            elif (path.name == "head") is (how == "heads spoilt"):
                path.write_bytes(b"rubbish")
    had = state.entries("lux")
    said = state.ok(state.fail_over())
    assert "could not be read to its end" in said.err
    assert state.entries("lux") == had
    assert isinstance(state.status(2, "lux"), Good)
    assert state.gap().complete_until == max(entry.time for entry in had)
    assert state.gap().say[-1].startswith("The feed could not be read to its end: ")
    assert state.authority("lux").decides


def test_a_long_or_odd_problem_does_not_stop_a_take_over(state: MovingPlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a host makes its errors say cannot make the statement impossible."""
    from exclave.operations import identity_takeup

    for problem in ("x" * 460 + " " * 100 + "y", "two\nlines and \u200b\x07 odd ones", "\ud800"):
        said = identity_takeup.said_of(problem)
        assert len(said) <= 500
        assert said.isprintable()
    odd = "home: " + "x" * 450 + "  \u202e " + "y" * 100

    def bring(*args: Any) -> Any:
        found = whole(*args)
        return identity_takeup.Brought(found.head, found.complete_until, odd)

    whole = identity_takeup.bring
    monkeypatch.setattr(identity_takeup, "bring", bring)
    state.ok(state.fail_over())
    assert len(state.gap().say) == 3


def test_a_site_that_is_away_gets_no_statement(state: MovingPlaces) -> None:
    """The take-over goes on without it, and says so."""
    arguments = state.fail_over()
    shutil.move(state.small.site("nord"), state.root / "away")
    said = state.ok(arguments)
    shutil.move(state.root / "away", state.small.site("nord"))
    assert "nord does not take the statement" in said.err
    found = state.statements()
    assert (len(found["home"]), len(found["lux"]), len(found["nord"])) == (1, 1, 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_damaged_mark_is_no_mark(state: MovingPlaces, when: str) -> None:
    """One from before does not stop a take-over; one of this epoch is made again with the same warrant, and what was
    decided meanwhile stays."""
    mark = state.at("lux") / "state" / "taken-up"
    arguments = state.fail_over()
    if when == "before":
        mark.parent.mkdir(exist_ok=True)
        mark.write_bytes(b"rubbish")
    state.ok(arguments)
    state.enter(stop(2), at="lux")
    state.step("lux")
    gap = (state.at("lux") / "state" / "gap.note").read_bytes()
    if when == "after":
        mark.write_bytes(b"rubbish")
        assert state.authority("lux").state is IdentityState.STANDBY
        at = arguments.index("--dir") + 1
        state.ok([*arguments[:at], str(state.root / "again"), *arguments[at + 1 :]])
    assert state.authority("lux").decides
    assert isinstance(state.status(2, "lux"), Revoked)
    assert state.step("lux").state.problem == ""
    assert (state.at("lux") / "state" / "gap.note").read_bytes() == gap
    _whole(state)


# Home that comes back by itself


def _home_that_moved_on(state: MovingPlaces) -> None:
    """Home was lost, came back (epoch 3), and was lost again (epoch 4): its ``taken-up`` is of epoch 3."""
    state.ok(state.fail_over())
    state.step("lux", late)
    state.ok(state.come_back())
    state.step("home")
    assert state.authority("home").state is IdentityState.HOME
    state.ok(state.fail_over(again="second"))
    assert state.authority("lux").epoch == 4


@pytest.mark.parametrize("before", ["never moved", "came back once", "false mark"])
def test_home_that_comes_back_by_itself_answers_nothing(state: MovingPlaces, before: str) -> None:
    """The later epoch stands at the sites: home decides, sends and enters nothing, whatever it kept."""
    if before == "came back once":
        _home_that_moved_on(state)
    else:
        state.ok(state.fail_over())
    if before == "false mark":
        write_taken_up(state.at_home, TakenUp(2, 3, bytes(32), bytes(32), now()))
    feed = {site: tree_of(state.small.site(site)) for site in state.small.sites}
    with state.place("home") as place:
        authority = place.authority()
        assert (authority.state, authority.answers, authority.decides) == (IdentityState.RETURNING, False, False)
        assert "belongs to another place" in authority.why
        with pytest.raises(NotAuthorised):
            place.writer.enter([stop(5)])
        follower = Follower(place)
        for _ in range(3):
            follower.step()
        assert follower.state.pushed is None
        assert not place.authority().answers
    assert {site: tree_of(state.small.site(site)) for site in state.small.sites} == feed
    told = state.small.ok("identity", "state", "--dir", str(state.at_home))
    assert (told["state"], told["decides"]) == ("returning", False)


def test_home_without_any_site_decides_nothing_at_first(state: MovingPlaces) -> None:
    """A process that has not read a site yet trusts nothing that it knew; one that has goes on for the lease."""
    with state.place("home") as place:
        assert place.authority().decides
        for site in state.small.sites:
            shutil.move(state.small.site(site), state.root / f"away-{site}")
        place.watch.refresh()
        assert place.watch.problem
        assert place.authority().decides
        object.__setattr__(place.watch, "lease_s", 0)
        time.sleep(0.01)
        assert place.authority().state is IdentityState.RETURNING
        assert "could be read for" in place.authority().why
    with state.place("home") as place:
        assert place.authority().state is IdentityState.RETURNING
        assert not place.authority().answers


# Home comes back by warrant


def _exiled(state: MovingPlaces) -> None:
    """Home entered three things that nobody abroad saw; exile revoked serial 3 and put 4 on hold."""
    state.ok(state.fail_over())
    # Behind its cut link home went on with its journal.
    journal = Journal.open(str(state.journal))
    own = [stop(2), stop(4, reason="certificateHold"), Released(issuer(), serial_bytes(4)), ServiceGone("nobody")]
    journal.append(own, time=now(), epoch=1)
    state.enter(stop(3), stop(4, reason="certificateHold"), at="lux", clock=late)
    state.step("lux", late)


def test_home_takes_in_what_exile_decided(state: MovingPlaces) -> None:
    """Exile's journal takes the place of home's, which is kept; what only home knew is joined; both are told of."""
    _exiled(state)
    own, exile = tree_of(state.journal), state.entries("lux")
    said = state.ok(state.come_back())
    assert state.entries("home")[: len(exile)] == exile
    assert state.authority("home").state is IdentityState.HOME
    assert state.authority("home").epoch == 3
    assert tree_of(state.at_home / "journal-of-home-before-epoch-3") == own
    for serial, status in ((1, Revoked), (2, Revoked), (3, Revoked), (4, Held), (5, Good)):
        assert isinstance(state.status(serial, "home"), status), serial
    note = state.merge()
    joined = state.entries("home")[len(exile) :]
    assert {entry.epoch for entry in joined} == {3}
    assert {entry.warrant for entry in joined} == {note.warrant}
    assert (note.epoch, note.place, note.fork.number) == (3, "home", 3)
    assert (note.exile_entries, note.home_entries, note.taken) == (2, 4, len(joined))
    report = (state.at_home / "state" / "merge-report.txt").read_bytes()
    assert note.report == sha256(report)
    assert report.count(b"taken: ") == note.listed
    assert b"not taken: release 4 of " in report
    assert b"service 'nobody' gone" in report
    assert "home decides about identities again, from entry 5 on" in said.err
    kinds = [fact.kind for fact in state.facts()]
    assert kinds == ["failover", "identity-returning", "identity-home"]
    digest = parse_note((state.at_home / "state" / "merge.note").read_bytes()).digest.hex()
    assert digest in " ".join(state.facts()[-1].say)
    assert all((state.at_home / "state" / "merge.note").read_bytes() in notes for notes in state.statements().values())
    assert not (state.at_home / "journal-of-exile").exists()
    _whole(state)


def test_the_embassy_stands_by_again(state: MovingPlaces) -> None:
    """Once home decides, the embassy follows the new epoch's feed: it gets what home joined."""
    _exiled(state)
    state.ok(state.come_back())
    state.step("home")
    follower = state.step("lux")
    assert follower.state.problem == ""
    assert state.authority("lux").state is IdentityState.STANDBY
    assert state.entries("lux") == state.entries("home")
    assert isinstance(state.status(2, "lux"), Revoked)
    assert not list(state.at("lux").glob("journal-of-epoch-*"))


def test_home_lost_everything_and_comes_back(state: MovingPlaces) -> None:
    """A new machine without a journal: exile's is home's, and there is nothing to join."""
    _exiled(state)
    shutil.rmtree(state.journal)
    exile = state.entries("lux")
    state.ok(state.come_back())
    assert state.entries("home") == exile
    assert (state.merge().home_entries, state.merge().taken, state.merge().listed) == (0, 0, 0)
    assert [list(path.iterdir()) for path in state.at_home.glob("journal-of-home-*")] == [[]]
    assert state.authority("home").state is IdentityState.HOME


def test_home_does_not_come_back_without_exile_s_last_entries(state: MovingPlaces) -> None:
    """Where no site gives them, home would forget decisions: the command stops, and goes on once a site is back."""
    _exiled(state)
    arguments = state.come_back()
    away = {}
    for site in state.small.sites:
        for path in state.feed_paths(site, epoch=2):
            if path.name != "head":
                away[path] = path.read_bytes()
                path.unlink()
    told = run(*arguments, "--json")
    assert (told.code, told.json["error"]) == (2, "usage")
    assert "exile's last entries cannot be read" in told.json["message"]
    assert state.authority("home").state is IdentityState.RETURNING
    for path, data in away.items():
        path.write_bytes(data)
    state.ok(arguments)
    assert isinstance(state.status(3, "home"), Revoked)
    assert state.authority("home").decides


def test_what_exile_enters_until_it_sees_that_home_is_back(
    state: MovingPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embassy goes on for the seconds until it reads the new epoch; home waits, and has those entries too."""
    state.ok(state.fail_over())
    assert identity_return.return_identity.__kwdefaults__ is not None
    monkeypatch.setitem(identity_return.return_identity.__kwdefaults__, "settle_s", 3.0)
    arguments, ended = state.come_back(), []
    with state.place("lux") as place:
        follower = Follower(place)
        follower.step()
        returning = threading.Thread(target=lambda: ended.append(run(*arguments, "--json")))
        returning.start()
        deadline = time.monotonic() + 20
        while state.view.epoch_chain(state.register).newest.number != 3:
            assert time.monotonic() < deadline
            follower._verified = now()  # as if it had read the sites a moment ago, however slow this machine is
            follower.step()
        # Home is granted; this process has not read that yet.
        assert place.authority().decides
        place.writer.enter([stop(5)])
        follower.step()
        time.sleep(0.5)
        place.watch.refresh()
        assert not place.authority().decides
        with pytest.raises(NotAuthorised):
            place.writer.enter([Confirmed(issuer(), now(), 0)])
        returning.join(30)
    assert ended[0].code == 0, ended[0].err
    assert isinstance(state.status(5, "home"), Revoked)
    assert state.entries("home")[-1] == state.entries("lux")[-1]
    assert state.merge().exile_entries == 1


# Two embassies


def test_a_second_embassy_follows_the_first(tmp_path: Path) -> None:
    """It sees the new epoch, goes on in standby from the first's feed, and can take over from it."""
    state = MovingPlaces(tmp_path / "state", ("lux", "nord")).made()
    state.step("home")
    state.step("nord")
    shutil.copy(state.at("nord") / "machine.card", state.at("lux") / "nord.card")
    state.configure(state.at("lux"), "[serve]", '[[embassy]]\nplace = "nord"\ncard = "nord.card"\n\n[serve]')
    state.ok(state.fail_over("lux"))
    assert "no site shows the identity feed of epoch 2" in state.step("nord").state.problem
    authority = state.authority("nord")
    assert (authority.state, authority.epoch, authority.answers) == (IdentityState.STANDBY, 2, True)
    state.enter(stop(3), at="lux")
    state.step("lux")
    assert state.step("nord").state.problem == ""
    assert isinstance(state.status(3, "nord"), Revoked)
    assert state.entries("nord") == state.entries("lux")
    state.enter(stop(4), at="lux")
    state.step("lux")
    state.ok(state.fail_over("nord"))
    assert isinstance(state.status(4, "nord"), Revoked)
    assert state.authority("nord").state is IdentityState.EXILE
    assert (state.gap("nord").epoch, state.gap("nord").place) == (3, "nord")
    state.step("nord")
    lux = state.step("lux")
    assert state.authority("lux").state is IdentityState.STANDBY
    assert "not sealed to this key" in lux.state.problem or lux.state.problem == ""
    assert state.small.verify()["ok"]

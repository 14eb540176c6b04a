"""A writer that was fenced shows sites what never was; a place that was demoted knows what never counted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from exclave.crypto.hpke import SealingKey
from exclave.formats.journal import Head, ServiceGone
from exclave.identity.feed_write import FeedWriter, recipients
from exclave.identity.journal import Journal
from exclave.identity.status_log import Good, Revoked, Serial
from exclave.ids import now
from exclave.operations.home import write_private
from exclave.operations.identity_follow import Follower
from support.moving_places import MovingPlaces, issuer, late, stop
from support.small_home import tree_of


def _fork_epoch_one(state: MovingPlaces, sites: tuple[str, ...], *, at: int, folder: Path) -> None:
    """Home's thief has its key and its stores' credentials: the feed of epoch 1 has other entries behind ``at``."""
    folder.mkdir()
    fork = Journal.open(str(folder))
    true = [(data, head) for _, data, head in Journal.open(str(state.journal)).read_after(Head())][:at]
    fork.extend([data for data, _ in true], to=true[-1][1])
    fork.append([ServiceGone(f"lie-{n}") for n in range(9)], time=now(), epoch=1)
    for name in sites:
        next(path for path in state.feed_paths(name, epoch=1) if path.name == "head").unlink()
    with state.place("home") as home:
        epoch = state.view.epoch_chain(state.register).epochs[0]
        to = recipients(
            SealingKey(epoch.note.opening), {n: SealingKey(c.sealing) for n, c in home.standby_cards().items()}
        )
        thief = FeedWriter(
            state.state, epoch, home.key.signing(), to, Head(), folder.with_suffix(".position"), write_private
        )
        shown = {label: site for label, site in home.sites.items() if label in sites}
        thief.push(shown, lambda head: ((d, h) for _, d, h in fork.read_after(head)), fork.head(), now())


@pytest.mark.parametrize("sites", [("home", "lux", "nord"), ("home", "lux")])
def test_a_forked_tail_of_a_fenced_writer_puts_no_journal_aside(tmp_path: Path, sites: tuple[str, ...]) -> None:
    """A standby lags behind the point at which the new epoch began. Where every site shows the lie it waits and says
    so; one honest site leads it on. It never takes the lie, and never gives up what it has."""
    state = MovingPlaces(tmp_path / "state", embassies=("lux", "nord")).made()
    shutil.copy(state.at_home / "nord.card", state.at("lux") / "nord.card")
    state.configure(state.at("lux"), "[serve]", '[[embassy]]\nplace = "nord"\ncard = "nord.card"\n\n[serve]')
    for name in ("home", "nord"):
        state.step(name)
    have = len(state.entries("nord"))
    state.enter(stop(1), stop(2))
    state.step("home")
    state.ok(state.fail_over("lux"))
    state.enter(stop(3), at="lux")
    state.step("lux")
    _fork_epoch_one(state, sites, at=have, folder=tmp_path / "fork")
    before = tree_of(state.at("nord") / "journal")
    with state.place("nord") as nord:
        follower = Follower(nord)
        for _ in range(2):
            follower.step()
        if len(sites) == 3:
            assert "does not lead to entry" in follower.state.problem
            assert tree_of(state.at("nord") / "journal") == before
            assert isinstance(nord.store.status(issuer(), Serial(3)), Good)
        else:
            assert follower.state.problem == ""
            assert nord.journal.head() == Journal.open(str(state.at("lux") / "journal")).head()
            assert isinstance(nord.store.status(issuer(), Serial(3)), Revoked)
    assert not list(state.at("nord").glob("journal-of-epoch-*"))


@pytest.mark.parametrize("new", [0, 1])
def test_a_longer_journal_of_a_former_epoch_is_put_aside_at_once(tmp_path: Path, new: int) -> None:
    """A demoted embassy entered more than its successor has by now: it answers by none of that, whether or not the new
    epoch has an entry yet."""
    state = MovingPlaces(tmp_path / "state").made()
    state.step("home")
    state.step("lux")
    state.ok(state.fail_over())
    state.step("lux", late)
    state.ok(state.come_back())
    Journal.open(str(state.at("lux") / "journal")).append([stop(n) for n in (1, 2, 3, 5)], time=now(), epoch=2)
    if new:
        state.enter(stop(4))
    state.step("home")
    with state.place("lux") as lux:
        assert isinstance(lux.store.status(issuer(), Serial(5)), Revoked)
        follower = Follower(lux)
        follower.step()
        assert not isinstance(lux.store.status(issuer(), Serial(5)), Revoked)
        follower.step()
        assert isinstance(lux.store.status(issuer(), Serial(5)), Good)
        assert lux.journal.head() == Journal.open(str(state.journal)).head()
    assert len(list(state.at("lux").glob("journal-of-epoch-2-*"))) == 1


def test_an_old_head_of_the_first_epoch_puts_nothing_aside(tmp_path: Path) -> None:
    """Entries from before the charter are of epoch 0 and came with the first epoch's feed; when only sites that are
    behind can be read, the journal is longer than their head, and right."""
    state = MovingPlaces(tmp_path / "state").made()
    shutil.rmtree(state.at("lux") / "journal")
    (state.at("lux") / "journal").mkdir()
    Journal.open(str(state.at("lux") / "journal")).append([stop(n) for n in (1, 2, 3)], time=now(), epoch=0)
    with state.place("lux") as lux:
        first, have = state.view.epoch_chain(state.register).newest, lux.journal.head()
        shown = lux.journal.at(2)
        assert shown is not None
        assert first.number == 1
        assert not Follower(lux)._contradicts(first, have, shown)
        assert Follower(lux)._contradicts(first, have, Head(2, have.chain))

"""Revoke, hold and release by warrant: who may, what changes, and what a crash leaves."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import exclave.operations.identity_acts as acts
from exclave.errors import (
    ExclaveError,
    Fenced,
    NotAuthorised,
    QuorumMissing,
    UsageError,
    WarrantExpired,
    WarrantForeign,
)
from exclave.formats.journal import Stopped
from exclave.formats.statusorder import StatusLine
from exclave.formats.warrant import Act
from exclave.identity.contract import IdentityState
from exclave.identity.status_log import Good, Held, Reason, Revoked, Unknown
from exclave.ids import Digest, Instant
from exclave.operations import ledger_spread
from exclave.operations.identity_acts import StatusChanged, change_status
from exclave.rules.warrants import authorise_warrant
from support.acting import HOUR, MINUTE, Granted, Killed, Place, issuer
from support.custody import machine
from support.small_state import START

SINCE = Instant(START + HOUR)


def line(serial: int, *, reason: str = "keyCompromise", since: Instant = SINCE, of: Digest | None = None) -> StatusLine:
    return StatusLine(of or issuer(), serial, reason, since)


def bare(*serials: int) -> list[StatusLine]:
    return [StatusLine(issuer(), serial) for serial in serials]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "place")
    made.issued(*range(1, 21))
    return made


def act(place: Place, verb: Act, order: Path, *, standing: bool = False, **more: bool) -> StatusChanged:
    granted = place.grant(verb, None if standing else order)
    return change_status(place.desk(granted), order, verb, **more)


def test_revoke(place: Place) -> None:
    """What the order names is revoked as it says; the journal names the warrant, the ledger has only counts."""
    order = place.order(Act.REVOKE, line(1), line(2, reason="superseded"))
    done = act(place, Act.REVOKE, order)
    assert (done.total, done.entered, done.before, done.unchanged) == (2, 2, 0, 0)
    assert place.status(1) == Revoked(SINCE, Reason.KEY_COMPROMISE)
    assert place.status(2) == Revoked(SINCE, Reason.SUPERSEDED)
    assert place.status(3) == Good()
    assert {e.warrant for e in place.entries() if isinstance(e.body, Stopped)} == {done.warrant}
    (fact,) = place.facts()
    assert (fact.kind, fact.warrant) == ("identity-revoke", done.warrant)
    assert fact.say[:2] == (f"order {done.order.hex()}", "2 of 2 certificates of 1 issuers; the others needed nothing")
    assert fact.say[2] == f"identity journal {done.head.number} {done.head.chain.hex()}"
    assert authorise_warrant(
        place.view.warrants[done.warrant], place.view.chain, place.view.cards, now=None, place=None, machine=None,
        act=Act.REVOKE, object=done.order,
    ).signers == {"anna", "boris"}  # fmt: skip


def test_hold_and_release(place: Place) -> None:
    """A hold begins now and is released by another warrant; a revocation is final, and dated by the hold before it."""
    act(place, Act.HOLD, place.order(Act.HOLD, *bare(1, 2)))
    held = Held(place.time)
    assert place.status(1) == held
    act(place, Act.REVOKE, place.order(Act.REVOKE, line(2, since=Instant(place.time))))
    assert place.status(2) == Revoked(held.time, Reason.KEY_COMPROMISE)
    done = act(place, Act.RELEASE, place.order(Act.RELEASE, *bare(1, 2, 3)))
    assert (done.entered, done.unchanged, done.final) == (1, 1, 1)
    assert place.status(1) == Good()
    assert isinstance(place.status(2), Revoked)
    assert [fact.kind for fact in place.facts()] == ["identity-hold", "identity-revoke", "identity-release"]


def test_earlier_and_graver(place: Place) -> None:
    """A second revocation can make the first earlier or graver, never later or lighter."""
    act(place, Act.REVOKE, place.order(Act.REVOKE, line(1, reason="superseded")))
    late = act(place, Act.REVOKE, place.order(Act.REVOKE, line(1, reason="superseded", since=Instant(SINCE + HOUR))))
    assert (late.entered, late.unchanged) == (0, 1)
    act(place, Act.REVOKE, place.order(Act.REVOKE, line(1, since=Instant(SINCE - MINUTE))))
    assert place.status(1) == Revoked(Instant(SINCE - MINUTE), Reason.KEY_COMPROMISE)


def test_the_same_again(place: Place) -> None:
    """The same warrant and order, run again, change nothing, and the ledger gets no second fact."""
    order = place.order(Act.HOLD, *bare(1, 2))
    granted = place.grant(Act.HOLD, order)
    first = change_status(place.desk(granted), order, Act.HOLD)
    place.open()
    again = change_status(place.desk(granted), order, Act.HOLD)
    assert (first.entered, again.entered, again.before, again.fact.new) == (2, 0, 2, False)
    act(place, Act.RELEASE, place.order(Act.RELEASE, *bare(1)))
    replayed = change_status(place.desk(granted), order, Act.HOLD)
    assert (replayed.entered, replayed.before) == (0, 2)
    assert place.status(1) == Good()
    assert len(place.facts()) == 2


def test_standing_order(place: Place) -> None:
    """Under a standing order any file goes, at once, for the warrant's time; it cannot release."""
    granted = place.grant(Act.REVOKE, None)
    for serial in (1, 2):
        order = place.order(Act.REVOKE, line(serial))
        assert change_status(place.desk(granted), order, Act.REVOKE).entered == 1
    assert len(place.facts()) == 2
    with pytest.raises(UsageError, match="must name the order file"):
        place.grant(Act.RELEASE, None)


# Who may not


def _one_signature(place: Place, order: Path) -> Granted:
    return place.grant(Act.REVOKE, order, signers=("anna",))


def _expired(place: Place, order: Path) -> Granted:
    granted = place.grant(Act.REVOKE, order, hours=1)
    place.time = Instant(place.time + HOUR + 1)
    return granted


def _other_machine(place: Place, order: Path) -> Granted:
    return place.grant(Act.REVOKE, order, by=machine("thief"))


def _other_place(place: Place, order: Path) -> Granted:
    return place.grant(Act.REVOKE, order, place="home")


def _other_act(place: Place, order: Path) -> Granted:
    return place.grant(Act.HOLD, place.order(Act.HOLD, *bare(1)))


def _other_order(place: Place, order: Path) -> Granted:
    return place.grant(Act.REVOKE, place.order(Act.REVOKE, line(2)))


def _altered_order(place: Place, order: Path) -> Granted:
    granted = place.grant(Act.REVOKE, order)
    data = order.read_bytes()
    order.write_bytes(data.replace(b"serial 1 ", b"serial 3 "))
    assert len(order.read_bytes()) == len(data)
    return granted


def _standby(place: Place, order: Path) -> Granted:
    place.state = IdentityState.STANDBY
    return place.grant(Act.REVOKE, order)


def _returning(place: Place, order: Path) -> Granted:
    place.state = IdentityState.RETURNING
    return place.grant(Act.REVOKE, order)


def _later_epoch(place: Place, order: Path) -> Granted:
    granted = place.grant(Act.REVOKE, order)
    place.small.new_epoch(Act.FAILBACK, by=machine("home-again"))
    return granted


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_one_signature, QuorumMissing),
        (_expired, WarrantExpired),
        (_other_machine, WarrantForeign),
        (_other_place, WarrantForeign),
        (_other_act, WarrantForeign),
        (_other_order, WarrantForeign),
        (_altered_order, WarrantForeign),
        (_standby, NotAuthorised),
        (_returning, NotAuthorised),
        (_later_epoch, Fenced),
    ],
)
def test_not_allowed(place: Place, spoil: Callable[[Place, Path], Granted], error: type[ExclaveError]) -> None:
    """Whatever is missing or foreign, nothing enters the journal or the ledger."""
    order = place.order(Act.REVOKE, line(1))
    granted = spoil(place, order)
    before = place.journal.head()
    with pytest.raises(error):
        change_status(place.desk(granted), order, Act.REVOKE)
    assert place.journal.head() == before
    assert place.facts() == []


def test_release_without_the_epoch(place: Place) -> None:
    """A place that was in exile and lost the epoch since releases nothing, whatever it thinks of itself."""
    act(place, Act.HOLD, place.order(Act.HOLD, *bare(1)))
    order = place.order(Act.RELEASE, *bare(1))
    granted = place.grant(Act.RELEASE, order)
    place.small.new_epoch(Act.FAILBACK, by=machine("home-again"))
    for believed in (2, 3):
        place.epoch = believed
        with pytest.raises(Fenced):
            change_status(place.desk(granted), order, Act.RELEASE)
    assert isinstance(place.status(1), Held)


def test_the_warrant_ends_on_the_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long order stops when its warrant ends; a new warrant for the same order goes on."""
    monkeypatch.setattr(acts, "BATCH", 2)
    order = place.order(Act.REVOKE, *(line(serial) for serial in range(1, 7)))
    granted = place.grant(Act.REVOKE, order, hours=1)
    real = place.pen.real.enter

    def slow(*arguments: object, **more: object) -> object:
        place.time = Instant(place.time + 40 * MINUTE)
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(place.pen.real, "enter", slow)
    with pytest.raises(WarrantExpired):
        change_status(place.desk(granted), order, Act.REVOKE)
    assert [isinstance(place.status(serial), Revoked) for serial in range(1, 7)] == [True] * 4 + [False] * 2
    monkeypatch.setattr(place.pen.real, "enter", real)
    done = act(place, Act.REVOKE, order)
    assert (done.entered, done.unchanged) == (2, 4)


# What cannot be


def test_never_issued(place: Place) -> None:
    """A serial that was never issued stops the whole order, unless it is wanted: a forged certificate is revoked."""
    order = place.order(Act.REVOKE, line(1), line(0x999))
    with pytest.raises(UsageError, match="never issued as far as is known: serial 999"):
        act(place, Act.REVOKE, order)
    assert place.status(1) == Good()
    assert act(place, Act.REVOKE, order, also_unknown=True).entered == 2
    assert isinstance(place.status(0x999), Revoked)


def test_unknown_issuer(place: Place) -> None:
    """An issuer that the journal does not know stops the whole order."""
    order = place.order(Act.REVOKE, line(1), line(1, of=Digest(bytes(32))))
    with pytest.raises(UsageError, match="does not know the issuer"):
        act(place, Act.REVOKE, order, also_unknown=True)
    assert place.status(1) == Good()


def test_no_revocation_in_the_future(place: Place) -> None:
    """Nothing is revoked before its time, and an order that asks for it is not carried out at all."""
    order = place.order(Act.REVOKE, line(1), line(2, since=Instant(place.time + 1)))
    with pytest.raises(UsageError, match="future"):
        act(place, Act.REVOKE, order)
    assert place.status(1) == Good()


# Crashes


@pytest.mark.parametrize("standing", [False, True])
@pytest.mark.parametrize(("at", "after"), [(1, False), (1, True), (2, False), (2, True), (3, False), (3, True)])
def test_killed_at_each_batch(
    place: Place, monkeypatch: pytest.MonkeyPatch, at: int, after: bool, standing: bool
) -> None:
    """Killed before or after any batch: the same command ends it, enters nothing twice, and there is one fact."""
    monkeypatch.setattr(acts, "BATCH", 2)
    order = place.order(Act.REVOKE, *(line(serial) for serial in range(1, 7)))
    granted = place.grant(Act.REVOKE, None if standing else order)
    place.pen.at, place.pen.after = at, after
    with pytest.raises(Killed):
        change_status(place.desk(granted), order, Act.REVOKE)
    place.open()
    done = change_status(place.desk(granted), order, Act.REVOKE)
    assert done.before == 2 * (at if after else at - 1)
    assert done.entered + done.before == 6
    stopped = [e.body.serial for e in place.entries() if isinstance(e.body, Stopped)]
    assert len(stopped) == len(set(stopped)) == 6
    (fact,) = place.facts()
    assert fact.say[1].startswith("6 of 6 ")


def test_killed_before_the_fact_is_published(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the fact stood at one site only: the next run publishes it, and does not enter it again."""
    order = place.order(Act.REVOKE, line(1))
    granted = place.grant(Act.REVOKE, order)

    def die(*arguments: object) -> object:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ledger_spread, "publish", die)
        with pytest.raises(Killed):
            change_status(place.desk(granted), order, Act.REVOKE)
    place.open()
    done = change_status(place.desk(granted), order, Act.REVOKE)
    assert (done.entered, done.before, done.fact.new) == (0, 1, False)
    other = act(place, Act.REVOKE, place.order(Act.REVOKE, line(2)))
    assert other.fact.new
    assert [fact.warrant for fact in place.facts()] == [done.warrant, other.warrant]


def test_the_file_is_swapped_on_the_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is changed after it was checked changes nothing: the order that was signed for is carried out."""
    order = place.order(Act.REVOKE, line(1))
    granted = place.grant(Act.REVOKE, order)
    real = acts._check

    def swap(run: object) -> None:
        real(run)  # type: ignore[arg-type]
        place.order(Act.REVOKE, line(2), name=order.name)

    monkeypatch.setattr(acts, "_check", swap)
    change_status(place.desk(granted), order, Act.REVOKE)
    assert isinstance(place.status(1), Revoked)
    assert place.status(2) == Good()


@pytest.mark.slow
def test_bulk(tmp_path: Path) -> None:
    """200,000 certificates are revoked by one order in seconds, in memory that does not grow with the order."""
    place = Place(tmp_path / "place")
    count, first = 200_000, 1 << 120
    for at in range(0, count, 20_000):
        place.issued(*range(first + at, first + at + 20_000))
    order = place.order(Act.REVOKE, *(line(serial) for serial in range(first, first + count)))
    granted = place.grant(Act.REVOKE, order)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    done = change_status(place.desk(granted), order, Act.REVOKE)
    took = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{count} in {took:.1f} s of processor time, {grown >> 10} MiB more")
    assert done.entered == count
    assert isinstance(place.status(first + count - 1), Revoked)
    assert isinstance(place.status(first + count), Unknown)
    assert took < 30
    assert grown < 100 << 10

"""Extension lists by warrant: entered, ended, and never for what is revoked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exclave.demo.pki import Card
from exclave.errors import ExclaveError, UsageError, WarrantForeign
from exclave.formats.extension import EndedBetween, ExtensionEnd, ExtensionList
from exclave.formats.journal import Extension, ExtensionEnded
from exclave.formats.note import parse_note
from exclave.formats.statusorder import StatusLine
from exclave.formats.warrant import Act
from exclave.identity.extensions import Extensions
from exclave.identity.status_log import Good, Revoked
from exclave.ids import Digest, Fingerprint, Instant
from exclave.operations.identity_acts import change_status
from exclave.operations.identity_extend import ExtensionEntered, extend
from exclave.rules.extensions import Extended, NotExtended
from exclave.rules.signatures import verify_signed_by
from support.acting import DAY, Killed, Place, issuer, pki
from support.small_state import START


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


def extension(place: Place, **changes: object) -> ExtensionList:
    made = ExtensionList(
        place.small.state, issuer(), place.time, Instant(place.time + 90 * DAY), Instant(place.time + 60 * DAY),
        "No cards can be made", "Emergency Act, section 3", EndedBetween(Instant(START - 30 * DAY), place.time),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def enter(place: Place, order: ExtensionList | ExtensionEnd, name: str = "list.order") -> ExtensionEntered:
    path = place.folder / name
    path.write_text(order.encode())
    return extend(place.desk(place.grant(Act.EXTEND, path)), path)


def expired_card(place: Place) -> Card:
    """A card that ended a day before ``place.time``."""
    card = pki().first.card(begin=Instant(START - 10 * DAY), days=10)
    place.issued(card.serial)
    return card


def accepted(place: Place, card: Card) -> bool:
    """As the log-in asks: status first, then the lists."""
    if not isinstance(place.status(card.serial), Good):
        return False
    ended = Instant(int(card.certificate.not_valid_after_utc.timestamp()) * 1_000_000)
    found = Extensions(place.store)(
        issuer=issuer(), spki_sha256=Digest(bytes(32)), serial=card.serial, ended=ended, now=place.time
    )
    assert isinstance(found, Extended | NotExtended)
    return isinstance(found, Extended)


def test_a_list_counts_and_dies(place: Place) -> None:
    """An expired card is accepted once the list is entered, and no longer when the list is over."""
    card, wanted = expired_card(place), extension(place)
    assert not accepted(place, card)
    done = enter(place, wanted)
    assert (done.list, done.new, done.until) == (wanted.digest, True, wanted.until)
    assert accepted(place, card)
    place.time = Instant(wanted.until + 1)
    assert not accepted(place, card)
    (fact,) = place.facts()
    assert (fact.kind, fact.warrant) == ("identity-extend", done.warrant)
    assert "basis Emergency Act, section 3" in fact.say


def test_the_entry_can_be_judged_later(place: Place) -> None:
    """The note's text is what the warrant names, and the machine of the warrant signed it."""
    wanted = extension(place)
    done = enter(place, wanted)
    (entry,) = [e for e in place.entries() if isinstance(e.body, Extension)]
    assert isinstance(entry.body, Extension)
    note = parse_note(entry.body.note)
    assert note.digest == done.order == wanted.digest
    verify_signed_by(note, place.me.card)
    assert entry.warrant == done.warrant


def test_ended_at_once(place: Place) -> None:
    """A second warrant ends the list; the first, replayed, does not revive it."""
    card, wanted = expired_card(place), extension(place)
    path = place.folder / "list.order"
    path.write_text(wanted.encode())
    granted = place.grant(Act.EXTEND, path)
    extend(place.desk(granted), path)
    done = enter(place, ExtensionEnd(place.small.state, wanted.digest, "Cards are made again"), "end.order")
    assert (done.ended, done.new) == (True, True)
    assert not accepted(place, card)
    again = extend(place.desk(granted), path)
    assert (again.new, again.fact.new) == (False, False)
    assert not accepted(place, card)
    assert len(place.facts()) == 2


def test_a_revoked_certificate_is_never_extended(place: Place) -> None:
    """A revocation beats the list, whichever came first."""
    card = expired_card(place)
    enter(place, extension(place))
    order = place.order(Act.REVOKE, StatusLine(issuer(), card.serial, "keyCompromise", Instant(START)))
    change_status(place.desk(place.grant(Act.REVOKE, order)), order, Act.REVOKE)
    assert isinstance(place.status(card.serial), Revoked)
    assert not accepted(place, card)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"state": Fingerprint("b" * 64)}, WarrantForeign, "another state"),
        ({"issuer": Digest(bytes(32))}, UsageError, "does not know the issuer"),
        ({"not_before": START, "not_after": Instant(START + 1)}, UsageError, "is over"),
    ],
)
def test_lists_that_are_not_entered(
    place: Place, changes: dict[str, object], error: type[ExclaveError], told: str
) -> None:
    """Another state's list, an unknown issuer's, and one that is over: signed for or not, they are refused."""
    with pytest.raises(error, match=told):
        enter(place, extension(place, **changes))
    assert not [e for e in place.entries() if isinstance(e.body, Extension)]


def test_an_altered_list(place: Place) -> None:
    """One digit more in the list than the custodians saw, and it is another order file."""
    wanted = extension(place)
    path = place.folder / "list.order"
    path.write_text(wanted.encode())
    granted = place.grant(Act.EXTEND, path)
    path.write_text(replace(wanted, until=Instant(wanted.until + 1)).encode())
    with pytest.raises(WarrantForeign, match="another order file"):
        extend(place.desk(granted), path)


def test_nothing_to_end(place: Place) -> None:
    """Ending a list that does not count is an error: the digest may be mistyped, and the right list goes on."""
    with pytest.raises(UsageError, match="counts here"):
        enter(place, ExtensionEnd(place.small.state, Digest(bytes(32)), "Cards are made again"))


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_the_entry(place: Place, after: bool) -> None:
    """Killed before or after the entry: the same command ends it, with one entry and one fact."""
    path = place.folder / "list.order"
    path.write_text(extension(place).encode())
    granted = place.grant(Act.EXTEND, path)
    place.pen.at, place.pen.after = 1, after
    with pytest.raises(Killed):
        extend(place.desk(granted), path)
    place.open()
    assert extend(place.desk(granted), path).new is not after
    assert len([e for e in place.entries() if isinstance(e.body, Extension | ExtensionEnded)]) == 1
    assert len(place.facts()) == 1

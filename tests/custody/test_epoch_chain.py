"""Chains of epochs: who is the writer, and what a hostile host, machine or former custodian can plant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Forked,
    MalformedError,
    MissingObject,
    NotAuthorised,
    QuorumMissing,
    WarrantForeign,
)
from exclave.formats.epochnote import ParsedEpoch
from exclave.formats.warrant import OBJECT_ACTS, Act
from exclave.ids import Digest, Epoch, RegisterId, sha256
from exclave.keys.file import KeyKind
from exclave.rules.epochs import verify_epoch_chain
from support.custody import (
    REGISTER,
    Actor,
    Land,
    Made,
    actor,
    cards,
    make_epoch,
    next_charter,
    people,
    register_block,
    request_text,
    signed,
    writer,
)

A, B, C, D, E = people("anna", "boris", "clara", "dora", "emil")


def land() -> Land:
    return Land([A, B, C], 2)


def rescue(number: int = 1) -> Actor:
    return actor(f"rescue-{number}", KeyKind.MACHINE)


def test_the_first_epoch_is_the_charters() -> None:
    """Epoch 1 stands in the charter and its writer is home."""
    state = land()
    epochs = state.epochs
    assert [e.number for e in epochs.epochs] == [1]
    assert epochs.newest.writer == state.home.card
    assert epochs.newest.warrant is None
    assert epochs.rejected == ()


def test_failover_and_failback_make_a_chain() -> None:
    """Two warrants make two further epochs, in whatever order the sites list the notes."""
    state = land()
    second = state.add_epoch(rescue(1))
    third = state.add_epoch(writer("home-again"), nonce=2, act=Act.FAILBACK)
    epochs = state.epochs
    assert [e.digest for e in epochs.epochs] == [state.first.note.digest, second.note.digest, third.note.digest]
    assert epochs.newest.writer.name == "home-again"
    assert epochs.find(Epoch(2)) == epochs.epochs[1]
    assert epochs.find(Epoch(4)) is None
    assert epochs.find(Epoch(0)) is None
    state.epoch_notes.reverse()
    assert state.epochs == epochs
    for cut in range(1, 4):
        part = verify_epoch_chain(state.chain, REGISTER, state.epoch_notes[-cut:], state.warrants, state.cards)
        assert part.newest.number == cut


def test_a_cut_off_tail_is_the_older_chain() -> None:
    """Hiding the newest note shows an older, valid chain: other sites and witnesses tell how old."""
    state = land()
    state.add_epoch(rescue())
    del state.epoch_notes[1]
    assert state.epochs.newest.number == 1


def test_a_hidden_epoch_below_a_granted_one_is_noticed() -> None:
    """Epoch 3 with a good warrant, without epoch 2: somebody hides a note."""
    state = land()
    state.add_epoch(rescue(1))
    state.add_epoch(rescue(2), nonce=2)
    del state.epoch_notes[1]
    (rejected,) = state.epochs.rejected
    assert isinstance(rejected.error, MissingObject)
    assert "epoch 2" in rejected.reason
    assert rejected.grave


def test_a_hidden_epoch_of_the_charter_is_noticed() -> None:
    """The note that a charter names must be there."""
    state = land()
    state.epoch_notes.clear()
    with pytest.raises(MissingObject, match="epoch 1"):
        _ = state.epochs


def test_a_register_that_no_charter_lists_has_no_epochs() -> None:
    """An id that no charter knows is refused before anything is read."""
    state = land()
    with pytest.raises(WarrantForeign):
        verify_epoch_chain(state.chain, RegisterId("f" * 32), state.epoch_notes, {}, state.cards)


def test_two_granted_notes_for_one_epoch_are_a_fork_until_a_charter_chooses() -> None:
    """Two warranted machines that both took epoch 2 are a fork; a charter that names one of them ends it."""
    state = land()
    first = state.add_epoch(rescue(1))
    state.epoch_notes.pop()
    second = state.add_epoch(rescue(2), nonce=2)
    state.epoch_notes.append(first.signed.encode())
    with pytest.raises(Forked):
        _ = state.epochs
    state.add_charter(next_charter(state.charter, registers=[register_block(second.note)]), A, B)
    epochs = state.epochs
    assert epochs.newest.digest == second.note.digest
    assert [r.digest for r in epochs.rejected] == [first.note.digest]


def test_a_granted_note_that_follows_another_is_a_fork() -> None:
    """Epoch 3 by a good warrant on top of an epoch 2 that is not shown: two epochs 2 exist."""
    state = land()
    shown = state.add_epoch(rescue(1))
    hidden = make_epoch([A, B, C], 2, by=rescue(3), number=2, previous=state.first.note, warrant=shown.note.authority)
    warrant = state.warrant(rescue(2), nonce=2)
    third = make_epoch([A, B, C], 2, by=rescue(2), number=3, previous=hidden.note, warrant=warrant.digest)
    state.epoch_notes.append(third.signed.encode())
    with pytest.raises(Forked):
        _ = state.epochs


def _warranted(state: Land, **changes: object) -> Made:
    note = state.warrant(rescue())
    return make_epoch(
        changes.pop("custodians", state.custodians),  # type: ignore[arg-type]
        changes.pop("threshold", 2),  # type: ignore[arg-type]
        by=changes.pop("by", rescue()),  # type: ignore[arg-type]
        number=2,
        previous=state.first.note,
        warrant=changes.pop("warrant", note.digest),  # type: ignore[arg-type]
        **changes,  # type: ignore[arg-type]
    )


def _unsigned(state: Land) -> bytes:
    return signed(_warranted(state).note.encode(), D).encode()


def _other_writer(state: Land) -> bytes:
    state.cards |= cards(D)
    return _warranted(state, by=D).signed.encode()


def _no_warrant(state: Land) -> bytes:
    return _warranted(state, warrant=sha256(b"none")).signed.encode()


def _by_charter(state: Land) -> bytes:
    return _warranted(state, warrant=None).signed.encode()


def _one_signature(state: Land) -> bytes:
    made = _warranted(state)
    bad = state.warrant(rescue(), signers=[A], nonce=9)
    note = replace(made.note, authority=bad.digest)
    return signed(note.encode(), rescue()).encode()


def _act(act: Act) -> Callable[[Land], bytes]:
    def plant(state: Land) -> bytes:
        seen = sha256(b"order") if act in OBJECT_ACTS else None
        note = state.warrant(rescue(), act=act, object=seen)
        return _warranted(state, warrant=note.digest).signed.encode()

    plant.__name__ = f"act-{act}"
    return plant


def _threshold(state: Land) -> bytes:
    return _warranted(state, threshold=1).signed.encode()


def _fewer_shares(state: Land) -> bytes:
    return _warranted(state, custodians=[A, B]).signed.encode()


def _strangers_share(state: Land) -> bytes:
    return _warranted(state, custodians=[A, B, D]).signed.encode()


def _bad_opening_key(state: Land) -> bytes:
    note = replace(_warranted(state).note, opening=b"\xff" * 1216)
    return signed(note.encode(), rescue()).encode()


def _other_register(state: Land) -> bytes:
    return _warranted(state, register=RegisterId("e" * 32)).signed.encode()


def _hidden_card(state: Land) -> bytes:
    made = _warranted(state)
    del state.cards[rescue().card.digest]
    return made.signed.encode()


def _second_first(state: Land) -> bytes:
    return make_epoch([A, B, C], 2, by=writer("usurper"), life="other").signed.encode()


def _garbage(state: Land) -> bytes:
    return b"exclave/epoch/v1\n\n"


PLANTED: list[tuple[Callable[[Land], bytes], type[ExclaveError]]] = [
    (_unsigned, NotAuthorised),
    (_other_writer, WarrantForeign),
    (_no_warrant, MissingObject),
    (_by_charter, NotAuthorised),
    (_one_signature, QuorumMissing),
    (_act(Act.RESTORE), WarrantForeign),
    (_act(Act.DRILL), WarrantForeign),
    *((_act(act), WarrantForeign) for act in sorted(OBJECT_ACTS)),
    (_threshold, CorruptObject),
    (_fewer_shares, CorruptObject),
    (_strangers_share, CorruptObject),
    (_bad_opening_key, CorruptObject),
    (_other_register, CorruptObject),
    (_hidden_card, MissingObject),
    (_second_first, NotAuthorised),
    (_garbage, MalformedError),
]


@pytest.mark.parametrize(("plant", "reason"), PLANTED, ids=[p.__name__.strip("_") for p, _ in PLANTED])
def test_planted_notes_are_rejected_and_hide_nothing(
    plant: Callable[[Land], bytes], reason: type[ExclaveError]
) -> None:
    """A note that nobody granted is listed with its reason, and the granted epoch after it still counts."""
    state = land()
    bad = plant(state)
    state.epoch_notes.insert(0, bad)
    assert [type(r.error) for r in state.epochs.rejected] == [reason]
    assert state.epochs.newest.number == 1
    good = state.add_epoch(rescue(7), nonce=7)
    assert state.epochs.newest.digest == good.note.digest
    assert [type(r.error) for r in state.epochs.rejected] == [reason]


def test_a_warrant_grants_one_epoch() -> None:
    """A machine that was fenced off cannot come back with the warrant that it used already."""
    state = land()
    state.add_epoch(rescue(1))
    third = state.add_epoch(writer("home-again"), nonce=2, act=Act.FAILBACK)
    used = state.epochs.epochs[1].note.authority
    again = make_epoch([A, B, C], 2, by=rescue(1), number=4, previous=third.note, warrant=used)
    state.epoch_notes.append(again.signed.encode())
    epochs = state.epochs
    assert epochs.newest.digest == third.note.digest
    assert [type(r.error) for r in epochs.rejected] == [WarrantForeign]
    assert "used up" in epochs.rejected[0].reason


def test_a_warrant_to_rekey_leaves_the_pen_where_it_is() -> None:
    """Any machine may make the new keys; home stays the writer, who has had the pen since epoch 1."""
    state = land()
    second = state.add_epoch(rescue(1), act=Act.REKEY, pen=state.home)
    third = state.add_epoch(state.home, act=Act.REKEY, nonce=2)
    chain = state.epochs
    assert [e.digest for e in chain.epochs[1:]] == [second.note.digest, third.note.digest]
    assert {e.writer for e in chain.epochs} == {state.home.card}
    assert [e.maker.name for e in chain.epochs] == [state.home.name, "rescue-1", state.home.name]
    assert chain.pen_since == 1
    state.add_epoch(rescue(4), nonce=4)
    state.add_epoch(rescue(5), nonce=5, act=Act.REKEY, pen=rescue(4))
    assert state.epochs.pen_since == 4
    assert state.epochs.rejected == ()


@pytest.mark.parametrize("thief", [rescue(1), rescue(2)], ids=["its machine", "somebody else"])
def test_a_warrant_to_rekey_gives_nobody_the_pen(thief: Actor) -> None:
    """A note under it that names another writer is a grave finding, and blocks nothing."""
    state = land()
    state.cards |= cards(thief)
    state.add_epoch(rescue(1), act=Act.REKEY, pen=thief)
    assert state.epochs.newest.number == 1
    assert [(type(r.error), r.grave) for r in state.epochs.rejected] == [(NotAuthorised, True)]
    assert "rekey" in state.epochs.rejected[0].reason
    good = state.add_epoch(rescue(7), nonce=7)
    assert state.epochs.newest.digest == good.note.digest


def test_a_charter_does_not_heal_a_rekey_that_moved_the_pen() -> None:
    """Even named by a charter, such a note is wrong."""
    state = land()
    made = state.add_epoch(rescue(1), act=Act.REKEY, pen=rescue(2))
    state.cards |= cards(rescue(2))
    state.add_charter(next_charter(state.charter, registers=[register_block(made.note)]), A, B)
    with pytest.raises(CorruptObject):
        _ = state.epochs


def test_only_its_machine_signs_a_rekey() -> None:
    """The writer's signature under a rekey that another machine was allowed does not count."""
    state = land()
    warrant = state.warrant(rescue(1), act=Act.REKEY)
    made = make_epoch([A, B, C], 2, by=state.home, number=2, previous=state.first.note, warrant=warrant.digest)
    state.epoch_notes.append(made.signed.encode())
    assert state.epochs.newest.number == 1
    assert [type(r.error) for r in state.epochs.rejected] == [NotAuthorised]


def test_a_rekey_and_a_failover_from_one_epoch_are_a_fork() -> None:
    """Neither is passed over in silence; a charter that names one of the two decides."""
    state = land()
    rekeyed = state.add_epoch(state.home, act=Act.REKEY, nonce=1)
    warrant = state.warrant(rescue(3), nonce=3)
    moved = make_epoch([A, B, C], 2, by=rescue(3), number=2, previous=state.first.note, warrant=warrant.digest)
    state.epoch_notes.append(moved.signed.encode())
    with pytest.raises(Forked):
        _ = state.epochs
    for chosen in (rekeyed, moved):
        state.charter_notes[1:] = []
        state.add_charter(next_charter(state.charter, registers=[register_block(chosen.note)]), A, B)
        assert state.epochs.newest.digest == chosen.note.digest


def test_replaced_custodians_can_make_no_more_epochs() -> None:
    """After charter 2, a warrant under charter 1 grants nothing, even signed by all the former custodians."""
    state = land()
    state.cards |= cards(D, E)
    old = state.chain.newest
    state.add_charter(next_charter(state.charter, custodians=[A, D, E]), A, B, D)
    warrant = state.warrant(rescue(), signers=[B, C], charter=old)
    planted = make_epoch([A, B, C], 2, by=rescue(), number=2, previous=state.first.note, warrant=warrant.digest)
    state.epoch_notes.append(planted.signed.encode())
    epochs = state.epochs
    assert epochs.newest.number == 1
    assert [(type(r.error), r.grave) for r in epochs.rejected] == [(Forked, True)]


def test_epochs_before_a_new_charter_stand_if_it_names_the_newest() -> None:
    """A charter that names epoch 3 carries epochs 2 and 3, whose warrants are under charter 1, and fixes both."""
    state = land()
    state.cards |= cards(D)
    state.add_epoch(rescue(1))
    third = state.add_epoch(rescue(2), nonce=2)
    state.add_charter(next_charter(state.charter, custodians=[A, B, D], registers=[register_block(third.note)]), A, B)
    assert state.epochs.newest.digest == third.note.digest
    # The next one is under charter 2, with shares for charter 2's custodians.
    state.custodians = (A, B, D)
    fourth = state.add_epoch(rescue(3), nonce=3)
    assert state.epochs.newest.digest == fourth.note.digest
    assert [e.charter.charter.number for e in state.epochs.epochs] == [1, 1, 1, 2]
    del state.epoch_notes[1]
    with pytest.raises(MissingObject, match="epoch 2"):
        _ = state.epochs


def test_an_epoch_granted_by_a_later_charter() -> None:
    """A charter may itself grant epoch 2, with shares for its own custodians."""
    state = land()
    state.cards |= cards(D, E)
    made = make_epoch([A, D, E], 2, by=state.home, number=2, previous=state.first.note)
    state.add_charter(next_charter(state.charter, custodians=[A, D, E], registers=[register_block(made.note)]), A, B, D)
    state.epoch_notes.append(made.signed.encode())
    epochs = state.epochs
    assert epochs.newest.digest == made.note.digest
    assert epochs.newest.charter.charter.number == 2
    assert epochs.newest.warrant is None


def test_a_warrant_for_one_register_grants_no_epoch_of_another() -> None:
    """The register must stand in the warrant, even if the state has both."""
    state = land()
    other = make_epoch([A, B, C], 2, by=state.home, register=RegisterId("f" * 32))
    state.add_charter(
        next_charter(state.charter, registers=[register_block(state.first.note), register_block(other.note)]), A, B
    )
    text = request_text(state.chain.newest, state.state, by=rescue(), registers=[other.note.register])
    warrant = signed(text, rescue(), A, B)
    state.warrants[warrant.digest] = warrant
    state.cards |= cards(rescue())
    made = make_epoch([A, B, C], 2, by=rescue(), number=2, previous=state.first.note, warrant=warrant.digest)
    state.epoch_notes.append(made.signed.encode())
    assert state.epochs.newest.number == 1
    assert [type(r.error) for r in state.epochs.rejected] == [WarrantForeign]


def test_a_charter_that_names_a_chain_with_a_warrant_used_twice_is_an_error() -> None:
    """One warrant for two epochs is wrong even where a charter vouches for the second."""
    state = land()
    second = state.add_epoch(rescue(1))
    again = make_epoch([A, B, C], 2, by=rescue(1), number=3, previous=second.note, warrant=second.note.authority)
    state.epoch_notes.append(again.signed.encode())
    state.add_charter(next_charter(state.charter, registers=[register_block(again.note)]), A, B)
    with pytest.raises(CorruptObject, match="used up"):
        _ = state.epochs


def test_a_warranted_machine_cannot_rewrite_what_a_charter_fixed() -> None:
    """With a good warrant under charter 2, a note for an epoch that charter 2 fixed is rejected and stops nothing."""
    state = land()
    second = state.add_epoch(rescue(1))
    state.add_charter(next_charter(state.charter, registers=[register_block(second.note)]), A, B)
    warrant = state.warrant(rescue(2), nonce=2)
    late = make_epoch([A, B, C], 2, by=rescue(2), number=2, previous=state.first.note, warrant=warrant.digest)
    state.epoch_notes.append(late.signed.encode())
    epochs = state.epochs
    assert epochs.newest.digest == second.note.digest
    assert [(r.digest, type(r.error)) for r in epochs.rejected] == [(late.note.digest, NotAuthorised)]


def _unknown_writer(note: ParsedEpoch) -> ParsedEpoch:
    return replace(note, writer=Digest(bytes(32)))


def test_a_charter_that_vouches_for_a_wrong_note_is_an_error() -> None:
    """What a quorum named and nobody signed is not taken in silence."""
    state = land()
    broken = replace(state.first.note, threshold=1)
    other = Land([A, B, C], 2)
    other.charter = replace(state.charter, registers=(register_block(broken),))
    other.state = type(other.state)(other.charter.digest.hex())
    other.charter_notes = [signed(other.charter.encode(), A, B).encode()]
    other.epoch_notes = [signed(broken.encode(), other.home).encode()]
    with pytest.raises(CorruptObject, match="threshold"):
        _ = other.epochs
    unsigned = _unknown_writer(state.first.note)
    other.charter = replace(state.charter, registers=(register_block(unsigned),))
    other.state = type(other.state)(other.charter.digest.hex())
    other.charter_notes = [signed(other.charter.encode(), A, B).encode()]
    other.epoch_notes = [signed(unsigned.encode(), other.home).encode()]
    with pytest.raises(MissingObject, match="key card"):
        _ = other.epochs


def test_the_writers_signature_may_stand_in_any_copy() -> None:
    """A site that spoils its own copy of a note does not hide it."""
    state = land()
    spoilt = signed(state.first.note.encode(), D).encode()
    state.epoch_notes.insert(0, spoilt)
    assert state.epochs.newest.number == 1
    state.epoch_notes.pop()
    with pytest.raises(NotAuthorised):
        _ = state.epochs


def test_a_flipped_byte_is_never_another_epoch() -> None:
    """A changed note is rejected or missing, whatever byte was changed."""
    state = land()
    made = state.add_epoch(rescue())
    good = state.epoch_notes[1]
    for place in range(0, len(good), 101):
        bad = bytearray(good)
        bad[place] ^= 1
        state.epoch_notes[1] = bytes(bad)
        epochs = state.epochs
        assert epochs.newest.digest in (state.first.note.digest, made.note.digest)
        if epochs.newest.number == 1:
            assert len(epochs.rejected) == 1

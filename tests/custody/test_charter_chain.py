"""Chains of charters: rotations, and each interrupted, forged or hidden step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Forked,
    MalformedError,
    MissingObject,
    QuorumMissing,
    WrongFingerprint,
)
from exclave.formats.charter import ParsedCharter
from exclave.ids import Epoch, Fingerprint, Instant, sha256
from exclave.rules.charters import check_successor, find_charter_chain, verify_charter_chain
from support.custody import (
    HOUR,
    Actor,
    Land,
    actor,
    cards,
    fingerprint,
    make_epoch,
    next_charter,
    people,
    register_block,
    signed,
    writer,
)

A, B, C, D, E = people("anna", "boris", "clara", "dora", "emil")


def land() -> Land:
    return Land([A, B, C], 2)


@pytest.mark.parametrize(
    ("custodians", "threshold", "signers", "good"),
    [
        pytest.param([A, B, C], 2, [A, B], True, id="same-quorum"),
        pytest.param([A, B, D], 2, [A, B], True, id="one-replaced-old-quorum-is-also-new"),
        pytest.param([A, B, D], 2, [B, C], False, id="one-replaced-new-quorum-missing"),
        pytest.param([A, B, D], 2, [B, C, D], True, id="one-replaced-both"),
        pytest.param([A, B, D], 2, [A, D], False, id="one-replaced-old-quorum-missing"),
        pytest.param([D, E], 2, [A, B, D, E], True, id="all-replaced"),
        pytest.param([D, E], 2, [D, E], False, id="all-replaced-without-the-old"),
        pytest.param([D, E], 2, [A, B], False, id="all-replaced-without-the-new"),
        pytest.param([A, B, C], 3, [A, B], False, id="threshold-up-by-the-old-quorum"),
        pytest.param([A, B, C], 3, [A, B, C], True, id="threshold-up"),
        pytest.param([A, B, C], 1, [A], False, id="threshold-down-by-too-few"),
        pytest.param([A, B, C], 1, [A, C], True, id="threshold-down"),
    ],
)
def test_rotation(custodians: Sequence[Actor], threshold: int, signers: Sequence[Actor], good: bool) -> None:
    """A successor needs the threshold of its predecessor's custodians and its own threshold of its own."""
    state = land()
    state.cards |= cards(D, E)
    second = next_charter(state.charter, custodians=custodians, threshold=threshold)
    state.add_charter(second, *signers)
    if good:
        chain = state.chain
        assert [c.digest for c in chain.charters] == [state.charter.digest, second.digest]
        assert chain.newest.signers == {s.name for s in signers} & {c.name for c in custodians}
    else:
        with pytest.raises(QuorumMissing):
            _ = state.chain
        kept, rejected = find_charter_chain(state.charter_notes, state.cards, state.state)
        assert kept.newest.digest == state.charter.digest
        assert [r.digest for r in rejected] == [second.digest]


def test_a_longer_chain_verifies_in_any_order() -> None:
    """Five charters with custodians coming and going verify in whatever order the sites list them."""
    state = land()
    state.cards |= cards(D, E)
    crews = [[A, B, D], [B, D, E], [C, D, E], [A, B, C]]
    signers = [[A, B], [A, B, D], [B, D, E, C], [D, E, A, B]]
    before = state.charter
    for crew, who in zip(crews, signers, strict=True):
        before = next_charter(before, custodians=crew)
        state.add_charter(before, *who)
    assert [c.charter.number for c in state.chain.charters] == [1, 2, 3, 4, 5]
    again = verify_charter_chain(state.charter_notes[::-1], state.cards, state.state)
    assert again == state.chain
    for cut in range(1, 5):
        prefix = verify_charter_chain(state.charter_notes[:cut], state.cards, state.state)
        assert prefix.newest.charter.number == cut


@pytest.mark.parametrize("signers", [[], [A], [B], [D, E]])
def test_the_first_charter_needs_its_own_quorum(signers: list[Actor]) -> None:
    """The right text with too few signatures is not a state's first charter."""
    state = land()
    if not signers:
        signers = [writer()]
    note = signed(state.charter.encode(), *signers)
    with pytest.raises(QuorumMissing) as caught:
        verify_charter_chain([note.encode()], state.cards, state.state)
    assert caught.value.facts["needed"] == 2 - len({A.name, B.name} & {s.name for s in signers})


def test_quorum_missing_names_people() -> None:
    """The message says who has signed, how many are missing and who may still sign."""
    state = land()
    with pytest.raises(QuorumMissing) as caught:
        verify_charter_chain([signed(state.charter.encode(), B).encode()], state.cards, state.state)
    assert "signed: boris" in caught.value.message
    assert "1 more needed from: anna, clara" in caught.value.message


def test_another_states_charter_is_a_wrong_fingerprint() -> None:
    """A well-signed charter of another state is told apart by its hash."""
    state, other = land(), Land([D, E], 1)
    with pytest.raises(WrongFingerprint):
        verify_charter_chain(other.charter_notes, other.cards, state.state)
    with pytest.raises(MissingObject):
        verify_charter_chain([], state.cards, state.state)


def test_a_later_charter_cannot_be_pinned() -> None:
    """A fingerprint is that of number 1, so nobody can start a chain in the middle."""
    state = land()
    second = next_charter(state.charter)
    state.add_charter(second, A, B)
    with pytest.raises(WrongFingerprint):
        verify_charter_chain(state.charter_notes, state.cards, fingerprint(second))


def test_a_gap_is_missing() -> None:
    """If charter 2 is hidden and charter 3 carries the quorum of charter 1, something is being hidden."""
    state = land()
    second = next_charter(state.charter)
    third = next_charter(second)
    state.add_charter(second, A, B)
    state.add_charter(third, A, B)
    del state.charter_notes[1]
    for check in (verify_charter_chain, find_charter_chain):
        with pytest.raises(MissingObject, match="charter 2 is missing"):
            check(state.charter_notes, state.cards, state.state)


def test_two_signed_successors_are_a_fork() -> None:
    """Two texts for one number, both with a quorum, cannot both be true."""
    state = land()
    state.add_charter(next_charter(state.charter), A, B)
    state.add_charter(next_charter(state.charter, issued=Instant(state.charter.issued + 2 * HOUR)), B, C)
    for check in (verify_charter_chain, find_charter_chain):
        with pytest.raises(Forked):
            check(state.charter_notes, state.cards, state.state)


def test_a_signed_successor_of_another_text_is_a_fork() -> None:
    """A quorum-signed charter 3 that follows another charter 2 shows that two exist."""
    state = land()
    second = next_charter(state.charter)
    hidden = next_charter(state.charter, issued=Instant(state.charter.issued + 2 * HOUR))
    state.add_charter(second, A, B)
    state.add_charter(next_charter(hidden), A, B)
    with pytest.raises(Forked):
        find_charter_chain(state.charter_notes, state.cards, state.state)


def test_planted_notes_hide_nothing() -> None:
    """Garbage, strangers' charters and unsigned successors are listed with reasons; the chain stands."""
    state = land()
    good = next_charter(state.charter)
    state.add_charter(good, A, B)
    planted = [
        b"garbage",
        b"\xff" * 100,
        signed("exclave/charter/v1\nnumber 1\n", A).encode(),
        signed(next_charter(state.charter, threshold=1).encode(), D, E).encode(),
        signed(next_charter(next_charter(good)).encode(), D).encode(),
        Land([D, E], 1).charter_notes[0],
    ]
    chain, rejected = find_charter_chain(planted + state.charter_notes, state.cards, state.state)
    assert chain.newest.digest == good.digest
    assert len(rejected) == len(planted)
    assert all(r.reason for r in rejected)
    kinds = {type(r.error) for r in rejected}
    assert kinds == {MalformedError, QuorumMissing, MissingObject, WrongFingerprint}


def test_signatures_of_several_copies_count_together() -> None:
    """One site kept Anna's signature, another Boris's and a spoilt line in Anna's name: together they are a quorum."""
    state = land()
    first, second = signed(state.charter.encode(), A), signed(state.charter.encode(), B)
    lie = signed(state.charter.encode(), A).signatures[0]
    spoilt = second.with_signatures(replace(lie, blob=bytes(64)), signed("x\n", A).signatures[1])
    chain = verify_charter_chain([spoilt.encode(), first.encode()], state.cards, state.state)
    assert chain.newest.signers == {A.name, B.name}


def test_a_signature_over_another_text_does_not_count() -> None:
    """Signatures lifted from charter 1 do not sign charter 2."""
    state = land()
    second = next_charter(state.charter)
    lifted = replace(signed(state.charter.encode(), A, B), text=second.encode())
    with pytest.raises(QuorumMissing):
        verify_charter_chain([*state.charter_notes, lifted.encode()], state.cards, state.state)


def test_one_of_two_algorithms_is_no_signature() -> None:
    """Only Ed25519, or only ML-DSA-44, counts as nothing."""
    state = land()
    for keep in (0, 1):
        notes = [signed(state.charter.encode(), who).signatures[keep] for who in (A, B, C)]
        note = signed(state.charter.encode(), A)
        half = replace(note, signatures=tuple(notes))
        with pytest.raises(QuorumMissing):
            verify_charter_chain([half.encode()], state.cards, state.state)


def _earlier(charter: ParsedCharter) -> ParsedCharter:
    return replace(charter, issued=Instant(charter.issued - 2 * HOUR))


def _older_epoch(charter: ParsedCharter) -> ParsedCharter:
    return replace(charter, registers=(replace(charter.registers[0], epoch_note=sha256(b"another")),))


@pytest.mark.parametrize("change", [_earlier, _older_epoch])
def test_a_quorum_cannot_turn_back(change: object) -> None:
    """Time and named epochs go forward only, even with all signatures."""
    state = land()
    second = change(next_charter(state.charter))  # type: ignore[operator]
    state.add_charter(second, A, B, C)
    with pytest.raises(CorruptObject):
        _ = state.chain


def test_an_epoch_number_cannot_go_back() -> None:
    """A charter that names epoch 1 cannot follow one that names epoch 2."""
    state = land()
    made = make_epoch(state.custodians, 2, by=state.home, number=2, previous=state.first.note)
    second = next_charter(state.charter, registers=[register_block(made.note)])
    state.add_charter(second, A, B)
    third = next_charter(second, registers=state.charter.registers)
    check_successor(state.chain.charters[0], second)
    with pytest.raises(CorruptObject):
        check_successor(state.chain.newest, third)


def test_missing_cards_are_named() -> None:
    """If the signatures would do but a signer's card is hidden, that card is what is asked for."""
    state = land()
    del state.cards[B.card.digest]
    with pytest.raises(MissingObject, match="boris"):
        verify_charter_chain(state.charter_notes, state.cards, state.state)


def test_a_lost_card_of_somebody_else_does_not_matter() -> None:
    """A custodian who did not sign may be lost with his card."""
    state = land()
    del state.cards[C.card.digest]
    assert [c.name for c in state.chain.newest.cards] == [A.name, B.name]


def test_one_person_under_two_names_is_refused() -> None:
    """The same keys under a second name would let one custodian count twice."""
    twin = replace(A.card, name=B.card.name)
    state = land()
    lines = tuple(replace(c, card=twin.digest) if c.label == B.name else c for c in state.charter.custodians)
    charter = replace(state.charter, custodians=lines)
    note = signed(charter.encode(), A, C)
    with pytest.raises(CorruptObject, match="shares a key"):
        verify_charter_chain([note.encode()], state.cards | {twin.digest: twin}, fingerprint(charter))


def test_a_card_under_another_name_is_refused() -> None:
    """A charter that gives Boris the card of Dora is refused."""
    state = land()
    lines = tuple(replace(c, card=D.card.digest) if c.label == B.name else c for c in state.charter.custodians)
    charter = replace(state.charter, custodians=lines)
    with pytest.raises(CorruptObject, match="bears the name"):
        verify_charter_chain([signed(charter.encode(), A, C).encode()], state.cards | cards(D), fingerprint(charter))


def test_a_card_filed_under_a_wrong_digest_is_not_used() -> None:
    """A caller's mapping that was filled from names instead of contents gives nobody a vote."""
    state = land()
    impostor = actor("boris", life=2)
    state.cards[B.card.digest] = impostor.card
    note = signed(state.charter.encode(), A, impostor)
    with pytest.raises(ExclaveError):
        verify_charter_chain([note.encode()], state.cards, state.state)


def test_a_flipped_byte_is_never_another_valid_charter() -> None:
    """A note with any one byte changed gives the same chain or an error, never another charter."""
    state = land()
    good = state.charter_notes[0]
    for place in range(0, len(good), 37):
        bad = bytearray(good)
        bad[place] ^= 1
        try:
            chain = verify_charter_chain([bytes(bad)], state.cards, state.state)
        except ExclaveError:
            continue
        assert chain.newest.digest == state.charter.digest


def test_fingerprints_are_hex() -> None:
    """The fingerprint is the hash of the first charter's text."""
    state = land()
    assert state.state == Fingerprint(sha256(state.charter.encode().encode()).hex())
    assert state.chain.newest.charter.register(state.charter.registers[0].id) is not None
    assert state.chain.newest.charter.registers[0].epoch == Epoch(1)

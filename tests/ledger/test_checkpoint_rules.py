"""Signatures on checkpoints, and the choice among several sites' checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Forked,
    MissingObject,
    NotAuthorised,
    QuorumMissing,
    RolledBack,
    WrongFingerprint,
)
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.note import ParsedNote, Signature, key_id, parse_note
from exclave.formats.policy import NO_WITNESSES
from exclave.ids import Instant
from exclave.rules.checkpoints import (
    Candidate,
    Standing,
    VerifiedCheckpoint,
    choose_freshest,
    cosign,
    cosigners,
    merge_signatures,
    sign_checkpoint,
    verify_checkpoint,
)
from support.custody import any_of
from support.ledger import NOW, ORIGIN, OTHER, WITNESS_CARDS, WITNESSES, WRITER, root_over, verified

TWO = any_of(2, *(card.name for card in WITNESS_CARDS))


def checkpoint(size: int, witnesses: int = 0, tag: str = "entry") -> VerifiedCheckpoint:
    """Signed by the writer and cosigned by the first ``witnesses`` witnesses."""
    plain = verified(size, tag)
    more = [s for w in WITNESSES[:witnesses] for s in cosign(plain.checkpoint, w.card.name, w.pair, NOW)]
    data = merge_signatures(plain.note, more).encode()
    return verify_checkpoint(data, ORIGIN, WRITER.card, WITNESS_CARDS)


def test_a_signed_checkpoint_verifies_with_its_time_and_witnesses() -> None:
    """What was signed and cosigned is found again."""
    found = checkpoint(7, witnesses=2)
    assert (found.origin, found.size, found.root, found.time) == (ORIGIN, 7, root_over(7), NOW)
    assert found.cosigners == (("witness-a", NOW), ("witness-b", NOW))
    assert len(found.encode()) < 16 << 10


def test_signature_types_are_those_of_the_specification() -> None:
    """The log signs with types 0x01 and 0x06, a witness with 0x04 and 0x06, under their own names."""
    note = checkpoint(7, witnesses=1).note
    pair, witness = WRITER.pair, WITNESSES[0].pair
    assert [(s.name, s.key_id, len(s.blob)) for s in note.signatures] == [
        (ORIGIN, key_id(ORIGIN, b"\x01", pair.ed25519_public), 64),
        (ORIGIN, key_id(ORIGIN, b"\x06", pair.mldsa44_public), 8 + 2420),
        ("witness-a", key_id("witness-a", b"\x04", witness.ed25519_public), 8 + 64),
        ("witness-a", key_id("witness-a", b"\x06", witness.mldsa44_public), 8 + 2420),
    ]


@pytest.mark.parametrize("kept", [0, 1])
def test_half_a_signature_of_the_writer_is_none(kept: int) -> None:
    """Ed25519 alone or ML-DSA-44 alone does not count."""
    note = verified(3).note
    half = ParsedNote(note.text, (note.signatures[kept],))
    with pytest.raises(NotAuthorised):
        verify_checkpoint(half.encode(), ORIGIN, WRITER.card)


@pytest.mark.parametrize("kept", [0, 1])
def test_half_a_cosignature_is_none(kept: int) -> None:
    """A witness counts with both of its signatures only."""
    plain = verified(3)
    half = cosign(plain.checkpoint, WITNESSES[0].card.name, WITNESSES[0].pair, NOW)[kept]
    assert cosigners(merge_signatures(plain.note, [half]), WITNESS_CARDS) == {}


def test_another_writer_or_log_is_refused() -> None:
    """Another card's signatures, and another log's checkpoint, have their own errors."""
    data = verified(3).encode()
    with pytest.raises(NotAuthorised):
        verify_checkpoint(data, ORIGIN, OTHER.card)
    with pytest.raises(WrongFingerprint):
        verify_checkpoint(data, ORIGIN[:-1] + "2", WRITER.card)


def test_a_cosignature_of_another_checkpoint_does_not_count() -> None:
    """Cosignatures cannot be moved to another size or to another witness's name."""
    small, large = verified(3), verified(4)
    moved = cosign(small.checkpoint, WITNESSES[0].card.name, WITNESSES[0].pair, NOW)
    assert cosigners(merge_signatures(large.note, moved), WITNESS_CARDS) == {}
    target = WITNESS_CARDS[1]
    renamed = [
        Signature(target.name, key_id(target.name, kind, public), s.blob)
        for s, kind, public in zip(
            cosign(large.checkpoint, WITNESSES[0].card.name, WITNESSES[0].pair, NOW),
            (b"\x04", b"\x06"),
            (target.ed25519, target.mldsa44),
            strict=True,
        )
    ]
    assert cosigners(merge_signatures(large.note, renamed), WITNESS_CARDS) == {}


def test_a_doubled_signature_of_the_writer_is_refused() -> None:
    """Two lines by one key make a checkpoint ambiguous."""
    one, two = verified(3).note, verified(3, now=Instant(NOW + 1_000_000)).note
    doubled = one.with_signatures(two.signatures[1])
    with pytest.raises(CorruptObject):
        verify_checkpoint(doubled.encode(), ORIGIN, WRITER.card)


def test_unknown_signatures_do_not_matter() -> None:
    """Signatures by unknown keys are ignored, as the note format demands."""
    note = verified(3).note.with_signatures(Signature("stranger.example", b"abcd", b"junk"))
    assert verify_checkpoint(note.encode(), ORIGIN, WRITER.card).size == 3


def test_the_earlier_of_a_witness_s_two_times_counts() -> None:
    """Signatures made at two times vouch for the earlier one."""
    plain, witness = verified(3), WITNESSES[0]
    early = cosign(plain.checkpoint, witness.card.name, witness.pair, NOW)[0]
    late = cosign(plain.checkpoint, witness.card.name, witness.pair, Instant(NOW + 5_000_000))[1]
    assert cosigners(merge_signatures(plain.note, [early, late]), WITNESS_CARDS) == {"witness-a": NOW}


FLIPPED = verified(9).encode()


@given(st.integers(0, len(FLIPPED) * 8 - 1))
def test_no_flipped_bit_is_accepted(bit: int) -> None:
    """A checkpoint with one bit flipped never verifies."""
    spoilt = bytearray(FLIPPED)
    spoilt[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ExclaveError):
        verify_checkpoint(bytes(spoilt), ORIGIN, WRITER.card)


def test_the_freshest_witnessed_checkpoint_wins() -> None:
    """The largest with enough witnesses is chosen; every other place is told why not."""
    choice = choose_freshest(
        [
            Candidate("tallinn", checkpoint(9, 0)),
            Candidate("luxembourg", checkpoint(8, 2)),
            Candidate("vienna", checkpoint(8, 2)),
            Candidate("lisbon", checkpoint(5, 3)),
        ],
        policy=TWO,
    )
    assert choice.freshest.size == 8
    assert [(j.place, j.standing) for j in choice.judged] == [
        ("tallinn", Standing.UNWITNESSED),
        ("luxembourg", Standing.FRESHEST),
        ("vienna", Standing.FRESHEST),
        ("lisbon", Standing.BEHIND),
    ]
    assert (
        choice.judged[0].reason
        == "holds 9 entries, for which the quorum of witnesses lacks (2 of: witness-a, witness-b, witness-c)"
    )
    assert choice.judged[3].reason == "holds 5 of 8 entries: not published there yet, or rolled back"


def test_witnesses_found_at_several_places_count_together() -> None:
    """Each of two sites shows another witness's cosignature of the same checkpoint: together they are two."""
    a, b = checkpoint(8, 1), verified(8)
    more = cosign(b.checkpoint, WITNESSES[1].card.name, WITNESSES[1].pair, NOW)
    b = verify_checkpoint(merge_signatures(b.note, more).encode(), ORIGIN, WRITER.card, WITNESS_CARDS)
    choice = choose_freshest([Candidate("one", a), Candidate("two", b)], policy=TWO)
    assert [name for name, _ in choice.freshest.cosigners] == ["witness-a", "witness-b"]
    again = verify_checkpoint(choice.freshest.encode(), ORIGIN, WRITER.card, WITNESS_CARDS)
    assert again.cosigners == choice.freshest.cosigners


def test_without_witnesses_in_the_charter_the_largest_wins() -> None:
    """Where no witness is needed, size alone decides."""
    choice = choose_freshest([Candidate("a", checkpoint(3)), Candidate("b", checkpoint(4))], policy=NO_WITNESSES)
    assert choice.freshest.size == 4


def test_two_logs_of_one_size_are_a_fork() -> None:
    """Equal size and different roots are never a choice."""
    with pytest.raises(Forked, match="one and two show two different logs of 8 entries"):
        choose_freshest(
            [Candidate("one", checkpoint(8)), Candidate("two", checkpoint(8, tag="x"))], policy=NO_WITNESSES
        )


@pytest.mark.parametrize(
    ("sizes", "least", "error"),
    [
        ([], None, MissingObject),
        ([(8, 1)], None, QuorumMissing),
        ([(7, 2)], 8, RolledBack),
        ([(8, 2), (7, 3)], 9, RolledBack),
    ],
)
def test_refusals(sizes: list[tuple[int, int]], least: int | None, error: type[ExclaveError]) -> None:
    """No candidate, too few witnesses, or less than was seen before: each has its own error."""
    found = [Candidate(f"site-{i}", checkpoint(*spec)) for i, spec in enumerate(sizes)]
    with pytest.raises(error):
        choose_freshest(found, policy=TWO, least=checkpoint(least, 2) if least else None)


def test_what_was_seen_before_stays_the_choice_while_a_site_holds_it() -> None:
    """A witnessed checkpoint from memory wins over a smaller one, if some site shows at least as many entries."""
    found = [Candidate("a", checkpoint(9, 0)), Candidate("b", checkpoint(7, 2))]
    choice = choose_freshest(found, policy=TWO, least=checkpoint(8, 2))
    assert choice.freshest.size == 8
    assert [j.standing for j in choice.judged] == [Standing.UNWITNESSED, Standing.BEHIND]


def test_a_checkpoint_of_another_log_is_no_candidate() -> None:
    """Candidates must be of one log."""
    foreign = Checkpoint(ORIGIN[:-1] + "2", 8, root_over(8))
    note = sign_checkpoint(foreign, WRITER.pair, NOW)
    stranger = verify_checkpoint(note.encode(), foreign.origin, WRITER.card)
    with pytest.raises(WrongFingerprint):
        choose_freshest([Candidate("one", checkpoint(8)), Candidate("two", stranger)], policy=NO_WITNESSES)


def test_a_note_round_trips_with_all_its_signatures() -> None:
    """A cosigned checkpoint parses and encodes to the same bytes."""
    data = checkpoint(8, 3).encode()
    assert parse_note(data).encode() == data
    assert replace(parse_note(data)).encode() == data

"""Opening an epoch with M of N custodians; bad shares are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest

from exclave.crypto.hpke import OpeningKey, SealingKey
from exclave.crypto.shares import commitment
from exclave.errors import (
    BadShare,
    CorruptObject,
    ExclaveError,
    MalformedError,
    QuorumMissing,
    WarrantExpired,
    WarrantForeign,
)
from exclave.formats.answer import ResealedShare, parse_answer, reseal_info
from exclave.formats.epochnote import share_info
from exclave.formats.warrant import OBJECT_ACTS, SHARELESS_ACTS, Act
from exclave.ids import Epoch, Fingerprint, Instant, Label, sha256
from exclave.keys.file import KeyKind
from exclave.rules.quorum import make_epoch_shares, open_ancestors, open_epoch, reseal_share, seal_ancestors
from exclave.rules.warrants import VerifiedAnswer, answer_request, authorise_warrant, verify_answer, verify_request
from support.custody import (
    HOUR,
    REGISTER,
    START,
    Actor,
    Land,
    actor,
    answer,
    ask,
    machine,
    make_epoch,
    people,
    register_block,
    request_text,
    signed,
)

CREW = people("anna", "boris", "clara", "dora", "emil")
TABLE = [(m, n) for n in range(1, 6) for m in range(1, n + 1)]


def with_shares(answers: VerifiedAnswer, shares: Sequence[ResealedShare]) -> VerifiedAnswer:
    """What a custodian with a broken or hostile tool would have signed."""
    return replace(answers, answer=replace(answers.answer, shares=tuple(shares)))


def reseal_as(verified: VerifiedAnswer, data: bytes) -> VerifiedAnswer:
    """The answer with other bytes in its share, properly sealed to the machine."""
    share = verified.answer.shares[0]
    info = reseal_info(verified.answer.warrant, share.register, share.epoch, share.index)
    sealed = SealingKey(machine().card.sealing).seal(data, info)
    return with_shares(verified, [replace(share, sealed=sealed)])


@pytest.mark.parametrize(("threshold", "count"), TABLE)
def test_any_m_open_and_fewer_never(threshold: int, count: int) -> None:
    """For all M and N up to 5: every M custodians open, every M - 1 are told how many are missing."""
    crew = CREW[:count]
    state = Land(crew, threshold)
    opening = ask(state, crew)
    epoch = state.epochs.newest
    for chosen in combinations(opening.answers, threshold):
        opened = open_epoch(chosen, epoch, opening.warrant, machine().opening)
        assert opened.key.seed == state.first.seed
        assert opened.bad == ()
        assert set(opened.used) == {a.answer.custodian for a in chosen}
    for chosen in combinations(opening.answers, threshold - 1):
        with pytest.raises(QuorumMissing) as caught:
            open_epoch(chosen, epoch, opening.warrant, machine().opening)
        assert caught.value.facts["needed"] == 1
        assert caught.value.facts["good"] == ", ".join(sorted(a.answer.custodian for a in chosen))


def _flip(verified: VerifiedAnswer) -> VerifiedAnswer:
    share = verified.answer.shares[0]
    data = bytearray(share.sealed)
    data[-1] ^= 1
    return with_shares(verified, [replace(share, sealed=bytes(data))])


def _other_secret(verified: VerifiedAnswer) -> VerifiedAnswer:
    return reseal_as(verified, sha256(b"lie"))


def _short_secret(verified: VerifiedAnswer) -> VerifiedAnswer:
    return reseal_as(verified, b"short")


def _other_index(verified: VerifiedAnswer) -> VerifiedAnswer:
    share = verified.answer.shares[0]
    return with_shares(verified, [replace(share, index=share.index % 5 + 1)])


@pytest.mark.parametrize("spoil", [_flip, _other_secret, _short_secret, _other_index])
@pytest.mark.parametrize("who", [0, 2, 4])
def test_a_bad_share_is_named_and_left_out(spoil: object, who: int) -> None:
    """With enough good shares beside it, a wrong one is named and the key still opens."""
    state = Land(CREW, 3)
    opening = ask(state, CREW)
    answers = list(opening.answers)
    answers[who] = spoil(answers[who])  # type: ignore[operator]
    opened = open_epoch(answers, state.epochs.newest, opening.warrant, machine().opening)
    assert opened.key.seed == state.first.seed
    assert opened.bad == (CREW[who].name,)
    needed = [*[a for i, a in enumerate(answers) if i != who][:2], answers[who]]
    with pytest.raises(QuorumMissing, match=f"wrong: {CREW[who].name}") as caught:
        open_epoch(needed, state.epochs.newest, opening.warrant, machine().opening)
    assert caught.value.facts["bad"] == CREW[who].name


def test_a_custodian_who_corrects_himself_is_not_bad() -> None:
    """A second, right answer of the same custodian takes the place of the first, in either order."""
    state = Land(CREW[:2], 2)
    opening = ask(state, CREW[:2])
    wrong = _flip(opening.answers[0])
    for answers in ([wrong, *opening.answers], [*opening.answers, wrong]):
        opened = open_epoch(answers, state.epochs.newest, opening.warrant, machine().opening)
        assert opened.bad == ()


def test_a_strangers_answer_neither_helps_nor_blames() -> None:
    """Somebody who names himself like a custodian cannot make that custodian look bad."""
    state = Land(CREW[:3], 2)
    opening = ask(state, CREW[:3])
    namesake = replace(_flip(opening.answers[2]), custodian=actor("clara", life=2).card)
    opened = open_epoch([namesake, *opening.answers[:2]], state.epochs.newest, opening.warrant, machine().opening)
    assert opened.bad == ()


def dealt_wrongly(state: Land, victim: Actor) -> Land:
    """The same state, but its dealer committed to a share for ``victim`` that does not fit the others."""
    note, boxes = state.first.note, dict(state.first.boxes)
    line = note.share_of(victim.name)
    assert line is not None
    data = sha256(b"not on the polynomial")
    boxes[victim.name] = SealingKey(victim.card.sealing).seal(
        data, share_info(REGISTER, Epoch(1), line.index, victim.name)
    )
    bad = replace(line, commitment=commitment(REGISTER, Epoch(1), line.index, data), box=sha256(boxes[victim.name]))
    note = replace(note, shares=tuple(bad if s.custodian == victim.name else s for s in note.shares))
    state.first = replace(state.first, note=note, boxes=boxes, signed=signed(note.encode(), state.home))
    state.charter = replace(state.charter, registers=(register_block(note),))
    state.charter_notes = [signed(state.charter.encode(), *state.custodians[: state.threshold]).encode()]
    state.state = Fingerprint(state.charter.digest.hex())
    state.epoch_notes = [state.first.signed.encode()]
    return state


def test_a_share_that_was_dealt_wrongly_is_found_too() -> None:
    """A share that keeps its commitment but lies off the polynomial is named if the others suffice."""
    state = dealt_wrongly(Land(CREW[:4], 3), CREW[0])
    opening = ask(state, CREW[:4])
    opened = open_epoch(opening.answers, state.epochs.newest, opening.warrant, machine().opening)
    assert opened.key.seed == state.first.seed
    assert opened.bad == (CREW[0].name,)
    with pytest.raises(CorruptObject, match="do not make its opening key"):
        open_epoch(opening.answers[:3], state.epochs.newest, opening.warrant, machine().opening)


def test_answers_to_another_warrant_do_not_open() -> None:
    """Shares that were sent for one warrant are of no use for another."""
    state = Land(CREW[:2], 2)
    one, other = ask(state, CREW[:2]), ask(state, CREW[:2], act=Act.DRILL)
    with pytest.raises(WarrantForeign):
        open_epoch(one.answers, state.epochs.newest, other.warrant, machine().opening)


def test_the_wrong_machine_blames_nobody() -> None:
    """Opened with another machine's key, the fault is the machine's, not the custodians'."""
    state = Land(CREW[:2], 2)
    opening = ask(state, CREW[:2])
    with pytest.raises(WarrantForeign, match="another machine"):
        open_epoch(opening.answers, state.epochs.newest, opening.warrant, actor("x", KeyKind.MACHINE).opening)


def test_history_opens_nothing() -> None:
    """A warrant that was only looked at as history cannot be used to open."""
    state = Land(CREW[:2], 2)
    opening = ask(state, CREW[:2])
    past = replace(opening.warrant, checked_at=None)
    with pytest.raises(WarrantExpired):
        open_epoch(opening.answers, state.epochs.newest, past, machine().opening)


@pytest.mark.parametrize("act", sorted(SHARELESS_ACTS))
def test_some_warrants_open_nothing(act: Act) -> None:
    """Neither the custodian's side nor the machine's side opens for a deletion or an act on certificates."""
    seen = sha256(b"order") if act in OBJECT_ACTS else None
    state = Land(CREW[:2], 2)
    epoch = state.epochs.newest
    request = signed(request_text(state.chain.newest, state.state, act=act, object=seen), machine(), *CREW[:2])
    verified = verify_request(request, machine().card, state.chain, now=START)
    with pytest.raises(WarrantForeign):
        reseal_share(state.first.boxes[Label("anna")], CREW[0].opening, Label("anna"), epoch, verified)
    warrant = authorise_warrant(request, state.chain, state.cards, now=START, place=None, machine=None, act=act)
    with pytest.raises(WarrantForeign):
        open_epoch([], epoch, warrant, machine().opening)


def test_resealing_names_the_custodian_of_a_bad_share() -> None:
    """A box of another custodian, a changed box, a wrong key and a share off its commitment are told apart."""
    state = Land(CREW[:3], 2)
    epoch = state.epochs.newest
    request = signed(request_text(state.chain.newest, state.state, act=Act.RESTORE), machine())
    verified = verify_request(request, machine().card, state.chain, now=START)
    anna, boris = CREW[0], CREW[1]
    box = state.first.boxes[anna.name]
    assert reseal_share(box, anna.opening, anna.name, epoch, verified).index == 1
    cases: list[tuple[bytes, Actor, Label, type[ExclaveError]]] = [
        (state.first.boxes[boris.name], anna, anna.name, CorruptObject),
        (box[:-1] + bytes([box[-1] ^ 1]), anna, anna.name, CorruptObject),
        (box, boris, anna.name, BadShare),
        (box, anna, Label("nobody"), BadShare),
    ]
    for data, key, name, error in cases:
        with pytest.raises(error) as caught:
            reseal_share(data, key.opening, name, epoch, verified)
        assert caught.value.facts.get("custodian", name) == name
    broken = replace(state.first.note.shares[0], commitment=sha256(b"else"))
    note = replace(epoch.note, shares=(broken, *epoch.note.shares[1:]))
    with pytest.raises(BadShare, match="anna") as named:
        reseal_share(box, anna.opening, anna.name, replace(epoch, note=note), verified)
    assert named.value.facts["custodian"] == anna.name


def test_a_share_cannot_be_moved_to_another_place() -> None:
    """A re-sealed share opens only for its own warrant, register, epoch and index."""
    state = Land(CREW[:2], 2)
    opening = ask(state, CREW[:2])
    first, second = opening.answers
    swapped = with_shares(first, [replace(second.answer.shares[0], index=1)])
    with pytest.raises(QuorumMissing, match="wrong: anna"):
        open_epoch([swapped, second], state.epochs.newest, opening.warrant, machine().opening)


def test_make_epoch_shares_numbers_by_name() -> None:
    """Indices follow the names' order whatever the order of the cards; odd input is refused."""
    cards = [c.card for c in CREW[:3]]
    lines, boxes = make_epoch_shares(
        bytes(32), cards[::-1], 2, register=REGISTER, epoch=Epoch(1), random=lambda n: b"\5" * n
    )
    assert [(s.index, s.custodian) for s in lines] == [(1, "anna"), (2, "boris"), (3, "clara")]
    assert [s.box for s in lines] == [sha256(b) for b in boxes]
    for seed, people_, threshold in [(bytes(31), cards, 2), (bytes(32), [*cards, cards[0]], 2), (bytes(32), cards, 4)]:
        with pytest.raises(MalformedError):
            make_epoch_shares(seed, people_, threshold, register=REGISTER, epoch=Epoch(1), random=bytes)


def _with_ancestor(state: Land) -> tuple[bytes, OpeningKey]:
    """A second epoch whose box holds the seed of the first."""
    by = actor("rescue-2", KeyKind.MACHINE)
    warrant = state.warrant(by)
    made = make_epoch(
        state.custodians, state.threshold, by=by, number=2, previous=state.first.note, warrant=warrant.digest
    )
    key = OpeningKey(made.seed)
    box = seal_ancestors({Epoch(1): state.first.seed}, key.public, REGISTER, Epoch(2))
    note = replace(made.note, ancestor=sha256(box))
    state.epoch_notes.append(signed(note.encode(), by).encode())
    return box, key


def test_ancestors_open_and_are_checked() -> None:
    """The newest key opens the seeds of all former epochs, and each must be the one of its note."""
    state = Land(CREW[:2], 2)
    box, key = _with_ancestor(state)
    epochs = state.epochs
    opened = open_ancestors(box, key, epochs.newest, epochs)
    assert {n: k.seed for n, k in opened.items()} == {1: state.first.seed}
    lie = seal_ancestors({Epoch(1): bytes(32)}, key.public, REGISTER, Epoch(2))
    lying = replace(epochs.newest, note=replace(epochs.newest.note, ancestor=sha256(lie)))
    with pytest.raises(CorruptObject, match="wrong key for epoch 1"):
        open_ancestors(lie, key, lying, epochs)
    with pytest.raises(CorruptObject):
        open_ancestors(lie, key, epochs.newest, epochs)
    with pytest.raises(CorruptObject):
        open_ancestors(box, OpeningKey(bytes(32)), epochs.newest, epochs)
    with pytest.raises(CorruptObject):
        open_ancestors(box, key, epochs.epochs[0], epochs)


@pytest.mark.parametrize("numbers", [[], [2], [1, 2, 4], [1, 2, 3, 4]])
def test_ancestors_are_complete(numbers: list[int]) -> None:
    """The box of epoch 4 holds exactly epochs 1 to 3."""
    former = {Epoch(n): bytes(32) for n in numbers}
    with pytest.raises(MalformedError):
        seal_ancestors(former, OpeningKey(bytes(32)).public, REGISTER, Epoch(4))


def test_an_answer_travels_as_text() -> None:
    """What a custodian signs parses back to the same shares, and late answers are refused before signing."""
    state = Land(CREW[:2], 2)
    request = signed(request_text(state.chain.newest, state.state, act=Act.RESTORE), machine())
    note = answer(state, request, CREW[0], state.first)
    parsed = parse_answer(note.text)
    assert verify_answer(note, request, CREW[0].card).answer == parsed
    assert parsed.shares[0].register == REGISTER
    with pytest.raises(WarrantExpired):
        answer(state, request, CREW[0], state.first, now=Instant(START + 2 * HOUR))
    verified = verify_request(request, machine().card, state.chain, now=START)
    with pytest.raises(MalformedError):
        answer_request(verified, CREW[0].name, CREW[0].pair, [parsed.shares[0], parsed.shares[0]], START)

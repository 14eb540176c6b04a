"""Warrants: foreign, early, late and half-signed ones, and answers that are not what they claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    QuorumMissing,
    WarrantExpired,
    WarrantForeign,
)
from exclave.formats.answer import parse_answer
from exclave.formats.note import ParsedNote
from exclave.formats.warrant import Act, check_object, parse_warrant
from exclave.ids import Digest, Fingerprint, Instant, Label, RegisterId, sha256
from exclave.keys.file import KeyKind
from exclave.rules.signatures import sign_text
from exclave.rules.warrants import (
    AuthorisedWarrant,
    answer_request,
    assemble_warrant,
    authorise_warrant,
    collect_warrants,
    verify_answer,
    verify_request,
)
from support.custody import (
    HOUR,
    REGISTER,
    START,
    Actor,
    Land,
    actor,
    answer,
    ask,
    cards,
    machine,
    next_charter,
    people,
    request_text,
    signed,
)

A, B, C, D = people("anna", "boris", "clara", "dora")
LUX = Label("luxembourg")


def land() -> Land:
    return Land([A, B, C], 2)


def authorise(state: Land, note: ParsedNote, **changes: object) -> AuthorisedWarrant:
    wanted = {
        "now": Instant(START + 1),
        "place": LUX,
        "machine": machine().card.digest,
        "act": Act.FAILOVER,
        "registers": [REGISTER],
    } | changes
    return authorise_warrant(note, state.chain, state.cards, **wanted)  # type: ignore[arg-type]


def warrant(state: Land, *who: Actor) -> ParsedNote:
    return signed(request_text(state.chain.newest, state.state), machine(), *who)


@pytest.mark.parametrize(
    ("signers", "good"),
    [
        ([], False),
        ([A], False),
        ([A, B], True),
        ([B, C], True),
        ([A, C], True),
        ([A, B, C], True),
        ([A, D], False),
        ([D, actor("emil")], False),
        ([actor("anna", life=2), B], False),
    ],
)
def test_quorum(signers: Sequence[Actor], good: bool) -> None:
    """Any two of the three custodians make it an order; one, strangers and namesakes do not."""
    state = land()
    state.cards |= cards(D)
    note = warrant(state, *signers)
    if good:
        found = authorise(state, note)
        assert found.signers == {s.name for s in signers}
        assert found.machine == machine().card
        assert found.covers(REGISTER)
    else:
        with pytest.raises(QuorumMissing) as caught:
            authorise(state, note)
        right = {A.card.digest, B.card.digest, C.card.digest} & {s.card.digest for s in signers}
        assert caught.value.facts["needed"] == 2 - len(right)


@pytest.mark.parametrize(
    ("now", "error"),
    [
        (START - 1, WarrantExpired),
        (START, None),
        (START + HOUR, None),
        (START + HOUR + 1, WarrantExpired),
        (None, None),
    ],
)
def test_time(now: int | None, error: type[ExclaveError] | None) -> None:
    """It holds from not-before to not-after, both included; as history it holds forever."""
    state = land()
    note = warrant(state, A, B)
    if error is None:
        assert authorise(state, note, now=now).checked_at == now
    else:
        with pytest.raises(error, match="2026-09-21T"):
            authorise(state, note, now=now)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"place": Label("monaco")}, "is for luxembourg"),
        ({"machine": sha256(b"other")}, "another machine"),
        ({"act": Act.RESTORE}, "allows failover"),
        ({"registers": [RegisterId("f" * 32)]}, "does not name register"),
    ],
)
def test_foreign_purpose(changes: dict[str, object], said: str) -> None:
    """Another place, machine, act or register than the warrant's is refused, whoever signed."""
    state = land()
    with pytest.raises(WarrantForeign, match=said):
        authorise(state, warrant(state, A, B, C), **changes)


ORDER, OTHER = sha256(b"an order"), sha256(b"an order, altered")


@pytest.mark.parametrize(
    ("act", "named", "used", "error"),
    [
        (Act.REVOKE, ORDER, ORDER, None),
        (Act.REVOKE, ORDER, OTHER, WarrantForeign),
        (Act.REVOKE, None, ORDER, None),
        (Act.HOLD, ORDER, OTHER, WarrantForeign),
        (Act.HOLD, None, OTHER, None),
        (Act.RELEASE, ORDER, ORDER, None),
        (Act.RELEASE, ORDER, OTHER, WarrantForeign),
        (Act.RELEASE, None, ORDER, MalformedError),
        (Act.EXTEND, ORDER, OTHER, WarrantForeign),
        (Act.EXTEND, None, ORDER, MalformedError),
        (Act.REISSUE, ORDER, OTHER, WarrantForeign),
        (Act.REISSUE, None, ORDER, MalformedError),
        (Act.RESTORE, None, ORDER, WarrantForeign),
    ],
)
def test_order_files(act: Act, named: Digest | None, used: Digest, error: type[ExclaveError] | None) -> None:
    """A warrant lets through the one file that it names; only to revoke and to hold it may leave the file open."""
    state = land()
    if error is MalformedError:
        with pytest.raises(error):
            check_object(act, named)
        return
    note = signed(request_text(state.chain.newest, state.state, act=act, object=named), machine(), A, B)
    if error is None:
        assert authorise(state, note, act=act, object=used).warrant.object == named
    else:
        with pytest.raises(error, match="order file"):
            authorise(state, note, act=act, object=used)


def test_another_states_warrant() -> None:
    """A warrant of another state with the same custodians is foreign."""
    state = land()
    text = request_text(state.chain.newest, Fingerprint("a" * 64))
    with pytest.raises(WarrantForeign, match="for the state"):
        authorise(state, signed(text, A, B))


def test_another_charters_warrant() -> None:
    """A warrant must name the newest charter; as history, any of the chain; never an unknown one."""
    state = land()
    note = warrant(state, A, B)
    state.add_charter(next_charter(state.charter), A, B)
    with pytest.raises(WarrantForeign, match="charter 2 is in force"):
        authorise(state, note)
    assert authorise(state, note, now=None).charter.charter.number == 1
    stranger = next_charter(next_charter(state.charter))
    with pytest.raises(WarrantForeign, match="not known"):
        authorise(state, signed(request_text(stranger, state.state), A, B), now=None)


def test_a_register_that_the_charter_does_not_list() -> None:
    """A warrant for an unknown register is foreign, even if it names a known one too."""
    state = land()
    text = request_text(state.chain.newest, state.state, registers=[REGISTER, RegisterId("f" * 32)])
    with pytest.raises(WarrantForeign, match="does not list"):
        authorise(state, signed(text, A, B))


def test_missing_cards_of_signers_are_named() -> None:
    """If the signatures would do but for hidden cards, the cards are asked for."""
    state = land()
    note = warrant(state, B, C)
    chain_notes = [signed(state.charter.encode(), A, B, C).encode()]
    state.charter_notes = chain_notes
    del state.cards[C.card.digest]
    with pytest.raises(MissingObject, match="clara"):
        authorise(state, note)


def test_signatures_over_another_warrant_do_not_count() -> None:
    """Signatures lifted from another warrant are none."""
    state = land()
    lifted = replace(warrant(state, A, B), text=request_text(state.chain.newest, state.state, nonce=2))
    with pytest.raises(QuorumMissing):
        authorise(state, lifted)


def test_answers_make_a_warrant() -> None:
    """Request, two answers, assembly: an order; one answer given twice is still one."""
    state = land()
    opening = ask(state, [A, C])
    assert opening.warrant.signers == {A.name, C.name}
    request = signed(request_text(state.chain.newest, state.state, act=Act.RESTORE), machine())
    twice = [verify_answer(answer(state, request, A, state.first), request, A.card) for _ in range(2)]
    note = assemble_warrant(request, twice)
    assert len(note.signatures) == 4
    with pytest.raises(QuorumMissing, match="signed: anna"):
        authorise(state, note, act=Act.RESTORE)


def test_a_false_line_in_the_request_does_not_hide_an_approval() -> None:
    """A request that comes with a spoilt signature in Anna's name is cleaned of it."""
    state = land()
    request = signed(request_text(state.chain.newest, state.state, act=Act.RESTORE), machine())
    lie = replace(signed(request.text, A).signatures[1], blob=bytes(2420))
    spoilt = request.with_signatures(lie)
    answers = [verify_answer(answer(state, request, w, state.first), request, w.card) for w in (A, B)]
    assert authorise(state, assemble_warrant(spoilt, answers), act=Act.RESTORE).signers == {A.name, B.name}


def _swap_warrant(note: ParsedNote, who: Actor) -> ParsedNote:
    text = replace(parse_answer(note.text), warrant=sha256(b"other")).encode()
    return signed(text, who)


def _swap_custodian(note: ParsedNote, who: Actor) -> ParsedNote:
    return signed(replace(parse_answer(note.text), custodian=D.name).encode(), who)


def _approve_other(note: ParsedNote, who: Actor) -> ParsedNote:
    first, second = sign_text("another warrant\n", who.name, who.pair)
    text = replace(
        parse_answer(note.text),
        approval_ed25519=first.key_id + first.blob,
        approval_mldsa44=second.key_id + second.blob,
    ).encode()
    return signed(text, who)


def _approve_half(note: ParsedNote, who: Actor) -> ParsedNote:
    parsed = parse_answer(note.text)
    blob = parsed.approval_mldsa44[:4] + bytes(2420)
    return signed(replace(parsed, approval_mldsa44=blob).encode(), who)


def _approve_by_another(note: ParsedNote, who: Actor) -> ParsedNote:
    first, second = sign_text("x\n", D.name, D.pair)
    text = replace(
        parse_answer(note.text),
        approval_ed25519=first.key_id + first.blob,
        approval_mldsa44=second.key_id + second.blob,
    ).encode()
    return signed(text, who)


def _unsigned(note: ParsedNote, who: Actor) -> ParsedNote:
    return signed(note.text, D)


def _half_signed(note: ParsedNote, who: Actor) -> ParsedNote:
    return replace(note, signatures=note.signatures[:1])


def _changed_text(note: ParsedNote, who: Actor) -> ParsedNote:
    return replace(note, text=note.text.replace("time 2026", "time 2027"))


def _foreign_share(note: ParsedNote, who: Actor) -> ParsedNote:
    parsed = parse_answer(note.text)
    share = replace(parsed.shares[0], register=RegisterId("e" * 32))
    return signed(replace(parsed, shares=(share,)).encode(), who)


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (_swap_warrant, WarrantForeign),
        (_swap_custodian, NotAuthorised),
        (_approve_other, CorruptObject),
        (_approve_half, CorruptObject),
        (_approve_by_another, CorruptObject),
        (_unsigned, NotAuthorised),
        (_half_signed, NotAuthorised),
        (_changed_text, CorruptObject),
        (_foreign_share, WarrantForeign),
    ],
)
def test_forged_answers(forge: Callable[[ParsedNote, Actor], ParsedNote], error: type[ExclaveError]) -> None:
    """Every way of changing an answer is refused for its own reason."""
    state = land()
    request = signed(request_text(state.chain.newest, state.state, act=Act.RESTORE), machine())
    good = answer(state, request, A, state.first)
    assert verify_answer(good, request, A.card).custodian == A.card
    with pytest.raises(error) as caught:
        verify_answer(forge(good, A), request, A.card)
    assert type(caught.value) is error


def test_an_answer_to_another_request_is_not_assembled() -> None:
    """Assembly refuses an answer that approves something else."""
    state = land()
    request = signed(request_text(state.chain.newest, state.state, act=Act.RESTORE), machine())
    other = signed(request_text(state.chain.newest, state.state, act=Act.RESTORE, nonce=2), machine())
    verified = verify_answer(answer(state, request, A, state.first), request, A.card)
    with pytest.raises(WarrantForeign):
        assemble_warrant(other, [verified])


@pytest.mark.parametrize(("now", "good"), [(START - HOUR, True), (START + HOUR, True), (START + HOUR + 1, False)])
def test_requests_may_be_answered_early_but_not_late(now: int, good: bool) -> None:
    """A drill of next week may be signed today; what is over may not be signed any more."""
    state = land()
    request = signed(request_text(state.chain.newest, state.state), machine())
    if good:
        assert verify_request(request, machine().card, state.chain, now=Instant(now)).machine == machine().card
    else:
        with pytest.raises(WarrantExpired):
            verify_request(request, machine().card, state.chain, now=Instant(now))


def test_requests_that_a_custodian_must_not_see_as_good() -> None:
    """Not signed by the machine, for another machine, and for another state."""
    state = land()
    text = request_text(state.chain.newest, state.state)
    with pytest.raises(NotAuthorised):
        verify_request(signed(text, D), machine().card, state.chain, now=START)
    other = actor("other", KeyKind.MACHINE)
    with pytest.raises(WarrantForeign):
        verify_request(signed(text, other), other.card, state.chain, now=START)
    foreign = request_text(state.chain.newest, Fingerprint("b" * 64))
    with pytest.raises(WarrantForeign):
        verify_request(signed(foreign, machine()), machine().card, state.chain, now=START)


def test_an_answer_without_shares_is_only_an_approval() -> None:
    """A deletion needs signatures and no shares."""
    state = land()
    text = request_text(state.chain.newest, state.state, act=Act.DELETE, object=sha256(b"order"))
    request = signed(text, machine())
    verified = verify_request(request, machine().card, state.chain, now=START)
    notes = [answer_request(verified, w.name, w.pair, [], START) for w in (A, B)]
    answers = [verify_answer(n, request, w.card) for n, w in zip(notes, (A, B), strict=True)]
    assert authorise(state, assemble_warrant(request, answers), act=Act.DELETE).warrant.act is Act.DELETE


def test_planted_copies_of_a_warrant_hide_nothing() -> None:
    """Copies without signatures, with spoilt ones and with some each are taken together; other texts are left out."""
    state = land()
    both = warrant(state, A, B)
    lie = replace(both.signatures[2], blob=bytes(64))
    spoilt = ParsedNote(both.text, (*both.signatures[2:], lie))
    foreign = signed(request_text(state.chain.newest, Fingerprint("a" * 64)), A, B)
    piles = [
        [warrant(state), both, warrant(state)],
        [spoilt, warrant(state, B), warrant(state, A), warrant(state, D)],
        [both, spoilt],
    ]
    for pile in piles:
        notes = [b"garbage", foreign.encode(), state.charter_notes[0], *(n.encode() for n in pile)]
        found = collect_warrants(notes, state.chain)
        assert set(found) == {both.digest}
        assert authorise(state, found[both.digest]).signers == {A.name, B.name}
        assert len(found[both.digest].signatures) == 4
    alone = collect_warrants([warrant(state).encode()], state.chain)
    with pytest.raises(QuorumMissing):
        authorise(state, alone[both.digest])


def test_a_warrant_that_is_no_warrant() -> None:
    """A signed text of another kind is malformed, not merely unsigned."""
    state = land()
    with pytest.raises(MalformedError):
        authorise(state, signed(state.charter.encode(), A, B))


def test_a_flipped_byte_is_never_another_order() -> None:
    """Whatever byte of a signed warrant is changed, it is refused or still the same order."""
    state = land()
    from exclave.formats.note import parse_note

    note = warrant(state, A, B)
    good = note.encode()
    for place in range(0, len(good), 53):
        bad = bytearray(good)
        bad[place] ^= 1
        try:
            found = authorise(state, parse_note(bytes(bad)))
        except ExclaveError:
            continue
        assert found.digest == note.digest
    assert parse_warrant(note.text).digest == note.digest

"""Whether a warrant allows what is about to happen, and custodians' answers. Page: ``docs/spec/warrant.md``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from exclave.crypto.sign import SigningPair, verify_ed25519, verify_mldsa44
from exclave.errors import CorruptObject, MalformedError, NotAuthorised, WarrantExpired, WarrantForeign
from exclave.formats.answer import ParsedAnswer, ResealedShare, parse_answer
from exclave.formats.card import Card
from exclave.formats.note import ParsedNote, Signature, parse_note
from exclave.formats.warrant import STANDING_ACTS, Act, ParsedWarrant, parse_warrant
from exclave.ids import Digest, Instant, Label, RegisterId, instant_text
from exclave.rules.charters import CharterChain, VerifiedCharter, require_quorum
from exclave.rules.signatures import good_signatures, sign_text, verify_signed_by


@dataclass(frozen=True, slots=True)
class AuthorisedWarrant:
    """A warrant that enough custodians of its charter signed. Built only by ``authorise_warrant``."""

    warrant: ParsedWarrant
    digest: Digest
    charter: VerifiedCharter
    signers: frozenset[Label]
    machine: Card | None
    """Key card of its machine, if it was at hand."""
    checked_at: Instant | None
    """When it held. None: looked at as history, so it allows nothing now."""

    def covers(self, register: RegisterId) -> bool:
        return register in self.warrant.registers


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """A request that its machine signed, for this state and its newest charter. Built only by ``verify_request``."""

    note: ParsedNote
    warrant: ParsedWarrant
    digest: Digest
    machine: Card


@dataclass(frozen=True, slots=True)
class VerifiedAnswer:
    """A custodian's answer, signed by him, with good signatures over the warrant. Built only by ``verify_answer``."""

    answer: ParsedAnswer
    custodian: Card
    approvals: tuple[Signature, Signature]


def authorise_warrant(
    note: ParsedNote,
    chain: CharterChain,
    cards: Mapping[Digest, Card],
    *,
    now: Instant | None,
    place: Label | None,
    machine: Digest | None,
    act: Act | None,
    registers: Iterable[RegisterId] = (),
    object: Digest | None = None,
) -> AuthorisedWarrant:
    """The warrant in ``note``, if it allows ``act`` on ``registers`` at ``place`` on ``machine`` at the time ``now``.

    ``object`` is the digest of an order file: the warrant must name it or be a standing order. ``now`` None asks
    about history: whether it was ever an order under any charter of the chain; who asks so has to judge which charter
    that was. None for place, machine or act leaves that open. Raises ``WarrantForeign``, ``WarrantExpired``,
    ``QuorumMissing``, ``MalformedError``, and ``MissingObject`` if custodians' cards are missing.
    """
    warrant = parse_warrant(note.text)
    charter = _charter_of(warrant, chain, current=now is not None)
    _check_scope(warrant, place=place, machine=machine, act=act, registers=registers)
    if object is not None and not allows_object(warrant, object):
        raise WarrantForeign("the warrant is for another order file than this one", object=object.hex())
    if now is not None:
        _check_time(warrant, now)
    signed = require_quorum([note], charter.charter, charter.cards, "the warrant")
    card = cards.get(warrant.machine)
    if card is not None and card.digest != warrant.machine:
        card = None
    return AuthorisedWarrant(warrant, note.digest, charter, signed, card, now)


def collect_warrants(notes: Iterable[bytes], chain: CharterChain) -> dict[Digest, ParsedNote]:
    """Every warrant in ``notes`` by the digest of its text, with just those signatures of custodians that verify.

    Takes all copies of a text together, so a copy without signatures, or with spoilt ones, that somebody planted
    beside the right one hides nothing. What is no warrant of this state is left out. Authorises none of them.
    """
    found: dict[Digest, ParsedNote] = {}
    for data in notes:
        try:
            note = parse_note(data)
            charter = _charter_of(parse_warrant(note.text), chain, current=False)
        except (MalformedError, WarrantForeign):
            continue
        known = found.get(note.digest, ParsedNote(note.text, ()))
        have = {s.name for s in known.signatures}
        for card in charter.cards:
            if card.name not in have:
                with suppress(NotAuthorised, CorruptObject):
                    known = known.with_signatures(*good_signatures(note, card))
        found[note.digest] = known
    return found


def verify_request(note: ParsedNote, machine: Card, chain: CharterChain, *, now: Instant) -> VerifiedRequest:
    """What a custodian's tool checks before it shows a request: signed by its machine, for this state, not over yet.

    Whether it should be granted is for the custodian to say. Raises ``WarrantForeign``, ``WarrantExpired``,
    ``NotAuthorised`` (not signed by the machine), ``CorruptObject``, ``MalformedError``.
    """
    warrant = parse_warrant(note.text)
    _charter_of(warrant, chain, current=True)
    if machine.digest != warrant.machine:
        raise WarrantForeign(f"the request is for another machine than {machine.name}")
    verify_signed_by(note, machine)
    if now > warrant.not_after:
        raise WarrantExpired(f"the request was good until {instant_text(warrant.not_after)}")
    return VerifiedRequest(note, warrant, note.digest, machine)


def answer_request(
    request: VerifiedRequest, custodian: Label, pair: SigningPair, shares: Sequence[ResealedShare], now: Instant
) -> ParsedNote:
    """The custodian's consent: a signed answer with his approval of the warrant and his re-sealed ``shares``."""
    first, second = sign_text(request.note.text, custodian, pair)
    answer = ParsedAnswer(
        warrant=request.digest,
        custodian=custodian,
        time=now,
        approval_ed25519=first.key_id + first.blob,
        approval_mldsa44=second.key_id + second.blob,
        shares=tuple(sorted(shares, key=lambda share: (share.register, share.epoch))),
    )
    text = parse_answer(answer.encode()).encode()
    return ParsedNote(text, sign_text(text, custodian, pair))


def verify_answer(note: ParsedNote, request: ParsedNote, custodian: Card) -> VerifiedAnswer:
    """The answer in ``note``, if ``custodian`` signed it and approves exactly the warrant in ``request``.

    Whether he is a custodian of the charter is decided when the warrant is authorised. Raises ``WarrantForeign``
    (answers another request, or carries another register's share), ``NotAuthorised``, ``CorruptObject``,
    ``MalformedError``.
    """
    answer = parse_answer(note.text)
    warrant = parse_warrant(request.text)
    if answer.warrant != request.digest:
        raise WarrantForeign(f"the answer of {answer.custodian} is to another request", custodian=answer.custodian)
    if answer.custodian != custodian.name:
        raise NotAuthorised(f"the answer of {answer.custodian} was held against the card of {custodian.name}")
    if any(share.register not in warrant.registers for share in answer.shares):
        raise WarrantForeign(f"{answer.custodian} sent a share of a register that the warrant does not name")
    verify_signed_by(note, custodian)
    blobs = (answer.approval_ed25519, answer.approval_mldsa44)
    if tuple(blob[:4] for blob in blobs) != custodian.note_key_ids():
        raise CorruptObject(f"the approval of {custodian.name} was made with other keys than his card's")
    verify_ed25519(custodian.ed25519, blobs[0][4:], request.text.encode())
    verify_mldsa44(custodian.mldsa44, blobs[1][4:], request.text.encode())
    first, second = (Signature(custodian.name, blob[:4], blob[4:]) for blob in blobs)
    return VerifiedAnswer(answer, custodian, (first, second))


def assemble_warrant(request: ParsedNote, answers: Iterable[VerifiedAnswer]) -> ParsedNote:
    """``request`` with the approvals of ``answers`` added. Not authorised by that: ``authorise_warrant`` decides."""
    approvals: dict[tuple[str, bytes], Signature] = {}
    for answer in answers:
        if answer.answer.warrant != request.digest:
            raise WarrantForeign(f"the answer of {answer.answer.custodian} is to another request")
        for approval in answer.approvals:
            # A custodian who answers twice has two good signatures; one is enough.
            approvals.setdefault((approval.name, approval.key_id), approval)
    # A line in the request that claims to be a custodian's would stand in the way of the verified one.
    kept = tuple(s for s in request.signatures if (s.name, s.key_id) not in approvals)
    return ParsedNote(request.text, kept + tuple(approvals.values()))


def _charter_of(warrant: ParsedWarrant, chain: CharterChain, *, current: bool) -> VerifiedCharter:
    if warrant.state != chain.state:
        raise WarrantForeign(f"the warrant is for the state {warrant.state}, not {chain.state}")
    charter = chain.find(warrant.charter)
    if charter is None:
        raise WarrantForeign("the warrant names a charter that is not known here")
    if current and charter.digest != chain.newest.digest:
        number, newest = charter.charter.number, chain.newest.charter.number
        raise WarrantForeign(f"the warrant names charter {number}, but charter {newest} is in force")
    for register in warrant.registers:
        if charter.charter.register(register) is None:
            raise WarrantForeign(f"the warrant names register {register}, which its charter does not list")
    return charter


def allows_object(warrant: ParsedWarrant, object: Digest) -> bool:
    """Whether the order file with this digest may be carried out under ``warrant``, as far as the file goes."""
    if warrant.object is None:
        return warrant.act in STANDING_ACTS
    return warrant.object == object


def _check_scope(
    warrant: ParsedWarrant,
    *,
    place: Label | None,
    machine: Digest | None,
    act: Act | None,
    registers: Iterable[RegisterId],
) -> None:
    if act is not None and warrant.act != act:
        raise WarrantForeign(f"the warrant allows {warrant.act}, not {act}")
    if place is not None and warrant.place != place:
        raise WarrantForeign(f"the warrant is for {warrant.place}, not {place}")
    if machine is not None and warrant.machine != machine:
        raise WarrantForeign("the warrant is for another machine: its key card is not the one of this machine")
    for register in registers:
        if register not in warrant.registers:
            raise WarrantForeign(f"the warrant does not name register {register}")


def _check_time(warrant: ParsedWarrant, now: Instant) -> None:
    if now < warrant.not_before:
        raise WarrantExpired(f"the warrant does not hold before {instant_text(warrant.not_before)}")
    if now > warrant.not_after:
        raise WarrantExpired(f"the warrant held until {instant_text(warrant.not_after)}")

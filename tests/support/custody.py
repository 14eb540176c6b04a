"""A small state for tests: people with fixed keys, charters, epochs and warrants that they sign."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from exclave.crypto.hpke import OpeningKey
from exclave.crypto.sign import SigningPair
from exclave.formats.card import Card
from exclave.formats.charter import (
    CharterRegister,
    CharterSite,
    CharterWitness,
    Custodian,
    ParsedCharter,
    Placement,
    parse_charter,
)
from exclave.formats.epochnote import Cut, ParsedEpoch, parse_epoch
from exclave.formats.note import ParsedNote
from exclave.formats.policy import WitnessGroup, WitnessPolicy
from exclave.formats.warrant import Act, ParsedWarrant, parse_warrant
from exclave.ids import Country, Digest, Epoch, Fingerprint, Instant, Label, RegisterId, sha256
from exclave.keys.file import KeyFile, KeyKind
from exclave.rules.charters import CharterChain, VerifiedCharter, verify_charter_chain
from exclave.rules.epochs import EpochChain, verify_epoch_chain
from exclave.rules.quorum import make_epoch_shares, reseal_share
from exclave.rules.signatures import card_of, sign_text
from exclave.rules.warrants import (
    AuthorisedWarrant,
    VerifiedAnswer,
    answer_request,
    assemble_warrant,
    authorise_warrant,
    verify_answer,
    verify_request,
)

START = Instant(1_790_000_000_000_000)
HOUR = 3_600_000_000
REGISTER = RegisterId("0123456789abcdef0123456789abcdef")
ROOT = Digest(hashlib.sha256(b"").digest())


def stream(seed: str) -> Callable[[int], bytes]:
    """A repeatable source of bytes in place of the operating system's."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += 1
        return hashlib.shake_256(f"{seed}/{at}".encode()).digest(count)

    return take


def any_of(needed: int, *witnesses: str) -> WitnessPolicy:
    """A policy of one group: any ``needed`` of ``witnesses``; nobody's cosignature for 0."""
    if not needed:
        return WitnessPolicy()
    quorum = Label("quorum")
    members = tuple(sorted(Label(name) for name in witnesses))
    return WitnessPolicy((WitnessGroup(quorum, needed, members),), quorum)


@dataclass(frozen=True)
class Actor:
    """Somebody with keys."""

    key: KeyFile
    pair: SigningPair
    opening: OpeningKey
    card: Card

    @property
    def name(self) -> Label:
        return self.key.name


@cache
def actor(name: str, kind: KeyKind = KeyKind.CUSTODIAN, life: int = 1) -> Actor:
    """The same keys for the same name, kind and ``life`` each time."""
    key = KeyFile(kind, Label(name), sha256(f"{kind}/{name}/{life}".encode()))
    pair, opening = key.signing(), key.opening()
    return Actor(key, pair, opening, card_of(Label(name), pair, opening))


def signed(text: str, *people: Actor) -> ParsedNote:
    """``text`` with everybody's two signatures."""
    return ParsedNote(text, tuple(s for person in people for s in sign_text(text, person.name, person.pair)))


def writer(name: str = "home-writer") -> Actor:
    return actor(name, KeyKind.WRITER)


def machine(name: str = "rescue") -> Actor:
    return actor(name, KeyKind.MACHINE)


def cards(*people: Actor) -> dict[Digest, Card]:
    return {person.card.digest: person.card for person in people}


def people(*names: str) -> tuple[Actor, ...]:
    return tuple(actor(name) for name in names)


@dataclass(frozen=True)
class Made:
    """An epoch note, the secret behind it and its sealed shares."""

    note: ParsedEpoch
    seed: bytes
    boxes: Mapping[Label, bytes]
    signed: ParsedNote


def make_epoch(
    custodians: Sequence[Actor],
    threshold: int,
    *,
    by: Actor,
    number: int = 1,
    previous: ParsedEpoch | None = None,
    warrant: Digest | None = None,
    life: str = "",
    register: RegisterId = REGISTER,
    pen: Actor | None = None,
) -> Made:
    """An epoch note signed by ``by``, who is its writer unless ``pen`` is."""
    seed = sha256(f"epoch/{register}/{number}/{life}".encode())
    lines, boxes = make_epoch_shares(
        seed,
        [c.card for c in custodians],
        threshold,
        register=register,
        epoch=Epoch(number),
        random=stream(f"{number}/{life}"),
    )
    note = ParsedEpoch(
        register=register,
        epoch=Epoch(number),
        authority=warrant,
        previous=Cut(previous.digest, 7, ROOT) if previous else None,
        writer=(pen or by).card.digest,
        opening=OpeningKey(seed).public.raw,
        threshold=threshold,
        shares=lines,
        ancestor=None,
    )
    assert parse_epoch(note.encode()) == note
    by_name = {line.custodian: box for line, box in zip(lines, boxes, strict=True)}
    return Made(note, seed, by_name, signed(note.encode(), by))


def register_block(note: ParsedEpoch) -> CharterRegister:
    """A charter's block that names ``note`` as the register's epoch."""
    return CharterRegister(
        id=note.register,
        public_name=None,
        at=(Label("home"), Label("luxembourg"), Label("monaco")),
        placement=Placement(3, 2, 2),
        rpo_s=3600,
        rto_s=14400,
        retention_days=3650,
        epoch=note.epoch,
        epoch_note=note.digest,
        annex_box=sha256(b"box"),
        annex_plain=sha256(b"plain"),
    )


def draft_charter(custodians: Sequence[Actor], threshold: int, registers: Sequence[CharterRegister]) -> ParsedCharter:
    """Charter number 1 of the little state."""
    charter = ParsedCharter(
        number=1,
        previous=None,
        issued=START,
        state_name="Republic of Test Land",
        home=Country("EE"),
        threshold=threshold,
        custodians=tuple(
            Custodian(c.name, Country("EE"), c.card.digest) for c in sorted(custodians, key=lambda c: c.name)
        ),
        sites=(
            CharterSite(Label("home"), Country("EE"), Label("state")),
            CharterSite(Label("luxembourg"), Country("LU"), Label("lux-host")),
            CharterSite(Label("monaco"), Country("MC"), Label("mc-host")),
        ),
        witnesses=(CharterWitness(Label("observer"), actor("observer", KeyKind.WITNESS).card.digest),),
        policy=WitnessPolicy(quorum=Label("observer")),
        authorities=(),
        registers=tuple(registers),
    )
    assert parse_charter(charter.encode()) == charter
    return charter


def next_charter(
    before: ParsedCharter,
    *,
    custodians: Sequence[Actor] | None = None,
    threshold: int | None = None,
    registers: Sequence[CharterRegister] | None = None,
    issued: Instant | None = None,
) -> ParsedCharter:
    """The successor of ``before`` with what is given changed."""
    charter = replace(
        before,
        number=before.number + 1,
        previous=before.digest,
        issued=Instant(before.issued + HOUR) if issued is None else issued,
    )
    if custodians is not None:
        lines = [Custodian(c.name, Country("EE"), c.card.digest) for c in sorted(custodians, key=lambda c: c.name)]
        charter = replace(charter, custodians=tuple(lines))
    if threshold is not None:
        charter = replace(charter, threshold=threshold)
    if registers is not None:
        charter = replace(charter, registers=tuple(registers))
    return charter


def fingerprint(charter: ParsedCharter) -> Fingerprint:
    return Fingerprint(charter.digest.hex())


def request_text(
    chain_charter: VerifiedCharter | ParsedCharter,
    state: Fingerprint,
    *,
    act: Act = Act.FAILOVER,
    by: Actor | None = None,
    place: str = "luxembourg",
    nonce: int = 1,
    registers: Sequence[RegisterId] = (REGISTER,),
    object: Digest | None = None,
) -> str:
    """A warrant's text for one hour from ``START``."""
    warrant = ParsedWarrant(
        state=state,
        charter=chain_charter.digest,
        act=act,
        registers=tuple(sorted(registers)),
        place=Label(place),
        machine=(by or machine()).card.digest,
        object=object,
        not_before=START,
        not_after=Instant(START + HOUR),
        reason="home is under attack",
        nonce=f"{nonce:032x}",
    )
    assert parse_warrant(warrant.encode()) == warrant
    return warrant.encode()


class Land:
    """A state with custodians, one register in epoch 1, and everything that its sites would hold."""

    def __init__(self, custodians: Sequence[Actor], threshold: int) -> None:
        self.custodians = tuple(custodians)
        self.threshold = threshold
        self.home = writer()
        self.first = make_epoch(custodians, threshold, by=self.home)
        self.charter = draft_charter(custodians, threshold, [register_block(self.first.note)])
        self.cards = cards(*custodians, self.home, machine(), actor("observer", KeyKind.WITNESS))
        self.charter_notes = [signed(self.charter.encode(), *custodians[:threshold]).encode()]
        self.state = fingerprint(self.charter)
        self.warrants: dict[Digest, ParsedNote] = {}
        self.epoch_notes = [self.first.signed.encode()]

    @property
    def chain(self) -> CharterChain:
        return verify_charter_chain(self.charter_notes, self.cards, self.state)

    @property
    def epochs(self) -> EpochChain:
        return verify_epoch_chain(self.chain, REGISTER, self.epoch_notes, self.warrants, self.cards)

    def warrant(
        self,
        by: Actor,
        *,
        act: Act = Act.FAILOVER,
        signers: Sequence[Actor] | None = None,
        nonce: int = 1,
        charter: VerifiedCharter | None = None,
        object: Digest | None = None,
    ) -> ParsedNote:
        """A warrant for ``by``, signed by ``signers`` (the quorum if None) and kept at the sites."""
        text = request_text(charter or self.chain.newest, self.state, act=act, by=by, nonce=nonce, object=object)
        note = signed(text, by, *(self.custodians[: self.threshold] if signers is None else signers))
        self.warrants[note.digest] = note
        self.cards |= cards(by)
        return note

    def add_epoch(
        self, by: Actor, *, nonce: int = 1, act: Act = Act.FAILOVER, life: str = "", pen: Actor | None = None
    ) -> Made:
        """The next epoch, by a warrant for ``by``, who writes in it unless ``pen`` does."""
        head = self.epochs.newest
        note = self.warrant(by, nonce=nonce, act=act)
        made = make_epoch(
            self.custodians,
            self.threshold,
            by=by,
            number=head.number + 1,
            previous=head.note,
            warrant=note.digest,
            life=life,
            pen=pen,
        )
        self.epoch_notes.append(made.signed.encode())
        return made

    def add_charter(self, charter: ParsedCharter, *signers: Actor) -> None:
        self.charter_notes.append(signed(charter.encode(), *signers).encode())


@dataclass(frozen=True)
class Opening:
    """A signed warrant with the answers that made it."""

    warrant: AuthorisedWarrant
    answers: tuple[VerifiedAnswer, ...]


def answer(land: Land, request: ParsedNote, who: Actor, made: Made, *, now: Instant = START) -> ParsedNote:
    """What ``who`` sends back: his approval and his share of the register's newest epoch."""
    verified = verify_request(request, machine().card, land.chain, now=now)
    share = reseal_share(made.boxes[who.name], who.opening, who.name, land.epochs.newest, verified)
    return answer_request(verified, who.name, who.pair, [share], now)


def ask(land: Land, who: Sequence[Actor], *, act: Act = Act.RESTORE) -> Opening:
    """A request of ``machine()``, answered by all of ``who`` and authorised."""
    by = machine()
    request = signed(request_text(land.chain.newest, land.state, act=act), by)
    answers = tuple(verify_answer(answer(land, request, w, land.first), request, w.card) for w in who)
    warrant = authorise_warrant(
        assemble_warrant(request, answers),
        land.chain,
        land.cards,
        now=Instant(START + 1),
        place=Label("luxembourg"),
        machine=by.card.digest,
        act=act,
    )
    return Opening(warrant, answers)

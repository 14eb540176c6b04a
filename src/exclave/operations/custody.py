"""Warrants: a machine asks, custodians answer, and enough answers open registers on that machine and nowhere else."""

from __future__ import annotations

import secrets as _random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from exclave.crypto.hpke import OpeningKey
from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Fenced,
    MalformedError,
    NotAuthorised,
    QuorumMissing,
    UsageError,
    WarrantForeign,
)
from exclave.formats.annex import Annex, annex_info, parse_annex
from exclave.formats.answer import parse_answer
from exclave.formats.card import Card, parse_card
from exclave.formats.charter import ParsedCharter
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.warrant import SHARELESS_ACTS, Act, ParsedWarrant, check_object, parse_warrant
from exclave.ids import Digest, Epoch, Instant, Label, RegisterId, sha256
from exclave.keys.file import KeyFile
from exclave.operations.home import key_card, read_limited, write_private
from exclave.operations.orders import OrderFile, read_order, require_named
from exclave.rules.quorum import OpenedEpoch, open_ancestors, open_epoch, reseal_share
from exclave.rules.signatures import sign_text
from exclave.rules.warrants import (
    AuthorisedWarrant,
    VerifiedAnswer,
    answer_request,
    assemble_warrant,
    authorise_warrant,
    verify_answer,
    verify_request,
)
from exclave.sites.contract import Sources
from exclave.verify.state import StateView, find_box

_LIMIT = 2 << 20


@dataclass(frozen=True, slots=True)
class Requested:
    """A warrant request as files: ``warrant`` to be signed, and the machine's ``card`` beside it."""

    warrant: Path
    card: Path
    parsed: ParsedWarrant


@dataclass(frozen=True, slots=True)
class Answered:
    """A custodian's answer as a file."""

    path: Path
    custodian: Label
    shares: tuple[RegisterId, ...]
    """Registers whose share was sealed to the machine."""
    without: tuple[RegisterId, ...] = ()
    """Registers of the request whose newest epoch he holds no share of: he only approves, or lets be, the act."""
    replaced: bool = False
    """Whether ``path`` held an earlier answer."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A warrant with the answers that came with it."""

    warrant: AuthorisedWarrant
    note: ParsedNote
    answers: tuple[VerifiedAnswer, ...]
    rejected: dict[str, str]
    """Answer files that do not count, and why."""

    @property
    def decided(self) -> Instant:
        """When the last signature that was needed was given."""
        people = {card.digest for card in self.warrant.charter.cards}
        times = sorted(answer.answer.time for answer in self.answers if answer.custodian.digest in people)
        return times[self.warrant.charter.charter.threshold - 1]


@dataclass(frozen=True, slots=True)
class OpenedRegister:
    """A register opened on this machine: the keys of all its epochs and what its annex says."""

    register: RegisterId
    keys: dict[Epoch, OpeningKey]
    annex: Annex
    used: tuple[Label, ...]
    bad: tuple[Label, ...]
    """Custodians whose share was wrong and was left out."""


def request_warrant(
    view: StateView,
    key: KeyFile,
    path: Path,
    *,
    act: Act,
    registers: Sequence[RegisterId],
    place: Label,
    reason: str,
    now: Instant,
    valid_s: int,
    object: Path | None = None,
) -> Requested:
    """Writes a request signed by this machine to ``path``, and its key card beside it (``.card``).

    Without ``registers``, all of the charter. ``object``: the order file that the custodians shall read, to delete and
    for acts on certificates. Raises ``UsageError`` for an unknown place or register, or an order that is not for this
    act.
    """
    order = read_order(object) if object is not None else None
    _check_order(act, order)
    charter = view.chain.newest.charter
    if charter.site(place) is None:
        known = ", ".join(site.label for site in charter.sites)
        raise UsageError(f"the charter has no site {place!r}; it has: {known}")
    wanted = sorted(registers or [r.id for r in charter.registers])
    for register in wanted:
        if charter.register(register) is None:
            raise UsageError(f"the charter does not list register {register}")
    card = key_card(key)
    warrant = ParsedWarrant(
        state=view.state,
        charter=view.chain.newest.digest,
        act=act,
        registers=tuple(wanted),
        place=place,
        machine=card.digest,
        object=order.digest if order is not None else None,
        not_before=now,
        not_after=Instant(now + valid_s * 1_000_000),
        reason=reason,
        nonce=_random.token_hex(16),
    )
    text = parse_warrant(warrant.encode()).encode()
    note = ParsedNote(text, sign_text(text, key.name, key.signing()))
    beside = path.with_suffix(".card")
    write_private(beside, card.encode().encode())
    write_private(path, note.encode())
    return Requested(path, beside, warrant)


def _check_order(act: Act, order: OrderFile | None) -> None:
    if order is not None and order.act != act:
        raise UsageError(f"the order file is to {order.act}, not to {act}")
    try:
        check_object(act, order.digest if order is not None else None)
    except MalformedError as error:
        raise UsageError(error.message, hint="Name the order file with --object.") from error


def read_note(path: Path) -> ParsedNote:
    """A note from a file. ``UsageError`` if it cannot be read, ``MalformedError`` if it is none."""
    return parse_note(read_limited(path, _LIMIT))


def read_card(path: Path) -> Card:
    """A key card from a file."""
    return parse_card(read_limited(path, _LIMIT))


def sign_warrant(
    path: Path,
    view: StateView,
    sources: Sources,
    key: KeyFile,
    out: Path,
    *,
    now: Instant,
    object: Path | None = None,
) -> Answered:
    """A custodian's consent: his approval and his shares, re-sealed to the request's machine alone, as a file ``out``.

    A new custodian has no share until the next rekey, and approves; one who was dismissed approves nothing, and opens
    until then. With ``object``, only if the request is for exactly this order file; nobody signs a deletion without it
    (``UsageError``). Raises ``NotAuthorised`` if he is neither, ``WarrantForeign``, ``WarrantExpired``, ``BadShare``.
    """
    request = verify_request(read_note(path), read_card(path.with_suffix(".card")), view.chain, now=now)
    require_shown(request.warrant, object)
    if object is not None:
        require_named(read_order(object), request.warrant)
    me = key_card(key)
    shares, without = [], []
    if request.warrant.act not in SHARELESS_ACTS:
        for register in request.warrant.registers:
            epoch = view.epoch_chain(register).newest
            line = epoch.note.share_of(key.name)
            if line is None or not _names(epoch.charter.charter, me):
                without.append(register)
                continue
            box = find_box(sources, view.state, register, line.box)
            shares.append(reseal_share(box, key.opening(), key.name, epoch, request))
    if not shares and not _names(view.chain.newest.charter, me):
        raise NotAuthorised(f"the charter does not name {key.name} with this key as a custodian")
    answer = answer_request(request, key.name, key.signing(), shares, now)
    replaced = out.exists()
    write_private(out, answer.encode())
    return Answered(out, key.name, tuple(share.register for share in shares), tuple(without), replaced)


def require_shown(warrant: ParsedWarrant, object: Path | None) -> None:
    """Returns if ``warrant`` may be signed with this order file at hand; ``UsageError`` for a deletion without one."""
    if warrant.act is Act.DELETE and object is None:
        raise UsageError(
            "this is a warrant to delete, and its order file is not at hand: nothing was signed",
            hint="Name the order file that came with it with --object, and read which versions go.",
        )


def _names(charter: ParsedCharter, card: Card) -> bool:
    """Whether ``card`` is a custodian's of ``charter``: his name with this very key."""
    return any(c.label == card.name and c.card == card.digest for c in charter.custodians)


def grant(
    view: StateView,
    warrant: Path,
    answers: Iterable[Path],
    *,
    act: Act,
    place: Label | None,
    machine: KeyFile,
    now: Instant,
    object: Digest | None = None,
) -> Granted:
    """The warrant in ``warrant`` with ``answers``, if together they allow ``act`` here and now.

    ``object``: digest of the order file that is to be carried out. A wrong answer is left out and named. Raises
    ``QuorumMissing`` (who signed, what is missing), ``WarrantForeign``, ``WarrantExpired``.
    """
    note = read_note(warrant)
    if parse_warrant(note.text).state != view.state:
        raise WarrantForeign("the warrant is for another state")
    holders = _holders(view, parse_warrant(note.text).registers)
    good: dict[Digest, VerifiedAnswer] = {}
    rejected: dict[str, str] = {}
    for path in answers:
        try:
            answer_note = read_note(path)
            name = parse_answer(answer_note.text).custodian
            answer = _verify_any(answer_note, note, [card for card in holders if card.name == name], name)
            good[answer.custodian.digest] = answer
        except ExclaveError as error:
            rejected[str(path)] = error.message
    full = assemble_warrant(note, good.values())
    machine_card = key_card(machine)
    cards = {**view.cards, machine_card.digest: machine_card}
    try:
        authorised = authorise_warrant(
            full, view.chain, cards, now=now, place=place, machine=machine_card.digest, act=act, object=object
        )
    except QuorumMissing as error:
        if not rejected:
            raise
        wrong = "; ".join(f"{Path(path).name}: {why}" for path, why in rejected.items())
        raise QuorumMissing(f"{error.message}; left out: {wrong}", hint=error.hint, **error.facts) from error
    return Granted(authorised, full, tuple(good.values()), rejected)


def _holders(view: StateView, registers: Iterable[RegisterId]) -> list[Card]:
    """Cards of all who may answer: custodians of the charter in force, and who hold shares of the newest epochs."""
    found = {card.digest: card for card in view.chain.newest.cards}
    for chain in (view.epochs[register] for register in registers if register in view.epochs):
        for epoch in chain.epochs[-2:]:  # A warrant that has made its epoch already goes on with shares of the former.
            found |= {card.digest: card for card in epoch.charter.cards}
    return list(found.values())


def _verify_any(answer: ParsedNote, request: ParsedNote, cards: Sequence[Card], name: Label) -> VerifiedAnswer:
    """The answer by one of ``cards``: a custodian who got a new key keeps his name."""
    problem: ExclaveError = NotAuthorised(f"{name} is no custodian of this state")
    for card in cards:
        try:
            return verify_answer(answer, request, card)
        except ExclaveError as error:
            problem = error
    raise problem


def open_register(
    view: StateView, sources: Sources, register: RegisterId, granted: Granted, machine: KeyFile
) -> OpenedRegister:
    """Opens ``register`` with the shares in the answers, and reads its annex.

    Raises ``QuorumMissing``, ``WarrantForeign``; ``MissingObject`` or ``CorruptObject`` if no site has a good box.
    """
    chain = view.epoch_chain(register)
    newest = chain.newest
    if any(epoch.note.authority == granted.warrant.digest for epoch in chain.epochs[:-1]):
        raise Fenced(
            f"this warrant was used for an epoch of register {register}, and others followed it: epoch {newest.number}"
            f" of {newest.writer.name}", epoch=newest.number,
        )  # fmt: skip
    if newest.note.authority == granted.warrant.digest:
        # This warrant has made its epoch already and is going on: its answers carry the shares of the one before.
        newest = chain.epochs[-2]
    opened: OpenedEpoch = open_epoch(granted.answers, newest, granted.warrant, machine.opening())
    keys: dict[Epoch, OpeningKey] = {newest.number: opened.key}
    if newest.note.ancestor is not None:
        box = find_box(sources, view.state, register, newest.note.ancestor)
        keys.update(open_ancestors(box, opened.key, newest, chain))
    rule = view.chain.newest.charter.register(register)
    if rule is None:
        raise WarrantForeign(f"the charter does not list register {register}")
    if rule.epoch not in keys:
        raise CorruptObject(
            f"epoch {newest.number} of register {register} leaves out the key of epoch {rule.epoch}, and the annex is"
            " sealed to that",
            hint="The machine that rekeyed did wrong. Keep the shares of former epochs; tell the continuity officer.",
        )
    box = find_box(sources, view.state, register, rule.annex_box)
    plain = keys[rule.epoch].open(box, annex_info(register, rule.epoch))
    if sha256(plain) != rule.annex_plain:
        raise CorruptObject(f"the annex of register {register} is not the one that the custodians signed")
    return OpenedRegister(register, keys, parse_annex(plain), opened.used, opened.bad)


def describe_warrant(path: Path) -> tuple[ParsedWarrant, tuple[str, ...]]:
    """A warrant file as it stands, unverified, and the names under its signatures."""
    note = read_note(path)
    return parse_warrant(note.text), tuple(sorted({s.name for s in note.signatures}))

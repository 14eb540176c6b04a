"""The statement of a site's operator becomes a fact: at the sites that remain, and in every ledger that lay there.

(1) it is what it says, and signed by the card beside it · (2) card and note at each site · (3) the fact. A restart puts
the same again, and finds a fact that was entered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exclave.errors import (
    Fenced,
    IntegrityError,
    MalformedError,
    NotAuthorised,
    OutcomeUnknown,
    UnavailableError,
    UsageError,
)
from exclave.formats.card import MAX_CARD_CHARS, Card, parse_card
from exclave.formats.exit import KIND, MAX_STATEMENT_BYTES, ExitStatement, exit_facts, parse_exit
from exclave.formats.fact import Fact
from exclave.formats.note import parse_note
from exclave.formats.paths import card_key, statement_key
from exclave.ids import Digest, Instant, Label, RegisterId, sha256
from exclave.operations.act_fact import patiently
from exclave.operations.home import Home, read_limited
from exclave.operations.ledger_entry import enter, settle_outbox
from exclave.operations.site_leave import CARD_NAME, STATEMENT_NAME
from exclave.rules.leaving import lay_there, left_out_by
from exclave.rules.signatures import verify_signed_by
from exclave.sites.contract import Site
from exclave.verify.exits import read_exits
from exclave.verify.history import read_copies, read_history
from exclave.verify.state import StateView


@dataclass(frozen=True, slots=True)
class ReadStatement:
    """A statement that its own signer's card vouches for."""

    statement: ExitStatement
    note: bytes
    card: Card

    @property
    def digest(self) -> Digest:
        """SHA-256 of the note: what the fact names."""
        return sha256(self.note)


@dataclass(frozen=True, slots=True)
class RecordedExit:
    """Where the fact stands."""

    entered: tuple[RegisterId, ...]
    known: tuple[RegisterId, ...]
    """Registers whose ledger had it already."""
    failed: dict[str, str]
    """Registers and sites that do not have it, and why."""


def read_statement(folder: Path) -> ReadStatement:
    """(1) Reads what ``leave`` wrote. ``MalformedError``, ``NotAuthorised`` or ``CorruptObject`` if it is not right."""
    note = read_limited(folder / STATEMENT_NAME, MAX_STATEMENT_BYTES)
    card = parse_card(read_limited(folder / CARD_NAME, MAX_CARD_CHARS))
    parsed = parse_note(note)
    statement = parse_exit(parsed.text)
    if (statement.operator, statement.card) != (card.name, card.digest):
        raise MalformedError("the statement names another operator's key than the card beside it")
    verify_signed_by(parsed, card)
    return ReadStatement(statement, note, card)


def record_exit(
    home: Home, view: StateView, sites: Mapping[Label, Site], read: ReadStatement, *, witnesses: Mapping[Label, str],
    now: Instant,
) -> RecordedExit:  # fmt: skip
    """(2) and (3) for every register that lay at the site and whose pen this home has.

    ``NotAuthorised`` if the charter in force names the site, ``UsageError`` for another state's statement.
    """
    said, charters = read.statement, [c.charter for c in view.chain.charters]
    if said.state != view.state:
        raise UsageError(f"this statement is about another state, {said.state}")
    if not left_out_by(charters, said.site):
        raise NotAuthorised(f"the charter in force names {said.site}, or none ever did: nobody has left there")
    entered: list[RegisterId] = []
    known: list[RegisterId] = []
    failed: dict[str, str] = {}
    for register in lay_there(charters, said.site):
        rule = view.chain.newest.charter.register(register)
        if rule is None:
            continue
        at = {label: site for label, site in sites.items() if label in rule.at and label in view.shown}
        failed |= _publish(view, register, at, read)
        history = read_history(view, at, register)
        if any(one.note == read.digest for one in read_exits(view, at, history)[0]):
            known.append(register)
            continue
        try:
            _enter(home, view, register, at, read, witnesses, now)
        except (Fenced, UnavailableError, IntegrityError, OutcomeUnknown) as error:
            failed[register] = error.message
        else:
            entered.append(register)
    return RecordedExit(tuple(entered), tuple(known), failed)


def _publish(view: StateView, register: RegisterId, at: Mapping[Label, Site], read: ReadStatement) -> dict[str, str]:
    """Card, then note: whoever finds the note finds whose it is. A restart puts the same again."""
    failed: dict[str, str] = {}
    for label, site in at.items():
        try:
            site.put_same(card_key(view.state, read.card.digest), read.card.encode().encode())
            site.put_same(statement_key(view.state, register, read.note), read.note)
        except (UnavailableError, IntegrityError) as error:
            failed[label] = error.message
    return failed


def _enter(
    home: Home, view: StateView, register: RegisterId, at: Mapping[Label, Site], read: ReadStatement,
    witnesses: Mapping[Label, str], now: Instant,
) -> None:  # fmt: skip
    epoch = view.epoch_chain(register).newest
    if epoch.note.writer != home.writer_card().digest:
        raise Fenced(f"epoch {epoch.number} of register {register} belongs to another writer", epoch=epoch.number)
    newest = read_copies(view, at, register)[-1]
    # A site that is behind must not show a ledger that speaks of versions that it lacks: a sync brings both.
    level = {name: site for name, site in at.items() if newest.agreed.get(name, 0) >= newest.size}
    outbox = home.folder / "state" / f"{register}.outbox"
    fact = Fact(register, epoch.number, now, KIND, None, exit_facts(read.statement.site, read.digest))
    with patiently(lambda: home.alone(register)):
        settle_outbox(view, epoch, home.writer_key(), sites=level, now=now, outbox=outbox)
        enter(view, epoch, home.writer_key(), [fact.encode()], sites=level, witnesses=witnesses, now=now, outbox=outbox)

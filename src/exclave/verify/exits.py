"""Sites that a register has left, as its ledger tells it and their operators signed it: without any key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    UnavailableError,
)
from exclave.formats.exit import KIND, MAX_STATEMENT_BYTES, ExitStatement, parse_exit, parse_exit_facts
from exclave.formats.note import parse_note
from exclave.formats.paths import statement_prefix
from exclave.ids import Digest, Instant, Key, Label, RegisterId, sha256
from exclave.rules.signatures import verify_signed_by
from exclave.sites.contract import Sources
from exclave.verify.history import RegisterHistory
from exclave.verify.shown import fetch_card
from exclave.verify.state import Finding, StateView, finding


@dataclass(frozen=True, slots=True)
class Exit:
    """One statement that the ledger names."""

    site: Label
    entered: Instant
    """When the ledger says so."""
    note: Digest
    statement: ExitStatement | None
    """What the operator signed; None if no source shows it unharmed, or it is not signed by the key that it names."""

    def text(self) -> str:
        """One sentence for people."""
        said = self.statement
        if said is None:
            return f"{self.site} left; its operator's statement {self.note.hex()[:16]}… cannot be read"
        rest = f"; {said.left} objects are locked there still" if said.left else ""
        return (
            f"{self.site} left: {said.operator} states that {said.objects} objects ({said.bytes} bytes) were erased"
            f"{rest}; list {said.root.hex()[:16]}…, key {said.card.hex()[:16]}…"
        )


def read_exits(
    view: StateView, sources: Sources, history: RegisterHistory
) -> tuple[tuple[Exit, ...], tuple[Finding, ...]]:
    """Every exit that the ledger tells of, and what is wrong with the statements."""
    found: list[Exit] = []
    findings: list[Finding] = []
    for site, entered, digest in _told(history):
        try:
            statement = _fetch(view, sources, history.register, digest)
            if statement.site != site or statement.state != view.state:
                raise CorruptObject("the statement is about another site or state than the ledger says")
            _require_left_out(view, statement)
        except (IntegrityError, NotAuthorised, MalformedError) as error:
            findings.append(finding("?", f"exit of {site}", error, history.register, grave=False))
            found.append(Exit(site, entered, digest, None))
        else:
            found.append(Exit(site, entered, digest, statement))
    return tuple(found), tuple(findings)


def _require_left_out(view: StateView, said: ExitStatement) -> None:
    """``CorruptObject`` unless the charter that the statement names left out a site that an earlier one named: whoever
    has the writer's key can enter that any site was left."""
    charters = [one.charter for one in view.chain.charters if one.charter.number <= said.charter]
    meant = next((one for one in charters if one.digest == said.charter_digest), None)
    if meant is None or meant.site(said.site) is not None or not any(one.site(said.site) for one in charters):
        raise CorruptObject(f"no charter {said.charter} with that digest leaves {said.site} out: nobody has left there")


def _told(history: RegisterHistory) -> Iterator[tuple[Label, Instant, Digest]]:
    for counted in history.facts:
        if counted.fact.kind == KIND:
            try:
                site, digest = parse_exit_facts(counted.fact.say)
            except MalformedError:
                continue
            yield site, counted.fact.time, digest


def _fetch(view: StateView, sources: Sources, register: RegisterId, digest: Digest) -> ExitStatement:
    """The statement from whichever source has it unharmed, its signature verified."""
    key = Key(f"{statement_prefix(view.state, register)}{digest.hex()}")
    last: ExclaveError = MissingObject("no source has the statement")
    for source in sources.values():
        try:
            data = source.get(key, limit=MAX_STATEMENT_BYTES)
        except (UnavailableError, IntegrityError) as error:
            last = error
            continue
        if sha256(data) == digest:
            note = parse_note(data)
            statement = parse_exit(note.text)
            fetch_card(sources, view.state, statement.card, view.cards)
            card = view.cards.get(statement.card)
            if card is None or card.name != statement.operator:
                raise MissingObject(f"no source has the card of {statement.operator}")
            verify_signed_by(note, card)
            return statement
        last = CorruptObject("the statement does not have the hash that it is named by", key=key)
    raise MissingObject(f"no source has a good copy of the statement {digest.hex()[:16]}…", key=key) from last

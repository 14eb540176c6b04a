"""The witness policy in force, as a file for tools of others."""

from __future__ import annotations

from exclave.errors import MissingObject
from exclave.formats.paths import ledger_origin
from exclave.formats.policy import PolicyFile
from exclave.ids import RegisterId
from exclave.rules.charters import cards_of
from exclave.verify.state import StateView


def policy_file(view: StateView, register: RegisterId | None, *, classic: bool) -> PolicyFile:
    """The policy of the newest charter; with ``register``, naming the log of its newest epoch.

    ``classic``: witnesses by their Ed25519 keys alone. ``MissingObject`` if a witness's card is at no site, or the
    register's epochs cannot be told.
    """
    charter = view.chain.newest.charter
    cards = cards_of(charter.witnesses, view.cards)
    if missing := sorted({w.label for w in charter.witnesses} - {card.name for card in cards}):
        raise MissingObject(f"no site shows the key card of the witness {missing[0]}", witness=missing[0])
    log = None
    if register is not None:
        epoch = view.epoch_chain(register).newest
        log = ledger_origin(view.state, register, epoch.number), epoch.writer
    return PolicyFile(charter.policy, cards, log, classic)

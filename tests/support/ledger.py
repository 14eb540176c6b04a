"""Fixed keys, names and small logs for tests of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from exclave.crypto.hpke import OpeningKey
from exclave.crypto.sign import SigningPair
from exclave.formats.card import Card
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.paths import ledger_origin, ledger_prefix
from exclave.ids import Digest, Epoch, Fingerprint, Instant, Label, RegisterId
from exclave.ledger.log import Log
from exclave.rules.checkpoints import VerifiedCheckpoint, sign_checkpoint, verify_checkpoint
from exclave.rules.signatures import card_of
from exclave.rules.tree import leaf_hash, root_of
from exclave.sites.contract import Site
from exclave.verify.logs import LogReader

STATE = Fingerprint("5e" * 32)
REGISTER = RegisterId("ab" * 16)
PREFIX = ledger_prefix(STATE, REGISTER, Epoch(1), Digest(bytes(32)))
ORIGIN = ledger_origin(STATE, REGISTER, Epoch(1))
NOW = Instant(1_795_443_721_000_000)
"""2026-11-23, a whole second."""


@dataclass(frozen=True)
class Actor:
    """A card with its private key."""

    card: Card
    pair: SigningPair


@cache
def actor(name: str) -> Actor:
    """The same keys for the same name, always."""
    seed = leaf_hash(name.encode())
    pair = SigningPair(bytes(seed))
    return Actor(card_of(Label(name), pair, OpeningKey(bytes(leaf_hash(seed)))), pair)


WRITER = actor("writer")
OTHER = actor("other")
WITNESSES = (actor("witness-a"), actor("witness-b"), actor("witness-c"))
WITNESS_CARDS = tuple(w.card for w in WITNESSES)


def entry(number: int, tag: str = "entry") -> bytes:
    """A short entry."""
    return f"{tag} {number}\n".encode()


def entries(count: int, first: int = 0, tag: str = "entry") -> list[bytes]:
    return [entry(first + i, tag) for i in range(count)]


def open_log(site: Site, now: Instant = NOW, least: VerifiedCheckpoint | None = None) -> Log:
    return Log.open(site, PREFIX, ORIGIN, WRITER.card, WRITER.pair, now=now, least=least)


def fill(log: Log, count: int, tag: str = "entry") -> None:
    """Appends ``count`` entries, in as few appends as allowed, numbered on from the log's size."""
    while count:
        part = min(count, 128)
        log.append(entries(part, log.size, tag), NOW)
        count -= part


def reader_of(site: Site) -> LogReader:
    return LogReader(site, PREFIX, ORIGIN, WRITER.card)


def root_over(count: int, tag: str = "entry") -> Digest:
    """Root of the log of ``entries(count)``."""
    return root_of([leaf_hash(e) for e in entries(count, 0, tag)])


def verified(count: int, tag: str = "entry", now: Instant = NOW) -> VerifiedCheckpoint:
    """A checkpoint over ``entries(count)`` that the writer signed."""
    note = sign_checkpoint(Checkpoint(ORIGIN, count, root_over(count, tag)), WRITER.pair, now)
    return verify_checkpoint(note.encode(), ORIGIN, WRITER.card)

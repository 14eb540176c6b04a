"""Entering something into a register's ledger: append at one site, publish to the others, have it witnessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Fenced,
    HeadMoved,
    IntegrityError,
    MissingObject,
    NotAuthorised,
    PlacementUnmet,
    RolledBack,
    UnavailableError,
)
from exclave.formats.note import Signature
from exclave.formats.paths import ledger_origin, ledger_prefix
from exclave.ids import Instant, Label
from exclave.keys.file import KeyFile
from exclave.ledger.log import Log
from exclave.ledger.publish import publish
from exclave.ledger.witness_client import WitnessClient
from exclave.operations.home import write_private
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.rules.epochs import VerifiedEpoch
from exclave.sites.contract import Site
from exclave.verify.state import StateView


@dataclass(frozen=True, slots=True)
class Entered:
    """Where the entries can be seen, and who vouches for them."""

    first: int
    """Number of the first entry."""
    sites: tuple[Label, ...]
    failed: dict[Label, str]
    witnesses: tuple[Label, ...]
    refused: dict[Label, str]
    """Witnesses that did not cosign, and why."""


def enter(
    view: StateView,
    epoch: VerifiedEpoch,
    key: KeyFile,
    entries: Sequence[bytes],
    *,
    sites: Mapping[Label, Site],
    witnesses: Mapping[Label, str],
    now: Instant,
    outbox: Path,
) -> Entered:
    """Appends ``entries`` to the log of ``epoch``, whose writer ``key`` is.

    ``outbox`` is a file in the writer's cache: it holds the entries from before they are claimed at a site until two
    sites show them (or all there are), so that the loss of that one site cannot make the writer append others.
    ``sites`` must hold all that the entries promise; the log is written at the first that works. ``witnesses``: their
    addresses. Raises ``Fenced`` if a witness knows of a later epoch, ``PlacementUnmet`` if no site takes the entries.
    """
    failed: dict[Label, str] = {}
    log = _open(view, epoch, key, sites, failed, now)
    # A restart finds the outbox, and `settle_outbox` brings these entries to whichever site is there then.
    write_private(outbox, msgspec.msgpack.encode((epoch.digest, log.size, list(entries))))
    appended = log.append(entries, now)
    done = _publish(log, sites, failed)
    if len(done) >= min(2, len(sites)):
        outbox.unlink()
    good, refused, signatures = _ask_witnesses(view, log, witnesses, len(entries))
    if signatures:
        log.attach(signatures)
        done = _publish(log, sites, failed)
    return Entered(appended.first, done, failed, good, refused)


def settle_outbox(
    view: StateView, epoch: VerifiedEpoch, key: KeyFile, *, sites: Mapping[Label, Site], now: Instant, outbox: Path
) -> None:
    """Finishes an append that this writer began in an earlier run. Call it before composing new entries."""
    try:
        note, size, entries = msgspec.msgpack.decode(outbox.read_bytes(), type=tuple[bytes, int, list[bytes]])
    except FileNotFoundError:
        return
    except msgspec.DecodeError as error:
        raise CorruptObject(f"{outbox} is damaged", hint="Remove it once `exclave verify` finds no fork.") from error
    if note == epoch.digest:
        failed: dict[Label, str] = {}
        log = _open(view, epoch, key, sites, failed, now)
        if log.size < size:
            raise RolledBack(f"no site shows the {size} entries that this writer has seen; it shows {log.size}")
        if log.size == size:
            log.append(entries, now)
        _publish(log, sites, failed)
    outbox.unlink()


def _open(
    view: StateView,
    epoch: VerifiedEpoch,
    key: KeyFile,
    sites: Mapping[Label, Site],
    failed: dict[Label, str],
    now: Instant,
) -> Log:
    """The log at the first site that works.

    ``least`` is the largest head that any site shows, so that a site that hides its latest entries cannot make the
    writer sign a second history.
    """
    least: VerifiedCheckpoint | None = None
    for label, site in sites.items():
        try:
            head = view.log_reader(epoch, site).head()
        except MissingObject:
            continue
        except (UnavailableError, IntegrityError) as error:
            failed[label] = error.message
            continue
        if least is None or head.size > least.size:
            least = head
    prefix = ledger_prefix(view.state, epoch.register, epoch.number, epoch.digest)
    origin = ledger_origin(view.state, epoch.register, epoch.number)
    problem: ExclaveError | None = None
    for label, site in sites.items():
        try:
            return Log.open(site, prefix, origin, epoch.writer, key.signing(), now=now, least=least)
        except (UnavailableError, IntegrityError) as error:
            failed[label], problem = error.message, error
    raise PlacementUnmet("no site can take the ledger's next entry") from problem


def _publish(log: Log, sites: Mapping[Label, Site], failed: dict[Label, str]) -> tuple[Label, ...]:
    """Brings the log forward at every site; those that show its head now."""
    checkpoint = log.checkpoint
    if checkpoint is None:
        return ()
    good: list[Label] = []
    for label, site in sites.items():
        try:
            publish(log.reader, checkpoint, site)
        except (UnavailableError, HeadMoved, IntegrityError) as error:
            failed[label] = error.message
            continue
        failed.pop(label, None)
        good.append(label)
    return tuple(good)


def _ask_witnesses(
    view: StateView, log: Log, addresses: Mapping[Label, str], added: int
) -> tuple[tuple[Label, ...], dict[Label, str], list[Signature]]:
    good: list[Label] = []
    refused: dict[Label, str] = {}
    signatures: list[Signature] = []
    if log.checkpoint is None:
        return (), refused, signatures
    for label, card in view.witness_cards().items():
        if label not in addresses:
            refused[label] = "its address is not configured"
            continue
        client = WitnessClient(addresses[label], card)
        try:
            signatures += client.cosign(log.reader.tree(log.checkpoint), log.size - added)
        except Fenced:
            raise
        except (UnavailableError, IntegrityError, NotAuthorised) as error:
            refused[label] = error.message
            continue
        finally:
            client.close()
        good.append(label)
    return tuple(good), refused, signatures

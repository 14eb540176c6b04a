"""Entering something into a register's ledger: append at one site, publish to the others, have it witnessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    OutcomeUnknown,
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

    ``outbox`` is a file of the writer's: it holds the last entries from before they are claimed at a site until the
    next ones are, so that no site that was away, and not the loss of the one that had them, can make the writer append
    others in their place. ``sites`` must hold all that the entries promise; the log is written at the first that
    works. ``witnesses``: their addresses. Raises ``Fenced`` if a witness knows of a later epoch, ``PlacementUnmet``
    if no site takes the entries.
    """
    failed: dict[Label, str] = {}

    def keep(size: int) -> None:
        # A restart finds the outbox, and `settle_outbox` brings these entries to whichever site is there then.
        write_private(outbox, msgspec.msgpack.encode((epoch.digest, size, list(entries))))

    log, first = _append(view, epoch, key, entries, sites, failed, now, keep)
    done = _publish(log, sites, failed)
    good, refused, signatures = _ask_witnesses(view, log, witnesses, len(entries))
    if signatures:
        log.attach(signatures)
        done = _publish(log, sites, failed)
    return Entered(first, done, failed, good, refused)


def settle_outbox(
    view: StateView, epoch: VerifiedEpoch, key: KeyFile, *, sites: Mapping[Label, Site], now: Instant, outbox: Path
) -> None:
    """Finishes an append that this writer began in an earlier run. Call it before composing new entries.

    ``RolledBack`` if no site shows what this writer has appended before: it would fork its own history.
    """
    try:
        note, size, entries = msgspec.msgpack.decode(outbox.read_bytes(), type=tuple[bytes, int, list[bytes]])
    except FileNotFoundError:
        return
    except (msgspec.DecodeError, UnicodeError) as error:
        raise CorruptObject(f"{outbox} is damaged", hint="Remove it once `exclave verify` finds no fork.") from error
    if note == epoch.digest:
        failed: dict[Label, str] = {}
        log = _open(view, epoch, key, sites, failed, now, _largest_head(view, epoch, sites, failed))[1]
        if log.size < size:
            raise RolledBack(
                f"no site shows the {size} entries that this writer has seen; the newest shown are {log.size}",
                hint="Bring a site up that has the latest version; going on without it would fork the history.",
            )
        if log.size == size:
            log = _append(view, epoch, key, entries, sites, failed, now, lambda size: None)[0]
            _publish(log, sites, failed)


def _append(
    view: StateView,
    epoch: VerifiedEpoch,
    key: KeyFile,
    entries: Sequence[bytes],
    sites: Mapping[Label, Site],
    failed: dict[Label, str],
    now: Instant,
    keep: Callable[[int], None],
) -> tuple[Log, int]:
    """Appends at the first site that takes it; the log there, and the number of the first entry.

    A site that fails in the middle is passed over: wherever these entries go behind the same head, the tree is the
    same, so it does not matter what became of the first try. ``keep`` gets the size of the log before.
    """
    least = _largest_head(view, epoch, sites, failed)
    left = dict(sites)
    while True:
        label, log = _open(view, epoch, key, left, failed, now, least)
        least = log.checkpoint or least
        keep(log.size)
        try:
            return log, log.append(entries, now).first
        except (UnavailableError, OutcomeUnknown, CorruptObject) as error:
            failed[label] = error.message
            del left[label]


def _largest_head(
    view: StateView, epoch: VerifiedEpoch, sites: Mapping[Label, Site], failed: dict[Label, str]
) -> VerifiedCheckpoint | None:
    """The largest head that any site shows, so that a site that hides its latest entries cannot make the writer sign
    a second history.
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
    return least


def _open(
    view: StateView,
    epoch: VerifiedEpoch,
    key: KeyFile,
    sites: Mapping[Label, Site],
    failed: dict[Label, str],
    now: Instant,
    least: VerifiedCheckpoint | None,
) -> tuple[Label, Log]:
    """The log at the first site that works and shows no less than ``least``."""
    prefix = ledger_prefix(view.state, epoch.register, epoch.number, epoch.digest)
    origin = ledger_origin(view.state, epoch.register, epoch.number)
    problem: ExclaveError | None = None
    for label, site in sites.items():
        try:
            return label, Log.open(site, prefix, origin, epoch.writer, key.signing(), now=now, least=least)
        except (UnavailableError, IntegrityError, OutcomeUnknown) as error:
            failed[label], problem = error.message, error
    why = "; ".join(f"{label}: {reason}" for label, reason in failed.items())
    raise PlacementUnmet(f"no site can take the ledger's next entry{': ' if why else ''}{why}") from problem


def _publish(log: Log, sites: Mapping[Label, Site], failed: dict[Label, str]) -> tuple[Label, ...]:
    """Brings the log forward at every site; those that show its head now."""
    checkpoint = log.checkpoint
    if checkpoint is None:
        return ()
    good: list[Label] = []
    for label, site in sites.items():
        try:
            publish(log.reader, checkpoint, site)
        except (UnavailableError, HeadMoved, IntegrityError, OutcomeUnknown) as error:
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

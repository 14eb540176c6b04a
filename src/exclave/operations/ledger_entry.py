"""Entering something into a register's ledger: append at one site, have it witnessed, publish it to the others.

The order matters: what other sites show as their head is what witnesses vouch for. A writer who does not know that he
is fenced, or whose witnesses are down, changes the head of one site only, and the head that counts is kept there too.
"""

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
from exclave.ledger.log import MAX_APPEND, Log
from exclave.ledger.publish import keep_cosigned, publish
from exclave.ledger.witness_client import WitnessClient
from exclave.operations.home import write_private
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.tree import new_tiles
from exclave.sites.contract import Site
from exclave.verify.state import StateView


@dataclass(frozen=True, slots=True)
class Entered:
    """Where the entries can be seen, and who vouches for them."""

    first: int
    """Number of the first entry."""
    sites: tuple[Label, ...]
    """Sites that show them. If too few witnesses vouch for them: all that hold what the entries promise; they show
    the entries once witnesses vouch for them or for later ones, and until then only ``shown`` do."""
    shown: tuple[Label, ...]
    """Sites whose head has the entries now."""
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
    expected: int | None = None,
) -> Entered:
    """Appends ``entries`` to the log of ``epoch``, whose writer ``key`` is.

    (1) append at the first site that works · (2) ask the witnesses · (3) publish to the other sites, but only what
    enough witnesses vouch for: until then those go on showing the head that counts.

    ``outbox`` is a file of the writer's: it holds the last entries from before they are claimed at a site until the
    next ones are, so that no site that was away, and not the loss of the one that had them, can make the writer append
    others in their place. ``sites`` must hold all that the entries promise; the log is written at the first that
    works. ``witnesses``: their addresses. ``expected``: the size of the log that the entries were composed for;
    ``HeadMoved`` if it is another one by now. Raises ``Fenced`` if a witness knows of a later epoch, ``PlacementUnmet``
    if no site takes the entries.
    """
    failed: dict[Label, str] = {}

    def keep(size: int) -> None:
        if expected is not None and size != expected:
            raise HeadMoved(
                f"the ledger has {size} entries, and had {expected} when this was composed",
                hint="Make sure that no second machine writes with this home's key; then run the command again.",
            )
        # A restart finds the outbox, and `settle_outbox` brings these entries to whichever site is there then.
        write_private(outbox, msgspec.msgpack.encode((epoch.digest, *_unpublished(epoch, earlier, size, entries))))

    earlier = _read_outbox(outbox)
    label, log, first = _append(view, epoch, key, entries, sites, failed, now, keep)  # (1)
    good, refused, signatures = _ask_witnesses(view, log, witnesses, len(entries))  # (2)
    if signatures:
        head = log.attach(signatures)
        keep_cosigned(sites[label], log.reader.prefix, head)
    if not _witnessed(view, log):
        holders = tuple(name for name in sites if name not in failed)
        return Entered(first, holders, (label,), failed, good, refused)
    done = _publish(log, sites, failed)  # (3)
    if len(sites) == 1 or any(name != label for name in done):
        # Another site shows them, so no more than the last ones need to be kept. A restart finds either list.
        write_private(outbox, msgspec.msgpack.encode((epoch.digest, first, list(entries))))
    return Entered(first, done, done, failed, good, refused)


def _witnessed(view: StateView, log: Log) -> bool:
    """Whether enough witnesses vouch for the log's head."""
    if log.checkpoint is None:
        return False
    head = log.reader.verify(log.checkpoint.encode(), view.witness_cards().values())
    return head.counts_by(view.chain.newest.charter.policy)


_Outbox = tuple[bytes, int, list[bytes]]
"""Digest of the epoch's note, the size of the log before the entries, the entries."""


def _read_outbox(outbox: Path) -> _Outbox | None:
    try:
        return msgspec.msgpack.decode(outbox.read_bytes(), type=tuple[bytes, int, list[bytes]])
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise CorruptObject(f"{outbox} is damaged", hint="Remove it once `exclave verify` finds no fork.") from error


def _unpublished(
    epoch: VerifiedEpoch, earlier: _Outbox | None, size: int, entries: Sequence[bytes]
) -> tuple[int, list[bytes]]:
    """Where the outbox begins, and its entries: those before too that no other site shows yet."""
    if earlier is not None and earlier[0] == epoch.digest and earlier[1] + len(earlier[2]) == size:
        return earlier[1], [*earlier[2], *entries]
    return size, list(entries)


def shown_size(view: StateView, epoch: VerifiedEpoch, sites: Mapping[Label, Site]) -> int:
    """How many entries of the log of ``epoch`` any site shows."""
    head = _largest_head(view, epoch, sites, {})
    return head.size if head is not None else 0


def settle_outbox(
    view: StateView, epoch: VerifiedEpoch, key: KeyFile, *, sites: Mapping[Label, Site], now: Instant, outbox: Path
) -> None:
    """Finishes an append that this writer began in an earlier run. Call it before composing new entries.

    ``RolledBack`` if no site shows what this writer has appended before: it would fork its own history.
    """
    kept = _read_outbox(outbox)
    if kept is None:
        return
    note, size, entries = kept
    if note == epoch.digest:
        failed: dict[Label, str] = {}
        log = _open(view, epoch, key, sites, failed, now, _largest_head(view, epoch, sites, failed))[1]
        if log.size < size:
            raise RolledBack(
                f"no site shows the {size} entries that this writer has seen; the newest shown are {log.size}",
                hint="Bring a site up that has the latest version; going on without it would fork the history.",
            )
        # Nothing is published: that is for `enter` to do, once witnesses vouch for it.
        for at in range(log.size - size, len(entries), MAX_APPEND):
            _append(view, epoch, key, entries[at : at + MAX_APPEND], sites, failed, now, lambda size: None)


def _append(
    view: StateView,
    epoch: VerifiedEpoch,
    key: KeyFile,
    entries: Sequence[bytes],
    sites: Mapping[Label, Site],
    failed: dict[Label, str],
    now: Instant,
    keep: Callable[[int], None],
) -> tuple[Label, Log, int]:
    """Appends at the first site that takes it; that site, the log there, and the number of the first entry.

    A site that fails in the middle, or does not show what it took, is passed over: wherever these entries go behind
    the same head, the tree is the same, so it does not matter what became of the first try. ``keep`` gets the size of
    the log before.
    """
    least = _largest_head(view, epoch, sites, failed)
    left = dict(sites)
    while True:
        label, log = _open(view, epoch, key, left, failed, now, least)
        least = log.checkpoint or least
        keep(log.size)
        before = log.size
        try:
            appended = log.append(entries, now)
            _require_kept(log, before)
        except (UnavailableError, OutcomeUnknown, IntegrityError) as error:
            failed[label] = error.message
            del left[label]
        else:
            return label, log, appended.first


def _require_kept(log: Log, before: int) -> None:
    """Reads back what an append has put, as all others will have to. Raises what an honest site gives no cause for.

    A host that says that it has stored what it has not, or that shows the past, would otherwise stand between the
    writer and all other sites: they get the ledger from there.
    """
    head = log.reader.head()
    if head.size < log.size:
        raise RolledBack(f"it shows {head.size} entries of a log that was just written there up to {log.size}")
    tree = log.reader.tree(head)
    for tile in new_tiles(before, log.size):
        tree.tile(tile)
        if tile.level == 0:
            tree.bundle(tile.index)


def _largest_head(
    view: StateView, epoch: VerifiedEpoch, sites: Mapping[Label, Site], failed: dict[Label, str]
) -> VerifiedCheckpoint | None:
    """The largest head that any site shows, so that a site that hides its latest entries cannot make the writer sign
    a second history. What witnesses cosigned is kept beside it, because an append will replace it.
    """
    least: VerifiedCheckpoint | None = None
    for label, site in sites.items():
        try:
            reader = view.log_reader(epoch, site)
            head = reader.head()
        except MissingObject:
            continue
        except (UnavailableError, IntegrityError) as error:
            failed[label] = error.message
            continue
        if least is None or head.size > least.size:
            least = head
        try:
            keep_cosigned(site, reader.prefix, head)
        except (UnavailableError, CorruptObject) as error:
            failed[label] = error.message
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

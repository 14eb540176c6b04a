"""Entering something into a register's ledger: append at one site, have it witnessed, publish it to the others.

The order matters: what other sites show as their head is what witnesses vouch for. A writer who does not know that he
is fenced, or whose witnesses are down, changes the head of one site only, and the head that counts is kept there too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    HeadMoved,
    IntegrityError,
    MissingObject,
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
from exclave.ledger.own_memory import Remembered
from exclave.ledger.publish import keep_cosigned
from exclave.operations.home import write_private
from exclave.operations.ledger_spread import ask_witnesses, readers_of, spread
from exclave.rules.checkpoints import VerifiedCheckpoint, merge_signatures
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
    writing = _Writing(view, epoch, key, sites, failed, now, _remembered(earlier, epoch))
    label, log, first = _append(writing, entries, keep)  # (1)
    assert log.checkpoint is not None, "what was appended to has a head"
    head = log.reader.verify(log.checkpoint.encode(), view.witness_cards().values())
    readers = readers_of(log, label, sites)
    good, refused, signatures = ask_witnesses(view, readers, head, witnesses, len(entries))  # (2)
    if signatures:
        head = _attach(log, head, signatures, label, writing)
    if not head.counts_by(view.chain.newest.charter.policy):
        holders = tuple(name for name in sites if name not in failed)
        return Entered(first, holders, (label,), failed, good, refused)
    writing = replace(writing, known=_remembered(_read_outbox(outbox), epoch))
    done = spread(head, readers, sites, failed, lambda site: writing.open(site, head).reader)  # (3)
    if len(sites) == 1 or any(name != label for name in done):
        # Another site shows them, so no more than the last ones need to be kept. A restart finds either list.
        write_private(outbox, msgspec.msgpack.encode((epoch.digest, first, list(entries))))
    return Entered(first, done, done, failed, good, refused)


@dataclass(frozen=True, slots=True)
class _Writing:
    """What the steps of one entry share."""

    view: StateView
    epoch: VerifiedEpoch
    key: KeyFile
    sites: Mapping[Label, Site]
    failed: dict[Label, str]
    now: Instant
    known: Remembered | None
    """What the outbox holds of this epoch's log."""

    def open(self, site: Site, least: VerifiedCheckpoint | None) -> Log:
        prefix = ledger_prefix(self.view.state, self.epoch.register, self.epoch.number, self.epoch.digest)
        origin = ledger_origin(self.view.state, self.epoch.register, self.epoch.number)
        pair = self.key.signing()
        return Log.open(
            site, prefix, origin, self.epoch.writer, pair, now=self.now, least=least, known=self.known
        )  # fmt: skip


_Outbox = tuple[bytes, int, list[bytes]]
"""Digest of the epoch's note, the size of the log before the entries, the entries."""


def _read_outbox(outbox: Path) -> _Outbox | None:
    try:
        return msgspec.msgpack.decode(outbox.read_bytes(), type=tuple[bytes, int, list[bytes]])
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise CorruptObject(f"{outbox} is damaged", hint="Remove it once `exclave verify` finds no fork.") from error


def _remembered(kept: _Outbox | None, epoch: VerifiedEpoch) -> Remembered | None:
    return Remembered(kept[1], tuple(kept[2])) if kept is not None and kept[0] == epoch.digest else None


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
    known = _remembered(_read_outbox(outbox), epoch)
    if known is None:
        return
    writing = _Writing(view, epoch, key, sites, {}, now, known)
    # Nothing is published: that is for `enter` to do, once witnesses vouch for it.
    _open(writing, sites, _largest_head(view, epoch, sites, writing.failed))


def _append(writing: _Writing, entries: Sequence[bytes], keep: Callable[[int], None]) -> tuple[Label, Log, int]:
    """Appends at the first site that takes it; that site, the log there, and the number of the first entry.

    A site that fails in the middle, or does not show what it took, is passed over: wherever these entries go behind
    the same head, the tree is the same, so it does not matter what became of the first try. ``keep`` gets the size of
    the log before.
    """
    least = _largest_head(writing.view, writing.epoch, writing.sites, writing.failed)
    left = dict(writing.sites)
    while True:
        label, log = _open(writing, left, least)
        least = log.checkpoint or least
        keep(log.size)
        before = log.size
        try:
            appended = log.append(entries, writing.now)
            _require_kept(log, before)
        except (UnavailableError, OutcomeUnknown, IntegrityError) as error:
            writing.failed[label] = error.message
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


def _open(writing: _Writing, sites: Mapping[Label, Site], least: VerifiedCheckpoint | None) -> tuple[Label, Log]:
    """The log at the first site that works and shows no less than ``least``, or gets it from this writer's memory.

    ``RolledBack`` if one that works shows less than this writer remembers to have been there: going on would fork it.
    """
    problem: ExclaveError | None = None
    behind = False
    for label, site in sites.items():
        try:
            return label, writing.open(site, least)
        except (UnavailableError, IntegrityError, OutcomeUnknown) as error:
            writing.failed[label], problem = error.message, error
            behind = behind or isinstance(error, RolledBack)
    why = "; ".join(f"{label}: {reason}" for label, reason in writing.failed.items())
    if behind and writing.known is not None:
        raise RolledBack(
            f"no site shows all that this writer has seen of the ledger: {why}",
            hint="Bring a site up that has the latest version; going on without it would fork the history.",
        ) from problem
    raise PlacementUnmet(f"no site can take the ledger's next entry{': ' if why else ''}{why}") from problem


def _attach(
    log: Log, head: VerifiedCheckpoint, signatures: Sequence[Signature], label: Label, writing: _Writing
) -> VerifiedCheckpoint:
    """``head`` with the cosignatures; at the site ``label`` too, if it takes them."""
    cards = writing.view.witness_cards().values()
    merged = log.reader.verify(merge_signatures(head.note, signatures).encode(), cards)
    try:
        merged = log.reader.verify(log.attach(signatures).encode(), cards)
        keep_cosigned(writing.sites[label], log.reader.prefix, merged)
    except (UnavailableError, IntegrityError, OutcomeUnknown) as error:
        writing.failed[label] = error.message
    return merged

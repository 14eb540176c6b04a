"""Restore: the datasets of one version into a folder, read from whichever sites have unharmed copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exclave.errors import (
    CorruptObject,
    Forked,
    IntegrityError,
    MissingObject,
    NotAuthorised,
    RolledBack,
    TargetNotEmpty,
    UnavailableError,
    UsageError,
)
from exclave.formats.entry import Entry
from exclave.formats.manifest import FOLDER_KINDS, Dataset, Root
from exclave.formats.paths import ledger_origin
from exclave.ids import Fingerprint, Instant, Label, RegisterId
from exclave.ledger.witness_client import WitnessClient
from exclave.operations.custody import OpenedRegister
from exclave.operations.restore_mark import alone_in, begin, end, mark_of
from exclave.registers.files_restore import FolderSink
from exclave.registers.files_resume import ResumedSink
from exclave.registers.folder_digest import folder_digest
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.sites.contract import Sources
from exclave.vault.opener import PackReader
from exclave.vault.restore import Restorer
from exclave.verify.history import CountedVersion, RegisterHistory
from exclave.verify.state import StateView


@dataclass(frozen=True, slots=True)
class RestoredDataset:
    """One dataset as it lies in its folder now."""

    name: str
    kind: str
    folder: Path
    entries: int
    bytes: int
    captured: Instant
    digest_captured: str
    digest_restored: str
    """Empty if it was not computed: every chunk was checked against its id all the same."""
    rows: dict[str, int]
    unrestored: int
    """Things that could not be brought back (owners without root, devices, …)."""
    unrestored_first: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """A version as it was brought back."""

    register: str
    epoch: int
    sequence: int
    time: Instant
    datasets: tuple[RestoredDataset, ...]
    faults: dict[str, str]
    """``site pack`` → what was wrong there; the copy came from another site."""


def choose_version(history: RegisterHistory, sequence: int | None, *, override: str = "--version N") -> CountedVersion:
    """The version with that number, or the latest. ``UsageError`` for a number that does not count.

    ``Forked`` if two histories are shown that could both count: then people have to decide. ``RolledBack`` if the
    latest that can be proven is not the latest that is vouched for; ``override`` is what the user may say to that.
    """
    require_unforked(history)
    if sequence is None:
        require_newest(history, override)
        return history.latest
    history.require_kept(sequence)
    for version in history.versions:
        if version.leaf.sequence == sequence:
            return version
    known = ", ".join(str(v.leaf.sequence) for v in history.versions[-10:]) or "none"
    raise UsageError(f"there is no version {sequence} that counts; the last ones are: {known}")


def require_unforked(history: RegisterHistory) -> None:
    """``Forked`` if two histories could both count. What too few witnesses vouch for never makes one."""
    if history.newest_log.forked:
        detail = next((f.detail for f in history.findings if f.grave and f.fault == Forked.code), "")
        raise Forked(
            f"two histories are shown, and the witnesses do not tell which one stands: {detail}",
            hint="Find out which site is right, and name that one alone with --site and --only-these-sites.",
        )


def require_newest(history: RegisterHistory, override: str) -> None:
    """``RolledBack`` if more entries are vouched for than are proven, or some that count cannot be read: what seems to
    be the latest version may be an older one.
    """
    why = f"; or go on with what there is: {override}"
    for log in reversed(history.epochs):
        for who, size in log.vouched.items():
            if size > log.counted:
                raise RolledBack(
                    f"{who} vouches for {size} entries of epoch {log.epoch.number}'s ledger; only {log.counted} can be"
                    " proven",
                    hint=f"Name a site that has the rest, or repair one{why}.",
                )
        latest = history.versions[-1] if history.versions else None
        for first in log.unread:
            if latest is None or (latest.epoch, latest.index) < (log.epoch.number, first):
                raise RolledBack(
                    f"entries from {first} on of epoch {log.epoch.number}'s ledger count, and no site shows them",
                    hint=f"Name a site that has them, or repair one{why}.",
                )
        if latest is not None and latest.epoch == log.epoch.number:
            return  # What earlier epochs lack cannot be the latest version.


def remembered_heads(
    view: StateView, register: RegisterId, addresses: Mapping[Label, str]
) -> tuple[dict[str, VerifiedCheckpoint], dict[Label, str]]:
    """What the charter's witnesses last cosigned of the register's newest log; those that could not say, and why.

    All sites together can hide the latest entries; they cannot make the witnesses forget them.
    """
    epoch = view.epoch_chain(register).newest
    origin = ledger_origin(view.state, register, epoch.number)
    found: dict[str, VerifiedCheckpoint] = {}
    silent: dict[Label, str] = {}
    for label, card in view.witness_cards().items():
        if label not in addresses:
            silent[label] = "its address is not known"
            continue
        client = WitnessClient(addresses[label], card)
        try:
            head = client.latest(origin, epoch.writer)
        except (UnavailableError, IntegrityError, NotAuthorised) as error:
            silent[label] = error.message
            continue
        finally:
            client.close()
        if head is not None:
            found[label] = head
    return found, silent


def open_version(
    state: Fingerprint, sources: Sources, opened: OpenedRegister, version: CountedVersion
) -> tuple[PackReader, Root]:
    """The reader of a version's packs, and its root, compared with its ledger entry."""
    reader = PackReader(state, opened.register, sources, opened.keys)
    root = reader.root(version.leaf.manifest)
    leaf = version.leaf
    if (root.register, root.sequence, root.time, root.epoch) != (leaf.register, leaf.sequence, leaf.time, leaf.epoch):
        raise CorruptObject("a manifest does not say the same as its ledger entry")
    return reader, root


def restore_version(
    reader: PackReader,
    root: Root,
    target: Path,
    *,
    only: str | None = None,
    compare: bool = False,
    resumable: bool = False,
    progress: Callable[[str, int, int], None] = lambda name, entries, size: None,
) -> Restored:
    """Each dataset into its own new folder below ``target``; ``only`` names a single one, which goes to ``target``.

    ``resumable`` leaves a mark beside ``target`` while it runs, and goes on where an interrupted one left its own; a
    new ``target`` is private then, and no other process restores into it (``Busy``).
    ``compare`` reads the restored files again and raises ``CorruptObject`` if their digest is not the captured one.
    """
    chosen = [d for d in root.datasets if only is None or d.label == only]
    if not chosen:
        raise MissingObject(
            f"this version has no dataset {only!r}; it has: {', '.join(d.label for d in root.datasets)}"
        )
    with alone_in(target) if resumable else nullcontext():
        return _restore(reader, root, target, chosen, only, compare, resumable, progress)


def _restore(
    reader: PackReader, root: Root, target: Path, chosen: Sequence[Dataset], only: str | None, compare: bool,
    resumable: bool, progress: Callable[[str, int, int], None],
) -> Restored:  # fmt: skip
    mine = mark_of(root, only)
    left = begin(target, mine) if resumable else None
    if left is None and target.is_dir() and any(target.iterdir()):
        raise TargetNotEmpty(f"the folder {target} is not empty")
    done = []
    for dataset in chosen:
        folder = target if only is not None else target / dataset.label
        resumed = ResumedSink(folder, trusted=left.boot == mine.boot) if left is not None else None
        sink = resumed or FolderSink(folder)
        has = resumed.has if resumed is not None else _has_none
        restorer = Restorer(reader, progress=partial(progress, dataset.label), has=has)
        try:
            restorer.restore(dataset, sink)
        finally:
            restorer.close()
        digest = ""
        if compare and dataset.kind in FOLDER_KINDS:
            digest = folder_digest(folder).value
            if digest != dataset.digest:
                raise CorruptObject(f"the restored files of {dataset.label} differ from the captured ones")
        done.append(
            RestoredDataset(
                dataset.label,
                dataset.kind,
                folder,
                dataset.entries,
                dataset.bytes,
                Instant(dataset.captured),
                dataset.digest,
                digest,
                dataset.rows,
                sink.unrestored.count,
                tuple(sink.unrestored.first[:20]),
            )
        )
    if resumable:
        end(target)
    faults = {f"{label} {pack}": error.message for (label, pack), error in reader.faults.items()}
    return Restored(root.name, root.epoch, root.sequence, Instant(root.time), tuple(done), faults)


def _has_none(entry: Entry) -> bool:
    """Nothing is there yet."""
    return False

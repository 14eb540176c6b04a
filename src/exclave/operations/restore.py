"""Restore: the datasets of one version into a folder, read from whichever sites have unharmed copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exclave.errors import CorruptObject, Forked, MissingObject, UsageError
from exclave.formats.manifest import Root
from exclave.ids import Fingerprint, Instant
from exclave.operations.custody import OpenedRegister
from exclave.registers.files import folder_digest
from exclave.registers.files_restore import FolderSink
from exclave.sites.contract import Sources
from exclave.vault.opener import PackReader
from exclave.vault.restore import Restorer
from exclave.verify.history import CountedVersion, RegisterHistory


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


def choose_version(history: RegisterHistory, sequence: int | None) -> CountedVersion:
    """The version with that number, or the latest. ``UsageError`` for a number that does not count.

    ``Forked`` if sites show two histories and no witnesses say which one stands: then people have to decide.
    """
    for found in history.findings:
        if found.grave and found.fault == Forked.code and history.newest_log.counted < _largest(history):
            raise Forked(
                f"two histories are shown, and the witnesses do not tell which one stands: {found.detail}",
                hint="Find out which site is right, and name that one alone with --site.",
            )
    if sequence is None:
        return history.latest
    for version in history.versions:
        if version.leaf.sequence == sequence:
            return version
    known = ", ".join(str(v.leaf.sequence) for v in history.versions[-10:]) or "none"
    raise UsageError(f"there is no version {sequence} that counts; the last ones are: {known}")


def _largest(history: RegisterHistory) -> int:
    """Entries of the longest head that any site shows."""
    return max(history.newest_log.sizes.values(), default=0)


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
    progress: Callable[[str, int, int], None] = lambda name, entries, size: None,
) -> Restored:
    """Each dataset into its own new folder below ``target``; ``only`` names a single one, which goes to ``target``.

    ``compare`` reads the restored files again and raises ``CorruptObject`` if their digest is not the captured one.
    """
    chosen = [d for d in root.datasets if only is None or d.label == only]
    if not chosen:
        raise MissingObject(
            f"this version has no dataset {only!r}; it has: {', '.join(d.label for d in root.datasets)}"
        )
    done = []
    for dataset in chosen:
        folder = target if only is not None else target / dataset.label
        sink = FolderSink(folder)
        restorer = Restorer(reader, progress=lambda n, size, name=dataset.label: progress(name, n, size))  # type: ignore[misc]
        try:
            restorer.restore(dataset, sink)
        finally:
            restorer.close()
        digest = ""
        if compare and dataset.kind == "files":
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
    faults = {f"{label} {pack}": error.message for (label, pack), error in reader.faults.items()}
    return Restored(root.name, root.epoch, root.sequence, Instant(root.time), tuple(done), faults)

"""Export: one dataset of a version in a form that needs nothing of ours: a bag of documents, SQL, or a SIARD archive.

Databases are restored into a private folder beside the target first, checked, and read there; that copy goes away again
whatever happens. Nothing gets the target's name before it is whole and on the disk: a restart finds ``NAME.partial``,
which the next export of that name throws away, or the whole export.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version as installed
from pathlib import Path
from typing import Final

from exclave.errors import CorruptObject, MissingObject, TargetNotEmpty, UnavailableError, UsageError
from exclave.formats.annex import Dataset as AnnexDataset
from exclave.formats.manifest import Dataset, Root
from exclave.ids import Fingerprint, Instant, instant_text
from exclave.operations.custody import OpenedRegister
from exclave.operations.export_postgres import running_copy
from exclave.operations.restore import restore_version
from exclave.registers.bag import BagSink
from exclave.registers.neutral import NeutralSource, TableSum
from exclave.registers.neutral_sqlite import SqliteNeutral
from exclave.registers.siard import write_siard
from exclave.registers.siard_header import Provenance
from exclave.registers.sqlite_digest import sqlite_digest
from exclave.registers.sqlite_dump import dump_sqlite
from exclave.vault.opener import PackReader
from exclave.vault.restore import Restorer
from exclave.verify.history import CountedVersion, RegisterHistory

Progress = Callable[[str, int, int], None]
_PARTIAL: Final = ".partial"


class ExportFormat(StrEnum):
    """What a dataset is turned into."""

    BAGIT = "bagit"
    SQL = "sql"
    SIARD = "siard"


@dataclass(frozen=True, slots=True)
class Exported:
    """What lies at ``target`` now."""

    register: str
    dataset: str
    format: ExportFormat
    epoch: int
    sequence: int
    time: Instant
    target: Path
    bytes: int
    entries: int
    """Files of a bag, rows of a SIARD archive; 0 for SQL."""
    tables: tuple[TableSum, ...]
    """Of a SIARD archive: what each table says (``docs/spec/export.md``)."""
    renamed: int
    """Of a bag: names that could not stand as they are."""


def export_dataset(
    reader: PackReader,
    root: Root,
    dataset: str,
    form: ExportFormat,
    target: Path,
    provenance: Provenance,
    annex: AnnexDataset | None,
    *,
    progress: Progress = lambda what, count, size: None,
) -> Exported:
    """Writes ``target``: a folder for a bag, else a file. ``annex``: where the dataset was captured from.

    ``UsageError`` for a format that this kind of dataset does not have, ``TargetNotEmpty`` if ``target`` exists,
    ``CorruptObject`` if what was restored is not what was captured.
    """
    found = next((d for d in root.datasets if d.label == dataset), None)
    if found is None:
        known = ", ".join(d.label for d in root.datasets)
        raise MissingObject(f"this version has no dataset {dataset!r}; it has: {known}")
    if form is not ExportFormat.BAGIT and found.kind not in ("sqlite", "postgres"):
        raise UsageError(f"{dataset} is no database but {found.kind}", hint="Export it with --format bagit.")
    with _beside(target) as work:
        made = work / "export"
        if form is ExportFormat.BAGIT:
            done = _bag(reader, root, found, made, target, provenance, progress)
        else:
            done = _database(reader, root, found, form, made, target, provenance, annex, progress)
        _settle(made)
        _give_name(made, target)
    return done


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A private folder on the target's file system. What a former export left there is removed first."""
    if os.path.lexists(target):
        raise TargetNotEmpty(f"{target} is there already", hint="Choose another name; nothing was written.")
    work = target.with_name(target.name + _PARTIAL)
    try:
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(mode=0o700)
    except OSError as error:
        raise UnavailableError(f"cannot write {str(work)!r}: {error.strerror}") from error
    try:
        yield work
    except OSError as error:
        raise UnavailableError(
            f"the export cannot be written: {error.strerror or error}",
            hint="Give the target space and write permission, and export again; nothing is left under its name.",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _settle(made: Path) -> None:
    """All of it is on the disk after this, and nobody else's to read: it is a register's plaintext."""
    for folder, _, names in os.walk(made):
        for name in names:
            _sync(Path(folder) / name, 0o600)
        _sync(Path(folder), 0o700)
    if made.is_file():
        _sync(made, 0o600)


def _sync(path: Path, mode: int | None = None) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if mode is not None:
            os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def _give_name(made: Path, target: Path) -> None:
    """A restart finds nothing under the name, or the whole export."""
    if os.path.lexists(target):
        raise TargetNotEmpty(f"{target} has come into being meanwhile", hint="Choose another name.")
    os.rename(made, target)
    _sync(target.parent)


def _bag(
    reader: PackReader, root: Root, dataset: Dataset, made: Path, target: Path, provenance: Provenance,
    progress: Progress,
) -> Exported:  # fmt: skip
    sink = BagSink(made)
    restorer = Restorer(reader, progress=lambda count, size: progress(dataset.label, count, size))
    try:
        restorer.restore(dataset, sink)
    finally:
        restorer.close()
    sink.finish(provenance.lines(), provenance.checkpoint, provenance.exported)
    return _exported(root, dataset, ExportFormat.BAGIT, target, sink.bytes, sink.files, renamed=sink.renamed)


def _database(
    reader: PackReader, root: Root, dataset: Dataset, form: ExportFormat, made: Path, target: Path,
    provenance: Provenance, annex: AnnexDataset | None, progress: Progress,
) -> Exported:  # fmt: skip
    copy = made.with_name("copy")
    restore_version(reader, root, copy, only=dataset.label, progress=progress)
    options = annex.options if annex is not None else {}
    sums: tuple[TableSum, ...] = ()
    if dataset.kind == "sqlite":
        database = _sqlite_file(copy)
        if dataset.digest and sqlite_digest(database, still=True).value != dataset.digest:
            raise CorruptObject(f"{dataset.label} was restored, but its content differs from what was captured")
        if form is ExportFormat.SQL:
            with open(made, "xb") as out:
                dump_sqlite(database, out, progress=progress)
        else:
            with contextlib.closing(SqliteNeutral(database)) as source:
                sums = _siard(source, made, provenance, progress)
    else:
        with running_copy(copy, options.get("dbname", "postgres"), options.get("user", "postgres")) as server:
            if dataset.digest and dataset.digest_exact and server.digest() != dataset.digest:
                raise CorruptObject(f"{dataset.label} was restored, but its content differs from what was captured")
            if form is ExportFormat.SQL:
                server.dump(made)
            else:
                with server.neutral() as neutral:
                    sums = _siard(neutral, made, provenance, progress)
    return _exported(root, dataset, form, target, made.stat().st_size, sum(s.rows for s in sums), tables=sums)


def _siard(source: NeutralSource, made: Path, provenance: Provenance, progress: Progress) -> tuple[TableSum, ...]:
    return write_siard(source, made, provenance, progress=progress)


def _sqlite_file(folder: Path) -> Path:
    """The one file of a restored SQLite dataset."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    if len(files) != 1:
        raise CorruptObject(f"a SQLite dataset must hold one file, and this one holds {len(files)}")
    return files[0]


def _exported(
    root: Root, dataset: Dataset, form: ExportFormat, target: Path, size: int, entries: int, *,
    tables: tuple[TableSum, ...] = (), renamed: int = 0,
) -> Exported:  # fmt: skip
    return Exported(
        root.name, dataset.label, form, root.epoch, root.sequence, Instant(root.time), target, size, entries, tables,
        renamed,
    )  # fmt: skip


def provenance_of(
    state: Fingerprint,
    opened: OpenedRegister,
    history: RegisterHistory,
    version: CountedVersion,
    root: Root,
    dataset: str,
    now: Instant,
) -> Provenance:
    """What an export says of where it comes from: enough to find and prove the version in the public ledger."""
    log = next(log for log in history.epochs if log.epoch.number == version.epoch)
    found = next((d for d in root.datasets if d.label == dataset), None)
    options = next((d.options for d in opened.annex.datasets if d.name == dataset), {})
    name = options.get("dbname") or Path(options.get("path", dataset)).name or dataset
    return Provenance(
        state=state,
        register=f"{root.name} ({root.register})",
        dataset=dataset,
        database=name,
        owner=opened.annex.owner,
        epoch=root.epoch,
        sequence=root.sequence,
        time=Instant(root.time),
        captured=Instant(found.captured if found is not None else root.time),
        manifest=version.leaf.manifest.hex(),
        checkpoint=log.freshest.encode().decode("utf-8") if log.freshest is not None else "",
        exported=now,
        program=f"Exclave {installed('exclave')}, {instant_text(now)}",
    )

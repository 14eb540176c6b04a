"""Records on their way: from a backup's datasets into the version's root, and what home keeps to show them later.

In a register's cache: ``records``, a line for each version with the roots of its datasets. If it is lost, the last
version is shown from an opened copy, by warrant, until the next backup writes a line.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from exclave.errors import MalformedError
from exclave.formats.config import DatasetConfig, RegisterConfig
from exclave.formats.manifest import Dataset, Root
from exclave.ids import Digest, Label, parse_digest
from exclave.registers.contract import DatasetDigest
from exclave.registers.rows import FormerRows, RowRecords
from exclave.rules.records import RecordsKey, VersionTree

FACT: Final = "records"
"""In a dataset's facts: the root of its records, in hex."""
LEFT_OUT: Final = "records_left_out"
"""In its place: why there is none."""
_KEPT: Final = 4000
_MAX_FILE: Final = 64 << 20


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sequence: int
    records: str
    """The version's root, hex."""
    datasets: dict[str, str]


_DECODER = msgspec.json.Decoder(_Line)


def takes_part(register: RegisterConfig, dataset: DatasetConfig) -> bool:
    """Whether the dataset's documents or rows are records: as configured, else those of public registers are."""
    if dataset.kind == "identity":
        return False
    chosen = dataset.records if dataset.records is not None else register.records
    return register.public if chosen is None else chosen


def has_records(dataset: Dataset) -> bool:
    """Whether ``dataset`` was captured with records, though those of this version may be left out."""
    return FACT in dataset.facts or LEFT_OUT in dataset.facts


class Committing:
    """The records of one version. Use: ``key_for`` and ``rows_for`` before a dataset is read, ``note`` after it."""

    def __init__(self, config: RegisterConfig, id_key: bytes) -> None:
        self._config = config
        self._key = RecordsKey(id_key, config.name)
        self._roots: dict[Label, Digest] = {}

    def key_for(self, dataset: DatasetConfig) -> RecordsKey | None:
        """For the writer, if the dataset's files are records."""
        return self._key if dataset.kind == "files" and takes_part(self._config, dataset) else None

    def rows_for(self, dataset: DatasetConfig, former: FormerRows) -> FormerRows:
        """For the capture's digest: ``former``, and that the rows are records if they are."""
        if dataset.kind == "files" or not takes_part(self._config, dataset):
            return former
        return replace(former, records=RowRecords(self._key, Label(dataset.name)))

    def note(self, label: Label, files: Digest | None, digest: DatasetDigest | None) -> dict[str, str]:
        """What the manifest keeps. Rows that were read at another moment than the captured one are no records."""
        root = files
        if root is None and digest is not None and digest.records is not None:
            if not digest.exact:
                return {LEFT_OUT: "rows were written while they were read"}
            root = digest.records
        if root is None:
            return {}
        self._roots[label] = root
        return {FACT: root.hex()}

    def root(self, sequence: int) -> Digest | None:
        """What the version commits to; None if nothing takes part."""
        return VersionTree(self._key, sequence, self._roots).root if self._roots else None

    def commit(self, cache: Path, sequence: int) -> None:
        """The version is in the ledger. Dies before, or the disk is full: this version is shown by warrant alone."""
        root = self.root(sequence)
        if root is None:
            return
        line = _Line(sequence, root.hex(), {str(label): r.hex() for label, r in self._roots.items()})
        with suppress(OSError):
            path = cache / "records"
            lines = _read(path).splitlines(keepends=True)
            if len(lines) >= 2 * _KEPT:
                fresh = path.with_name("records.new")
                fresh.write_bytes(b"".join(lines[-_KEPT:]))
                os.replace(fresh, path)
            with open(path, "ab") as file:
                # A line that was torn by a crash is ended, so that it spoils no other.
                file.write(
                    (b"" if not lines or lines[-1].endswith(b"\n") else b"\n") + msgspec.json.encode(line) + b"\n"
                )


def kept_roots(cache: Path, records: Digest) -> dict[Label, Digest]:
    """The roots of its datasets that home kept of the version with the root ``records``; empty if none are there."""
    for text in reversed(_read(cache / "records").splitlines()):
        with suppress(msgspec.DecodeError, MalformedError, UnicodeError):
            line = _DECODER.decode(text)
            if line.records == records.hex():
                return {Label(label): parse_digest(root) for label, root in line.datasets.items()}
    return {}


def roots_in(root: Root) -> dict[Label, Digest]:
    """The same, as a version's own manifest has them."""
    found: dict[Label, Digest] = {}
    for dataset in root.datasets:
        with suppress(MalformedError):
            if FACT in dataset.facts:
                found[Label(dataset.label)] = parse_digest(dataset.facts[FACT])
    return found


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_FILE)
    except OSError:
        return b""

"""Signals of versions on their way: from the writer into the manifest, and into the home's cache.

In a register's cache: ``signals``, a line for each version (JSON), and for each database ``DATASET.rows``. If they are
lost, the next version is compared with nothing, says so, and what was noticed before is read from the manifests, by
warrant.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from exclave.errors import MalformedError
from exclave.formats.config import DatasetConfig
from exclave.formats.manifest import Root
from exclave.formats.signals import FACT, Signals, parse_signals
from exclave.ids import Instant, Label
from exclave.operations.records import FACT as RECORDS
from exclave.registers.contract import DatasetDigest
from exclave.registers.rows import FormerRows, decode_rows, encode_rows, table_signals
from exclave.rules.signals import VersionSignals, judge
from exclave.vault.signals import Watch

_KEPT = 4000
_RECENT = 500
_MAX_FILE = 64 << 20


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sequence: int
    epoch: int
    time: int
    manifest: str
    datasets: dict[str, str]


_DECODER = msgspec.json.Decoder(_Line)


@dataclass(slots=True)
class _Watched:
    """One dataset of the version that is being made."""

    config: DatasetConfig
    watch: Watch
    former: FormerRows
    rows: bytes | None = None
    signals: Signals | None = None


class Observer:
    """Watches one backup. Use: ``begin`` and ``note`` for each dataset, then ``commit`` once the ledger has it."""

    def __init__(self, cache: Path, now: Instant) -> None:
        self._cache, self._now = cache, now
        self.clear: tuple[str, ...] = ()
        """After ``commit``: what became clear with this version, as sentences; judged from the last ``_RECENT``."""
        self._watched: dict[Label, _Watched] = {}

    def begin(self, dataset: DatasetConfig) -> tuple[Watch, FormerRows]:
        """What the writer and the capture's digest are given."""
        tables = decode_rows(_read(self._cache / f"{dataset.name}.rows"))
        made = _Watched(
            dataset, Watch(self._now, immutable=dataset.immutable), FormerRows(tables, frozenset(dataset.append_only))
        )
        self._watched[Label(dataset.name)] = made
        return made.watch, made.former

    def note(self, label: Label, seen: Signals, digest: DatasetDigest | None) -> dict[str, str]:
        """The fact that the manifest keeps."""
        watched = self._watched[label]
        if digest is not None and (digest.tables or watched.config.append_only):
            tables = table_signals(digest.tables, watched.former)
            seen = replace(seen, compared=bool(watched.former.tables), tables=tables)
            watched.rows = encode_rows(digest.tables)
        watched.signals = seen
        return {FACT: seen.encode()}

    def commit(self, sequence: int, epoch: int, time: Instant, manifest: str) -> None:
        """The version is in the ledger: the next one is compared with it.

        A process that dies before or in between compares the next version with an older one, or shows this one without
        signals: they stand in its manifest. So does a disk that takes no more, which must not make a failure of a
        version that is stored.
        """
        with suppress(OSError):
            self._keep(sequence, epoch, time, manifest)

    def _keep(self, sequence: int, epoch: int, time: Instant, manifest: str) -> None:
        for label, watched in self._watched.items():
            if watched.rows is not None:
                _replace(self._cache / f"{label}.rows", watched.rows)
        texts = {str(label): w.signals.encode() for label, w in self._watched.items() if w.signals is not None}
        line = msgspec.json.encode(_Line(sequence, epoch, time, manifest, texts)) + b"\n"
        path = self._cache / "signals"
        lines = _read(path).splitlines(keepends=True)
        if len(lines) >= 2 * _KEPT:
            _replace(path, b"".join(lines[-_KEPT:]))
        with open(path, "ab") as file:
            # A line that was torn by a crash is ended, so that it spoils no other.
            file.write((b"" if not lines or lines[-1].endswith(b"\n") else b"\n") + line)
        seen = list(noted_at_home(self._cache, last=_RECENT).values())
        self.clear = tuple(f"{f.dataset}: {f.text}" for f in judge(seen).findings if f.found == sequence)


def noted_at_home(cache: Path, *, last: int = 2 * _KEPT) -> dict[str, VersionSignals]:
    """What the cache has, by the manifest's name in hex; lines that are damaged are left out."""
    found: dict[str, VersionSignals] = {}
    for line in _read(cache / "signals").splitlines()[-last:]:
        with suppress(msgspec.DecodeError, MalformedError, UnicodeError):
            made = _DECODER.decode(line)
            datasets = {label: parse_signals(text) for label, text in made.datasets.items()}
            found[made.manifest] = VersionSignals(made.sequence, Instant(made.time), datasets)
    return found


def noted_in(root: Root) -> VersionSignals:
    """What a version's own manifest says of it; nothing of a dataset whose text is missing or not understood."""
    datasets: dict[str, Signals] = {}
    for dataset in root.datasets:
        with suppress(MalformedError):
            if FACT in dataset.facts:
                datasets[dataset.label] = parse_signals(dataset.facts[FACT])
    return VersionSignals(root.sequence, Instant(root.time), datasets)


def without_signals(facts: Mapping[str, str]) -> dict[str, str]:
    """``facts`` for a person: signals are shown elsewhere, and the root of records is for proofs."""
    return {name: value for name, value in facts.items() if name not in (FACT, RECORDS)}


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_FILE)
    except OSError:
        return b""


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(data)
    os.replace(fresh, path)

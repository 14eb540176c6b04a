"""Compare two versions of a register: entries of each dataset, and rows of each table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from exclave.formats.entry import Kind
from exclave.formats.manifest import Dataset, Record, Root
from exclave.formats.signals import Signals
from exclave.ids import Instant
from exclave.operations.signals import noted_in
from exclave.vault.compare import Difference, differences
from exclave.vault.opener import PackReader

MOST_RENAMES = 100_000
"""Entries that are kept to be paired; those beyond are told as gone and new."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry. ``kind``: ``new``, ``gone``, ``changed`` or ``renamed``."""

    kind: str
    path: str
    aspects: tuple[str, ...] = ()
    """Of a changed entry, what is not the same."""
    former: str = ""
    """Of a renamed file, its path before."""
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True, slots=True)
class TableChange:
    """One table of a database. ``state``: ``same``, ``differs``, ``new``, ``gone``; empty if only rows are known."""

    name: str
    rows_before: int
    rows_after: int
    state: str


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """One dataset that differs or may. All entries are counted; ``changes`` holds the first ones."""

    name: str
    kind: str
    counts: dict[str, int]
    """``new``, ``gone``, ``changed``, ``renamed``, and of the changed ones each aspect."""
    bytes_before: int
    bytes_after: int
    changes: tuple[Change, ...]
    left_out: int
    """Changes that are counted and not listed."""
    tables: tuple[TableChange, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.counts and all(table.state == "same" for table in self.tables)


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """Two versions, the earlier one first as they were named."""

    register: str
    before: int
    after: int
    time_before: Instant
    time_after: Instant
    same: bool
    datasets: tuple[DatasetDiff, ...]
    nodes_read: int
    """Nodes of manifests that had to be read: what both versions share was not."""


@dataclass(slots=True)
class _Collector:
    """Counts differences, lists the first ones, and pairs files that are gone with new ones of the same content."""

    most: int
    counts: Counter[str] = field(default_factory=Counter)
    listed: list[Change] = field(default_factory=list)
    unlisted: int = 0
    gone: dict[tuple[int, bytes], list[Change]] = field(default_factory=dict)
    new: list[tuple[tuple[int, bytes], Change]] = field(default_factory=list)
    held: int = 0

    def add(self, found: Difference) -> None:
        before, after, path = found.before, found.after, _text(found.path)
        if before is not None and after is not None:
            self.counts.update(found.aspects)
            self._tell(Change("changed", path, found.aspects, "", before.entry.size, after.entry.size))
        elif after is not None:
            change = Change("new", path, bytes_after=after.entry.size)
            if (key := self._key(after)) is None:
                self._tell(change)
            else:
                self.new.append((key, change))
        elif before is not None:
            change = Change("gone", path, bytes_before=before.entry.size)
            if (key := self._key(before)) is None:
                self._tell(change)
            else:
                self.gone.setdefault(key, []).append(change)

    def _key(self, record: Record) -> tuple[int, bytes] | None:
        if record.entry.kind != Kind.FILE or not record.entry.size or self.held >= MOST_RENAMES:
            return None
        self.held += 1
        return record.entry.size, record.hash

    def _tell(self, change: Change) -> None:
        self.counts[change.kind] += 1
        if len(self.listed) < self.most:
            self.listed.append(change)
        else:
            self.unlisted += 1

    def finish(self) -> tuple[Change, ...]:
        """Everything was added: pairs what is left, and puts all in order of paths."""
        for key, change in self.new:
            waiting = self.gone.get(key)
            if waiting:
                former = waiting.pop(0)
                size = change.bytes_after
                self._tell(Change("renamed", change.path, (), former.path, size, size))
            else:
                self._tell(change)
        for waiting in self.gone.values():
            for change in waiting:
                self._tell(change)
        return tuple(sorted(self.listed, key=lambda change: change.path.split("/")))


def diff_versions(
    before: tuple[PackReader, Root],
    after: tuple[PackReader, Root],
    *,
    only: str | None = None,
    most: int = 1000,
    progress: Callable[[str, int, int], None] = lambda name, entries, size: None,
) -> VersionDiff:
    """Two versions of one register, each with its own reader. ``only``: one dataset. ``most``: changes to be listed.

    Reads only what differs. Raises ``CorruptObject``, ``MissingObject``.
    """
    (one, old), (two, new) = before, after
    then, now = {d.label: d for d in old.datasets}, {d.label: d for d in new.datasets}
    noted_then, noted_now = noted_in(old).datasets, noted_in(new).datasets
    made, opened = [], Counter[int]()
    for label in sorted({*then, *now}):
        if only in (None, label):
            pair = then.get(label), now.get(label)
            collector = _Collector(most)
            left, right = pair
            sides = (one, left) if left else None, (two, right) if right else None
            for number, found in enumerate(differences(*sides, lambda level: opened.update([level])), 1):
                collector.add(found)
                if number & 0x3FF == 0:
                    progress(label, number, 0)
            tables = _tables(*pair, noted_then.get(label), noted_now.get(label))
            made.append(_dataset(label, pair, collector, tables))
    return VersionDiff(
        new.name, old.sequence, new.sequence, Instant(old.time), Instant(new.time),
        all(d.same for d in made), tuple(made), opened.total(),
    )  # fmt: skip


def _dataset(
    label: str, pair: tuple[Dataset | None, Dataset | None], collector: _Collector, tables: tuple[TableChange, ...]
) -> DatasetDiff:
    changes, (left, right) = collector.finish(), pair
    some = right or left
    return DatasetDiff(
        label, some.kind if some else "", dict(sorted(collector.counts.items())),
        left.bytes if left else 0, right.bytes if right else 0, changes, collector.unlisted, tables,
    )  # fmt: skip


def _tables(
    left: Dataset | None, right: Dataset | None, noted_left: Signals | None, noted_right: Signals | None
) -> tuple[TableChange, ...]:
    """Rows of a database's tables. Digests tell whether one is the same, if both versions have them."""
    if "files" in (kind := {d.kind for d in (left, right) if d}) or "identity" in kind:
        return ()
    rows_then, rows_now = (dict(d.rows) if d else {} for d in (left, right))
    digests = [{t.name: t.digest for t in noted.tables} if noted else {} for noted in (noted_left, noted_right)]
    whole = bool(left and right and left.digest and left.digest == right.digest)
    made = []
    for name in sorted({*rows_then, *rows_now}):
        then, now = digests[0].get(name), digests[1].get(name)
        if name not in rows_then or name not in rows_now:
            state = "new" if name in rows_now else "gone"
        elif whole or (then is not None and then == now):
            state = "same"
        elif rows_then[name] != rows_now[name] or (then and now):
            state = "differs"
        else:
            state = ""
        made.append(TableChange(name, rows_then.get(name, 0), rows_now.get(name, 0), state))
    return tuple(made)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")

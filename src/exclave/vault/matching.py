"""What a source lists against the last version: whole leaves that are unchanged, single entries, and what is new."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from exclave.formats.entry import Captured, Kind, Listed, Stamp
from exclave.formats.manifest import Record
from exclave.vault.catalogue import FormerLeaf, Prior, count_files, encode_marks, has_other_names


class Reuse(Protocol):
    """Who takes the records, in walk order."""

    def __call__(self, former: FormerLeaf, start: int, stop: int, files: int) -> None:
        """Records ``start`` … ``stop`` - 1 of ``former``, so many of them files, hold now too."""


class Matcher:
    """Compares runs of listed entries with the leaves of the last catalogue, in walk order."""

    def __init__(
        self,
        prior: Prior,
        reuse: Reuse,
        add: Callable[[Captured, Stamp | None, Record | None], None],
        take: Callable[[Listed], None],
    ) -> None:
        """``add(item, stamp, former)``: an entry that is not known to be unchanged, and what had its path before.

        ``take`` gets all that comes after the last catalogue's end.
        """
        self._prior, self._reuse, self._add, self._take = prior, reuse, add, take
        self._paths: list[bytes] = []
        self._stamps: list[Stamp | None] = []
        self._infos: list[os.stat_result] = []
        self._last: Listed | None = None

    def feed(self, listed: Listed) -> None:
        """Takes the next entries; the last few may wait for those that complete their leaf."""
        self._paths += listed.paths
        self._stamps += listed.stamps
        self._infos += listed.infos
        self._match(listed, final=False)
        self._last = listed

    def find(self, path: bytes) -> Record | None:
        """What had ``path`` before, for a source that gives one entry at a time."""
        now = self._prior.come_to(path)
        if now is None:
            return None
        now.open()
        position = now.where.get(path)
        if position is None:
            return None
        now.met.add(position)
        return now.leaf.records[position]

    def finish(self) -> None:
        """There are no more entries."""
        if self._last is not None:
            self._match(self._last, final=True)
        self._prior.finish()

    def _match(self, listed: Listed, *, final: bool) -> None:
        at, end = 0, len(self._paths)
        while at < end:
            now = self._prior.come_to(self._paths[at])
            if now is None:
                self._take(Listed(self._paths[at:], self._stamps[at:], self._infos[at:], listed.source))
                at = end
                break
            if not now.opened and self._paths[at] == now.frame.first:
                stop = at + now.frame.entries
                if stop > end and not final:
                    break
                if self._is_same(now, at, stop):
                    self._reuse(now, 0, now.frame.entries, now.frame.files)
                    self._prior.take()
                    at = stop
                    continue
            at += self._match_one(listed, now, at)
        del self._paths[:at], self._stamps[:at], self._infos[:at]

    def _is_same(self, now: FormerLeaf, at: int, stop: int) -> bool:
        return (
            now.frame.comparable
            and now.whole
            and encode_marks(self._paths[at:stop], self._stamps[at:stop]) == now.frame.marks
        )

    def _match_one(self, listed: Listed, now: FormerLeaf, at: int) -> int:
        """Finds the fate of the entry at ``at``, and of those after it if they are unchanged too; how many."""
        path, stamp = self._paths[at], self._stamps[at]
        now.open()
        position = now.where.get(path)
        if position is None:
            item = listed.source.open(path, self._infos[at], again=True)
            if item is not None:
                self._add(item, stamp, None)
            return 1
        shared = stamp is None or has_other_names(stamp)
        if not shared and now.can_reuse(position, stamp):
            count = self._same_from(now, position, at)
            now.met.update(range(position, position + count))
            self._reuse(now, position, position + count, count_files(self._stamps[at : at + count]))
            return count
        item = listed.source.open(path, self._infos[at], again=True)
        if item is None:
            return 1
        now.met.add(position)
        if shared and item.entry.kind == Kind.FILE and now.can_reuse(position, stamp):
            record = now.leaf.records[position]
            if record.entry.kind == Kind.FILE:
                self._reuse(now, position, position + 1, 1)
                return 1
        self._add(item, stamp, now.leaf.records[position])
        return 1

    def _same_from(self, now: FormerLeaf, position: int, at: int) -> int:
        """How many entries from ``at`` on are those from ``position`` on, unchanged; the first one is known to be."""
        count = 1
        if now.whole and now.frame.comparable:
            paths, stamps = self._paths, self._stamps
            most = min(len(paths) - at, len(now.paths) - position)
            while (
                count < most
                and now.paths[position + count] == paths[at + count]
                and stamps[at + count] is not None
                and now.stamps[position + count] == stamps[at + count]
            ):
                count += 1
        return count

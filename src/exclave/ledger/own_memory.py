"""What a log's writer knows without asking any site: the entries that it appended, the objects that it laid out.

With it no single host stands between the writer and the others by showing what it was given and hiding it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exclave.errors import CorruptObject, Forked, IntegrityError, UnavailableError
from exclave.ids import Key
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat, Readable


@dataclass(frozen=True, slots=True)
class Remembered:
    """Entries that the writer has decided on: number ``first`` of the log and those that follow it."""

    first: int
    entries: tuple[bytes, ...]

    @property
    def end(self) -> int:
        """Entries that the log has with all of these."""
        return self.first + len(self.entries)

    def between(self, start: int, stop: int) -> tuple[bytes, ...] | None:
        """Entries ``start`` to ``stop`` (exclusive); None if they are not all remembered."""
        if not self.first <= start <= stop <= self.end:
            return None
        return self.entries[start - self.first : stop - self.first]

    def require_same(self, start: int, entries: Sequence[bytes]) -> None:
        """``Forked`` if ``entries``, from number ``start`` on, are others than those remembered under these numbers."""
        for number, entry in enumerate(entries, start):
            if self.first <= number < self.end and self.entries[number - self.first] != entry:
                raise Forked(f"entry {number} is decided there, and it is not the one that its writer remembers")


class LaidOver:
    """Objects in memory before those of ``source``; knows whether ``source`` has failed."""

    def __init__(self, laid: Mapping[Key, bytes], source: Readable) -> None:
        self._laid, self._source = laid, source
        self.failed = False
        """Whether any read from ``source`` ended with an error."""

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        if key not in self._laid:
            return self._read(key, limit)
        if len(self._laid[key]) > limit:
            raise CorruptObject(f"{key} is longer than {limit} bytes", key=key)
        return self._laid[key]

    def _read(self, key: Key, limit: int) -> bytes:
        try:
            return self._source.get(key, limit=limit)
        except (IntegrityError, UnavailableError):
            self.failed = True
            raise

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return self._source.get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        return self._source.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return self._source.list(prefix)

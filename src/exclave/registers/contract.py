"""How a dataset leaves its source: entries with content, the moment whose state they are, and a comparable digest.

A capture is a context manager. Entering prepares it (connects, copies to staging); leaving ends every process and
removes every staging file, also after a failure or when the consumer stopped early. In between:

(1) ``items()`` is read to its end, once; content is read before the next item is asked for;
(2) then ``captured_at``, ``facts`` and ``digest()`` may be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from exclave.formats.entry import Captured, Listed
from exclave.ids import Digest, Instant
from exclave.registers.rows import NOTHING, FormerRows, TableRows

Clock = Callable[[], Instant]
"""The wall clock, passed in."""

MAX_BLOCK = 4 << 20
"""Largest piece of content that a capture yields, in bytes."""


@dataclass(frozen=True, slots=True)
class DatasetDigest:
    """What a dataset says, wherever it lies: equal values mean equal rows. Page: ``docs/spec/registers.md``."""

    value: str
    """SHA-256 of the canonical text, 64 hex digits."""
    rows: tuple[tuple[str, int], ...]
    """(table, number of rows), in the order of the canonical text."""
    exact: bool
    """True if this is known to be the digest of the captured moment, not of a moment shortly after."""
    tables: tuple[TableRows, ...] = ()
    """For the comparison with the next version."""
    records: Digest | None = None
    """Root of all rows as records, if they were asked for: of the same reading as ``value``."""


class Capture(Protocol):
    """One reading of one dataset."""

    @property
    def kind(self) -> str:
        """``files``, ``postgres`` or ``sqlite``."""

    @property
    def ordered(self) -> bool:
        """True if ``items()`` come in walk order; else as the source sends them, each folder before what is in it."""

    @property
    def captured_at(self) -> Instant:
        """Every change confirmed before this moment is in the items. ``Bug`` before ``items()`` came to its end."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What a restorer wants to know of the source. ``Bug`` before ``items()`` came to its end."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def items(self) -> Iterator[Captured | Listed]:
        """The dataset's root first, then all else. ``SourceUnavailable`` if the source fails before the end.

        What can tell from a listing that most of it is unchanged gives many entries at once, as ``Listed``.
        """

    def digest(self, former: FormerRows = NOTHING) -> DatasetDigest | None:
        """None if the source has none, or none was asked for. ``Bug`` before ``items()`` came to its end.

        ``former``: tables as the version before had them, to be compared on the way.
        """

"""How a large file is cut and compressed, by what its first bytes say.

A database writes page by page, in place. Its file is cut at fixed places, which fall on pages: a changed page then
ships one chunk, and the chunks beside it stay what they were, at no cost for finding cuts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Protocol

from exclave.vault.compression import Effort, compress

PAGES_BYTES: Final = 128 << 10
"""A multiple of every page size below. Half of it costs a tenth more room, and ships a third less."""
_POSTGRES_PAGE: Final = 8192
_POSTGRES_HEADER: Final = struct.Struct("<10x5H")
"""Flags, end of the line pointers, start of the rows, start of the special part, page size with layout version."""
_SQLITE: Final = b"SQLite format 3\0"


class Cutter(Protocol):
    """Where data is cut."""

    def cut(self, data: memoryview) -> list[int]:
        """Ends of the chunks of ``data``, in order; the last one is its length."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one file is stored."""

    cutter: Cutter
    effort: Effort


class FixedCutter:
    """Chunks of ``PAGES_BYTES``."""

    def cut(self, data: memoryview) -> list[int]:
        return [*range(PAGES_BYTES, len(data), PAGES_BYTES), len(data)]


def plan_for(head: memoryview, by_content: Cutter) -> Plan:
    """``head``: what a large file begins with, some MiB. ``by_content`` cuts whatever is no database."""
    if not (bytes(head[: len(_SQLITE)]) == _SQLITE or _is_postgres(head)):
        return Plan(by_content, Effort.LARGE_FILES)
    # What pays for an index pays for nothing else; a chunk shows which of the two this is. Not the first: there lie the
    # pages that are unlike all others.
    middle = len(head) // PAGES_BYTES // 2 * PAGES_BYTES
    sample = head[middle : middle + PAGES_BYTES]
    pays = len(compress(sample, Effort.KEYS)) * 8 < len(compress(sample, Effort.PAGES)) * 7
    return Plan(FixedCutter(), Effort.KEYS if pays else Effort.PAGES)


def _is_postgres(head: memoryview) -> bool:
    """Whether two pages of a PostgreSQL table or index stand there (``bufpage.h``), layout 4 since PostgreSQL 8.3."""
    if len(head) < 2 * _POSTGRES_PAGE:
        return False
    for at in (0, _POSTGRES_PAGE):
        flags, lower, upper, special, size = _POSTGRES_HEADER.unpack_from(head, at)
        if flags > 7 or size != _POSTGRES_PAGE | 4 or not 24 <= lower <= upper <= special <= _POSTGRES_PAGE:
            return False
    return True

"""Whole HTTP messages, and what clients may take, for the edge of ``http_edge.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

PLAIN: Final = b"Content-Type: text/plain\r\nCache-Control: no-store\r\n"


class Request(msgspec.Struct, frozen=True):
    """A whole request."""

    method: bytes
    target: bytes
    """Origin form: path and query."""
    headers: dict[bytes, bytes]
    """By lower-case name; of several of one name, the last."""
    body: bytes


class Response(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes
    head: bytes = PLAIN
    """Header lines, each ended by CRLF; length, date and connection are added."""


Handler = Callable[[Request], Response]
"""Called in the event loop, or in a thread if the edge has an executor. It raises nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all together, may take."""

    target_bytes: int = 2 << 10
    head_bytes: int = 8 << 10
    body_bytes: int = 8 << 10
    request_s: float = 10.0
    idle_s: float = 15.0
    write_s: float = 30.0
    write_bytes: int = 256 << 10
    """Who takes less than this of a long answer in ``write_s`` is ended."""
    connections: int = 1000
    """Of one process. Beyond it, one that waits between requests goes; if none does, the new one is refused."""


class Meter(Protocol):
    """Counts what the edge does."""

    def connections(self, number: int) -> None: ...

    def refused(self, status: int) -> None:
        """A request that did not reach the handler."""


class Unmetered:
    def connections(self, number: int) -> None:
        pass

    def refused(self, status: int) -> None:
        pass

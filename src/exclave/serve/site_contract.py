"""What the parts of ``exclave serve site`` say to each other: hosted states, writes before a guard, duties.

The gateway (``site.py``) moves opaque bytes. Whatever a host does besides, it plugs in here: a ``Guard`` is asked
before each write, a ``Duty`` answers requests of its own below a state's address. Neither sees the other's work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from exclave.formats.hostconfig import HostedConfig
from exclave.ids import Digest, Fingerprint, Key, Label
from exclave.sites.arriving import ArrivingSite

ANYBODY: Final = ""
"""Who asks without a certificate."""
GUARDED_BYTES: Final = 1 << 20
"""Objects up to this size are shown to guards before they get their name."""


class Kind(StrEnum):
    """The writes of a site's contract."""

    NEW = "new"
    SAME = "same"
    REPLACE = "replace"
    SPOILT = "spoilt"


@dataclass(frozen=True, slots=True)
class Write:
    """A write that somebody wants; nothing of it has been stored, and its bytes may not have come yet."""

    state: Fingerprint
    kind: Kind
    key: Key
    size_bytes: int
    who: str
    """SHA-256 of the client's certificate, 64 hex digits: one of the state's own."""
    digest: Digest
    """SHA-256 of the bytes, as the client tells it; the bytes are refused if they come to another."""
    data: bytes | None = None
    """None before the bytes have come; before naming, all of them if they are at most ``GUARDED_BYTES``."""
    expected: str | None = None
    """Of ``REPLACE``: the tag of the head that the writer expects, SHA-256 of its bytes; None: there is none. Of
    ``SPOILT``: SHA-256 of the wrong bytes; None: they cannot be read."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, in words that the writer reads."""

    code: str
    """Stable, for machines: letters and ``-``, as ``fenced``."""
    message: str
    """One line of plain ASCII, at most 300 characters."""
    status: int = 403


Guard = Callable[[Write], Refusal | None]
"""Asked twice for each write: before its bytes are taken, and again before they get their name, so that an order which
came meanwhile holds. None: allowed. Called in the connection's thread; it may read the state's folder. It raises
``ExclaveError`` alone, which refuses the write as an answer of 503 does."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a duty. Head and body are whole."""

    method: str
    path: str
    """What follows the duty's name: empty, or segments without ``/`` at the ends."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name; no name stands twice."""
    body: bytes
    who: str
    """SHA-256 of the client's certificate, or ``ANYBODY``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    headers: Sequence[tuple[str, str]] = field(default=())


class Duty(Protocol):
    """What a host does for a state besides keeping bytes, at ``/v1/FINGERPRINT/NAME``, with or without more path."""

    @property
    def name(self) -> str:
        """The first segment after the fingerprint: lower-case letters and ``-``; not one of the gateway's own."""

    @property
    def body_bytes(self) -> int:
        """Longest body that it takes; longer ones are refused unread."""

    @property
    def anybody(self) -> bool:
        """Whether it answers those who have no certificate of the state."""

    @property
    def waits(self) -> bool:
        """Whether it may wait for other machines or for long work; then it takes no turn, and bounds itself."""

    def answer(self, state: HostedState, asked: Asked) -> Answer:
        """Called in the connection's thread, within a turn unless it ``waits``. Raises ``ExclaveError`` alone."""


class Room(Protocol):
    """Held for one write."""

    def use(self) -> None:
        """It was written."""


class Usage(Protocol):
    """What a state holds now, and may hold."""

    @property
    def bytes_used(self) -> int: ...
    @property
    def objects_used(self) -> int: ...
    @property
    def counting(self) -> bool:
        """The folder is being counted anew; the numbers are those of the last record."""

    def room(self, key: Key, size_bytes: int, *, replaces_bytes: int | None = None) -> AbstractContextManager[Room]:
        """Holds room for a write until the block ends; ``use`` says that it was written. ``SiteFull`` if there is none.

        ``replaces_bytes``: size of the object that it takes the place of.
        """

    def recount(self) -> None:
        """The folder was changed by another way than a write here (an erasure): counted anew in the background."""


@dataclass(frozen=True, slots=True)
class HostedState:
    """One state's place at this host."""

    name: Label
    """What the host's operator calls it; on pages and in metrics."""
    fingerprint: Fingerprint
    folder: str
    """Absolute; nobody else's objects are in it."""
    site: ArrivingSite
    """A ``DirectorySite`` in the folder."""
    config: HostedConfig
    """Quota, limits, whether anybody may read."""
    usage: Usage
    certificates: frozenset[str] = frozenset()
    """SHA-256 of each certificate that speaks for the state."""


@dataclass(frozen=True, slots=True)
class Duties:
    """All that plugs into one gateway."""

    guards: Sequence[Guard] = ()
    duties: Sequence[Duty] = ()
    written: Sequence[Callable[[HostedState, Write], None]] = ()
    """Told of each write that is durable, in the connection's thread. They are quick and raise nothing."""

"""What every site must do: keep opaque bytes under names, and never say that something is durable before it is.

A site knows no keys, no formats and no rules. Names are ``Key`` values. All methods are safe to call from several
threads. Failures raise ``SiteUnavailable`` (or ``SiteFull``, ``SiteReadOnly``); a write whose fate is not known
raises ``OutcomeUnknown``; all but ``put_new`` and ``replace_if`` may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from exclave.ids import Key

MAX_OBJECT_BYTES = 64 << 20
"""Largest object that is ever put; larger ones met at a site are refused unread."""


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """One object as a listing shows it."""

    key: Key
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Tagged:
    """A small replaceable object's bytes and the tag that ``replace_if`` compares."""

    data: bytes
    tag: str


@runtime_checkable
class Readable(Protocol):
    """Any source of objects: what an outsider's verifier needs."""

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """All bytes. ``MissingObject`` if there is none, ``CorruptObject`` if longer than ``limit`` bytes."""

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``. ``MissingObject`` if there is none, ``CorruptObject`` if too short."""

    def stat(self, key: Key) -> ObjectStat | None:
        """Size of one object, or None if there is none."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """All objects whose name starts with ``prefix`` (empty, or ending in ``/``), in order of name."""


@runtime_checkable
class Site(Readable, Protocol):
    """A place that stores objects. There is no deletion here: nothing that writes versions can remove them."""

    @property
    def address(self) -> str:
        """The URL it was opened with, without secrets: for messages."""

    def put_new(self, key: Key, data: bytes) -> None:
        """Durably stores ``data`` under a name that is free; ``AlreadyExists`` if it is taken. Exactly one racer wins."""

    def put_same(self, key: Key, data: bytes) -> None:
        """Durably stores ``data``; fine if the same bytes are there already, ``CorruptObject`` if others are."""

    def read_head(self, key: Key) -> Tagged | None:
        """A replaceable object with its tag, or None if there is none. At most 64 KiB."""

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        """Replaces the object if its tag is still ``expected`` (None: if there is none); returns the new tag.

        ``HeadMoved`` if it is not. Exactly one of several racers wins.
        """

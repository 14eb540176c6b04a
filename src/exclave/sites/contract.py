"""What every site must do: keep opaque bytes under names, and never say that something is durable before it is.

A site knows no keys, no formats and no rules. Names are ``Key`` values; no name is also a folder of another name.
All methods are safe to call from several threads. Failures raise ``SiteUnavailable`` (or ``SiteFull``,
``SiteReadOnly``), with the fact ``permanent`` where the same call cannot succeed later. ``put_new`` and ``replace_if``
whose fate is not known raise ``OutcomeUnknown``: look before repeating them. All others may simply be repeated.
Page: ``docs/spec/layout.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from exclave.errors import Bug
from exclave.ids import Digest, Key, sha256

MAX_OBJECT_BYTES = 64 << 20
"""Largest object that is ever put; larger ones met at a site are refused unread."""

MAX_HEAD_BYTES = 64 << 10
"""Largest object that ``replace_if`` writes and ``read_head`` reads."""


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
        """Exactly ``length`` bytes from ``offset``. ``MissingObject`` if there is no object, ``CorruptObject`` if it
        is too short."""

    def stat(self, key: Key) -> ObjectStat | None:
        """Size of one object, or None if there is none."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """All objects whose name starts with ``prefix`` (empty, or ending in ``/``), ordered as strings.

        Whatever else lies there (files with illegal names, links, devices) is left out. What is put or removed during
        the listing may or may not be in it.
        """


@dataclass(frozen=True, slots=True)
class Digested:
    """What an object's bytes come to, without the bytes."""

    digest: Digest
    """Their SHA-256."""
    size_bytes: int
    start: bytes
    """The first ``START_BYTES`` of them, or all if they are fewer."""


START_BYTES = 64


@runtime_checkable
class Digesting(Protocol):
    """A source that hashes what it reads piece by piece: no object is ever in memory as a whole."""

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        """Fails as ``get`` does."""


def digest_of(source: Readable, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
    """The digest of an object at any source. Fails as ``get`` does."""
    if isinstance(source, Digesting):
        return source.digest(key, limit=limit)
    data = source.get(key, limit=limit)
    return Digested(sha256(data), len(data), data[:START_BYTES])


def is_far(source: Readable) -> bool:
    """Whether answers of ``source`` take a round trip over a network: it says so as ``far``, or what it is made of."""
    inner = getattr(source, "inner", None)
    parts = getattr(source, "members", ()) if inner is None else (inner,)
    return bool(getattr(source, "far", False)) or any(is_far(part) for part in parts)


Sources = Mapping[Any, Readable]
"""Sources by name: a site's label, or any other text that a person will recognise."""


@runtime_checkable
class Site(Readable, Protocol):
    """A place that stores objects. There is no deletion here: nothing that writes versions can remove them."""

    @property
    def address(self) -> str:
        """The URL it was opened with, without secrets: for messages."""

    def put_new(self, key: Key, data: bytes) -> None:
        """Durably stores ``data`` under a name that is free; ``AlreadyExists`` if it is taken.

        Exactly one of several racers wins.
        """

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        """Durably stores ``data``; fine if the same bytes are there already, ``CorruptObject`` if others are."""

    def read_head(self, key: Key) -> Tagged | None:
        """A replaceable object with its tag, or None if there is none. ``CorruptObject`` if over 64 KiB."""

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        """Replaces the object if its tag is still ``expected`` (None: if there is none); returns the new tag.

        ``HeadMoved`` if it is not. Exactly one of several racers wins.
        """

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        """Durably puts ``data`` in the place of an object whose bytes are wrong, and of no other.

        ``spoilt``: SHA-256 of the wrong bytes as the caller read them; None if what is there cannot be read as an
        object (too long, no plain file). Fine if ``data`` is there already. ``HeadMoved`` if neither is: somebody else
        repaired it, or it is gone. The caller has proven that ``data`` is right; the site compares bytes alone, so a
        good object is never replaced. A site that locks objects does it only under a name that is the SHA-256 of
        ``data``; elsewhere ``SiteUnavailable``, ``permanent``.
        """


def check_write(data: bytes | memoryview, *, limit: int = MAX_OBJECT_BYTES) -> None:
    """The caller's duty on every write: at most ``limit`` bytes. ``Bug`` if it is broken."""
    if len(data) > limit:
        raise Bug(f"an object of {len(data)} bytes was to be stored; the limit is {limit}")


def check_range(offset: int, length: int) -> None:
    """The caller's duty on ``get_range``: no negative numbers and no more than one object. ``Bug`` if it is broken."""
    if offset < 0 or not 0 <= length <= MAX_OBJECT_BYTES:
        raise Bug(f"bytes {offset}+{length} of an object were asked for")


def check_prefix(prefix: str) -> None:
    """The caller's duty on ``list``. ``Bug`` if it is broken."""
    if prefix and not prefix.endswith("/"):
        raise Bug(f"a listing was asked for {prefix!r}, which does not end in '/'")

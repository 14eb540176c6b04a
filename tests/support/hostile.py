"""Sites that fail or lie, each in one way, for any test that needs a bad host.

Each wraps a good site. ``only`` chooses the names that are treated badly; all others pass through untouched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

from exclave.errors import AlreadyExists, CorruptObject, HeadMoved, MissingObject, OutcomeUnknown, SiteUnavailable
from exclave.ids import Digest, Key
from exclave.sites.contract import MAX_HEAD_BYTES, MAX_OBJECT_BYTES, ObjectStat, Site, Tagged
from exclave.sites.memory import MemorySite

Choice = Callable[[Key], bool]


def every(key: Key) -> bool:
    """All names."""
    return True


def containing(text: str) -> Choice:
    """Names with ``text`` in them, such as ``/pack/`` or ``checkpoint``."""
    return lambda key: text in key


class PassThrough:
    """A wrapper that changes nothing; the others override what they spoil."""

    def __init__(self, inner: Site, only: Choice = every) -> None:
        self.inner = inner
        self.only = only

    @property
    def address(self) -> str:
        return self.inner.address

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self.inner.get(key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return self.inner.get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return self.inner.list(prefix)

    def put_new(self, key: Key, data: bytes) -> None:
        self.inner.put_new(key, data)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self.inner.put_same(key, data)

    def read_head(self, key: Key) -> Tagged | None:
        return self.inner.read_head(key)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        return self.inner.replace_if(key, data, expected)

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        self.inner.replace_spoilt(key, data, spoilt)


class _Rewriting(PassThrough):
    """Every way of reading shows ``rewrite(key, bytes)``; None hides the object."""

    def rewrite(self, key: Key, data: bytes) -> bytes | None:
        raise NotImplementedError

    def _shown(self, key: Key) -> bytes | None:
        try:
            data = self.inner.get(key)
        except MissingObject:
            return None
        return self.rewrite(key, data) if self.only(key) else data

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        data = self._shown(key)
        if data is None:
            raise MissingObject(f"{key} is not there")
        if len(data) > limit:
            raise CorruptObject(f"{key} is too long")
        return data

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        data = self.get(key)
        if offset + length > len(data):
            raise CorruptObject(f"{key} is too short")
        return data[offset : offset + length]

    def stat(self, key: Key) -> ObjectStat | None:
        data = self._shown(key)
        return None if data is None else ObjectStat(key, len(data))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        for item in self.inner.list(prefix):
            if not self.only(item.key):
                yield item
            elif (shown := self.stat(item.key)) is not None:
                yield shown

    def read_head(self, key: Key) -> Tagged | None:
        head = self.inner.read_head(key)
        if head is None or not self.only(key):
            return head
        data = self.rewrite(key, head.data)
        return None if data is None else Tagged(data[:MAX_HEAD_BYTES], head.tag)


class MissingSite(_Rewriting):
    """Has lost the chosen objects."""

    def rewrite(self, key: Key, data: bytes) -> bytes | None:
        return None


class TruncatingSite(_Rewriting):
    """Has lost the second half of the chosen objects."""

    def rewrite(self, key: Key, data: bytes) -> bytes | None:
        return data[: len(data) // 2]


class FlippingSite(_Rewriting):
    """Shows the chosen objects with bit ``bit`` of the byte at ``position`` flipped (from the end if negative)."""

    def __init__(self, inner: Site, only: Choice = every, *, position: int = -1, bit: int = 0) -> None:
        super().__init__(inner, only)
        self.position = position
        self.bit = bit

    def rewrite(self, key: Key, data: bytes) -> bytes | None:
        if not data:
            return data
        spoilt = bytearray(data)
        spoilt[self.position % len(data)] ^= 1 << self.bit
        return bytes(spoilt)


class SwappingSite(_Rewriting):
    """Shows another object's bytes: ``swaps`` maps the name that is asked for to the one that is shown."""

    def __init__(self, inner: Site, swaps: Mapping[Key, Key]) -> None:
        super().__init__(inner, lambda key: key in swaps)
        self.swaps = swaps

    def rewrite(self, key: Key, data: bytes) -> bytes | None:
        return self.inner.get(self.swaps[key])


class StaleSite(PassThrough):
    """From ``freeze()`` on, shows what was there then; writes go through and stay unseen."""

    def __init__(self, inner: Site) -> None:
        super().__init__(inner)
        self._then: MemorySite | None = None

    def freeze(self) -> None:
        then = MemorySite("frozen")
        for item in self.inner.list(""):
            then.put_new(item.key, self.inner.get(item.key))
        self._then = then

    def thaw(self) -> None:
        self._then = None

    def _view(self) -> Site:
        return self._then or self.inner

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self._view().get(key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return self._view().get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        return self._view().stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return self._view().list(prefix)

    def read_head(self, key: Key) -> Tagged | None:
        return self._view().read_head(key)


class LyingSite(PassThrough):
    """Says that the chosen writes are done and does none of them."""

    def put_new(self, key: Key, data: bytes) -> None:
        if not self.only(key):
            self.inner.put_new(key, data)
        elif self.inner.stat(key) is not None:
            raise AlreadyExists(f"{key} is taken")

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        if not self.only(key):
            self.inner.put_same(key, data)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        if not self.only(key):
            return self.inner.replace_if(key, data, expected)
        head = self.inner.read_head(key)
        if (head.tag if head else None) != expected:
            raise HeadMoved(f"{key} moved")
        return "0" * 64

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        if not self.only(key):
            self.inner.replace_spoilt(key, data, spoilt)


class Hiding(PassThrough):
    """Hides what ``hidden`` chooses, once a new bundle has been put here and read back."""

    def __init__(self, inner: Site, hidden: Callable[[Key], bool], *, at_once: bool = False) -> None:
        super().__init__(inner)
        self._hidden, self._put, self.hides = hidden, set[Key](), at_once

    def _gone(self, key: Key) -> bool:
        return self.hides and self._hidden(key)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self._put.add(key)
        super().put_same(key, data)

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        if self._gone(key):
            raise MissingObject(f"{key} is not there")
        data = super().get(key, limit=limit)
        self.hides = self.hides or ("/tile/entries/" in key and key in self._put)
        return data

    def stat(self, key: Key) -> ObjectStat | None:
        return None if self._gone(key) else super().stat(key)

    def read_head(self, key: Key) -> Tagged | None:
        return None if self._gone(key) else super().read_head(key)


class SlowSite(PassThrough):
    """Calls ``sleep(seconds)`` before every operation on a chosen name and every listing."""

    def __init__(self, inner: Site, only: Choice = every, *, seconds: float, sleep: Callable[[float], None]) -> None:
        super().__init__(inner, only)
        self._seconds = seconds
        self._sleep = sleep

    def _wait(self, key: Key) -> None:
        if self.only(key):
            self._sleep(self._seconds)

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self._wait(key)
        return self.inner.get(key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        self._wait(key)
        return self.inner.get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        self._wait(key)
        return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        self._sleep(self._seconds)
        return self.inner.list(prefix)

    def put_new(self, key: Key, data: bytes) -> None:
        self._wait(key)
        self.inner.put_new(key, data)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self._wait(key)
        self.inner.put_same(key, data)

    def read_head(self, key: Key) -> Tagged | None:
        self._wait(key)
        return self.inner.read_head(key)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        self._wait(key)
        return self.inner.replace_if(key, data, expected)

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        self._wait(key)
        self.inner.replace_spoilt(key, data, spoilt)


class Fault(Enum):
    """What happens to the chosen write."""

    REFUSED = "not done, and said so"
    LOST = "not done, and nobody knows"
    APPLIED = "done, and nobody knows"
    KILLED_BEFORE = "the process dies before it"
    KILLED_AFTER = "the process dies after it"


class Killed(BaseException):
    """The process was killed here. No ``except`` of the product catches it."""


class FailingSite(PassThrough):
    """Spoils the ``nth`` write (from 1) of those on chosen names; ``times`` of them in a row.

    After a kill every further call is ``Killed`` too: a dead process does nothing. ``writes`` counts the writes met,
    so a run with ``nth=0`` tells how many there are. Go on with ``inner`` after the restart.
    """

    def __init__(self, inner: Site, only: Choice = every, *, nth: int, fault: Fault, times: int = 1) -> None:
        super().__init__(inner, only)
        self.nth = nth
        self.fault = fault
        self.times = times
        self.writes = 0
        self.dead = False
        self._lock = threading.Lock()

    def _alive(self) -> None:
        if self.dead:
            raise Killed

    def _write(self, key: Key, write: Callable[[], str | None]) -> str | None:
        self._alive()
        with self._lock:
            if self.only(key):
                self.writes += 1
                hit = self.nth > 0 and self.nth <= self.writes < self.nth + self.times
            else:
                hit = False
        if not hit:
            return write()
        if self.fault in (Fault.APPLIED, Fault.KILLED_AFTER):
            write()
        if self.fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
            self.dead = True
            raise Killed
        if self.fault is Fault.REFUSED:
            raise SiteUnavailable(f"{key} was refused on purpose")
        raise OutcomeUnknown(f"the answer about {key} was lost on purpose")

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self._alive()
        return self.inner.get(key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        self._alive()
        return self.inner.get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        self._alive()
        return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        self._alive()
        return self.inner.list(prefix)

    def read_head(self, key: Key) -> Tagged | None:
        self._alive()
        return self.inner.read_head(key)

    def put_new(self, key: Key, data: bytes) -> None:
        self._write(key, lambda: self.inner.put_new(key, data))

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        try:
            self._write(key, lambda: self.inner.put_same(key, data))
        except OutcomeUnknown as error:  # as the contract says of writes that may be repeated
            raise SiteUnavailable(error.message) from error

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        tag = self._write(key, lambda: self.inner.replace_if(key, data, expected))
        assert tag is not None
        return tag

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        try:
            self._write(key, lambda: self.inner.replace_spoilt(key, data, spoilt))
        except OutcomeUnknown as error:
            raise SiteUnavailable(error.message) from error

"""A source that cannot hold a verification up: it gives up on one that keeps failing, and on one that floods."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from exclave.errors import CorruptObject, SiteUnavailable, UnavailableError
from exclave.ids import Key
from exclave.sites.contract import MAX_OBJECT_BYTES, Digested, ObjectStat, Readable, digest_of

MAX_FAILURES = 5
"""After so many failed calls a source is not asked again."""

_T = TypeVar("_T")


class GuardedSource:
    """``inner``, with its failures counted and its answers' sizes checked. Safe for several threads."""

    def __init__(self, name: str, inner: Readable) -> None:
        self.name = name
        self._inner = inner
        self._lock = threading.Lock()
        self._failures = 0
        self._last = ""

    @property
    def given_up(self) -> bool:
        """Whether it has failed so often that nothing more is asked of it."""
        return self._failures >= MAX_FAILURES

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        data = self._ask(lambda: self._inner.get(key, limit=limit))
        if len(data) > limit:
            raise CorruptObject(f"{key} is {len(data)} bytes long; at most {limit} can be right", key=key)
        return data

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        found = self._ask(lambda: digest_of(self._inner, key, limit=limit))
        if found.size_bytes > limit:
            raise CorruptObject(f"{key} is {found.size_bytes} bytes long; at most {limit} can be right", key=key)
        return found

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        data = self._ask(lambda: self._inner.get_range(key, offset, length))
        if len(data) != length:
            raise CorruptObject(f"{len(data)} bytes of {key} were shown instead of {length}", key=key)
        return data

    def stat(self, key: Key) -> ObjectStat | None:
        return self._ask(lambda: self._inner.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Without a limit of its own: whoever reads a listing knows how much of it makes sense."""
        items = self._ask(lambda: iter(self._inner.list(prefix)))
        while True:
            item = self._ask(lambda: next(items, None))
            if item is None:
                return
            yield item

    def _ask(self, call: Callable[[], _T]) -> _T:
        if self.given_up:
            raise SiteUnavailable(f"{self.name} failed {MAX_FAILURES} times and is not asked again: {self._last}")
        try:
            return call()
        except (UnavailableError, OSError) as error:
            with self._lock:
                self._failures += 1
                self._last = str(error)[:200]
            if isinstance(error, UnavailableError):
                raise
            raise SiteUnavailable(f"{self.name}: {error}") from error

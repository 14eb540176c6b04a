"""A source that cannot hold a verification up: it gives up on one that keeps failing, and on one that floods."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from exclave.errors import CorruptObject, SiteUnavailable, UnavailableError
from exclave.ids import Key
from exclave.sites.contract import MAX_OBJECT_BYTES, Digested, ObjectStat, Readable, digest_of

MAX_FAILURES = 5
"""After so many failed calls a source is not asked again."""

_T = TypeVar("_T")


class GuardedSource:
    """``inner``, with its failures counted and its answers' sizes checked. Safe for several threads."""

    def __init__(self, name: str, inner: Readable, *, beside: GuardedSource | None = None) -> None:
        """``beside``: another guard of the same source. What that one gave up is not asked here either; what fails here
        does not count there, so threads that read packs cannot change what is found out about ledgers meanwhile."""
        self.name = name
        self.inner = inner
        self._beside = beside
        self._lock = threading.Lock()
        self._failures = 0
        self._last = ""

    @property
    def given_up(self) -> bool:
        """Whether it has failed so often that nothing more is asked of it."""
        return self._failures >= MAX_FAILURES or (self._beside is not None and self._beside.given_up)

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        data = self._ask(lambda: self.inner.get(key, limit=limit))
        if len(data) > limit:
            raise CorruptObject(f"{key} is {len(data)} bytes long; at most {limit} can be right", key=key)
        return data

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        found = self._ask(lambda: digest_of(self.inner, key, limit=limit))
        if found.size_bytes > limit:
            raise CorruptObject(f"{key} is {found.size_bytes} bytes long; at most {limit} can be right", key=key)
        return found

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        data = self._ask(lambda: self.inner.get_range(key, offset, length))
        if len(data) != length:
            raise CorruptObject(f"{len(data)} bytes of {key} were shown instead of {length}", key=key)
        return data

    def stat(self, key: Key) -> ObjectStat | None:
        return self._ask(lambda: self.inner.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Without a limit of its own: whoever reads a listing knows how much of it makes sense."""
        self._refuse_if_given_up()
        try:
            for item in self.inner.list(prefix):
                yield item
                if self.given_up:
                    break
            else:
                return
        except (UnavailableError, OSError) as error:
            self._failed(error)
        self._refuse_if_given_up()

    def _ask(self, call: Callable[[], _T]) -> _T:
        self._refuse_if_given_up()
        try:
            return call()
        except (UnavailableError, OSError) as error:
            self._failed(error)

    def _refuse_if_given_up(self) -> None:
        if self.given_up:
            last = self._last or (self._beside._last if self._beside is not None else "")
            raise SiteUnavailable(f"{self.name} failed {MAX_FAILURES} times and is not asked again: {last}")

    def _failed(self, error: UnavailableError | OSError) -> NoReturn:
        with self._lock:
            self._failures += 1
            self._last = str(error)[:200]
        if isinstance(error, UnavailableError):
            raise error
        raise SiteUnavailable(f"{self.name}: {error}") from error

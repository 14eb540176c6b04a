"""Holds bulk objects to a rate that may change while they are on their way: a token bucket around a site."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from exclave.ids import Digest, Key
from exclave.sites.contract import MAX_OBJECT_BYTES, Digested, ObjectStat, Site, Tagged, digest_of

BULK_FROM_BYTES = 64 << 10
"""Smaller objects pass freely: heads, notes, cards, tiles, list nodes of small versions. Nothing waits for bulk that a
reader needs to tell what counts."""
_BURST_S = 1.0
_LOOK_S = 0.5


class TokenBucket:
    """``rate()`` bytes per second on the average, over all threads; None: no limit now.

    An object may go once there is room for a second's worth; those after it make up for what it takes beyond.
    ``clock`` and ``sleep`` are in seconds. The rate is asked again at least every half second, so a limit that begins
    or ends at the hour does so while somebody waits.
    """

    def __init__(
        self, rate: Callable[[], int | None], *, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._lock = threading.Lock()
        self._level = 0.0
        self._at = clock()
        self._limited = False

    def take(self, size_bytes: int) -> None:
        """Returns when ``size_bytes`` may go."""
        while (wait_s := self._try(size_bytes)) > 0:
            self._sleep(min(wait_s, _LOOK_S))

    def _try(self, size_bytes: int) -> float:
        """Takes them and returns 0, or the seconds after which to try again."""
        with self._lock:
            rate, now = self._rate(), self._clock()
            passed_s, self._at = now - self._at, now
            if rate is None:
                self._limited, self._level = False, 0.0
                return 0.0
            full = rate * _BURST_S
            # A limit that begins now begins with a full bucket; time before it does not count.
            self._level = min(full, self._level + passed_s * rate) if self._limited else full
            self._limited = True
            needed = min(float(size_bytes), full)
            if self._level >= needed:
                self._level -= size_bytes
                return 0.0
            return (needed - self._level) / rate


class ThrottledSite:
    """``inner``, with writes and reads of bulk objects held to ``bucket``. All else passes at once."""

    def __init__(self, inner: Site, bucket: TokenBucket) -> None:
        self.inner = inner
        self._bucket = bucket

    @property
    def address(self) -> str:
        return self.inner.address

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        data = self.inner.get(key, limit=limit)
        # How long it is, is known only now: whoever asked waits with it.
        self._settle(len(data))
        return data

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        found = digest_of(self.inner, key, limit=limit)
        self._settle(found.size_bytes)
        return found

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        self._settle(length)
        return self.inner.get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return self.inner.list(prefix)

    def read_head(self, key: Key) -> Tagged | None:
        return self.inner.read_head(key)

    def put_new(self, key: Key, data: bytes) -> None:
        self._settle(len(data))
        self.inner.put_new(key, data)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self._settle(len(data))
        self.inner.put_same(key, data)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        return self.inner.replace_if(key, data, expected)

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        self._settle(len(data))
        self.inner.replace_spoilt(key, data, spoilt)

    def _settle(self, size_bytes: int) -> None:
        if size_bytes >= BULK_FROM_BYTES:
            self._bucket.take(size_bytes)

"""A state's folder as the host's own duties write into it: within the state's quota, and counted as it is written."""

from __future__ import annotations

from collections.abc import Iterator

from exclave.ids import Digest, Key
from exclave.serve.site_contract import Usage
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat, Site, Tagged


class QuotaSite:
    """``inner``, whose writes raise ``SiteFull`` where one by the state's writer would.

    Two writers of the same new object at the same moment count it twice, until the folder is counted at the next start.
    """

    def __init__(self, inner: Site, usage: Usage) -> None:
        self._inner, self._usage = inner, usage

    @property
    def address(self) -> str:
        return self._inner.address

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self._inner.get(key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return self._inner.get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        return self._inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return self._inner.list(prefix)

    def read_head(self, key: Key) -> Tagged | None:
        return self._inner.read_head(key)

    def put_new(self, key: Key, data: bytes) -> None:
        with self._usage.room(key, len(data)) as room:
            self._inner.put_new(key, data)
            room.use()

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        if self._inner.stat(key) is not None:
            self._inner.put_same(key, data)
            return
        with self._usage.room(key, len(data)) as room:
            self._inner.put_same(key, data)
            room.use()

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        with self._usage.room(key, len(data), replaces_bytes=self._there(key)) as room:
            tag = self._inner.replace_if(key, data, expected)
            room.use()
        return tag

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        with self._usage.room(key, len(data), replaces_bytes=self._there(key) or 0) as room:
            self._inner.replace_spoilt(key, data, spoilt)
            room.use()

    def _there(self, key: Key) -> int | None:
        found = self._inner.stat(key)
        return None if found is None else found.size_bytes

"""Counts what is done at a site: operations and bytes, for receipts, metrics and tests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from exclave.errors import ExclaveError
from exclave.ids import Digest, Key
from exclave.sites.contract import MAX_OBJECT_BYTES, Digested, ObjectStat, Site, Tagged, digest_of


@dataclass(frozen=True, slots=True)
class Call:
    """One operation."""

    operation: str
    """The method's name."""
    name: str
    """The key, or the prefix of a listing."""
    read_bytes: int = 0
    written_bytes: int = 0
    failure: str = ""
    """The error's ``code``; empty if the call worked."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What was done until now."""

    operations: dict[str, int]
    """Calls by method name, failed ones included."""
    failures: dict[str, int]
    """Failed calls by the error's ``code``."""
    read_bytes: int
    written_bytes: int
    """Of writes that worked; a ``put_same`` that found its bytes there counts too."""


class RecordingSite:
    """``inner`` with counters. ``keep_calls`` also keeps every call, which grows without bound: for tests."""

    def __init__(self, inner: Site, *, keep_calls: bool = False) -> None:
        self.inner = inner
        self._lock = threading.Lock()
        self._operations: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._read_bytes = 0
        self._written_bytes = 0
        self._calls: list[Call] | None = [] if keep_calls else None

    @property
    def address(self) -> str:
        return self.inner.address

    @property
    def totals(self) -> Totals:
        with self._lock:
            return Totals(dict(self._operations), dict(self._failures), self._read_bytes, self._written_bytes)

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call in the order in which it ended; empty without ``keep_calls``."""
        with self._lock:
            return tuple(self._calls or ())

    def forget(self) -> None:
        """Starts counting anew."""
        with self._lock:
            self._operations.clear()
            self._failures.clear()
            self._read_bytes = self._written_bytes = 0
            if self._calls is not None:
                self._calls.clear()

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        with _Note(self, "get", key) as note:
            data = self.inner.get(key, limit=limit)
            note.read_bytes = len(data)
        return data

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        with _Note(self, "digest", key) as note:
            found = digest_of(self.inner, key, limit=limit)
            note.read_bytes = found.size_bytes
        return found

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        with _Note(self, "get_range", key) as note:
            data = self.inner.get_range(key, offset, length)
            note.read_bytes = len(data)
        return data

    def stat(self, key: Key) -> ObjectStat | None:
        with _Note(self, "stat", key):
            return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        with _Note(self, "list", prefix):
            yield from self.inner.list(prefix)

    def put_new(self, key: Key, data: bytes) -> None:
        with _Note(self, "put_new", key) as note:
            self.inner.put_new(key, data)
            note.written_bytes = len(data)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        with _Note(self, "put_same", key) as note:
            self.inner.put_same(key, data)
            note.written_bytes = len(data)

    def read_head(self, key: Key) -> Tagged | None:
        with _Note(self, "read_head", key) as note:
            head = self.inner.read_head(key)
            note.read_bytes = len(head.data) if head else 0
        return head

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        with _Note(self, "replace_if", key) as note:
            tag = self.inner.replace_if(key, data, expected)
            note.written_bytes = len(data)
        return tag

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        with _Note(self, "replace_spoilt", key) as note:
            self.inner.replace_spoilt(key, data, spoilt)
            note.written_bytes = len(data)

    def record(self, call: Call) -> None:
        with self._lock:
            self._operations[call.operation] += 1
            if call.failure:
                self._failures[call.failure] += 1
            self._read_bytes += call.read_bytes
            self._written_bytes += call.written_bytes
            if self._calls is not None:
                self._calls.append(call)


class _Note:
    """Records one call when it ends, however it ends."""

    def __init__(self, site: RecordingSite, operation: str, name: str) -> None:
        self._site = site
        self._operation = operation
        self._name = name
        self.read_bytes = 0
        self.written_bytes = 0

    def __enter__(self) -> _Note:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        failure = ""
        if isinstance(error, ExclaveError):
            failure = error.code
        elif error is not None and not isinstance(error, GeneratorExit):  # a listing that is not read to its end
            failure = type(error).__name__
        self._site.record(Call(self._operation, self._name, self.read_bytes, self.written_bytes, failure))

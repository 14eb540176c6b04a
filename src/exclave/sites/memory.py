"""A site in memory, for tests and dry runs, that holds callers to their duties.

Whatever another kind of site would only answer strangely is a ``Bug`` here: a name that is no ``Key``, an object over
the limit, a name that is a folder of another name, ``put_…`` on a name that ``replace_if`` made, and the reverse.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

from exclave.errors import AlreadyExists, Bug, CorruptObject, HeadMoved, MalformedError, MissingObject
from exclave.ids import Digest, Key, parse_key, sha256
from exclave.sites.contract import (
    MAX_HEAD_BYTES,
    MAX_OBJECT_BYTES,
    ObjectStat,
    Tagged,
    check_prefix,
    check_range,
    check_write,
)


class MemorySite:
    """An empty site; ``name`` only appears in messages."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._objects: dict[Key, bytes] = {}
        self._heads: set[Key] = set()
        self._folders: set[str] = set()
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"memory:{self._name}"

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        data = self._find(key)
        if data is None:
            raise MissingObject(f"{key} is not at {self.address}", key=key)
        if len(data) > limit:
            raise CorruptObject(f"{key} is {len(data)} bytes long; at most {limit} can be right", key=key)
        return data

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        check_range(offset, length)
        data = self.get(key)
        if offset + length > len(data):
            raise CorruptObject(f"{key} is too short: bytes {offset}+{length} are missing", key=key)
        return data[offset : offset + length]

    def stat(self, key: Key) -> ObjectStat | None:
        data = self._find(key)
        return None if data is None else ObjectStat(key, len(data))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        check_prefix(prefix)
        with self._lock:
            found = [ObjectStat(key, len(data)) for key, data in self._objects.items() if key.startswith(prefix)]
        yield from sorted(found, key=lambda item: item.key)

    def put_new(self, key: Key, data: bytes) -> None:
        if not self._place(key, data):
            raise AlreadyExists(f"{key} is already at {self.address}", key=key)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        if not self._place(key, data) and self.get(key) != data:
            raise CorruptObject(f"{key} at {self.address} holds other bytes", key=key)

    def read_head(self, key: Key) -> Tagged | None:
        data = self._find(key)
        if data is None:
            return None
        if len(data) > MAX_HEAD_BYTES:
            raise CorruptObject(f"{key} is {len(data)} bytes long: too long for a head", key=key)
        return Tagged(data, _tag(data))

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        check_write(data, limit=MAX_HEAD_BYTES)
        with self._lock:
            self._check_name(key)
            present = self._objects.get(key)
            if present is not None and key not in self._heads:
                raise Bug(f"{key} is write-once and was to be replaced")
            if (None if present is None else _tag(present)) != expected:
                raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
            self._heads.add(key)
            self._keep(key, data)
        return _tag(data)

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        check_write(data)
        with self._lock:
            self._check_name(key)
            present = self._objects.get(key)
            if present == data:
                return
            if key in self._heads:
                raise Bug(f"{key} is a head; only replace_if may write it")
            if present is None or sha256(present) != spoilt:
                raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
            self._keep(key, data)

    def _find(self, key: Key) -> bytes | None:
        with self._lock:
            self._check_key(key)
            return self._objects.get(key)

    def _place(self, key: Key, data: bytes | memoryview) -> bool:
        check_write(data)
        with self._lock:
            self._check_name(key)
            if key in self._heads:
                raise Bug(f"{key} is a head; only replace_if may write it")
            if key in self._objects:
                return False
            self._keep(key, data)
            return True

    def _keep(self, key: Key, data: bytes | memoryview) -> None:
        self._objects[key] = bytes(data)
        parts = key.split("/")
        self._folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))

    def _check_key(self, key: Key) -> None:
        try:
            parse_key(key)
        except MalformedError as error:
            raise Bug(f"{key!r} was used as the name of an object") from error

    def _check_name(self, key: Key) -> None:
        self._check_key(key)
        parts = key.split("/")
        if key in self._folders or any("/".join(parts[:depth]) in self._objects for depth in range(1, len(parts))):
            raise Bug(f"{key} is a folder of another object's name, or the reverse")


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""Reads a bucket with Object Lock by what must be right, whatever a thief has put on top of it.

A lock holds one *version*. Whoever has the writer's keys can still hide it under a marker or under later versions, so
nothing here goes by what is on top: under a name that is the SHA-256 of its bytes the version counts that fits; under
any other name that is written once, the oldest. Heads are shown by ``heads``; ``states`` tells all that ever were.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from exclave.errors import CorruptObject, IntegrityError, MalformedError, MissingObject, SiteUnavailable
from exclave.ids import Digest, Key, parse_digest, parse_key, sha256
from exclave.sites.bucket import BucketSite
from exclave.sites.contract import (
    MAX_HEAD_BYTES,
    MAX_OBJECT_BYTES,
    Digested,
    ObjectStat,
    Tagged,
    check_prefix,
    check_range,
)
from exclave.sites.listed import by_folders, listed
from exclave.sites.locking import is_head
from exclave.sites.s3_versions import Kept, S3Versions

_MOST_CHOSEN = 10_000
_SORTED_AT_ONCE = 10_000
LOST = "lost-"
"""Starts the tag of a head that is only in the locked bucket."""


class LockedReader:
    """``bucket`` keeps objects, ``versions`` tells of what; ``heads`` keeps heads and may be the same bucket."""

    def __init__(
        self, address: str, bucket: BucketSite, heads: BucketSite, versions: S3Versions, *,
        sorted_at_once: int = _SORTED_AT_ONCE,
    ) -> None:  # fmt: skip
        self._address = address
        self._bucket, self._heads, self._versions = bucket, heads, versions
        self._sorted_at_once = sorted_at_once
        self._chosen: OrderedDict[Key, str] = OrderedDict()
        """Versions that were found to be the ones that count."""
        self._guard = threading.Lock()

    @property
    def address(self) -> str:
        return self._address

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        if is_head(key):
            return self._head(key, limit)[0]
        name = named_by(key)
        if name is None:
            return self._bucket.fetch(key, limit, self._oldest(key).id)[0]
        wrong: bytes | None = None
        try:
            data, found = self._bucket.fetch(key, limit)
            if sha256(data) == name:
                self._choose(key, found.meta["version"])
                return data
            wrong = data
        except (MissingObject, CorruptObject):
            pass  # hidden, or something too long lies over it
        right = self._search(key, name)
        if right is not None:
            return self._bucket.fetch(key, limit, right.id)[0]
        # None of them is right: the caller gets what a site without versions would give, and finds it out.
        return wrong if wrong is not None else self._bucket.fetch(key, limit, self._oldest(key).id)[0]

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        if is_head(key):
            data = self._head(key, limit)[0]
            return Digested(sha256(data), len(data), data[:64])
        name = named_by(key)
        if name is None:
            return self._bucket.digest(key, limit=limit, version=self._oldest(key).id)
        try:
            found = self._bucket.digest(key, limit=limit)
            if found.digest == name:
                return found
        except (MissingObject, CorruptObject):
            pass
        version = self._search(key, name) or self._oldest(key)
        return self._bucket.digest(key, limit=limit, version=version.id)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        check_range(offset, length)
        if is_head(key):
            data = self._head(key, MAX_HEAD_BYTES)[0]
            if offset + length > len(data):
                raise CorruptObject(f"{key} is too short: bytes {offset}+{length} are missing", key=key)
            return data[offset : offset + length]
        version, size = self._counting(key)
        if not length and offset <= size:
            return b""
        if offset + length > size:
            raise CorruptObject(f"{key} is too short: bytes {offset}+{length} are missing", key=key)
        return self._bucket.get_range(key, offset, length, version=version)

    def stat(self, key: Key) -> ObjectStat | None:
        try:
            if is_head(key):
                return ObjectStat(key, len(self._head(key, MAX_HEAD_BYTES)[0]))
            return ObjectStat(key, self._oldest(key).size_bytes)
        except MissingObject:
            return None

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Names under which anything is kept, hidden or not; with the size of the oldest version, of a head with that
        of the newest. Sorted as ``BucketSite`` does."""
        check_prefix(prefix)
        parse_key(prefix + "x")
        return listed(by_folders(self._inside, prefix, self.address), prefix, self.address)

    def _inside(self, prefix: str) -> Iterator[ObjectStat]:
        sizes: dict[str, int] = {}
        for name, kept in self._versions.under(prefix):
            _note(sizes, name, kept)
            if len(sizes) > self._sorted_at_once:
                break
        else:
            return _sorted(sizes)
        sizes = {}
        objects, folders = self._versions.level(prefix)
        for name, kept in objects:
            _note(sizes, name, kept)
        # Deeper than the prefix, so that a listing ends.
        inner = (f for f in folders if f.startswith(prefix) and f != prefix and f.endswith("/") and _is_key(f + "x"))
        found = [*_sorted(sizes), *(ObjectStat(Key(folder), 0) for folder in inner)]
        return iter(sorted(found, key=lambda item: item.key))

    def read_head(self, key: Key) -> Tagged | None:
        try:
            data, tag = self._head(key, MAX_HEAD_BYTES)
        except MissingObject:
            return None
        return Tagged(data, tag)

    def states(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Iterator[bytes]:
        for kept in self._versions.of(key):
            if not kept.marker and kept.size_bytes <= limit:
                try:
                    yield self._bucket.fetch(key, limit, kept.id)[0]
                except IntegrityError:  # gone meanwhile, or damaged: another one may be right
                    continue

    def _head(self, key: Key, limit: int) -> tuple[bytes, str]:
        """The head and its tag. One that is gone where heads are replaced is found among the locked ones, also if that
        whole bucket is gone."""
        away: SiteUnavailable | None = None
        shown: Tagged | None = None
        try:
            shown = self._heads.read_head(key)
        except SiteUnavailable as error:
            if self._heads is self._bucket:
                raise
            away = error
        if shown is not None:
            if len(shown.data) > limit:
                raise CorruptObject(f"{key} is {len(shown.data)} bytes long; at most {limit} can be right", key=key)
            return shown.data, shown.tag
        for kept in self._versions.of(key):
            if not kept.marker:
                return self._bucket.fetch(key, limit, kept.id)[0], LOST + kept.id
        if away is not None:
            raise away
        raise MissingObject(f"{key} is not at {self.address}", key=key)

    # Which version counts

    def _oldest(self, key: Key) -> Kept:
        oldest = next((kept for kept in reversed(self._versions.of(key)) if not kept.marker), None)
        if oldest is None:
            raise MissingObject(f"{key} is not at {self.address}", key=key)
        return oldest

    def _search(self, key: Key, name: Digest) -> Kept | None:
        """The oldest version whose bytes are those that ``key`` names."""
        for kept in reversed(self._versions.of(key)):
            if kept.marker or kept.size_bytes > MAX_OBJECT_BYTES:
                continue
            try:
                if self._bucket.digest(key, version=kept.id).digest == name:
                    self._choose(key, kept.id)
                    return kept
            except IntegrityError:
                continue
        return None

    def _counting(self, key: Key) -> tuple[str, int]:
        """The version of a write-once object that counts, and its size."""
        kept = [one for one in self._versions.of(key) if not one.marker]
        if not kept:
            raise MissingObject(f"{key} is not at {self.address}", key=key)
        name = named_by(key)
        if name is None or len(kept) == 1:
            return kept[-1].id, kept[-1].size_bytes
        with self._guard:
            known = self._chosen.get(key)
        right = next((one for one in kept if one.id == known), None) or self._search(key, name) or kept[-1]
        return right.id, right.size_bytes

    def _choose(self, key: Key, version: str | None) -> None:
        with self._guard:
            if version:
                self._chosen[key] = version
            if len(self._chosen) > _MOST_CHOSEN:
                self._chosen.popitem(last=False)

    def _there(self, key: Key) -> bool:
        return any(not kept.marker for kept in self._versions.of(key))


def named_by(key: Key) -> Digest | None:
    """The SHA-256 that the last part of a name is; None if it is none."""
    try:
        return parse_digest(key.rpartition("/")[2])
    except MalformedError:
        return None


def _note(sizes: dict[str, int], name: str, kept: Kept) -> None:
    """The listing tells the newest version of a name first."""
    if not kept.marker and (name not in sizes or not is_head(Key(name))):
        sizes[name] = kept.size_bytes


def _sorted(sizes: dict[str, int]) -> Iterator[ObjectStat]:
    for name in sorted(sizes):
        if _is_key(name):
            yield ObjectStat(Key(name), sizes[name])


def _is_key(text: str) -> bool:
    try:
        parse_key(text)
    except MalformedError:
        return False
    return True

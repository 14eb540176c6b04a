"""A site in a bucket with Object Lock: nobody can delete or alter what was written, its writer no more than others.

A lock holds one *version*. Whoever has the writer's keys can still hide it under a marker or under later versions, so
nothing here goes by what is on top: under a name that is the SHA-256 of its bytes the version counts that fits; under
any other name that is written once, the oldest. Heads are replaced in ``heads``, a bucket without versions where an
engine honours conditions only there; each is copied into the locked bucket, where ``states`` finds all of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from exclave.errors import (
    AlreadyExists,
    CorruptObject,
    HeadMoved,
    IntegrityError,
    MalformedError,
    MissingObject,
    OutcomeUnknown,
    SiteUnavailable,
)
from exclave.ids import Digest, Instant, Key, parse_digest, parse_key, sha256
from exclave.sites.bucket import BucketSite
from exclave.sites.conditions import CANNOT_BE_DELETED_FROM, refusal
from exclave.sites.contract import (
    MAX_HEAD_BYTES,
    MAX_OBJECT_BYTES,
    Digested,
    ObjectStat,
    Tagged,
    check_prefix,
    check_range,
    check_write,
)
from exclave.sites.locking import is_head
from exclave.sites.s3_versions import Kept, S3Versions

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import S3Store

_DAY_US = 86_400_000_000
_MOST_CHOSEN = 10_000
_SORTED_AT_ONCE = 10_000
_LOST = "lost-"
"""Starts the tag of a head that is only in the locked bucket."""


class LockedS3Site:
    """``bucket`` keeps objects locked for ``lock_days`` days; ``heads`` keeps heads and may be the same bucket.

    ``locking``: a client of ``bucket`` for objects of so many bytes that locks what it puts until an instant.
    ``clock``: the wall clock.
    """

    def __init__(
        self,
        address: str,
        bucket: BucketSite,
        heads: BucketSite,
        versions: S3Versions,
        *,
        lock_days: int,
        locking: Callable[[Instant, int], S3Store],
        clock: Callable[[], Instant],
        sorted_at_once: int = _SORTED_AT_ONCE,
    ) -> None:
        self._address = address
        self._bucket, self._heads, self._versions = bucket, heads, versions
        self._lock_days, self._locking, self._clock = lock_days, locking, clock
        self._sorted_at_once = sorted_at_once
        self._chosen: OrderedDict[Key, str] = OrderedDict()
        """Versions that were found to be the ones that count."""
        self._guard = threading.Lock()

    @property
    def address(self) -> str:
        return self._address

    # Reading

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        if is_head(key):
            return self._head(key, limit)[0]
        name = _named_by(key)
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
        name = _named_by(key)
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
        sizes: dict[str, int] = {}
        for name, kept in self._versions.under(prefix):
            _note(sizes, name, kept)
            if len(sizes) > self._sorted_at_once:
                break
        else:
            yield from _sorted(sizes)
            return
        sizes = {}
        objects, folders = self._versions.level(prefix)
        for name, kept in objects:
            _note(sizes, name, kept)
        found = list(_sorted(sizes)) + [ObjectStat(Key(folder), -1) for folder in folders if _is_key(folder + "x")]
        for item in sorted(found, key=lambda item: item.key):
            if item.size_bytes >= 0:
                yield item
            else:
                yield from self.list(item.key)

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
                return self._bucket.fetch(key, limit, kept.id)[0], _LOST + kept.id
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
        name = _named_by(key)
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

    # Writing. Each object is one PUT that brings its lock, so no moment exists at which it lies there without one.

    def put_new(self, key: Key, data: bytes) -> None:
        check_write(data)
        if self._there(key):
            raise AlreadyExists(f"{key} is already at {self.address}", key=key)
        try:
            if self._heads is self._bucket:
                self._bucket.require_objects()
                self._put(key, data, "create")
                return
            self._claim(key, data)
        except SiteUnavailable as error:
            if error.facts.get("put"):
                raise OutcomeUnknown(error.message, key=key) from error
            raise

    def _claim(self, key: Key, data: bytes) -> None:
        """Where this bucket lets all racers win, the first one in the other bucket does; its bytes are put here."""
        try:
            # Killed after it: whoever comes next to this name finds the claim, and puts what it says.
            self._heads.put_new(key, data)
        except AlreadyExists:
            claimed = self._heads.get(key)
            if not self._there(key):
                self._put(key, claimed, "overwrite")
            if claimed != data:
                raise
            return
        self._put(key, data, "overwrite")

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        """A lock that is missing or shorter than a new one would be is set on what is there already."""
        check_write(data)
        try:
            if self._heads is self._bucket and _named_by(key) is not None:
                self._bucket.require_objects()
                self._put(key, data, "create")
                return
            if not self._there(key):
                self._put(key, data, "overwrite")
                return
        except AlreadyExists:
            pass
        except OutcomeUnknown as error:  # harmless here: repeating it finds the object, or writes it
            raise SiteUnavailable(error.message, key=key, silent=bool(error.facts.get("silent"))) from error
        try:
            same = self.get(key, limit=len(data)) == data
        except CorruptObject:
            same = False
        if not same:
            raise CorruptObject(f"{key} at {self.address} holds other bytes", key=key)
        if (self.locked_until(key) or 0) < self.lock_end():
            self.extend(key, self.lock_end())

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        check_write(data, limit=MAX_HEAD_BYTES)
        if expected is not None and expected.startswith(_LOST):
            if self._head(key, MAX_HEAD_BYTES)[1] != expected:
                raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
            expected = None
        elif expected is None and self._there(key):
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
        until = self.lock_end()
        one = self._heads is self._bucket
        store = self._locking(until, len(data)) if one else None
        with self._lockable():
            tag, result = self._heads.replace(key, data, expected, store)
        try:
            if one:
                self._check(key, result["version"], until)
            else:
                # Killed before it: the head stands and has no locked copy until the next one; its entries are locked.
                self._put(key, data, "overwrite")
        except (SiteUnavailable, OutcomeUnknown) as error:
            if error.facts.get("permanent"):
                raise
            raise OutcomeUnknown(f"{key} was replaced, but not locked: {error.message}", key=key) from error
        return tag

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        """Puts right bytes as a further version. Only under names that are the SHA-256 of their bytes: under others
        the oldest version counts, or whoever has the writer's keys could put his own in its place."""
        check_write(data)
        name = _named_by(key)
        if not self._there(key):
            raise HeadMoved(f"{key} is no longer at {self.address}", key=key)
        try:
            found: Digest | None = sha256(self.get(key))
        except CorruptObject:
            found = None
        if found == sha256(data):
            return
        if found != spoilt:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
        if name != sha256(data):
            why = "its oldest version is locked, and under this name the oldest counts"
            raise SiteUnavailable(f"{key} at {self.address} cannot be repaired: {why}", key=key, permanent=True)
        try:
            self._put(key, data, "overwrite")
        except OutcomeUnknown as error:  # repeating it finds the right bytes, or puts them
            raise SiteUnavailable(error.message, key=key, silent=bool(error.facts.get("silent"))) from error

    def _there(self, key: Key) -> bool:
        return any(not kept.marker for kept in self._versions.of(key))

    def _put(self, key: Key, data: bytes | memoryview, mode: PutMode) -> None:
        """One locked PUT, and a look whether the lock is really there."""
        until = self.lock_end()
        with self._lockable():
            result = self._bucket.put(key, data, mode, store=self._locking(until, len(data)))
        version = self._check(key, result["version"], until)
        self._choose(key, version if _named_by(key) is not None else None)

    @contextmanager
    def _lockable(self) -> Iterator[None]:
        try:
            yield
        except SiteUnavailable as error:
            if error.facts.get("permanent") and "role" not in error.facts and not self._versions.can_lock():
                raise self._refusal("Object Lock is not enabled for its bucket") from error
            raise

    def _check(self, key: Key, version: str | None, until: Instant) -> str:
        """Whether the version that was just put is locked; the version."""
        if not version:
            raise self._refusal("its bucket keeps no versions")
        try:
            lock = self._versions.lock(key, version)
        except (SiteUnavailable, MissingObject) as error:
            # Put with its lock, as far as is known: asked again when it is put again, and by every extension.
            raise SiteUnavailable(f"{key} was put, but its lock is not known: {error.message}", put=True) from error
        if lock.mode != "COMPLIANCE" or lock.until is None or lock.until < until:
            raise self._refusal(f"it says that it stored {key}, and did not lock it")
        return version

    def _refusal(self, why: str) -> SiteUnavailable:
        hint = "Make the bucket with Object Lock enabled (runbook new-site), or leave lock= out of the address."
        return refusal(self.address, CANNOT_BE_DELETED_FROM, why, hint)

    # Locks

    def lock_end(self) -> Instant:
        """The end of a day (UTC), so that few clients are needed: one for each end."""
        return Instant((self._clock() // _DAY_US + 1 + self._lock_days) * _DAY_US)

    def locked_until(self, key: Key) -> Instant | None:
        lock = self._versions.lock(key, self._held(key))
        return lock.until if lock.mode == "COMPLIANCE" else None

    def extend(self, key: Key, until: Instant) -> None:
        version = self._held(key)
        try:
            self._versions.extend(key, version, until)
        except OutcomeUnknown as error:
            raise SiteUnavailable(error.message, key=key, silent=bool(error.facts.get("silent"))) from error
        lock = self._versions.lock(key, version)
        if lock.mode != "COMPLIANCE" or lock.until is None or lock.until < until:
            raise self._refusal(f"it says that it extended the lock of {key}, and did not")

    def _held(self, key: Key) -> str:
        """The version whose lock matters: of a head the newest."""
        if not is_head(key):
            return self._counting(key)[0]
        newest = next((kept for kept in self._versions.of(key) if not kept.marker), None)
        if newest is None:
            raise MissingObject(f"{key} is not at {self.address}", key=key)
        return newest.id


def _named_by(key: Key) -> Digest | None:
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

"""A site in a bucket with Object Lock: nobody can delete or alter what was written, its writer no more than others.

Reading it is ``LockedReader``'s part. Each object is put with its lock, and looked at afterwards. Heads are replaced in
``heads``, a bucket without versions where an engine honours conditions only there; each is copied into the locked one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from exclave.errors import AlreadyExists, CorruptObject, HeadMoved, MissingObject, OutcomeUnknown, SiteUnavailable
from exclave.ids import Digest, Instant, Key, sha256
from exclave.sites.bucket import BucketSite
from exclave.sites.conditions import CANNOT_BE_DELETED_FROM, refusal
from exclave.sites.contract import MAX_HEAD_BYTES, check_write
from exclave.sites.locking import is_head
from exclave.sites.s3_by_version import LOST, LockedReader, named_by
from exclave.sites.s3_versions import S3Versions

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import S3Store

_DAY_US = 86_400_000_000


class LockedS3Site(LockedReader):
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
    ) -> None:
        super().__init__(address, bucket, heads, versions)
        self._lock_days, self._locking, self._clock = lock_days, locking, clock

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
            if self._heads is self._bucket and named_by(key) is not None:
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
        if expected is not None and expected.startswith(LOST):
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
        name = named_by(key)
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

    def _put(self, key: Key, data: bytes | memoryview, mode: PutMode) -> None:
        """One locked PUT, and a look whether the lock is really there."""
        until = self.lock_end()
        with self._lockable():
            result = self._bucket.put(key, data, mode, store=self._locking(until, len(data)))
        version = self._check(key, result["version"], until)
        self._choose(key, version if named_by(key) is not None else None)

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

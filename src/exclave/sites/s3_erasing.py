"""Erasing in a bucket: every version of an object, by its version id, so that nothing is only hidden.

boto3 does what obstore cannot: list an object's versions, remove one of them, ask for its lock. A delete without a
version id would put a marker over the object and keep its bytes; that call is never made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from exclave.errors import ConfigError, SiteReadOnly, SiteUnavailable
from exclave.ids import Instant, Key, now
from exclave.sites.erasing import Locked
from exclave.sites.open_s3 import S3Address
from exclave.sites.s3_versions import NO_ANSWER, instant_of

_TIMEOUT_S = 30
_REFUSED = frozenset({"AccessDenied", "MethodNotAllowed", "InvalidRequest", "ObjectLocked"})
"""What engines answer if a version is locked; S3 itself says AccessDenied."""
_ABSENT = frozenset({"NoSuchKey", "NoSuchVersion", "404"})


@dataclass(frozen=True, slots=True)
class _Kept:
    """One version of an object, or a marker over it."""

    id: str
    modified: Instant
    marker: bool


class S3Eraser:
    """For the site at ``address``, with the keys that it names."""

    def __init__(self, address: S3Address) -> None:
        if address.keys is None:
            raise ConfigError("erasing in a bucket needs keys, and the address says anonymous=yes")
        self._place = address.place
        self._client = boto3.client(
            "s3",
            endpoint_url=address.place.endpoint,
            region_name=address.place.region,
            aws_access_key_id=address.keys.access_key,
            aws_secret_access_key=address.keys.secret_key,
            aws_session_token=address.keys.session_token,
            verify=address.authorities or True,
            config=Config(
                s3={"addressing_style": "path"}, retries={"max_attempts": 3, "mode": "standard"},
                connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, proxies={},
            ),
        )  # fmt: skip

    def shown_since(self, key: Key) -> Instant | None:
        """The oldest version's time by the engine's clock."""
        times = [kept.modified for kept in self._kept(key) if not kept.marker]
        return min(times, default=None)

    def erase(self, key: Key) -> Locked | None:
        locked: list[Locked] = []
        found = self._kept(key)
        # Markers last: while one lies over a version, killed in between, the next run still finds both.
        for kept in sorted(found, key=lambda item: item.marker):
            if kept.marker and locked:
                break
            refused = self._remove(key, kept)
            if refused is not None:
                locked.append(refused)
        if locked:
            return max(locked, key=lambda one: (one.until is None, one.until or 0))
        if any(not kept.marker for kept in self._kept(key)):
            raise SiteUnavailable(f"{self._place.address} says that it removed {key}, and still lists it", key=key)
        return None

    def _remove(self, key: Key, kept: _Kept) -> Locked | None:
        with self._explained(key):
            try:
                self._client.delete_object(Bucket=self._place.bucket, Key=self._name(key), VersionId=kept.id)
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code in _ABSENT:
                    return None
                lock = self._lock(key, kept) if code in _REFUSED else None
                if lock is None:
                    raise
                return lock
        return None

    def _lock(self, key: Key, kept: _Kept) -> Locked | None:
        """What locks this version; None if nothing does, so that the refusal has another reason."""
        head = self._client.head_object(Bucket=self._place.bucket, Key=self._name(key), VersionId=kept.id)
        until = head.get("ObjectLockRetainUntilDate")
        if head.get("ObjectLockLegalHoldStatus") == "ON":
            return Locked(None, "the store has a legal hold on it")
        if not isinstance(until, datetime) or instant_of(until) <= now():
            return None
        mode = str(head.get("ObjectLockMode", "?"))
        return Locked(instant_of(until), f"Object Lock ({mode})")

    def _kept(self, key: Key) -> list[_Kept]:
        name, found = self._name(key), list[_Kept]()
        with self._explained(key):
            pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self._place.bucket, Prefix=name)
            for page in pages:
                for part, marker in (("Versions", False), ("DeleteMarkers", True)):
                    found += [_kept(item, marker) for item in page.get(part, ()) if item["Key"] == name]
        return found

    def _name(self, key: Key) -> str:
        return f"{self._place.prefix}/{key}" if self._place.prefix else key

    @contextmanager
    def _explained(self, key: Key) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))[:60]
            said = f"{key} at {self._place.address}: {code}"
            if code in _REFUSED or code in ("403", "Forbidden"):
                raise SiteReadOnly(
                    said, key=key, hint="Use an access key that may list and remove versions; nothing else was changed."
                ) from error
            raise SiteUnavailable(said, key=key) from error
        except BotoCoreError as error:
            raise SiteUnavailable(f"{key} at {self._place.address}: {type(error).__name__}", key=key) from error
        except NO_ANSWER as error:
            raise SiteUnavailable(f"{key} at {self._place.address}: its answer is none of S3", key=key) from error


def _kept(item: Mapping[str, Any], marker: bool) -> _Kept:
    return _Kept(str(item.get("VersionId") or "null"), instant_of(item["LastModified"]), marker)

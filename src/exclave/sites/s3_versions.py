"""The versions of objects in a bucket, and their locks: what obstore has no calls for, by boto3.

Nothing here removes anything. Each call is one request, or one for each 1000 versions; nothing is retried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from exclave.errors import SiteUnavailable
from exclave.ids import Instant, Key, parse_key
from exclave.sites.bucket_errors import explain_answer
from exclave.sites.in_time import in_time
from exclave.sites.s3 import S3Keys, S3Place

MOST_TOLD = 64
"""Of one name so many of the newest and of the oldest versions are told."""
MAX_PAGES = 100_000
"""Of one listing: a hundred million versions."""
MAX_IN_FOLDER = 1_000_000
"""Versions and folders directly in one folder, which are in memory together."""
_EPOCH_0 = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_SENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, SSLError)
NO_ANSWER = (ResponseParserError, ValueError, RuntimeError, KeyError, TypeError, OverflowError)
"""What boto3 raises, beside its own errors, for an answer that no honest engine gives: no XML, no number, no time."""
ANSWER_S = 60
"""For one answer, however it drips: a page of versions is some 500 KiB."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One version of an object, or a marker over it."""

    id: str
    modified: Instant
    """By the engine's clock."""
    size_bytes: int
    marker: bool


@dataclass(frozen=True, slots=True)
class Lock:
    """What holds one version."""

    mode: str
    """``COMPLIANCE`` or ``GOVERNANCE``; empty if there is no retention."""
    until: Instant | None
    held: bool
    """A legal hold of the store."""


def open_client(place: S3Place, keys: S3Keys | None, authorities: str, timeout_s: float) -> Any:
    """A boto3 client in which nothing depends on the process's environment. ``authorities``: a file, or empty."""
    config = Config(
        s3={"addressing_style": "path"}, retries={"total_max_attempts": 1, "mode": "standard"}, proxies={},
        connect_timeout=min(5, timeout_s), read_timeout=timeout_s, max_pool_connections=32,
        **({} if keys else {"signature_version": UNSIGNED}),
    )  # fmt: skip
    return boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        region_name=place.region,
        aws_access_key_id=keys.access_key if keys else None,
        aws_secret_access_key=keys.secret_key if keys else None,
        aws_session_token=keys.session_token if keys else None,
        verify=authorities or True,
        config=config,
    )


class S3Versions:
    """For the bucket and prefix at ``place``."""

    def __init__(self, place: S3Place, client: Any, *, within_s: float = ANSWER_S) -> None:
        """``within_s``: for one answer."""
        self._place = place
        self._client = client
        self._within_s = within_s

    def of(self, key: Key) -> tuple[Kept, ...]:
        """What is kept under ``key``, the newest first: all, or the newest and the oldest ``MOST_TOLD``."""
        parse_key(key)
        newest: list[Kept] = []
        oldest: deque[Kept] = deque(maxlen=MOST_TOLD)
        for name, kept in self.under(key):
            if name != key:
                continue
            if len(newest) < MOST_TOLD:
                newest.append(kept)
            else:
                oldest.append(kept)
        return (*newest, *oldest)

    def under(self, prefix: str) -> Iterator[tuple[str, Kept]]:
        """Every version whose name starts with ``prefix``; of each name the newest first, markers apart."""
        for page in self._pages(Prefix=self._name(prefix)):
            yield from self._told(page, prefix)

    def level(self, prefix: str) -> tuple[list[tuple[str, Kept]], list[str]]:
        """As ``under``, only those directly in the folder ``prefix``, and its sub-folders."""
        found: list[tuple[str, Kept]] = []
        folders: set[str] = set()
        for page in self._pages(Prefix=self._name(prefix), Delimiter="/"):
            found += self._told(page, prefix)
            folders |= {str(item.get("Prefix", "")) for item in page.get("CommonPrefixes", ())}
            if len(found) + len(folders) > MAX_IN_FOLDER:
                said = f"{self._place.address} tells more than {MAX_IN_FOLDER} versions in one folder"
                raise SiteUnavailable(said, permanent=True)
        start = len(self._name(""))
        return found, sorted(folder[start:] for folder in folders)

    def lock(self, key: Key, version: str) -> Lock:
        """What locks that version, as the engine says."""
        head = self._ask(key, partial(self._client.head_object, Key=self._name(key), VersionId=version))
        until = head.get("ObjectLockRetainUntilDate")
        mode = str(head.get("ObjectLockMode") or "")[:20]
        ends = instant_of(until) if isinstance(until, datetime) else None
        return Lock(mode, ends, head.get("ObjectLockLegalHoldStatus") == "ON")

    def extend(self, key: Key, version: str, until: Instant) -> None:
        """Locks that version in compliance mode until ``until``. Harmless to repeat."""
        retention = {"Mode": "COMPLIANCE", "RetainUntilDate": _EPOCH_0 + timedelta(microseconds=until)}
        call = partial(
            self._client.put_object_retention, Key=self._name(key), VersionId=version, Retention=retention
        )  # fmt: skip
        self._ask(key, call, writing=True)

    def can_lock(self) -> bool:
        """Whether Object Lock is on for the bucket; True if these keys may not ask."""
        try:
            ask = partial(self._client.get_object_lock_configuration, Bucket=self._place.bucket)
            answer = in_time(self._within_s, ask, "the engine")
        except ClientError as error:
            return str(error.response.get("Error", {}).get("Code", "")) != "ObjectLockConfigurationNotFoundError"
        except (BotoCoreError, SiteUnavailable, *NO_ANSWER):
            return True
        return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")

    def _told(self, page: dict[str, Any], prefix: str) -> Iterator[tuple[str, Kept]]:
        """One page's versions, the newest of a name first, and after them the markers, which engines list apart."""
        start, found = len(self._name("")), list[tuple[str, Kept]]()
        try:
            for part, marker in (("Versions", False), ("DeleteMarkers", True)):
                for item in page.get(part, ()):
                    version, modified = str(item.get("VersionId") or "null"), instant_of(item["LastModified"])
                    size = max(0, int(item.get("Size", 0)))
                    found.append((str(item["Key"])[start:], Kept(version, modified, size, marker)))
        except NO_ANSWER as error:
            said = f"{self._place.address} tells of a version without name or time"
            raise SiteUnavailable(said, permanent=True) from error
        if not all(name.startswith(prefix) for name, _ in found):
            raise SiteUnavailable(f"{self._place.address} tells of versions that were not asked for", permanent=True)
        return iter(found)

    def _pages(self, **asked: str) -> Iterator[dict[str, Any]]:
        """Engines may tell less than 1000 on a page, or nothing; so pages are counted, and none may lead to itself."""
        after: dict[str, str] = {}
        for _ in range(MAX_PAGES):
            page = self._ask(Key(asked["Prefix"]), partial(self._client.list_object_versions, **asked, **after))
            yield page
            if not page.get("IsTruncated"):
                return
            following = {name: page.get(f"Next{name}") for name in ("KeyMarker", "VersionIdMarker")}
            before, after = after, {name: str(value) for name, value in following.items() if value}
            if after == before:
                break
        raise SiteUnavailable(f"the list of versions at {self._place.address} has no end", permanent=True)

    def _name(self, key: str) -> str:
        return f"{self._place.prefix}/{key}" if self._place.prefix else key

    def _ask(self, key: Key, call: Callable[..., dict[str, Any]], *, writing: bool = False) -> dict[str, Any]:
        """One request. A socket's own timeout begins anew with each byte."""
        with self._explained(key, writing=writing):
            who = f"the engine at {self._place.address}"
            return in_time(self._within_s, lambda: call(Bucket=self._place.bucket), who)

    @contextmanager
    def _explained(self, key: Key, *, writing: bool) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            told = error.response.get("Error", {})
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = "".join(c for c in str(told.get("Code", "")) if c.isalnum())[:60]
            why = "".join(c for c in str(told.get("Message", "")) if c.isprintable())[:200]
            raise explain_answer(
                status, code, why, key, self._place.address, writing=writing, condition_failed=False, sent=True
            ) from error
        except (BotoCoreError, *NO_ANSWER) as error:
            raise explain_answer(
                0, "", type(error).__name__, key, self._place.address, writing=writing, condition_failed=False,
                sent=not isinstance(error, _NOT_SENT),
            ) from error  # fmt: skip


def instant_of(moment: datetime) -> Instant:
    """``moment`` is in UTC where an engine names no zone."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Instant((moment - _EPOCH_0) // timedelta(microseconds=1))

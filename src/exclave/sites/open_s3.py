"""From an ``s3:`` address to the site.

::

    s3://bucket/prefix?…        a bucket; the parameters are
        endpoint=https://host:port   default: AWS in the region
        region=eu-north-1            default: us-east-1
        credentials=/path.toml       private file (mode 600) with access_key and secret_key; default: the environment
                                     variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN
        authorities=/path.pem        certificates to trust beside the system's
        anonymous=yes                requests without signature, for reading public buckets
        lock=compliance              the bucket has Object Lock: objects are put locked, and read by version
        lock_days=365                for so many days
        heads=other-bucket           where heads are replaced, if the engine honours no conditions in the locked bucket
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

from exclave.errors import ConfigError, MalformedError
from exclave.ids import Instant, instant_text, now, parse_positive
from exclave.sites.address import read_endpoint, read_file, read_parameters, read_prefix, read_secrets
from exclave.sites.contract import Site
from exclave.sites.patience import Patience
from exclave.sites.retry import RetryingSite
from exclave.sites.s3 import S3Keys, S3Place, S3Site, open_store

if TYPE_CHECKING:
    from obstore.store import S3Store

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,40}\Z")
_PARAMETERS = ("endpoint", "region", "credentials", "authorities", "anonymous", "lock", "lock_days", "heads")
_MOST_LOCK_DAYS = 36_500
_SMALL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class S3Address:
    """What an ``s3:`` address says."""

    place: S3Place
    keys: S3Keys | None
    authorities: str
    """File with certificates to trust; empty if none is named."""
    lock_days: int = 0
    """For how long objects are locked; 0: they are not."""
    heads: str = ""
    """The bucket in which heads are replaced, if it is another one."""

    @property
    def address(self) -> str:
        """Without secrets."""
        lock = f"&lock=compliance&lock_days={self.lock_days}" if self.lock_days else ""
        return f"{self.place.address}{lock}{f'&heads={self.heads}' if self.heads else ''}"


def open_s3(parts: SplitResult, environment: Mapping[str, str], patience: Patience) -> Site:
    """The site at an ``s3:`` address."""
    return open_read_s3(read_s3(parts, environment), patience)


def open_read_s3(found: S3Address, patience: Patience) -> Site:
    """The site at an address that was read already."""
    site = _open_locked(found, patience) if found.lock_days else _open_bucket(found, found.place, patience)
    return RetryingSite(site, sleep=time.sleep, clock=time.monotonic, spread=random.random, policy=patience.policy)


def _open_bucket(found: S3Address, place: S3Place, patience: Patience) -> S3Site:
    return S3Site(
        place, found.keys, authorities=_authorities(found), small_timeout_s=patience.small_timeout_s,
        large_timeout_s=patience.large_timeout_s,
    )  # fmt: skip


def _authorities(found: S3Address) -> bytes | None:
    return read_file(found.authorities, private=False) if found.authorities else None


def _open_locked(found: S3Address, patience: Patience) -> Site:
    try:
        # Loaded here alone: whoever has no locked bucket does without boto3.
        versions, locked = (import_module(f"exclave.sites.{name}") for name in ("s3_versions", "s3_locked"))
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a bucket with lock= needs boto3, which is not installed",
            hint="Install exclave with its extra: pip install 'exclave[objectlock]'.",
        ) from error
    bucket = _open_bucket(found, found.place, patience)
    heads = _open_bucket(found, replace(found.place, bucket=found.heads), patience) if found.heads else bucket
    client = versions.open_client(found.place, found.keys, found.authorities, patience.small_timeout_s)
    site: Site = locked.LockedS3Site(
        found.address, bucket, heads, versions.S3Versions(found.place, client), lock_days=found.lock_days,
        locking=_Lockers(found, patience).until, clock=now,
    )  # fmt: skip
    return site


class _Lockers:
    """Clients that lock what they put: obstore signs headers that belong to a client, so there is one for each end."""

    def __init__(self, found: S3Address, patience: Patience) -> None:
        self._found, self._patience = found, patience
        self._lock = threading.Lock()
        self._stores: dict[tuple[Instant, bool], S3Store] = {}

    def until(self, end: Instant, size_bytes: int) -> S3Store:
        """A client for objects of ``size_bytes`` that locks them until ``end``."""
        small = size_bytes <= _SMALL_BYTES
        with self._lock:
            if (end, small) not in self._stores:
                # Those of a day that is over are not needed again.
                self._stores = {known: store for known, store in self._stores.items() if known[0] == end}
                headers = {
                    "x-amz-object-lock-mode": "COMPLIANCE",
                    "x-amz-object-lock-retain-until-date": instant_text(end).replace(".000000", ""),
                }
                timeout_s = self._patience.small_timeout_s if small else self._patience.large_timeout_s
                self._stores[end, small] = open_store(
                    self._found.place, self._found.keys, _authorities(self._found), timeout_s, headers
                )
            return self._stores[end, small]


def read_s3(parts: SplitResult, environment: Mapping[str, str]) -> S3Address:
    """The parts of an ``s3:`` address; reads the file with the keys. ``ConfigError``, ``KeyFileExposed``."""
    prefix = read_prefix(parts)
    if not _BUCKET.match(parts.netloc):
        raise ConfigError(f"not the name of a bucket: {parts.netloc!r}")
    query = read_parameters(parts.query, _PARAMETERS)
    region = query.get("region", "us-east-1")
    if not _REGION.match(region):
        raise ConfigError(f"not the name of a region: {region!r}")
    endpoint = read_endpoint(query.get("endpoint", f"https://s3.{region}.amazonaws.com"))
    place = S3Place(parts.netloc, prefix, endpoint, region)
    lock_days, heads = _lock(query, parts.netloc)
    return S3Address(place, _keys(query, environment), query.get("authorities", ""), lock_days, heads)


def _lock(query: Mapping[str, str], bucket: str) -> tuple[int, str]:
    heads = query.get("heads", "")
    if "lock" not in query:
        if "lock_days" in query or heads:
            raise ConfigError("lock_days= and heads= belong to an address with lock=compliance")
        return 0, ""
    if query["lock"] != "compliance":
        raise ConfigError(
            f"lock={query['lock'][:40]} is not possible: lock=compliance is; other modes can be lifted with a key"
        )
    try:
        days = parse_positive(query.get("lock_days", ""), limit=_MOST_LOCK_DAYS)
    except MalformedError as error:
        raise ConfigError(f"lock=compliance needs lock_days=, a number from 1 to {_MOST_LOCK_DAYS}") from error
    if heads == bucket or ("heads" in query and not _BUCKET.match(heads)):
        raise ConfigError("heads= names another bucket than the locked one")
    return days, heads


def _keys(query: Mapping[str, str], environment: Mapping[str, str]) -> S3Keys | None:
    if "anonymous" in query:
        if query["anonymous"] != "yes" or "credentials" in query:
            raise ConfigError("anonymous=yes stands alone, without credentials")
        return None
    if "credentials" in query:
        values = read_secrets(query["credentials"], ("access_key", "secret_key"))
        return S3Keys(values["access_key"], values["secret_key"])
    access_key, secret_key = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        raise ConfigError(
            "no keys for the bucket",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or add credentials=/path/of/file to the address.",
        )
    return S3Keys(access_key, secret_key, environment.get("AWS_SESSION_TOKEN") or None)

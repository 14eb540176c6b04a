"""From an ``s3:`` address to the site.

::

    s3://bucket/prefix?…        a bucket; the parameters are
        endpoint=https://host:port   default: AWS in the region
        region=eu-north-1            default: us-east-1
        credentials=/path.toml       private file (mode 600) with access_key and secret_key; default: the environment
                                     variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN
        authorities=/path.pem        certificates to trust beside the system's
        anonymous=yes                requests without signature, for reading public buckets
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult

from exclave.errors import ConfigError
from exclave.sites.address import read_endpoint, read_file, read_parameters, read_prefix, read_secrets
from exclave.sites.contract import Site
from exclave.sites.patience import Patience
from exclave.sites.retry import RetryingSite
from exclave.sites.s3 import S3Keys, S3Place, S3Site

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,40}\Z")
_PARAMETERS = ("endpoint", "region", "credentials", "authorities", "anonymous")


@dataclass(frozen=True, slots=True)
class S3Address:
    """What an ``s3:`` address says."""

    place: S3Place
    keys: S3Keys | None
    authorities: str
    """File with certificates to trust; empty if none is named."""


def open_s3(parts: SplitResult, environment: Mapping[str, str], patience: Patience) -> Site:
    """The site at an ``s3:`` address."""
    found = read_s3(parts, environment)
    authorities = read_file(found.authorities, private=False) if found.authorities else None
    bucket = S3Site(
        found.place, found.keys, authorities=authorities, small_timeout_s=patience.small_timeout_s,
        large_timeout_s=patience.large_timeout_s,
    )  # fmt: skip
    return RetryingSite(bucket, sleep=time.sleep, clock=time.monotonic, spread=random.random, policy=patience.policy)


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
    return S3Address(place, _keys(query, environment), query.get("authorities", ""))


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

"""Both S3 engines of the tests as one kind of value, with buckets of each sort, and raw clients for thieves."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from support import ceph, seaweed
from support.ceph import Ceph
from support.seaweed import Seaweed

LOCK_DAYS = 30
_SHARED: dict[tuple[str, str], str] = {}
"""One bucket of each sort for an engine, by its address: tests that spoil nothing share them, each below its prefix."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An S3 engine with the keys that home has."""

    name: str
    """``seaweedfs`` or ``ceph``."""
    endpoint: str
    access_key: str
    secret_key: str

    def client(self) -> Any:
        """A raw client, with which home's keys can do whatever S3 offers."""
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={}),
        )  # fmt: skip

    def as_writer(self) -> Engine:
        """The same engine, with the keys that the runbook gives a writer."""
        made = ceph if self.name == "ceph" else seaweed
        return Engine(self.name, self.endpoint, made.WRITER_KEY, made.WRITER_SECRET)

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def credentials_file(self, folder: Path) -> Path:
        """Writes a private credentials file and returns its path."""
        path = folder / f"{self.name}.toml"
        path.touch(mode=0o600)
        path.write_text(f'access_key = "{self.access_key}"\nsecret_key = "{self.secret_key}"\n')
        return path

    def shared(self, sort: str) -> str:
        """The bucket of a sort (``plain``, ``locked``) that tests share."""
        key = (self.endpoint, sort)
        if key not in _SHARED:
            _SHARED[key] = self.locked_bucket() if sort == "locked" else self.plain_bucket()
        return _SHARED[key]

    def plain_bucket(self) -> str:
        """A new bucket without versions."""
        name = f"plain-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def locked_bucket(self) -> str:
        """A new bucket with Object Lock and no default retention."""
        name = f"locked-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
        return name

    def url(self, bucket: str, prefix: str = "", **more: str) -> str:
        """Address of a site there; ``more``: further parameters."""
        query = "&".join(f"{name}={value}" for name, value in more.items())
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region=us-east-1{'&' if query else ''}{query}"

    def locked_url(self, prefix: str = "", *, new: bool = False, **more: str) -> str:
        """Address of a site in a locked bucket, with heads where this engine can keep them; ``new``: in its own."""
        heads = {}
        if self.name == "ceph":
            heads = {"heads": self.plain_bucket() if new else self.shared("plain")}
        bucket = self.locked_bucket() if new else self.shared("locked")
        return self.url(bucket, prefix, lock="compliance", lock_days=str(LOCK_DAYS), **heads, **more)


def engine_of(running: Seaweed | Ceph) -> Engine:
    if isinstance(running, Ceph):
        return Engine("ceph", running.endpoint, ceph.ACCESS_KEY, ceph.SECRET_KEY)
    return Engine("seaweedfs", running.endpoint, seaweed.ACCESS_KEY, seaweed.SECRET_KEY)

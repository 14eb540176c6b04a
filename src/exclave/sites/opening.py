"""From a site's URL to the site.

::

    dir:/absolute/path          a folder (also just /absolute/path)
    s3://bucket/prefix?…        a bucket; the parameters are
        endpoint=https://host:port   default: AWS in the region
        region=eu-north-1            default: us-east-1
        credentials=/path.toml       private file (mode 600) with access_key and secret_key; default: the environment
                                     variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN
        authorities=/path.pem        certificates to trust beside the system's
        anonymous=yes                requests without signature, for reading public buckets
"""

from __future__ import annotations

import os
import random
import re
import stat
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, urlsplit

from exclave.errors import ConfigError, KeyFileExposed, MalformedError
from exclave.ids import parse_key
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.sites.retry import RetryingSite, RetryPolicy
from exclave.sites.s3 import LARGE_TIMEOUT_S, SMALL_TIMEOUT_S, S3Keys, S3Place, S3Site

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,40}\Z")
_PARAMETERS = {"endpoint", "region", "credentials", "authorities", "anonymous"}
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a site over a network."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    small_timeout_s: float = SMALL_TIMEOUT_S
    """For one request of at most 1 MiB; also what a connection costs that was open when the line was cut."""
    large_timeout_s: float = LARGE_TIMEOUT_S


USUAL = Patience()


def open_site(url: str, environment: Mapping[str, str] | None = None, patience: Patience = USUAL) -> Site:
    """The site at ``url``; nothing is contacted yet. ``ConfigError`` if the URL cannot be one.

    Sites over a network come with ``RetryingSite`` around them. ``environment`` replaces the process's own.
    """
    if url.startswith("/"):
        return DirectorySite(url)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError("a site's address is not a URL") from error
    if parts.scheme == "dir":
        path = url.removeprefix("dir:")
        if not path.startswith("/") or path.startswith("//"):
            raise ConfigError(f"a folder is written dir:/absolute/path, not {url!r}")
        return DirectorySite(path)
    if parts.scheme == "s3":
        bucket = _open_s3(parts, os.environ if environment is None else environment, patience)
        return RetryingSite(
            bucket, sleep=time.sleep, clock=time.monotonic, spread=random.random, policy=patience.policy
        )
    raise ConfigError(f"unknown kind of site {parts.scheme!r}: an address starts with dir: or s3:")


def _open_s3(parts: SplitResult, environment: Mapping[str, str], patience: Patience) -> S3Site:
    found = read_s3(parts, environment)
    authorities = _read_file(found.authorities, private=False) if found.authorities else None
    return S3Site(
        found.place, found.keys, authorities=authorities, small_timeout_s=patience.small_timeout_s,
        large_timeout_s=patience.large_timeout_s,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class S3Address:
    """What an ``s3:`` address says."""

    place: S3Place
    keys: S3Keys | None
    authorities: str
    """File with certificates to trust; empty if none is named."""


def read_s3(parts: SplitResult, environment: Mapping[str, str]) -> S3Address:
    """The parts of an ``s3:`` address; reads the file with the keys. ``ConfigError``, ``KeyFileExposed``."""
    if "@" in parts.netloc:
        raise ConfigError("keys do not belong into a site's address; use credentials=/path/of/file")
    if not _BUCKET.match(parts.netloc):
        raise ConfigError(f"not the name of a bucket: {parts.netloc!r}")
    if parts.fragment:
        raise ConfigError("a site's address has no part after '#'")
    prefix = parts.path.strip("/")
    try:
        if prefix:
            parse_key(prefix)
    except MalformedError as error:
        raise ConfigError(f"not a prefix for object names: {prefix!r}") from error
    query = _parameters(parts.query)
    region = query.get("region", "us-east-1")
    if not _REGION.match(region):
        raise ConfigError(f"not the name of a region: {region!r}")
    place = S3Place(
        parts.netloc, prefix, _endpoint(query.get("endpoint", f"https://s3.{region}.amazonaws.com")), region
    )
    return S3Address(place, _keys(query, environment), query.get("authorities", ""))


def _parameters(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=len(_PARAMETERS))
    except ValueError as error:
        raise ConfigError("the parameters of a site's address are not of the form name=value&…") from error
    query = dict(pairs)
    if unknown := query.keys() - _PARAMETERS:
        raise ConfigError(f"unknown parameter {min(unknown)!r} in a site's address")
    if len(query) != len(pairs):
        raise ConfigError("a parameter stands twice in a site's address")
    return query


def _endpoint(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise ConfigError("the endpoint of a site is not a URL") from error
    if "@" in parts.netloc:
        raise ConfigError("keys do not belong into an endpoint")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"an endpoint looks like https://host:port, not {text!r}")
    return text.rstrip("/")


def _keys(query: Mapping[str, str], environment: Mapping[str, str]) -> S3Keys | None:
    if "anonymous" in query:
        if query["anonymous"] != "yes" or "credentials" in query:
            raise ConfigError("anonymous=yes stands alone, without credentials")
        return None
    if "credentials" in query:
        return _keys_from_file(query["credentials"])
    access_key, secret_key = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        raise ConfigError(
            "no keys for the bucket",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or add credentials=/path/of/file to the address.",
        )
    return S3Keys(access_key, secret_key, environment.get("AWS_SESSION_TOKEN") or None)


def _keys_from_file(path: str) -> S3Keys:
    try:
        values = tomllib.loads(_read_file(path, private=True).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # Without the parser's words, which could quote the secret.
        raise ConfigError(f"{path} is not a TOML file") from error
    if values.keys() != {"access_key", "secret_key"} or not all(isinstance(v, str) and v for v in values.values()):
        raise ConfigError(f"{path} must hold access_key and secret_key, each a text, and nothing else")
    return S3Keys(values["access_key"], values["secret_key"])


def _read_file(path: str, *, private: bool) -> bytes:
    if not os.path.isabs(path):
        raise ConfigError(f"a file in a site's address needs an absolute path, not {path!r}")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_FILE:
                raise ConfigError(f"{path} is not a small plain file")
            if private and found.st_mode & 0o077:
                raise KeyFileExposed(f"{path} can be read by others", path=path)
            return file.read(_LARGEST_FILE)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error

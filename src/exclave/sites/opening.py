"""From a site's address to the site, by the address's scheme. Each kind's own page is its ``open_KIND`` module.

::

    dir:/absolute/path          a folder (also just /absolute/path)
    s3://bucket/prefix?…        a bucket: ``open_s3``
    az://container/prefix?…     a container of Azure Blob Storage: ``open_azure``
    gs://bucket/prefix?…        a bucket of Google Cloud Storage: ``open_gcs``
    https://host:port/FINGERPRINT?…  a host that runs `exclave serve site`: ``open_gateway``
    web:https://host/path?…     a site's folder behind any web server, for reading: ``open_web``
    coded:K?member=…&member=…   several of these, any K of which are enough: ``open_coded``
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, urlsplit

from exclave.errors import ConfigError
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.sites.patience import USUAL, Patience

_Opener = Callable[[SplitResult, Mapping[str, str], Patience], Site]


_NETWORK = ("az", "gs", "https", "s3", "web")


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
    if parts.scheme == "coded":
        return _open_coded(url, environment, patience)
    if parts.scheme not in _NETWORK:
        known = ", ".join(f"{scheme}:" for scheme in ("dir", *_NETWORK, "coded"))
        raise ConfigError(f"unknown kind of site {parts.scheme!r}: an address starts with one of {known}")
    return _opener(parts.scheme)(parts, os.environ if environment is None else environment, patience)


def _opener(scheme: str) -> _Opener:
    """How a kind of site over a network is opened; such a site retries by itself. Each kind is loaded when an address
    names it: an HTTP client takes longer to load than a folder to be checked."""
    if scheme == "az":
        from exclave.sites.open_azure import open_azure as opener  # noqa: PLC0415
    elif scheme == "gs":
        from exclave.sites.open_gcs import open_gcs as opener  # noqa: PLC0415
    elif scheme == "https":
        from exclave.sites.open_gateway import open_gateway as opener  # noqa: PLC0415
    elif scheme == "s3":
        from exclave.sites.open_s3 import open_s3 as opener  # noqa: PLC0415
    else:
        from exclave.sites.open_web import open_web as opener  # noqa: PLC0415
    return opener


def _open_coded(url: str, environment: Mapping[str, str] | None, patience: Patience) -> Site:
    """Several sites as one."""
    from exclave.sites.coded import CodedSite  # noqa: PLC0415 - see ``_opener``
    from exclave.sites.coded_locking import LockingCodedSite, locks_enough  # noqa: PLC0415
    from exclave.sites.open_coded import read_coded  # noqa: PLC0415

    address = read_coded(url)
    members = [open_site(one, environment, patience) for one in address.members]
    kind = LockingCodedSite if locks_enough(members, address.k) else CodedSite
    return kind(members, address.k, address.need)

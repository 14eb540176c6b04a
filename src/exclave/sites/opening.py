"""From a site's address to the site, by the address's scheme. Each kind's own page is its ``open_KIND`` module.

::

    dir:/absolute/path          a folder (also just /absolute/path)
    s3://bucket/prefix?…        a bucket: ``open_s3``
    az://container/prefix?…     a container of Azure Blob Storage: ``open_azure``
    gs://bucket/prefix?…        a bucket of Google Cloud Storage: ``open_gcs``
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, urlsplit

from exclave.errors import ConfigError
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.sites.open_azure import open_azure
from exclave.sites.open_gcs import open_gcs
from exclave.sites.open_s3 import open_s3
from exclave.sites.patience import USUAL, Patience

_Opener = Callable[[SplitResult, Mapping[str, str], Patience], Site]

_BY_SCHEME: dict[str, _Opener] = {
    "az": open_azure,
    "gs": open_gcs,
    "s3": open_s3,
}
"""How each kind of site over a network is opened: address, environment, patience. Such a site retries by itself."""


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
    opener = _BY_SCHEME.get(parts.scheme)
    if opener is None:
        known = ", ".join(f"{scheme}:" for scheme in ("dir", *_BY_SCHEME))
        raise ConfigError(f"unknown kind of site {parts.scheme!r}: an address starts with one of {known}")
    return opener(parts, os.environ if environment is None else environment, patience)

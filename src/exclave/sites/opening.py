"""From a site's address to the site, by the address's scheme. Each kind's own page is its ``open_KIND`` module.

::

    dir:/absolute/path          a folder (also just /absolute/path)
    s3://bucket/prefix?…        a bucket: ``open_s3``
    az://container/prefix?…     a container of Azure Blob Storage: ``open_azure``
    gs://bucket/prefix?…        a bucket of Google Cloud Storage: ``open_gcs``
    https://host:port/FINGERPRINT?…  a host that runs `exclave serve site`: ``open_gateway``
    web:https://host/path?…     a site's folder behind any web server, for reading: ``open_web``
    coded:K?member=…&member=…   several of these, any K of which are enough: ``coded``
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, parse_qsl, urlsplit

from exclave.errors import ConfigError
from exclave.sites.coded import CodedSite
from exclave.sites.coded_form import MAX_MEMBERS
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.sites.open_azure import open_azure
from exclave.sites.open_gateway import open_gateway
from exclave.sites.open_gcs import open_gcs
from exclave.sites.open_s3 import open_s3
from exclave.sites.patience import USUAL, Patience

_Opener = Callable[[SplitResult, Mapping[str, str], Patience], Site]


def _open_web(parts: SplitResult, environment: Mapping[str, str], patience: Patience) -> Site:
    from exclave.sites.open_web import open_web  # noqa: PLC0415 - httpx takes longer than a backup without changes

    return open_web(parts, environment, patience)


_BY_SCHEME: dict[str, _Opener] = {
    "az": open_azure,
    "gs": open_gcs,
    "https": open_gateway,
    "s3": open_s3,
    "web": _open_web,
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
    if parts.scheme == "coded":
        return _open_coded(parts, environment, patience)
    opener = _BY_SCHEME.get(parts.scheme)
    if opener is None:
        known = ", ".join(f"{scheme}:" for scheme in ("dir", *_BY_SCHEME, "coded"))
        raise ConfigError(f"unknown kind of site {parts.scheme!r}: an address starts with one of {known}")
    return opener(parts, os.environ if environment is None else environment, patience)


def _open_coded(parts: SplitResult, environment: Mapping[str, str] | None, patience: Patience) -> Site:
    """Several sites as one. The order of the members belongs to the address."""
    try:
        asked = parse_qsl(parts.query, strict_parsing=True, max_num_fields=MAX_MEMBERS)
    except ValueError as error:
        raise ConfigError("a coded site is written coded:2?member=ADDRESS&member=ADDRESS&member=ADDRESS") from error
    members = [address for name, address in asked if name == "member"]
    k = int(parts.path) if parts.path.isascii() and parts.path.isdigit() and len(parts.path) < 3 else 0
    if len(members) != len(asked) or len(set(members)) != len(members) or not k:
        raise ConfigError("a coded site is written coded:2?member=ADDRESS&member=ADDRESS&member=ADDRESS, all different")
    if any(address.startswith("coded:") for address in members):
        raise ConfigError("a member of a coded site cannot be a coded site itself")
    return CodedSite([open_site(address, environment, patience) for address in members], k)

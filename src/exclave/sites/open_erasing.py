"""From a site's URL to the power to erase there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import cast
from urllib.parse import urlsplit

from exclave.errors import ConfigError
from exclave.sites.directory import DirectorySite
from exclave.sites.erasing import DirectoryEraser, ErasingSite
from exclave.sites.open_s3 import read_s3
from exclave.sites.opening import open_site


def open_erasing(url: str, environment: Mapping[str, str] | None = None) -> ErasingSite:
    """The site at ``url``, with its credentials; nothing is contacted yet. ``ConfigError`` if the URL cannot be one."""
    if url.startswith("s3:"):
        address = read_s3(urlsplit(url), os.environ if environment is None else environment)
        try:
            # Loaded here alone: what writes versions has no code that could remove one from a bucket.
            module = import_module("exclave.sites.s3_erasing")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "erasing in a bucket needs boto3, which is not installed",
                hint="Install exclave with its extra: pip install 'exclave[erasing]'.",
            ) from error
        return cast("ErasingSite", module.S3Eraser(address))
    if url.startswith("coded:"):
        return _open_coded(url, environment)
    site = open_site(url)
    if not isinstance(site, DirectorySite):
        raise ConfigError(f"nothing can be erased at {url!r} from here")
    return DirectoryEraser(site.address.removeprefix("dir:"))


def _open_coded(url: str, environment: Mapping[str, str] | None) -> ErasingSite:
    """All members at which something can be erased from here; at a gateway its host does."""
    from exclave.sites.coded import usual_need  # noqa: PLC0415 - see ``opening``
    from exclave.sites.coded_erasing import CodedEraser, Member  # noqa: PLC0415
    from exclave.sites.open_coded import read_coded  # noqa: PLC0415

    address = read_coded(url)
    members = [
        Member(open_site(one, environment), None if one.startswith("https:") else open_erasing(one, environment))
        for one in address.members
    ]
    if all(member.power is None for member in members):
        raise ConfigError("all members of this site are gateways: their hosts erase by order, and nobody else")
    return CodedEraser(members, address.need or usual_need(address.k, len(members)))

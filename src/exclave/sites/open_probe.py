"""From a site's address to everything that a probe can try there."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import cast
from urllib.parse import urlsplit

from exclave.sites.contract import Site
from exclave.sites.opening import open_site
from exclave.sites.probe import Promise, probe


def open_probe(url: str, token: str) -> tuple[Site, Iterator[Promise]]:
    """The site at ``url``, and its promises as they are tried one after the other. ``token`` as for ``probe``.

    What is put at a site that locks is locked for a day only.
    """
    site = open_site(url)
    if "lock=" not in urlsplit(url).query or not url.startswith("s3:"):
        return site, probe(site, token=token)
    locks = import_module("exclave.sites.s3_probe").LockProbe(url, token=token)
    return site, _both(cast("Site", locks.site), token, cast("Iterator[Promise]", locks.run()))


def _both(site: Site, token: str, locks: Iterator[Promise]) -> Iterator[Promise]:
    yield from probe(site, token=token)
    yield from locks

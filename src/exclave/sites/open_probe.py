"""From a site's address to everything that a probe can try there."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import cast
from urllib.parse import urlsplit

from exclave.sites.contract import Site
from exclave.sites.opening import open_site
from exclave.sites.probe import Promise, probe, while_reached


def open_probe(url: str, token: str) -> tuple[Site, Iterator[Promise]]:
    """The site at ``url``, and its promises as they are tried one after the other. ``token`` as for ``probe``.

    What is put at a site that locks is locked for a day only. Instead of a promise comes ``UnavailableError`` if the
    site cannot be reached (any more), is full, or takes no writes of this client.
    """
    site = open_site(url)
    if "lock=" not in urlsplit(url).query or not url.startswith("s3:"):
        return site, while_reached(site, probe(site, token=token))
    locks = import_module("exclave.sites.s3_probe").LockProbe(url, token=token)
    locked = cast("Site", locks.site)
    return site, while_reached(locked, _both(locked, token, cast("Iterator[Promise]", locks.run())))


def _both(site: Site, token: str, locks: Iterator[Promise]) -> Iterator[Promise]:
    yield from probe(site, token=token)
    yield from locks

"""From a site's address to everything that a probe can try there."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import cast
from urllib.parse import urlsplit

from exclave.sites.contract import Site
from exclave.sites.open_coded import read_coded
from exclave.sites.opening import open_site
from exclave.sites.patience import USUAL
from exclave.sites.probe import Promise, probe, while_reached
from exclave.sites.roles import MEMBER_HEADS, roles_of


def open_probe(url: str, token: str) -> tuple[Site, Iterator[Promise]]:
    """The site at ``url``, and its promises as they are tried one after the other. ``token`` as for ``probe``.

    What is put at a site that locks is locked for a day only. Instead of a promise comes ``UnavailableError`` if the
    site cannot be reached (any more), is full, or takes no writes of this client.
    """
    if url.startswith("coded:"):
        return _coded(url, token)
    site = open_site(url)
    if url.startswith("https:"):
        return site, while_reached(site, _at_gateway(site, url, token))
    if "lock=" not in urlsplit(url).query or not url.startswith("s3:"):
        return site, while_reached(site, probe(site, token=token))
    locks = import_module("exclave.sites.s3_probe").LockProbe(url, token=token)
    locked = cast("Site", locks.site)
    return site, while_reached(locked, _both(locked, token, cast("Iterator[Promise]", locks.run())))


def _both(site: Site, token: str, locks: Iterator[Promise]) -> Iterator[Promise]:
    yield from probe(site, token=token)
    yield from locks


def _at_gateway(site: Site, url: str, token: str) -> Iterator[Promise]:
    """What every site promises, and that a gateway deletes for nobody who asks."""
    yield from probe(site, token=token)
    gateway = import_module("exclave.sites.open_gateway").read_gateway(urlsplit(url), USUAL)
    try:
        yield import_module("exclave.sites.gateway_probe").try_deletion(gateway, token=token)
    finally:
        gateway.close()


def _coded(url: str, token: str) -> tuple[Site, Iterator[Promise]]:
    """A coded site as a whole, and what each of its members can be relied on for by itself."""
    address, site = read_coded(url), open_site(url)

    def run() -> Iterator[Promise]:
        yield from probe(site, token=token)
        locking, tried = 0, False
        for number, one in enumerate(address.members):
            member, promises = open_probe(one, f"{token}-{number}")
            found = list(promises)
            objects, heads, locks = roles_of(found, one.partition(":")[0])
            tried = tried or "lock=" in one
            locking += locks.given
            yield Promise(f"member-{number}", objects.given, f"{member.address}: {objects.why or 'keeps objects'}")
            yield Promise(f"{MEMBER_HEADS}{number}", heads.given, f"{member.address}: {heads.why or 'keeps heads'}")
        if tried:
            told = f"{locking} members cannot be deleted from; {address.k} give everything back"
            yield Promise("lock-k-of-n", locking >= address.k, told)

    return site, while_reached(site, run())

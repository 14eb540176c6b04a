"""From a ``web:`` address to a site's folder behind any web server that lists folders: for readers alone.

::

    web:https://host[:port]/path?…      (or ``web:http://…``) the parameter is
        authorities=/path.pem               certificates to trust for the host, instead of the system's

``https:`` without ``web:`` is another thing: a host's gateway.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from exclave.errors import ConfigError
from exclave.sites.address import read_endpoint, read_file, read_parameters
from exclave.sites.contract import Site
from exclave.sites.patience import Patience
from exclave.sites.retry import RetryingSite
from exclave.sites.web import WebSite


def open_web(parts: SplitResult, environment: Mapping[str, str], patience: Patience) -> Site:
    """The site; nothing is contacted yet. No variable of the environment counts here, and no proxy is asked."""
    if parts.fragment:
        raise ConfigError("a site's address has no part after '#'")
    base = read_endpoint(parts.path)
    if not urlsplit(base).path.isascii() or "%" in base or "\\" in base or ".." in base or "//" in urlsplit(base).path:
        raise ConfigError(f"a web server's folder is written plainly, not {base!r}")
    context = _context(read_parameters(parts.query, ("authorities",)))
    site = WebSite(base, context, patience)
    return RetryingSite(site, sleep=time.sleep, clock=time.monotonic, spread=random.random, policy=patience.policy)


def _context(query: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if "authorities" in query:
            context.load_verify_locations(cadata=read_file(query["authorities"], private=False).decode("ascii"))
        else:
            context.load_default_certs()
    except (ssl.SSLError, UnicodeDecodeError, ValueError, OSError) as error:
        raise ConfigError(f"the certificates of a web server's address cannot be used: {error}") from error
    return context

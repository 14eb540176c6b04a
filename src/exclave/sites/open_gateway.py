"""From an ``https:`` address to a site behind ``exclave serve site``.

::

    https://host:port/FINGERPRINT?…   a state's place at a host; the parameters are
        certificate=/path.pem             what the host knows this writer by; without one, only reading
        key=/path.key                     its private key (mode 600)
        authorities=/path.pem             certificates to trust for the host, instead of the system's
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Mapping
from urllib.parse import SplitResult

from exclave.errors import ConfigError, MalformedError
from exclave.ids import parse_fingerprint
from exclave.sites.address import read_file, read_parameters
from exclave.sites.contract import Site
from exclave.sites.gateway import GatewayPlace, GatewaySite
from exclave.sites.gateway_wire import Peer
from exclave.sites.patience import CONNECT_TIMEOUT_S, Patience
from exclave.sites.retry import RetryingSite

_PARAMETERS = ("certificate", "key", "authorities")
_DEFAULT_PORT = 8443


def open_gateway(parts: SplitResult, environment: Mapping[str, str], patience: Patience) -> Site:
    """The site; nothing is contacted yet. ``ConfigError``, ``KeyFileExposed``."""
    gateway = read_gateway(parts, patience)
    return RetryingSite(gateway, sleep=time.sleep, clock=time.monotonic, spread=random.random, policy=patience.policy)


def read_gateway(parts: SplitResult, patience: Patience) -> GatewaySite:
    """The site alone, without retries."""
    if "@" in parts.netloc or parts.fragment:
        raise ConfigError("a gateway's address has no user and no part after '#'")
    try:
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORT
        fingerprint = parse_fingerprint(parts.path.strip("/"))
    except (ValueError, MalformedError) as error:
        raise ConfigError("a gateway's address is https://host:port/ and the state's fingerprint") from error
    if not host:
        raise ConfigError("a gateway's address names a host")
    context = _context(read_parameters(parts.query, _PARAMETERS))
    peer = Peer(host, port, context, min(CONNECT_TIMEOUT_S, patience.small_timeout_s))
    return GatewaySite(
        GatewayPlace(host, port, fingerprint), peer, small_timeout_s=patience.small_timeout_s,
        large_timeout_s=patience.large_timeout_s,
    )  # fmt: skip


def _context(query: Mapping[str, str]) -> ssl.SSLContext:
    """TLS 1.3, the host's name checked, and nothing that depends on the process's environment."""
    if ("certificate" in query) != ("key" in query):
        raise ConfigError("certificate and key stand together in a gateway's address")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if "authorities" in query:
            context.load_verify_locations(cadata=read_file(query["authorities"], private=False).decode("ascii"))
        else:
            context.load_default_certs()
        if "certificate" in query:
            read_file(query["certificate"], private=False)
            read_file(query["key"], private=True)
            context.load_cert_chain(query["certificate"], query["key"], password=lambda: "")
    except (ssl.SSLError, UnicodeDecodeError, ValueError, OSError) as error:
        raise ConfigError(f"the certificates of a gateway's address cannot be used: {error}") from error
    return context

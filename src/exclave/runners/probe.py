"""Does a started service answer? Asked on loopback until it does or time runs out."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import psycopg
from psycopg import pq

from exclave.errors import ServiceFailed, UsageError

POLL_S = 0.05


def _always() -> bool:
    return True


def wait_http(
    url: str,
    timeout_s: float,
    *,
    alive: Callable[[], bool] = _always,
    accepts: Callable[[int], bool] = httpx.codes.is_success,
) -> httpx.Response:
    """The first answer whose status ``accepts`` takes, by GET every 50 ms. ``url`` is on loopback.

    ``ServiceFailed`` after ``timeout_s`` seconds, or as soon as ``alive()`` says that the process is gone; it says
    what the last attempt met. Redirects are not followed and no proxy is used.
    """
    _check_loopback(url)
    deadline = time.monotonic() + timeout_s
    last = "no answer"
    with httpx.Client(trust_env=False, timeout=max(timeout_s, POLL_S)) as client:
        while True:
            left = max(deadline - time.monotonic(), POLL_S)
            try:
                answer = client.get(url, timeout=left)
            except httpx.HTTPError as error:
                last = str(error) or type(error).__name__
            else:
                if accepts(answer.status_code):
                    return answer
                last = f"status {answer.status_code}"
            if not alive():
                raise ServiceFailed(f"the service ended before it answered at {url} ({last})", url=url)
            if time.monotonic() >= deadline:
                raise ServiceFailed(f"no good answer from {url} within {timeout_s:g} s: {last}", url=url)
            time.sleep(POLL_S)


def postgres_accepts(host: str, port: int) -> bool:
    """True if a PostgreSQL server takes connections there; no log-in is made. ``host``: address or socket folder."""
    conninfo = psycopg.conninfo.make_conninfo(host=host, port=port, connect_timeout=2)
    return pq.PGconn.ping(conninfo.encode()) == pq.Ping.OK


def _check_loopback(url: str) -> None:
    host = urlsplit(url).hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageError(f"a probe goes to this machine only, not to {host!r}")

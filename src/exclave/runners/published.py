"""What a server publishes, fetched with suspicion: no redirect, no proxy, a limit, and the time that it tells."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from datetime import UTC
from urllib.parse import urlsplit

import httpx

from exclave.errors import MalformedError, UnavailableError, UsageError
from exclave.ids import Instant


@dataclass(frozen=True, slots=True)
class Published:
    """An answer of status 200."""

    body: bytes
    date: Instant | None
    """Its Date header (RFC 9110, section 6.6.1), in whole seconds; None if there is none that can be read."""


def fetch(url: str, *, limit: int, timeout_s: float = 5.0, ca_file: str | None = None) -> Published:
    """By GET, within about ``timeout_s``. ``ca_file``: roots to trust instead of the system's.

    ``UnavailableError`` for no answer or another status than 200, ``MalformedError`` for a body of over ``limit``
    bytes, ``UsageError`` for what is no http or https address.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"{url[:200]!r} is not an http or https address")
    deadline = time.monotonic() + timeout_s
    body = bytearray()
    try:
        trust = httpx.create_ssl_context(verify=ca_file or True, trust_env=False)
        with (
            httpx.Client(trust_env=False, timeout=timeout_s, verify=trust) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise UnavailableError(f"{url} answers with status {answer.status_code}")
            for part in answer.iter_bytes():  # as they come: a server that drips must not fill a part first
                body += part
                if len(body) > limit:
                    raise MalformedError(f"{url} answers with more than {limit} bytes")
                if time.monotonic() > deadline:
                    raise UnavailableError(f"{url} answers too slowly")
            return Published(bytes(body), _date(answer.headers.get("date", "")))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise UnavailableError(f"{url} does not answer: {type(error).__name__} {error}"[:300]) from error


def _date(text: str) -> Instant | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Instant(int(moment.timestamp()) * 1_000_000)

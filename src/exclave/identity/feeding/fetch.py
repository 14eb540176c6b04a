"""Bytes of a source: over HTTP, from a file, from a folder into which files are dropped. Limits first."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import httpx

from exclave.errors import MalformedError, SourceUnavailable
from exclave.ids import Instant

MAX_REDIRECTS = 3
MAX_FILES = 100
TOTAL_S = 120.0
TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_YOUNG_NS = 50_000_000
_HEADERS = {"accept": "application/pkix-crl, */*;q=0.1", "user-agent": "exclave", "accept-encoding": "identity"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # NONBLOCK: a planted FIFO must not hang us


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what it is seen that a file or page is the same as last time; empty: it is not known."""

    text: str = ""


def new_client() -> httpx.Client:
    """For CRLs: no proxies from the environment, no redirects of its own."""
    return httpx.Client(timeout=TIMEOUT, follow_redirects=False, trust_env=False, headers=_HEADERS)


def fetch(
    client: httpx.Client, url: str, seen: Stamp, *, limit: int, monotonic: Callable[[], float]
) -> tuple[bytes | None, Stamp]:
    """The page at ``url``; None if it is the one that was seen. Redirects are followed on the same host only.

    ``SourceUnavailable`` if it cannot be had within 120 s, ``MalformedError`` if it is longer than ``limit`` bytes.
    """
    host = urlsplit(url).hostname
    ends = monotonic() + TOTAL_S
    try:
        for _ in range(MAX_REDIRECTS + 1):
            if urlsplit(url).scheme not in ("http", "https") or urlsplit(url).hostname != host:
                raise SourceUnavailable(f"{host} sends us to another place", hint="Correct the source's url.")
            headers = {"if-none-match": seen.text} if seen.text else {}
            with client.stream("GET", url, headers=headers) as answer:
                if answer.status_code in _REDIRECTS:
                    url = urljoin(url, answer.headers.get("location", ""))
                    continue
                if answer.status_code == 304 and seen.text:
                    return None, seen
                if answer.status_code != 200:
                    raise SourceUnavailable(f"{host} answers with status {answer.status_code}")
                return _body(answer, limit, ends, monotonic), Stamp(answer.headers.get("etag", "")[:200])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise SourceUnavailable(f"{host} does not answer: {type(error).__name__}") from error
    raise SourceUnavailable(f"{host} sends us around in circles")


def _body(answer: httpx.Response, limit: int, ends: float, monotonic: Callable[[], float]) -> bytes:
    data = bytearray()
    # Never unpacked: a small answer stays small. As it comes: a source that drips must not fill a piece first.
    for piece in answer.iter_raw():
        data += piece
        if len(data) > limit:
            raise MalformedError(f"the answer is longer than {limit} bytes")
        if monotonic() > ends:
            raise SourceUnavailable(f"the answer takes longer than {TOTAL_S:.0f} s")
    return bytes(data)


def stamp_file(path: str, *, now: Instant) -> Stamp:
    """What shows whether the file is another one or changed; empty if it changed so recently that it could change
    again unseen, file times being as coarse as they are. ``SourceUnavailable`` if it is not there."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise SourceUnavailable(f"{path} cannot be read: {error.strerror}") from error
    if now * 1000 - max(found.st_mtime_ns, found.st_ctime_ns) < _YOUNG_NS:
        return Stamp()
    return Stamp(f"{found.st_dev}.{found.st_ino}.{found.st_size}.{found.st_mtime_ns}.{found.st_ctime_ns}")


def open_file(path: str) -> int:
    """A descriptor of the plain file ``path``."""
    try:
        file = os.open(path, _READ)
    except OSError as error:
        raise SourceUnavailable(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise SourceUnavailable(f"{path} is not a file")
    return file


def read_file(path: str, *, limit: int) -> bytes:
    """``MalformedError`` if it is longer than ``limit`` bytes."""
    with open(open_file(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise MalformedError(f"{path} is longer than {limit} bytes")
    return data


def files_at(path: str) -> list[str]:
    """The file, or the files in the folder, sorted; names that begin with a dot are files on their way in."""
    if not os.path.isdir(path):
        return [path]
    try:
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        raise SourceUnavailable(f"{path} cannot be read: {error.strerror}") from error
    if not names:
        raise SourceUnavailable(f"nothing was dropped into {path} yet")
    if len(names) > MAX_FILES:
        raise MalformedError(f"there are more than {MAX_FILES} files in {path}")
    return [os.path.join(path, name) for name in names]

"""A site's folder behind any web server that lists folders as nginx does with ``autoindex_format json``: reading only.

Nothing of what the server says is more than bytes and names. No redirect is followed, no proxy asked, no cookie kept,
nothing unpacked; every answer has a limit and an end in time.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import httpx
import msgspec

from exclave.errors import CorruptObject, ExclaveError, MissingObject, SiteReadOnly, SiteUnavailable
from exclave.ids import MAX_KEY_LENGTH, Digest, Key, parse_key
from exclave.sites.contract import (
    MAX_HEAD_BYTES,
    MAX_OBJECT_BYTES,
    START_BYTES,
    Digested,
    ObjectStat,
    Tagged,
    check_prefix,
    check_range,
)
from exclave.sites.listed import by_folders, listed
from exclave.sites.patience import CONNECT_TIMEOUT_S, Patience

MAX_FOLDER_BYTES = 32 << 20
"""Longest list of one folder: some 200 000 names."""
MAX_DEPTH = 12
"""Most folders within each other; no object lies deeper than ten."""
MAX_BARREN = 1000
"""So many folders in a row without an object are no site, but a server that makes them up."""
_SMALL_BYTES = 1 << 20
_HEADERS = {"accept-encoding": "identity", "user-agent": "exclave"}
_SEGMENT = re.compile(r"[a-z0-9_-][a-z0-9._-]*\Z")
_LENGTH = re.compile(r"(0|[1-9][0-9]{0,14})\Z")
_HINT = "The server has to list folders: in nginx `autoindex on; autoindex_format json;`."


class _Item(msgspec.Struct, frozen=True):
    """One entry of a folder's list; whatever else the server says of it does not count."""

    name: str
    type: str
    size: int = 0


_LIST = msgspec.json.Decoder(list[_Item])


class WebSite:
    """Objects below ``base`` (``https://host/path``, without a slash at its end). For several threads.

    Every write is refused with ``SiteReadOnly``.
    """

    def __init__(self, base: str, context: ssl.SSLContext, patience: Patience) -> None:
        self._base, self._patience = base, patience
        self._client = httpx.Client(
            verify=context, trust_env=False, follow_redirects=False, headers=_HEADERS,
            timeout=httpx.Timeout(patience.small_timeout_s, connect=min(CONNECT_TIMEOUT_S, patience.small_timeout_s)),
        )  # fmt: skip
        self._is_there = False

    @property
    def address(self) -> str:
        return f"web:{self._base}"

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        with self._answer("GET", parse_key(key), limit) as answer:
            return b"".join(self._body(answer, key, limit))

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        hasher, start, length = hashlib.sha256(), b"", 0
        with self._answer("GET", parse_key(key), limit) as answer:
            for piece in self._body(answer, key, limit):
                hasher.update(piece)
                start += piece[: START_BYTES - len(start)]
                length += len(piece)
        return Digested(Digest(hasher.digest()), length, start)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        check_range(offset, length)
        if not length:
            found = self.stat(key)
            if found is None:
                raise _missing(key)
            if found.size_bytes < offset:
                raise CorruptObject(f"{key} ends before byte {offset}", key=key)
            return b""
        wanted = {"range": f"bytes={offset}-{offset + length - 1}"}
        with self._answer("GET", parse_key(key), length, wanted) as answer:
            if answer.status_code == 200:  # a server without ranges
                data = b"".join(self._body(answer, key, MAX_OBJECT_BYTES))[offset : offset + length]
            elif answer.headers.get("content-range", "").startswith(f"bytes {offset}-"):
                data = b"".join(self._body(answer, key, length))
            else:
                raise SiteUnavailable(f"{self.address} shows another part of {key} than was asked for", key=key)
        if len(data) != length:
            raise CorruptObject(f"{key} ends before byte {offset + length}", key=key)
        return data

    def stat(self, key: Key) -> ObjectStat | None:
        try:
            with self._answer("HEAD", parse_key(key), 0) as answer:
                length = answer.headers.get("content-length", "")
        except MissingObject:
            return None
        if not _LENGTH.match(length):
            raise SiteUnavailable(f"{self.address} does not tell how long {key} is", key=key, permanent=True)
        return ObjectStat(key, int(length))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """In order of name, one folder's names in memory on each level."""
        check_prefix(prefix)
        found = by_folders(self._folder, prefix, self.address, deepest=MAX_DEPTH, most_barren=MAX_BARREN)
        return listed(found, prefix, self.address)

    def read_head(self, key: Key) -> Tagged | None:
        try:
            data = self.get(key, limit=MAX_HEAD_BYTES)
        except MissingObject:
            return None
        return Tagged(data, hashlib.sha256(data).hexdigest())

    def put_new(self, key: Key, data: bytes) -> None:
        self._refuse(key)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self._refuse(key)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        self._refuse(key)

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        self._refuse(key)

    def _refuse(self, key: Key) -> NoReturn:
        raise SiteReadOnly(f"{self.address} is a web server: nothing can be written there", key=key, permanent=True)

    def _folder(self, prefix: str) -> Iterator[ObjectStat]:
        """Objects and folders (whose names end in ``/``) directly in ``prefix``, ordered as whole names are."""
        try:
            with self._answer("GET", prefix, MAX_FOLDER_BYTES) as answer:
                text = b"".join(self._body(answer, None, MAX_FOLDER_BYTES))
        except MissingObject as error:
            if not prefix:
                raise SiteUnavailable(f"there is nothing at {self.address}", permanent=True, hint=_HINT) from error
            if not self._is_there:  # an absent site is not an empty one
                self._folder("")
            return iter(())
        try:
            items = _LIST.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            said = f"{self.address} does not list its folder {prefix or '/'} as JSON"
            raise SiteUnavailable(said, permanent=True, hint=_HINT) from error
        self._is_there = True
        found: dict[str, int] = {}
        for item in items:
            if item.type not in ("file", "directory") or not _SEGMENT.match(item.name) or item.size < 0:
                continue
            name = prefix + item.name
            if len(name) <= MAX_KEY_LENGTH:
                found[name + "/" if item.type == "directory" else name] = item.size
        return (ObjectStat(Key(name), found[name]) for name in sorted(found))

    @contextmanager
    def _answer(
        self, method: str, path: str, expected: int, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """The answer to one request, if it is a good one; ``expected``: most bytes that may come."""
        try:
            with self._client.stream(method, f"{self._base}/{path}", headers=headers) as answer:
                self._check(answer, path)
                large = expected > _SMALL_BYTES
                answer.extensions["ends"] = time.monotonic() + (
                    self._patience.large_timeout_s if large else self._patience.small_timeout_s
                )
                yield answer
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as error:
            silent = isinstance(error, httpx.ConnectError | httpx.TimeoutException)
            text = f"{path} at {self.address}: {type(error).__name__}"
            raise SiteUnavailable(text, key=path, silent=silent) from error

    def _check(self, answer: httpx.Response, path: str) -> None:
        status = answer.status_code
        if status in (200, 206) and "content-encoding" not in answer.headers:
            return
        if status in (404, 410):
            raise _missing(path)
        if status == 416:
            raise CorruptObject(f"{path} at {self.address} is shorter than it must be", key=path)
        raise self._unusable(status, path)

    def _unusable(self, status: int, path: str) -> ExclaveError:
        text = f"{self.address} answers for {path or '/'} with status {status}"
        if 300 <= status < 400:
            text += ", which would lead to another place"
        busy = status in (408, 429) or status >= 500
        return SiteUnavailable(
            text, key=path, permanent=not busy, hint="" if path and not path.endswith("/") else _HINT
        )

    def _body(self, answer: httpx.Response, key: Key | None, limit: int) -> Iterator[bytes]:
        """At most ``limit`` bytes; ``CorruptObject`` (``SiteUnavailable`` for a list) if there are more."""
        length = 0
        for piece in answer.iter_raw():  # as they come: to collect a piece first, a server that drips could take days
            length += len(piece)
            if length > limit:
                if key is None:
                    raise SiteUnavailable(f"a folder's list at {self.address} is over {limit} bytes", permanent=True)
                raise CorruptObject(f"{key} at {self.address} is longer than {limit} bytes", key=key)
            if time.monotonic() > answer.extensions["ends"]:
                raise SiteUnavailable(f"{self.address} takes too long", silent=False)
            yield piece


def _missing(path: str) -> MissingObject:
    return MissingObject(f"{path} is not there", key=path)

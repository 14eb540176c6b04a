"""A site in a bucket of any S3 engine that has conditional writes (If-None-Match and If-Match).

Nothing is retried here: a conditional write that is repeated blindly meets its own first try. ``RetryingSite`` does
it knowingly. A write is durable when the engine says so; which engines mean it, ``probe`` and their makers tell.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from exclave.errors import (
    AlreadyExists,
    ConfigError,
    CorruptObject,
    ExclaveError,
    HeadMoved,
    MalformedError,
    MissingObject,
    OutcomeUnknown,
    SiteFull,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.ids import Digest, Key, parse_key, sha256
from exclave.sites.contract import (
    MAX_HEAD_BYTES,
    MAX_OBJECT_BYTES,
    START_BYTES,
    Digested,
    ObjectStat,
    Tagged,
    check_prefix,
    check_range,
    check_write,
)
from exclave.sites.patience import LARGE_TIMEOUT_S, SMALL_TIMEOUT_S

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode
    from obstore.store import S3Credential

_SMALL_BYTES = 1 << 20
_PIECE_BYTES = 256 << 10
_CONNECT_TIMEOUT_S = 5  # two lost SYNs are sent again within it
_SORTED_AT_ONCE = 10_000
_STATUS = re.compile(r"status code: ([0-9]{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity", "TooManyBytes"}
_WRONG_KEY_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "ExpiredToken"}
_NOT_DONE = {408, 409, 429, 503}  # the engine says that it did nothing and wants to be asked again


@dataclass(frozen=True, slots=True)
class S3Keys:
    """What signs the requests."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where a bucket is, without secrets."""

    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""
    endpoint: str
    """``https://host[:port]``; ``http://`` only where the operator wrote so."""
    region: str

    @property
    def address(self) -> str:
        query = urlencode({"endpoint": self.endpoint, "region": self.region}, safe=":/[]")
        return f"s3://{self.bucket}/{self.prefix}?{query}"


class S3Site:
    """A site under a prefix of a bucket.

    ``keys`` None means requests without signature, for public buckets. ``authorities`` are PEM certificates to trust
    beside the system's. ``sorted_at_once`` is how many names ``list`` sorts in memory before it goes by folders.
    """

    def __init__(
        self,
        place: S3Place,
        keys: S3Keys | None,
        *,
        authorities: bytes | None = None,
        small_timeout_s: float = SMALL_TIMEOUT_S,
        large_timeout_s: float = LARGE_TIMEOUT_S,
        sorted_at_once: int = _SORTED_AT_ONCE,
    ) -> None:
        self._place = place
        self._sorted_at_once = sorted_at_once
        self._bucket_seen = False
        self._doubtful: set[Key] = set()
        """What may be there, since the answer to a write was lost."""
        self._small = _store(place, keys, authorities, small_timeout_s)
        self._large = _store(place, keys, authorities, large_timeout_s)

    @property
    def address(self) -> str:
        return self._place.address

    def _store_for(self, size_bytes: int) -> S3Store:
        """Small requests must not wait as long for a silent engine as large ones may take."""
        return self._small if size_bytes <= _SMALL_BYTES else self._large

    # Reading

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self._fetch(key, limit)[0]

    def _fetch(self, key: Key, limit: int) -> tuple[bytes, str | None]:
        with self._explained(key):
            found = obstore.get(self._store_for(limit), parse_key(key))
            size = found.meta["size"]
            if size > limit:
                raise CorruptObject(f"{key} is {size} bytes long; at most {limit} can be right", key=key)
            data = bytes(found.bytes())
        if len(data) != size:
            raise SiteUnavailable(f"{key} at {self.address} ended after {len(data)} of {size} bytes", key=key)
        self._bucket_seen = True
        return data, found.meta["e_tag"]

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        hasher, start, length = hashlib.sha256(), b"", 0
        with self._explained(key):
            found = obstore.get(self._store_for(limit), parse_key(key))
            size = found.meta["size"]
            if size > limit:
                raise CorruptObject(f"{key} is {size} bytes long; at most {limit} can be right", key=key)
            for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                hasher.update(piece)
                start = start or bytes(piece)[:START_BYTES]
                length += len(piece)
        if length != size:
            raise SiteUnavailable(f"{key} at {self.address} ended after {length} of {size} bytes", key=key)
        self._bucket_seen = True
        return Digested(Digest(hasher.digest()), length, start)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        check_range(offset, length)
        if length == 0:  # HTTP has no empty range
            found = self.stat(key)
            if found is None:
                raise MissingObject(f"{key} is not at {self.address}", key=key)
            data, short = b"", offset > found.size_bytes
        else:
            with self._explained(key):
                store = self._store_for(length)
                data = bytes(obstore.get_range(store, parse_key(key), start=offset, length=length))
            short = len(data) != length
        if short:
            raise CorruptObject(f"{key} is too short: bytes {offset}+{length} are missing", key=key)
        return data

    def stat(self, key: Key) -> ObjectStat | None:
        try:
            with self._explained(key):
                found = obstore.head(self._small, parse_key(key))
        except MissingObject:
            self._require_bucket(key)
            return None
        self._bucket_seen = True
        return ObjectStat(key, found["size"])

    def _require_bucket(self, key: Key) -> None:
        """HEAD answers 404 for a bucket that is gone too, and must not make every object look absent."""
        if self._bucket_seen:
            return
        with self._explained(key):
            for _page in obstore.list(self._small, parse_key(key)):
                break
        self._bucket_seen = True

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Engines differ in how they order names, so names are sorted here: up to ``sorted_at_once`` together, larger
        listings one folder at a time."""
        check_prefix(prefix)
        parse_key(prefix + "x")
        found: list[ObjectStat] = []
        with self._explained(Key(prefix)):
            for page in obstore.list(self._small, prefix or None, chunk_size=1000):
                found.extend(_stats(page, prefix))
                if len(found) > self._sorted_at_once:
                    break
            else:
                self._bucket_seen = True
                yield from sorted(found, key=_by_name)
                return
            level = obstore.list_with_delimiter(self._small, prefix or None)
        found = list(_stats(level["objects"], prefix))
        folders = [ObjectStat(Key(f"{path.rstrip('/')}/"), -1) for path in level["common_prefixes"]]
        for item in sorted(found + folders, key=_by_name):
            if item.size_bytes >= 0:
                yield item
            elif _is_key(item.key + "x"):
                yield from self.list(item.key)

    def read_head(self, key: Key) -> Tagged | None:
        try:
            data, tag = self._fetch(key, MAX_HEAD_BYTES)
        except MissingObject:
            return None
        if not tag:
            raise SiteUnavailable(f"{self.address} gives no ETag for {key}; it cannot hold a head", permanent=True)
        return Tagged(data, tag)

    # Writing. Killed before the engine's answer, a restart finds the whole object or none; the engine sees to that.

    def put_new(self, key: Key, data: bytes) -> None:
        check_write(data)
        self._put(key, data, "create")

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        check_write(data)
        try:
            # Most objects are new, and to ask first would cost each a round trip.
            if key not in self._doubtful or self.stat(key) is None:
                self._put(key, data, "create")
                self._doubtful.discard(key)
                return
        except AlreadyExists:
            pass
        except OutcomeUnknown as error:  # harmless here: repeating it finds the object, or writes it
            self._doubtful.add(key)
            raise SiteUnavailable(error.message, key=key) from error
        try:
            same = self.get(key, limit=len(data)) == data
        except CorruptObject:
            same = False
        if not same:
            raise CorruptObject(f"{key} at {self.address} holds other bytes", key=key)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        check_write(data, limit=MAX_HEAD_BYTES)
        try:
            tag = self._put(key, data, "create" if expected is None else {"e_tag": expected})
        except AlreadyExists as error:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key) from error
        if not tag:
            raise OutcomeUnknown(f"{self.address} gave no ETag for {key}", key=key)
        return tag

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        """In a versioned bucket the wrong bytes stay as a former version, whatever locks them."""
        check_write(data)
        found: Digest | None = None
        try:
            shown, tag = self._fetch(key, MAX_OBJECT_BYTES)
            found = sha256(shown)
        except CorruptObject:  # too long to be read
            with self._explained(key):
                tag = obstore.head(self._small, parse_key(key))["e_tag"]
        except MissingObject as error:
            raise HeadMoved(f"{key} is no longer at {self.address}", key=key) from error
        if found == sha256(data):
            return
        if found != spoilt:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
        if not tag:
            raise SiteUnavailable(f"{self.address} gives no ETag for {key}; it cannot be repaired", permanent=True)
        try:
            self._put(key, data, {"e_tag": tag})
        except AlreadyExists as error:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key) from error
        except OutcomeUnknown as error:  # repeating it finds the right bytes, or replaces the wrong ones
            raise SiteUnavailable(error.message, key=key) from error

    def _put(self, key: Key, data: bytes | memoryview, mode: PutMode) -> str | None:
        """One conditional PUT in one request; ``AlreadyExists`` if the condition failed."""
        with self._explained(key, writing=True):
            result = obstore.put(self._store_for(len(data)), parse_key(key), data, mode=mode, use_multipart=False)
        self._bucket_seen = True
        return result["e_tag"]

    @contextmanager
    def _explained(self, key: Key, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise explain_s3(error, key, self.address, writing=writing) from error


def explain_s3(error: Exception, key: Key, address: str, *, writing: bool) -> ExclaveError:
    """What the answer of an S3 engine, or the lack of one, means to the caller.

    obstore gives the HTTP status and S3's own code only inside its message.
    """
    text = str(error)
    status_text, code_text = _STATUS.search(text), _CODE.search(text)
    status = int(status_text[1]) if status_text else 0
    code = code_text[1] if code_text else ""
    said = f"{key} at {address}: HTTP {status} {code}".rstrip()
    if code == "NoSuchBucket":
        return SiteUnavailable(f"there is no bucket at {address}", permanent=True)
    if status == 412 or (isinstance(error, AlreadyExistsError | PreconditionError) and status in (0, 304)):
        return AlreadyExists(f"{key} is already at {address}", key=key)
    if status == 507 or code in _FULL_CODES:
        return SiteFull(said, key=key)
    if status in (401, 403):
        if writing and code not in _WRONG_KEY_CODES:
            return SiteReadOnly(said, key=key)
        hint = "Check the access key, its secret and its rights, and this machine's clock."
        return SiteUnavailable(f"{said} (access refused)", hint=hint, key=key, permanent=True)
    if writing:
        return _explain_failed_write(status, text, said, key)
    if status == 404 or isinstance(error, FileNotFoundError):
        return MissingObject(f"{key} is not at {address}", key=key)
    if status == 416:
        return CorruptObject(f"{key} at {address} is too short", key=key)
    if status:
        return SiteUnavailable(said, key=key, permanent=400 <= status < 500 and status not in _NOT_DONE)
    return SiteUnavailable(f"{key} at {address}: {_cause(text)}", key=key, silent=True)


def _explain_failed_write(status: int, text: str, said: str, key: Key) -> ExclaveError:
    if status in _NOT_DONE:
        return SiteUnavailable(said, key=key)
    if 400 <= status < 500:
        return SiteUnavailable(said, key=key, permanent=True)
    if "kind: Connect" in text:  # no connection, so no request
        return SiteUnavailable(f"{said}: {_cause(text)}", key=key, silent=True)
    return OutcomeUnknown(f"{said}: {_cause(text)}", key=key, silent=not status)


def _cause(text: str) -> str:
    """The useful part of obstore's message, on one line of plain characters: it may quote what a host sent."""
    line = text.split("\n", 1)[0].rsplit(" - ", 1)[-1]
    return "".join(c for c in line if c.isprintable())[:200]


def _store(place: S3Place, keys: S3Keys | None, authorities: bytes | None, timeout_s: float) -> S3Store:
    """An obstore client in which nothing depends on the process's environment."""

    def credentials() -> S3Credential:
        if keys is None:
            raise ConfigError(f"{place.address} is opened without keys")
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.session_token,
            "expires_at": None,
        }

    try:
        return S3Store(
            place.bucket,
            prefix=place.prefix or None,
            config={
                "endpoint": place.endpoint,
                "aws_endpoint_url_s3": place.endpoint,
                "region": place.region,
                "conditional_put": "etag",
                "checksum_algorithm": "SHA256",
                "virtual_hosted_style_request": False,
                "skip_signature": keys is None,
            },
            client_options={
                "allow_http": place.endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=min(_CONNECT_TIMEOUT_S, timeout_s)),
                "timeout": timedelta(seconds=timeout_s),
                **({"root_certificate": authorities} if authorities else {}),
            },
            retry_config={"max_retries": 0},
            credential_provider=credentials if keys else None,
        )
    except (BaseError, ValueError) as error:
        raise ConfigError(f"cannot open {place.address}: {_cause(str(error))}") from error


def _stats(page: Sequence[ObjectMeta], prefix: str) -> Iterator[ObjectStat]:
    """The objects with legal names."""
    for meta in page:
        if meta["path"].startswith(prefix) and _is_key(meta["path"]):
            yield ObjectStat(Key(meta["path"]), meta["size"])


def _by_name(item: ObjectStat) -> str:
    return item.key


def _is_key(text: str) -> bool:
    try:
        parse_key(text)
    except MalformedError:
        return False
    return True

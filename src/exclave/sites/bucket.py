"""A site in a bucket of any engine that has conditional writes.

Nothing is retried here: a conditional write that is repeated blindly meets its own first try. ``RetryingSite`` does
it knowingly. A write is durable when the engine says so; which engines mean it, ``probe`` and their makers tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError

from exclave.errors import (
    AlreadyExists,
    CorruptObject,
    HeadMoved,
    MalformedError,
    MissingObject,
    OutcomeUnknown,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.ids import Digest, Key, parse_key, sha256
from exclave.sites.bucket_errors import explain_bucket
from exclave.sites.bucket_list import list_folder, list_pages
from exclave.sites.conditions import KEEPS_HEADS, Conditions, refusal
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
from exclave.sites.listed import by_folders, listed

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions, GetResult, ObjectMeta, PutMode, PutResult
    from obstore.store import ObjectStore

_SMALL_BYTES = 1 << 20
_PIECE_BYTES = 256 << 10
_SORTED_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an engine names a state of an object, in ``replace_if`` and its answers."""

    tag: Callable[[ObjectMeta | PutResult], str | None]
    expected: Callable[[str], tuple[PutMode, ...]]
    """Forms in which to say which state is expected, the usual one first."""
    wrong: str
    """A tag that no object has."""


class BucketSite:
    """A site in the bucket, or below the prefix of one, that ``small`` and ``large`` are clients of.

    ``large`` has the longer patience, for requests over 1 MiB. ``sorted_at_once`` is how many names ``list`` sorts in
    memory before it goes by folders.
    """

    def __init__(
        self,
        address: str,
        small: ObjectStore,
        large: ObjectStore,
        *,
        dialect: Dialect,
        writable: bool = True,
        sorted_at_once: int = _SORTED_AT_ONCE,
    ) -> None:
        self._address = address
        self._dialect = dialect
        self._writable = writable
        self._sorted_at_once = sorted_at_once
        self._bucket_seen = False
        self._doubtful: set[Key] = set()
        """What may be there, since the answer to a write was lost."""
        self._small, self._large = small, large
        self._conditions = Conditions()
        self._form: int | None = None
        """Which of the dialect's forms of a tag the engine understands, once that is known."""

    @property
    def address(self) -> str:
        return self._address

    def _store_for(self, size_bytes: int) -> ObjectStore:
        """Small requests must not wait as long for a silent engine as large ones may take."""
        return self._small if size_bytes <= _SMALL_BYTES else self._large

    # Reading

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self.fetch(key, limit)[0]

    def fetch(self, key: Key, limit: int, version: str = "") -> tuple[bytes, GetResult]:
        """As ``get``, of one ``version`` if one is named; with what the engine says of it."""
        with self._explained(key):
            found = obstore.get(self._store_for(limit), parse_key(key), options=_options(version))
            size = found.meta["size"]
            if size > limit:
                raise CorruptObject(f"{key} is {size} bytes long; at most {limit} can be right", key=key)
            data = _body(found, size)
        if len(data) != size:
            raise SiteUnavailable(f"{key} at {self.address} ended after {len(data)} of {size} bytes", key=key)
        self._bucket_seen = True
        return data, found

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES, version: str = "") -> Digested:
        hasher, start, length = hashlib.sha256(), b"", 0
        with self._explained(key):
            found = obstore.get(self._store_for(limit), parse_key(key), options=_options(version))
            size = found.meta["size"]
            if size > limit:
                raise CorruptObject(f"{key} is {size} bytes long; at most {limit} can be right", key=key)
            for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                hasher.update(piece)
                start = start or bytes(piece)[:START_BYTES]
                length += len(piece)
                if length > size:
                    break
        if length != size:
            raise SiteUnavailable(f"{key} at {self.address} ended after {length} of {size} bytes", key=key)
        self._bucket_seen = True
        return Digested(Digest(hasher.digest()), length, start)

    def get_range(self, key: Key, offset: int, length: int, *, version: str = "") -> bytes:
        check_range(offset, length)
        if length == 0:  # HTTP has no empty range
            found = self.stat(key)
            if found is None:
                raise MissingObject(f"{key} is not at {self.address}", key=key)
            data, short = b"", offset > found.size_bytes
        else:
            with self._explained(key):
                options: GetOptions = {**_options(version), "range": (offset, offset + length)}
                data = _body(obstore.get(self._store_for(length), parse_key(key), options=options), length)
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
            for _page in list_pages(self._small, parse_key(key)):
                break
        self._bucket_seen = True

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Engines differ in how they order names, so names are sorted here: up to ``sorted_at_once`` together, larger
        listings one folder at a time."""
        check_prefix(prefix)
        parse_key(prefix + "x")
        return listed(by_folders(self._inside, prefix, self.address), prefix, self.address)

    def _inside(self, prefix: str) -> Iterator[ObjectStat]:
        """Everything below ``prefix`` if that is little; else what is directly in it, with folders."""
        found: list[ObjectStat] = []
        told = 0
        with self._explained(Key(prefix)):
            for page in list_pages(self._small, prefix):
                found.extend(_stats(page, prefix))
                told += len(page)  # names that are no keys, too: of those an engine may have any number
                if told > self._sorted_at_once:
                    break
            else:
                self._bucket_seen = True
                return iter(sorted(found, key=_by_name))
            folder = list_folder(self._small, prefix)
        found = list(_stats(folder["objects"], prefix))
        # Deeper than the prefix, so that a listing ends.
        inner = {f"{path.rstrip('/')}/" for path in folder["common_prefixes"]} - {prefix}
        found += (ObjectStat(Key(path), 0) for path in inner if path.startswith(prefix) and _is_key(path + "x"))
        return iter(sorted(found, key=_by_name))

    def read_head(self, key: Key) -> Tagged | None:
        try:
            data, found = self.fetch(key, MAX_HEAD_BYTES)
        except MissingObject:
            return None
        tag = self._dialect.tag(found.meta)
        if not tag:
            raise SiteUnavailable(f"{self.address} gives no ETag for {key}; it cannot hold a head", permanent=True)
        return Tagged(data, tag)

    # Writing. Killed before the engine's answer, a restart finds the whole object or none; the engine sees to that.

    def put_new(self, key: Key, data: bytes) -> None:
        check_write(data)
        self.require_objects()
        self.put(key, data, "create")

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        check_write(data)
        self.require_objects()
        try:
            # Most objects are new, and to ask first would cost each a round trip.
            if key not in self._doubtful or self.stat(key) is None:
                self.put(key, data, "create")
                self._doubtful.discard(key)
                return
        except AlreadyExists:
            pass
        except OutcomeUnknown as error:  # harmless here: repeating it finds the object, or writes it
            self._doubtful.add(key)
            raise SiteUnavailable(error.message, key=key, silent=bool(error.facts.get("silent"))) from error
        try:
            same = self.get(key, limit=len(data)) == data
        except CorruptObject:
            same = False
        if not same:
            raise CorruptObject(f"{key} at {self.address} holds other bytes", key=key)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        return self.replace(key, data, expected)[0]

    def replace(
        self, key: Key, data: bytes, expected: str | None, store: ObjectStore | None = None
    ) -> tuple[str, PutResult]:
        """As ``replace_if``, by another client of the bucket if one is given; also what the engine says."""
        check_write(data, limit=MAX_HEAD_BYTES)
        self.require_heads()
        try:
            if expected is None:
                result = self.put(key, data, "create", store=store)
            else:
                result = self._put_over(key, data, expected, store)
        except AlreadyExists as error:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key) from error
        tag = self._dialect.tag(result)
        if not tag:
            raise OutcomeUnknown(f"{self.address} gave no tag for {key}", key=key)
        return tag, result

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        """In a versioned bucket the wrong bytes stay as a former version, whatever locks them."""
        check_write(data)
        found: Digest | None = None
        try:
            shown, result = self.fetch(key, MAX_OBJECT_BYTES)
            found, tag = sha256(shown), self._dialect.tag(result.meta)
        except CorruptObject:  # too long to be read
            with self._explained(key):
                tag = self._dialect.tag(obstore.head(self._small, parse_key(key)))
        except MissingObject as error:
            raise HeadMoved(f"{key} is no longer at {self.address}", key=key) from error
        if found == sha256(data):
            return
        if found != spoilt:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
        if not tag:
            raise SiteUnavailable(f"{self.address} gives no ETag for {key}; it cannot be repaired", permanent=True)
        self.require_heads()
        try:
            self._put_over(key, data, tag)
        except AlreadyExists as error:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key) from error
        except OutcomeUnknown as error:  # repeating it finds the right bytes, or replaces the wrong ones
            raise SiteUnavailable(error.message, key=key, silent=bool(error.facts.get("silent"))) from error

    def require_objects(self) -> None:
        """Before the first write: ``SiteUnavailable`` with the reason if the engine would replace objects."""
        self._conditions.require_objects(self.address, lambda key, data: self.put(key, data, "create"))

    def require_heads(self) -> None:
        """Before the first head is replaced: ``SiteUnavailable`` with the reason if the engine ignores tags."""
        self.require_objects()
        wrong = self._dialect.expected(self._dialect.wrong)[0]
        self._conditions.require_heads(self.address, lambda key, data: self.put(key, data, wrong))

    def _put_over(self, key: Key, data: bytes, expected: str, store: ObjectStore | None = None) -> PutResult:
        """Replaces the object that has the tag ``expected``; ``AlreadyExists`` if it has another one."""
        forms = self._dialect.expected(expected)
        for form in forms[self._form : self._form + 1] if self._form is not None else forms:
            try:
                result = self.put(key, data, form, store=store)
            except AlreadyExists as error:
                last = error
            else:
                self._form = forms.index(form)
                return result
        if self._form is None and self._still(key, expected):
            why = "it refuses every If-Match, also the right one, so no head could ever be replaced"
            raise refusal(self.address, KEEPS_HEADS, why) from last
        raise last

    def _still(self, key: Key, expected: str) -> bool:
        with self._explained(key):
            try:
                return self._dialect.tag(obstore.head(self._small, parse_key(key))) == expected
            except FileNotFoundError:
                return False

    def put(
        self, key: Key, data: bytes | memoryview, mode: PutMode, *, store: ObjectStore | None = None,
        attributes: Attributes | None = None,
    ) -> PutResult:  # fmt: skip
        """One PUT in one request, by another client of the same bucket if one is given; ``AlreadyExists`` if its
        condition failed."""
        if not self._writable:
            raise SiteReadOnly(f"{self.address} is opened without keys", key=key)
        with self._explained(key, writing=True, replacing=isinstance(mode, dict)):
            result = obstore.put(
                store or self._store_for(len(data)), parse_key(key), data, mode=mode, use_multipart=False,
                attributes=attributes,
            )  # fmt: skip
        self._bucket_seen = True
        return result

    @contextmanager
    def _explained(self, key: Key, *, writing: bool = False, replacing: bool = False) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise explain_bucket(error, key, self.address, writing=writing, replacing=replacing) from error


def _options(version: str) -> GetOptions:
    return {"version": version} if version else {}


def _body(found: GetResult, size: int) -> bytes:
    """What came; of a body that is longer than ``size`` bytes, which the engine told, only so much that it shows.

    An engine may tell a length and then send pieces without end, and obstore takes them all.
    """
    pieces: list[bytes] = []
    length = 0
    for piece in found.stream(min_chunk_size=_PIECE_BYTES):
        pieces.append(piece)
        length += len(piece)
        if length > size:
            break
    return b"".join(pieces)


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

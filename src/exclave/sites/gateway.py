"""A site behind ``exclave serve site``. Page: ``docs/spec/gateway.md``.

Nothing is retried here but a large upload's rest: ``RetryingSite`` does the rest knowingly. An answer is believed no
further than any site's: what it says about bytes is checked by whoever reads them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from exclave.errors import (
    AlreadyExists,
    CorruptObject,
    ExclaveError,
    Fenced,
    Forked,
    HeadMoved,
    MalformedError,
    MissingObject,
    OutcomeUnknown,
    RolledBack,
    SiteFull,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.ids import Digest, Fingerprint, Key, parse_count, parse_digest, parse_key, sha256
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
from exclave.sites.gateway_wire import AnswerHead, Broken, Peer, Pool, Wire
from exclave.sites.listed import listed
from exclave.sites.patience import LARGE_TIMEOUT_S, SMALL_TIMEOUT_S

_SMALL_BYTES = 1 << 20
_ASK_FIRST_BYTES = 256 << 10
"""Larger bodies are sent after the gateway has said that it wants them."""
_RESUMABLE_BYTES = 4 << 20
_TRUSTED_NAME_BYTES = 1 << 20
"""Objects of this size whose name ends in a SHA-256 are said to have it: whoever named them has hashed them, and the
gateway does it again. Said wrongly, it refuses them, and they are hashed here."""
_PIECE_BYTES = 256 << 10
_PAGE = 1000
_MAX_PAGE_BYTES = 400 << 10
_MAX_TOLD_BYTES = 4 << 10
_GUARDED: Final[dict[str, type[ExclaveError]]] = {e.code: e for e in (CorruptObject, Fenced, Forked, RolledBack)}
"""What a host's guard says of a write to a ledger."""
_HINTS: Final = {
    "no-certificate": "Add certificate= and key= to the address; the host's operator enters the certificate.",
    "not-authorised": "Compare certificate and fingerprint in the address: one of them is another state's.",
    "unknown-state": "Compare the fingerprint in the address with the state's; or the host has not entered it yet.",
}
_LINE = re.compile(r"(0|[1-9][0-9]{0,14}) ([a-z0-9._/-]{1,300})\Z")
_CODE = re.compile(r"[a-z-]{1,40}\Z")
_MESSAGE = re.compile(rb'"message": ?"([^"\\]{0,300})')


@dataclass(frozen=True, slots=True)
class GatewayPlace:
    """Where a state's objects are at a host."""

    host: str
    port: int
    fingerprint: Fingerprint

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def address(self) -> str:
        return f"https://{self.authority}/{self.fingerprint}"


@dataclass(frozen=True, slots=True)
class _Told:
    """An answer without a body that matters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _NoList(Exception):
    """What came is no page of a list."""


class GatewaySite:
    """A state's place at a gateway."""

    def __init__(
        self,
        place: GatewayPlace,
        peer: Peer,
        *,
        small_timeout_s: float = SMALL_TIMEOUT_S,
        large_timeout_s: float = LARGE_TIMEOUT_S,
    ) -> None:
        """Nothing is contacted yet."""
        self._place = place
        self._pool = Pool(peer)
        self._small_s, self._large_s = small_timeout_s, large_timeout_s
        self._broken: dict[Digest, None] = {}
        """Uploads that broke off: the gateway may have the start of them."""

    @property
    def address(self) -> str:
        return self._place.address

    def close(self) -> None:
        """Ends the connections that wait; it may go on being used."""
        self._pool.close()

    # Reading

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        with self._answered(key, "GET", self._object(key), limit) as (wire, head):
            # BytesIO gives its bytes away as they are: what came is not copied once more.
            data = io.BytesIO(bytes(_checked_length(head, key, limit)))
            with data.getbuffer() as view:
                wire.body_into(view)
        return data.getvalue()

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        hasher, start = hashlib.sha256(), b""
        piece = memoryview(bytearray(_PIECE_BYTES))
        with self._answered(key, "GET", self._object(key), limit) as (wire, head):
            left = size = _checked_length(head, key, limit)
            while left:
                part = piece[: min(left, _PIECE_BYTES)]
                wire.body_into(part)
                hasher.update(part)
                start = start or bytes(part[:START_BYTES])
                left -= len(part)
        return Digested(Digest(hasher.digest()), size, start)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        check_range(offset, length)
        if length == 0:  # HTTP has no empty range
            found = self.stat(key)
            if found is None:
                raise MissingObject(f"{key} is not at {self.address}", key=key)
            if offset > found.size_bytes:
                raise CorruptObject(f"{key} is too short: bytes {offset}+0 are missing", key=key)
            return b""
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        with self._answered(key, "GET", self._object(key), length, headers) as (wire, head):
            if head.status != 206 or head.length != length:
                raise CorruptObject(f"{key} at {self.address}: another range came than was asked for", key=key)
            data = bytearray(length)
            wire.body_into(memoryview(data))
        return bytes(data)

    def stat(self, key: Key) -> ObjectStat | None:
        try:
            with self._answered(key, "HEAD", self._object(key), 0) as (_wire, head):
                return ObjectStat(key, head.length)
        except MissingObject:
            return None

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """A page of names is in memory at a time."""
        check_prefix(prefix)
        parse_key(prefix + "x")
        return listed(self._pages(prefix), prefix, self.address)

    def _pages(self, prefix: str) -> Iterator[ObjectStat]:
        after, more = "", True
        while more:
            path = f"list?prefix={prefix}&after={after}&most={_PAGE}"
            with self._answered(Key(prefix), "GET", path, _SMALL_BYTES) as (wire, head):
                data = bytearray(_checked_length(head, Key(prefix), _MAX_PAGE_BYTES))
                wire.body_into(memoryview(data))
            try:
                found, more = _page(bytes(data), prefix, after)
            except _NoList as error:
                raise self._nonsense("a list that is none") from error
            yield from found
            after = found[-1].key if found else after

    def read_head(self, key: Key) -> Tagged | None:
        try:
            data = self.get(key, limit=MAX_HEAD_BYTES)
        except MissingObject:
            return None
        return Tagged(data, sha256(data).hex())

    # Writing. Killed before the gateway's answer, a restart finds the whole object or none, or the old one.

    def put_new(self, key: Key, data: bytes) -> None:
        check_write(data)
        told = self._put(key, data, {"Exclave-Write": "new"}, repeatable=False)
        if told.status == 409:
            raise AlreadyExists(f"{key} is already at {self.address}", key=key)
        self._require(told, key, 201)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        check_write(data)
        told = self._put(key, data, {"Exclave-Write": "same"}, repeatable=True)
        if told.status == 409:
            raise CorruptObject(f"{key} at {self.address} holds other bytes", key=key)
        self._require(told, key, 200, 201)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        check_write(data, limit=MAX_HEAD_BYTES)
        headers = {"Exclave-Write": "replace", "Exclave-Expected": expected or "none"}
        told = self._put(key, data, headers, repeatable=False)
        if told.status == 412:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
        self._require(told, key, 200)
        return sha256(data).hex()

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        check_write(data)
        headers = {"Exclave-Write": "spoilt", "Exclave-Expected": spoilt.hex() if spoilt is not None else "none"}
        told = self._put(key, data, headers, repeatable=True)
        if told.status == 412:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
        self._require(told, key, 201)

    def _put(self, key: Key, data: bytes | memoryview, headers: dict[str, str], *, repeatable: bool) -> _Told:
        named = _digest_in(key) if len(data) >= _TRUSTED_NAME_BYTES else None
        told = self._put_as(key, data, named or sha256(data), headers, repeatable=repeatable)
        if told.status in (409, 422) and named is not None and sha256(data) != named:
            return self._put_as(key, data, sha256(data), headers, repeatable=repeatable)
        return told

    def _put_as(
        self, key: Key, data: bytes | memoryview, digest: Digest, headers: Mapping[str, str], *, repeatable: bool
    ) -> _Told:
        offset = self._uploaded(key, digest, len(data)) if digest in self._broken else 0
        headers = {**headers, "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:"}
        if offset:
            headers["Upload-Offset"] = str(offset)
        try:
            told = self._send(key, memoryview(data)[offset:], headers)
        except Broken as broken:
            if len(data) >= _RESUMABLE_BYTES:
                self._broken[digest] = None
            raise self._failed(broken, key, writing=not repeatable) from broken
        self._broken.pop(digest, None)
        if told.status == 412 and "upload-offset" in told.headers:  # it has no longer what it said, or not for itself
            raise SiteUnavailable(f"{key} at {self.address}: the upload begins anew", key=key)
        return told

    def _uploaded(self, key: Key, digest: Digest, size_bytes: int = MAX_OBJECT_BYTES) -> int:
        """How much of a broken upload the gateway has; whole and hashed again by it, so a lie costs only itself."""
        with self._answered(key, "HEAD", f"uploads/{digest.hex()}", 0) as (_wire, head):
            text = head.headers.get("upload-offset", "0")
        try:
            return parse_count(text, limit=size_bytes - 1)
        except MalformedError as error:
            raise self._nonsense("an offset that is none") from error

    def _send(self, key: Key, body: memoryview, headers: dict[str, str]) -> _Told:
        headers["Content-Length"] = str(len(body))
        asks = len(body) > _ASK_FIRST_BYTES
        if asks:
            headers["Expect"] = "100-continue"
        target, authority, wait_s = self._target(self._object(key)), self._place.authority, self._wait_s(len(body))
        with self._pool.wire() as wire:
            wire.begin("PUT", target, headers, authority, wait_s, b"" if asks else bytes(body))
            early = wire.asked_to_go_on() if asks else None
            if early is not None:
                wire.keeps = False  # the gateway does not know whether the body comes
            elif asks:
                wire.send_body(body)
            return _whole(wire, early or wire.answer())

    def status_of(self, method: str, key: Key) -> int:
        """The status of the answer to a request that this protocol does not have; only a probe sends one."""
        try:
            with self._pool.wire() as wire:
                target = self._target(self._object(key))
                wire.begin(method, target, {}, self._place.authority, self._wait_s(0))
                return _whole(wire, wire.answer()).status
        except Broken as broken:
            raise self._failed(broken, key, writing=False) from broken

    # Answers

    @contextmanager
    def _answered(
        self, key: Key, method: str, path: str, size_bytes: int, headers: Mapping[str, str] | None = None
    ) -> Iterator[tuple[Wire, AnswerHead]]:
        """The head of a good answer to a request without a body; failures of the block's reading are the site's."""
        try:
            with self._pool.wire() as wire:
                target = self._target(path)
                wire.begin(method, target, headers or {}, self._place.authority, self._wait_s(size_bytes))
                head = wire.answer()
                if head.status not in (200, 204, 206):
                    told = _whole(wire, head) if method != "HEAD" else _Told(head.status, head.headers, b"")
                    raise self._refused(told, key, writing=False)
                yield wire, head
        except Broken as broken:
            raise self._failed(broken, key, writing=False) from broken

    def _require(self, told: _Told, key: Key, *good: int) -> None:
        if told.status not in good:
            raise self._refused(told, key, writing=True)

    def _refused(self, told: _Told, key: Key, *, writing: bool) -> ExclaveError:
        code, message = _words(told)
        said = f"{key} at {self.address}: HTTP {told.status} {code}".rstrip() + (f" ({message})" if message else "")
        match told.status:
            case 404 if not writing and code == "missing-object":
                return MissingObject(f"{key} is not at {self.address}", key=key)
            case 409 if not writing:
                return CorruptObject(said, key=key)
            case 416 if not writing:
                return CorruptObject(f"{key} at {self.address} is too short", key=key)
            case 507:
                return SiteFull(said, key=key)
            case 403 if writing and code in _GUARDED:
                return _GUARDED[code](said, key=key)
            case 401 | 403 if writing:
                return SiteReadOnly(said, key=key, refusal=code, hint=_HINTS.get(code, ""))
            case 500 if writing:
                return OutcomeUnknown(said, key=key)
            case 408 | 412 | 422 | 429 | 500 | 503:
                return SiteUnavailable(said, key=key)
        return SiteUnavailable(said, key=key, permanent=True, hint=_HINTS.get(code, ""))

    def _failed(self, broken: Broken, key: Key, *, writing: bool) -> ExclaveError:
        if broken.permanent or not broken.sent:  # it has nothing to do with this object
            text, lasts = f"{self.address}: {broken.why}", {"permanent": True} if broken.permanent else {}
            return SiteUnavailable(text, key=key, silent=broken.silent, hint=broken.hint, **lasts)
        text = f"{key} at {self.address}: {broken.why}"
        if writing:
            return OutcomeUnknown(text, key=key, silent=broken.silent, hint=broken.hint)
        return SiteUnavailable(text, key=key, silent=broken.silent, hint=broken.hint)

    def _nonsense(self, what: str) -> ExclaveError:
        return SiteUnavailable(f"{self.address} sent {what}", permanent=True)

    def _wait_s(self, size_bytes: int) -> float:
        return self._small_s if size_bytes <= _SMALL_BYTES else self._large_s

    def _object(self, key: Key) -> str:
        return f"o/{parse_key(key)}"

    def _target(self, path: str) -> str:
        return f"/v1/{self._place.fingerprint}/{path}"


def _digest_in(key: Key) -> Digest | None:
    """The SHA-256 that a name ends in, if it does."""
    try:
        return parse_digest(key.rpartition("/")[2])
    except MalformedError:
        return None


def _checked_length(head: AnswerHead, key: Key, limit: int) -> int:
    if head.length > limit:
        raise CorruptObject(f"{key} is {head.length} bytes long; at most {limit} can be right", key=key)
    return head.length


def _whole(wire: Wire, head: AnswerHead) -> _Told:
    """An answer with its short body; of a longer one nothing is read, and the connection ends."""
    if head.length > _MAX_TOLD_BYTES:
        wire.keeps = False
        return _Told(head.status, head.headers, b"")
    data = bytearray(0 if head.status == 204 else head.length)
    wire.body_into(memoryview(data))
    return _Told(head.status, head.headers, bytes(data))


def _words(told: _Told) -> tuple[str, str]:
    """Code and message of a refusal: plain characters, whatever a host sent."""
    code, message = told.headers.get("exclave-code", ""), _MESSAGE.search(told.body)
    text = message[1].decode("ascii", "replace") if message else ""
    return code if _CODE.match(code) else "", "".join(c for c in text if c.isprintable())


def _page(data: bytes, prefix: str, after: str) -> tuple[list[ObjectStat], bool]:
    """Names in order, all of them new; a page that promises more is full, so none is asked for in vain. ``_NoList``."""
    lines = data.decode("ascii", "replace").split("\n")
    rest, last = lines.pop(), lines.pop() if lines else ""
    found: list[ObjectStat] = []
    for line in lines:
        one = _LINE.match(line)
        if one is None or not one[2].startswith(prefix) or one[2] <= after:
            raise _NoList
        after = one[2]
        try:
            found.append(ObjectStat(parse_key(after), int(one[1])))
        except MalformedError as error:
            raise _NoList from error
    if rest or last not in ("more", "end") or len(found) > _PAGE or (last == "more" and len(found) < _PAGE):
        raise _NoList
    return found, last == "more"

"""Objects over HTTP: what each request of ``docs/spec/gateway.md`` does to the folder of a state.

Nothing here holds a large object in memory: its bytes pass through the connection's one buffer, and each piece of work
on the disk waits for the state's turn, while waiting for the network holds none.
"""

from __future__ import annotations

import base64
import os
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from threading import BoundedSemaphore
from typing import Final

from exclave.errors import CorruptObject, HeadMoved, MalformedError
from exclave.ids import Digest, Key, parse_count, parse_digest, parse_key, sha256
from exclave.serve.site_connection import Exchange
from exclave.serve.site_contract import GUARDED_BYTES, Answer, Duties, HostedState, Kind, Refusal, Write
from exclave.serve.site_message import BadRequest, told
from exclave.serve.site_turns import Turns
from exclave.serve.site_usage import FolderUsage
from exclave.sites.arriving import PIECE_BYTES, Arrival, PieceWriter
from exclave.sites.contract import MAX_HEAD_BYTES, MAX_OBJECT_BYTES
from exclave.sites.throttle import TokenBucket

MAX_PAGE: Final = 1000
"""Names on one page of a list."""
LARGE_BODY_BYTES: Final = 1 << 20
SMALL_BYTES: Final = 64 << 10
"""What is read is sent by whoever decides; of more, each piece goes from the file to the client."""
_OCTETS = "application/octet-stream"
_NONE = "none"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A state at work: what the requests of its own share, or those of everybody else at its address."""

    state: HostedState
    usage: FolderUsage
    turns: Turns
    line: str
    """In which line these requests wait for their turns."""
    uploads: BoundedSemaphore
    bodies: BoundedSemaphore
    """Of bodies above ``LARGE_BODY_BYTES`` that are in memory for a duty."""
    bytes_left: TokenBucket
    requests_left: TokenBucket
    duties: Duties

    def turn(self) -> AbstractContextManager[None]:
        return self.turns.of(self.line)


class _Refused(Exception):
    """A guard said no."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


# Reading


def read_object(tenant: Tenant, exchange: Exchange, key: Key) -> None:
    """GET and HEAD of an object, whole or one range of it."""
    asked = _range(exchange.head.headers.get("range"))
    with ExitStack() as stack:
        with tenant.turn():
            fd, size = stack.enter_context(tenant.state.site.opened(key))
        begin, end = asked if asked is not None else (0, size)
        if end > size:
            exchange.answer(told(416, "too-short", f"the object has {size} bytes", content_range=f"bytes */{size}"))
            return
        headers = {"Content-Type": _OCTETS, "Accept-Ranges": "bytes"}
        if asked is not None:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        exchange.begin(200 if asked is None else 206, end - begin, headers)
        if exchange.head.method == "GET":
            _send_file(tenant, exchange, fd, begin, end)


def _send_file(tenant: Tenant, exchange: Exchange, fd: int, at: int, end: int) -> None:
    if end - at <= SMALL_BYTES:
        _send_small(tenant, exchange, fd, at, end - at)
        return
    with exchange.connection.using(fd) as pipe:
        while at < end:
            length = min(PIECE_BYTES, end - at)
            tenant.bytes_left.take(length)
            with tenant.turn():
                count = pipe.load(at, length)
            _require_some(count)
            exchange.send_piece(count)
            at += count


def _send_small(tenant: Tenant, exchange: Exchange, fd: int, at: int, length: int) -> None:
    tenant.bytes_left.take(length)
    with tenant.turn():
        data = os.pread(fd, length, at)
    _require_some(length == len(data))
    exchange.send(data)


def _require_some(count: int) -> None:
    """Of bytes that must be there."""
    if not count:  # it became shorter, or the disk fails: the client must not take what came for all of it
        raise CorruptObject("an object became shorter while it was read")


def _range(text: str | None) -> tuple[int, int] | None:
    """First byte and the one after the last: ``bytes=FIRST-LAST``, in no other form."""
    if text is None:
        return None
    first, dash, last = text.removeprefix("bytes=").partition("-")
    if not text.startswith("bytes=") or not dash:
        raise MalformedError("a range is bytes=FIRST-LAST")
    begin, end = parse_count(first, limit=1 << 50), parse_count(last, limit=1 << 50) + 1
    if end <= begin:
        raise MalformedError("a range ends after it begins")
    return begin, end


def read_digest(tenant: Tenant, key: Key) -> Answer:
    """GET of an object's digest as this host computes it: to compare copies cheaply, and no proof of anything."""
    with tenant.turn():
        found = tenant.state.site.digest(key)
    return Answer(200, f"{found.digest.hex()} {found.size_bytes}\n".encode())


def read_list(tenant: Tenant, prefix: str, after: str, most: int) -> Answer:
    """GET of a page of names: a line ``SIZE NAME`` each, and at last ``end`` or ``more``."""
    if prefix and not prefix.endswith("/"):
        raise MalformedError("a prefix is empty or ends in '/'")
    parse_key(prefix + "x")
    if after:
        parse_key(after)
    if not 1 <= most <= MAX_PAGE:
        raise MalformedError(f"a page has 1 to {MAX_PAGE} names")
    with tenant.turn():
        found = list(islice(tenant.state.site.list_after(prefix, after), most + 1))
    lines = [f"{item.size_bytes} {item.key}\n" for item in found[:most]]
    return Answer(200, "".join([*lines, "more\n" if len(found) > most else "end\n"]).encode())


def read_upload(tenant: Tenant, digest: Digest) -> Answer:
    """HEAD of a broken upload: how much of it is here."""
    with tenant.turn():
        offset = tenant.state.site.uploaded(digest)
    return Answer(204, headers=(("Upload-Offset", str(offset)),))


# Writing


def write_object(tenant: Tenant, exchange: Exchange, key: Key) -> Answer:
    """PUT of an object, in one of the four ways."""
    write, offset = _wanted(tenant, exchange, key)
    if not tenant.uploads.acquire(blocking=False):
        most = tenant.state.config.uploads
        return told(429, "too-many-uploads", f"{most} writes of this state are under way", retry_after="1")
    try:
        _ask(tenant, write)
        if write.kind is Kind.REPLACE:
            return _replace(tenant, exchange, write)
        return _receive(tenant, exchange, write, offset)
    except _Refused as refused:
        return told(refused.refusal.status, refused.refusal.code, refused.refusal.message)
    finally:
        tenant.uploads.release()


def _wanted(tenant: Tenant, exchange: Exchange, key: Key) -> tuple[Write, int]:
    """What the headers ask for, and the offset at which the body begins."""
    headers = exchange.head.headers
    word = headers.get("exclave-write", "")
    if word not in set(Kind):
        raise MalformedError("Exclave-Write is one of new, same, replace and spoilt")
    kind = Kind(word)
    offset = parse_count(headers.get("upload-offset", "0"), limit=MAX_OBJECT_BYTES)
    size = exchange.head.length + offset
    limit = MAX_HEAD_BYTES if kind is Kind.REPLACE else MAX_OBJECT_BYTES
    if "content-length" not in headers:
        raise BadRequest(411, "length-required", "a body needs Content-Length")
    if size > limit:
        raise BadRequest(413, "too-large", f"at most {limit} bytes are taken here")
    if offset % PIECE_BYTES or (offset and kind is Kind.REPLACE):
        raise MalformedError(f"Upload-Offset is a multiple of {PIECE_BYTES}, and not of a head")
    expected: str | None = None
    if kind in (Kind.REPLACE, Kind.SPOILT):
        text = headers.get("exclave-expected", "")
        expected = None if text == _NONE else parse_digest(text).hex()
    elif "exclave-expected" in headers:
        raise MalformedError("Exclave-Expected belongs to replace and spoilt")
    digest = parse_repr_digest(headers.get("repr-digest", ""))
    return Write(tenant.state.fingerprint, kind, key, size, exchange.who, digest, expected=expected), offset


def parse_repr_digest(text: str) -> Digest:
    """``sha-256=:BASE64:``, one of the forms of RFC 9530."""
    inner = text.removeprefix("sha-256=:").removesuffix(":")
    try:
        data = base64.b64decode(inner.encode("ascii"), validate=True)
    except ValueError as error:
        raise MalformedError("Repr-Digest is sha-256=:BASE64:") from error
    if len(data) != 32 or text != f"sha-256=:{base64.b64encode(data).decode()}:":
        raise MalformedError("Repr-Digest is sha-256=:BASE64:")
    return Digest(data)


def _ask(tenant: Tenant, write: Write) -> None:
    for guard in tenant.duties.guards:
        refusal = guard(write)
        if refusal is not None:
            raise _Refused(refusal)


def _replace(tenant: Tenant, exchange: Exchange, write: Write) -> Answer:
    site = tenant.state.site
    data = exchange.whole_body(MAX_HEAD_BYTES)
    write = replace(write, data=data)
    if sha256(data) != write.digest:
        return told(422, "wrong-bytes", "the bytes do not come to the SHA-256 that was told for them")
    tenant.bytes_left.take(len(data))
    with tenant.turn():
        _ask(tenant, write)
        there = site.stat(write.key)
        if there is None and write.expected is not None:  # before a folder is made for it
            raise HeadMoved(f"{write.key} is not here", key=write.key)
        with tenant.usage.room(write.key, len(data), replaces_bytes=there.size_bytes if there else None) as room:
            tag = site.replace_if(write.key, data, write.expected)
            room.use()
        _tell(tenant, write)
    return Answer(200, f"{tag}\n".encode())


def _receive(tenant: Tenant, exchange: Exchange, write: Write, offset: int) -> Answer:
    """NEW, SAME and SPOILT.

    (1) what can be said without the bytes is said, (2) room is held, (3) the bytes come, (4) they are checked and reach
    the disk, (5) the guards are asked again, (6) the object gets its name, durably. Only then is it answered.
    """
    site = tenant.state.site
    replaced: int | None = None
    with tenant.turn():  # (1)
        there = site.stat(write.key)
        if write.kind is Kind.NEW and there is not None:
            return told(409, "already-exists", f"{write.key} is already here")
        if write.kind is Kind.SAME and there is not None and site.holds(write.key, write.digest, write.size_bytes):
            return Answer(200)
        if write.kind is Kind.SPOILT:
            if not os.path.lexists(os.path.join(tenant.state.folder, write.key)):
                raise HeadMoved(f"{write.key} is not here", key=write.key)
            replaced = there.size_bytes if there else 0
    with (
        tenant.usage.room(write.key, write.size_bytes, replaces_bytes=replaced) as room,  # (2)
        site.arriving(write.key, write.size_bytes, write.digest, offset) as arrival,
    ):
        last, found = _take_body(tenant, exchange, arrival)  # (3)
        with tenant.turn():
            try:
                arrival.check(found)  # (4)
            except CorruptObject as error:
                return told(422, "wrong-bytes", error.message)
            write = replace(write, data=last)
            _ask(tenant, write)  # (5)
            room.used = _name(tenant, write, arrival)  # (6)
            _tell(tenant, write)
    return Answer(201)


def _take_body(tenant: Tenant, exchange: Exchange, arrival: Arrival) -> tuple[bytes | None, bytes]:
    """Takes the body into the file; all its bytes, for the guards, or None if they are many; and their SHA-256."""
    if arrival.size_bytes <= GUARDED_BYTES:
        return _take_small(tenant, exchange, arrival)
    with exchange.connection.using(arrival.fd, arrival.offset) as pipe:
        while exchange.left:
            length = min(PIECE_BYTES, exchange.left)
            exchange.take_piece(length)
            tenant.bytes_left.take(length)
            with tenant.turn():
                pipe.store(length)
            arrival.offset += length
        return None, pipe.digest()


def _take_small(tenant: Tenant, exchange: Exchange, arrival: Arrival) -> tuple[bytes, bytes]:
    data = exchange.whole_body(GUARDED_BYTES)
    tenant.bytes_left.take(len(data))
    with tenant.turn():
        writer = PieceWriter(arrival.fd)
        writer.write(memoryview(data))
    arrival.offset = len(data)
    return data, writer.digest()


def _name(tenant: Tenant, write: Write, arrival: Arrival) -> bool:
    """Whether the object is new, or in another's place; False if it was there already."""
    site = tenant.state.site
    if write.kind is Kind.SAME:
        return site.name_same(write.key, arrival)
    if write.kind is Kind.NEW:
        site.name_new(write.key, arrival)
    else:
        spoilt = None if write.expected is None else Digest(bytes.fromhex(write.expected))
        site.name_in_place_of(write.key, arrival, spoilt)
    return True


def _tell(tenant: Tenant, write: Write) -> None:
    for told_of in tenant.duties.written:
        told_of(tenant.state, write)

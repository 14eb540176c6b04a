"""A bucket's engine that answers with what no engine says costs this site alone, and no reader's memory or life."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from exclave.errors import CorruptObject, SiteUnavailable
from exclave.ids import Instant, Key, sha256
from exclave.sites.contract import ObjectStat
from exclave.sites.listed import by_folders
from exclave.sites.open_s3 import S3Address
from exclave.sites.s3 import S3Keys, S3Place, S3Site
from exclave.sites.s3_by_version import LockedReader
from exclave.sites.s3_erasing import S3Eraser
from exclave.sites.s3_probe import LockProbe
from exclave.sites.s3_versions import S3Versions, instant_of, open_client

KEYS = S3Keys("reader", "secret")
KEY = Key(f"fp/register/box/{sha256(b'x').hex()}")
META = 'ETag: "x"\r\nLast-Modified: Mon, 23 Nov 2026 14:22:00 GMT\r\n'
Answering = Callable[[str], Iterator[bytes]]


@contextmanager
def engine(answering: Answering) -> Iterator[S3Place]:
    """An engine whose every answer is what ``answering`` gives for the request's target."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            self.close_connection = True
            if self.raw_requestline and self.parse_request():
                self.rfile.read(int(self.headers.get("content-length", "0")))
                try:
                    for part in answering(self.path):
                        self.wfile.write(part)
                except OSError:
                    pass  # the client has had enough

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield S3Place("bucket", "", f"http://127.0.0.1:{server.server_port}", "us-east-1")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def whole(body: str, headers: str = META) -> bytes:
    return f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def versions_at(place: S3Place) -> S3Versions:
    return S3Versions(place, open_client(place, KEYS, "", 5))


def told(at: str = "2026-11-23T14:22:00Z", size: str = "1", key: str = str(KEY)) -> str:
    item = f"<Key>{key}</Key><VersionId>v</VersionId><LastModified>{at}</LastModified><Size>{size}</Size>"
    return f"<ListVersionsResult><IsTruncated>false</IsTruncated><Version>{item}</Version></ListVersionsResult>"


NONSENSE = {
    "a page of a log-in": "<html>",
    "a time that is none": told(at="yesterday"),
    "a size of many digits": told(size="9" * 10_000),
    "another name": told(key="elsewhere"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_versions_that_are_none(what: str) -> None:
    """Whatever comes in the place of a list of versions, this site is unavailable, and others can be asked."""
    with engine(lambda _: iter([whole(NONSENSE[what])])) as place:
        versions = versions_at(place)
        bucket = S3Site(place, KEYS)
        reader = LockedReader("s3://lies", bucket, bucket, versions)
        eraser = S3Eraser(S3Address(place, KEYS, ""))
        calls: list[Callable[[], object]] = [
            lambda: versions.of(KEY), lambda: versions.level("fp/"), lambda: reader.stat(KEY),
            lambda: list(reader.list("fp/")),
        ]  # fmt: skip
        if "name" not in what:
            calls.append(lambda: eraser.shown_since(KEY))
        for call in calls:
            with pytest.raises(SiteUnavailable):
                call()


@pytest.mark.parametrize("until", ["yesterday", "99999999999999999999"])
def test_locks_that_are_none(until: str) -> None:
    """A lock until no time is a failure of the site; one whose time names no zone is in UTC."""
    headers = f"{META}x-amz-object-lock-mode: COMPLIANCE\r\nx-amz-object-lock-retain-until-date: {until}\r\n"
    with engine(lambda _: iter([whole("", headers)])) as place, pytest.raises(SiteUnavailable):
        versions_at(place).lock(KEY, "v")
    assert instant_of(datetime(1970, 1, 2)) == Instant(86_400_000_000)  # noqa: DTZ001 as engines may tell it


def test_whether_it_can_lock_is_not_told() -> None:
    """An answer that is none is not held against a bucket: its own refusal counts."""
    with engine(lambda _: iter([whole("<html>")])) as place:
        assert versions_at(place).can_lock()


def test_a_probe_of_such_an_engine_has_a_verdict() -> None:
    """A promise that is answered with nonsense is broken; the probe goes on."""
    with engine(lambda _: iter([whole("<html>")])) as place:
        url = f"s3://bucket/p?endpoint={place.endpoint}&lock=compliance&lock_days=1"
        environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        promise = LockProbe(url, token="t", environment=environment).one("lock-set")
    assert not promise.kept


def test_a_list_of_versions_that_drips() -> None:
    """A byte now and then begins a socket's time anew; the time for the whole answer has an end all the same."""
    over = threading.Event()

    def drip(_: str) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX-Drip: "
        while not over.wait(0.05):
            yield b"a"

    with engine(drip) as place:
        versions = S3Versions(place, open_client(place, KEYS, "", 5), within_s=0.5)
        try:
            for call in (lambda: versions.of(KEY), lambda: versions.lock(KEY, "v")):
                with pytest.raises(SiteUnavailable, match="too slowly"):
                    call()
        finally:
            over.set()


SENT_AT_MOST = 64 << 20


@pytest.mark.parametrize("call", ["get", "get_range", "digest"])
def test_a_body_without_end(call: str) -> None:
    """Five bytes are told, and pieces follow without end: not even a small part of them is taken into memory."""
    sent = 0

    def without_end(_: str) -> Iterator[bytes]:
        nonlocal sent
        status, part = ("206 Some", "Content-Range: bytes 0-4/5\r\n") if call == "get_range" else ("200 OK", "")
        yield f"HTTP/1.1 {status}\r\n{META}{part}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        piece = b"40000\r\n" + bytes(0x40000) + b"\r\n"
        while sent < 4 * SENT_AT_MOST:
            yield piece
            sent += 0x40000
        yield b"0\r\n\r\n"

    with engine(without_end) as place:
        site = S3Site(place, KEYS)
        calls: dict[str, Callable[[], object]] = {
            "get": lambda: site.get(KEY, limit=100),
            "get_range": lambda: site.get_range(KEY, 0, 5),
            "digest": lambda: site.digest(KEY, limit=100),
        }
        with pytest.raises((SiteUnavailable, CorruptObject)):
            calls[call]()
    assert sent < SENT_AT_MOST


def listing(names: list[str], *, folders: tuple[str, ...] = (), after: str = "") -> bytes:
    time = "<LastModified>2026-11-23T14:22:00.000Z</LastModified>"
    contents = "".join(f"<Contents><Key>{name}</Key><Size>1</Size>{time}</Contents>" for name in names)
    inner = "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in folders)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{after}</NextContinuationToken>" if after else ""
    return whole(f"<ListBucketResult>{more or '<IsTruncated>false</IsTruncated>'}{contents}{inner}</ListBucketResult>")


def test_names_that_are_none_without_end() -> None:
    """Pages full of names that are no keys, each promising more: they are left for the listing by folders."""
    pages = 0

    def without_end(target: str) -> Iterator[bytes]:
        nonlocal pages
        if "delimiter" in parse_qs(urlsplit(target).query):
            yield listing(["a/x", "a/NO-KEY"])
            return
        pages += 1
        if pages > 1000:
            yield whole("")
            return
        yield listing([f"a/NO-KEY-{pages}-{n}" for n in range(100)], after=f"t{pages}")

    with engine(without_end) as place:
        assert [stat.key for stat in S3Site(place, KEYS, sorted_at_once=300).list("a/")] == ["a/x"]
    assert pages < 20


def test_folders_that_are_made_up() -> None:
    """Folders without objects end a listing, however many there are and however deep; those with one do not."""

    def inside(prefix: str) -> Iterator[ObjectStat]:
        yield ObjectStat(Key(f"{prefix}a/"), 0)
        yield ObjectStat(Key(f"{prefix}b/"), 0)

    with pytest.raises(SiteUnavailable, match="20 folders in a row"):
        list(by_folders(inside, "", "s3://lies", most_barren=20))
    with pytest.raises(SiteUnavailable, match="20 folders in a row"):
        list(by_folders(inside, "", "s3://lies", deepest=6, most_barren=20))

    def right(prefix: str) -> Iterator[ObjectStat]:
        for number in range(30):
            yield ObjectStat(Key(f"{prefix}{number:02}{'' if prefix else '/'}"), 1)

    assert len(list(by_folders(right, "", "s3://right", most_barren=1))) == 900

"""S3 sites whose engine refuses, breaks off, lies or is gone."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from exclave.errors import (
    AlreadyExists,
    CorruptObject,
    ExclaveError,
    MissingObject,
    OutcomeUnknown,
    SiteFull,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.ids import Key
from exclave.sites.bucket_list import list_folder, list_pages
from exclave.sites.contract import ObjectStat
from exclave.sites.listed import listed
from exclave.sites.opening import open_site
from exclave.sites.s3 import S3Keys, S3Place, S3Site
from exclave.sites.s3_versions import S3Versions, open_client
from support.seaweed import ACCESS_KEY, READER_KEY, READER_SECRET, SECRET_KEY, Seaweed, free_ports, running_seaweed

KEY = Key("folder/object")
KEYS = S3Keys(ACCESS_KEY, SECRET_KEY)


def _site(endpoint: str, *, keys: S3Keys = KEYS, bucket: str = "exclave-a", timeout_s: float = 5.0) -> S3Site:
    place = S3Place(bucket, secrets.token_hex(8), endpoint, "us-east-1")
    site = S3Site(place, keys, small_timeout_s=timeout_s, large_timeout_s=timeout_s)
    site._conditions._objects = site._conditions._heads = True  # asked by an earlier write of the same process
    return site


def _writes(site: S3Site) -> dict[str, Callable[[], object]]:
    return {
        "put_new": lambda: site.put_new(KEY, b"data"),
        "replace_if": lambda: site.replace_if(KEY, b"data", None),
    }


def _reads(site: S3Site) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: site.get(KEY),
        "get_range": lambda: site.get_range(KEY, 0, 1),
        "stat": lambda: site.stat(KEY),
        "list": lambda: list(site.list("")),
        "read_head": lambda: site.read_head(KEY),
    }


def test_wrong_keys(seaweed: Seaweed) -> None:
    """With a wrong key every operation says that access was refused, for good, and shows no secret."""
    site = _site(seaweed.endpoint, keys=S3Keys("NOBODY", "very-secret-text"))
    for call in (_reads(site) | _writes(site) | {"put_same": lambda: site.put_same(KEY, b"data")}).values():
        with pytest.raises(SiteUnavailable, match="access refused") as caught:
            call()
        assert caught.value.facts["permanent"]
        assert "very-secret-text" not in repr(caught.value) + repr(caught.value.__cause__)
    assert "very-secret-text" not in repr(S3Keys("NOBODY", "very-secret-text")) + site.address


def test_reader_may_not_write(seaweed: Seaweed) -> None:
    """Keys that may only read make the site read-only."""
    site = _site(seaweed.endpoint, keys=S3Keys(READER_KEY, READER_SECRET))
    for call in (_writes(site) | {"put_same": lambda: site.put_same(KEY, b"data")}).values():
        with pytest.raises(SiteReadOnly):
            call()
    assert site.stat(KEY) is None


def test_missing_bucket(seaweed: Seaweed) -> None:
    """A bucket that is gone is an unavailable site, never an empty one."""
    for number in range(6):
        site = _site(seaweed.endpoint, bucket="exclave-none")
        call = [*_reads(site).values(), _writes(site)["put_new"]][number]
        with pytest.raises(SiteUnavailable, match="no bucket"):
            call()


def test_nobody_listens() -> None:
    """Without a connection nothing was done, and the caller is told so."""
    site = _site(f"http://127.0.0.1:{free_ports(1)[0]}")
    for call in (_reads(site) | _writes(site) | {"put_same": lambda: site.put_same(KEY, b"data")}).values():
        with pytest.raises(SiteUnavailable) as caught:
            call()
        assert not caught.value.facts.get("permanent")


def test_engine_dies(tmp_path: Path) -> None:
    """An engine that dies between two calls makes the site unavailable and loses nothing of what it confirmed."""
    with running_seaweed(tmp_path) as engine:
        site = _site(engine.endpoint)
        site.put_new(KEY, b"data")
        assert site.get(KEY) == b"data"
    for call in (_reads(site) | _writes(site)).values():
        with pytest.raises((SiteUnavailable, OutcomeUnknown)):
            call()


def test_listing_longer_than_a_page(seaweed: Seaweed) -> None:
    """A listing over several of the engine's pages is complete and in order."""
    site = _site(seaweed.endpoint)
    names = [Key(f"many/{number % 3}/{number:04d}") for number in range(1050)]
    threads = [
        threading.Thread(target=lambda part: [site.put_new(k, b"") for k in part], args=(names[n::8],))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.key for item in site.list("many/")] == sorted(names)
    prefix = site.address.split("/")[3].partition("?")[0]
    by_folder = S3Site(S3Place("exclave-a", prefix, seaweed.endpoint, "us-east-1"), KEYS, sorted_at_once=100)
    assert [item.key for item in by_folder.list("")] == sorted(names)


def test_environment_does_not_matter(seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that steer other S3 programs do not redirect or weaken a site."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_SESSION_TOKEN": "stale",
        "AWS_ACCESS_KEY_ID": "other",
        "AWS_SECRET_ACCESS_KEY": "other",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_CONDITIONAL_PUT": "disabled",
        "AWS_REGION": "mars-north-1",
    }.items():
        monkeypatch.setenv(name, value)
    site = open_site(seaweed.url(secrets.token_hex(8), credentials=seaweed.credentials_file(tmp_path)))
    site.put_new(KEY, b"data")
    with pytest.raises(AlreadyExists):
        site.put_new(KEY, b"other")


# An engine that answers whatever a test wants.


def _http(status: int, headers: str, body: str, *, length: int | None = None) -> bytes:
    """An answer; ``length`` lies about the body's."""
    length = len(body) if length is None else length
    return f"HTTP/1.1 {status} Said\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}".encode()


class _Scripted:
    """A server whose every answer is ``raw`` (bytes of HTTP); an empty one closes the connection."""

    def __init__(self) -> None:
        self.raw = b""
        self.silent = threading.Event()
        self.requests: list[str] = []
        self.headers: list[set[str]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                self.close_connection = True
                if self.raw_requestline and self.parse_request():
                    self.rfile.read(int(self.headers.get("content-length", "0")))
                    script.requests.append(self.requestline)
                    script.headers.append({name.lower() for name in self.headers})
                    self.wfile.write(script.raw)
                    script.silent.wait(10)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.silent.set()

    def answer(self, status: int, code: str = "", headers: str = "") -> None:
        body = f"<Error><Code>{code}</Code><Message>\x1b[31mlie</Message></Error>" if code else ""
        self.raw = _http(status, headers, body)


@pytest.fixture
def scripted() -> Iterator[_Scripted]:
    """A scripted engine on loopback."""
    script = _Scripted()
    thread = threading.Thread(target=script.server.serve_forever, args=(0.02,))
    thread.start()
    yield script
    script.silent.set()
    script.server.shutdown()
    thread.join()
    script.server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "writing", "reading"),
    [
        (507, "", SiteFull, SiteFull),
        (400, "QuotaExceeded", SiteFull, SiteFull),
        (403, "QuotaExceeded", SiteFull, SiteFull),
        (403, "AccessDenied", SiteReadOnly, SiteUnavailable),
        (403, "InvalidAccessKeyId", SiteUnavailable, SiteUnavailable),
        (404, "NoSuchBucket", SiteUnavailable, SiteUnavailable),
        (404, "NoSuchKey", SiteUnavailable, MissingObject),
        (409, "ConditionalRequestConflict", SiteUnavailable, SiteUnavailable),
        (400, "EntityTooLarge", SiteUnavailable, SiteUnavailable),
        (400, "BadDigest", SiteUnavailable, SiteUnavailable),
        (503, "SlowDown", SiteUnavailable, SiteUnavailable),
        (429, "", SiteUnavailable, SiteUnavailable),
        (500, "InternalError", OutcomeUnknown, SiteUnavailable),
        (502, "", OutcomeUnknown, SiteUnavailable),
        (301, "PermanentRedirect", OutcomeUnknown, SiteUnavailable),
    ],
)
def test_refusals(scripted: _Scripted, status: int, code: str, writing: type, reading: type) -> None:
    """Each answer of an engine becomes the right kind of error, asked once, and none of its bytes are repeated."""
    scripted.answer(status, code)
    site = _site(scripted.endpoint)
    kinds = [(writing, call) for call in _writes(site).values()] + [(reading, _reads(site)["get"])]
    for expected, call in kinds:
        scripted.requests.clear()
        with pytest.raises(ExclaveError) as caught:
            call()
        assert type(caught.value) is expected, caught.value
        assert "\x1b" not in str(caught.value)
        assert len(scripted.requests) == 1
    with pytest.raises(ExclaveError) as caught:
        site.put_same(KEY, b"data")
    assert not isinstance(caught.value, OutcomeUnknown)


@pytest.mark.parametrize("status", [304, 412])
def test_a_read_has_no_condition(scripted: _Scripted, status: int) -> None:
    """An engine that says that a condition failed, where none was made, is unavailable: others are asked."""
    scripted.answer(status)
    for call in _reads(_site(scripted.endpoint)).values():
        with pytest.raises(SiteUnavailable):
            call()


def test_dropped_connection(scripted: _Scripted) -> None:
    """A connection that closes without an answer leaves a write unknown and a read to be repeated."""
    site = _site(scripted.endpoint)
    for call in _writes(site).values():
        with pytest.raises(OutcomeUnknown):
            call()
    for call in _reads(site).values():
        with pytest.raises(SiteUnavailable):
            call()


def test_silent_engine(scripted: _Scripted) -> None:
    """An engine that takes the request and says nothing is waited for no longer than the timeout."""
    scripted.silent.clear()
    site = _site(scripted.endpoint, timeout_s=0.2)
    with pytest.raises(OutcomeUnknown):
        site.put_new(KEY, b"data")
    with pytest.raises(SiteUnavailable):
        site.get(KEY)


def test_nothing_is_asked_before_a_put(scripted: _Scripted) -> None:
    """An object costs one request; only after a lost answer the engine is asked first whether it has it."""
    site = _site(scripted.endpoint)
    data = memoryview(bytes(2 << 20))

    def methods() -> list[str]:
        found = [line.split()[0] for line in scripted.requests]
        scripted.requests.clear()
        return found

    scripted.raw = _http(200, META, "")
    site.put_same(KEY, data)
    assert methods() == ["PUT"]
    scripted.raw = b""
    with pytest.raises(SiteUnavailable):
        site.put_same(KEY, data)
    methods()
    scripted.answer(500)
    with pytest.raises(SiteUnavailable):
        site.put_same(KEY, data)
    assert methods() == ["HEAD"]


META = 'ETag: "x"\r\nLast-Modified: Mon, 23 Nov 2026 14:22:00 GMT\r\n'


def test_truncated_answer(scripted: _Scripted) -> None:
    """A body that ends before its announced length is a failure to repeat, not an object."""
    scripted.raw = _http(200, META, "half", length=10)
    with pytest.raises(SiteUnavailable):
        _site(scripted.endpoint).get(KEY)


def test_huge_answer_is_not_read(scripted: _Scripted) -> None:
    """An object that announces more than the limit is refused before its bytes are fetched."""
    scripted.raw = _http(200, META, "", length=1 << 40)
    with pytest.raises(CorruptObject, match="at most"):
        _site(scripted.endpoint).get(KEY)


def test_wrong_range(scripted: _Scripted) -> None:
    """An engine that answers with another range than the one asked for is not believed."""
    for headers, status, body in (
        ("Content-Range: bytes 4-7/100\r\n", 206, "abcd"),
        ("Content-Range: bytes 0-1/2\r\n", 206, "ab"),
        ("", 200, "abcdefgh"),
    ):
        scripted.raw = _http(status, META + headers, body)
        with pytest.raises((CorruptObject, SiteUnavailable)):
            _site(scripted.endpoint).get_range(KEY, 0, 4)


def test_garbage_listing(scripted: _Scripted) -> None:
    """A listing that is not XML makes the site unavailable."""
    scripted.raw = _http(200, "", "<a><b/>")
    with pytest.raises(SiteUnavailable):
        list(_site(scripted.endpoint).list(""))


def test_hostile_names_in_listing(scripted: _Scripted) -> None:
    """Names that are no keys, or lie outside what was asked for, are left out."""
    site = _site(scripted.endpoint)
    prefix = site.address.split("/")[3].partition("?")[0]
    names = [f"{prefix}/ok/a", f"{prefix}/ok/UPPER", f"{prefix}/other/b", f"{prefix}/ok/.hidden", "elsewhere/c"]
    contents = "".join(
        f"<Contents><Key>{name}</Key><Size>3</Size><LastModified>2026-11-23T14:22:00.000Z</LastModified></Contents>"
        for name in names
    )
    body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    scripted.raw = _http(200, "", body)
    assert [(item.key, item.size_bytes) for item in site.list("ok/")] == [("ok/a", 3)]


def test_listing_of_empty_pages(scripted: _Scripted) -> None:
    """An engine that promises more for ever and sends nothing is left after the time for a page, also by folders."""
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"
    scripted.raw = _http(200, "", f"<ListBucketResult>{more}</ListBucketResult>")
    site = _site(scripted.endpoint)
    with pytest.raises(SiteUnavailable, match="too slowly"):
        list(list_pages(site._small, "a/", within_s=0.5))
    with pytest.raises(SiteUnavailable, match="too slowly"):
        list_folder(site._small, "a/", within_s=0.5)


def test_folder_in_itself(scripted: _Scripted) -> None:
    """A folder that is told to lie in itself is not looked into again: a listing by folders ends."""
    place = S3Place("exclave-a", "", scripted.endpoint, "us-east-1")
    names = "".join(
        f"<Contents><Key>a/{name}</Key><Size>3</Size><LastModified>2026-11-23T14:22:00.000Z</LastModified></Contents>"
        for name in "bc"
    )
    folders = "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in ("a/", "z/"))
    scripted.raw = _http(
        200, "", f"<ListBucketResult><IsTruncated>false</IsTruncated>{names}{folders}</ListBucketResult>"
    )
    site = S3Site(place, KEYS, sorted_at_once=1)
    assert [item.key for item in site.list("a/")] == ["a/b", "a/c"]


def test_versions_without_end(scripted: _Scripted) -> None:
    """A page of versions that leads to itself ends the listing, though each page is right by itself."""
    again = "<IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker>"
    scripted.raw = _http(200, "", f"<ListVersionsResult>{again}</ListVersionsResult>")
    place = S3Place("exclave-a", "", scripted.endpoint, "us-east-1")
    versions = S3Versions(place, open_client(place, KEYS, "", 5))
    with pytest.raises(SiteUnavailable, match="no end"):
        list(versions.under("a/"))
    with pytest.raises(SiteUnavailable, match="no end"):
        versions.level("a/")


_MADE = "<LastModified>2026-11-23T14:22:00.000Z</LastModified>"
_TOLD = [
    "no XML",
    "<a>",
    "<L>" + "<a>" * 9000,
    "<L><MaxKeys>many</MaxKeys></L>",
    "<L><Version><Key>a/b</Key></Version></L>",
    f"<L><Version>{_MADE}</Version></L>",
    "<L><Version><Key>a/b</Key><LastModified>now</LastModified></Version></L>",
    "<L><Version><Key>a/b</Key><LastModified>99999999999999999999</LastModified></Version></L>",
    f"<L><Version><Key>a/b</Key>{_MADE}<Size>long</Size></Version></L>",
]


@pytest.mark.parametrize("told", _TOLD)
def test_versions_that_cannot_be(scripted: _Scripted, told: str) -> None:
    """What no engine says of versions makes the site unavailable, and stops nobody who has other sites."""
    scripted.raw = _http(200, "", told)
    place = S3Place("exclave-a", "", scripted.endpoint, "us-east-1")
    versions = S3Versions(place, open_client(place, KEYS, "", 5))
    with pytest.raises(SiteUnavailable):
        versions.level("a/")
    with pytest.raises(SiteUnavailable):
        list(versions.under("a/"))
    versions.can_lock()


def test_a_time_of_a_lock_that_is_none(scripted: _Scripted) -> None:
    """The same of an answer's headers."""
    scripted.raw = _http(200, "x-amz-object-lock-retain-until-date: soon\r\n", "")
    place = S3Place("exclave-a", "", scripted.endpoint, "us-east-1")
    with pytest.raises(SiteUnavailable):
        S3Versions(place, open_client(place, KEYS, "", 5)).lock(KEY, "v")


@pytest.mark.parametrize("keys", [["a/x", "a/x"], ["a/y", "a/x"], ["b/x"], ["a/1", "a/2", "a/3", "a/4"]])
def test_listing_that_lies(keys: list[str]) -> None:
    """A name twice, out of order or not asked for, and more names than there can be, end a listing."""
    items = [ObjectStat(Key(key), 1) for key in keys]
    with pytest.raises(SiteUnavailable) as caught:
        list(listed(items, "a/", "s3://lies", most=3))
    assert caught.value.facts["permanent"]
    right = [ObjectStat(Key(f"a/{number}"), 1) for number in range(3)]
    assert list(listed(right, "a/", "s3://right", most=3)) == right


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_take_no_signature_along(scripted: _Scripted, status: int) -> None:
    """The HTTP client follows an engine that sends it elsewhere, but the signature stays behind."""
    elsewhere = _Scripted()
    thread = threading.Thread(target=elsewhere.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        elsewhere.answer(404, "NoSuchKey")
        scripted.answer(status, headers=f"Location: {elsewhere.endpoint}/x\r\n")
        with pytest.raises(MissingObject):
            _site(scripted.endpoint).get(KEY)
        assert [("authorization" in headers) for headers in scripted.headers] == [True]
        assert [("authorization" in headers) for headers in elsewhere.headers] == [False]
    finally:
        elsewhere.server.shutdown()
        thread.join()
        elsewhere.server.server_close()


def test_unreachable_port_is_quick() -> None:
    """A port that accepts nothing fails within the connect timeout."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        site = _site(f"http://127.0.0.1:{full.getsockname()[1]}", timeout_s=0.5)
        with pytest.raises(SiteUnavailable):
            site.put_new(KEY, b"")

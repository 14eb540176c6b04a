"""A reading room over HTTP: headers, hostile requests, limits, and parts that die, with a real nginx."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from exclave.errors import Busy, ConfigError
from exclave.serve.reading_admission import Limits
from exclave.serve.reading_nginx import RoomSettings, StaticLimits
from exclave.serve.reading_pages import style_name
from exclave.serve.reading_run import alone
from support.gazette_room import FIRST, Press, RunningRoom, act_files, law, running_room
from support.login_nginx import server_certificate

CSP = "default-src 'none'"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRoom]:
    press = Press()
    press.publish(FIRST)
    generous = Limits(client_burst=10_000, network_burst=10_000)
    with running_room(press, tmp_path_factory.mktemp("room"), limits=generous) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/acts/", "text/html; charset=utf-8"),
        ("/acts/2024", "text/html; charset=utf-8"),
        ("/act/2024/0002", "text/html; charset=utf-8"),
        ("/act/2024/0002/v1", "text/html; charset=utf-8"),
        ("/v/1/", "text/html; charset=utf-8"),
        ("/v/1/act/2024/0002/v2", "text/html; charset=utf-8"),
        ("/v/1/act/2024/0002/v2.txt", "text/plain; charset=utf-8"),
        ("/v/1/act/2024/0002/v2.proof", "application/octet-stream"),
        ("/versions", "text/html; charset=utf-8"),
        ("/check", "text/html; charset=utf-8"),
        ("/status", "text/html; charset=utf-8"),
        ("/feed.atom", "application/atom+xml; charset=utf-8"),
        ("/latest.json", "application/json; charset=utf-8"),
        ("/edition.txt", "text/plain; charset=utf-8"),
        ("/sitemap.xml", "application/xml"),
        ("/sitemap/1.xml", "application/xml"),
        ("/robots.txt", "text/plain; charset=utf-8"),
        ("/opensearch.xml", "application/opensearchdescription+xml"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/search?q=kala", "text/html; charset=utf-8"),
    ],
)
def test_every_address_has_its_type_and_its_fences(room: RunningRoom, path: str, kind: str) -> None:
    """One fixed type for each address, no guessing, a policy that lets nothing run, no cookie."""
    answer = room.get(path)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert CSP in answer.headers["content-security-policy"]
    assert "script" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"].startswith("public, max-age=")
    assert "set-cookie" not in answer.headers
    if not kind.startswith("text/html"):
        assert answer.headers["content-security-policy"].startswith("sandbox")


@pytest.mark.parametrize(
    "path",
    [
        "/search.sqlite", "/current/index.html", "/../seen.json", "/act/../../seen.json",
        "/act/%2e%2e/%2e%2e/seen.json",
        "/act/2024/0002.html", "/act/2024/0002.html.gz", "/index.html", "/_limited", "/run/nginx.conf", "/room.sqlite",
        "/bundles/", "/v/", "/v/1", "/v/1/act/", "/act/", "/act/2024", "/act/2024/9999", "/act//2024/0002\\",
        "/act/%00",
        "/v/1/act/2024/0002/v2.txt.gz", "/file/" + "0" * 64, "/file/../seen.json", "/assets/style.css", "/.git/config",
        "/status/status.html", "/health", "/search/", "//etc/passwd", "/%5c..%5cseen.json",
    ],
)  # fmt: skip
def test_nothing_else_has_an_address(room: RunningRoom, path: str) -> None:
    """The room's own files, paths that climb and what never was: not found, and fenced like every page."""
    answer = room.get(path)
    assert answer.status in (400, 404)
    assert CSP in answer.headers["content-security-policy"]
    assert b"fingerprint" not in answer.body.replace(b"the state\xe2\x80\x99s fingerprint", b"")


def test_a_file_of_an_act_is_never_shown_as_what_it_claims_to_be(room: RunningRoom) -> None:
    """HTML that belongs to an act is a download of bytes, in a sandbox, under its own name."""
    page = room.get("/act/2023/0100").text
    at = page.index('href="/file/')
    path = page[at + 6 : page.index('"', at + 6)]
    answer = room.get(path)
    assert answer.body == b"<script>alert(3)</script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert 'download="map &amp; &lt;b&gt;.html"' in page


def test_conditional_partial_and_packed_answers(room: RunningRoom) -> None:
    """ETag and If-None-Match, If-Modified-Since, Range, HEAD, and gzip that was made beforehand."""
    path = "/v/1/act/2024/0002/v2.txt"
    whole = room.get(path)
    assert room.get(path, If_None_Match=whole.headers["etag"]).status == 304
    assert room.get(path, If_Modified_Since=whole.headers["last-modified"]).status == 304
    part = room.get(path, Range="bytes=0-9")
    assert (part.status, part.body) == (206, whole.body[:10])
    head = room.get(path, method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(whole.body)))
    packed = room.get("/act/2024/0002", Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == room.get("/act/2024/0002").body
    assert room.get("/search?q=kala", method="HEAD").body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
def test_nothing_but_reading(room: RunningRoom, method: str) -> None:
    """Every other method is refused, with a page and the fences of every page."""
    answer = room.get("/search?q=kala", method=method)
    assert (answer.status, answer.headers["cache-control"]) == (405, "no-store")
    assert "nothing can be sent" in answer.text
    assert CSP in answer.headers["content-security-policy"]


FRESH = "public, max-age=60, stale-while-revalidate=600, stale-if-error=86400"
FOREVER = "public, max-age=31536000, immutable"
DAY = "public, max-age=86400"


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/", FRESH), ("/act/2024/0002", FRESH), ("/act/2024/0002/v2", FRESH), ("/act/2024/0002/v2.txt", FRESH),
        ("/act/2024/0002/v2.proof", FRESH), ("/v/1/act/2024/0002/v2", DAY), ("/v/1/", DAY),
        ("/v/1/act/2024/0002/v2.txt", FOREVER), ("/v/1/act/2024/0002/v2.proof", FOREVER),
        (f"/assets/{style_name()}", FOREVER), ("/status", "public, max-age=20"),
        ("/search?q=kala", "public, max-age=60"),
        ("/nothing", "public, max-age=10"), ("/act/2024/9999", "public, max-age=10"),
    ],
)  # fmt: skip
def test_what_stands_in_front_knows_how_long(room: RunningRoom, path: str, kept: str) -> None:
    """A CDN may keep for good what its address names for good, and briefly what is replaced, or is not there."""
    assert room.get(path).headers["cache-control"] == kept


def test_a_line_that_is_too_long_gets_a_page(room: RunningRoom) -> None:
    """Also what nginx refuses by itself is said in the room's words, and kept by nobody."""
    answer = room.get(f"/search?q={'a' * 9000}")
    assert (answer.status, answer.headers["cache-control"]) == (414, "no-store")
    assert "State Gazette" in answer.text


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("q=%3Cscript%3Ealert(1)%3C/script%3E", "&lt;script&gt;alert(1)"),
        ("q=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E", "&#34;&gt;&lt;img"),
        ("q=" + "a" * 201, "at most 200 characters"),
        ("q=kala&page=99999", "no further pages"),
        ("q=kala&page=-1", "no further pages"),
        ("q=%ff%fe", "�"),
        ("q=a&q=b&q=c&q=d&q=e&q=f", "cannot be understood"),
        ("", "Please type a word"),
        ("q=", "Please type a word"),
        ("q=%E2%80%AEkala", "[U+202E]kala"),
        ("q=kala%00", "kala"),
    ],
)
def test_queries_of_enemies_come_back_as_text(room: RunningRoom, query: str, says: str) -> None:
    """What was typed is shown escaped; what is too much is told in a sentence."""
    answer = room.get(f"/search?{query}")
    assert answer.status in (200, 400)
    assert says in answer.text
    for mark in ("<script", "<img", "\u202e"):
        assert mark not in answer.text


def test_raw_nonsense_harms_nobody(room: RunningRoom) -> None:
    """Broken request lines, giant headers and silent connections end; the next reader is served."""
    for data in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"/a" * 40_000, b"\r\n" * 1000,
                 b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 60_000 + b"\r\n\r\n"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", room.port), 10) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except ConnectionError:
                pass
    silent = [socket.create_connection(("127.0.0.1", room.port), 10) for _ in range(50)]
    assert room.get("/").status == 200
    assert room.get("/search?q=kala").status == 200
    for sock in silent:
        sock.close()


def test_an_evil_host_name_goes_nowhere(room: RunningRoom) -> None:
    """The Host header of a request is in no answer, so no cache can be poisoned with it."""
    for path in ("/", "/search?q=kala", "/nothing"):
        answer = room.get(path, X_Forwarded_Host="evil.example", Host="evil.example")
        assert b"evil.example" not in answer.body
        assert "evil.example" not in str(answer.headers)


def asked(room: RunningRoom, path: str, address: str, times: int) -> Counter[int]:
    return Counter(room.get(path, X_Forwarded_For=address).status for _ in range(times))


def test_each_client_has_its_own_measure_of_searches(tmp_path: Path) -> None:
    """Over its burst a client gets 429 with a page and a time to come back; others, and all static pages, do not."""
    press = Press()
    press.publish(FIRST)
    limits = Limits(client_per_s=0.02, client_burst=5, network_per_s=0.02, network_burst=12)
    with running_room(press, tmp_path, limits=limits) as room:
        flood = asked(room, "/search?q=kala", "198.51.100.1", 30)
        assert 1 <= flood[200] <= 6
        assert flood[200] + flood[429] == 30
        refused = room.get("/search?q=kala", X_Forwarded_For="198.51.100.1")
        assert (refused.headers["retry-after"], refused.headers["cache-control"]) == ("5", "no-store")
        assert "Please wait a little" in refused.text
        assert asked(room, "/", "198.51.100.1", 30) == {200: 30}
        assert asked(room, "/search?q=kala", "203.0.113.5", 3) == {200: 3}
        neighbours = Counter()
        for number in range(2, 40):
            neighbours += asked(room, "/search?q=kala", f"192.0.2.{number}", 1)
        assert neighbours[429] >= 20
        assert asked(room, "/search?q=kala", "2001:db8:5:6::1", 2) == {200: 2}
        same = asked(room, "/search?q=kala", "2001:db8:7:8::1", 5) + asked(
            room, "/search?q=kala", "2001:db8:7:8:9::2", 5
        )
        assert same[429] >= 4


def test_pages_have_a_measure_too(tmp_path: Path) -> None:
    """A client that asks for pages without end is held up; another network reads on. A household is one client, however
    its addresses are written."""
    press = Press()
    press.publish(FIRST)
    static = StaticLimits(client_per_s=1, client_burst=10, network_per_s=1, network_burst=20)
    with running_room(press, tmp_path, static=static) as room:
        assert asked(room, "/", "198.51.100.1", 40)[429] >= 20
        assert asked(room, "/", "203.0.113.5", 5) == {200: 5}
        household = Counter()
        for number in range(1, 20):  # nginx writes them as 2001:db8::1:0:0:1, 2001:db8::2:0:0:1, …
            household += asked(room, "/", f"2001:db8:0:0:{number:x}::1", 1)
        assert household[429] >= 1


def test_an_address_is_believed_only_from_the_proxy(tmp_path: Path) -> None:
    """Who is not behind the named network cannot choose his address: all requests count as one client's."""
    press = Press()
    press.publish(FIRST)
    limits = Limits(client_per_s=0.02, client_burst=3, network_per_s=0.02, network_burst=3)
    with running_room(press, tmp_path, limits=limits, behind=("198.51.100.0/24",)) as room:
        seen = Counter(
            room.get("/search?q=kala", X_Forwarded_For=f"203.0.{n}.1", Reader_Address=f"203.0.{n}.1").status
            for n in range(12)
        )
        assert seen[429] >= 8


def test_pages_are_read_while_all_searches_are_stuck(tmp_path: Path) -> None:
    """With its process stopped dead, searches are told to come again; pages and documents are served as ever."""
    press = Press()
    press.publish(FIRST)
    with running_room(press, tmp_path) as room:
        pid = _search_pid(room)
        os.kill(pid, signal.SIGSTOP)
        try:
            got: list[int] = []
            threads = [threading.Thread(target=lambda: got.append(room.get("/search?q=kala").status)) for _ in range(8)]
            for thread in threads:
                thread.start()
            assert [room.get(path).status for path in ("/", "/act/2024/0002", "/v/1/act/2024/0002/v2.txt")] == [200] * 3
            for thread in threads:
                thread.join(PATIENCE_S)
            assert got == [503] * 8
        finally:
            os.kill(pid, signal.SIGCONT)
        _await_status(room, "/search?q=kala", 200)


def test_a_search_process_that_dies_comes_back(tmp_path: Path) -> None:
    """Killed, it is started again; meanwhile pages are read and searches get a sentence."""
    press = Press()
    press.publish(FIRST)
    with running_room(press, tmp_path) as room:
        os.kill(_search_pid(room), signal.SIGKILL)
        assert room.get("/").status == 200
        assert room.get("/search?q=kala").status in (200, 503)
        _await_status(room, "/search?q=kala", 200)


def test_search_follows_the_version_that_is_read(tmp_path: Path) -> None:
    """Right after the switch, a search finds the new act, and what it remembered of the old index is gone."""
    press = Press()
    press.publish(FIRST)
    with running_room(press, tmp_path) as room:
        for number in range(1, 4):
            assert "Nothing in force" in room.get(f"/search?q=nightingale{number}").text
            title = f"Nightingale{number} Act"
            press.publish(act_files(f"2025/000{number}", title, [law(title, "They sing.")]))
            builder = press.builder(tmp_path, room.url)
            builder.build(press.editions[-1])
            builder.close()
            assert f"/act/2025/000{number}" in room.get(f"/search?q=nightingale{number}").text
            assert room.get(f"/act/2025/000{number}").status == 200


def test_readers_never_see_half_a_version(tmp_path: Path) -> None:
    """While versions are switched again and again, each answer is a whole page of one of them, and none fails."""
    press = Press()
    press.publish(FIRST)
    with running_room(press, tmp_path) as room:
        seen: list[tuple[int, bytes]] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                answer = room.get("/act/2024/0001")
                seen.append((answer.status, answer.body))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for number in range(2, 8):
                press.publish(act_files("2024/0001", "Fishing Act", [law("Fishing Act", f"Rule {number}. " * 400)]))
                builder = press.builder(tmp_path, room.url)
                builder.build(press.editions[-1])
                builder.close()
        finally:
            stop.set()
            reader.join(PATIENCE_S)
        assert {status for status, _ in seen} == {200}
        for _, body in seen:
            assert body.endswith(b"</html>") or body.endswith(b"</html>\n")
            assert sum(b"Rule %d." % n in body for n in range(2, 8)) <= 1


def test_over_tls_without_a_proxy(tmp_path: Path) -> None:
    """With a certificate it speaks TLS itself, and nothing plain."""
    press = Press()
    press.publish(FIRST)
    server_certificate(tmp_path)
    (tmp_path / "room").mkdir()
    with running_room(press, tmp_path / "room", tls=tmp_path) as room:
        for path in ("/act/2024/0002", "/search?q=kala"):
            answer = httpx.get(f"https://localhost:{room.port}{path}", verify=_trusting(tmp_path), timeout=30)
            assert answer.status_code == 200
        assert room.get("/").status == 400


def _trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "server.pem"))


def test_one_room_one_process(tmp_path: Path) -> None:
    """A second process for the same folder is refused."""
    with alone(str(tmp_path)), pytest.raises(Busy), alone(str(tmp_path)):
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "/srv/x; include /etc/shadow"}, {"folder": "relative"}, {"listen": "80; root /"},
        {"listen": "here:80"},
        {"certificate": "/a b", "key": "/k"}, {"behind": ("0.0.0.0/0; deny all",)}, {"behind": ("proxy",)},
    ],
)  # fmt: skip
def test_settings_that_would_be_directives_are_refused(change: dict[str, object]) -> None:
    """Nothing typed on the command line becomes nginx syntax."""
    good = RoomSettings("/srv/reading", "127.0.0.1:8440")
    with pytest.raises(ConfigError):
        replace(good, **change)  # type: ignore[arg-type]


def _search_pid(room: RunningRoom) -> int:
    """The process that listens at the room's own socket, by its command line: no other has this folder."""
    needle = f"--dir\0{room.folder}\0--search-only".encode()
    for name in os.listdir("/proc"):
        try:
            command = Path("/proc", name, "cmdline").read_bytes() if name.isdecimal() else b""
        except OSError:
            continue
        if needle in command:
            return int(name)
    raise AssertionError("the search does not run")


def _await_status(room: RunningRoom, path: str, status: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while room.get(path).status != status:
        assert time.monotonic() < until, f"{path} never became {status}"
        time.sleep(0.1)

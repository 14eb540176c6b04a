"""A site's folder behind a plain web server: what nginx shows is verified, what others make up is refused."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from exclave.errors import ConfigError, CorruptObject, MissingObject, SiteReadOnly, SiteUnavailable
from exclave.formats.paths import box_key
from exclave.ids import Digest, Instant, Key, sha256
from exclave.sites.contract import Digesting, Site
from exclave.sites.directory import DirectorySite
from exclave.sites.opening import open_site
from exclave.sites.patience import Patience
from exclave.sites.retry import RetryPolicy
from exclave.sites.web import MAX_BARREN
from exclave.verify.embassy import verify_embassy
from support.small_state import SmallState
from support.web_server import answering, reply, serving_folder

ONCE = Patience(RetryPolicy(attempts=1), small_timeout_s=10.0, large_timeout_s=20.0)
KEY = Key("a/b")


def opened(address: str) -> Site:
    return open_site(address, {}, ONCE)


def test_nginx_shows_a_folder_that_verifies(tmp_path: Path) -> None:
    """Over nginx's JSON lists the same is listed, read and verified as in the folder itself."""
    state = SmallState(tmp_path / "state")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "act").write_bytes(b"In the name of the people\n" * 9000)
    state.write_version(tmp_path / "docs")
    state.primary.put_same(box_key(state.state, state.register, sha256(b"box")), b"box")
    folder = state.site_folder("home")
    with serving_folder(folder, tmp_path / "nginx") as address:
        site, own = opened(address), DirectorySite(str(folder))
        assert isinstance(site, Digesting)
        stats = list(own.list(""))
        assert list(site.list("")) == stats
        assert list(site.list(f"{state.state}/nothing/")) == []
        for stat in stats:
            data = own.get(stat.key)
            assert site.get(stat.key) == data
            assert site.stat(stat.key) == stat
            assert site.digest(stat.key).digest == sha256(data)
            assert site.get_range(stat.key, 1, min(5, len(data) - 1)) == data[1:6]
            assert site.get_range(stat.key, 1, 0) == b""
        now = Instant(state.time + 60_000_000)
        seen, direct = (verify_embassy({"home": source}, state.state, now=now) for source in (site, own))
        assert seen.ok
        assert seen.packs_read > 0
        assert seen == direct
        # A host that spoils a pack behind the web server is found out.
        pack = state.paths("pack")[0]
        pack.write_bytes(pack.read_bytes()[:-1] + b"?")
        assert not verify_embassy({"home": site}, state.state, now=now).ok


def test_what_is_not_there_and_what_cannot_be(tmp_path: Path) -> None:
    """Missing objects, ends, limits and writes fail as they do at every other site."""
    (tmp_path / "site" / "a").mkdir(parents=True)
    (tmp_path / "site" / "a" / "b").write_bytes(b"12345")
    with serving_folder(tmp_path / "site", tmp_path / "nginx") as address:
        site = opened(address)
        assert site.stat(Key("a/c")) is None
        assert site.read_head(Key("a/c")) is None
        head = site.read_head(KEY)
        assert head is not None
        assert head.data == b"12345"
        with pytest.raises(MissingObject):
            site.get(Key("a/c"))
        with pytest.raises(MissingObject):
            site.get_range(Key("a/c"), 0, 1)
        for offset, length in ((4, 2), (9, 1), (9, 0)):
            with pytest.raises(CorruptObject):
                site.get_range(KEY, offset, length)
        with pytest.raises(CorruptObject):
            site.get(KEY, limit=4)
        for write in (
            lambda: site.put_new(KEY, b""),
            lambda: site.put_same(KEY, b"12345"),
            lambda: site.replace_if(KEY, b"", None),
            lambda: site.replace_spoilt(KEY, b"", Digest(bytes(32))),
        ):
            with pytest.raises(SiteReadOnly):
                write()
        assert (tmp_path / "site" / "a" / "b").read_bytes() == b"12345"


def test_a_server_that_drips_is_given_up() -> None:
    """A byte now and then keeps every single wait short; the answer as a whole has an end."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.close_connection = True
        with suppress(OSError):  # the client has gone
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.05)

    patience = Patience(RetryPolicy(attempts=1), small_timeout_s=1.0, large_timeout_s=1.0)
    with answering(drip) as address:
        site = open_site(address, {}, patience)
        for read in (lambda: site.get(KEY, limit=1_000_000), lambda: list(site.list(""))):
            with pytest.raises(SiteUnavailable, match="too long"):
                read()


def test_a_server_without_lists_says_what_to_do(tmp_path: Path) -> None:
    """Without autoindex, or with an absent folder, nothing is taken for an empty site."""
    (tmp_path / "site").mkdir()
    with (
        serving_folder(tmp_path / "site", tmp_path / "nginx", autoindex=False) as address,
        pytest.raises(SiteUnavailable) as refused,
    ):
        list(opened(address).list("a/"))
    assert "autoindex" in refused.value.hint
    with serving_folder(tmp_path / "site", tmp_path / "nginx-2") as address:
        assert list(opened(address).list("a/")) == []
        (tmp_path / "site").rmdir()
        with pytest.raises(SiteUnavailable):
            list(opened(address).list("a/"))


@pytest.mark.parametrize(
    "answer",
    [
        reply(302, Location="http://127.0.0.1:9/elsewhere"),
        reply(200, b"\x1f\x8b", Content_Encoding="gzip"),
        reply(200, b"<html>", length=6),
        reply(200, b"[", length=99),
        reply(200, b'[{"name": 1, "type": "file"}]'),
        reply(200, b"[" * 100_000),
        reply(200, b'[{"name": "a", "type": "file", "x": ' + b"[" * 100_000),
        reply(200, b'[{"name": "\xff", "type": "file"}]'),
        reply(200, b" " * (33 << 20)),
        reply(403),
        reply(500),
    ],
)  # fmt: skip
def test_answers_that_are_no_list(answer: object) -> None:
    """Redirects, packed bytes, broken ends, other pages, other types, floods and refusals: each is refused."""
    with answering(answer) as address, pytest.raises(SiteUnavailable):  # type: ignore[arg-type]
        list(opened(address).list("a/"))


@pytest.mark.parametrize(
    "answer",
    [reply(302, Location="/elsewhere"), reply(200, b"x", Content_Encoding="gzip"), reply(200, b"x", length=9)],
)
def test_answers_that_are_no_object(answer: object) -> None:
    """Neither followed, nor unpacked, nor taken for whole."""
    with answering(answer) as address, pytest.raises(SiteUnavailable):  # type: ignore[arg-type]
        opened(address).get(KEY)


def test_another_part_than_was_asked_for() -> None:
    """A range is taken only where the server says that it is the one."""
    with answering(reply(206, b"xy", Content_Range="bytes 7-8/9")) as address, pytest.raises(SiteUnavailable):
        opened(address).get_range(KEY, 2, 2)
    with answering(reply(200, b"0123456")) as address:  # it knows no ranges
        assert opened(address).get_range(KEY, 2, 2) == b"23"


def test_folders_without_end() -> None:
    """A server that makes up folders is left after a bounded number of questions; odd names are passed over."""
    folders = json.dumps([{"name": f"f{n}", "type": "directory"} for n in range(40)]).encode()
    asked: list[str] = []
    made_up = reply(200, folders)

    def answer(handler: object) -> None:
        asked.append(handler.path)  # type: ignore[attr-defined]
        made_up(handler)  # type: ignore[arg-type]

    with answering(answer) as address, pytest.raises(SiteUnavailable):
        list(opened(address).list(""))
    assert len(asked) <= MAX_BARREN + 1
    odd = [{"name": n, "type": "file", "size": 1} for n in ("..", "a/b", ".x", "A", "é", "", "ok", "a" * 400)]
    with answering(reply(200, json.dumps([*odd, {"name": "l", "type": "other"}]).encode())) as address:
        assert [stat.key for stat in opened(address).list("")] == ["ok"]


@pytest.mark.parametrize(
    "address",
    [
        "web:", "web:host/path", "web:ftp://host/x", "web:https://user@host/x", "web:https:///x", "web:https://h/a/../b",
        "web:https://h/a%2fb", "web:https://h/x?key=1", "web:https://h/x#y", "web:https://h/x?authorities=relative",
        "web:https://h:x/y", "web:https://h/a//b",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(address: str) -> None:
    """What is no plain address of a folder is a mistake of whoever typed it."""
    with pytest.raises(ConfigError):
        open_site(address, {})

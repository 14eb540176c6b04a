"""Logging out: by the service, by the person, and the services that are told over the back channel."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from exclave.identity.contract import Person
from exclave.identity.op.backchannel import BackChannel
from exclave.identity.op.settings import LogoutNotice
from support.op_place import ISSUER, RP, SECRET, Browser, Known, Place, header, location, query_of, relying

POST = ("client_secret_post",)
BYE = "https://rp.demo.test/bye"
OTHER = "https://other.demo.test/cb"


@pytest.fixture
def place() -> Place:
    """Two services that are told, and one that is not."""
    return Place(
        Known(
            relying(
                auth_methods=POST, post_logout_redirect_uris=(BYE,), backchannel_logout_uri="https://rp.demo.test/end"
            ),
            relying("other", redirect_uris=(OTHER,), backchannel_logout_uri="https://other.demo.test/end"),
            relying("deaf", redirect_uris=(OTHER,)),
        )
    )


def logged_in(place: Place, browser: Browser) -> str:
    """The ID token of a log-in to ``rp``."""
    return str(json.loads(place.redeem(place.log_in(browser)["code"]).body)["id_token"])


def also(place: Place, browser: Browser, client_id: str, **more: Any) -> None:
    where = location(place.authorize(browser, client_id=client_id, redirect_uri=OTHER))
    place.interactions.complete(query_of(where)["i"], browser.cookie, place.authentication(**more))


def claims(place: Place, token: str) -> dict[str, Any]:
    keys = KeySet.import_key_set(json.loads(place.provider.jwks().body))
    decoded = jwt.decode(token, keys, algorithms=["RS256"])
    assert decoded.header["typ"] == "logout+jwt"
    return decoded.claims


def test_by_the_service(place: Place) -> None:
    """With an ID token of this browser's session it ends at once; its services are told, the browser goes back."""
    browser = Browser(place)
    token = logged_in(place, browser)
    also(place, browser, "other")
    also(place, browser, "deaf")
    place.wait(300)
    asked = urlencode({"id_token_hint": token, "post_logout_redirect_uri": BYE, "state": "s&1"})
    assert location(place.provider.logout(browser.get(asked))) == f"{BYE}?state=s%261"
    told = {notice.uri: claims(place, notice.token) for notice in place.outbox.notices}
    assert set(told) == {"https://rp.demo.test/end", "https://other.demo.test/end"}
    for uri, aud in (("https://rp.demo.test/end", "rp"), ("https://other.demo.test/end", "other")):
        found = told[uri]
        assert (found["iss"], found["aud"], found["sub"]) == (ISSUER, aud, "EE38001085718")
        assert found["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
        assert found["exp"] - found["iat"] == 120
        assert "nonce" not in found
    sids = {found["sid"] for found in told.values()}
    assert len(sids) == 1
    again = place.provider.logout(browser.get(asked))
    assert location(again).startswith(BYE)
    assert len(place.outbox.notices) == 2


def test_by_a_form_of_the_service(place: Place) -> None:
    """A form of another site comes without the cookie; the browser is sent round once and brings it."""
    browser = Browser(place)
    token = logged_in(place, browser)
    form = {"id_token_hint": token, "post_logout_redirect_uri": BYE}
    round_ = location(place.provider.logout(replace(browser.post(form), cookies=())))
    assert round_.startswith("/oidc/logout?")
    assert location(place.provider.logout(browser.get(round_.partition("?")[2]))) == BYE
    assert len(place.outbox.notices) == 1


def test_by_the_person(place: Place) -> None:
    """Without an ID token the person is asked; the form leads here and to the registered address only."""
    browser = Browser(place)
    logged_in(place, browser)
    page = place.provider.logout(browser.get(urlencode({"client_id": "rp", "post_logout_redirect_uri": BYE})))
    assert page.status == 200
    assert "form-action 'self' https://rp.demo.test;" in header(page, "content-security-policy")
    proof = page.body.decode().partition('name="confirm" value="')[2].partition('"')[0]
    done = place.provider.logout(browser.post({"confirm": proof, "client_id": "rp", "post_logout_redirect_uri": BYE}))
    assert location(done) == BYE
    assert len(place.outbox.notices) == 1


def test_hints_that_do_not_count(place: Place) -> None:
    """With a token of another session the person is asked; a forged one, or another client's, is a page."""
    browser, other = Browser(place), Browser(place)
    foreign = logged_in(place, other)
    token = logged_in(place, browser)
    assert b"confirm" in place.provider.logout(browser.get(urlencode({"id_token_hint": foreign}))).body
    for asked in (
        {"id_token_hint": token[:-6] + "AAAAAA"}, {"id_token_hint": "x"},
        {"id_token_hint": token, "client_id": "other"},
        {"post_logout_redirect_uri": BYE}, {"client_id": "deaf", "post_logout_redirect_uri": BYE},
    ):  # fmt: skip
        assert place.provider.logout(browser.get(urlencode(asked))).status == 400
    assert place.outbox.notices == []


def test_session_ends_by_itself(place: Place) -> None:
    """Thirty minutes after its last log-in there is nothing left to end."""
    browser = Browser(place)
    logged_in(place, browser)
    place.wait(1800)
    assert b"confirm" not in place.provider.logout(browser.get("")).body


def test_another_person_in_one_browser(place: Place) -> None:
    """A second person's session is another one: its end does not speak of the first."""
    browser = Browser(place)
    logged_in(place, browser)
    also(place, browser, "other", person=Person("EE60001019906", "MARY", "ÄNN", "2000-01-01"))
    page = place.provider.logout(browser.get(""))
    proof = page.body.decode().partition('name="confirm" value="')[2].partition('"')[0]
    place.provider.logout(browser.post({"confirm": proof}))
    assert [claims(place, notice.token)["sub"] for notice in place.outbox.notices] == ["EE60001019906"]


# The back channel


class Service(BaseHTTPRequestHandler):
    """A relying service's logout address, and what it was sent."""

    got: ClassVar[list[tuple[str, str]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.got.append((self.path, parse_qs(body)["logout_token"][0]))
        if self.path == "/slow":
            time.sleep(2)
        self.send_response({"/end": 200, "/gone": 404, "/away": 302, "/endless": 200, "/slow": 200}[self.path])
        if self.path == "/away":
            self.send_header("location", "/end")
        self.end_headers()
        if self.path == "/endless":
            for _ in range(200):
                self.wfile.write(b"x" * 1024)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Service)
    Service.got.clear()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_back_channel(service: str) -> None:
    """A token is posted as a form; a failure is tried once more, no redirect followed, no endless answer read."""
    channel = BackChannel()
    channel.start()
    for path in ("/end", "/gone", "/away", "/endless"):
        assert channel.offer(LogoutNotice(service + path, "a.b.c"))
    assert channel.offer(LogoutNotice("http://127.0.0.1:9/end", "a.b.c"))
    assert channel.offer(LogoutNotice("not an address", "a.b.c"))
    channel.stop(20)
    assert (channel.sent, channel.failed, channel.dropped) == (1, 5, 0)
    paths = [path for path, token in Service.got if token == "a.b.c"]
    assert (paths.count("/end"), paths.count("/gone"), paths.count("/away")) == (1, 2, 2)


def test_back_channel_is_bounded(service: str) -> None:
    """A service that does not answer holds up others' notices and no request: what does not fit is dropped."""
    channel = BackChannel(lambda: httpx.Client(timeout=0.2), waiting=3)
    assert [channel.offer(LogoutNotice(f"{service}/slow", "a.b.c")) for _ in range(5)] == [True] * 3 + [False] * 2
    begin = time.monotonic()
    channel.start()
    channel.stop(10)
    assert channel.dropped == 2
    assert channel.failed == 3
    assert time.monotonic() - begin < 9


def test_secret_is_not_needed_to_log_out(place: Place) -> None:
    """The browser brings what it has; the client's secret has no place in it."""
    browser = Browser(place)
    token = logged_in(place, browser)
    reply = place.provider.logout(browser.get(urlencode({"id_token_hint": token, "client_secret": SECRET})))
    assert SECRET.encode() not in reply.body
    assert RP.encode() not in reply.body

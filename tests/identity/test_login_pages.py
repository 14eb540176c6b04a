"""The log-in pages over HTTP: texts, headers, cookies, and requests that no browser of ours sends."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import httpx
import pytest

from exclave.errors import (
    ConfigError,
    NotAuthorised,
)
from exclave.formats.relying import RelyingService
from exclave.identity.contract import Authentication, IdentityState
from exclave.identity.login_settings import LANGUAGES, LoginSettings
from exclave.identity.own_page import own_id
from exclave.identity.passkey import ENROL_S
from exclave.ids import Instant
from exclave.serve.login import MAX_BODY_BYTES
from exclave.serve.page_set import PageText, asset, catalogue
from support.login_site import CLIENT, NOW, ORIGIN, Site, person, token_bytes

BROWSER = "b" * 43
COOKIE = {"cookie": f"__Host-exclave={BROWSER}"}


class Client:
    """Asks the application without a network; its exceptions come through."""

    def __init__(self, site: Site) -> None:
        self._app = site.app

    def get(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._ask("GET", path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._ask("POST", path, **more))

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url=ORIGIN) as client:
            return await client.request(method, path, **more)


def post(site: Site, path: str, body: object, **headers: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"origin": ORIGIN, "content-type": "application/json", **COOKIE, **headers}
    return Client(site).post(path, content=data, headers={k: v for k, v in sent.items() if v})


def page(site: Site, *, accept: str = "en", query: str = "", **wanted: Any) -> Any:
    name = site.interactions.begin(BROWSER, **wanted)
    return Client(site).get(f"/login?i={name}{query}", headers={**COOKIE, "accept-language": accept})


class _Strict(HTMLParser):
    """Collects what a page would load, and refuses what its policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert not any(name.startswith("on") or name == "style" for name in found), (tag, found)
        assert tag not in ("style", "iframe", "object", "embed", "base")
        assert tag != "script" or found.get("src")
        self.loads += [str(found[name]) for name in ("src",) if name in found]
        self.loads += [str(found["href"])] if tag == "link" else []
        self.ids += [str(found["id"])] if "id" in found else []


def strict(html: str) -> _Strict:
    parser = _Strict()
    parser.feed(html)
    assert len(parser.ids) == len(set(parser.ids))
    assert all(load.startswith("/login/assets/") for load in parser.loads)
    return parser


# Texts


def test_catalogues_are_whole() -> None:
    """Every language has every text, none is empty, and none has markup."""
    keys = set(catalogue("en"))
    for language in LANGUAGES:
        texts = catalogue(language)
        assert set(texts) == keys
        assert all(text.strip() and not re.search(r"[<>{}]", text) for text in texts.values())
        assert list(texts) == sorted(texts)
        assert texts["direction"] == ("rtl" if language == "ar" else "ltr")


def test_every_text_is_used() -> None:
    """No text is left over, and every one that a template or the code names exists."""
    pages = files("exclave.serve").joinpath("pages")
    sources = [one.read_text() for one in pages.iterdir() if one.name.endswith((".html", ".js"))]
    templates = "".join(sources)
    named = set(re.findall(r"\bt\.([a-z_]+)", templates))
    code = files("exclave.serve").joinpath("page_set.py").read_text()
    used = named | {key for key in catalogue("en") if f'"{key}"' in code}
    kinds = {"refused", "expired", "unavailable", "request", "missing"}
    used |= {f"{kind}_{part}" for kind in kinds for part in ("heading", "text")} | {"no_card_text"}
    assert named <= set(catalogue("en"))
    assert set(catalogue("en")) == used | {"language", "direction"}


@pytest.mark.parametrize(
    ("accept", "asked", "expected"),
    [
        ("", (), "et"), ("fr", (), "et"), ("en-GB,en;q=0.9", (), "en"), ("et;q=0.1,ar;q=0.9", (), "ar"),
        ("en;q=0", (), "et"), ("ar", ("en-US",), "en"), ("ar", ("xx", "ET"), "et"), ("*,;q=,en;q=9,=,\n", (), "et"),
        ("en;q=1.0" + ",x" * 5000, (), "en"), ("ar", ("en\0", "<script>"), "ar"),
    ],
)  # fmt: skip
def test_language(accept: str, asked: tuple[str, ...], expected: str) -> None:
    """The strongest wish that can be met; nonsense is no wish."""
    assert Site().pages.language(asked, accept) == expected


def test_language_order() -> None:
    """A choice on the page wins over an earlier one, that over the service's wish, that over the browser's."""
    site = Site()
    assert 'lang="ar"' in page(site, accept="et", ui_locales=("ar",)).text
    chosen = page(site, accept="et", ui_locales=("ar",), query="&lang=en")
    assert 'lang="en"' in chosen.text
    assert "__Host-exclave-lang=en; HttpOnly; Path=/; SameSite=lax; Secure" in chosen.headers["set-cookie"]
    name = site.interactions.begin(BROWSER, ui_locales=("ar",))
    cookie = {"cookie": f"{COOKIE['cookie']}; __Host-exclave-lang=et"}
    assert 'lang="et"' in Client(site).get(f"/login?i={name}", headers=cookie).text
    assert "set-cookie" not in page(site, query="&lang=<xx>").headers


# Pages


@pytest.mark.parametrize("language", LANGUAGES)
def test_page_and_its_headers(language: str) -> None:
    """One page: its own files only, no inline script or style, framed by nobody, kept by nobody."""
    answer = page(Site(), accept=language)
    strict(answer.text)
    headers = answer.headers
    assert answer.status_code == 200
    assert CLIENT.name[language] in answer.text
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in headers


def test_assets() -> None:
    """Style, script and icon come from here; nothing else does, and no path leads out."""
    site = Site()
    for name in ("login.css", "login.js", "icon.svg"):
        answer = Client(site).get(f"/login/assets/{name}")
        assert answer.status_code == 200
        assert not re.search(r"(?<!www\.w3\.org)https?://(?!www\.w3\.org)", answer.text)
    for name in ("en.json", "base.html", "..%2flogin.py", "nginx.conf.j2", "x"):
        assert Client(site).get(f"/login/assets/{name}").status_code == 404


def test_hostile_names_are_text() -> None:
    """Names of services and people, and everything in an address, are escaped."""
    evil = "\"><script>alert(1)</script>'&"
    site = Site(LoginSettings(ORIGIN, state_name={"en": evil}))
    answer = page(site, client=RelyingService("c", {"en": evil}, ("https://c.test/",)))
    strict(answer.text)
    assert "<script>alert" not in answer.text
    for query in ('"><script>', "%22%3E%3Cscript%3E", 'x&lang="><script>', "x&done=<script>"):
        wrong = Client(site).get(f"/login?i={query}", headers=COOKIE)
        assert wrong.status_code == 403
        assert "<script" not in wrong.text
    owner = Authentication(person(), ("idcard",), "high", NOW)
    html = site.pages.passkeys(PageText("en"), evil, (), evil, may_add=True, done=evil)
    assert owner.person.subject not in html
    strict(html)
    assert "<script>alert" not in html


@pytest.mark.parametrize("state", [IdentityState.STANDBY, IdentityState.RETURNING])
def test_without_authority(state: IdentityState) -> None:
    """A friendly page and 503 everywhere; the script gets the same sentence."""
    site = Site()
    site.state = state
    answer = page(site)
    assert answer.status_code == 503
    assert catalogue("en")["unavailable_text"] in answer.text
    name = site.interactions.begin(BROWSER)
    for path in ("web-eid/challenge", "web-eid", "passkey/challenge", "passkey"):
        wrong = post(site, f"/login/{path}", {"i": name}, **{"accept-language": "en"})
        assert (wrong.status_code, wrong.json()["error"]) == (503, "unavailable")
    assert Client(site).get(f"/login/card?i={name}&shown=x", headers=COOKIE).status_code == 503


def test_exile_is_told_only_if_configured() -> None:
    """In exile the pages look the same, but for one line where the state wants it."""
    line = catalogue("en")["exile"].replace("'", "&#39;")
    for say, state, shown in (
        (False, IdentityState.EXILE, False), (True, IdentityState.EXILE, True), (True, IdentityState.HOME, False),
    ):  # fmt: skip
        site = Site(LoginSettings(ORIGIN, say_exile=say))
        site.state = state
        assert (line in page(site).text) is shown


def test_nothing_is_good_enough() -> None:
    """A request that no way can meet leaves the way back."""
    answer = page(Site(), methods=frozenset({"mid"}))
    assert catalogue("en")["no_way"] in answer.text
    assert "/login/cancel" in answer.text


def test_for_the_provider() -> None:
    """What is shown on the provider's behalf: errors, and the word after a logout."""
    pages = Site().pages
    for html in (pages.logged_out(PageText("ar")), *(
        pages.error(PageText(language), kind)
        for language in LANGUAGES for kind in ("refused", "expired", "unavailable", "request", "missing", "no_card")
    )):  # fmt: skip
        strict(html)


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast() -> None:
    """Text has 4.5 to 1 on everything that it stands on, edges of what can be used 3 to 1; light and dark."""
    schemes = re.findall(r":root \{(.*?)\}", asset("login.css").decode(), re.DOTALL)
    assert len(schemes) == 2
    pairs = {
        "ink": ("paper", "card", "hover"), "soft": ("paper", "card", "hover"), "main": ("paper", "card"),
        "main-ink": ("main", "main-dark"), "bad": ("bad-soft",), "note": ("note-soft",), "edge": ("card",),
    }  # fmt: skip
    for scheme in schemes:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", scheme))
        for text, grounds in pairs.items():
            for ground in grounds:
                dark, light = sorted((luminance(colours[text]), luminance(colours[ground])))
                ratio = (light + 0.05) / (dark + 0.05)
                assert ratio >= (3 if text == "edge" else 4.5), (text, ground, ratio)


# Requests


def test_web_eid_over_http() -> None:
    """Challenge, token, address: as the page's script does it."""
    site = Site()
    name = site.interactions.begin(BROWSER)
    nonce = post(site, "/login/web-eid/challenge", {"i": name}).json()["nonce"]
    body = b'{"i":"%s","token":%s}' % (name.encode(), token_bytes(site.card(), nonce))
    assert post(site, "/login/web-eid", body).json() == {"location": "https://tax.demo.test/callback?code=fresh"}


def test_errors_are_plain_for_citizens() -> None:
    """Whatever was wrong with a card, the sentence is one."""
    site = Site()
    told = set()
    for token in (b"{}", token_bytes(site.card(), "x" * 44), token_bytes(site.pki.second.card(), "y" * 44)):
        name = site.interactions.begin(BROWSER)
        post(site, "/login/web-eid/challenge", {"i": name})
        body = b'{"i":"%s","token":%s}' % (name.encode(), token)
        wrong = post(site, "/login/web-eid", body, **{"accept-language": "en"})
        assert wrong.status_code in (400, 403)
        told.add(json.dumps(wrong.json()))
    assert told == {json.dumps({"error": "refused", "text": catalogue("en")["refused_text"]})}


@pytest.mark.parametrize(
    "origin", ["", "null", "https://evil.test", ORIGIN + ".evil.test", ORIGIN.upper(), "http" + ORIGIN[5:]]
)
@pytest.mark.parametrize("path", ["/login/web-eid/challenge", "/login/web-eid", "/login/passkey", "/passkeys/add"])
def test_post_from_another_site(origin: str, path: str) -> None:
    """A post of another site's page is refused, whatever cookie the browser adds."""
    site = Site()
    wrong = post(site, path, {"i": site.interactions.begin(BROWSER)}, origin=origin)
    assert (wrong.status_code, wrong.json()["error"]) == (403, "request")


@pytest.mark.parametrize("path", ["/login/cancel", "/passkeys/remove", "/passkeys/leave"])
def test_form_from_another_site(path: str) -> None:
    """Forms, too."""
    site = Site()
    name = site.interactions.begin(BROWSER)
    form = {"content-type": "application/x-www-form-urlencoded", "origin": "https://evil.test"}
    assert post(site, path, f"i={name}".encode(), **form).status_code == 403
    assert site.interactions.find(name, BROWSER)


def test_two_origins() -> None:
    """A request with two Origin headers is no browser's."""
    site = Site()
    sent = [("origin", ORIGIN), ("origin", ORIGIN), ("content-type", "application/json")]
    assert Client(site).post("/login/web-eid/challenge", content=b"{}", headers=sent).status_code == 403


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b'{"i":1}', b'{"i":null}', b"\xff", b'{"i":"' + b"a" * 100 + b'"}', b'{"i":"../x"}',
     b'{"a":' * 9000, b"[" * 40_000, b'{"i":"\\ud800"}', b"x" * (MAX_BODY_BYTES + 1)],
)  # fmt: skip
@pytest.mark.parametrize("path", ["web-eid/challenge", "web-eid", "passkey/challenge", "passkey"])
def test_hostile_bodies(path: str, body: bytes) -> None:
    """Nested, truncated, oversized, of another type: the protocol's error, never a traceback."""
    wrong = post(Site(), f"/login/{path}", body, **{"accept-language": "en"})
    assert wrong.status_code in (400, 403)
    assert wrong.json()["error"] in ("request", "expired")


def test_other_content_type() -> None:
    """A simple form post cannot pose as the script's JSON."""
    assert post(Site(), "/login/web-eid/challenge", b'{"i":"x"}', **{"content-type": "text/plain"}).status_code == 400


def test_wrong_methods() -> None:
    """Nothing changes by GET."""
    site = Site()
    for path in ("/login/web-eid", "/login/cancel", "/passkeys/remove", "/passkeys/leave", "/login/passkey"):
        assert Client(site).get(path).status_code == 405


@pytest.mark.parametrize(
    "cookie",
    ["", "__Host-exclave=", "exclave=" + BROWSER, "__Host-exclave=" + "c" * 43, "__Host-exclave=" + "b" * 9000,
     "a;;=;\xff"],
)  # fmt: skip
def test_other_cookies(cookie: str) -> None:
    """Without the cookie of the browser that began it, there is no log-in."""
    site = Site()
    name = site.interactions.begin(BROWSER)
    wrong = Client(site).get(f"/login?i={name}", headers={"cookie": cookie.encode("latin-1"), "accept-language": "en"})
    assert wrong.status_code == 403
    assert catalogue("en")["expired_text"] in wrong.text


def test_cancel() -> None:
    """Going back is a page that leads on: an answer to a form may not redirect to another site."""
    site = Site()
    form = {"content-type": "application/x-www-form-urlencoded", "accept-language": "en"}
    answer = post(site, "/login/cancel", f"i={site.interactions.begin(BROWSER)}".encode(), **form)
    assert answer.status_code == 200
    assert (
        '<meta http-equiv="refresh" content="0;url=https://tax.demo.test/callback?error=access_denied">' in answer.text
    )
    site.interactions.to = "javascript:alert(1)//"
    wrong = post(site, "/login/cancel", f"i={site.interactions.begin(BROWSER)}".encode(), **form)
    assert wrong.status_code == 400
    assert "javascript:" not in wrong.text


# One's own passkeys


def own_session(site: Site, amr: tuple[str, ...] = ("idcard",)) -> dict[str, str]:
    site.own.complete(own_id("o" * 43), "o" * 43, Authentication(person(), amr, "high", site.now))
    return {"cookie": "__Host-exclave-own=" + "o" * 43, "accept-language": "en"}


def test_own_page_needs_a_log_in() -> None:
    """A stranger is sent to log in, with a cookie of this page's own."""
    site = Site()
    answer = Client(site).get("/passkeys")
    cookie = re.fullmatch(
        r"__Host-exclave-own=([A-Za-z0-9_-]{43}); HttpOnly; Path=/; SameSite=lax; Secure", answer.headers["set-cookie"]
    )
    assert cookie
    assert answer.headers["location"] == f"/login?i={own_id(cookie[1])}"
    assert Client(site).get(answer.headers["location"]).status_code == 403
    for path in ("challenge", "add"):
        assert post(site, f"/passkeys/{path}", {"i": own_id("o" * 43)}).json()["error"] == "expired"


def test_own_page_ends() -> None:
    """A quarter of an hour after the card, or when its person leaves."""
    site = Site()
    session = own_session(site)
    assert "MARI MAASIKAS" in Client(site).get("/passkeys", headers=session).text
    site.now = Instant(NOW + ENROL_S * 1_000_000)
    assert Client(site).get("/passkeys", headers=session).status_code == 303
    session = own_session(site)
    form = {"content-type": "application/x-www-form-urlencoded", **session}
    assert catalogue("en")["logged_out_text"] in post(site, "/passkeys/leave", b"", **form).text
    with pytest.raises(NotAuthorised):
        site.own.owner("o" * 43)


def test_own_page_of_one_is_not_anothers() -> None:
    """The browser's cookie counts, and it is not that of OpenID requests; nobody can end this log-in in another."""
    site = Site()
    session = own_session(site)
    name = site.handover.leave(own_id("a" * 43), site.card().der, now=site.now)
    assert Client(site).get(f"/login/card?i={own_id('a' * 43)}&shown={name}", headers=session).status_code == 403
    with pytest.raises(NotAuthorised):
        site.own.complete(own_id("a" * 43), "o" * 43, Authentication(person(), ("idcard",), "high", site.now))
    assert Client(site).get("/passkeys", headers={"cookie": "__Host-exclave-own=" + "x" * 43}).status_code == 303
    assert Client(site).get("/passkeys", headers={"cookie": "__Host-exclave=" + "o" * 43}).status_code == 303


def test_nothing_personal_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Refusals on the page of passkeys are logged by their reason alone."""
    caplog.set_level(logging.DEBUG)
    site = Site()
    session = own_session(site, ("passkey",))
    post(site, "/passkeys/challenge", {"i": own_id("o" * 43)}, **session)
    post(
        site, "/passkeys/remove", b"credential=AAAA", **{**session, "content-type": "application/x-www-form-urlencoded"}
    )
    assert [r.getMessage() for r in caplog.records if r.name == "exclave.login"] == [
        "own passkeys refused: reason=passkey-card", "own passkeys refused: reason=passkey-unknown",
    ]  # fmt: skip
    assert not re.search(r"MARI|MAASIKAS|38001085718|oooo|AAAA", caplog.text)


@pytest.mark.parametrize(
    "wrong",
    [{"origin": "http://login.demo.test"}, {"card_origin": ORIGIN}, {"languages": ("fr",)}, {"languages": ()},
     {"rp_id": "other.test"}, {"rp_id": "demo"}, {"passkey_acr": "highest"}, {"secure_cookies": False}],
)  # fmt: skip
def test_settings_that_cannot_work(wrong: dict[str, Any]) -> None:
    """They are refused at the start, not at a citizen's log-in."""
    with pytest.raises(ConfigError):
        LoginSettings(**{"origin": ORIGIN, **wrong})

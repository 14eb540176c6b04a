"""The log-in pages in a real Chromium: a software card, passkeys of a virtual authenticator, no JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from exclave.formats.relying import RelyingService
from exclave.identity.contract import IdentityState
from exclave.identity.login_settings import LoginSettings
from exclave.identity.status_log import Held
from exclave.ids import now
from support.login_browser import await_text, put_authenticator, put_card, running_chromium
from support.login_nginx import card_files, free_ports, running_front
from support.login_site import Served, Site, free_socket

BROWSER = "b" * 43
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def site() -> Iterator[Site]:
    """A log-in service at localhost, which a browser trusts without TLS."""
    sock, port = free_socket()
    origin = f"http://localhost:{port}"
    settings = LoginSettings(
        origin, "https://card.demo.test", {"en": "Republic of Demo"}, secure_cookies=False, cookie_name="exclave"
    )  # fmt: skip
    site = Site(settings, now())
    site.interactions.to = f"{origin}/callback"
    with Served(site.app, sock=sock):
        yield site


def context_of(chromium: Browser, site: Site, **more: object) -> BrowserContext:
    context = chromium.new_context(viewport=PHONE, **{"locale": "en-GB", **more})  # type: ignore[arg-type]
    context.set_default_timeout(10_000)
    context.add_cookies([{"name": "exclave", "value": BROWSER, "url": site.settings.origin}])
    return context


def open_login(page: Page, site: Site, **wanted: object) -> None:
    """The log-in page, watched: nothing may be refused by its own policy, no script may fail."""
    page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    page.on("console", lambda said: "Content Security Policy" in said.text and pytest.fail(said.text))
    name = site.interactions.begin(BROWSER, **wanted)  # type: ignore[arg-type]
    page.goto(f"{site.settings.origin}/login?i={name}")


def test_web_eid(chromium: Browser, site: Site) -> None:
    """A citizen puts a card in, and the service gets the person."""
    page = context_of(chromium, site).new_page()
    put_card(page, site.card(given_name="MARI"))
    open_login(page, site)
    assert page.text_content(".service") == "Tax and Customs Board"
    page.click("button[data-way=web-eid]")
    page.wait_for_url("**/callback?code=fresh")
    assert site.interactions.done[0].person.given_name == "MARI"
    page.context.close()


def test_refused_card_says_so_aloud(chromium: Browser, site: Site) -> None:
    """A held card gets the one plain sentence in a live region, and the button can be used again."""
    page = context_of(chromium, site).new_page()
    put_card(page, site.store.say(site.pki.second.card(), Held(site.now), site.pki.second))
    open_login(page, site)
    page.click("button[data-way=web-eid]")
    await_text(page, "[role=alert]", "It was not accepted.")
    assert page.is_enabled("button[data-way=web-eid]")
    assert page.evaluate("document.activeElement.dataset.way") == "web-eid"
    assert not site.interactions.done
    page.context.close()


def test_cancelled_at_the_card(chromium: Browser, site: Site) -> None:
    """Who closes Web eID's window may try again."""
    page = context_of(chromium, site).new_page()
    put_card(page, site.card(), lambda _: {"error": {"code": "ERR_WEBEID_USER_CANCELLED", "message": "x"}})
    open_login(page, site)
    page.click("button[data-way=web-eid]")
    await_text(page, "[role=alert]", "It was cancelled.")
    page.context.close()


def test_no_extension(chromium: Browser, site: Site) -> None:
    """Without the extension the page says what is missing."""
    page = context_of(chromium, site).new_page()
    open_login(page, site)
    page.click("button[data-way=web-eid]")
    await_text(page, "[role=alert]", "The Web eID extension did not answer.")
    page.context.close()


def test_going_back(chromium: Browser, site: Site) -> None:
    """Cancel leads back to the service with access_denied, past the page's own strict form-action."""
    page = context_of(chromium, site).new_page()
    open_login(page, site)
    page.click("text=Cancel and go back")
    page.wait_for_url("**/callback?error=access_denied")
    page.context.close()


def test_passkey_from_enrolment_to_removal(chromium: Browser, site: Site) -> None:
    """Enrolled after the card, used for log-in, removed, and dead at once."""
    context = context_of(chromium, site)
    page = context.new_page()
    put_card(page, site.card())
    put_authenticator(context, page)
    page.goto(f"{site.settings.origin}/passkeys")
    page.click("button[data-way=web-eid]")
    page.wait_for_url("**/passkeys")
    page.click("button[data-way=add]")
    await_text(page, "[role=status]", "The passkey was added.")
    assert len(site.store.keys) == 1

    open_login(page, site)
    page.click("button[data-way=passkey]")
    page.wait_for_url("**/callback?code=fresh")
    done = site.interactions.done[0]
    assert (done.amr, done.acr, done.person.subject) == (("passkey",), "substantial", "EE38001085718")

    page.goto(f"{site.settings.origin}/passkeys")
    page.click("text=Remove")
    await_text(page, "[role=status]", "It no longer works.")
    assert not site.store.keys
    open_login(page, site)
    page.click("button[data-way=passkey]")
    await_text(page, "[role=alert]", "It was not accepted.")
    assert len(site.interactions.done) == 1
    context.close()


def test_passkey_page_by_passkey_cannot_add(chromium: Browser, site: Site) -> None:
    """A passkey begets no passkey: who logged in with one sees the list and is told to use the card."""
    context = context_of(chromium, site)
    page = context.new_page()
    put_card(page, site.card())
    put_authenticator(context, page)
    page.goto(f"{site.settings.origin}/passkeys")
    page.click("button[data-way=web-eid]")
    page.click("button[data-way=add]")
    await_text(page, "[role=status]", "The passkey was added.")
    page.click("text=Log out")
    await_text(page, "h1", "You are logged out")
    page.goto(f"{site.settings.origin}/passkeys")
    page.click("button[data-way=passkey]")
    page.wait_for_url("**/passkeys")
    assert page.locator("button[data-way=add]").count() == 0
    await_text(page, "main", "log in with your ID card")
    context.close()


def test_cloned_passkey(chromium: Browser, site: Site) -> None:
    """A signature counter that goes back is a copy of the key, and is refused."""
    context = context_of(chromium, site)
    page = context.new_page()
    put_card(page, site.card())
    cdp, authenticator = put_authenticator(context, page)
    page.goto(f"{site.settings.origin}/passkeys")
    page.click("button[data-way=web-eid]")
    page.click("button[data-way=add]")
    await_text(page, "[role=status]", "The passkey was added.")
    copy = cdp.send("WebAuthn.getCredentials", {"authenticatorId": authenticator})["credentials"][0]
    for _ in range(2):
        open_login(page, site)
        page.click("button[data-way=passkey]")
        page.wait_for_url("**/callback?code=fresh")
    cdp.send("WebAuthn.clearCredentials", {"authenticatorId": authenticator})
    cdp.send("WebAuthn.addCredential", {"authenticatorId": authenticator, "credential": copy})
    open_login(page, site)
    page.click("button[data-way=passkey]")
    await_text(page, "[role=alert]", "It was not accepted.")
    assert len(site.interactions.done) == 2
    context.close()


def test_unverified_user(chromium: Browser, site: Site) -> None:
    """A passkey without fingerprint or code of its user is not even enrolled."""
    context = context_of(chromium, site)
    page = context.new_page()
    put_card(page, site.card())
    put_authenticator(context, page, verified=False)
    page.goto(f"{site.settings.origin}/passkeys")
    page.click("button[data-way=web-eid]")
    page.click("button[data-way=add]")
    await_text(page, "[role=alert]", "again")
    assert not site.store.keys
    context.close()


def test_without_javascript(chromium: Browser, site: Site) -> None:
    """The card by way of the browser's certificate needs no script; what needs one is not shown."""
    page = context_of(chromium, site, java_script_enabled=False).new_page()
    name = site.interactions.begin(BROWSER)
    page.goto(f"{site.settings.origin}/login?i={name}")
    assert page.is_visible("text=ID card without extension")
    assert not page.is_visible("button[data-way=web-eid]")
    assert page.get_attribute("a.way", "href") == f"https://card.demo.test/card?i={name}"
    page.click("text=Cancel and go back")
    page.wait_for_url("**/callback?error=access_denied")
    page.context.close()


@pytest.mark.parametrize(("locale", "heading", "direction"), [
    ("et-EE", "Sisselogimine", "ltr"), ("en-US", "Log in", "ltr"), ("ar-EG", "تسجيل الدخول", "rtl"),
])  # fmt: skip
def test_language_of_the_browser(chromium: Browser, site: Site, locale: str, heading: str, direction: str) -> None:
    """The browser's language counts, and another is one click away and remembered."""
    page = context_of(chromium, site, locale=locale).new_page()
    open_login(page, site)
    assert page.text_content("h1") == heading
    assert page.get_attribute("html", "dir") == direction
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.click("nav a >> nth=0")
    chosen = page.get_attribute("html", "lang")
    open_login(page, site)
    assert page.get_attribute("html", "lang") == chosen
    page.context.close()


def test_keyboard_alone(chromium: Browser, site: Site) -> None:
    """Every way, then cancel, in reading order by the tab key; each is large enough for a thumb."""
    page = context_of(chromium, site).new_page()
    open_login(page, site)
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText.split('\\n')[0]"))
    assert reached[2:6] == ["ID card", "Passkey", "ID card without extension", "Cancel and go back"]
    for box in page.evaluate(
        "Array.from(document.querySelectorAll('main button, main a, nav a'), e => e.offsetHeight)"
    ):
        assert box >= 44
    page.context.close()


def test_service_with_a_hostile_name(chromium: Browser, site: Site) -> None:
    """A relying service's name is text, whatever it holds."""
    name = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">\'"&'
    client = RelyingService(client_id="evil", name={"en": name}, redirect_uris=("https://evil.demo.test/",))
    page = context_of(chromium, site).new_page()
    open_login(page, site, client=client)
    assert page.text_content(".service") == name
    assert page.evaluate("window.hacked") is None
    page.context.close()


def test_tls_card(chromium: Browser, tmp_path: Path) -> None:
    """From the log-in page over nginx's handshake with the card back to the service."""
    port, card_port = free_ports(2)
    settings = LoginSettings(f"https://localhost:{port}", f"https://localhost:{card_port}")
    site = Site(settings, now())
    site.interactions.to = f"{settings.origin}/callback"
    certificate, key = card_files(tmp_path, site.card())
    with running_front(site, tmp_path, port, card_port):
        shown = {"origin": settings.card_origin, "certPath": str(certificate), "keyPath": str(key)}
        context = chromium.new_context(ignore_https_errors=True, client_certificates=[shown], locale="en")  # type: ignore[list-item]
        context.set_default_timeout(10_000)
        context.add_cookies([{
            "name": "__Host-exclave", "value": BROWSER, "domain": "localhost", "path": "/", "secure": True,
        }])  # fmt: skip
        page = context.new_page()
        open_login(page, site)
        page.click("text=ID card without extension")
        page.wait_for_url("**/callback?code=fresh")
        assert site.interactions.done[0].amr == ("idcard",)
        context.close()


def test_place_without_authority(chromium: Browser, site: Site) -> None:
    """An embassy that stands by shows a friendly page and logs nobody in."""
    site.state = IdentityState.STANDBY
    page = context_of(chromium, site).new_page()
    answer = page.goto(f"{site.settings.origin}/login?i={site.interactions.begin(BROWSER)}")
    assert answer is not None
    assert answer.status == 503
    assert page.text_content("h1") == "Log-in is not possible right now"
    page.context.close()

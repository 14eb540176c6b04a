"""Chromium for the log-in pages: a software card behind the Web eID extension's messages, a virtual authenticator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from exclave.demo.pki import Card
from support.login_site import web_eid_token

CHROMIUM = "/usr/bin/chromium"
_QUIET = [
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--no-first-run", "--no-pings", "--metrics-recording-only",
]  # fmt: skip

# The extension's content script, as far as a page sees it: "-ack" at once, then "-success" or "-failure".
_EXTENSION = """
window.addEventListener("message", async (event) => {
  if (event.source !== window || !event.data || event.data.action !== "web-eid:authenticate") return;
  window.postMessage({ action: "web-eid:authenticate-ack" }, location.origin);
  const answer = await window.softwareCard(event.data.challengeNonce, location.origin);
  const action = `web-eid:authenticate-${answer.error ? "failure" : "success"}`;
  window.postMessage({ action, ...answer }, location.origin);
});
"""


@contextmanager
def running_chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        try:
            yield browser
        finally:
            browser.close()


def put_card(page: Page, card: Card, change: Callable[[dict[str, Any]], dict[str, Any]] = lambda token: token) -> None:
    """Installs the extension with ``card`` in the reader; ``change`` may spoil what it answers."""
    page.expose_function("softwareCard", lambda nonce, origin: change(web_eid_token(card, nonce, origin)))
    page.add_init_script(_EXTENSION)


def put_authenticator(context: BrowserContext, page: Page, *, verified: bool = True) -> tuple[Any, str]:
    """A platform authenticator that keeps passkeys; (CDP session, its id)."""
    cdp = context.new_cdp_session(page)
    cdp.send("WebAuthn.enable")
    made = cdp.send("WebAuthn.addVirtualAuthenticator", {"options": {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
        "isUserVerified": verified, "automaticPresenceSimulation": True,
    }})  # fmt: skip
    return cdp, made["authenticatorId"]


def await_text(page: Page, selector: str, text: str) -> None:
    """Until ``selector`` shows ``text``."""
    deadline = time.monotonic() + 10
    while text not in (page.text_content(selector) or ""):
        assert time.monotonic() < deadline, page.text_content("body")
        page.wait_for_timeout(50)

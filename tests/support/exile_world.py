"""What people in the world do with the services of ``exile_state``; each function runs in the world's namespace."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.demo.pki import Card
from exclave.formats.paths import statement_key
from exclave.ids import Fingerprint, RegisterId
from exclave.serve.card_door import DOOR_PATH
from exclave.sites.opening import open_site
from support.exile_machines import APACHE_PORT, CARD, ISSUER, LOGIN, key_pem
from support.login_site import web_eid_token


@dataclass(frozen=True)
class Seen:
    """What a citizen's browser saw in the end."""

    status: int
    """0: no answer."""
    text: str
    user: str
    """As the relying service knows the citizen; empty: nobody logged in."""


def log_in(card: bytes, key: bytes, ca: Path) -> Seen:
    """A citizen opens the relying service's page and logs in with a card (DER, PEM key), as the pages' script does."""
    loaded = serialization.load_pem_private_key(key, None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    mine = Card(x509.load_der_x509_certificate(card), loaded)
    try:
        with httpx.Client(follow_redirects=True, timeout=3, verify=str(ca)) as browser:
            answer = _log_in(browser, mine)
    except httpx.HTTPError as error:
        return Seen(0, repr(error), "")
    return Seen(answer.status_code, answer.text, answer.headers.get("x-remote-user", ""))


def _log_in(browser: httpx.Client, card: Card) -> httpx.Response:
    page = browser.get(f"http://127.0.0.1:{APACHE_PORT}/")
    interaction = page.url.params.get("i", "")
    if page.status_code != 200 or not interaction:
        return page
    origin = {"origin": ISSUER}
    asked = browser.post(f"{ISSUER}/login/web-eid/challenge", json={"i": interaction}, headers=origin)
    if asked.status_code != 200:
        return asked
    token = web_eid_token(card, asked.json()["nonce"], ISSUER)
    done = browser.post(f"{ISSUER}/login/web-eid", json={"i": interaction, "token": token}, headers=origin)
    return browser.get(done.json()["location"]) if done.status_code == 200 else done


def log_in_by_tls(card: Path, key: Path, ca: Path) -> Seen:
    """The same with the card's certificate shown to nginx at the door, another name of the same place."""
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(card, key)
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=3, verify=str(ca)) as browser,
            httpx.Client(timeout=3, verify=context) as with_card,
        ):
            page = browser.get(f"http://127.0.0.1:{APACHE_PORT}/")
            shown = with_card.get(f"https://{CARD}{DOOR_PATH}", params={"i": page.url.params.get("i", "")})
            answer = browser.get(shown.headers["location"]) if shown.status_code == 303 else shown
    except httpx.HTTPError as error:
        return Seen(0, repr(error), "")
    return Seen(answer.status_code, answer.text, answer.headers.get("x-remote-user", ""))


def read_statement(url: str, fingerprint: str, register: str, note: bytes) -> bytes:
    """A statement as a site has it."""
    return open_site(url).get(statement_key(Fingerprint(fingerprint), RegisterId(register), note))


def key_of(card: Card) -> bytes:
    """PEM."""
    assert isinstance(card.key, ec.EllipticCurvePrivateKey)
    return key_pem(card.key)


def ask_token(address: str, client: str, secret: str, ca: Path) -> tuple[int, Any]:
    """A relying service redeems a code that nobody gave, at one place's address: 401 for a wrong secret, else 400."""
    form = {"grant_type": "authorization_code", "code": "A" * 43, "redirect_uri": f"http://127.0.0.1:{APACHE_PORT}/cb"}
    with httpx.Client(timeout=5, verify=str(ca)) as asking:
        answer = asking.post(
            f"https://{address}/oidc/token", data=form, auth=(client, secret), headers={"host": LOGIN},
            extensions={"sni_hostname": LOGIN},
        )  # fmt: skip
    return answer.status_code, answer.text


def fetch(url: str, ca: Path | None = None) -> tuple[int, Any]:
    """Status, and the JSON or text; (0, reason) if there is no answer."""
    try:
        with httpx.Client(timeout=5, trust_env=False, verify=str(ca) if ca else True) as client:
            answer = client.get(url)
    except httpx.HTTPError as error:
        return 0, repr(error)
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    return answer.status_code, answer.json() if is_json else answer.text

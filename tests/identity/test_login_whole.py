"""From a relying service's request over the log-in pages to its ID token, with the real OpenID provider."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from exclave.identity.login_settings import LoginSettings
from exclave.identity.status_log import Reason, Revoked
from exclave.serve.login import LoginPages
from exclave.serve.oidc import routes
from support.login_authenticator import SoftPasskey
from support.login_site import NOW, Site, token_bytes
from support.op_place import ISSUER, RP, Known, Place, answer, query, relying

COOKIE = "__Host-exclave"


class Whole:
    """Provider and pages in one application, and a browser that keeps its cookie."""

    def __init__(self) -> None:
        self.op = Place(Known(relying(scopes=("openid", "idcard"), auth_methods=("client_secret_post",))))
        self.site = Site(LoginSettings(ISSUER), NOW, interactions=self.op.interactions)
        pages = LoginPages(self.site.desk, self.site.own, self.site.pages).routes()
        self._app = Starlette(routes=[*routes(self.op.provider), *pages])
        self.cookie = ""

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._ask(method, path, **more))

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"origin": ISSUER, "cookie": f"{COOKIE}={self.cookie}", "accept-language": "en"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url=ISSUER) as client:
            found = await client.request(method, path, headers=headers, **more)
        self.cookie = found.cookies.get(COOKIE) or self.cookie
        return found

    def begin(self, **parameters: str) -> str:
        """Asks for a log-in; the id of what waits."""
        sent = self.ask("GET", f"/oidc/authorize?{query(**parameters)}")
        where = sent.headers["location"]
        assert where.startswith("/login?i=")
        page = self.ask("GET", where)
        assert page.status_code == 200
        assert "The service" in page.text
        return where.removeprefix("/login?i=")

    def claims(self, where: str) -> dict[str, Any]:
        token = json.loads(self.op.redeem(answer(where)["code"]).body)["id_token"]
        body = token.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def test_card_to_id_token() -> None:
    """A citizen's card becomes the claims that the service gets."""
    whole = Whole()
    name = whole.begin()
    nonce = whole.ask("POST", "/login/web-eid/challenge", json={"i": name}).json()["nonce"]
    token = json.loads(token_bytes(whole.site.card(), nonce, origin=ISSUER))
    where = whole.ask("POST", "/login/web-eid", json={"i": name, "token": token}).json()["location"]
    claims = whole.claims(where)
    assert (claims["sub"], claims["amr"], claims["acr"]) == ("EE38001085718", ["idcard"], "high")
    assert claims["profile_attributes"]["date_of_birth"] == "1980-01-08"
    again = whole.ask("POST", "/login/web-eid", json={"i": name, "token": token})
    assert (again.status_code, again.json()["error"]) == (403, "expired")


def test_passkey_to_id_token() -> None:
    """A passkey that the card enrolled logs in at its own level, and not where more is asked."""
    whole = Whole()
    owner = whole.site.cards.certificate(whole.site.card().der, relying(), now=NOW).authentication
    passkey = SoftPasskey(ISSUER, "login.demo.test")
    made = passkey.create(whole.site.passkeys.enrol_options(owner, "o" * 43, now=NOW))
    whole.site.passkeys.enrol(owner, made, "o" * 43, now=NOW)
    name = whole.begin()
    options = whole.ask("POST", "/login/passkey/challenge", json={"i": name}).content
    sent = {"i": name, "credential": json.loads(passkey.get(options))}
    claims = whole.claims(whole.ask("POST", "/login/passkey", json=sent).json()["location"])
    assert (claims["sub"], claims["amr"], claims["acr"]) == ("EE38001085718", ["passkey"], "substantial")
    for asked in ({"acr_values": "high"}, {"scope": "openid idcard"}):
        name = whole.begin(**asked)
        assert whole.ask("POST", "/login/passkey/challenge", json={"i": name}).status_code == 403


@pytest.mark.parametrize("revoked", [True, False])
def test_refusal_and_cancel(revoked: bool) -> None:
    """A revoked card gets no code, and who gives up sends the service access_denied."""
    whole = Whole()
    name = whole.begin()
    card = whole.site.card()
    if revoked:
        whole.site.store.say(card, Revoked(NOW, Reason.KEY_COMPROMISE), whole.site.pki.second)
        nonce = whole.ask("POST", "/login/web-eid/challenge", json={"i": name}).json()["nonce"]
        token = json.loads(token_bytes(card, nonce, origin=ISSUER))
        assert whole.ask("POST", "/login/web-eid", json={"i": name, "token": token}).status_code == 403
    left = whole.ask("POST", "/login/cancel", data={"i": name})
    assert f"0;url={RP}?error=access_denied&amp;state=st" in left.text

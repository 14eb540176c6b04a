"""Relying services as others wrote them: Authlib, openid-client on node, Apache with mod_auth_openidc."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from authlib.integrations.starlette_client import OAuth
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from exclave.crypto.jwk import thumbprint
from exclave.identity.contract import IdentityState
from exclave.identity.op.settings import OpSettings
from exclave.ids import Label
from support.apache_oidc import apache
from support.loopback_tls import loopback_tls
from support.node import run_node
from support.op_place import RSA_KEY, SECRET, Keys, Known, Place, application, free_port, relying, served
from support.soft_signer import SoftSigner

pytestmark = pytest.mark.filterwarnings("ignore")
PRIVATE = ECKey.generate_key("P-256", {"kid": "c1", "use": "sig", "alg": "ES256"})
PUBLIC = json.dumps({"keys": [PRIVATE.as_dict(private=False)]})


def clients(uri: str) -> Known:
    """One for each way of authentication, all coming back to ``uri``."""
    signs: dict[str, Any] = {"auth_methods": ("private_key_jwt",), "secret_sha256": (), "jwks": PUBLIC}
    own: dict[str, Any] = {"redirect_uris": (uri,), "post_logout_redirect_uris": (uri.replace("/cb", "/bye"),)}
    return Known(
        relying("basic", **own, signing_alg="RS256"),
        relying("post", **own, auth_methods=("client_secret_post",), signing_alg="ES256"),
        relying("signs", **own, **signs, require_par=True),
        relying("signs-es", **own, **signs, signing_alg="ES256"),
        relying("app", **own, auth_methods=("none",), secret_sha256=()),
        relying("tara", **own, quirks=("tara-at-hash",)),
    )


@contextlib.contextmanager
def provider(uri: str) -> Iterator[Place]:
    """Over plain HTTP on loopback."""
    port = free_port()
    place = Place(clients(uri), OpSettings(f"http://127.0.0.1:{port}", secure_cookies=False), wall=True)
    with served(application(place), port):
        yield place


# Authlib


class OneSession:
    """Gives every request the same session: there is one browser."""

    def __init__(self, app: Starlette) -> None:
        self.app, self.session = app, dict[str, Any]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"] = self.session
        await self.app(scope, receive, send)


def authlib_service(issuer: str, uri: str, client_id: str, **more: Any) -> Any:
    """A Starlette application that logs in by Authlib: ``/go``, ``/cb``, ``/me``, ``/leave``, ``/bye``."""
    oauth = OAuth()
    oauth.register(
        "rp", client_id=client_id, server_metadata_url=f"{issuer}/.well-known/openid-configuration",
        **{
            "client_secret": SECRET,
            "client_kwargs": {"scope": "openid", "code_challenge_method": "S256"}, **more,
        },
    )  # fmt: skip
    seen: dict[str, Any] = {}

    async def go(request: Request) -> Response:
        return await oauth.rp.authorize_redirect(request, uri)

    async def back(request: Request) -> Response:
        seen["token"] = await oauth.rp.authorize_access_token(request)
        info = await oauth.rp.userinfo(token=seen["token"])
        head = seen["token"]["id_token"].partition(".")[0]
        kid = json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]
        return JSONResponse({"claims": seen["token"]["userinfo"], "info": info, "kid": kid})

    async def leave(request: Request) -> Response:
        return await oauth.rp.logout_redirect(request, uri.replace("/cb", "/bye"), seen["token"]["id_token"])

    async def bye(request: Request) -> Response:
        return JSONResponse(await oauth.rp.validate_logout_response(request))

    return OneSession(
        Starlette(routes=[Route("/go", go), Route("/cb", back), Route("/leave", leave), Route("/bye", bye)])
    )


def with_authlib(client_id: str, **more: Any) -> tuple[Any, Place, str]:
    """The service's answer to a log-in, the provider's place, and the base address of the service."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with provider(f"{base}/cb") as place:
        app = authlib_service(place.settings.issuer, f"{base}/cb", client_id, **more)
        with served(app, port), httpx.Client(follow_redirects=True, timeout=20) as browser:
            reply = browser.get(f"{base}/go")
            gone = browser.get(f"{base}/leave") if reply.status_code == 200 else None
            return (reply, gone), place, base


@pytest.mark.parametrize(
    ("client_id", "more"),
    [
        ("basic", {}),
        ("post", {"client_kwargs": {"scope": "openid", "token_endpoint_auth_method": "client_secret_post"}}),
        ("app", {"client_secret": None, "client_kwargs": {
            "scope": "openid", "token_endpoint_auth_method": "none", "code_challenge_method": "S256"}}),
    ],
)  # fmt: skip
def test_authlib(client_id: str, more: dict[str, Any]) -> None:
    """Authlib's Starlette client: discovery, PKCE, token, ID token with at_hash and nonce, UserInfo, log-out."""
    (reply, gone), place, base = with_authlib(client_id, **more)
    assert reply.status_code == 200, reply.text
    found = reply.json()
    assert found["claims"]["sub"] == found["info"]["sub"] == "EE38001085718"
    assert found["claims"]["aud"] == client_id
    assert found["claims"]["iss"] == place.settings.issuer
    assert found["info"]["given_name"] == "MARI"
    assert gone is not None
    assert (gone.status_code, gone.json()) == (200, {"post_logout_redirect_uri": f"{base}/bye"})


def test_authlib_private_key_jwt() -> None:
    """Authlib signs its assertion (RFC 7523) for the token endpoint; its default, an hour, is too long here."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with provider(f"{base}/cb") as place:
        endpoint = f"{place.settings.issuer}/oidc/token"
        claims = {"exp": int(time.time()) + 120}
        app = authlib_service(
            place.settings.issuer, f"{base}/cb", "signs-es", client_secret=PRIVATE,
            client_auth_methods=[PrivateKeyJWT(endpoint, claims, {"kid": "c1"}, "ES256")],
            client_kwargs={"scope": "openid", "token_endpoint_auth_method": "private_key_jwt"},
        )  # fmt: skip
        with served(app, port), httpx.Client(follow_redirects=True, timeout=20) as browser:
            reply = browser.get(f"{base}/go")
            assert reply.status_code == 200, reply.text
            assert reply.json()["claims"]["aud"] == "signs-es"


def test_tara_quirk_is_a_quirk() -> None:
    """An at_hash as TARA writes it is not the standard's: a strict client refuses it, so it is off by default."""
    (reply, _), _, _ = with_authlib("tara")
    assert reply.status_code == 500


def test_services_do_not_notice_that_home_is_gone() -> None:
    """Home's server ends, the embassy answers under the same name with keys of its own. Authlib, which read the keys at
    home and keeps them, logs people in as before, without asking for keys again: they were in home's set."""
    port, rp = free_port(), free_port()
    base = f"http://127.0.0.1:{rp}"
    known, settings = clients(f"{base}/cb"), OpSettings(f"http://127.0.0.1:{port}", secure_cookies=False)
    abroad = Keys(
        SoftSigner(rsa.generate_private_key(65537, 2048)), SoftSigner(ec.generate_private_key(ec.SECP256R1()))
    )
    known.keys = {Label("home"): Keys().jwks(), Label("oslo"): abroad.jwks()}
    home = Place(known, settings, wall=True)
    embassy = Place(known, settings, wall=True, keys=abroad, label="oslo", state=IdentityState.EXILE, epoch=2)
    embassy.withdrawn = frozenset({Label("home")})
    asked: list[str] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await application(embassy)(scope, receive, send)

    def kid(browser: httpx.Client) -> str:
        reply = browser.get(f"{base}/go")
        assert reply.status_code == 200, reply.text
        return str(reply.json()["kid"])

    app = authlib_service(settings.issuer, f"{base}/cb", "basic")
    with served(app, rp), httpx.Client(follow_redirects=True, timeout=20) as browser:
        with served(application(home), port):
            assert kid(browser) == thumbprint(RSA_KEY.public_der)
        with served(watched, port):
            assert kid(browser) == thumbprint(abroad.signers["RS256"].public_der)
    assert "/oidc/token" in asked
    assert "/oidc/jwks" not in asked
    left = {key["kid"] for key in json.loads(embassy.provider.jwks().body)["keys"]}
    assert left == {thumbprint(signer.public_der) for signer in abroad.signers.values()}


# openid-client on node


def test_openid_client() -> None:
    """openid-client: each way of authentication, PKCE, PAR, ES256 and RS256, max_age and nonce checked by it."""
    uri = "http://127.0.0.1:1/cb"
    flows = [
        {"client_id": "basic", "method": "client_secret_basic", "alg": "RS256", "par": False},
        {"client_id": "basic", "method": "client_secret_basic", "alg": "RS256", "par": True},
        {"client_id": "post", "method": "client_secret_post", "alg": "ES256", "par": False},
        {"client_id": "signs", "method": "private_key_jwt", "alg": "RS256", "par": True},
        {"client_id": "signs-es", "method": "private_key_jwt", "alg": "ES256", "par": False},
        {"client_id": "app", "method": "none", "alg": "RS256", "par": False},
    ]
    with provider(uri) as place:
        jwk = PRIVATE.as_dict(private=True)
        asked = {
            "issuer": place.settings.issuer, "redirect_uri": uri, "secret": SECRET, "flows": flows,
            "jwk": {name: jwk[name] for name in ("kty", "crv", "x", "y", "d")} | {"kid": "c1"},
        }  # fmt: skip
        done = json.loads(run_node("openid_client.mjs", json.dumps(asked)))
    assert [(one["claims"]["aud"], one["par"]) for one in done] == [(f["client_id"], f["par"]) for f in flows]
    for one in done:
        assert one["claims"]["sub"] == one["info"]["sub"] == "EE38001085718"
        assert one["claims"]["acr"] == "high"


# Apache


def test_apache_over_tls(tmp_path: Path) -> None:
    """mod_auth_openidc against the provider under TLS of a CA of its own: discovery, PKCE, ID token, UserInfo."""
    ca, certificate, key = loopback_tls(tmp_path)
    port, rp = free_port(), free_port()
    place = Place(clients(f"http://127.0.0.1:{rp}/cb"), OpSettings(f"https://127.0.0.1:{port}"), wall=True)
    with (
        served(application(place), port, tls=(certificate, key)),
        apache(rp, place.settings.issuer, "basic", SECRET, ca.read_bytes()) as log,
        httpx.Client(follow_redirects=True, timeout=30, verify=str(ca)) as browser,
    ):
        reply = browser.get(f"http://127.0.0.1:{rp}/")
        assert reply.status_code == 200, reply.text + log.read_text()
        assert "protected" in reply.text
        assert reply.headers["x-remote-user"].startswith("EE38001085718")
        assert "__Host-exclave" in {cookie.name for cookie in browser.cookies.jar}


def test_apache_over_plain_http() -> None:
    """The same on loopback without TLS; a client whose secret was changed a moment ago is refused."""
    rp = free_port()
    with (
        provider(f"http://127.0.0.1:{rp}/cb") as place,
        apache(rp, place.settings.issuer, "basic", SECRET) as log,
    ):
        with httpx.Client(follow_redirects=True, timeout=30) as browser:
            reply = browser.get(f"http://127.0.0.1:{rp}/")
            assert reply.headers.get("x-remote-user", "").startswith("EE38001085718"), reply.text + log.read_text()
        place.store.clients["basic"] = relying(
            "basic", redirect_uris=(f"http://127.0.0.1:{rp}/cb",), secret_sha256=("0" * 64,)
        )
        with httpx.Client(follow_redirects=True, timeout=30) as browser:
            assert "protected" not in browser.get(f"http://127.0.0.1:{rp}/").text
        assert "invalid_client" in log.read_text()

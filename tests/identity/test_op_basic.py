"""What the OpenID Foundation's plans for Basic OP and Config OP ask of a provider, under the names of its modules.

Those plans need a server of their own; here each module that concerns a provider with static clients and the code flow
is a case of the same name, against the protocol code itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from exclave.identity.op.wire import Call, Reply
from support.op_place import ISSUER, RP, SECRET, Browser, Known, Place, answer, header, location, pkce, query, relying

Case = Callable[[Place], None]


@pytest.fixture
def place() -> Place:
    second = relying("rp2", auth_methods=("client_secret_basic",), redirect_uris=("https://rp2.demo.test/cb",))
    post = relying(auth_methods=("client_secret_basic", "client_secret_post"), scopes=("openid", "profile", "email"))
    return Place(Known(post, second))


def tokens(reply: Reply) -> dict[str, str]:
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def claims(place: Place, token: str) -> dict[str, object]:
    """Of an ID token, verified by the published keys."""
    keys = KeySet.import_key_set(json.loads(place.provider.jwks().body))
    decoded = jwt.decode(token, keys, algorithms=["RS256", "ES256"])
    assert decoded.header["kid"]
    return decoded.claims


def logged_in(place: Place, **parameters: str | None) -> dict[str, object]:
    """The claims at the end of a flow."""
    return claims(place, tokens(place.redeem(place.log_in(**parameters)["code"]))["id_token"])


def server(place: Place) -> None:
    """Metadata and flow together: every claim that must be there is there and right."""
    found = logged_in(place)
    seconds = place.time // 1_000_000
    assert found["iss"] == ISSUER
    assert (found["aud"], found["sub"], found["nonce"], found["state"]) == ("rp", "EE38001085718", "n0", "st")
    assert (found["iat"], found["nbf"], found["exp"]) == (seconds, seconds, seconds + 40)
    assert found["profile_attributes"] == {
        "given_name": "MARI", "family_name": "MAASIKAS", "date_of_birth": "1980-01-08",
    }  # fmt: skip
    assert (found["acr"], found["amr"], found["auth_time"]) == ("high", ["idcard"], seconds)
    assert found["jti"]


def response_type_missing(place: Place) -> None:
    assert answer(location(place.authorize(response_type=None)))["error"] == "invalid_request"


def idtoken_signature(place: Place) -> None:
    code = place.log_in()["code"]
    head, body, _ = tokens(place.redeem(code))["id_token"].split(".")
    with pytest.raises(Exception, match=r"[Ss]ignature|bad"):
        claims(place, f"{head}.{body}.{'A' * 342}")


def userinfo_get(place: Place) -> None:
    reply = place.userinfo(tokens(place.redeem(place.log_in()["code"]))["access_token"])
    assert (reply.status, json.loads(reply.body)["sub"]) == (200, "EE38001085718")


def userinfo_post_header(place: Place) -> None:
    token = tokens(place.redeem(place.log_in()["code"]))["access_token"]
    assert place.provider.profile(Call("POST", authorization=(f"Bearer {token}",))).status == 200


def userinfo_post_body(place: Place) -> None:
    token = tokens(place.redeem(place.log_in()["code"]))["access_token"]
    assert place.post("/oidc/profile", {"access_token": token}).status == 200


def without_nonce(place: Place) -> None:
    assert "nonce" not in logged_in(place, nonce=None)


def scope_profile(place: Place) -> None:
    assert logged_in(place, scope="openid profile")["profile_attributes"]


def scope_email(place: Place) -> None:
    assert "email" not in logged_in(place, scope="openid email")


def scope_all(place: Place) -> None:
    assert logged_in(place, scope="openid profile email address phone")["sub"]


def other_scope_order(place: Place) -> None:
    assert logged_in(place, scope="profile openid")["sub"]


def display_page(place: Place) -> None:
    assert logged_in(place, display="page")["sub"]


def display_popup(place: Place) -> None:
    assert logged_in(place, display="popup")["sub"]


def prompt_login(place: Place) -> None:
    browser = Browser(place)
    place.log_in(browser)
    place.wait(2)
    assert location(place.authorize(browser, prompt="login")).startswith("/login")


def prompt_none_not_logged_in(place: Place) -> None:
    found = answer(location(place.authorize(prompt="none")))
    assert found == {"error": "login_required", "state": "st"}


def max_age_1(place: Place) -> None:
    browser = Browser(place)
    place.log_in(browser)
    place.wait(3)
    assert location(place.authorize(browser, max_age="1")).startswith("/login")


def max_age_10000(place: Place) -> None:
    assert logged_in(place, max_age="10000")["auth_time"] == place.time // 1_000_000


def id_token_hint(place: Place) -> None:
    hint = tokens(place.redeem(place.log_in()["code"]))["id_token"]
    place.wait(100)
    assert logged_in(place, id_token_hint=hint)["sub"] == "EE38001085718"


def login_hint(place: Place) -> None:
    assert logged_in(place, login_hint="buffy@demo.test")["sub"] == "EE38001085718"


def ui_locales(place: Place) -> None:
    assert logged_in(place, ui_locales="se fr et")["sub"]


def claims_locales(place: Place) -> None:
    assert logged_in(place, claims_locales="se")["sub"]


def acr_values(place: Place) -> None:
    assert logged_in(place, acr_values="low high")["acr"] == "high"


def code_reuse(place: Place) -> None:
    code = place.log_in()["code"]
    assert place.redeem(code).status == 200
    assert json.loads(place.redeem(code).body)["error"] == "invalid_grant"


def code_reuse_30s(place: Place) -> None:
    code = place.log_in()["code"]
    token = tokens(place.redeem(code))["access_token"]
    place.wait(31)
    assert json.loads(place.redeem(code).body)["error"] == "invalid_grant"
    assert place.userinfo(token).status == 401


def redirect_uri_mismatch(place: Place) -> None:
    reply = place.authorize(redirect_uri="https://rp.demo.test/other")
    assert (reply.status, header(reply, "location")) == (400, "")


def post_request(place: Place) -> None:
    browser = Browser(place)
    asked = dict(pair.split("=", 1) for pair in query(redirect_uri=None).split("&"))
    reply = place.provider.authorize(browser.post({**asked, "redirect_uri": RP}))
    assert location(reply).startswith("/login")


def client_secret_basic(place: Place) -> None:
    import base64

    header_ = "Basic " + base64.b64encode(f"rp:{SECRET}".encode()).decode()
    form = {"grant_type": "authorization_code", "code": place.log_in()["code"], "redirect_uri": RP}
    assert place.post("/oidc/token", form, authorization=(header_,)).status == 200


def request_object_refused(place: Place) -> None:
    reply = place.authorize(request="eyJhbGciOiJub25lIn0.e30.")
    assert answer(location(reply))["error"] == "request_not_supported"


def request_uri_refused(place: Place) -> None:
    reply = place.authorize(request_uri="https://rp.demo.test/request.jwt")
    assert answer(location(reply))["error"] == "request_uri_not_supported"


def claims_essential(place: Place) -> None:
    asked = json.dumps({"userinfo": {"name": {"essential": True}}})
    assert logged_in(place, claims=asked)["sub"]


def unknown_parameter(place: Place) -> None:
    assert logged_in(place, extra="foobar")["sub"]


def pkce_flow(place: Place) -> None:
    verifier, challenge = pkce()
    found = place.log_in(code_challenge=challenge, code_challenge_method="S256")
    assert place.redeem(found["code"], code_verifier=verifier).status == 200


def discovery(place: Place) -> None:
    reply = place.provider.discovery()
    found = json.loads(reply.body)
    assert header(reply, "content-type") == "application/json"
    assert found["issuer"] == ISSUER
    for name in (
        "authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri", "response_types_supported",
        "subject_types_supported", "id_token_signing_alg_values_supported", "scopes_supported", "claims_supported",
    ):  # fmt: skip
        assert found[name]
    assert "RS256" in found["id_token_signing_alg_values_supported"]
    assert all(value.startswith("https://") for name, value in found.items() if name.endswith(("_endpoint", "_uri")))


def jwks(place: Place) -> None:
    keys = json.loads(place.provider.jwks().body)["keys"]
    assert all(key["kid"] and key["use"] == "sig" and key["kty"] in ("RSA", "EC") for key in keys)
    assert not any({"d", "p", "q", "k"} & set(key) for key in keys)


MODULES: dict[str, Case] = {
    "oidcc-server": server,
    "oidcc-response-type-missing": response_type_missing,
    "oidcc-idtoken-signature": idtoken_signature,
    "oidcc-idtoken-rs256": server,
    "oidcc-userinfo-get": userinfo_get,
    "oidcc-userinfo-post-header": userinfo_post_header,
    "oidcc-userinfo-post-body": userinfo_post_body,
    "oidcc-ensure-request-without-nonce-succeeds-for-code-flow": without_nonce,
    "oidcc-scope-profile": scope_profile,
    "oidcc-scope-email": scope_email,
    "oidcc-scope-all": scope_all,
    "oidcc-ensure-other-scope-order-succeeds": other_scope_order,
    "oidcc-display-page": display_page,
    "oidcc-display-popup": display_popup,
    "oidcc-prompt-login": prompt_login,
    "oidcc-prompt-none-not-logged-in": prompt_none_not_logged_in,
    "oidcc-max-age-1": max_age_1,
    "oidcc-max-age-10000": max_age_10000,
    "oidcc-ensure-request-with-unknown-parameter-succeeds": unknown_parameter,
    "oidcc-id-token-hint": id_token_hint,
    "oidcc-login-hint": login_hint,
    "oidcc-ui-locales": ui_locales,
    "oidcc-claims-locales": claims_locales,
    "oidcc-ensure-request-with-acr-values-succeeds": acr_values,
    "oidcc-codereuse": code_reuse,
    "oidcc-codereuse-30seconds": code_reuse_30s,
    "oidcc-ensure-registered-redirect-uri": redirect_uri_mismatch,
    "oidcc-ensure-post-request-succeeds": post_request,
    "oidcc-server-client-secret-post": pkce_flow,
    "oidcc-server-client-secret-basic": client_secret_basic,
    "oidcc-unsigned-request-object-supported-correctly-or-rejected-as-unsupported": request_object_refused,
    "oidcc-request-uri-unsigned-supported-correctly-or-rejected-as-unsupported": request_uri_refused,
    "oidcc-claims-essential": claims_essential,
    "oidcc-ensure-request-with-valid-pkce-succeeds": pkce_flow,
    "oidcc-discovery-endpoint-verification": discovery,
    "oidcc-config-jwks": jwks,
}


@pytest.mark.parametrize("module", MODULES)
def test_module(place: Place, module: str) -> None:
    """The module's steps, and what it looks for at their end."""
    MODULES[module](place)


def test_prompt_none_logged_in() -> None:
    """oidcc-prompt-none-logged-in, where a place allows single sign-on: the same person, without a page."""
    from exclave.identity.op.settings import OpSettings

    post = relying(auth_methods=("client_secret_post",))
    place = Place(Known(post), OpSettings(ISSUER, single_sign_on=True))
    browser = Browser(place)
    place.log_in(browser)
    place.wait(60)
    again = place.log_in(browser, prompt="none")
    assert claims(place, tokens(place.redeem(again["code"]))["id_token"])["auth_time"] == place.time // 1_000_000 - 60
    place.wait(1800)
    assert answer(location(place.authorize(browser, prompt="none")))["error"] == "login_required"


def test_token_answer_is_not_cached(place: Place) -> None:
    """RFC 6749, section 5.1: no cache keeps a token."""
    reply = place.redeem(place.log_in()["code"])
    assert (header(reply, "cache-control"), header(reply, "pragma")) == ("no-store", "no-cache")
    assert urlencode({"token_type": json.loads(reply.body)["token_type"]}) == "token_type=Bearer"

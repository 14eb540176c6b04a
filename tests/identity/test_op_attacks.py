"""Attacks on the code flow, each by its name in RFC 9700 (OAuth 2.0 Security Best Current Practice) and around it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from exclave.crypto.jose import jwk_of
from exclave.errors import NotAuthorised, UnavailableError
from exclave.formats.relying import RelyingService
from exclave.identity.contract import IdentityState, Person
from exclave.identity.op.clients import ASSERTION_TYPE
from exclave.identity.op.wire import Call, Reply
from exclave.ids import Label
from support.op_place import (
    CLIENT_EC,
    CLIENT_KEY,
    EC_KEY,
    ISSUER,
    JWT_CLIENT,
    RP,
    RSA_KEY,
    SECRET,
    Browser,
    Known,
    Place,
    answer,
    header,
    location,
    pkce,
    query,
    query_of,
    relying,
    secret_hash,
)
from support.soft_signer import SoftSigner

POST = ("client_secret_basic", "client_secret_post")
TOKEN = f"{ISSUER}/oidc/token"


@pytest.fixture
def place() -> Place:
    """Home, with a web client, another one, a mobile app, and one that signs assertions."""
    return Place(
        Known(
            relying(auth_methods=POST, backchannel_logout_uri="https://rp.demo.test/logout"),
            relying("other", auth_methods=POST, secret_sha256=(secret_hash("another"),), redirect_uris=("https://other.demo.test/cb",)),
            relying("app", auth_methods=("none",), secret_sha256=(), redirect_uris=("test.demo.app:/cb",)),
            JWT_CLIENT,
            relying("strict", auth_methods=POST, require_par=True, require_pkce=True),
        )
    )  # fmt: skip


def error_of(reply: Reply) -> str:
    assert reply.status >= 400
    return str(json.loads(reply.body)["error"])


def access_token(reply: Reply) -> str:
    assert reply.status == 200, reply.body
    return str(json.loads(reply.body)["access_token"])


# Mix-up (RFC 9700, section 4.4)


def test_mix_up(place: Place) -> None:
    """Every answer, a good one and an error, says which issuer it comes from (RFC 9207), and so does the metadata."""
    good = query_of(place.interactions.complete(*_begun(place), place.authentication()))
    bad = query_of(location(place.authorize(response_type="token")))
    given_up = query_of(place.interactions.cancel(*_begun(place), "access_denied"))
    assert good["iss"] == bad["iss"] == given_up["iss"] == ISSUER
    metadata = json.loads(place.provider.discovery().body)
    assert metadata["authorization_response_iss_parameter_supported"] is True


def _begun(place: Place, browser: Browser | None = None, **parameters: str | None) -> tuple[str, str]:
    """(interaction, cookie) of a log-in that waits."""
    browser = browser or Browser(place)
    where = location(place.authorize(browser, **parameters))
    assert where.startswith("/login?i=")
    return query_of(where)["i"], browser.cookie


# Codes (sections 4.2, 4.5, 4.8)


def test_code_injection(place: Place) -> None:
    """A stolen code is of no use in the attacker's own session with the client: his verifier does not fit, and the code
    is dead afterwards."""
    verifier, challenge = pkce()
    code = place.log_in(code_challenge=challenge, code_challenge_method="S256")["code"]
    assert error_of(place.redeem(code, code_verifier=pkce()[0])) == "invalid_grant"
    assert error_of(place.redeem(code, code_verifier=verifier)) == "invalid_grant"


def test_code_injection_is_seen_by_nonce(place: Place) -> None:
    """Where a client does without PKCE, the ID token carries the nonce of the request that the code was given for."""
    place.log_in(nonce="attacker")
    token = json.loads(place.redeem(place.log_in(nonce="victim")["code"]).body)["id_token"]
    body = token.split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(body + "=="))["nonce"] == "victim"


def test_code_replay(place: Place) -> None:
    """A code works once; its second use ends what the first one gave."""
    code = place.log_in()["code"]
    token = access_token(place.redeem(code))
    assert place.userinfo(token).status == 200
    assert error_of(place.redeem(code)) == "invalid_grant"
    assert error_of(place.userinfo(token)) == "invalid_token"


def test_code_replay_by_racers(place: Place) -> None:
    """Of many that redeem one code at the same moment at most one gets tokens, and a loser ends that one's too."""
    code = place.log_in()["code"]
    replies: list[Reply] = []
    gate = threading.Barrier(8)

    def race() -> None:
        gate.wait()
        replies.append(place.redeem(code))

    racers = [threading.Thread(target=race) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    won = [reply for reply in replies if reply.status == 200]
    assert len(won) <= 1
    assert {error_of(reply) for reply in replies if reply.status != 200} == {"invalid_grant"}
    assert all(place.userinfo(access_token(reply)).status == 401 for reply in won)


def test_expired_code(place: Place) -> None:
    """A code lives 30 seconds."""
    code = place.log_in()["code"]
    place.wait(29.9)
    late = place.log_in()["code"]
    assert place.redeem(code).status == 200
    place.wait(30.1)
    assert error_of(place.redeem(late)) == "invalid_grant"


def test_wrong_client_for_a_code(place: Place) -> None:
    """A code of one client is refused to another, and is good for nobody from then on: it has leaked."""
    code = place.log_in()["code"]
    assert error_of(place.redeem(code, client_id="other", client_secret="another")) == "invalid_grant"
    assert error_of(place.redeem(code)) == "invalid_grant"


def test_redirect_uri_is_repeated_at_the_token_endpoint(place: Place) -> None:
    """Whoever had a code sent elsewhere cannot redeem it: the redirect URI must be the one of the request."""
    for uri in (None, RP + "/", "https://other.demo.test/cb"):
        assert error_of(place.redeem(place.log_in()["code"], redirect_uri=uri)) == "invalid_grant"


def test_code_of_an_earlier_authority(place: Place) -> None:
    """Once the authority has moved, codes of the one before are worth nothing."""
    code = place.log_in()["code"]
    place.epoch = 2
    assert error_of(place.redeem(code)) == "invalid_grant"


# PKCE (section 2.1.1, 4.8.2)


def test_pkce_downgrade(place: Place) -> None:
    """A verifier for a code that was asked for without a challenge is refused, and so is a code with a challenge that
    comes without a verifier: no attacker gains by taking one half away."""
    verifier, challenge = pkce()
    assert error_of(place.redeem(place.log_in()["code"], code_verifier=verifier)) == "invalid_grant"
    code = place.log_in(code_challenge=challenge, code_challenge_method="S256")["code"]
    assert error_of(place.redeem(code)) == "invalid_grant"


@pytest.mark.parametrize(
    "parameters",
    [
        {"code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"},
        {"code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "plain"},
        {"code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "s256"},
        {"code_challenge": "short", "code_challenge_method": "S256"},
        {"code_challenge_method": "S256"},
    ],
)
def test_pkce_plain(place: Place, parameters: dict[str, str]) -> None:
    """Only S256, said in so many words, with a challenge of the right form."""
    assert answer(location(place.authorize(**parameters)))["error"] == "invalid_request"


def test_public_client_needs_pkce(place: Place) -> None:
    """An app that cannot keep a secret gets no code without PKCE, and redeems with its verifier alone."""
    uri = "test.demo.app:/cb"
    refused = location(place.authorize(client_id="app", redirect_uri=uri))
    assert query_of(refused)["error"] == "invalid_request"
    verifier, challenge = pkce()
    begun = _begun(place, client_id="app", redirect_uri=uri, code_challenge=challenge, code_challenge_method="S256")
    code = query_of(place.interactions.complete(*begun, place.authentication()))["code"]
    assert (
        place.redeem(code, client_id="app", redirect_uri=uri, client_secret=None, code_verifier=verifier).status == 200
    )


def test_public_client_is_not_a_way_around_a_secret(place: Place) -> None:
    """A client that has a secret cannot be played by naming its id alone."""
    assert error_of(place.redeem(place.log_in()["code"], client_secret=None)) == "invalid_client"


# Redirect URIs (sections 2.1, 4.1, 4.11)


@pytest.mark.parametrize(
    "uri",
    [
        "", "https://rp.demo.test/cb/", "https://rp.demo.test/cb/../evil", "https://rp.demo.test/cb/..%2fevil",
        "https://rp.demo.test/CB", "https://RP.demo.test/cb", "HTTPS://rp.demo.test/cb", "https://rp.demo.test:443/cb",
        "https://rp.demo.test:8443/cb", "https://rp.demo.test/cb?x=1", "https://rp.demo.test/cb#f",
        "https://rp.demo.test/cb%00", "https://rp.demo.test/cb ", " https://rp.demo.test/cb", "https://rp.demo.test./cb",
        "https://user@rp.demo.test/cb", "https://rp.demo.test@evil.test/cb", "https://evil.test/https://rp.demo.test/cb",
        "https://rp.demo.test.evil.test/cb", "https://rp.demo.test%2f.evil.test/cb", "https://rp.demo.test\\@evil.test/cb",
        "//rp.demo.test/cb", "/cb", "javascript:alert(1)", "data:text/html,x", "https://rp.demo.tеst/cb",
        "https://xn--rp-demo.test/cb", "http://rp.demo.test/cb", "https://rp.demo.test/cb\r\nset-cookie:a=b",
    ],
)  # fmt: skip
def test_redirect_uri_tricks(place: Place, uri: str) -> None:
    """Compared byte by byte: anything that is nearly the registered one gets a page, and no redirect."""
    reply = place.authorize(redirect_uri=uri)
    assert (reply.status, header(reply, "location")) == (400, "")
    assert b"evil" not in reply.body
    assert header(reply, "content-security-policy").startswith("default-src 'none'")


def test_open_redirect(place: Place) -> None:
    """Neither an unknown nor a disabled client makes the provider send a browser anywhere, whatever else is wrong."""
    place.store.clients["rp"] = replace_client(place.store.clients["rp"], enabled=False)
    for parameters in ({"client_id": "nobody"}, {"client_id": None}, {}, {"response_type": "token"}):
        reply = place.authorize(**parameters)  # type: ignore[arg-type]
        assert (reply.status, header(reply, "location")) == (400, "")


def test_open_redirect_by_log_out(place: Place) -> None:
    """After logging out too, a browser goes only to where the client registered."""
    place.store.clients["rp"] = replace_client(
        place.store.clients["rp"], post_logout_redirect_uris=("https://rp.demo.test/bye",)
    )
    for uri in ("https://evil.test/", "https://rp.demo.test/bye/", "https://rp.demo.test/cb"):
        reply = place.provider.logout(Browser(place).get(f"client_id=rp&post_logout_redirect_uri={uri}"))
        assert (reply.status, header(reply, "location")) == (400, "")


def replace_client(client: RelyingService, **more: Any) -> RelyingService:
    import msgspec

    return msgspec.structs.replace(client, **more)


def test_header_splitting(place: Place) -> None:
    """What comes back in the Location header is escaped; a state with control characters is refused and not echoed."""
    reply = place.authorize(state="a\r\nset-cookie: x=y")
    assert "\r" not in location(reply)
    assert answer(location(reply)) == {
        "error": "invalid_request",
        "error_description": "state has more than 2048 characters, or others than printable ASCII",
    }


# Browsers (sections 4.7, 4.15)


def test_browser_swap(place: Place) -> None:
    """CSRF: a log-in that one browser began cannot be seen, ended or spoilt in another."""
    interaction, cookie = _begun(place)
    stranger = Browser(place)
    _begun(place, stranger)
    for other in (stranger.cookie, "", "A" * 43):
        assert place.interactions.find(interaction, other) is None
        with pytest.raises(NotAuthorised):
            place.interactions.complete(interaction, other, place.authentication())
        with pytest.raises(NotAuthorised):
            place.interactions.cancel(interaction, other, "access_denied")
    found = place.interactions.find(interaction, cookie)
    assert found is not None
    assert (found.client.client_id, found.acr, found.methods) == ("rp", "substantial", {"idcard", "passkey"})
    assert "code" in query_of(place.interactions.complete(interaction, cookie, place.authentication()))


def test_interaction_ends_once(place: Place) -> None:
    """One log-in gives one code, and after ten minutes none."""
    begun = _begun(place)
    place.interactions.complete(*begun, place.authentication())
    with pytest.raises(NotAuthorised):
        place.interactions.complete(*begun, place.authentication())
    late = _begun(place)
    place.wait(600)
    assert place.interactions.find(*late) is None


def test_cookie(place: Place) -> None:
    """Of this host alone, over TLS, out of reach of scripts and of other sites' requests; two of one name are none."""
    reply = place.authorize()
    value = header(reply, "set-cookie")
    assert value.startswith("__Host-exclave=")
    assert value.split("; ")[1:] == ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"]
    planted = Call("GET", query=query().encode(), cookies=("__Host-exclave=" + "A" * 43, "__Host-exclave=" + "B" * 43))
    assert header(place.provider.authorize(planted), "set-cookie").startswith("__Host-exclave=")


def test_log_out_by_a_foreign_page(place: Place) -> None:
    """A link without a token of this session only asks, and the answer must come from the page that asked."""
    browser = Browser(place)
    place.log_in(browser)
    reply = place.provider.logout(browser.get(""))
    assert reply.status == 200
    proof = reply.body.decode().partition('name="confirm" value="')[2].partition('"')[0]
    for guess in ("", "A" * 43, "é"):
        assert place.provider.logout(browser.post({"confirm": guess})).status in (200, 303)
    assert place.outbox.notices == []
    stranger = Browser(place)
    place.log_in(stranger)
    page = place.provider.logout(stranger.post({"confirm": proof}))
    assert b"confirm" in page.body  # still asking
    assert b"confirm" not in place.provider.logout(browser.post({"confirm": proof})).body
    assert b"confirm" not in place.provider.logout(browser.get("")).body


def test_clickjacking(place: Place) -> None:
    """No page of the provider can be framed, and none sends its address on (sections 4.2.4, 4.16)."""
    for reply in (place.authorize(client_id="nobody"), place.provider.logout(Browser(place).get(""))):
        assert "frame-ancestors 'none'" in header(reply, "content-security-policy")
        assert header(reply, "referrer-policy") == "no-referrer"


# Requests


def test_parameter_duplication(place: Place) -> None:
    """A parameter that occurs twice ends the request, wherever it is: two readers could see two requests."""
    for extra in ("&redirect_uri=https://evil.test/", "&client_id=other", "&state=x", "&scope=openid"):
        reply = place.provider.authorize(Browser(place).get(query() + extra))
        assert (reply.status, header(reply, "location")) == (400, "")
    code = place.log_in()["code"]
    form = f"grant_type=authorization_code&code={code}&redirect_uri={RP}&client_id=rp&client_secret={SECRET}"
    assert error_of(place.post("/oidc/token", form + "&client_id=other")) == "invalid_request"
    assert place.post("/oidc/token", form).status == 200


def test_secrets_in_addresses(place: Place) -> None:
    """Secrets in an address are refused and never echoed: by then they stand in logs."""
    for name in ("client_secret", "client_assertion", "code_verifier", "access_token"):
        reply = place.authorize(**{name: SECRET})
        assert (reply.status, header(reply, "location")) == (400, "")
        assert SECRET.encode() not in reply.body
    form = {"grant_type": "authorization_code", "code": "x", "client_id": "rp", "client_secret": SECRET}
    assert error_of(place.post("/oidc/token", form, query=b"client_secret=x")) == "invalid_request"
    token = access_token(place.redeem(place.log_in()["code"]))
    assert error_of(place.provider.profile(Call("GET", query=f"access_token={token}".encode()))) == "invalid_request"


def test_307_redirect(place: Place) -> None:
    """Section 4.12: no redirect repeats a POST at the client."""
    asked = dict(pair.split("=", 1) for pair in query(redirect_uri=None).split("&"))
    reply = place.provider.authorize(Browser(place).post({**asked, "redirect_uri": RP}))
    assert reply.status == 303


def test_pushed_request_of_another_client(place: Place) -> None:
    """RFC 9126, section 7: a request is its own client's, is used once, and is forgotten after a minute."""
    asked = {"response_type": "code", "redirect_uri": RP, "scope": "openid", "state": "st"}
    mine = {**asked, "client_id": "rp", "client_secret": SECRET}
    uri = json.loads(place.post("/oidc/par", mine).body)["request_uri"]
    for who in ("other", "nobody"):
        assert place.authorize(client_id=who, request_uri=uri).status == 400
    fresh = json.loads(place.post("/oidc/par", mine).body)["request_uri"]
    assert location(place.authorize(request_uri=fresh)).startswith("/login")
    assert place.authorize(request_uri=fresh).status == 400
    late = json.loads(place.post("/oidc/par", mine).body)["request_uri"]
    place.wait(60)
    assert place.authorize(request_uri=late).status == 400


def test_pushed_request_cannot_be_changed(place: Place) -> None:
    """What the browser adds to a pushed request is not looked at."""
    asked = {"response_type": "code", "redirect_uri": RP, "scope": "openid", "state": "st", "acr_values": "high"}
    uri = json.loads(place.post("/oidc/par", {**asked, "client_id": "rp", "client_secret": SECRET}).body)["request_uri"]
    begun = _begun(place, request_uri=uri, acr_values="low", state="evil", redirect_uri="https://evil.test/")
    found = place.interactions.find(*begun)
    assert found is not None
    assert found.acr == "high"
    assert answer(place.interactions.complete(*begun, place.authentication()))["state"] == "st"


def test_par_is_required(place: Place) -> None:
    """A client that must push cannot be made to send its request through the browser."""
    _, challenge = pkce()
    good = {"client_id": "strict", "code_challenge": challenge, "code_challenge_method": "S256"}
    assert answer(location(place.authorize(**good)))["error"] == "invalid_request"
    asked = {"response_type": "code", "redirect_uri": RP, "scope": "openid", **good, "client_secret": SECRET}
    assert place.post("/oidc/par", asked).status == 201
    assert error_of(place.post("/oidc/par", {**asked, "redirect_uri": "https://evil.test/"})) == "invalid_request"


# Clients' authentication (section 2.5; RFC 7523; RFC 8725)


def assertion(**more: Any) -> str:
    """A good one, changed; ``key``, ``alg`` and ``header`` are of its outside."""
    key, alg = more.pop("key", CLIENT_KEY.key), more.pop("alg", "RS256")
    outside = {"alg": alg, "kid": "one", **more.pop("header", {})}
    given = {"iss": "signs", "sub": "signs", "aud": TOKEN, "exp": 1_790_000_060, "jti": "j1", **more}
    kind = RSAKey if isinstance(key, rsa.RSAPrivateKey) else ECKey
    from joserfc.jws import JWSRegistry

    registry = JWSRegistry(algorithms=[alg], strict_check_header=False)
    return jwt.encode(outside, given, kind.import_key(key), registry=registry)


def signed_in(place: Place, token: str, *, code: str = "x", **more: str) -> Reply:
    form = {
        "grant_type": "authorization_code", "code": code, "redirect_uri": RP,
        "client_assertion_type": ASSERTION_TYPE, "client_assertion": token, **more,
    }  # fmt: skip
    return place.post("/oidc/token", form)


def test_assertion(place: Place) -> None:
    """A good assertion passes, for the token endpoint or the issuer, by RSA, PSS or P-256."""
    code = query_of(place.interactions.complete(*_begun(place, client_id="signs"), place.authentication()))["code"]
    assert signed_in(place, assertion(), code=code).status == 200
    for number, more in enumerate(({"aud": ISSUER}, {"aud": [ISSUER]}, {"alg": "PS256"})):
        assert error_of(signed_in(place, assertion(jti=f"k{number}", **more))) == "invalid_grant"
    by_curve = assertion(key=CLIENT_EC.key, alg="ES256", header={"kid": "two"}, jti="k9")
    assert error_of(signed_in(place, by_curve)) == "invalid_grant"


def test_replayed_assertion(place: Place) -> None:
    """An assertion counts once, as long as it could count."""
    assert error_of(signed_in(place, assertion())) == "invalid_grant"
    assert error_of(signed_in(place, assertion())) == "invalid_client"
    place.wait(80)
    assert error_of(signed_in(place, assertion())) == "invalid_client"


STRANGER = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    "more",
    [
        {"aud": "https://evil.test/token"}, {"aud": [TOKEN, "https://evil.test/token"]}, {"aud": []}, {"aud": None},
        {"iss": "rp"}, {"sub": "rp"}, {"exp": 1_790_003_600}, {"exp": 1_789_999_900}, {"exp": None}, {"jti": None},
        {"jti": ""}, {"jti": "x" * 300}, {"iat": 1_790_000_600}, {"nbf": 1_790_000_600}, {"key": STRANGER},
        {"header": {"kid": "three"}}, {"header": {"kid": "two"}}, {"header": {"kid": "../../dev/null"}},
        {"header": {"typ": "logout+jwt"}}, {"header": {"jku": "https://evil.test/jwks"}},
        {"key": STRANGER, "header": {"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}}},
        {"header": {"x5u": "https://evil.test/c.pem"}}, {"header": {"b64": False, "crit": ["b64"]}}, {"alg": "RS512"},
    ],
)  # fmt: skip
def test_assertions_that_do_not_count(place: Place, more: dict[str, Any]) -> None:
    """Wrong audience, subject, time or key; a key that the token brings; a kid of another key; foreign headers."""
    assert error_of(signed_in(place, assertion(**more))) == "invalid_client"


def _joined(header_: dict[str, Any], sign: Any) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    claims = {"iss": "signs", "sub": "signs", "aud": TOKEN, "exp": 1_790_000_060, "jti": "j1"}
    text = f"{part(json.dumps(header_).encode())}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(sign(text.encode()))}"


def test_alg_none(place: Place) -> None:
    """A token without a signature is none, however none is spelt."""
    for name in ("none", "None", "NONE", "nOnE", ""):
        assert error_of(signed_in(place, _joined({"alg": name}, lambda _: b""))) == "invalid_client"


def test_hs256_with_the_public_key(place: Place) -> None:
    """A public key is no shared secret (RFC 8725, section 2.1)."""
    pem = CLIENT_KEY.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for secret in (pem, CLIENT_KEY.public_der, pem.strip()):
        token = _joined({"alg": "HS256", "kid": "one"}, lambda m, s=secret: hmac.new(s, m, hashlib.sha256).digest())
        assert error_of(signed_in(place, token)) == "invalid_client"


def test_two_methods_in_one_request(place: Place) -> None:
    """One way of authentication per request (RFC 6749, section 2.3), and the one that is registered."""
    basic = "Basic " + base64.b64encode(f"rp:{SECRET}".encode()).decode()
    form = {"grant_type": "authorization_code", "code": "x", "redirect_uri": RP}
    twice = {**form, "client_id": "rp", "client_secret": SECRET}
    assert error_of(place.post("/oidc/token", twice, authorization=(basic,))) == "invalid_request"
    assert error_of(place.post("/oidc/token", form, authorization=(basic, basic))) == "invalid_request"
    assert (
        error_of(place.post("/oidc/token", {**form, "client_id": "other"}, authorization=(basic,))) == "invalid_request"
    )
    assert error_of(signed_in(place, assertion(), client_id="rp")) == "invalid_request"
    assert error_of(place.redeem("x", client_id="signs")) == "invalid_client"
    reply = place.post("/oidc/token", form, authorization=("Basic !!",))
    assert (reply.status, header(reply, "www-authenticate")[:5]) == (401, "Basic")


def test_logs_hold_no_secret(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """The operator reads what was refused, in the provider's own words; nothing of the request or the person."""
    code = place.log_in()["code"]
    place.redeem(code, client_secret="my-own-secret")
    place.redeem(code, code_verifier="v" * 43)
    place.authorize(client_id="attacker", state="my-state")
    assert "token refused: invalid_client" in caplog.text
    assert "authorize refused: not to be trusted, client" in caplog.text
    for told in (code, "my-own-secret", "v" * 43, "attacker", "my-state", "38001085718", "MAASIKAS"):
        assert told not in caplog.text


def test_unknown_client_timing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown client and a wrong secret get the same answer after the same work: a secret is hashed and compared."""
    compared: list[int] = []
    really = hmac.compare_digest

    def compare(one: Any, other: Any) -> bool:
        compared.append(len(one))
        return bool(really(one, other))

    monkeypatch.setattr(hmac, "compare_digest", compare)
    answers, work = [], []
    for client_id in ("rp", "nobody"):
        compared.clear()
        answers.append(place.redeem("x", client_id=client_id, client_secret="wrong"))
        work.append(list(compared))
    assert answers[0].body == answers[1].body
    assert (answers[0].status, answers[0].headers) == (answers[1].status, answers[1].headers)
    assert work[0] == work[1] != []


def test_rotated_secret_and_disabled_client(place: Place) -> None:
    """What is changed in the register of clients counts for the very next request, in the middle of a flow too."""
    code, later = place.log_in()["code"], place.log_in()["code"]
    good = place.store.clients["rp"]
    place.store.clients["rp"] = replace_client(good, secret_sha256=(secret_hash("new"),))
    assert error_of(place.redeem(code)) == "invalid_client"
    token = access_token(place.redeem(code, client_secret="new"))
    place.store.clients["rp"] = replace_client(good, enabled=False)
    assert error_of(place.redeem(later)) == "invalid_client"
    assert error_of(place.userinfo(token)) == "invalid_token"
    place.store.clients["rp"] = good
    begun = _begun(place)
    place.store.clients["rp"] = replace_client(good, redirect_uris=("https://rp.demo.test/moved",))
    with pytest.raises(NotAuthorised):
        place.interactions.complete(*begun, place.authentication())


def test_foreign_network(place: Place) -> None:
    """A stolen secret is of no use outside the networks that the client registered."""
    place.store.clients["rp"] = replace_client(place.store.clients["rp"], addresses=("192.0.2.0/24", "2001:db8::/32"))
    form = {"grant_type": "authorization_code", "code": "x", "client_id": "rp", "client_secret": SECRET}
    for address in ("198.51.100.1", "", "unix:", "2001:db9::1", "::ffff:198.51.100.1"):
        assert error_of(place.post("/oidc/token", form, address=address)) == "invalid_client"
    for address in ("192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"):
        assert error_of(place.post("/oidc/token", form, address=address)) != "invalid_client"


# Access tokens


def test_access_token_of_the_right_place_in_the_tickets(place: Place) -> None:
    """The half of an access token that names it opens nothing without its secret half; two minutes end it."""
    token = access_token(place.redeem(place.log_in()["code"]))
    name = token.partition(".")[0]
    for guess in (name, name + ".", name + "." + "A" * 43, token + "A", "." + token, "A" * 22 + "." + "A" * 43, "é"):
        assert error_of(place.userinfo(guess)) == "invalid_token"
    place.wait(120)
    assert error_of(place.userinfo(token)) == "invalid_token"


# What a log-in must be


def test_assurance_downgrade(place: Place) -> None:
    """A log-in of a lower level, by a means that was not asked for, of another person, or of another time gives no
    code."""
    low = place.authentication(acr="low")
    assert answer(place.interactions.complete(*_begun(place), low))["error"] == "unmet_authentication_requirements"
    key = place.authentication(amr=("passkey",))
    begun = _begun(place, scope="openid idcard")
    assert answer(place.interactions.complete(*begun, key))["error"] == "unmet_authentication_requirements"
    hint = json.loads(place.redeem(place.log_in()["code"]).body)["id_token"]
    other = place.authentication(person=Person("EE60001019906", "MARY", "ÄNN", "2000-01-01"))
    assert answer(place.interactions.complete(*_begun(place, id_token_hint=hint), other))["error"] == "login_required"
    old = place.authentication(time=place.time - 3_600_000_000)
    assert answer(place.interactions.complete(*_begun(place), old))["error"] == "login_required"
    for parameters in ({"scope": "openid mid"}, {"scope": "openid smartid eidas"}):
        assert answer(location(place.authorize(**parameters)))["error"] == "temporarily_unavailable"


def test_hint_of_another_client_or_issuer(place: Place) -> None:
    """An ``id_token_hint`` counts if it was signed here and given to this client."""
    begun = _begun(place, client_id="other", redirect_uri="https://other.demo.test/cb")
    code = query_of(place.interactions.complete(*begun, place.authentication()))["code"]
    foreign = json.loads(
        place.redeem(code, client_id="other", client_secret="another", redirect_uri="https://other.demo.test/cb").body
    )["id_token"]
    for hint in (foreign, foreign[:-4] + "AAAA", "x.y.z", assertion(iss=ISSUER, sub="EE38001085718", aud="rp")):
        assert answer(location(place.authorize(id_token_hint=hint)))["error"] == "invalid_request"


# Places and authority


@pytest.mark.parametrize("state", [IdentityState.STANDBY, IdentityState.RETURNING])
def test_place_without_authority(place: Place, state: IdentityState) -> None:
    """A place that does not decide gives no code and no token, also not for what was begun before; a home that comes
    back does not even publish its keys (Keycloak #52696: a recovered site enforced stale settings for an hour)."""
    code, begun = place.log_in()["code"], _begun(place)
    token = access_token(place.redeem(place.log_in()["code"]))
    place.state = state
    replies = [
        place.authorize(), place.redeem(code), place.userinfo(token), place.post("/oidc/par", {}),
        place.provider.logout(Browser(place).get("")),
    ]  # fmt: skip
    assert {reply.status for reply in replies} == {503}
    assert all(int(header(reply, "retry-after")) > 0 for reply in replies)
    with pytest.raises(UnavailableError):
        place.interactions.complete(*begun, place.authentication())
    public = {place.provider.discovery().status, place.provider.jwks().status}
    assert public == ({200} if state is IdentityState.STANDBY else {503})


def test_keys_of_places(place: Place) -> None:
    """In peace the set holds every place's keys; a place in other hands loses its own; no private key ever shows, and
    one broken set does not take the others away."""
    embassy = SoftSigner(ec.generate_private_key(ec.SECP256R1()))
    place.store.keys = {
        Label("oslo"): json.dumps({"keys": [jwk_of(embassy, "oslo-1")]}).encode(),
        Label("lost"): json.dumps({"keys": [{**jwk_of(CLIENT_EC, "lost-1")}]}).encode(),
        Label("broken"): b"{",
        Label("shown"): json.dumps({"keys": [{**jwk_of(CLIENT_EC, "s"), "d": "AQAB"}]}).encode(),
        Label("twin"): json.dumps({"keys": [jwk_of(CLIENT_EC, "oslo-1")]}).encode(),
    }

    def kids() -> set[str]:
        keys = json.loads(place.provider.jwks().body)["keys"]
        assert not any("d" in key for key in keys)
        assert [key["x"] for key in keys if key["kid"] == "oslo-1"] == [jwk_of(embassy, "oslo-1")["x"]]
        return {key["kid"] for key in keys}

    own = {kid_of(RSA_KEY), kid_of(EC_KEY)}
    assert kids() == own | {"oslo-1", "lost-1"}
    place.withdrawn = frozenset({Label("lost")})
    assert kids() == own | {"oslo-1"}


def kid_of(signer: SoftSigner) -> str:
    from exclave.crypto.jwk import thumbprint

    return thumbprint(signer.public_der)

"""Whatever arrives: an answer of the protocol, no redirect but to where the client registered, no code and no token."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote_plus, urlencode

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exclave.identity.op.refusal import REDIRECTED
from exclave.identity.op.wire import Call, Reply
from support.fuzzing import NO_RSS
from support.op_place import RP, SECRET, Browser, Known, Place, header, location, pkce, query_of, relying

CLIENTS = (
    relying(
        auth_methods=("client_secret_basic", "client_secret_post"), backchannel_logout_uri="https://rp.demo.test/x"
    ),
    relying("app", auth_methods=("none",), secret_sha256=()),
    relying("strict", require_par=True, require_pkce=True, addresses=("192.0.2.0/24",)),
)
NAMES = st.sampled_from([
    "response_type", "response_mode", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge",
    "code_challenge_method", "acr_values", "prompt", "max_age", "id_token_hint", "ui_locales", "request", "request_uri",
    "registration", "client_secret", "client_assertion", "client_assertion_type", "code", "code_verifier", "grant_type",
    "access_token", "confirm", "post_logout_redirect_uri", "claims", "display", "login_hint",
])  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([
        "", "code", "rp", "app", "strict", RP, "openid", "openid idcard", "openid mid", "none", "login", "none login",
        "high", "low substantial", "S256", "plain", pkce()[1], "0", "-1", "99999999999999999999", SECRET, "query",
        "authorization_code", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "urn:ietf:params:oauth:request_uri:x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "https://evil.test/", "\0",
        "\r\nx: y",
    ]),
    st.text(max_size=80),
)  # fmt: skip
PAIRS = st.lists(st.tuples(NAMES | st.text(max_size=12), VALUES), max_size=14)
GOOD = {
    "response_type": "code", "client_id": "rp", "redirect_uri": RP, "scope": "openid", "state": "s",
}  # fmt: skip
FEW = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


def encoded(pairs: list[tuple[str, str]]) -> bytes:
    return "&".join(f"{quote_plus(n, errors='replace')}={quote_plus(v, errors='replace')}" for n, v in pairs).encode()


def sane(reply: Reply) -> None:
    """An answer that a browser or client may be given."""
    assert reply.status in {200, 201, 303, 400, 401, 503}
    assert header(reply, "content-type") in {"application/json", "text/html; charset=utf-8", ""}
    assert all(value.isprintable() and value.isascii() for _, value in reply.headers)
    assert b"Traceback" not in reply.body
    if reply.status == 303:
        where = header(reply, "location")
        assert where.startswith((f"{RP}?", "/login?i=", "/oidc/logout"))
        assert "code" not in where.partition("?")[2].split("=")[0]


@FEW
@given(PAIRS, st.booleans())
def test_authorize(pairs: list[tuple[str, str]], post: bool) -> None:
    """A good request, with anything in the place of its parameters or beside them."""
    place = Place(Known(*CLIENTS))
    asked = {**GOOD, **dict(pairs)}
    data = encoded(list(asked.items()))
    form = Call("POST", body=data, content_type="application/x-www-form-urlencoded")
    sane(place.provider.authorize(form if post else Call("GET", query=data)))


@FEW
@given(st.binary(max_size=300), st.sampled_from(["GET", "POST"]))
def test_bytes(data: bytes, method: str) -> None:
    """Bytes that are no form at all, at every endpoint, in every part of a request."""
    place = Place(Known(*CLIENTS))
    text = data.decode("latin-1")
    form = "application/x-www-form-urlencoded"
    for call in (
        Call(method, data, data, form, (text,), (text, f"__Host-exclave={text}"), text), Call(method, b"", data, form),
        Call(method, data), Call(method, b"", b"", text, (f"Basic {text}",)),
        Call(method, authorization=(f"Bearer {text}",)),
    ):  # fmt: skip
        provider = place.provider
        for reply in (
            provider.authorize(call, text), provider.logout(call, text), provider.token(call), provider.push(call),
            provider.profile(call),
        ):  # fmt: skip
            sane(reply)
            assert b"access_token" not in reply.body


@FEW
@given(PAIRS, st.sampled_from(["", "Basic cnA6eA==", f"Basic {'QQ' * 40}", "Bearer x"]))
def test_token(pairs: list[tuple[str, str]], authorization: str) -> None:
    """A token request gives tokens only if everything in it is right, whatever was changed or added."""
    place = Place(Known(*CLIENTS))
    code = place.log_in()["code"]
    good = {
        "grant_type": "authorization_code", "code": code, "redirect_uri": RP, "client_id": "rp",
        "client_secret": SECRET,
    }  # fmt: skip
    form = {**good, **dict(pairs)}
    more = {"authorization": (authorization,)} if authorization else {}
    reply = place.post("/oidc/token", encoded(list(form.items())).decode(), **more)
    sane(reply)
    unchanged = all(form.get(name) == value for name, value in good.items())
    if reply.status == 200:
        assert unchanged
        assert not authorization
        assert not form.get("code_verifier")
        assert set(json.loads(reply.body)) == {"access_token", "token_type", "expires_in", "id_token"}


@FEW
@given(PAIRS)
def test_par(pairs: list[tuple[str, str]]) -> None:
    """What is pushed and kept is good for a log-in of the same client, to one of its addresses."""
    place = Place(Known(*CLIENTS))
    form = {**GOOD, "client_secret": SECRET, **dict(pairs)}
    reply = place.post("/oidc/par", encoded(list(form.items())).decode())
    sane(reply)
    if reply.status == 201:
        uri = json.loads(reply.body)["request_uri"]
        again = place.authorize(client_id=form["client_id"], request_uri=uri)
        sane(again)
        assert again.status == 303


@FEW
@given(PAIRS, st.booleans())
def test_logout(pairs: list[tuple[str, str]], post: bool) -> None:
    """No request without proof of this browser's page or session ends a session."""
    place = Place(Known(*CLIENTS))
    browser = Browser(place)
    place.log_in(browser)
    call = browser.post({"confirm": "x", **dict(pairs)}) if post else browser.get(encoded(pairs).decode())
    sane(place.provider.logout(call))
    assert place.outbox.notices == []


@FEW
@given(st.text(max_size=60), st.text(max_size=60), st.one_of(st.text(max_size=20), st.sampled_from(sorted(REDIRECTED))))
def test_interactions(interaction: str, browser: str, error: str) -> None:
    """Names that were not given out find nothing; an error that is not the protocol's becomes one that is."""
    place = Place(Known(*CLIENTS))
    assert place.interactions.find(interaction, browser) is None
    mine = Browser(place)
    name = query_of(location(place.authorize(mine)))["i"]
    assert place.interactions.find(name, browser) is None
    where = place.interactions.cancel(name, mine.cookie, error)
    told = error if error in REDIRECTED else "server_error"
    assert f"?{urlencode({'error': told})}&" in where


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    """Some seconds of atheris from the corpus that is kept, which must not be empty."""
    fuzz = Path(__file__).parent.parent / "fuzz"
    shutil.copytree(fuzz / "op_corpus", tmp_path / "corpus")
    assert len(list((tmp_path / "corpus").iterdir())) >= 8
    command = [
        sys.executable,
        str(fuzz / "fuzz_op.py"),
        str(tmp_path / "corpus"),
        "-max_total_time=5",
        "-verbosity=0",
        NO_RSS,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

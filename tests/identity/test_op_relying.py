"""Relying services: what is refused when one is entered; redirect URIs above all."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.crypto.jose import jwk_of
from exclave.errors import MalformedError
from exclave.formats.relying import RelyingService, check_redirect_uri, encode_service, parse_service
from support.op_place import EC_KEY, JWT_CLIENT, RP, relying

PUBLIC = json.dumps({"keys": [jwk_of(EC_KEY, "k")]})


@pytest.mark.parametrize(
    "uri",
    [
        RP, "https://rp.demo.test", "https://rp.demo.test:8443/cb?tenant=1", "https://xn--rksmrgs-5wao1o.demo.test/",
        "http://127.0.0.1:8080/cb", "http://localhost/cb", "http://[::1]:5000/", "https://rp.demo.test/a%2Fb/~c",
    ],
)  # fmt: skip
def test_good_redirect_uris(uri: str) -> None:
    """https, and http on loopback."""
    check_redirect_uri(uri, public=False)


@pytest.mark.parametrize(
    "uri",
    [
        "", "cb", "/cb", "//rp.demo.test/cb", "https:", "https:/cb", "https://", "https:///cb", "http://rp.demo.test/cb",
        "https://rp.demo.test/cb#", "https://rp.demo.test/cb#f", "https://u@rp.demo.test/", "https://u:p@rp.demo.test/",
        "https://*.demo.test/", "https://RP.demo.test/", "HTTPS://rp.demo.test/", "https://rp.demo.test/a/../b",
        "https://rp.demo.test/./b", "https://rp.demo.test/ b", "https://rp.demo.test/\n", "https://rp.demo.test/é",
        "https://räpp.test/", "https://rp.demo.test\\@evil.test/", "https://rp.demo.test:x/", "https://rp.demo.test:0/",
        "https://rp.demo.test:99999/", "https://rp.demo.test/?code=1", "https://rp.demo.test/?a=b&state=",
        "https://rp.demo.test/%zz", "https://rp.demo.test/%2f", "https://-rp.test/", "https://rp..test/",
        "https://[fe80::1]/", "javascript:alert(1)", "data:text/html,x", "myapp:/cb", "com.demo.app:/cb", "file:///etc",
        "https://rp.demo.test/" + "x" * 2048, "http://127.0.0.1.evil.test/", "http://127.1/", "https://rp.demo.test./",
    ],
)  # fmt: skip
def test_bad_redirect_uris(uri: str) -> None:
    """Whatever has a second reading, or leads off the web."""
    with pytest.raises(MalformedError):
        check_redirect_uri(uri, public=False)


def test_schemes_of_public_clients() -> None:
    """An app's own scheme has a dot in it, as RFC 8252 wants, and is for public clients only."""
    check_redirect_uri("com.demo.app:/cb", public=True)
    for uri in ("myapp:/cb", "javascript.x:alert(1)", "Com.demo.app:/cb", "com.demo.app:", "com.demo.app://*/cb"):
        with pytest.raises(MalformedError):
            check_redirect_uri(uri, public=True)


@pytest.mark.parametrize(
    "more",
    [
        {"client_id": ""}, {"client_id": "a b"}, {"client_id": "x" * 256}, {"name": {}}, {"name": {"EN": "x"}},
        {"name": {"en": ""}}, {"name": {"en": "a\u202eb"}}, {"name": {"en": "x" * 201}}, {"redirect_uris": ()},
        {"redirect_uris": (RP, RP)}, {"redirect_uris": tuple(f"{RP}/{n}" for n in range(51))},
        {"secret_sha256": ("x",)}, {"secret_sha256": ("A" * 64,)}, {"secret_sha256": ("0" * 64,) * 6},
        {"auth_methods": ()}, {"auth_methods": ("none", "client_secret_basic")},
        {"auth_methods": ("client_secret_post", "client_secret_post")}, {"auth_methods": ("private_key_jwt",)},
        {"jwks": "{"}, {"jwks": "{}"}, {"jwks": '{"keys":[]}'}, {"jwks": '{"keys":[{"kty":"oct","k":"AA"}]}'},
        {"jwks": '{"keys":[{"kty":"RSA","d":"AA"}]}'}, {"jwks": '{"keys":[{"kty":"EC"}],"x":[]}'}, {"scopes": ()},
        {"scopes": ("idcard",)}, {"scopes": ("openid", "a b")}, {"scopes": ("openid", "openid")},
        {"addresses": ("192.0.2.1/24",)}, {"addresses": ("192.0.2.0",)}, {"addresses": ("x",)},
        {"addresses": ("2001:DB8::/32",)}, {"addresses": ("192.0.2.0/24",) * 2}, {"status_max_age_s": 0},
        {"status_max_age_s": 10**9}, {"grace_s": -1}, {"grace_s": 10**9}, {"quirks": ("tara-at-hash",) * 2},
        {"backchannel_logout_uri": "http://rp.demo.test/"}, {"backchannel_logout_uri": "com.demo.app:/x"},
        {"post_logout_redirect_uris": ("ftp://rp.demo.test/",)},
    ],
)  # fmt: skip
def test_bad_services(more: dict[str, Any]) -> None:
    """One fault is enough, when it is written and when it is read."""
    bad = msgspec.structs.replace(relying(), **more)
    with pytest.raises(MalformedError):
        encode_service(bad)
    with pytest.raises(MalformedError):
        parse_service(msgspec.json.encode(bad, order="sorted"))


def test_round_trip() -> None:
    """Every kind of service reads back as it was written; another form of the same is refused."""
    every = RelyingService(
        "all", {"et": "Kõik", "en": "All"}, (RP,), ("0" * 64,), PUBLIC,
        ("client_secret_basic", "client_secret_post", "private_key_jwt"), ("openid", "idcard"), "high", True, True,
        "ES256", ("https://rp.demo.test/bye",), "https://rp.demo.test/end", ("192.0.2.0/24", "2001:db8::/32"), "grace",
        60, 3600, ("tara-at-hash",), False,
    )  # fmt: skip
    for service in (relying(), JWT_CLIENT, every):
        data = encode_service(service)
        assert parse_service(data) == service
        for changed in (data + b" ", data.replace(b'"name"', b'"mane"'), data[:-1] + b',"x":1}', b"[]", b"\xff"):
            with pytest.raises(MalformedError):
                parse_service(changed)


@given(st.text(max_size=60), st.booleans())
def test_any_text(uri: str, public: bool) -> None:
    """A text is refused as malformed, or it is an absolute URI that reads one way."""
    try:
        check_redirect_uri(uri, public=public)
    except MalformedError:
        return
    assert ":" in uri
    assert uri.isascii()
    assert uri == uri.strip()

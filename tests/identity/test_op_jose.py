"""Tokens signed by any ``Signer`` and read by other people's libraries; foreign tokens and key sets."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from exclave.crypto.jose import VERIFIED, jwk_of, parse_jwks, sign_jwt, verify_jwt
from exclave.crypto.jwk import thumbprint
from exclave.errors import CorruptObject, MalformedError
from support.op_place import CLIENT_EC, CLIENT_KEY, EC_KEY, RSA_KEY
from support.soft_signer import SoftSigner

P384 = SoftSigner(ec.generate_private_key(ec.SECP384R1()))
SIGNERS = {"RS256": RSA_KEY, "ES256": EC_KEY, "ES384": P384}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


ALL = jwks(*(jwk_of(signer, name) for name, signer in SIGNERS.items()))


@pytest.mark.parametrize("name", SIGNERS)
def test_signed_and_read(name: str) -> None:
    """joserfc reads what we sign, by the key that we publish; we read it too, and not by another key."""
    token = sign_jwt(SIGNERS[name], name, b'{"a":1}', typ="at+jwt")
    read = jws.deserialize_compact(token, KeySet.import_key_set(json.loads(ALL)), algorithms=[name])
    assert (read.payload, read.headers()) == (b'{"a":1}', {"alg": name, "kid": name, "typ": "at+jwt"})
    assert verify_jwt(token, parse_jwks(ALL), (name,), typ=("at+jwt",)) == b'{"a":1}'
    with pytest.raises(MalformedError):
        verify_jwt(token, parse_jwks(ALL), (name,))
    other = jwks(jwk_of(CLIENT_KEY if name == "RS256" else CLIENT_EC, name))
    with pytest.raises(CorruptObject):
        verify_jwt(token, parse_jwks(other), (name,), typ=("at+jwt",))


def test_signatures_of_small_numbers() -> None:
    """R and S are written in full width, whatever their value: of 300 signatures some have a leading zero."""
    keys = parse_jwks(ALL)
    for n in range(300):
        token = sign_jwt(EC_KEY, "ES256", str(n).encode())
        assert len(base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")) == 64
        assert verify_jwt(token, keys, ("ES256",)) == str(n).encode()


def test_kid_is_the_thumbprint() -> None:
    """Of RFC 7638, as another library computes it."""
    for signer in SIGNERS.values():
        jwk = {name: value for name, value in jwk_of(signer, "x").items() if name not in ("kid", "use", "alg")}
        kind = RSAKey if jwk["kty"] == "RSA" else ECKey
        assert thumbprint(signer.public_der) == kind.import_key(jwk).thumbprint()  # type: ignore[arg-type]


TOKEN = sign_jwt(EC_KEY, "ES256", b'{"sub":"EE38001085718"}')


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_one_changed_character(data: st.DataObject) -> None:
    """No token with one other character in it is accepted."""
    token = TOKEN
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCZaz09-_.=+/ \0é").filter(lambda c: c != token[at]))
    changed = token[:at] + other + token[at + 1 :]
    if at == len(token) - 1:  # its last bits are padding: another letter may be the same signature
        return
    with pytest.raises((MalformedError, CorruptObject)):
        verify_jwt(changed, parse_jwks(ALL), VERIFIED)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: base64.urlsafe_b64encode(b).decode() + ".e30.AA"))
def test_any_text(text: str) -> None:
    """What is no token is refused, and nothing else happens."""
    with pytest.raises((MalformedError, CorruptObject)):
        verify_jwt(text, parse_jwks(ALL), VERIFIED)


def _b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "header",
    [
        {}, {"alg": "none"}, {"alg": "HS256"}, {"alg": "RS384"}, {"alg": 1}, {"alg": "ES256", "jwk": {}}, [],
        {"alg": "ES256", "crit": []}, {"alg": "ES256", "kid": 1}, {"alg": "ES256", "typ": "JWE"}, {"alg": ["ES256"]},
        {"alg": "ES256", "kid": "RS256"}, {"alg": "RS256", "kid": "ES256"}, {"alg": "ES256", "b64": False},
    ],
)  # fmt: skip
def test_bad_headers(header: object) -> None:
    """The header chooses among what was agreed on, and brings nothing along."""
    body = f"{_b64(json.dumps(header).encode())}.{_b64(b'{}')}"
    r_s = sign_jwt(EC_KEY, "ES256", b"{}").rpartition(".")[2]
    with pytest.raises((MalformedError, CorruptObject)):
        verify_jwt(f"{body}.{r_s}", parse_jwks(ALL), VERIFIED)


def test_key_without_kid() -> None:
    """A token without kid is tried by the one key that fits, and by none if two do."""
    text = {"alg": "ES256"}
    token = jws.serialize_compact(text, b"{}", ECKey.import_key(EC_KEY.key), algorithms=["ES256"])
    assert verify_jwt(token, parse_jwks(ALL), VERIFIED) == b"{}"
    with pytest.raises(CorruptObject):
        verify_jwt(token, parse_jwks(jwks(jwk_of(EC_KEY, "a"), jwk_of(CLIENT_EC, "b"))), VERIFIED)


RSA_JWK = jwk_of(RSA_KEY, "r")
EC_JWK = jwk_of(EC_KEY, "e")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[1]}', b"\xff", jwks(*[EC_JWK] * 33),
        jwks(EC_JWK, {**RSA_JWK, "kid": "e"}), jwks({**EC_JWK, "d": "AA"}), jwks({**RSA_JWK, "p": "AA"}),
        jwks({"kty": "oct", "k": "AA"}), jwks({**EC_JWK, "x": "AAAA"}), jwks({**EC_JWK, "x": EC_JWK["y"]}),
        jwks({**RSA_JWK, "n": "AQAB"}), jwks({**RSA_JWK, "e": "!"}), jwks({"kty": "RSA"}), b" " * 70_000,
        jwks({"kty": "EC", "crv": "P-256"}),
    ],
)  # fmt: skip
def test_bad_key_sets(data: bytes) -> None:
    """Private or secret keys, broken or short ones, one name twice: the whole set is refused."""
    with pytest.raises(MalformedError):
        parse_jwks(data)


def test_foreign_keys_are_left_out() -> None:
    """Keys for encryption and of kinds that are not used here do no harm (RFC 7517, section 5)."""
    okp = OKPKey.generate_key("Ed25519").as_dict(private=False)
    keys = parse_jwks(jwks(EC_JWK, {**RSA_JWK, "use": "enc"}, {**okp, "kid": "o"}, {"kty": "new", "kid": "n"}))
    assert [kid for kid, *_ in keys.keys] == ["e"]

"""The small files of the exile kit: vectors, the plan of names, where the token is, JWK sets from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.crypto.jwk import kids_of, public_jwks, thumbprint
from exclave.crypto.signer import Algorithm
from exclave.crypto.signer_file import FileSigner, make_private_key
from exclave.errors import ConfigError, MalformedError
from exclave.formats.dnsplan import HOME, DnsPlan, parse_address, parse_dns_plan, parse_tsig_key
from exclave.formats.keyring import parse_key_record, parse_token_config
from exclave.formats.namesmoved import encode_names_moved, parse_names_moved
from exclave.ids import Label

VECTORS = Path(__file__).parent.parent / "vectors"


def _cases(name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((VECTORS / name / "vectors.json").read_text())["cases"]
    assert {case["expect"] for case in found} == {"ok", "malformed"}
    return found


_READ: dict[str, Callable[[bytes], bytes]] = {
    "servicekey": lambda data: parse_key_record(data).encode(),
    "namesmoved": lambda data: encode_names_moved(parse_names_moved(data)),
}


@pytest.mark.parametrize(
    ("kind", "case"),
    [pytest.param(kind, case, id=f"{kind}: {case['name']}") for kind in _READ for case in _cases(kind)],
)
def test_vectors(kind: str, case: dict[str, str]) -> None:
    """Each good vector re-encodes to itself, each bad one is malformed."""
    data = case["text"].encode()
    if case["expect"] == "ok":
        assert _READ[kind](data) == data
        return
    with pytest.raises(MalformedError):
        _READ[kind](data)


@given(st.sampled_from(sorted(_READ)), st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_never_reads_as_the_same(kind: str, at: int, flip: int) -> None:
    """A record with one changed byte is refused, or is another record in its own one form."""
    data = bytearray(_cases(kind)[0]["text"].encode())
    data[at % len(data)] ^= flip
    try:
        again = _READ[kind](bytes(data))
    except MalformedError:
        return
    assert again == bytes(data)


GOOD = """
zone = "demo.test"
servers = ["192.0.2.53", "[2001:db8::53]:5353"]
key_file = "dns.key"
ttl_s = 60

[[record]]
name = "tara.demo.test"
type = "A"
home = ["192.0.2.2", "192.0.2.1"]
embassy = { lux = ["198.51.100.1"] }

[[record]]
name = "_x.demo.test"
type = "TXT"
home = ["v=1; \\"quoted\\""]
embassy = { lux = ["v=2"] }
"""


def test_a_plan_is_read() -> None:
    """Values are sorted, places are known, defaults are there."""
    plan = parse_dns_plan(GOOD.encode())
    assert plan.values(plan.record[0], HOME) == ("192.0.2.1", "192.0.2.2")
    assert plan.values(plan.record[1], Label("lux")) == ("v=2",)
    assert plan.places() == {"lux"}
    assert [parse_address(s) for s in plan.servers] == [("192.0.2.53", 53), ("2001:db8::53", 5353)]
    assert isinstance(plan, DnsPlan)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('zone = "demo.test"', 'zone = "Demo.test"'),
        ('zone = "demo.test"', 'zone = "demo.test."'),
        ('zone = "demo.test"', 'zone = "other.test"'),
        ('"192.0.2.53"', '"ns.demo.test"'),
        ('"192.0.2.53"', '"192.0.2.53:0"'),
        ('"192.0.2.53"', '"192.0.2.53:99999"'),
        ("[2001:db8::53]", "[2001:DB8::53]"),
        ("ttl_s = 60", "ttl_s = 4"),
        ("ttl_s = 60", "ttl_s = 60\ntll_s = 60"),
        ("ttl_s = 60", 'ttl_s = "60"'),
        ("ttl_s = 60", "ttl_s = 60\ntimeout_s = 0.0"),
        ('type = "A"', 'type = "MX"'),
        ('type = "A"', 'type = "AAAA"'),
        ('type = "A"', 'type = "CNAME"'),
        ('"192.0.2.2", "192.0.2.1"', '"192.0.2.1", "192.0.2.1"'),
        ('"192.0.2.2", "192.0.2.1"', '"192.0.2.02"'),
        ('"192.0.2.2", "192.0.2.1"', ""),
        ('lux = ["198.51.100.1"]', 'lux = ["198.51.100.1"], oslo = ["198.51.100.2"]'),
        ('lux = ["198.51.100.1"]', 'home = ["198.51.100.1"]'),
        ('lux = ["198.51.100.1"]', 'Lux = ["198.51.100.1"]'),
        ('name = "_x.demo.test"', 'name = "tara.demo.test"\nmore = 1'),
        ('"v=2"', '"\\u00fc"'),
        ("[[record]]\nname", "[[records]]\nname"),
        ('servers = ["192.0.2.53", "[2001:db8::53]:5353"]', "servers = []"),
        ('"v=2"', f'"{"x" * 256}"'),
    ],
)
def test_wrong_plans_are_refused(old: str, new: str) -> None:
    """Misspelt keys, foreign names, wrong values, unequal places and loose forms are configuration errors."""
    assert old in GOOD
    with pytest.raises(ConfigError):
        parse_dns_plan(GOOD.replace(old, new).encode())


def test_an_alias_stands_alone() -> None:
    """A name with an alias may have no other record, and the zone itself no alias."""
    alias = '\n[[record]]\nname = "{}"\ntype = "CNAME"\nhome = ["a.test"]\nembassy = {{ lux = ["b.test"] }}\n'
    parse_dns_plan((GOOD + alias.format("www.demo.test")).encode())
    for name in ("tara.demo.test", "demo.test"):
        with pytest.raises(ConfigError):
            parse_dns_plan((GOOD + alias.format(name)).encode())


@pytest.mark.parametrize(
    "text",
    ["", "hmac-sha256:k:", "hmac-md5:k:c2VjcmV0IHNlY3JldCBzZWNyZXQ=", "hmac-sha256:k:c2hvcnQ=", "k:c2VjcmV0",
     "hmac-sha256:K:c2VjcmV0IHNlY3JldCBzZWNyZXQ=", "hmac-sha256:k:c2VjcmV0IHNlY3JldCBzZWNyZXQ=\nmore",
     "hmac-sha256:k:c2VjcmV0IHNlY3JldCBzZWNyZXQ", "x" * 600],
)  # fmt: skip
def test_other_tsig_keys_are_refused_without_being_quoted(text: str) -> None:
    """Weak, short, misspelt keys are malformed, and no message shows the secret."""
    with pytest.raises(MalformedError) as caught:
        parse_tsig_key(text.encode())
    assert "c2Vj" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_tsig_key_is_read() -> None:
    """The line that Knot's tools take is taken; its text form hides the secret."""
    key = parse_tsig_key(b"hmac-sha512:exclave.:c2VjcmV0IHNlY3JldCBzZWNyZXQ=\n")
    assert (key.algorithm, key.name, key.secret) == ("hmac-sha512", "exclave", b"secret secret secret")
    assert "secret secret" not in repr(key)


@pytest.mark.parametrize(
    "text",
    ["", "module = 1", 'module = "a"\ntoken = "b"', "\xff", 'module = "a"\ntoken = "b"\npin_file = "c"\npin = "d"'],
)
def test_wrong_token_configurations_are_refused(text: str) -> None:
    """Missing, unknown and mistyped keys of pkcs11.toml are configuration errors."""
    with pytest.raises(ConfigError):
        parse_token_config(text.encode("latin-1"))


def test_jwk_sets_from_elsewhere() -> None:
    """Keys are found by thumbprint whatever their kid; foreign kinds are passed over; what is no set is malformed."""
    signers = [FileSigner(make_private_key(algorithm)) for algorithm in (Algorithm.ES256, Algorithm.RS256)]
    jwks = public_jwks(signer.public_der for signer in signers)
    assert set(kids_of(jwks)) == set(kids_of(jwks).values()) == {thumbprint(s.public_der) for s in signers}
    text = json.loads(jwks)
    assert [key["kid"] for key in text["keys"]] == sorted(key["kid"] for key in text["keys"])
    assert all("d" not in key and key["use"] == "sig" for key in text["keys"])
    text["keys"][0]["kid"] = "other"
    text["keys"] += [{"kty": "OKP", "kid": "x"}, {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "*", "y": "*"}, {}]
    assert len(kids_of(json.dumps(text).encode())) == 2
    for wrong in (b"", b"[]", b'{"keys":1}', b'{"keys":[1]}', b"[" * 100_000, b"{}" + b" " * 300_000):
        with pytest.raises(MalformedError):
            kids_of(wrong)

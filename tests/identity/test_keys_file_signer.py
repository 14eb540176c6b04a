"""Signing keys in memory: what they sign others verify, and what is no such key is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from exclave.crypto.signer import Algorithm, Signer
from exclave.crypto.signer_file import (
    FileSigner,
    encode_private_key,
    make_private_key,
    parse_private_key,
    public_key_algorithm,
)
from exclave.errors import MalformedError, NotAuthorised

_HASH = {Algorithm.ES256: "-sha256", Algorithm.ES384: "-sha384", Algorithm.ES512: "-sha512", Algorithm.RS256: "-sha256"}


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_openssl_verifies_what_a_key_signs(algorithm: Algorithm, tmp_path: Path) -> None:
    """Each algorithm's signature over a message verifies with openssl and the public key that the signer shows."""
    signer = parse_private_key(encode_private_key(make_private_key(algorithm)))
    assert isinstance(signer, Signer)
    assert signer.algorithm is algorithm
    assert public_key_algorithm(signer.public_der) is algorithm
    for name, data in (("message", b"of the state"), ("public", signer.public_der)):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "signature").write_bytes(signer.sign(b"of the state"))
    done = subprocess.run(
        ["openssl", "dgst", _HASH[algorithm], "-keyform", "DER", "-verify", "public", "-signature", "signature",
         "message"], cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "Verified OK\n", done.stderr


def test_a_passphrase_is_needed_and_must_be_right() -> None:
    """A sealed key opens with its passphrase only, and says that the passphrase is at fault."""
    key = make_private_key(Algorithm.ES256)
    sealed = encode_private_key(key, b"open sesame")
    assert parse_private_key(sealed, b"open sesame").public_der == FileSigner(key).public_der
    for wrong in (None, b"", b"open seasame"):
        with pytest.raises(NotAuthorised, match="passphrase"):
            parse_private_key(sealed, wrong)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, form: str = "PKCS8") -> bytes:
    how = {"PKCS8": serialization.PrivateFormat.PKCS8, "old": serialization.PrivateFormat.TraditionalOpenSSL}[form]
    return key.private_bytes(serialization.Encoding.PEM, how, serialization.NoEncryption())


_GOOD = _pem(ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\n",
        _GOOD[:-60],
        b"\n" + _GOOD,
        _GOOD.replace(b"\nM", b"\nX", 1),
        _pem(ec.generate_private_key(ec.SECP256R1()), "old"),
        _pem(ec.generate_private_key(ec.SECP256K1())),
        _pem(ed25519.Ed25519PrivateKey.generate()),
        _pem(rsa.generate_private_key(65537, 1024)),
        _pem(rsa.generate_private_key(3, 2048)),
        b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 20_000,
    ],
)
def test_other_keys_and_damaged_ones_are_refused(data: bytes) -> None:
    """Empty, cut, damaged, old-style, weak and other kinds of keys are malformed, and no message quotes the key."""
    with pytest.raises(MalformedError) as caught:
        parse_private_key(data)
    assert "MIG" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nothing_shows_the_key() -> None:
    """A signer's text form does not show its key."""
    assert repr(FileSigner(make_private_key(Algorithm.ES256))) == "FileSigner(ES256)"

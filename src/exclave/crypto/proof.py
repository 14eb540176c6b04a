"""Does a key do what its public half says? Asked before anything is built on it."""

from __future__ import annotations

from exclave.crypto.jwa import verify_jwa
from exclave.crypto.signer import Signer
from exclave.crypto.token_form import raw_signature

_MESSAGE = b"exclave: this key works"


def prove(signer: Signer) -> None:
    """Signs a fixed text, which no protocol could mean, and verifies it. ``CorruptObject`` if it does not verify,
    ``UnavailableError`` if a token does not answer."""
    algorithm = signer.algorithm
    signature = raw_signature(algorithm, signer.sign(_MESSAGE))
    verify_jwa(algorithm.value, signer.public_der, signature, _MESSAGE)

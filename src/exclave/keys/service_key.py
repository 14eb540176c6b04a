"""Private keys of the identity services in files: PEM (PKCS#8), mode 600, never overwritten.

Page: docs/spec/keyring.md.

They sign for the world outside, in its algorithms. What Exclave itself goes by is signed by other keys, see
``keys/file.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from exclave.crypto.signer import Algorithm
from exclave.crypto.signer_file import (
    DEFAULT_RSA_BITS,
    MAX_PEM_BYTES,
    FileSigner,
    encode_private_key,
    is_sealed,
    make_private_key,
    parse_private_key,
)
from exclave.errors import MalformedError, UsageError
from exclave.keys.private_file import create_private, read_private


def create_service_key(
    path: str, algorithm: Algorithm, *, passphrase: str | None = None, rsa_bits: int = DEFAULT_RSA_BITS
) -> FileSigner:
    """Makes a key and writes it durably. ``AlreadyExists`` if there is a file, ``UsageError`` if it cannot be written
    or the passphrase is empty."""
    key = make_private_key(algorithm, rsa_bits=rsa_bits)
    create_private(path, encode_private_key(key, _secret(passphrase)))
    return FileSigner(key)


def store_service_key(path: str, pem: bytes, passphrase: Callable[[], str] | None = None) -> FileSigner:
    """Writes a key that was made elsewhere (a CA's key out of custody) as it came, sealed or not; errors as in
    ``load_service_key`` and ``create_service_key``."""
    signer = _parse(pem, passphrase)
    create_private(path, pem)
    return signer


def load_service_key(path: str, passphrase: Callable[[], str] | None = None) -> FileSigner:
    """The key in ``path``; ``passphrase`` is called only if it is sealed.

    ``KeyFileExposed`` if others could read it, ``NotAuthorised`` for a wrong or missing passphrase, ``UsageError`` if
    there is no plain file, ``MalformedError`` for other content.
    """
    try:
        return _parse(read_private(path, MAX_PEM_BYTES), passphrase)
    except MalformedError as error:
        raise MalformedError(f"{path}: {error.message}") from None  # its cause could quote the secret


def _parse(pem: bytes, passphrase: Callable[[], str] | None) -> FileSigner:
    given = passphrase() if passphrase is not None and is_sealed(pem) else None
    return parse_private_key(pem, _secret(given))


def _secret(passphrase: str | None) -> bytes | None:
    if passphrase == "":
        raise UsageError("the passphrase is empty", hint="Leave it out to store the key without one.")
    return None if passphrase is None else passphrase.encode()

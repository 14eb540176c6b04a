"""A key from a passphrase: scrypt (RFC 7914) with r = 8, p = 1."""

from __future__ import annotations

import unicodedata

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from exclave.errors import UsageError

MIN_LOG2_N = 14
MAX_LOG2_N = 20
"""Memory is 1 KiB times N: 16 MiB at the least, 128 MiB at the default of 17, 1 GiB at the most."""


def stretch(passphrase: str, salt: bytes, log2_n: int) -> bytes:
    """32 bytes from ``passphrase`` (its UTF-8 form after Unicode NFC, so that keyboards do not matter)."""
    if not passphrase:
        raise UsageError("a passphrase may not be empty")
    if not MIN_LOG2_N <= log2_n <= MAX_LOG2_N:
        raise UsageError(f"scrypt's log2(N) must be from {MIN_LOG2_N} to {MAX_LOG2_N}, not {log2_n}")
    kdf = Scrypt(salt=salt, length=32, n=1 << log2_n, r=8, p=1)
    return kdf.derive(unicodedata.normalize("NFC", passphrase).encode())

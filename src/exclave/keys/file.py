"""Private keys in files. Page: ``docs/spec/keys.md``.

::

    exclave/key-file/v1
    kind custodian | writer | machine | witness
    name <label>
    seed <base64, 32 bytes> | scrypt <salt, base64> <log2 N> <sealed seed, base64, 48 bytes>

The seed is all there is; both key pairs are derived from it. With a passphrase it is sealed by AES-256-GCM under a
scrypt key; the three lines above it are authenticated with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from exclave.crypto.aead import TAG_BYTES, ObjectCipher, derive
from exclave.crypto.hpke import OpeningKey
from exclave.crypto.passphrase import MAX_LOG2_N, MIN_LOG2_N, stretch
from exclave.crypto.sign import SigningPair
from exclave.errors import CorruptObject, MalformedError, NotAuthorised
from exclave.ids import Label, b64, parse_b64, parse_count, parse_label
from exclave.keys.private_file import create_private, read_private

HEADER = "exclave/key-file/v1"
MAX_KEY_FILE_BYTES = 1024
SEED_BYTES = 32
SALT_BYTES = 16
DEFAULT_LOG2_N = 17


class KeyKind(StrEnum):
    """Whose keys they are."""

    CUSTODIAN = "custodian"
    WRITER = "writer"
    MACHINE = "machine"
    WITNESS = "witness"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One actor's secret. ``seed``: 32 bytes."""

    kind: KeyKind
    name: Label
    seed: bytes = field(repr=False)

    def signing(self) -> SigningPair:
        return SigningPair(derive(self.seed, b"exclave/signing/v1"))

    def opening(self) -> OpeningKey:
        return OpeningKey(derive(self.seed, b"exclave/opening/v1"))


@dataclass(frozen=True, slots=True)
class ParsedKeyFile:
    """A key file's text, its secret perhaps still sealed."""

    kind: KeyKind
    name: Label
    seed: bytes | None = field(repr=False)
    salt: bytes = b""
    log2_n: int = 0
    sealed: bytes = b""

    def encode(self) -> str:
        if self.seed is not None:
            return f"{self.head()}seed {b64(self.seed)}\n"
        return f"{self.head()}scrypt {b64(self.salt)} {self.log2_n} {b64(self.sealed)}\n"

    def head(self) -> str:
        return f"{HEADER}\nkind {self.kind}\nname {self.name}\n"


def create(
    path: str,
    kind: KeyKind,
    name: Label,
    *,
    seed: bytes,
    passphrase: str | None = None,
    log2_n: int = DEFAULT_LOG2_N,
    random: Callable[[int], bytes] = os.urandom,
) -> KeyFile:
    """Writes a new key file that only its owner can read, durably, and returns what it holds.

    ``AlreadyExists`` if there is a file: nothing is ever overwritten. ``UsageError`` if it cannot be written.
    """
    key = KeyFile(kind, name, seed)
    text = _protect(key, passphrase, log2_n, random).encode()
    parse_key_file(text.encode())
    create_private(path, text.encode())
    return key


def load(path: str, passphrase: Callable[[], str] | None = None) -> KeyFile:
    """The keys in ``path``; ``passphrase`` is called only if they are sealed.

    ``KeyFileExposed`` if others could read it, ``NotAuthorised`` for a wrong or missing passphrase, ``UsageError`` if
    there is no plain file, ``MalformedError`` for other content.
    """
    try:
        parsed = parse_key_file(read_private(path, MAX_KEY_FILE_BYTES))
    except MalformedError as error:
        hint = "Take the copy that was kept in another place."
        raise MalformedError(f"{path}: {error.message}", hint=hint) from None  # its cause could quote the secret
    if parsed.seed is not None:
        return KeyFile(parsed.kind, parsed.name, parsed.seed)
    if passphrase is None:
        raise NotAuthorised(f"the key file {path} needs a passphrase")
    cipher = ObjectCipher(stretch(passphrase(), parsed.salt, parsed.log2_n))
    try:
        seed = cipher.open(0, parsed.sealed, parsed.head().encode())
    except CorruptObject as error:
        raise NotAuthorised(
            f"the passphrase does not open {path}, or the file was changed", hint="Type the passphrase again."
        ) from error
    return KeyFile(parsed.kind, parsed.name, seed)


def parse_key_file(data: bytes) -> ParsedKeyFile:
    """Strict inverse of ``ParsedKeyFile.encode``. Raises ``MalformedError``, never quoting what may be secret."""
    if len(data) > MAX_KEY_FILE_BYTES:
        raise MalformedError(f"a key file is longer than {MAX_KEY_FILE_BYTES} bytes")
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise MalformedError("a key file is not ASCII text") from None
    if len(lines) != 5 or lines[0] != HEADER or lines[4] != "":
        raise MalformedError("not a key file")
    try:
        kind = KeyKind(_field(lines[1], "kind")[0])
        name = parse_label(_field(lines[2], "name")[0])
    except ValueError as error:
        raise MalformedError("a key file has an unknown kind") from error
    parsed = _secret(kind, name, lines[3])
    if parsed.encode().encode() != data:
        raise MalformedError("a key file is not in its one canonical form")
    return parsed


def _secret(kind: KeyKind, name: Label, line: str) -> ParsedKeyFile:
    try:
        if line.startswith("seed "):
            return ParsedKeyFile(kind, name, parse_b64(_field(line, "seed")[0], length=SEED_BYTES))
        salt, log2_n, sealed = _field(line, "scrypt", 3)
        parsed = ParsedKeyFile(
            kind,
            name,
            None,
            parse_b64(salt, length=SALT_BYTES),
            parse_count(log2_n, limit=MAX_LOG2_N),
            parse_b64(sealed, length=SEED_BYTES + TAG_BYTES),
        )
    except MalformedError:
        # The cause quotes the line, and the line may be the secret.
        raise MalformedError("a key file's secret is not in the form it should have") from None
    if parsed.log2_n < MIN_LOG2_N:
        raise MalformedError(f"a key file asks for less scrypt work than 2^{MIN_LOG2_N}")
    return parsed


def _field(line: str, keyword: str, count: int = 1) -> list[str]:
    parts = line.split(" ")
    if parts[0] != keyword or len(parts) != count + 1:
        raise MalformedError(f"a key file's line should be {keyword!r} with {count} field(s)")
    return parts[1:]


def _protect(key: KeyFile, passphrase: str | None, log2_n: int, random: Callable[[int], bytes]) -> ParsedKeyFile:
    plain = ParsedKeyFile(key.kind, key.name, key.seed)
    if passphrase is None:
        return plain
    salt = random(SALT_BYTES)
    # The salt is new for each file, so the key is, and number 0 is used once under it.
    sealed = ObjectCipher(stretch(passphrase, salt, log2_n)).seal(0, key.seed, plain.head().encode())
    return ParsedKeyFile(key.kind, key.name, None, salt, log2_n, sealed)

"""What a place says of its own signing keys, one small file for each; the keys themselves are elsewhere.

Page: ``docs/spec/keyring.md``.

::

    exclave/service-key/v1
    name <1 to 80 of a-z 0-9 ->
    use token | ocsp <issuer> | crl <issuer>
    stored file | pkcs11
    algorithm ES256 | ES384 | ES512 | RS256
    public <base64 of the SubjectPublicKeyInfo>

``pkcs11.toml`` beside them says where the token is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from exclave.errors import MalformedError
from exclave.formats.toml import read_toml
from exclave.ids import Digest, b64, parse_b64, parse_digest

HEADER = "exclave/service-key/v1"
MAX_RECORD_BYTES = 2048
MAX_TOKEN_CONFIG_BYTES = 4096
ALGORITHMS = ("ES256", "ES384", "ES512", "RS256")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,79}\Z")
_KEYWORDS = ("name", "use", "stored", "algorithm", "public")


class KeyUse(StrEnum):
    """What a key signs."""

    TOKEN = "token"  # noqa: S105 - a word of the format
    OCSP = "ocsp"
    CRL = "crl"


class Stored(StrEnum):
    """Where its private half is."""

    FILE = "file"
    """``<name>.pem`` beside the record."""
    PKCS11 = "pkcs11"
    """In the token, under the label ``<name>``."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key."""

    name: str
    use: KeyUse
    issuer: Digest | None
    """See ``crypto.crl.issuer_id``; None for token keys."""
    stored: Stored
    algorithm: str
    public_der: bytes

    def encode(self) -> bytes:
        use = self.use.value if self.issuer is None else f"{self.use} {self.issuer.hex()}"
        return (
            f"{HEADER}\nname {self.name}\nuse {use}\nstored {self.stored}\nalgorithm {self.algorithm}\n"
            f"public {b64(self.public_der)}\n"
        ).encode()


def check_name(name: str) -> str:
    """A key's name. Raises ``MalformedError``."""
    if not _NAME.match(name):
        raise MalformedError(f"a key's name has 1 to 80 of a-z, 0-9 and '-', a letter first, not {name[:90]!r}")
    return name


def parse_key_record(data: bytes) -> KeyRecord:
    """Strict inverse of ``KeyRecord.encode``. Raises ``MalformedError``."""
    if len(data) > MAX_RECORD_BYTES:
        raise MalformedError(f"a key's record has more than {MAX_RECORD_BYTES} bytes")
    lines = data.decode("ascii", "replace").split("\n")
    if len(lines) != 7 or lines[0] != HEADER or lines[6]:
        raise MalformedError("not the record of a signing key")
    fields = dict(line.partition(" ")[::2] for line in lines[1:6])
    if tuple(fields) != _KEYWORDS:
        raise MalformedError(f"a key's record must say {', '.join(_KEYWORDS)}")
    use, _, issuer = fields["use"].partition(" ")
    try:
        record = KeyRecord(
            check_name(fields["name"]), KeyUse(use), parse_digest(issuer) if issuer else None,
            Stored(fields["stored"]), fields["algorithm"], parse_b64(fields["public"], limit=MAX_RECORD_BYTES),
        )  # fmt: skip
    except ValueError as error:
        raise MalformedError("a key's record has an unknown use or place") from error
    if record.algorithm not in ALGORITHMS or (record.issuer is None) != (record.use is KeyUse.TOKEN):
        raise MalformedError("a key's record has an unknown algorithm, or a use without the issuer that it needs")
    if record.encode() != data:
        raise MalformedError("a key's record is not in its one canonical form")
    return record


class TokenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``pkcs11.toml``"""

    module: str
    """Path of the PKCS#11 library."""
    token: str
    """Label of the token."""
    pin_file: str
    """File of mode 600 with the user PIN; relative to the folder."""


def parse_token_config(data: bytes) -> TokenConfig:
    """Strict. Raises ``ConfigError``."""
    hint = "It names module, token and pin_file."
    return read_toml(data, TokenConfig, name="pkcs11.toml", limit=MAX_TOKEN_CONFIG_BYTES, hint=hint)

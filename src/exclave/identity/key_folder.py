"""The folder with a place's own signing keys: one record for each, its private half in a file or a PKCS#11 token.

Page: docs/spec/keyring.md. Keys are added, never replaced; the folder is the place's own and is copied nowhere.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from exclave.crypto.signer import Algorithm, Signer
from exclave.durable import sync_folder
from exclave.errors import AlreadyExists, ConfigError, CorruptObject, UnavailableError, UsageError
from exclave.formats.keyring import (
    MAX_RECORD_BYTES,
    MAX_TOKEN_CONFIG_BYTES,
    KeyRecord,
    KeyUse,
    Stored,
    check_name,
    parse_key_record,
    parse_token_config,
)
from exclave.ids import Digest
from exclave.keys.pkcs11 import HardwareToken, TokenPlace
from exclave.keys.private_file import read_private
from exclave.keys.service_key import create_service_key, load_service_key, store_service_key

MAX_RECORDS = 10_000
_PKCS11_HINT = "Write it as docs/spec/keyring.md says, or keep the keys in files."


class KeyFolder:
    """A place's keys. Safe to call from several threads; one process at a time should add keys."""

    def __init__(self, folder: Path, passphrase: Callable[[], str] | None = None) -> None:
        """Reads the records, not the keys; a folder that is missing has none.

        ``MalformedError`` for a damaged record, ``KeyFileExposed`` if others could read it.
        """
        self.path = folder
        self._passphrase = passphrase
        self._lock = threading.Lock()
        self._signers: dict[str, Signer] = {}
        self._recorded: dict[str, RecordedSigner] = {}
        self._token: HardwareToken | None = None
        self._records: dict[str, KeyRecord] = {}
        self.reload()

    def reload(self) -> None:
        """Reads the records that were added since."""
        names = sorted(p.name for p in self.path.glob("*.key")) if self.path.is_dir() else []
        if len(names) > MAX_RECORDS:
            raise UsageError(f"{self.path} holds more than {MAX_RECORDS} keys")
        added = {n.removesuffix(".key") for n in names if not n.startswith(".")} - self._records.keys()
        if added:
            self._records = self._records | {name: self._read(f"{name}.key") for name in added}

    def records(self) -> tuple[KeyRecord, ...]:
        """By name."""
        held = self._records
        return tuple(held[name] for name in sorted(held))

    def find(self, public_der: bytes, use: KeyUse, issuer: Digest | None = None) -> KeyRecord | None:
        """The record of that public key, if it has that use."""
        for record in self._records.values():
            if (record.public_der, record.use, record.issuer) == (public_der, use, issuer):
                return record
        return None

    def signer(self, record: KeyRecord) -> RecordedSigner:
        """The key, always the same object; its private half is looked for when it signs."""
        return self._recorded.setdefault(record.name, RecordedSigner(self, record))

    def make(self, name: str, use: KeyUse, issuer: Digest | None, algorithm: Algorithm, stored: Stored) -> KeyRecord:
        """A new key, durably. ``AlreadyExists`` if there is a record of that name; ``UnavailableError`` if the token
        is away.

        A process that dies after the key and before its record leaves a key whose public half nobody has seen; the
        next ``make`` of the same name takes it up.
        """
        with self._lock:
            self._vacant(name)
            if stored is Stored.PKCS11:
                token = self._hardware()
                signer: Signer = token.signer(name) if token.has(name) else token.make(name, algorithm)
            else:
                self._prepare()
                path = self._pem(name)
                left = os.path.lexists(path)
                signer = load_service_key(path, self._passphrase) if left else self._create(path, algorithm)
            if signer.algorithm is not algorithm:
                raise UsageError(f"a key {name} without a record is there already, of another kind: {signer.algorithm}")
            return self._record(KeyRecord(name, use, issuer, stored, algorithm, signer.public_der), signer)

    def store(self, name: str, use: KeyUse, issuer: Digest | None, pem: bytes) -> KeyRecord:
        """Takes in a private key that was made elsewhere (a CA's key out of custody), durably, as it came. Errors as in
        ``make`` and ``keys.service_key.store_service_key``."""
        with self._lock:
            self._vacant(name)
            self._prepare()
            signer = store_service_key(self._pem(name), pem, self._passphrase)
            record = KeyRecord(name, use, issuer, Stored.FILE, signer.algorithm, signer.public_der)
            return self._record(record, signer)

    def open_signer(self, record: KeyRecord) -> Signer:
        """The private key itself. ``CorruptObject`` if it is not the one of the record; errors of its place."""
        with self._lock:
            if record.name not in self._signers:
                if record.stored is Stored.PKCS11:
                    signer: Signer = self._hardware().signer(record.name)
                else:
                    signer = load_service_key(self._pem(record.name), self._passphrase)
                if signer.public_der != record.public_der:
                    raise CorruptObject(
                        f"the key {record.name} is another one than its record says",
                        hint="Somebody exchanged it. Use none of this folder's keys until it is known why.",
                    )
                self._signers[record.name] = signer
            return self._signers[record.name]

    def close(self) -> None:
        """Logs out of the token."""
        if self._token is not None:
            self._token.close()

    def _create(self, path: str, algorithm: Algorithm) -> Signer:
        passphrase = self._passphrase() if self._passphrase is not None else None
        return create_service_key(path, algorithm, passphrase=passphrase)

    def _vacant(self, name: str) -> None:
        if check_name(name) in self._records:
            raise AlreadyExists(f"there is a key {name} already; keys are never replaced")

    def _record(self, record: KeyRecord, signer: Signer) -> KeyRecord:
        self._prepare()
        _write_new(self.path, f"{record.name}.key", record.encode())
        self._records = {**self._records, record.name: record}  # readers in other threads hold the old one
        self._signers[record.name] = signer
        return record

    def _prepare(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {self.path}: {error.strerror}") from error

    def _pem(self, name: str) -> str:
        return str(self.path / f"{name}.pem")

    def _read(self, file: str) -> KeyRecord:
        record = parse_key_record(read_private(str(self.path / file), MAX_RECORD_BYTES))
        if f"{record.name}.key" != file:
            raise CorruptObject(f"{self.path / file} is the record of another key, {record.name}")
        return record

    def _hardware(self) -> HardwareToken:
        if self._token is None:
            path = self.path / "pkcs11.toml"
            if not path.exists():
                raise ConfigError(f"keys in a PKCS#11 token need {path}, which is not there", hint=_PKCS11_HINT)
            config = parse_token_config(read_private(str(path), MAX_TOKEN_CONFIG_BYTES))
            self._token = HardwareToken(TokenPlace(config.module, config.token, str(self.path / config.pin_file)))
        return self._token


class RecordedSigner:
    """A ``Signer`` that knows its public half from the record, and looks for the private one when it signs."""

    __slots__ = ("_folder", "_record")

    def __init__(self, folder: KeyFolder, record: KeyRecord) -> None:
        self._folder, self._record = folder, record

    @property
    def algorithm(self) -> Algorithm:
        return Algorithm(self._record.algorithm)

    @property
    def public_der(self) -> bytes:
        return self._record.public_der

    def sign(self, message: bytes) -> bytes:
        """See ``Signer.sign``; a key file or a PIN file that is gone is unavailable, too. ``NotAuthorised`` and
        ``CorruptObject`` need a person."""
        try:
            return self._folder.open_signer(self._record).sign(message)
        except UsageError as error:
            raise UnavailableError(f"the key {self._record.name} cannot be used: {error.message}") from error

    def __repr__(self) -> str:
        return f"RecordedSigner({self._record.name!r})"


def _write_new(folder: Path, name: str, data: bytes) -> None:
    """Durably and whole: a restart finds all of it or nothing (a name that begins with a dot is passed over)."""
    draft = folder / f".{name}.{os.getpid()}"
    try:
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, folder / name)
        draft.unlink()
        sync_folder(folder)
    except FileExistsError as error:
        raise AlreadyExists(f"{folder / name} is there already; another process made it") from error
    except OSError as error:
        raise UsageError(f"cannot write {folder / name}: {error.strerror}") from error

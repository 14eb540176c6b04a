"""A writer's own folder: its configuration, its keys, its caches. Losing it loses nothing that is stored.

::

    exclave.toml            what this home says of itself
    keys/writer.key         signs ledgers and epochs (mode 600)
    keys/ID.secrets         a register's deduplication keys (mode 600): they cannot open anything
    state/fingerprint       the pinned fingerprint
    state/registers         names and ids of registers
    cache/ID/               may be thrown away: index of shipped chunks, last catalogue
"""

from __future__ import annotations

import fcntl
import os
import secrets as _random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exclave.durable import make_folders, replace_file
from exclave.errors import AlreadyExists, Busy, ConfigError, KeyFileExposed, MalformedError, UsageError
from exclave.formats.card import Card
from exclave.formats.config import Config, parse_config
from exclave.formats.manifest import Secrets
from exclave.ids import Fingerprint, Label, RegisterId, parse_fingerprint, parse_label, parse_register_id
from exclave.keys.file import KeyFile, KeyKind, create, load
from exclave.rules.signatures import card_of

CONFIG_NAME = "exclave.toml"
_NO_ID = (
    "If it is new: `exclave charter propose`. If state/registers was lost: a line for each register, its name and id."
)


@dataclass(frozen=True, slots=True)
class Home:
    """An opened home folder."""

    folder: Path
    config: Config

    @classmethod
    def open(cls, folder: Path) -> Home:
        """Reads ``exclave.toml``. ``UsageError`` if there is none, ``ConfigError`` if it is wrong."""
        path = folder / CONFIG_NAME
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise UsageError(
                f"there is no {CONFIG_NAME} in {folder}", hint="Run `exclave init` there, or name the home with --home."
            ) from error
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}",
                hint="Name with --home the folder in which exclave.toml is, and run it as a user who may read it.",
            ) from error
        return cls(folder, parse_config(data))

    # Keys

    def writer_key(self) -> KeyFile:
        """This home's own keys."""
        return load(str(self.folder / "keys" / "writer.key"))

    def writer_card(self) -> Card:
        return key_card(self.writer_key())

    def register_secrets(self, register: RegisterId) -> Secrets:
        """Deduplication keys of ``register``; ``UsageError`` if this home has none."""
        path = self.folder / "keys" / f"{register}.secrets"
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise KeyFileExposed(f"{path} can be read by others", path=str(path))
                return msgspec.msgpack.decode(file.read(1 << 20), type=Secrets)
        except FileNotFoundError as error:
            raise UsageError(
                f"this home has no keys for register {register}",
                hint="Run `exclave charter propose` for a new register.",
            ) from error
        except (msgspec.DecodeError, UnicodeError) as error:
            raise MalformedError(f"{path} is damaged") from error

    def save_secrets(self, register: RegisterId, secrets: Secrets) -> None:
        """Durable when it returns; a restart finds the former keys or these."""
        write_private(self.folder / "keys" / f"{register}.secrets", msgspec.msgpack.encode(secrets))

    # What this home knows of the state

    def fingerprint(self) -> Fingerprint:
        """The pinned fingerprint; ``UsageError`` before the first charter is published."""
        path = self.folder / "state" / "fingerprint"
        try:
            return parse_fingerprint(path.read_text("ascii").strip())
        except FileNotFoundError as error:
            raise UsageError(
                "this home has no charter yet",
                hint="If the state is new: `exclave charter propose`, have it signed, `exclave charter publish`."
                " If this folder was lost and made anew, write the printed fingerprint into state/fingerprint.",
            ) from error
        except (MalformedError, UnicodeDecodeError) as error:
            raise MalformedError(
                f"{path} is damaged", hint="Write the state's fingerprint, as it was printed, into the file again."
            ) from error

    def pin(self, fingerprint: Fingerprint) -> None:
        """Keeps ``fingerprint``; ``ConfigError`` if another one is pinned."""
        path = self.folder / "state" / "fingerprint"
        if path.exists() and self.fingerprint() != fingerprint:
            raise ConfigError(f"another state is pinned here: {self.fingerprint()}")
        write_private(path, f"{fingerprint}\n".encode())

    def register_ids(self) -> dict[Label, RegisterId]:
        """Ids of the registers that have one."""
        path = self.folder / "state" / "registers"
        try:
            pairs = [line.partition(" ") for line in path.read_text("ascii").splitlines()]
            return {parse_label(name): parse_register_id(number) for name, _, number in pairs}
        except FileNotFoundError:
            return {}
        except (MalformedError, UnicodeDecodeError) as error:
            raise MalformedError(
                f"{path} is damaged",
                hint="Get it from a copy of the home; the registers' ids stand in the charter too.",
            ) from error

    def register_id(self, name: str) -> RegisterId:
        """The id of the register called ``name``; ``UsageError`` if it has none yet."""
        self.config.find_register(name)
        found = self.register_ids().get(Label(name))
        if found is None:
            raise UsageError(f"register {name} is not in a charter yet", hint=_NO_ID)
        return found

    def save_register_ids(self, ids: dict[Label, RegisterId]) -> None:
        text = "".join(f"{name} {number}\n" for name, number in sorted(ids.items()))
        write_private(self.folder / "state" / "registers", text.encode())

    def assign_ids(self) -> dict[Label, RegisterId]:
        """Ids for all registers of the configuration, new random ones for new registers."""
        ids = self.register_ids()
        for register in self.config.register:
            ids.setdefault(Label(register.name), RegisterId(_random.token_hex(16)))
        self.save_register_ids(ids)
        return ids

    # Caches

    def cache(self, register: RegisterId) -> Path:
        """The cache folder of ``register``; made if need be."""
        path = self.folder / "cache" / register
        make_folder(path)
        return path

    @contextmanager
    def alone(self, register: RegisterId) -> Iterator[None]:
        """Holds ``register`` until the process ends, however it dies; ``Busy`` if another one has it."""
        path = self.cache(register) / "lock"
        try:
            opened = open(path, "wb")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy("another process is writing this register", register=register) from error
            yield


def absolute_address(folder: Path, url: str) -> str:
    """``url`` with a relative folder (``dir:sites/north``) made absolute below ``folder``."""
    if url.startswith("dir:") and not url.startswith("dir:/"):
        return f"dir:{(folder / url.removeprefix('dir:')).absolute()}"
    return url


def key_card(key: KeyFile) -> Card:
    """The public card of a key file."""
    return card_of(key.name, key.signing(), key.opening())


def make_key(path: Path, kind: KeyKind, name: Label, passphrase: str | None = None) -> KeyFile:
    """A new random key file at ``path``, or the one that is there already if it is of the same kind and name."""
    make_folder(path.parent)
    try:
        return create(str(path), kind, name, seed=_random.token_bytes(32), passphrase=passphrase)
    except AlreadyExists:
        if passphrase is not None:
            raise
        found = load(str(path))
        if (found.kind, found.name) != (kind, name):
            raise
        return found


def make_folder(folder: Path) -> None:
    """A private folder, with those above it; fine if it is there. ``UsageError`` if it cannot be one."""
    try:
        make_folders(folder)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder}: {error.strerror}", hint="Name a folder that can be written to."
        ) from error


def read_limited(path: Path, limit: int) -> bytes:
    """A file from elsewhere, at most ``limit`` bytes. ``UsageError`` if unreadable, ``MalformedError`` if longer."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="Check the file's name, and that this user may read it."
        ) from error
    if len(data) > limit:
        raise MalformedError(f"{path} is too long")
    return data


def write_private(path: Path, data: bytes) -> None:
    """Durably replaces ``path`` (mode 600): a restart finds the old content or the new, whole."""
    make_folder(path.parent)
    try:
        replace_file(path, data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error

"""Strict parts of a site's address that several kinds of site share. All raise ``ConfigError``."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Collection
from urllib.parse import SplitResult, parse_qsl, urlsplit

from exclave.errors import ConfigError, KeyFileExposed, MalformedError
from exclave.ids import parse_key

_LARGEST_FILE = 1 << 20


def read_parameters(text: str, known: Collection[str]) -> dict[str, str]:
    """``name=value&…``: each at most once, and only those that are known."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=len(known))
    except ValueError as error:
        raise ConfigError("the parameters of a site's address are not of the form name=value&…") from error
    query = dict(pairs)
    if unknown := query.keys() - set(known):
        raise ConfigError(f"unknown parameter {min(unknown)!r} in a site's address")
    if len(query) != len(pairs):
        raise ConfigError("a parameter stands twice in a site's address")
    return query


def read_prefix(parts: SplitResult) -> str:
    """The path of a bucket's address: a prefix for object names, without slashes at its ends."""
    if "@" in parts.netloc:
        raise ConfigError("keys do not belong into a site's address; use credentials=/path/of/file")
    if parts.fragment:
        raise ConfigError("a site's address has no part after '#'")
    prefix = parts.path.strip("/")
    try:
        if prefix:
            parse_key(prefix)
    except MalformedError as error:
        raise ConfigError(f"not a prefix for object names: {prefix!r}") from error
    return prefix


def read_endpoint(text: str) -> str:
    """``https://host[:port][/path]``, or ``http:`` where the operator wrote so."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise ConfigError("the endpoint of a site is not a URL") from error
    if "@" in parts.netloc:
        raise ConfigError("keys do not belong into an endpoint")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"an endpoint looks like https://host:port, not {text!r}")
    return text.rstrip("/")


def read_secrets(path: str, names: Collection[str]) -> dict[str, str]:
    """The private TOML file at ``path``: each of ``names``, a text, and nothing else. ``KeyFileExposed``."""
    try:
        values = tomllib.loads(read_file(path, private=True).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        # Without the parser's words, which could quote the secret.
        raise ConfigError(f"{path} is not a TOML file") from error
    if values.keys() != set(names) or not all(isinstance(value, str) and value for value in values.values()):
        each = ", each a text," if len(names) > 1 else ", a text,"
        raise ConfigError(f"{path} must hold {' and '.join(names)}{each} and nothing else")
    return values


def read_file(path: str, *, private: bool) -> bytes:
    """A small plain file that the address names; ``KeyFileExposed`` if it is ``private`` and others can read it."""
    if not os.path.isabs(path):
        raise ConfigError(f"a file in a site's address needs an absolute path, not {path!r}")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_FILE:
                raise ConfigError(f"{path} is not a small plain file")
            if private and found.st_mode & 0o077:
                raise KeyFileExposed(f"{path} can be read by others", path=path)
            return file.read(_LARGEST_FILE)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error

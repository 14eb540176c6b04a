"""Files that a person writes in TOML, read strictly into a frozen structure."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import TypeVar

import msgspec

from exclave.errors import ConfigError

Made = TypeVar("Made")


def read_toml(
    data: bytes,
    kind: type[Made],
    *,
    name: str,
    limit: int,
    hint: str = "",
    explain: Callable[[msgspec.ValidationError], str] = str,
) -> Made:
    """``data`` as a ``kind``, whose own fields and limits say what may stand there. ``limit``: the most bytes.

    ``ConfigError``, which begins with the file's ``name``; ``explain`` says in words what msgspec found.
    """
    if len(data) > limit:
        raise ConfigError(f"{name}: it is longer than {limit} bytes", hint=hint)
    try:
        return msgspec.convert(tomllib.loads(data.decode("utf-8")), kind, strict=True)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:  # the last one: brackets in brackets
        raise ConfigError(f"{name}: it is not TOML: {error}", hint=hint) from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {explain(error)}", hint=hint) from error

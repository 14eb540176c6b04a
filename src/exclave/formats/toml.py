"""Files that a person writes in TOML, read strictly into a frozen structure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from exclave.errors import ConfigError

Made = TypeVar("Made")

_TOLD = re.compile(r"(.*) - at `\$([^`]*)`|(.*)", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[([0-9]+|\.\.\.)\]")
_KEY = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_KIND = re.compile(r"Expected `(.*)`, got `(.*)`", re.DOTALL)
_VALUE = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_KINDS = {"int": "a whole number", "float": "a number with a point", "str": "a text", "bool": "true or false",
          "array": "a list", "object": "a table", "int | str": "a whole number or a text"}  # fmt: skip
_MAX_NAME_CHARS = 60


def read_toml(
    data: bytes,
    kind: type[Made],
    *,
    name: str,
    limit: int,
    hint: str = "",
    words: Mapping[str, Sequence[str]] | None = None,
) -> Made:
    """``data`` as a ``kind``, whose own fields and limits say what may stand there. ``limit``: the most bytes.

    ``ConfigError``, which begins with the file's ``name`` and says where in it; ``words``: of keys that are one of a
    few words, which.
    """
    if len(data) > limit:
        raise ConfigError(f"{name}: it is longer than {limit} bytes", hint=hint)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:  # the last one: brackets in brackets
        raise ConfigError(f"{name}: it is not TOML: {error}", hint=hint) from error
    try:
        return msgspec.convert(document, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {explained(document, str(error), words or {})}", hint=hint) from error


def explained(document: object, told: str, words: Mapping[str, Sequence[str]]) -> str:
    """What msgspec told of ``document``, in words: tables by their names, ``register gazette: unknown key `rpos```."""
    found = _TOLD.fullmatch(told)
    if found is None:
        return told
    what = found[1] or found[3]
    places = _places(document, found[2] or "")
    if key := _KEY.fullmatch(what):
        text = f"unknown key `{key[2]}`" if key[1].startswith("contains") else f"the key `{key[2]}` is missing"
        return ": ".join(filter(None, (", ".join(places), text)))
    field = places.pop() if places else "the file"
    if types := _KIND.fullmatch(what):
        text = f"{field} must be {_kind(types[1])}, not {_kind(types[2])}"
    elif value := _VALUE.fullmatch(what):
        allowed = words.get(field, ())
        text = f"{field} cannot be {value[1]}" + (f"; it is one of {', '.join(allowed)}" if allowed else "")
    else:
        text = f"{field}: {what}"
    return ": ".join(filter(None, (", ".join(places), text)))


def _places(document: object, path: str) -> list[str]:
    """``.register[0].dataset[1].kind`` as ``register gazette``, ``dataset number 2``, ``kind``."""
    places: list[str] = []
    value = document
    for key, position in _STEP.findall(path):
        if key:
            value = value.get(key) if isinstance(value, dict) else None
            places.append(key)
        elif position == "...":
            places[-1:] = [f"a value in {' '.join(places[-1:])}"]
        else:
            value = value[int(position)] if isinstance(value, list) and int(position) < len(value) else None
            named = value.get("name") if isinstance(value, dict) else None
            which = named[:_MAX_NAME_CHARS] if isinstance(named, str) else f"number {int(position) + 1}"
            places[-1:] = [f"{' '.join(places[-1:])} {which}"]
    return places


def _kind(name: str) -> str:
    return _KINDS.get(name, name)

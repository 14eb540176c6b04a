"""The address of a coded site: its members in their order, how many are enough to read, and how many to write.

::

    coded:K?member=ADDRESS&member=ADDRESS&…
    coded:K?need=N&member=ADDRESS&…

``need``: so many members hold a write before it counts. Page: ``docs/spec/coded.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from exclave.errors import ConfigError
from exclave.sites.coded_form import MAX_MEMBERS

_FORM = "a coded site is written coded:2?member=ADDRESS&member=ADDRESS&member=ADDRESS, all different"


@dataclass(frozen=True, slots=True)
class CodedAddress:
    """What the address of a coded site says."""

    k: int
    need: int | None
    """None: as many as is usual for these numbers."""
    members: tuple[str, ...]


def read_coded(url: str) -> CodedAddress:
    """``ConfigError`` if the address cannot be one."""
    parts = urlsplit(url)
    try:
        asked = parse_qsl(parts.query, strict_parsing=True, max_num_fields=MAX_MEMBERS + 1)
    except ValueError as error:
        raise ConfigError(_FORM) from error
    members = tuple(address for name, address in asked if name == "member")
    needs = [value for name, value in asked if name == "need"]
    k, need = _number(parts.path), _number(needs[0]) if needs else None
    if len(members) + len(needs) != len(asked) or len(set(members)) != len(members) or not k:
        raise ConfigError(_FORM)
    if len(needs) > 1 or need == 0:
        raise ConfigError("of a coded site, need= is one number of members")
    if any(address.startswith("coded:") for address in members):
        raise ConfigError("a member of a coded site cannot be a coded site itself")
    return CodedAddress(k, need, members)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else 0

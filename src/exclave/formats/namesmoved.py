"""What a move of names changed, so that it can be undone exactly. JSON, one file. Page: ``docs/spec/names.md``."""

from __future__ import annotations

import msgspec

from exclave.errors import MalformedError

HEADER = "exclave/names-moved/v1"
MAX_MOVED_BYTES = 1 << 20


class MovedSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record set before and after."""

    name: str
    type: str
    before: tuple[str, ...]
    before_ttl_s: int
    after: tuple[str, ...]
    after_ttl_s: int


class NamesMoved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The names of ``zone`` were, or are being, moved to ``place``."""

    format: str
    zone: str
    place: str
    begun: int
    """Instant of the first move since the names were where they belong."""
    sets: tuple[MovedSet, ...]


def encode_names_moved(moved: NamesMoved) -> bytes:
    """Its one form."""
    return msgspec.json.encode(moved) + b"\n"


def parse_names_moved(data: bytes) -> NamesMoved:
    """Strict inverse. Raises ``MalformedError``."""
    if len(data) > MAX_MOVED_BYTES:
        raise MalformedError(f"a record of moved names has more than {MAX_MOVED_BYTES} bytes")
    try:
        moved = msgspec.json.decode(data, type=NamesMoved)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedError(f"not a record of moved names: {error}") from error
    if moved.format != HEADER or encode_names_moved(moved) != data:
        raise MalformedError("a record of moved names is not in its one canonical form")
    return moved

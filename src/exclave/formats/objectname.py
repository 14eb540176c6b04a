"""What an object's name at a site says of it. Page: ``docs/spec/layout.md``; names are made in ``formats/paths.py``.

A host that knows no key still sees from a name of the layout which bytes can be right under it: most names are the
SHA-256 of the object, the others stand in the log or the feed of one epoch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from exclave.errors import MalformedError
from exclave.formats.tile import TILE_WIDTH, number_path
from exclave.ids import Digest, Epoch, Fingerprint, Key, RegisterId, parse_digest, parse_fingerprint, parse_register_id


class Part(StrEnum):
    """Which kind of object a name is for."""

    CHARTER = "charter"
    CARD = "card"
    WARRANT = "warrant"
    EPOCH = "epoch"
    BOX = "box"
    PACK = "pack"
    LIST = "list"
    STATEMENT = "statement"
    DELETION = "deletion"
    OBJECTION = "objection"
    PUBLIC = "public"
    BATCH = "batch"
    FEED_HEAD = "feed-head"
    HEAD = "head"
    STAGE = "stage"
    COSIGNED = "cosigned"
    TIMESTAMP = "timestamp"
    TILE = "tile"
    BUNDLE = "bundle"
    SHARD = "shard"
    VOTE = "vote"


REPLACED = frozenset({Part.HEAD, Part.FEED_HEAD, Part.VOTE})
"""The only objects that are ever replaced."""

CUT = frozenset({Part.BOX, Part.PACK, Part.LIST, Part.PUBLIC, Part.BATCH})
"""What may lie in shards at a member of a coded site; a descriptor that names the object's hash stands in its place."""

_OF_STATE = frozenset({Part.CHARTER, Part.CARD, Part.WARRANT})
_PLAIN = frozenset({Part.EPOCH, Part.BOX, Part.LIST, Part.STATEMENT, Part.DELETION, Part.OBJECTION})
_SPREAD = frozenset({Part.PACK, Part.PUBLIC})
_DAY = re.compile(r"[0-9]{8}\Z")
_PLACE = re.compile(r"([0-9]{8})-([0-9a-f]{16})\Z")
_TILE = re.compile(r"tile/([0-7]|entries)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?\Z")
_STAGE = re.compile(r"stage/((?:x[0-9]{3}/)*[0-9]{3})\Z")
_COSIGNED = re.compile(r"cosigned/[0-9]{20}-[0-9a-f]{16}\Z")
_TIMESTAMP = re.compile(r"timestamp/[0-9]{20}-[0-9a-f]{16}\Z")
_MAX_GROUPS = 7
"""Numbers of up to 21 digits: every size fits."""


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A name of the layout. Which of the last fields are set depends on ``part``."""

    part: Part
    state: Fingerprint
    register: RegisterId | None = None
    digest: Digest | None = None
    """SHA-256 that the object must have; None of what is named by its place."""
    prefix: str = ""
    """Of the log or feed that it stands in, ending in ``/``."""
    epoch: Epoch = Epoch(0)
    note_start: str = ""
    """First 16 hex digits of the SHA-256 of that epoch note's text."""
    number: int = 0
    """Of a tile, bundle or stage."""
    level: int = 0
    width: int = 0
    """Of a tile or bundle: 1 to 256."""


def parse_object_name(key: Key) -> ObjectName:
    """What ``key`` is the name of. ``MalformedError`` if the layout has no such name."""
    parts = key.split("/")
    if len(parts) < 3:
        raise _unknown(key)
    state = parse_fingerprint(parts[0])
    if parts[1] in _OF_STATE and len(parts) == 3:
        return ObjectName(Part(parts[1]), state, digest=parse_digest(parts[2]))
    if parts[1] == "statement" and len(parts) == 4 and _DAY.match(parts[2]):
        return ObjectName(Part.STATEMENT, state, digest=parse_digest(parts[3]))
    if parts[1] == "part":
        return _of_coded(key, parts, state)
    register, part = parse_register_id(parts[1]), parts[2]
    if part in _PLAIN and len(parts) == 4:
        return ObjectName(Part(part), state, register, parse_digest(parts[3]))
    if part in _SPREAD and len(parts) == 5 and parts[3] == parts[4][:2]:
        return ObjectName(Part(part), state, register, parse_digest(parts[4]))
    place = _PLACE.match(parts[3]) if len(parts) > 4 else None
    if place is None or part not in ("ledger", "feed"):
        raise _unknown(key)
    prefix = "/".join(parts[:4]) + "/"
    at = ObjectName(Part.HEAD, state, register, None, prefix, Epoch(int(place[1])), place[2])
    return _in_feed(key, at) if part == "feed" else _in_log(key, at)


def _of_coded(key: Key, parts: list[str], state: Fingerprint) -> ObjectName:
    """What a coded site keeps at its members besides the state's own objects."""
    if len(parts) == 4 and parts[2] == parts[3][:2]:
        owner, _, shard = parts[3].partition("-")
        parse_digest(owner)
        return ObjectName(Part.SHARD, state, digest=parse_digest(shard))
    if len(parts) == 5 and (parts[2], parts[4]) == ("vote", "head"):
        parse_digest(parts[3])
        return ObjectName(Part.VOTE, state)
    raise _unknown(key)


def _in_feed(key: Key, at: ObjectName) -> ObjectName:
    rest = key[len(at.prefix) :]
    if rest == "head":
        return replace(at, part=Part.FEED_HEAD)
    return replace(at, part=Part.BATCH, digest=parse_digest(rest))


def _in_log(key: Key, at: ObjectName) -> ObjectName:
    rest = key[len(at.prefix) :]
    if rest == "checkpoint":
        return at
    if _COSIGNED.match(rest):
        return replace(at, part=Part.COSIGNED)
    if _TIMESTAMP.match(rest):
        return replace(at, part=Part.TIMESTAMP)
    if match := _STAGE.match(rest):
        return replace(at, part=Part.STAGE, number=_number(match[1], key))
    match = _TILE.match(rest)
    width = int(match[3] or TILE_WIDTH) if match else 0
    if match is None or (match[3] and width >= TILE_WIDTH):
        raise _unknown(key)
    number = _number(match[2], key)
    if match[1] == "entries":
        return replace(at, part=Part.BUNDLE, number=number, width=width)
    return replace(at, part=Part.TILE, number=number, level=int(match[1]), width=width)


def _number(text: str, key: Key) -> int:
    if text.count("/") >= _MAX_GROUPS:
        raise _unknown(key)
    number = int(text.replace("x", "").replace("/", ""))
    if number_path(number) != text:
        raise _unknown(key)
    return number


def _unknown(key: Key) -> MalformedError:
    return MalformedError(f"the layout of a site has no name like {key[:120]!r}", hint="Names stand in layout.md.")

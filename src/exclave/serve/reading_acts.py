"""What a published file is to a reader: an act's record, one of its texts, or something that belongs to it.

The folder of a gazette (page: docs/spec/reading-room.md)::

    acts/ID/act.json     the act's record; ID is one to four parts of letters, digits, ``-`` and ``_``
    acts/ID/v1.txt …     its texts, UTF-8
    acts/ID/anything     belongs to the act: maps, translations

Everything else is published too, but has no page. Nothing in here trusts a byte of what it reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Final

import msgspec

from exclave.errors import MalformedError

RECORD: Final = "act.json"
MAX_RECORD_BYTES: Final = 1 << 20
MAX_VERSIONS: Final = 9_999
_PATH = re.compile(r"acts/((?:[0-9A-Za-z][0-9A-Za-z_-]{0,39}/){0,3}[0-9A-Za-z][0-9A-Za-z_-]{0,39})/([^/]+)\Z")
_VERSION = re.compile(r"v([1-9][0-9]{0,3})\.txt\Z")
_RESERVED = re.compile(r"(?:v[0-9]+|p|index)\Z")
"""Parts of addresses of our own: an act called like them could not be told from a version."""
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}\Z")
_RIGHT_TO_LEFT: Final = frozenset({"ar", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"})
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a published path belongs: an act, and the name in its folder."""

    act: str
    name: str

    @property
    def version(self) -> int | None:
        """The number of the text that it is; None for everything else."""
        match = _VERSION.match(self.name)
        return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Act:
    """An act's record, as far as it is believed."""

    title: str
    language: str
    """A BCP 47 tag, or ``und``."""
    signed_by: str
    dates: dict[int, str]
    """By number of the text: the day, ``2019-03-01``."""

    @property
    def latest(self) -> int:
        return max(self.dates)


class _Version(msgspec.Struct):
    version: int
    date: str = ""


class _Record(msgspec.Struct):
    title: str
    versions: list[_Version]
    language: str = "und"
    signed_by: str = ""


def place_of(path: str) -> Place | None:
    """None for what belongs to no act."""
    match = _PATH.match(path)
    if match is None or any(_RESERVED.match(part) for part in match[1].split("/")):
        return None
    return Place(match[1], match[2])


def acts_among(paths: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(acts that can have a page, paths that will have no address) of everything that is published.

    An act needs its record and a text. Whether the record can be read is not looked at.
    """
    places = {path: place_of(path) for path in paths}
    recorded = {place.act for place in places.values() if place is not None and place.name == RECORD}
    acts = {place.act for place in places.values() if place is not None and place.version and place.act in recorded}
    others = (path for path, place in places.items() if place is None or place.act not in recorded)
    return tuple(sorted(acts)), tuple(sorted(others))


def parts_among(paths: Collection[str]) -> tuple[str, ...]:
    """What belongs to acts and is neither their record nor a text: attachments, and what was left lying in a folder."""
    places = ((path, place_of(path)) for path in paths)
    return tuple(sorted(path for path, p in places if p is not None and p.name != RECORD and p.version is None))


def parse_act(data: bytes) -> Act:
    """An ``act.json``. Raises ``MalformedError``; fields that are not known are passed over."""
    if len(data) > MAX_RECORD_BYTES:
        raise MalformedError("an act's record is too long")
    try:
        record = msgspec.json.decode(data, type=_Record)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedError(f"an act's record cannot be read: {error}") from error
    dates = {one.version: _day(one.date) for one in record.versions if 1 <= one.version <= MAX_VERSIONS}
    if not dates or not record.title.strip():
        raise MalformedError("an act's record has no title or no version")
    language = record.language if _LANGUAGE.match(record.language) else "und"
    return Act(one_line(record.title, 500), language, one_line(record.signed_by, 200), dates)


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return ""


def direction(language: str) -> str:
    """``rtl``, ``ltr``, or ``auto`` where the language is not known."""
    if language == "und":
        return "auto"
    return "rtl" if language.split("-", maxsplit=1)[0] in _RIGHT_TO_LEFT else "ltr"


def one_line(text: str, limit: int) -> str:
    """``text`` as a title: one line, shortened, with nothing hidden in it."""
    flat = " ".join(shown(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def shown(text: str) -> str:
    """``text`` with everything made visible that a browser would hide or that turns the order of what is read.

    A turned direction could make a reader see another number than the law has. The original file keeps every byte.
    """
    if text.isprintable():
        return text
    # Line by line: most have nothing to look at, and characters one by one cost more than the page around them.
    return "\n".join(line if line.isprintable() else _seen(line) for line in text.split("\n"))


def _seen(line: str) -> str:
    return "".join(c if _plain(c) else f"[U+{ord(c):04X}]" for c in line)


def _plain(char: str) -> bool:
    if char in "\t\u200c\u200d":  # joiners belong to the scripts of some languages
        return True
    return char not in _TURNS and unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph or a section of a text. ``heading`` may be empty."""

    heading: str
    lines: tuple[str, ...]
    anchor: str
    """``p3`` for § 3; empty if it has no number, or one that stood before."""


_SECTION = re.compile(r"§\s*([0-9]{1,4})\.?\s")


def blocks(text: str, title: str) -> list[Block]:
    """The text in blocks between empty lines; a first line that only repeats the title is left out."""
    found: list[Block] = []
    anchors: set[str] = set()
    for number, raw in enumerate(shown(text.replace("\r\n", "\n")).strip("\n").split("\n\n")):
        lines = [line for line in raw.split("\n") if line.strip()]
        if not lines or (number == 0 and len(lines) == 1 and one_line(lines[0], 500) == title):
            continue
        section = _SECTION.match(lines[0])
        anchor = f"p{section[1]}" if section else ""
        if anchor in anchors:
            anchor = ""
        anchors.add(anchor)
        found.append(Block(lines[0] if section else "", tuple(lines[1:] if section else lines), anchor))
    return found

"""A host reads all that it keeps for a state and compares it with its names: its own disk's faults, found by itself.

Most names are the SHA-256 of the object; what is named by its place is only read. Nothing is repaired here: the host
tells the state, whose own scrub brings right bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exclave.errors import IntegrityError, MalformedError, UnavailableError
from exclave.formats.objectname import parse_object_name
from exclave.ids import Digest, Key
from exclave.sites.coded_form import MAX_MEMBERS, descriptor_bytes, parse_descriptor
from exclave.sites.contract import ObjectStat, Readable, digest_of

MAX_TOLD = 100
"""Names of wrong objects that are kept."""


@dataclass(frozen=True, slots=True)
class HostScrub:
    """What one reading found."""

    objects: int
    bytes_read: int
    wrong: int
    """Objects that cannot be read, or whose bytes do not have the hash that they are named by."""
    names: tuple[Key, ...]
    """The first of those."""
    foreign: int
    """Objects that the layout has no name for."""


def _stands_for(site: Readable, stat: ObjectStat, expected: Digest) -> bool:
    """Whether it is a descriptor at a member of a coded site, of the object with that hash."""
    if stat.size_bytes > descriptor_bytes(MAX_MEMBERS):
        return False
    try:
        return parse_descriptor(site.get(stat.key, limit=descriptor_bytes(MAX_MEMBERS))).digest == expected
    except (IntegrityError, MalformedError, UnavailableError):
        return False


def scrub_host(site: Readable, pause: Callable[[int], None] = lambda size: None) -> HostScrub:
    """Reads everything at ``site`` once. ``pause`` is told the size of each object, and may wait or raise.

    ``UnavailableError`` if the site itself is gone.
    """
    objects = size = wrong = foreign = 0
    names: list[Key] = []
    for stat in site.list(""):
        objects += 1
        pause(stat.size_bytes)
        try:
            expected = parse_object_name(stat.key).digest
        except MalformedError:
            foreign += 1
            expected = None
        try:
            found = digest_of(site, stat.key)
        except (IntegrityError, UnavailableError) as error:
            if isinstance(error, UnavailableError) and next(iter(site.list("")), None) is None:
                raise
            bad = True
        else:
            size += found.size_bytes
            bad = expected is not None and found.digest != expected and not _stands_for(site, stat, expected)
        if bad:
            wrong += 1
            if len(names) < MAX_TOLD:
                names.append(stat.key)
    return HostScrub(objects, size, wrong, tuple(names), foreign)

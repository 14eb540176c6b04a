"""What a host takes as one of several members of a coded site: shards, descriptors in the place of objects, votes.

He does not know whether he is one. So all of it is bounded by what any writer may do here: a shard has the hash that it
is named by, a descriptor names the hash that its object has, and a vote for a head is let in only where that head
itself would be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from exclave.errors import CorruptObject, HeadMoved, IntegrityError, MalformedError, NotAuthorised
from exclave.formats.objectname import CUT, REPLACED, ObjectName, parse_object_name
from exclave.ids import Digest, Key, sha256
from exclave.sites.coded_form import MAX_MEMBERS, descriptor_bytes, parse_descriptor, vote_key
from exclave.sites.coded_votes import MAX_STEP, NEVER, Vote, parse_vote
from exclave.sites.contract import Site

_FURTHEST = 1 << 40
"""A member that is new here meets counters of years; beyond, nobody takes more than one step at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A write as it is asked about. ``data`` is None while it has not come, and of large objects."""

    key: Key
    digest: Digest
    size_bytes: int
    data: bytes | None


class HeadGuard(Protocol):
    """Says whether a head may stand here."""

    def check_head(self, wanted: Wanted, expected: str | None) -> None:
        """Raises if not."""


def is_descriptor(name: ObjectName, wanted: Wanted) -> bool:
    """Whether what is to stand under a name that is a hash may be, or is, the descriptor of the object of that hash."""
    if name.part not in CUT or not descriptor_bytes(3) <= wanted.size_bytes <= descriptor_bytes(MAX_MEMBERS):
        return False
    if wanted.data is None:
        return True  # it is asked again when the bytes are here
    try:
        return parse_descriptor(wanted.data).digest == name.digest
    except MalformedError:
        return False


def require_spoilt(site: Site, key: Key, digest: Digest) -> None:
    """A descriptor is to stand in the place of wrong bytes: ``NotAuthorised`` if what is there is the object itself, or
    a descriptor of it."""
    try:
        there = site.get(key)
        right = sha256(there) == digest or parse_descriptor(there).digest == digest
    except (IntegrityError, MalformedError):
        return
    if right:
        raise NotAuthorised(f"{key} is not spoilt: nothing replaces it")


def check_vote(heads: HeadGuard, site: Site, wanted: Wanted, expected: str | None) -> None:
    """``MalformedError``, ``NotAuthorised``, or as ``check_head`` for the head that the vote is for."""
    if wanted.data is None:
        return
    vote = parse_vote(wanted.data)
    if vote_key(vote.key) != wanted.key:
        raise NotAuthorised(f"a vote about {vote.key} does not stand under {wanted.key}")
    shown = site.read_head(wanted.key)
    if (shown.tag if shown else None) != expected:
        raise HeadMoved(f"{wanted.key} is no longer what it was when it was read", key=wanted.key)
    before = Vote(vote.key) if shown is None else _former(shown.data, vote.key)
    furthest = max(before.promised.counter + MAX_STEP + 1, _FURTHEST)
    if vote.promised < before.promised or vote.promised.counter > furthest:
        raise NotAuthorised(f"a vote about {vote.key} goes back, or too far ahead at once")
    name = parse_object_name(vote.key)
    if vote.accepted == NEVER:
        return
    if name.part not in REPLACED or vote.digest == before.digest:
        return  # who is first under a name; its bytes are looked at when they are put there
    if vote.value is None:
        raise NotAuthorised(f"a head of {vote.key} is longer than this host takes")
    there = site.read_head(vote.key)
    if there is None or there.data != vote.value:
        head = Wanted(vote.key, sha256(vote.value), len(vote.value), vote.value)
        heads.check_head(head, there.tag if there else None)


def _former(data: bytes, key: Key) -> Vote:
    try:
        return parse_vote(data)
    except MalformedError as error:
        raise CorruptObject(f"the vote about {key} that stands here is no vote") from error

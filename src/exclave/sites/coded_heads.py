"""Replaces and reads what is decided by the members' votes: heads, and who was first under a name.

One change: (1) every member's vote is read · (2) a ballot above them is promised by ``need`` members · (3) what may be
decided already is taken over; if that is not what the caller expects, it is confirmed, and the caller hears of it ·
(4) ``need`` members accept. A process that dies before (4) has changed nothing; in (4), some members have its value,
and the next change or ``settle`` either confirms it or passes it over, for everybody alike.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from exclave.errors import (
    CorruptObject,
    HeadMoved,
    IntegrityError,
    MalformedError,
    MissingObject,
    OutcomeUnknown,
    SiteUnavailable,
)
from exclave.ids import Key, sha256
from exclave.sites.coded_form import part_key, vote_key
from exclave.sites.coded_members import Members
from exclave.sites.coded_votes import MAX_INLINE_BYTES, Ballot, Quorum, Vote, accept, parse_vote, promise
from exclave.sites.contract import MAX_OBJECT_BYTES, Tagged

_TRIES = 20
_STEP_TRIES = 64
"""Of a vote at one member, which says each time that another has just written it."""
_STRIPES = 32


@dataclass(frozen=True, slots=True)
class Chance:
    """Where waiting and randomness come from."""

    sleep: Callable[[float], None]
    spread: Callable[[], float]
    """Random numbers from 0 to 1."""
    nonce: Callable[[], bytes]
    """16 random bytes."""


class Heads:
    """Safe for several threads and processes; ``k`` members must answer a reader."""

    def __init__(self, members: Members, quorum: Quorum, k: int, chance: Chance) -> None:
        self._members, self._quorum, self._k, self._chance = members, quorum, k, chance
        self._turns = [threading.Lock() for _ in range(_STRIPES)]

    def read(self, key: Key) -> Tagged | None:
        """The newest value that enough members vouch for, and its tag. Writes nothing, so what is being written may be
        shown or not."""
        asked = self._members.ask(partial(self._vote, key))
        self._members.wrong(asked, key)
        if len(asked.good) < self._k:
            raise self._members.unmet(self._k, asked, f"the vote about {key}")
        standing = self._quorum.standing(list(asked.good.values()))
        return None if standing is None else Tagged(self._value(standing), standing.digest.hex())

    def change(self, key: Key, data: bytes, expected: str | None) -> str:
        """Puts ``data`` in the place of the value with the tag ``expected`` (None: of none). Its tag.

        ``HeadMoved`` if another one stands there; ``OutcomeUnknown`` if too few members answered; ``SiteUnavailable``
        if nothing can have been done.
        """
        tag, tried = sha256(data).hex(), False
        with self._turns[hash(key) % _STRIPES]:
            for _ in self._tries():
                try:
                    begun = self._begin(key)
                except SiteUnavailable as error:
                    if tried:
                        raise _unknown(key) from error
                    raise
                if begun is None:
                    continue
                ballot, standing = begun
                now = None if standing is None else standing.digest.hex()
                if now == expected or (tried and now == tag):
                    tried = True
                    if self._accepted(key, ballot, data):
                        return tag
                elif standing is None or self._accepted(key, ballot, self._value(standing)):
                    if tried:  # somebody may have built upon it already
                        raise _unknown(key)
                    raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
        if tried:
            raise _unknown(key)
        raise SiteUnavailable(f"{key} keeps being written by others, or a member says so")

    def settle(self, key: Key, *, empty: frozenset[int] = frozenset()) -> Tagged | None:
        """Makes what stands there the vote of every member that answers. ``empty``: members known to be new."""
        for _ in self._tries():
            begun = self._begin(key, empty=empty)
            if begun is None:
                continue
            ballot, standing = begun
            if standing is None:
                return None
            value = self._value(standing)
            if self._accepted(key, ballot, value):
                return Tagged(value, standing.digest.hex())
        raise SiteUnavailable(f"{key} keeps being written by others, or a member says so")

    def votes(self, key: Key) -> dict[int, Vote]:
        """What each member that answers has voted."""
        return self._members.ask(partial(self._vote, key)).good

    def votes_of(self, at: int, key: Key) -> Vote:
        """What one member has voted."""
        return self._vote(key, at)

    # Steps

    def _tries(self) -> Iterator[None]:
        """Some, with growing pauses between them, so that writers who meet come apart."""
        yield
        for attempt in range(1, _TRIES):
            self._chance.sleep(self._chance.spread() * 0.01 * 2 ** min(attempt, 8))
            yield

    def _begin(self, key: Key, *, empty: frozenset[int] = frozenset()) -> tuple[Ballot, Vote | None] | None:
        """(1) to (3): a ballot that ``need`` promised, and what stood before. None if another writer is ahead."""
        members, need = self._members, self._quorum.need
        seen = members.ask(partial(self._vote, key))
        if len(seen.good) < need:
            members.wrong(seen, key)
            raise members.unmet(need, seen, f"the vote about {key}")
        ballot = Ballot(self._quorum.next_counter(list(seen.good.values())), self._chance.nonce())
        promised = members.ask(partial(self._step, key, lambda vote: promise(vote, ballot)), seen.good)
        given = {at: vote for at, vote in promised.good.items() if vote is not None}
        if len(given) < need:
            members.wrong(promised, key)
            if len(promised.good) < need:
                raise members.unmet(need, promised, f"the vote about {key}")
            return None
        lost = sum(at in empty for at in given)
        return ballot, self._quorum.standing(list(given.values()), empty=lost)

    def _accepted(self, key: Key, ballot: Ballot, value: bytes) -> bool:
        """(4). False if too few accepted it: another writer is ahead, or members went away."""
        members = self._members
        if len(value) > MAX_INLINE_BYTES:
            beside = part_key(key, sha256(value))
            # A restart finds bytes under their own hash that no vote names yet.
            put = members.ask(lambda at: members.sites[at].put_same(beside, value))
            if len(put.good) < self._quorum.need:
                raise members.unmet(self._quorum.need, put, f"the new value of {key}")
        asked = members.ask(partial(self._step, key, lambda vote: accept(vote, ballot, value)))
        members.wrong(asked, key)
        given = sum(vote is not None for vote in asked.good.values())
        if given < self._quorum.need and len(asked.good) < self._quorum.need:
            error = members.unmet(self._quorum.need, asked, f"the vote about {key}")
            if not isinstance(error, SiteUnavailable):
                raise error
        return given >= self._quorum.need

    def _step(self, key: Key, decide: Callable[[Vote], Vote | None], at: int) -> Vote | None:
        """One member's vote as ``decide`` makes it of the present one; None if a later ballot stands in the way.

        Of a promise the vote before it is returned with it: what it had accepted. A restart finds the former vote or
        the new one.
        """
        member, name = self._members.sites[at], vote_key(key)
        for _ in range(_STEP_TRIES):
            there = member.read_head(name)
            vote = Vote(key) if there is None else _parsed(there.data, key)
            new = decide(vote)
            if new is None or new == vote:
                return new
            try:
                member.replace_if(name, new.encode(), None if there is None else there.tag)
            except (HeadMoved, OutcomeUnknown):
                continue  # what stands there now says whether it was done
            return new
        raise SiteUnavailable(f"{member.address} says {_STEP_TRIES} times that {name} has moved, and does not take it")

    def _vote(self, key: Key, at: int) -> Vote:
        there = self._members.sites[at].read_head(vote_key(key))
        return Vote(key) if there is None else _parsed(there.data, key)

    def _value(self, vote: Vote) -> bytes:
        if vote.value is not None:
            return vote.value
        name = part_key(vote.key, vote.digest)

        def fetch(at: int) -> bytes:
            data = self._members.sites[at].get(name, limit=MAX_OBJECT_BYTES)
            if sha256(data) != vote.digest:
                raise CorruptObject("its bytes are not those that it is named by")
            return data

        asked = self._members.some(self._members.by_speed(), 1, fetch, enough=lambda found: bool(found.good))
        self._members.wrong(asked, vote.key)
        if asked.good:
            return next(iter(asked.good.values()))
        if all(isinstance(error, IntegrityError) for error in asked.bad.values()):
            raise MissingObject(f"the value of {vote.key} is at no member", key=vote.key)
        raise self._members.unmet(1, asked, f"the value of {vote.key}")


def _parsed(data: bytes, key: Key) -> Vote:
    try:
        vote = parse_vote(data)
    except MalformedError as error:
        raise CorruptObject(f"the vote about {key}: {error.message}") from error
    if vote.key != key:
        raise CorruptObject(f"the vote about {key} is about {vote.key}")
    return vote


def _unknown(key: Key) -> OutcomeUnknown:
    return OutcomeUnknown(f"{key} is not confirmed by enough members: it may count or not", key=key)

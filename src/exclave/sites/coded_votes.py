"""Who is first, and which head is the newest, by the votes of a coded site's members. Page: ``docs/spec/coded.md``.

Each member keeps one *vote* for each name that is decided: what it has promised and what it has accepted, replaced
only by compare-and-swap. Writers go by ballots as in Paxos with any writer proposing (CASPaxos, Rystsov 2018): promise,
take over what may be decided already, accept. Two sets of ``need`` members share ``2 need - n`` at least, so what is
accepted by ``need`` is seen by every later ballot. This module decides; ``coded_heads`` asks.

Vote, 96 bytes, the name, and the value, numbers big-endian::

    0   8   "EXCLVOT1"
    8   24  promised ballot: counter (8), nonce (16)
    32  24  accepted ballot; zeros: none yet
    56  32  SHA-256 of the accepted value; zeros: none yet
    88  2   bytes of the name
    90  2   0
    92  4   bytes of the value; 0xFFFFFFFF: it lies as a shard beside
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from exclave.errors import MalformedError
from exclave.ids import MAX_KEY_LENGTH, Digest, Key, parse_key, sha256

MAGIC = b"EXCLVOT1"
MAX_INLINE_BYTES = 60 << 10
"""A longer value is put as a shard, so that no vote is longer than a head may be."""
MAX_COUNTER = 1 << 62
MAX_STEP = 1 << 20
"""A ballot goes no further beyond what enough members have promised: no member drives the counters to their end."""
_HEAD = struct.Struct(">8sQ16sQ16s32sHHI")
_BESIDE = 0xFFFFFFFF
_ZEROS = Digest(bytes(32))


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """One attempt of one writer."""

    counter: int
    nonce: bytes
    """16 random bytes: no two attempts are the same."""


NEVER = Ballot(0, bytes(16))


@dataclass(frozen=True, slots=True)
class Vote:
    """What one member has promised and accepted about one name."""

    key: Key
    promised: Ballot = NEVER
    """It accepts nothing of an earlier ballot."""
    accepted: Ballot = NEVER
    digest: Digest = _ZEROS
    """SHA-256 of the value that it accepted last."""
    value: bytes | None = None
    """None if there is none, or if it lies as a shard."""

    def encode(self) -> bytes:
        name = self.key.encode()
        length = _BESIDE if self.value is None and self.accepted != NEVER else len(self.value or b"")
        head = _HEAD.pack(
            MAGIC, self.promised.counter, self.promised.nonce, self.accepted.counter, self.accepted.nonce, self.digest,
            len(name), 0, length,
        )  # fmt: skip
        return head + name + (self.value or b"")


def parse_vote(data: bytes) -> Vote:
    """Strict inverse of ``Vote.encode``. Raises ``MalformedError``."""
    if len(data) < _HEAD.size or data[: len(MAGIC)] != MAGIC:
        raise MalformedError("this is no vote about a name")
    _, p_counter, p_nonce, a_counter, a_nonce, digest, named, zero, length = _HEAD.unpack_from(data)
    promised, accepted = Ballot(p_counter, p_nonce), Ballot(a_counter, a_nonce)
    end = _HEAD.size + named
    value = None if length == _BESIDE else data[end:]
    none = accepted == NEVER
    if (
        zero
        or not 0 < named <= MAX_KEY_LENGTH
        or not 0 < promised.counter < MAX_COUNTER
        or accepted > promised
        or (not none and not accepted.counter)
        or len(data) != end + (0 if value is None else length)
        or len(value or b"") > MAX_INLINE_BYTES
        or (none and (value != b"" or digest != _ZEROS))
        or (not none and value is not None and sha256(value) != digest)
    ):
        raise MalformedError("a vote about a name has impossible numbers")
    try:
        key = parse_key(data[_HEAD.size : end].decode("ascii"))
    except UnicodeDecodeError as error:
        raise MalformedError("a vote is about no name of an object") from error
    return Vote(key, promised, accepted, Digest(digest), None if none else value)


@dataclass(frozen=True, slots=True)
class Quorum:
    """``need`` of ``n`` members. 2 ``need`` > ``n``."""

    n: int
    need: int

    @property
    def faulty(self) -> int:
        """So many members may have fallen back to former votes, or lost them, and no decision is forgotten."""
        return (2 * self.need - self.n) // 2

    @property
    def inventing(self) -> int:
        """So many may show votes that were never given, and none of those is taken for the newest; while all writes
        that began have also ended."""
        return 2 * self.need - self.n - self.faulty - 1

    def least(self, answers: int, empty: int = 0) -> int:
        """So many of the members that answer show at least what ``need`` took, though as many as may have fallen back,
        or lost it. ``empty``: so many seem to have lost it."""
        return max(1, answers + self.need - self.n - max(self.faulty, empty))

    def standing(self, votes: Sequence[Vote], *, empty: int = 0) -> Vote | None:
        """The newest accepted vote among those of the members that answer; None if nothing can have been decided.

        Left out is what too few members vouch for: of w members that accepted a value, all but the faulty ones that
        answer show that ballot or a later one. ``empty``: so many members seem to have lost their votes, as they have
        none; of a name that nobody ever wrote all but liars have none, so those who invent are outvoted here too.
        """
        accepted = sorted((v for v in votes if v.accepted != NEVER), key=lambda v: v.accepted, reverse=True)
        least = self.least(len(votes), empty)
        if empty:
            least = max(least, self.inventing + 1)
        for vote in accepted:
            at_least = [v for v in accepted if v.accepted >= vote.accepted]
            if len(at_least) >= least:
                same = [v.digest for v in accepted if v.accepted == vote.accepted]
                digest = max(same, key=same.count)
                return next(v for v in accepted if (v.accepted, v.digest) == (vote.accepted, digest))
        return None

    def next_counter(self, votes: Sequence[Vote]) -> int:
        """A counter above all that is promised, as far as that can be right."""
        counters = sorted((v.promised.counter for v in votes), reverse=True)
        vouched = counters[min(self.faulty, len(counters) - 1)] if counters else 0
        return 1 + max(c for c in (vouched, *counters) if c <= vouched + MAX_STEP)


def promise(vote: Vote, ballot: Ballot) -> Vote | None:
    """The vote with this promise; None if a later ballot has one."""
    return None if vote.promised > ballot else replace(vote, promised=ballot)


def accept(vote: Vote, ballot: Ballot, value: bytes) -> Vote | None:
    """The vote for ``value``; None if a later ballot has a promise."""
    if vote.promised > ballot:
        return None
    return Vote(vote.key, ballot, ballot, sha256(value), value if len(value) <= MAX_INLINE_BYTES else None)

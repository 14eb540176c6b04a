"""A site made of n others, any k of which give everything back; no single one holds the whole of an object that is cut.

A write counts once ``need`` members hold it: shards first, then the descriptor (or the small object itself) at those
who have their shard. Members that are away are passed over and named in ``lacking``; ``mend`` brings them what they
lack. Heads, and who was first under a name, are decided by votes (``coded_heads``), so it does not matter which
members answer. Reads ask k members, and others when a shard is wrong or late.

A member that shows other bytes than its shard's name says is left out and named in ``faults``. Page:
``docs/spec/coded.md``.
"""

from __future__ import annotations

import heapq
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import groupby
from urllib.parse import quote

from exclave.errors import (
    AlreadyExists,
    Bug,
    ConfigError,
    CorruptObject,
    ExclaveError,
    HeadMoved,
    IntegrityError,
    MalformedError,
    MissingObject,
    OutcomeUnknown,
    SiteUnavailable,
    UnavailableError,
)
from exclave.ids import Digest, Key, sha256
from exclave.sites.coded_form import (
    MAGIC,
    PARTS,
    WHOLE_BYTES,
    Code,
    Descriptor,
    descriptor_bytes,
    is_own,
    most_shown,
    named_digest,
    parse_descriptor,
    part_key,
)
from exclave.sites.coded_heads import Chance, Heads
from exclave.sites.coded_members import Asked, Members
from exclave.sites.coded_votes import Quorum
from exclave.sites.contract import (
    MAX_HEAD_BYTES,
    MAX_OBJECT_BYTES,
    ObjectStat,
    Site,
    Tagged,
    check_prefix,
    check_range,
    check_write,
)
from exclave.sites.locking import is_head

LATE_S = 3.0
"""So long a read waits for a member before it asks another one too."""
_CARRY_TRIES = 64


def usual_need(k: int, n: int) -> int:
    """More than k, so that a write survives the loss of any one that holds it; and so many that a member which has
    fallen back to a former state forgets no decision."""
    return max(k + 1, (n + 1) // 2 + 1)


def least_need(k: int, n: int) -> int:
    """More than k (of n = k + 1 members: k), and more than half."""
    return max(k if n == k + 1 else k + 1, n // 2 + 1)


class CodedSite:
    """``members`` in the order of the address; ``k`` of them are enough to read, ``need`` to write."""

    def __init__(
        self,
        members: Sequence[Site],
        k: int,
        need: int | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = random.random,
        nonce: Callable[[], bytes] = lambda: os.urandom(16),
        late_s: float = LATE_S,
        executors: Sequence[Executor] | None = None,
    ) -> None:
        """``ConfigError`` for impossible numbers."""
        n = len(members)
        self._code = Code(k, n)
        self.k, self.need = k, usual_need(k, n) if need is None else need
        if not least_need(k, n) <= self.need <= n:
            raise ConfigError(f"of {n} members with {k} to read, {least_need(k, n)} to {n} can be needed to write")
        self._asking = Members(members, clock=clock, late_s=late_s, executors=executors)
        self._quorum = Quorum(n, self.need)
        self._heads = Heads(self._asking, self._quorum, k, Chance(sleep, spread, nonce))
        self.faults = self._asking.faults

    @property
    def members(self) -> tuple[Site, ...]:
        return self._asking.sites

    @property
    def heads(self) -> Heads:
        return self._heads

    @property
    def lacking(self) -> dict[str, int]:
        """Members' addresses, and how many writes of this process counted although the member did not take them."""
        return {member.address: self._asking.lacking[at] for at, member in enumerate(self.members)}

    @property
    def address(self) -> str:
        need = "" if self.need == usual_need(self.k, len(self.members)) else f"need={self.need}&"
        return f"coded:{self.k}?{need}" + "&".join(f"member={quote(m.address, safe=':/')}" for m in self.members)

    # Reading

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        data = self._certain(key)
        if data is None:
            named = self.named(key)
            if named is None:
                raise MissingObject(f"{key} is not at {self.address}", key=key)
            plan = self.plan(key, named)
            if plan is not None and plan.size_bytes > limit:
                raise _too_long(key, plan.size_bytes, limit)
            data = named if plan is None else self._joined(key, plan)
        if len(data) > limit:
            raise _too_long(key, len(data), limit)
        return data

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        """Reads the whole object: only then can a lying member be told from an honest one."""
        check_range(offset, length)
        data = self.get(key)
        if offset + length > len(data):
            raise CorruptObject(f"{key} is too short: bytes {offset}+{length} are missing", key=key)
        return data[offset : offset + length]

    def stat(self, key: Key) -> ObjectStat | None:
        data = self.named(key)
        if data is None:
            return None
        plan = self.plan(key, data)
        return ObjectStat(key, len(data) if plan is None else plan.size_bytes)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Each object that is cut costs small reads for its size. One of which nobody shows what can be right has some
        member's size."""
        check_prefix(prefix)
        if prefix and is_own(prefix):
            return
        shortest, silent = descriptor_bytes(len(self.members)), deque[UnavailableError | IntegrityError]()
        named = heapq.merge(*(self._listing(member, prefix, silent) for member in self.members), key=_key_of)
        for key, shown in groupby(named, key=_key_of):
            lengths = {item.size_bytes for item in shown}
            if is_own(key):
                continue
            stat = ObjectStat(key, lengths.pop())
            if lengths or (stat.size_bytes == shortest and named_digest(key)):
                try:
                    found = self.stat(key)
                except IntegrityError:  # whoever reads it hears why; one member's nonsense ends no listing
                    found = stat
                if found is None:
                    continue
                stat = found
            yield stat
        if len(silent) > len(self.members) - self.k:
            raise silent[0]

    def read_head(self, key: Key) -> Tagged | None:
        return self._heads.read(key)

    # Writing

    def put_new(self, key: Key, data: bytes) -> None:
        """The members' votes decide who is first; a restart finds who it is, and ends what he began."""
        self._check(key)
        check_write(data)
        if self._taken(key):
            raise AlreadyExists(f"{key} is already at {self.address}", key=key)
        named, holders = self._prepare(key, data)
        try:
            self._heads.change(key, named, None)
        except HeadMoved:
            first = self._heads.read(key)
            if first is not None:
                self._place(key, first.data, range(len(self.members)))
            raise AlreadyExists(f"{key} is already at {self.address}", key=key) from None
        try:
            self._place(key, named, holders)
        except UnavailableError as error:
            raise OutcomeUnknown(f"{key} is not at enough members yet: {error.message}", key=key) from error

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self._check(key)
        check_write(data)
        self._place(key, *self._prepare(key, data))

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        self._check(key)
        check_write(data, limit=MAX_HEAD_BYTES)
        tag = self._heads.change(key, data, expected)
        # Decided above. What follows is for those who read a member by itself: a restart finds the former head there.
        self._carry_all(key, data)
        return tag

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        self._check(key)
        check_write(data)
        try:
            there: bytes | None = self.get(key)
        except MissingObject:
            raise HeadMoved(f"{key} is gone", key=key) from None
        except IntegrityError:
            there = None
        if there != data and (None if there is None else sha256(there)) != spoilt:
            raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
        named, shards = self.cut(key, data)
        asked = self._asking.ask(lambda at: self.put_right(at, key, named, shards))
        if len(asked.good) < self.need:
            raise self._asking.unmet(self.need, asked, key)

    # Parts of it, for mending

    def named(self, key: Key) -> bytes | None:
        """What stands under ``key``: the object, or its descriptor. None if all that answer, k at least, have none."""
        if is_head(key):
            head = self._heads.read(key)
            return None if head is None else head.data
        asked = self._asking.some(
            self._asking.by_speed(), len(self.members) // 2 + 1, partial(self._small, key), enough=self._decided
        )
        shown = self._shown(asked, key)
        return most_shown(shown) if shown else None

    def vouched(self, key: Key) -> bytes:
        """What stands under ``key``, for whoever puts it in the place of other bytes: all members are asked, k at least
        show it, and more than half of those that show anything. ``CorruptObject`` if not, ``MissingObject``."""
        asked = self._asking.ask(partial(self._small, key))
        shown = self._shown(asked, key)
        if not shown:
            raise MissingObject(f"{key} is not at {self.address}", key=key)
        named = most_shown(shown)
        alike = shown.count(named)
        if alike < self.k or 2 * alike <= len(shown):
            raise CorruptObject(
                f"{len(shown)} members show it, {alike} of them alike: it takes {self.k}, and more than half", key=key
            )
        plan = self.plan(key, named)
        return named if plan is None else self._joined(key, plan)

    def plan(self, key: Key, data: bytes) -> Descriptor | None:
        """The descriptor, if ``data`` is one. ``CorruptObject`` if it is one of other numbers."""
        if not data.startswith(MAGIC) or named_digest(key) is None:
            return None
        try:
            plan = parse_descriptor(data)
        except MalformedError as error:
            raise CorruptObject(f"{self.address}: {error.message}") from error
        if (plan.k, len(plan.shards)) != (self.k, len(self.members)):
            raise CorruptObject(
                f"this object was cut {plan.k} of {len(plan.shards)}, not {self.k} of {len(self.members)}"
            )
        return plan

    def cut(self, key: Key, data: bytes | memoryview) -> tuple[bytes, Sequence[bytes]]:
        """What stands under the object's name, and its shards if it is cut."""
        short = len(data) <= WHOLE_BYTES and bytes(data[: len(MAGIC)]) != MAGIC
        if short or named_digest(key) is None:
            return bytes(data), ()
        plan, shards = self._code.cut(data)
        return plan.encode(), shards

    def put_right(self, at: int, key: Key, named: bytes, shards: Sequence[bytes]) -> bool:
        """Puts at one member what it should hold of an object, in the place of wrong bytes if there are any; whether it
        had to. A restart finds the shard or not, and does the rest."""
        member = self.members[at]
        did = bool(shards) and _put_right(member, part_key(key, sha256(shards[at])), shards[at])
        return _put_right(member, key, named) or did

    def carry(self, key: Key, data: bytes, at: int) -> bool:
        """Gives one member the head that it voted for under its own name; whether it had to. A later one is left."""
        member = self.members[at]
        for _ in range(_CARRY_TRIES):
            there = member.read_head(key)
            if there is not None and there.data == data:
                return False
            vote = self._heads.votes_of(at, key)
            if vote.digest != sha256(data):
                return False
            try:
                member.replace_if(key, data, None if there is None else there.tag)
            except HeadMoved:
                continue
            return True
        raise SiteUnavailable(f"{member.address} says {_CARRY_TRIES} times that {key} has moved, and does not take it")

    # Steps

    def _taken(self, key: Key) -> bool:
        """Whether so many members show an object there as must, if it counts: a few that make one up, or hold what was
        never confirmed, are in nobody's way. Who is first of those who put now, votes decide."""
        if is_head(key):
            return self._heads.read(key) is not None
        asked = self._asking.ask(partial(self._small, key))
        shown = self._shown(asked, key)
        return bool(shown) and len(shown) >= self._quorum.least(len(asked.good))

    def _decided(self, found: Asked[bytes | None]) -> bool:
        """Whether no other bytes can still be shown by as many members. That there is nothing is believed of all only:
        a member may have been away."""
        counts = sorted(Counter(data for data in found.good.values() if data is not None).values())
        unasked = len(self.members) - len(found.good) - len(found.bad)
        return bool(counts) and counts[-1] > unasked + sum(counts[-2:-1])

    def _shown(self, asked: Asked[bytes | None], key: Key) -> Sequence[bytes]:
        """What members show, in their order. If nothing, k at least said so: else ``SiteUnavailable``."""
        self._asking.wrong(asked, key)
        shown = [data for _, data in sorted(asked.good.items()) if data is not None]
        unwell = sum(isinstance(error, IntegrityError) for error in asked.bad.values())
        if not shown and len(asked.good) + unwell < self.k:
            raise self._asking.unmet(self.k, asked, key)
        return shown

    def _check(self, key: Key) -> None:
        if is_own(key):
            raise Bug(f"{key}: names in {PARTS}/ are the coded site's own")

    def _prepare(self, key: Key, data: bytes | memoryview) -> tuple[bytes, Collection[int]]:
        """Shards at ``need`` members at least; what is to stand under the object's name, and who may count for it. A
        restart finds shards that nothing names, and puts the same."""
        named, shards = self.cut(key, data)
        if not shards:
            return named, range(len(self.members))
        asked = self._asking.ask(lambda at: self.members[at].put_same(part_key(key, sha256(shards[at])), shards[at]))
        if len(asked.good) < self.need:
            raise self._asking.unmet(self.need, asked, key)
        self._asking.wrong(asked, key)
        return named, asked.good.keys()

    def _place(self, key: Key, named: bytes, holders: Collection[int]) -> None:
        """The name itself, everywhere; only those of ``holders`` count, who have what it names. A restart finds it at
        some members: readers see it or not, and the same put settles it."""
        asked = self._asking.ask(lambda at: self.members[at].put_same(key, named))
        held = Asked({at: None for at in asked.good if at in holders}, asked.bad)
        if len(held.good) < self.need:
            raise self._asking.unmet(self.need, held, key)
        self._asking.wrong(asked, key)
        self._asking.count_lacking(at for at in range(len(self.members)) if at not in held.good)

    def _carry_all(self, key: Key, data: bytes) -> None:
        asked = self._asking.ask(partial(self.carry, key, data))
        self._asking.wrong(asked, key)
        self._asking.count_lacking(asked.bad)

    def _small(self, key: Key, at: int) -> bytes | None:
        # Nothing longer lies under such a name: a member that shows more would fill the memory n times over.
        limit = MAX_OBJECT_BYTES if named_digest(key) is None else WHOLE_BYTES
        try:
            return self.members[at].get(key, limit=limit)
        except MissingObject:
            return None

    def _certain(self, key: Key) -> bytes | None:
        """The object if its name is its SHA-256 and some member's answer leads to it; one answer is enough then."""
        digest = named_digest(key)
        if digest is None:
            return None
        order, tried = self._asking.by_speed(), set[bytes]()
        for count in (1, len(order)):
            asked = self._asking.some(
                order, count, partial(self._small, key),
                enough=lambda found: any(data not in tried and _leads(data, digest) for data in found.good.values()),
            )  # fmt: skip
            for at, data in asked.good.items():
                if data is None or data in tried:
                    continue
                tried.add(data)
                if not _leads(data, digest):
                    self._asking.fault(at, key, "what stands here is not what it is named by")
                    continue
                try:
                    plan = self.plan(key, data)
                    return data if plan is None else self._joined(key, plan)
                except IntegrityError as error:
                    self._asking.fault(at, key, error.message)
        return None

    def _joined(self, key: Key, plan: Descriptor) -> bytes:
        """From the first k shards that are right; those that hold the object's own bytes are asked first."""
        order = self._asking.by_speed()
        asked = self._asking.some(
            order, self.k, partial(self._shard, key, plan), enough=lambda found: len(found.good) >= self.k
        )
        for at, error in asked.bad.items():
            if isinstance(error, IntegrityError):
                self._asking.fault(at, key, f"shard {at}: {error.message}")
        if len(asked.good) < self.k:
            away = next((e for e in asked.bad.values() if not isinstance(e, IntegrityError)), None)
            if away is not None:
                raise SiteUnavailable(f"{len(asked.good)} of {self.k} shards of {key} can be read now") from away
            raise CorruptObject(f"only {len(asked.good)} of {self.k} shards of {key} are right", key=key)
        best = sorted(asked.good)[: self.k]
        return self._code.join(plan, {at: asked.good[at] for at in best})

    def _shard(self, key: Key, plan: Descriptor, at: int) -> bytes:
        name = plan.shards[at]
        data = self.members[at].get(part_key(key, name), limit=plan.length_of(at))
        if len(data) != plan.length_of(at) or sha256(data) != name:
            raise CorruptObject("its bytes are not those that it is named by")
        return data

    def _listing(
        self, member: Site, prefix: str, silent: deque[UnavailableError | IntegrityError]
    ) -> Iterator[ObjectStat]:
        try:
            yield from member.list(prefix)
        except (UnavailableError, IntegrityError) as error:
            silent.append(error)
            if len(silent) > len(self.members) - self.k:
                raise


def _leads(data: bytes | None, digest: Digest) -> bool:
    """Whether it is the object of that SHA-256, or a descriptor that says so: its shards will tell."""
    if data is None:
        return False
    try:
        return sha256(data) == digest or parse_descriptor(data).digest == digest
    except MalformedError:
        return False


def _too_long(key: Key, size: int, limit: int) -> CorruptObject:
    return CorruptObject(f"{key} is {size} bytes long; at most {limit} can be right", key=key)


def _key_of(stat: ObjectStat) -> Key:
    return stat.key


def _put_right(member: Site, key: Key, data: bytes) -> bool:
    """Puts ``data`` at one member, in the place of wrong bytes if there are any; whether it had to."""
    try:
        found: bytes | ExclaveError = member.get(key)
    except MissingObject:
        member.put_same(key, data)
        return True
    except IntegrityError as error:
        found = error
    if found == data:
        return False
    member.replace_spoilt(key, data, sha256(found) if isinstance(found, bytes) else None)
    return True

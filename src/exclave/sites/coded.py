"""A site made of n others, any k of which give everything back; no single one holds the whole of an object that is cut.

Order of writes: shards first, at all members; then the descriptor (or the small object itself) at the first member,
which decides who was first; then at the others. What is confirmed lies at *all* members, so one that is away stops
writes, never reads, until it is back, or replaced and filled by ``mend``. Heads are read and replaced at the first
member and carried to the others, which answer for them while it is away.

A member that shows other bytes than its shard's name says is left out and named in ``faults``. Page:
``docs/spec/coded.md``.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from urllib.parse import quote

from exclave.errors import (
    Bug,
    CorruptObject,
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
    most_shown,
    parse_descriptor,
    part_key,
)
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat, Site, Tagged, check_prefix, check_range, check_write

MAX_FAULTS = 1000
_TRIES = 64
"""Of a head at one member, which says each time that another has just written it."""


class CodedSite:
    """``members`` in the order of the address; ``k`` of them are enough to read."""

    def __init__(self, members: Sequence[Site], k: int) -> None:
        self.members = tuple(members)
        self._code = Code(k, len(self.members))
        self._k, self._n = k, len(self.members)
        self._pool = ThreadPoolExecutor(2 * self._n, thread_name_prefix="coded")
        self.faults: deque[str] = deque(maxlen=MAX_FAULTS)
        """Members that showed what cannot be right, and where; the newest last."""

    @property
    def address(self) -> str:
        return f"coded:{self._k}?" + "&".join(f"member={quote(m.address, safe=':/')}" for m in self.members)

    # Reading

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        data = self._small(key)
        if data is None:
            raise MissingObject(f"{key} is not at {self.address}", key=key)
        plan = self._plan(data)
        size = len(data) if plan is None else plan.size_bytes
        if size > limit:
            raise CorruptObject(f"{key} is {size} bytes long; at most {limit} can be right", key=key)
        return data if plan is None else self._joined(key, plan)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        """Reads the whole object: only then can a lying member be told from an honest one."""
        check_range(offset, length)
        data = self.get(key)
        if offset + length > len(data):
            raise CorruptObject(f"{key} is too short: bytes {offset}+{length} are missing", key=key)
        return data[offset : offset + length]

    def stat(self, key: Key) -> ObjectStat | None:
        data = self._small(key)
        if data is None:
            return None
        plan = self._plan(data)
        return ObjectStat(key, len(data) if plan is None else plan.size_bytes)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Each object that is cut costs one small read for its size."""
        check_prefix(prefix)
        if prefix.startswith(PARTS):
            return
        silent: deque[UnavailableError] = deque()
        named = heapq.merge(*(self._listing(member, prefix, silent) for member in self.members), key=_key_of)
        for key, shown in groupby(named, key=_key_of):
            lengths = {item.size_bytes for item in shown}
            if key.startswith(PARTS):
                continue
            stat = ObjectStat(key, lengths.pop())
            if lengths or stat.size_bytes == descriptor_bytes(self._n):
                found = self.stat(key)
                if found is None:
                    continue
                stat = found
            yield stat
        if len(silent) > self._n - self._k:
            raise silent[0]

    def read_head(self, key: Key) -> Tagged | None:
        return self.members[0].read_head(key)

    # Writing

    def put_new(self, key: Key, data: bytes) -> None:
        named = self._prepare(key, data)
        self.members[0].put_new(key, named)  # this decides
        try:
            self._everywhere(lambda member: member.put_same(key, named), self.members[1:])
        except UnavailableError as error:
            raise OutcomeUnknown(f"{key} is not at every member yet: {error.message}", key=key) from error

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        named = self._prepare(key, data)
        self.members[0].put_same(key, named)
        self._everywhere(lambda member: member.put_same(key, named), self.members[1:])

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        self._check(key)
        if data.startswith(MAGIC):
            raise Bug("a head that begins like a descriptor was to be written")
        tag = self.members[0].replace_if(key, data, expected)
        try:
            self._everywhere(lambda member: self._carry(member, key, data), self.members[1:])
        except UnavailableError as error:
            raise OutcomeUnknown(f"{key} is not at every member yet: {error.message}", key=key) from error
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
        named, shards = self._cut(data)
        for member, shard in zip(self.members, shards, strict=False):
            _put_right(member, part_key(sha256(shard)), shard)
        for member in self.members:
            _put_right(member, key, named)

    def mend(self, is_head: Callable[[Key], bool], prefix: str = "") -> Iterator[tuple[Key, str]]:
        """Brings every member what it lacks or has wrong, from the others; (object, member) for each that was.

        ``is_head``: which names are replaced, and so are never put as write-once ones. ``IntegrityError`` at an object
        of which fewer than k shards are left. May be repeated: a restart finds what was brought, and brings the rest.
        """
        for stat in self.list(prefix):
            data = self.get(stat.key)
            if is_head(stat.key):
                yield from ((stat.key, m.address) for m in self.members if _put_head(m, stat.key, data))
                continue
            named, shards = self._cut(data)
            for index, member in enumerate(self.members):
                did = bool(shards) and _put_right(member, part_key(sha256(shards[index])), shards[index])
                if _put_right(member, stat.key, named) or did:
                    yield stat.key, member.address

    # Parts

    def _check(self, key: Key) -> None:
        if key.startswith(PARTS):
            raise Bug(f"{key}: names below {PARTS} are the coded site's own")

    def _cut(self, data: bytes | memoryview) -> tuple[bytes, Sequence[bytes]]:
        """What stands under the object's name, and its shards if it is cut."""
        if len(data) <= WHOLE_BYTES and bytes(data[: len(MAGIC)]) != MAGIC:
            return bytes(data), ()
        plan, shards = self._code.cut(data)
        return plan.encode(), shards

    def _prepare(self, key: Key, data: bytes | memoryview) -> bytes:
        """Shards at all members; what is to stand under the object's name. A restart finds them, and puts the same."""
        self._check(key)
        check_write(data)
        named, shards = self._cut(data)
        if shards:
            parts = {id(member): shard for member, shard in zip(self.members, shards, strict=True)}
            self._everywhere(lambda m: m.put_same(part_key(sha256(parts[id(m)])), parts[id(m)]), self.members)
        return named

    def _everywhere(self, call: Callable[[Site], None], members: Sequence[Site]) -> None:
        for done in [self._pool.submit(call, member) for member in members]:
            done.result()

    def _carry(self, member: Site, key: Key, data: bytes) -> None:
        """The head that the first member has now; another writer's later one is left alone."""
        for _ in range(_TRIES):
            there = member.read_head(key)
            now = self.members[0].read_head(key)
            if now is None or now.data != data or (there is not None and there.data == data):
                return
            try:
                member.replace_if(key, data, there.tag if there is not None else None)
            except HeadMoved:
                continue
            return
        raise SiteUnavailable(f"{member.address} says {_TRIES} times that {key} has moved, and does not take it")

    def _small(self, key: Key) -> bytes | None:
        """What most members show under ``key``; None if all that answer, k at least, have nothing."""
        # Nothing longer lies under such a name: a member that shows more would fill the memory n times over.
        found = [self._pool.submit(_try, member, key, WHOLE_BYTES) for member in self.members]
        shown, silent = [], []
        for member, one in zip(self.members, found, strict=True):
            result = one.result()
            if isinstance(result, bytes):
                shown.append(result)
            elif isinstance(result, UnavailableError):
                silent.append(result)
            elif isinstance(result, IntegrityError) and not isinstance(result, MissingObject):
                self.faults.append(f"{member.address}: {key}: {result.message}")
        if shown:
            return most_shown(shown)
        if len(silent) > self._n - self._k:
            raise silent[0]
        return None

    def _plan(self, data: bytes) -> Descriptor | None:
        if not data.startswith(MAGIC):
            return None
        try:
            plan = parse_descriptor(data)
        except MalformedError as error:
            raise CorruptObject(f"{self.address}: {error.message}") from error
        if (plan.k, len(plan.shards)) != (self._k, self._n):
            raise CorruptObject(f"this object was cut {plan.k} of {len(plan.shards)}, not {self._k} of {self._n}")
        return plan

    def _joined(self, key: Key, plan: Descriptor) -> bytes:
        """From the first k shards that are right; those that hold the object's own bytes are asked first."""
        good: dict[int, bytes] = {}
        silent: UnavailableError | None = None
        waiting = list(range(self._n))
        while waiting and len(good) < self._k:
            now, waiting = waiting[: self._k - len(good)], waiting[self._k - len(good) :]
            asked = [(at, self._pool.submit(self._shard, plan, at)) for at in now]
            for at, one in asked:
                try:
                    good[at] = one.result()
                except UnavailableError as error:
                    silent = error
                except IntegrityError as error:
                    self.faults.append(f"{self.members[at].address}: {key}: shard {at}: {error.message}")
        if len(good) < self._k:
            if silent is not None:
                raise SiteUnavailable(f"{len(good)} of {self._k} shards of {key} can be read now") from silent
            raise CorruptObject(f"only {len(good)} of {self._k} shards of {key} are right", key=key)
        return self._code.join(plan, good)

    def _shard(self, plan: Descriptor, index: int) -> bytes:
        name = plan.shards[index]
        data = self.members[index].get(part_key(name), limit=plan.length_of(index))
        if len(data) != plan.length_of(index) or sha256(data) != name:
            raise CorruptObject("its bytes are not those that it is named by")
        return data

    def _listing(self, member: Site, prefix: str, silent: deque[UnavailableError]) -> Iterator[ObjectStat]:
        try:
            yield from member.list(prefix)
        except UnavailableError as error:
            silent.append(error)
            if len(silent) > self._n - self._k:
                raise


def _key_of(stat: ObjectStat) -> Key:
    return stat.key


def _try(member: Site, key: Key, limit: int) -> bytes | IntegrityError | UnavailableError:
    try:
        return member.get(key, limit=limit)
    except (IntegrityError, UnavailableError) as error:
        return error


def _put_head(member: Site, key: Key, data: bytes) -> bool:
    """Gives a member that has no head the one that most show; one that has another is left to its writer."""
    if member.read_head(key) is not None:
        return False
    try:
        member.replace_if(key, data, None)
    except HeadMoved:
        return False
    return True


def _put_right(member: Site, key: Key, data: bytes) -> bool:
    """Puts ``data`` at one member, in the place of wrong bytes if there are any; whether it had to."""
    found = _try(member, key, MAX_OBJECT_BYTES)
    if isinstance(found, UnavailableError):
        raise found
    if found == data:
        return False
    if isinstance(found, MissingObject):
        member.put_same(key, data)
    else:
        member.replace_spoilt(key, data, sha256(found) if isinstance(found, bytes) else None)
    return True

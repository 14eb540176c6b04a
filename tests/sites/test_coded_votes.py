"""Votes of a coded site's members: whatever members answer, in whatever order steps come, wherever a writer dies, no
decision is forgotten and none is made twice."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.errors import ConfigError, HeadMoved, MalformedError, OutcomeUnknown, SiteUnavailable
from exclave.ids import Digest, Key, sha256
from exclave.sites.coded import CodedSite, least_need, usual_need
from exclave.sites.coded_form import vote_key
from exclave.sites.coded_heads import Chance, Heads
from exclave.sites.coded_members import Members
from exclave.sites.coded_votes import MAX_INLINE_BYTES, NEVER, Ballot, Quorum, Vote, accept, parse_vote, promise
from exclave.sites.contract import MAX_HEAD_BYTES, Tagged
from exclave.sites.memory import MemorySite
from support.hostile import PassThrough

HEAD = Key("state/ledger/checkpoint")
VOTE = vote_key(HEAD)
NUMBERS = [(3, 2), (3, 3), (4, 3), (5, 3), (5, 4), (6, 5)]


class Inline(Executor):
    """Does at once what it is given, so that the order of steps is the test's."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done


class Died(BaseException):
    """The writer's process ended here."""


class Stage:
    """Lets one of several writers do one step at a member at a time, as the plan says."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._turn: int | None = None
        self._waiting: set[int] = set()
        self._live: set[int] = set()
        self.dead: set[int] = set()

    def step(self, writer: int) -> None:
        """Waits for this writer's turn. ``Died`` if it never comes again."""
        with self._lock:
            self._waiting.add(writer)
            self._lock.notify_all()
            self._lock.wait_for(lambda: self._turn == writer or writer in self.dead)
            self._waiting.discard(writer)
            if writer in self.dead:
                raise Died
            self._turn = None

    def run(self, writers: list[Callable[[], None]], plan: Iterator[int | Callable[[], None]]) -> None:
        """``plan``: whose step comes next (a number of no live writer is passed over), or something to be done between
        steps. Then all that live go on to their ends, in turn."""
        threads = [threading.Thread(target=self._live_until_the_end, args=(n, w)) for n, w in enumerate(writers)]
        self._live = set(range(len(writers)))
        for thread in threads:
            thread.start()
        try:
            self._play(itertools.chain(plan, itertools.cycle(range(len(writers)))))
        finally:
            with self._lock:  # also where the plan broke off: nobody is left waiting
                self.dead |= self._live
                self._lock.notify_all()
            for thread in threads:
                thread.join()

    def _play(self, plan: Iterator[int | Callable[[], None]]) -> None:
        for act in plan:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting >= self._live and self._turn is None)
                if not self._live:
                    break
                if callable(act):
                    act()
                elif act in self._live and act not in self.dead:
                    self._turn = act
                self._lock.notify_all()
                if isinstance(act, int) and self._turn == act:
                    self._lock.wait_for(lambda act=act: self._turn != act)  # type: ignore[misc]

    def kill(self, writer: int) -> None:
        self.dead.add(writer)

    def _live_until_the_end(self, number: int, writer: Callable[[], None]) -> None:
        try:
            writer()
        except Died:
            pass
        finally:
            with self._lock:
                self._live.discard(number)
                self._waiting.discard(number)
                self._lock.notify_all()


class AtStep(PassThrough):
    """A member as one writer sees it: each call is a step; ``away`` members answer nothing."""

    def __init__(self, inner: Any, stage: Stage, writer: int, away: Callable[[], bool]) -> None:
        super().__init__(inner)
        self._stage, self._writer, self._away = stage, writer, away

    def _ask(self) -> None:
        self._stage.step(self._writer)
        if self._away():
            raise SiteUnavailable("away")

    def read_head(self, key: Key) -> Tagged | None:
        self._ask()
        return self.inner.read_head(key)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        self._ask()
        return self.inner.replace_if(key, data, expected)


@dataclass
class World:
    """Members, and what writers did to one head."""

    n: int
    need: int
    members: list[Any] = field(default_factory=list)
    done: list[tuple[bytes | None, bytes, str]] = field(default_factory=list)
    """What was expected, what was to be put, and how it ended: yes, no, unknown."""
    counter: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.members = [MemorySite(str(at)) for at in range(self.n)]

    def heads(self, members: list[Any]) -> Heads:
        asked = Members(members, clock=lambda: 0.0, late_s=1, executors=[Inline()] * self.n)
        chance = Chance(lambda seconds: None, lambda: 0.0, lambda: next(self.counter).to_bytes(16, "big"))
        return Heads(asked, Quorum(self.n, self.need), 1, chance)

    def write(self, heads: Heads, name: str, count: int) -> None:
        """A writer: reads, and puts its own value there, so often."""
        for number in range(count):
            value = f"{name}{number}".encode()
            try:
                there = heads.read(HEAD)
            except SiteUnavailable:
                return
            entry = (None if there is None else there.data, value)
            self.done.append((*entry, "unknown"))
            place = len(self.done) - 1
            try:
                heads.change(HEAD, value, None if there is None else there.tag)
                self.done[place] = (*entry, "yes")
            except HeadMoved:
                self.done[place] = (*entry, "no")
            except OutcomeUnknown:
                pass
            except SiteUnavailable:
                self.done[place] = (*entry, "no")

    def check(self) -> None:
        """The head that stands at the end came about through every confirmed change, one after the other, and through
        none that was refused."""
        last = self.heads(self.members).settle(HEAD)
        made = {new: expected for expected, new, _ in self.done}
        path, at = list[bytes](), None if last is None else last.data
        while at is not None:
            path.append(at)
            at = made[at]
        for _, value, ended in self.done:
            if ended != "unknown":
                assert (value in path) == (ended == "yes"), (path, self.done)
        for some in itertools.combinations(range(self.n), self.need):
            seen = self.heads([m if at in some else Silent(m) for at, m in enumerate(self.members)]).read(HEAD)
            if last is None:  # nothing was decided: what some member accepted is shown by some and not by others
                unknown = {value for _, value, ended in self.done if ended == "unknown"}
                assert seen is None or seen.data in unknown
            else:
                assert seen == last


class Silent(PassThrough):
    """Answers nothing."""

    def read_head(self, key: Key) -> Tagged | None:
        raise SiteUnavailable("away")

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        raise SiteUnavailable("away")


def play(world: World, away: list[set[int]], plan: Callable[[Stage], Iterator[int | Callable[[], None]]]) -> None:
    """Two writers, each with the members that it cannot reach (which the plan may change)."""
    stage = Stage()
    writers = list[Callable[[], None]]()
    for number, name in enumerate("ab"):
        seen = [
            AtStep(m, stage, number, lambda at=at, n=number: at in away[n])  # type: ignore[misc]
            for at, m in enumerate(world.members)
        ]
        writers.append(partial(world.write, world.heads(seen), name, 2))
    stage.run(writers, plan(stage))
    world.check()


@pytest.mark.parametrize("ends", ["goes on", "dies"])
@pytest.mark.parametrize(("n", "need", "away"), [(3, 2, (set(), set())), (3, 2, ({2}, {0})), (4, 3, ({3}, {0}))])
def test_every_place_where_one_writer_stops(n: int, need: int, away: tuple[set[int], set[int]], ends: str) -> None:
    """One writer stops after each of its steps, the other does each number of its own, then the first goes on or is
    dead: in every such order each change counts once or not at all."""
    steps = 10 * n
    for first, second in itertools.product(range(0, steps, 2), range(1, steps, 5)):

        def plan(stage: Stage, first: int = first, second: int = second) -> Iterator[int | Callable[[], None]]:
            yield from [0] * first
            yield from [1] * second
            if ends == "dies":
                yield lambda: stage.kill(0)

        play(World(n, need), [set(one) for one in away], plan)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_order_any_partition_any_death(data: st.DataObject) -> None:
    """Steps of two writers in any order, members that come and go for each of them, a writer that dies."""
    n, need = data.draw(st.sampled_from(NUMBERS))
    away: list[set[int]] = [set(), set()]

    def plan(stage: Stage) -> Iterator[int | Callable[[], None]]:
        act = st.tuples(st.sampled_from("abcd"), st.integers(0, n - 1), st.integers(1, 9))
        acts = data.draw(st.lists(act, max_size=25))
        for kind, at, count in acts:
            if kind in "ab":
                yield from ["ab".index(kind)] * count
            elif kind == "c":
                yield lambda at=at, count=count: away[count % 2].symmetric_difference_update({at})  # type: ignore[misc]
            elif count == 1:
                yield lambda at=at: stage.kill(at % 2)  # type: ignore[misc]

    play(World(n, need), away, plan)


def written(world: World, count: int = 3) -> Tagged:
    """So many changes that all members took."""
    world.write(world.heads(world.members), "w", count)
    head = world.heads(world.members).read(HEAD)
    assert head is not None
    return head


def fallen_back(world: World, count: int, keep: int) -> list[Any]:
    """The first ``count`` members as they were after ``keep`` changes; 0: empty."""
    former = World(world.n, world.need)
    if keep:
        written(former, keep)
    return [*former.members[:count], *world.members[count:]]


@pytest.mark.parametrize(("n", "need"), NUMBERS)
@pytest.mark.parametrize("keep", [0, 1])
def test_members_that_fell_back(n: int, need: int, keep: int) -> None:
    """As many members as may be faulty show a former head, or have lost all: readers and writers see the newest, even
    if it had reached ``need`` members only and those were among them."""
    faulty = Quorum(n, need).faulty
    world = World(n, need)
    written(world, 1)
    some = world.heads([*world.members[:need], *map(Silent, world.members[need:])])
    tag = some.change(HEAD, b"new", sha256(b"w0").hex())
    members = fallen_back(world, faulty, keep)
    for answering in itertools.combinations(range(n), need):
        seen = world.heads([m if at in answering else Silent(m) for at, m in enumerate(members)])
        assert seen.read(HEAD) == Tagged(b"new", tag)
        with pytest.raises(HeadMoved):
            seen.change(HEAD, b"other", sha256(b"w0").hex())
        assert seen.read(HEAD) == Tagged(b"new", tag)


class Inventor(PassThrough):
    """Shows a vote that nobody gave."""

    def read_head(self, key: Key) -> Tagged | None:
        shown = self.inner.read_head(key)
        if key != VOTE:
            return shown
        ballot = Ballot(1 << 61, b"\xff" * 16)
        return Tagged(accept(Vote(HEAD, ballot), ballot, b"made up").encode(), shown.tag if shown else "")


@pytest.mark.parametrize(("n", "need"), [(3, 3), (5, 4), (6, 5), (14, 11)])
def test_a_member_that_makes_up_votes(n: int, need: int) -> None:
    """Its head is not believed, and writers go on without it; the counters are not driven to their end."""
    world = World(n, need)
    head = written(world)
    assert Quorum(n, need).inventing >= 1
    members = [Inventor(world.members[0]), *world.members[1:]]
    assert world.heads(members).read(HEAD) == head
    if need < n:
        world.heads(members).change(HEAD, b"next", head.tag)
        assert world.heads(members).read(HEAD) == Tagged(b"next", sha256(b"next").hex())
    else:
        with pytest.raises(SiteUnavailable):
            world.heads(members).change(HEAD, b"next", head.tag)
        assert world.heads(members).read(HEAD) == head
    votes = [parse_vote(m.get(VOTE)) for m in world.members[1:]]
    assert all(vote.promised.counter < 1 << 30 for vote in votes)


def test_numbers() -> None:
    """Any two sets of ``need`` members meet; what is usual also stands one member that fell back."""
    for n in range(3, 17):
        for k in range(2, n):
            assert 2 * least_need(k, n) > n
            usual = usual_need(k, n)
            assert k < usual <= n
            assert Quorum(n, usual).faulty >= 1
            with pytest.raises(ConfigError):
                CodedSite([MemorySite(str(at)) for at in range(n)], k, least_need(k, n) - 1)


def test_large_heads() -> None:
    """A head of 64 KiB lies beside the vote, and comes back."""
    world = World(3, 2)
    heads = world.heads(world.members)
    for size in (MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, MAX_HEAD_BYTES):
        there = heads.read(HEAD)
        heads.change(HEAD, b"x" * size, there.tag if there else None)
        assert heads.read(HEAD) == Tagged(b"x" * size, sha256(b"x" * size).hex())
    without = world.heads([Silent(world.members[0]), *world.members[1:]])
    assert without.read(HEAD) == heads.read(HEAD)


def test_votes_on_the_wire() -> None:
    """What is encoded parses; whatever is changed in it is refused or is another vote in strict form."""
    one, two = Ballot(1, b"a" * 16), Ballot(2, b"b" * 16)
    promised = promise(Vote(HEAD), one)
    accepted = accept(Vote(HEAD, one), two, b"value")
    long = accept(Vote(HEAD), two, b"v" * (MAX_INLINE_BYTES + 1))
    empty = accept(Vote(HEAD), two, b"")
    for vote in (promised, accepted, long, empty):
        assert vote is not None
        data = vote.encode()
        assert parse_vote(data) == vote
        for at in range(len(data)):
            spoilt = bytearray(data)
            spoilt[at] ^= 0x80
            try:
                other = parse_vote(bytes(spoilt))
            except MalformedError:
                continue
            assert other != vote
            assert other.encode() == bytes(spoilt)
    assert accept(Vote(HEAD, two), one, b"late") is None
    assert promise(Vote(HEAD, two), one) is None
    assert accepted is not None
    for wrong in (
        b"", accepted.encode()[:-1], accepted.encode() + b"x", replace(accepted, promised=NEVER).encode(),
        replace(accepted, promised=one).encode(), replace(accepted, digest=Digest(bytes(32))).encode(),
        replace(accepted, key=Key("..")).encode(), replace(accepted, key=Key("é")).encode(),
    ):  # fmt: skip
        with pytest.raises(MalformedError):
            parse_vote(wrong)


VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "coded" / "vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["votes"], ids=lambda vector: vector["what"])
def test_vectors(vector: dict[str, Any]) -> None:
    """Votes are what they were, and stand where they stood."""
    data = bytes.fromhex(vector["vote"])
    vote = parse_vote(data)
    assert vote.encode() == data
    assert (vote.key, vote_key(vote.key)) == (vector["name"], vector["stands under"])
    assert (vote.promised.counter, vote.accepted.counter) == (vector["promised"], vector["accepted"])


@pytest.mark.parametrize("name", VECTORS["malformed votes"])
def test_malformed_votes(name: str) -> None:
    """Impossible votes are refused."""
    with pytest.raises(MalformedError):
        parse_vote(bytes.fromhex(VECTORS["malformed votes"][name]))

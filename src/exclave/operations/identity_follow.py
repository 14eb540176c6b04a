"""What a place of the identity services does every second: send the journal abroad, or follow it.

The place that decides sends; an embassy that stands by follows; home that is returning waits. All of it goes by what
the sites prove, read anew every few seconds. Each step is complete by itself, so a process may die anywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from exclave.crypto.hpke import SealingKey
from exclave.errors import ExclaveError, Forked, UnavailableError
from exclave.formats.journal import Head
from exclave.identity.contract import IdentityState
from exclave.identity.feed_batch import recipient_of
from exclave.identity.feed_read import read_tail
from exclave.identity.feed_write import FeedWriter, Pushed, recipients, recipients_of
from exclave.identity.sync import catch_up, rebuild
from exclave.ids import Digest, Epoch, Instant
from exclave.operations.home import make_folder, write_private
from exclave.operations.identity_authority import read_taken_up
from exclave.operations.identity_feed import Feed
from exclave.operations.identity_place import IdentityPlace
from exclave.operations.identity_takeup import after, last_entry, last_time
from exclave.rules.epochs import VerifiedEpoch
from exclave.verify.feeds import as_of, shown_heads

FEED_FILE = "feed-position"
SOURCES_S = 2.0
"""Between two looks at the files that CAs keep; only what changed is read."""


@dataclass(slots=True)
class FollowState:
    """What operators and metrics want to know."""

    pushed: Pushed | None = None
    followed: Head = field(default_factory=Head)
    problem: str = ""
    """What the last step met; empty: nothing."""
    steps: int = 0
    sources: dict[str, str] = field(default_factory=dict)
    """By issuer: what is wrong with its source, or how many stopped certificates it names no longer; empty: nothing."""


@dataclass(slots=True)
class Follower:
    """One place's own. ``step`` is for one thread, ``read_sources`` for one other: a site that does not answer must
    not delay what home's CAs decide here, nor a CA's server what is sent abroad."""

    place: IdentityPlace
    say: Callable[[str], None] = lambda text: None
    state: FollowState = field(default_factory=FollowState)
    feed: Feed | None = None
    """At home: what the CAs' software keeps."""
    _writer: FeedWriter | None = None
    _verified: Instant = Instant(0)

    def run(self, stop: threading.Event) -> None:
        """Steps until ``stop`` is set."""
        while not stop.is_set():
            self.step()
            stop.wait(self.place.config.poll_s)

    def step(self) -> None:
        """One step; what it meets is told and does not end the loop."""
        place, now = self.place, self.place.clock()
        try:
            if abs(now - self._verified) >= place.config.verify_s * 1_000_000 or place.watch.is_behind():
                place.watch.refresh()
                self._verified = now
            place.watch.remember()
            state = place.watch.now().state
            if state in (IdentityState.HOME, IdentityState.EXILE):
                self._push()
            elif state is IdentityState.STANDBY or place.watch.is_older:
                self._follow()
            self.keep_up()
        except ExclaveError as error:
            self._meet(error.message)
        else:
            self._meet(place.watch.problem)
        self.state.steps += 1

    def _meet(self, problem: str) -> None:
        if problem and problem != self.state.problem:
            self.say(problem)
        self.state.problem = problem

    def keep_up(self) -> None:
        """The store is a cache of the journal: one that knows something else is made anew."""
        try:
            self.state.followed = catch_up(self.place.journal, self.place.store)
        except ExclaveError as error:
            if isinstance(error, UnavailableError):
                raise
            self.say(f"the status store is made anew: {error.message}")
            self.state.followed = rebuild(self.place.journal, self.place.store)

    # The place that decides

    def read_sources(self) -> None:
        """Takes in what the CAs' software keeps, where this place decides; what cannot be read is told."""
        if self.feed is None:
            return
        if not self.place.authority().decides:
            self.feed.forget()  # what it remembers is compared with this journal, and another may take its place
            return
        try:
            reports = self.feed.once().sources
        except ExclaveError as error:  # it decides no more, or the disk is full
            self.say(f"the CAs' decisions cannot be entered: {error.message}")
            return
        for report in reports:
            told = report.problem or (f"{report.withdrawn_count} withdrawn" if report.withdrawn_count else "")
            if told and self.state.sources.get(report.source.label) != told:
                self.say(f"{report.source.label}: {told}")
            self.state.sources[report.source.label] = told

    def _push(self) -> None:
        place = self.place
        chain = place.watch.chain()
        if chain is None:
            return
        if self._writer is None or self._writer.epoch.digest != chain.newest.digest:
            self._writer = self._open_writer(chain.newest)
        now = place.clock()  # before the head is read: all that was decided before it is sent
        self.state.pushed = self._writer.push(place.sites, self._read_after, place.journal.head(), now)
        place.watch.note_as_of(now)

    def _open_writer(self, epoch: VerifiedEpoch) -> FeedWriter:
        place = self.place
        machines = {label: SealingKey(card.sealing) for label, card in place.standby_cards().items()}
        machines[place.label] = place.key.opening().public  # a journal that was lost here is read back from the sites
        return FeedWriter(
            place.state, epoch, place.key.signing(), recipients(SealingKey(epoch.note.opening), machines),
            self._start(epoch, {recipient_of(key) for key in machines.values()}), place.folder / "state" / FEED_FILE,
            write_private,
        )  # fmt: skip

    def _start(self, epoch: VerifiedEpoch, machines: set[Digest]) -> Head:
        """After which entry the feed of ``epoch`` begins: where the epoch was taken up, if the former feed that leads
        there reaches all ``machines``, or else before the first."""
        place, chain = self.place, self.place.watch.chain()
        taken = read_taken_up(place.folder)
        former = chain.find(Epoch(epoch.number - 1)) if chain is not None else None
        if taken is None or taken.epoch != epoch.number or former is None:
            return Head()
        start = Head(taken.number, Digest(taken.chain))
        for head in shown_heads(place.state, former, place.sites)[0].values():
            reaches = head.last is not None and head.head.number >= start.number
            if reaches and machines <= recipients_of(place.state, former, place.sites, head.last):  # type: ignore[arg-type]
                return start
        return Head()

    def _read_after(self, head: Head) -> Iterator[tuple[bytes, Head]]:
        return ((data, at) for _, data, at in self.place.journal.read_after(head))

    # An embassy that stands by

    def _follow(self) -> None:
        place = self.place
        heads = place.watch.look_at_feed(place.journal.head())
        chain = place.watch.chain()
        if heads is None or chain is None:
            return
        if heads.best is None:
            why = "; ".join(f"{site}: {problem}" for site, problem in heads.problems.items())
            raise UnavailableError(f"no site shows the identity feed of epoch {chain.newest.number} yet: {why}")
        have = place.journal.head()
        if heads.best.head.number <= have.number:
            if self._contradicts(chain.newest, have, heads.best.head):
                self._set_aside(chain.newest)
            return
        opening = place.key.opening()
        keys = {epoch.number: opening for epoch in chain.epochs}
        try:
            for entries in read_tail(place.state, chain, place.sites, keys, have, best=heads.best):
                have = place.journal.extend(entries, to=after(have, entries))
        except Forked:
            self._set_aside(chain.newest)
            return
        place.watch.note_as_of(as_of(heads, have))

    def _contradicts(self, newest: VerifiedEpoch, have: Head, best: Head) -> bool:
        """Whether the journal here, as long as the feed or longer, says what the newest writer's word excludes."""
        journal = self.place.journal
        if journal.at(best.number) != best:
            return True
        # It goes on from an entry at or before its head: what a former epoch has beyond that was cut off. The first
        # epoch goes on from none; its own feed may hold entries from before the charter, and sites show an old head.
        entry = last_entry(journal) if have.number > best.number and newest.number > 1 else None
        return entry is not None and entry.epoch < newest.number

    def _set_aside(self, epoch: VerifiedEpoch) -> None:
        """What this place entered while it had the authority, and the place after it never saw, is kept and told."""
        place = self.place
        entry = last_entry(place.journal)
        if entry is None or entry.epoch >= epoch.number:
            raise Forked(
                "the journal here and the feed cannot both be true",
                hint="Somebody with the writer's key showed two histories. Answer no more from here; tell the officer.",
            )
        aside = place.folder / f"journal-of-epoch-{entry.epoch}-{place.clock()}"
        (place.folder / "journal").rename(aside)
        make_folder(place.folder / "journal")
        place.watch.begin_anew()  # a part of the journal that is to come would be told as of a moment ago otherwise
        self.say(
            f"decisions of epoch {entry.epoch} in the journal here did not reach the place after it; they lie in"
            f" {aside}: have them entered there again"
        )


def begin(place: IdentityPlace) -> None:
    """What a process does before it answers: the store has all of the journal, and knows how recent that is."""
    Follower(place).keep_up()
    place.watch.note_as_of(last_time(place.journal))
    place.watch.refresh()

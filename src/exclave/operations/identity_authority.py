"""Who has the authority, as a place of the identity services sees it: read from the sites again and again.

The decision is ``rules.exile.stands``. What is asked at each request (``now``) only looks at what was read last, so it
never waits for a site.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from exclave.errors import Busy, ConfigError, ExclaveError, Forked, MalformedError, UnavailableError
from exclave.formats.card import Card
from exclave.formats.journal import Head
from exclave.identity.contract import Authority
from exclave.ids import Digest, Fingerprint, Instant, Label, RegisterId, parse_count
from exclave.operations.home import write_private
from exclave.rules.epochs import EpochChain, VerifiedEpoch
from exclave.rules.exile import Seen, stands
from exclave.sites.contract import Site
from exclave.verify.feeds import FeedHeads, as_of, read_heads
from exclave.verify.state import StateView, read_state

TAKEN_UP = "taken-up"
SEEN = "seen-epoch"
_COMPARE_S = 60
"""Between two looks whether the sites show entries of this place's own that its journal does not have."""


class TakenUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The epoch that a place has taken up by warrant, in ``state/taken-up``: it may decide in that epoch."""

    epoch: int
    number: int
    """The journal's entry that the epoch goes on from, with its chain."""
    chain: bytes
    warrant: bytes
    time: int


def read_taken_up(folder: Path) -> TakenUp | None:
    """None if this place has never taken anything up."""
    path = folder / "state" / TAKEN_UP
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=TakenUp)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise MalformedError(
            f"{path} is damaged",
            hint="Take the epoch up again: `exclave failover run` with the same warrant and --identity, another --dir.",
        ) from error


def has_taken_up(folder: Path, epoch: int) -> bool:
    """Whether this place has taken ``epoch`` up; one whose file is damaged may do it again."""
    try:
        taken = read_taken_up(folder)
    except MalformedError:
        return False
    return taken is not None and taken.epoch == epoch


def write_taken_up(folder: Path, taken: TakenUp) -> None:
    """Durable when it returns: from then on this place decides in that epoch."""
    write_private(folder / "state" / TAKEN_UP, msgspec.msgpack.encode(taken))


@dataclass(slots=True)
class AuthorityWatch:
    """Reads the sites when told to; answers from memory. Safe to ask from several threads, one refreshes."""

    place: Label
    home: bool
    me: Card
    folder: Path
    state: Fingerprint
    register: RegisterId
    sites: Mapping[Label, Site]
    lease_s: int
    clock: Callable[[], Instant]
    journal_has: Callable[[Head], bool]
    """Whether the journal here has that entry."""
    view: StateView | None = None
    problem: str = ""
    """Why the last reading failed; empty: it did not."""
    _seen: Seen | None = None
    _heads: FeedHeads | None = None
    _as_of: Instant = Instant(0)
    _taken: TakenUp | None = None
    _taken_mtime: int = -1
    _older: str = ""
    """The journal here is an older copy of what this place sent abroad itself; why that is known."""
    _compared: Instant = Instant(0)
    _forked: str = ""
    """The custodians granted one epoch to two places."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Reads all sites. If none answers, what was known stays, and grows old; if they show that an epoch was granted
        twice, nothing is decided here until a charter says which counts."""
        began = self.clock()
        try:
            view = read_state(self.sites, self.state)
            forks = [f.detail for f in view.findings if f.register == self.register and f.fault == Forked.code]
            self._forked = forks[0] if forks and self.register not in view.epochs else ""
            epoch, remembered = view.epoch_chain(self.register).newest, self._remembered()
            most = 2 * len(view.shown) > len(view.chain.newest.charter.sites)
        except ExclaveError as error:
            self.problem = error.message
            return
        verified = began if most else self._seen.verified if self._seen is not None else None
        # Only the first epoch has nothing before it.
        seen = Seen(epoch.writer.digest, epoch.number, epoch.warrant is None and epoch.number == 1, verified)
        if seen.writer == self.me.digest:
            self._compare(epoch, began)
        with self._lock:
            # An epoch that was seen once is not forgotten because a site hides it later, nor with this process.
            if self._seen is not None and self._seen.epoch > seen.epoch:
                seen = replace(self._seen, verified=verified)
            elif remembered > seen.epoch:
                self.view, seen = view, Seen(Digest(b""), remembered, False, verified)
            else:
                self.view = view
            self._seen, self.problem = seen, ""

    def _compare(self, epoch: VerifiedEpoch, now: Instant) -> None:
        """Whether the sites show entries that this place sent and does not have: it was restored from a backup then,
        and would decide and answer by what it knew at that time."""
        if not self._older and abs(now - self._compared) < _COMPARE_S * 1_000_000:
            return
        try:
            heads = read_heads(self.state, epoch, self.sites)
            lacking = [
                f"{s} shows entry {h.head.number}" for s, h in heads.by_site.items() if not self.journal_has(h.head)
            ]
        except (Busy, UnavailableError):
            return
        except ExclaveError as error:
            self._older = error.message
            return
        self._older = f"the journal here is an older copy: {lacking[0]} of the identity feed" if lacking else ""
        if heads.best is not None:
            self._compared = now

    @property
    def is_older(self) -> bool:
        """The sites show more of this place's own journal than there is here: it has to be read back first."""
        return bool(self._older)

    def remember(self) -> None:
        """Keeps the newest epoch that was seen, for the processes to come. Durable when it returns."""
        with self._lock:
            epoch = self._seen.epoch if self._seen is not None else 0
        if epoch > self._remembered():
            write_private(self.folder / "state" / SEEN, f"{epoch}\n".encode())

    def _remembered(self) -> int:
        path = self.folder / "state" / SEEN
        try:
            return parse_count(path.read_text("ascii").removesuffix("\n"), limit=2**32 - 1)
        except FileNotFoundError:
            return 0
        except (MalformedError, UnicodeError, OSError) as error:
            hint = "Remove it once you know from several sites who decides; nothing is decided here before."
            raise ConfigError(f"{path} is damaged or cannot be read", hint=hint) from error

    def is_behind(self) -> bool:
        """Whether this place has taken up an epoch that it has not seen at the sites yet: time to ``refresh``."""
        taken = self._taken_up()
        with self._lock:
            return taken is not None and self._seen is not None and taken.epoch > self._seen.epoch

    def look_at_feed(self, have: Head) -> FeedHeads | None:
        """What the sites show of the newest epoch's feed; sets up to when a journal that stands at ``have`` is
        complete. None before the first ``refresh``; ``Forked`` if the sites contradict each other."""
        view = self.view
        if view is None:
            return None
        heads = read_heads(self.state, view.epoch_chain(self.register).newest, self.sites, now=self.clock())
        self.note_as_of(as_of(heads, have))
        return heads

    def note_as_of(self, moment: Instant) -> None:
        """The journal here is complete up to ``moment``; never moves back. A moment that is still to come is told by a
        clock that is wrong: what is known now is known as of now."""
        with self._lock:
            self._as_of = max(self._as_of, Instant(min(moment, self.clock())))

    def begin_anew(self) -> None:
        """The journal here was put aside: nothing is known until another one has been read."""
        with self._lock:
            self._as_of = Instant(0)

    def chain(self) -> EpochChain | None:
        """The register's epochs as they were read last."""
        return self.view.epoch_chain(self.register) if self.view is not None else None

    def now(self) -> Authority:
        """What this place may say at this moment."""
        taken = self._taken_up()
        with self._lock:
            seen, moment = self._seen, self._as_of
        standing = stands(
            home=self.home, me=self.me.digest, seen=seen, taken_up=taken.epoch if taken else 0, now=self.clock(),
            lease_s=self.lease_s, doubt=self._forked or self._older,
        )  # fmt: skip
        return Authority(standing.state, self.place, standing.epoch, moment, standing.why)

    def _taken_up(self) -> TakenUp | None:
        """Read again when the file was replaced: another process of this place writes it."""
        try:
            mtime = os.stat(self.folder / "state" / TAKEN_UP).st_mtime_ns
        except FileNotFoundError:
            mtime = 0
        if mtime != self._taken_mtime:
            try:
                taken = read_taken_up(self.folder)
            except MalformedError:
                taken = None  # it says nothing, so nothing was taken up; who takes up the epoch again is told
            self._taken, self._taken_mtime = taken, mtime
        return self._taken

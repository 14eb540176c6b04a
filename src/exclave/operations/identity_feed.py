"""Feed: read what the CAs' software keeps, and enter what changed into the identity journal. Home only.

Each source by itself: one that fails is reported and holds up no other. What is entered is complete at any crash: the
next run finds the rest to be missing still.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from exclave.crypto.crl import MAX_CRL_BYTES
from exclave.errors import ExclaveError, NotAuthorised, SourceUnavailable
from exclave.formats.journal import Body, Confirmed
from exclave.identity.contract import Clock, JournalWriter, StatusStore
from exclave.identity.feeding.difference import compare
from exclave.identity.feeding.fetch import Stamp, fetch, files_at, new_client, open_file, read_file, stamp_file
from exclave.identity.feeding.lists import read_crl, read_delta
from exclave.identity.feeding.source import Reading, Source, SourceKind
from exclave.identity.feeding.table import read_table
from exclave.identity.index_txt import read_index
from exclave.identity.status_log import Held, Revoked, Serial, Stop, Unknown
from exclave.ids import Digest, Instant

MAX_SHOWN = 1000
_ORDER = {kind: place for place, kind in enumerate(SourceKind)}


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One source's part."""

    source: Source
    changed: int
    """Certificates for which something was entered."""
    as_of: Instant
    """What it is complete to, as entered; 0: nothing was confirmed this time."""
    withdrawn: tuple[Serial, ...]
    """Stopped in the journal and not (or no longer) by the source; the first 1000. People look at them."""
    withdrawn_count: int
    problem: str
    """Empty: it was read in full."""


@dataclass(frozen=True, slots=True)
class FeedReport:
    """All of them, in the order in which they were read."""

    sources: tuple[SourceReport, ...]


@dataclass(slots=True)
class _Followed:
    """What is remembered of a source between two runs; lost with the process, which then reads it in full again."""

    stamp: Stamp = field(default_factory=Stamp)
    reading: Reading | None = None
    number: int | None = None
    """Of the full CRL."""
    withdrawn: tuple[Serial, ...] = ()
    problem: str = ""
    """Of the last reading."""
    failure: str = ""
    """Why there was none since."""
    fetched: Instant = Instant(0)


@dataclass(slots=True)
class Feed:
    """Follows ``sources``; for one thread."""

    sources: tuple[Source, ...]
    store: StatusStore
    writer: JournalWriter
    clock: Clock
    client: httpx.Client = field(default_factory=new_client)
    monotonic: Callable[[], float] = time.monotonic
    _followed: dict[Source, _Followed] = field(default_factory=dict)
    _bases: dict[Digest, int] = field(default_factory=dict)
    """Numbers of the full CRLs that were entered, by issuer."""

    def once(self) -> FeedReport:
        """Reads each source and enters what changed. ``NotAuthorised`` if this place does not decide."""
        return FeedReport(tuple(self._step(source) for source in sorted(self.sources, key=lambda s: _ORDER[s.kind])))

    def forget(self) -> None:
        """Reads everything in full the next time; called when the journal was exchanged, as when home returns."""
        self._followed.clear()
        self._bases.clear()

    def _step(self, source: Source) -> SourceReport:
        followed = self._followed.setdefault(source, _Followed())
        changed, as_of, began = 0, Instant(0), self.clock()
        if not source.url or not 0 <= began - followed.fetched < source.fetch_every_s * 1_000_000:
            followed.fetched = began
            try:
                with _collector_paused():
                    changed, as_of = self._follow(source, followed, began)
                followed.failure = ""
            except NotAuthorised:
                raise
            except ExclaveError as error:
                followed.failure = error.message
        withdrawn, problem = followed.withdrawn, followed.failure or followed.problem
        return SourceReport(source, changed, as_of, withdrawn[:MAX_SHOWN], len(withdrawn), problem)

    def _follow(self, source: Source, followed: _Followed, began: Instant) -> tuple[int, Instant]:
        """(certificates changed, what was confirmed)"""
        reading, stamp = self._read(source, followed, began)
        bodies: list[Body] = []
        changed = 0
        if reading is not None:
            difference = compare(reading, self._known(reading), self._is_issued(source.issuer), followed.reading)
            bodies, changed = list(difference.bodies()), difference.count
            if reading.whole:
                followed.withdrawn = difference.withdrawn
        as_of = self._confirmed(source, reading, began, changed=bool(bodies))
        if as_of:
            following = reading.log.next_update if reading is not None else None
            bodies.append(Confirmed(source.issuer, as_of, following or 0))
        if bodies:
            self.writer.enter(bodies)
        # Only now: what could not be entered is read and compared again.
        followed.stamp = stamp
        if reading is not None:
            followed.reading = reading
            if source.kind is SourceKind.CRL:
                self._note_base(source.issuer, followed.number)
        return changed, as_of

    def _note_base(self, issuer: Digest, number: int | None) -> None:
        if number is None or self._bases.get(issuer) == number:
            return
        self._bases[issuer] = number
        for source, followed in self._followed.items():
            if source.kind is SourceKind.DELTA_CRL and source.issuer == issuer:
                followed.stamp = Stamp()  # it may stand on this one

    def _read(self, source: Source, followed: _Followed, began: Instant) -> tuple[Reading | None, Stamp]:
        """None: the same as last time."""
        if source.live:
            stamp = stamp_file(source.path, now=began)
            if stamp.text and stamp == followed.stamp:
                return None, stamp
            followed.problem = ""
            return _read_live(source, began), stamp
        if source.url:
            data, stamp = fetch(self.client, source.url, followed.stamp, limit=MAX_CRL_BYTES, monotonic=self.monotonic)
            return (None if data is None else self._list(source, followed, data, began)), stamp
        files = files_at(source.path)
        stamps = [stamp_file(path, now=began).text for path in files]
        stamp = Stamp(repr([*zip(files, stamps, strict=True)]) if all(stamps) else "")
        if stamp.text and stamp == followed.stamp:
            return None, stamp
        return self._dropped(source, followed, began), stamp

    def _dropped(self, source: Source, followed: _Followed, began: Instant) -> Reading:
        """The newest of the lists in a file or folder. One that cannot be read is told, and the newest other one counts
        as long as there is any."""
        best: tuple[Reading, _Followed] | None = None
        problems: list[ExclaveError] = []
        for path in files_at(source.path):
            noted = _Followed()
            try:
                reading = self._list(source, noted, read_file(path, limit=MAX_CRL_BYTES), began)
            except ExclaveError as error:
                problems.append(error)
                continue
            if best is None or reading.log.as_of > best[0].log.as_of:
                best = reading, noted
        if best is None:
            raise problems[0]
        followed.number, followed.problem = best[1].number, best[1].problem
        if problems:
            followed.problem = f"{len(problems)} of the files in {source.path} are refused: {problems[0].message}"
        return best[0]

    def _list(self, source: Source, followed: _Followed, data: bytes, began: Instant) -> Reading:
        if source.kind is SourceKind.CRL:
            reading, number = read_crl(data, source.certificate, now=began)
            followed.number, followed.problem = number, ""
            return reading
        base = self._bases.get(source.issuer)
        reading, followed.problem = read_delta(data, source.certificate, base=base, now=began)
        return reading

    def _known(self, reading: Reading) -> dict[Serial, Stop]:
        """What is stopped: all of it, or for a list of changes those that it names."""
        issuer = reading.log.issuer
        if reading.whole:
            return dict(self.store.stopped(issuer))
        named = [*reading.log.stopped, *reading.released]
        found = ((serial, self.store.status(issuer, serial)) for serial in named)
        return {serial: status for serial, status in found if isinstance(status, Revoked | Held)}

    def _is_issued(self, issuer: Digest) -> Callable[[Serial], bool]:
        return lambda serial: not isinstance(self.store.status(issuer, serial), Unknown)

    def _confirmed(self, source: Source, reading: Reading | None, began: Instant, *, changed: bool) -> Instant:
        """What to confirm now; 0: nothing, so that the journal does not grow without need."""
        known = next((info.as_of for info in self.store.issuers() if info.id == source.issuer), Instant(0))
        if known > began:
            known = Instant(0)  # entered by a clock that was ahead: what is read now takes its place
        if source.live:
            due = changed or began - known >= source.confirm_every_s * 1_000_000
            return began if due else Instant(0)
        if reading is None or not reading.confirms or reading.log.as_of <= known:
            return Instant(0)
        return reading.log.as_of


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A list makes hundreds of thousands of values and no cycles; to look through them again and again for any takes a
    third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_live(source: Source, began: Instant) -> Reading:
    """``index.txt`` or a table. ``SourceUnavailable`` if it was written to meanwhile: half of it would be confirmed."""
    with open(open_file(source.path), "rb") as file:
        before = os.fstat(file.fileno())
        if source.kind is SourceKind.CSV:
            reading = read_table(file, issuer=source.issuer, as_of=began)
        else:
            log = read_index(file, issuer=source.issuer, as_of=began)
            reading = Reading(log, valid_ends_holds=True)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise SourceUnavailable(f"{source.path} changed while it was read", hint="It is read again with the next run.")
    return reading

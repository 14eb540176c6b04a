"""What a reading says that the store does not know yet. Pure.

Only changes become entries. What a source no longer says is never taken back: it is *withdrawn*, for people to look at.
A hold ends only where the source says so: a delta's removeFromCRL, a CSV row, an ``index.txt`` that held it before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from exclave.formats.journal import MAX_SERIALS, Body, Issued, Released, Stopped, serial_bytes
from exclave.identity.feeding.source import Reading
from exclave.identity.status_log import Held, Serial, Stop, joined
from exclave.ids import Digest


@dataclass(frozen=True, slots=True)
class Difference:
    """What to enter for one issuer."""

    issuer: Digest
    issued: tuple[Serial, ...]
    stopped: tuple[tuple[Serial, Stop], ...]
    released: tuple[Serial, ...]
    withdrawn: tuple[Serial, ...]
    """Stopped here, and no longer (or never) by the source. They stay stopped."""

    def bodies(self) -> Iterator[Body]:
        """As entries: at most 20,000 serials in one."""
        yield from issued_bodies(self.issuer, self.issued)
        for serial, stop in self.stopped:
            yield stopped_body(self.issuer, serial, stop)
        for serial in self.released:
            yield Released(self.issuer, serial_bytes(serial))

    @property
    def count(self) -> int:
        """Certificates that change."""
        return len(self.issued) + len(self.stopped) + len(self.released)


def issued_bodies(issuer: Digest, serials: Iterable[Serial]) -> Iterator[Issued]:
    """Entries that say they are issued; ``serials`` differ."""
    listed = iter(sorted(map(serial_bytes, serials)))
    while chunk := tuple(islice(listed, MAX_SERIALS)):
        yield Issued(issuer, chunk)


def stopped_body(issuer: Digest, serial: Serial, stop: Stop) -> Stopped:
    """The entry for a revocation or hold."""
    reason = "certificateHold" if isinstance(stop, Held) else str(stop.reason)
    return Stopped(issuer, serial_bytes(serial), stop.time, reason)


def compare(
    reading: Reading, known: Mapping[Serial, Stop], is_issued: Callable[[Serial], bool], before: Reading | None
) -> Difference:
    """What ``reading`` says beyond ``known`` (at least those stopped ones that it names; all of them if it is whole).

    ``before``: the last reading of the same source that was entered, if this process made one.
    """
    said_before = before.log.stopped if before is not None else {}
    stopped = tuple(
        (serial, told)
        for serial, told in reading.log.stopped.items()
        if _is_news(known.get(serial), told, said_before.get(serial))
    )
    released = tuple(sorted(_ended(reading, known, said_before)))
    missing = known.keys() - reading.log.stopped.keys() - set(released) if reading.whole else ()
    return Difference(
        reading.log.issuer,
        _new_serials(reading, is_issued, before),
        stopped,
        released,
        # What was stopped after its time, it could not say.
        tuple(sorted(serial for serial in missing if known[serial].time <= reading.log.as_of)),
    )


def _is_news(known: Stop | None, told: Stop, told_before: Stop | None) -> bool:
    if known is None:
        # Released here since the source last said the same: it does not hold it anew.
        return not (isinstance(told, Held) and told == told_before)
    return known != told and joined(known, told) != known


def _ended(reading: Reading, known: Mapping[Serial, Stop], before: Mapping[Serial, Stop]) -> Iterator[Serial]:
    for serial, time in reading.released.items():
        held = known.get(serial)
        if isinstance(held, Held) and held.time <= time:
            yield serial
    if reading.valid_ends_holds:
        valid = reading.log.issued or frozenset()
        for serial, stop in before.items():
            ended = isinstance(stop, Held) and serial in valid and serial not in reading.log.stopped
            if ended and known.get(serial) == stop:  # another hold than the source's own stays
                yield serial


def _new_serials(reading: Reading, is_issued: Callable[[Serial], bool], before: Reading | None) -> tuple[Serial, ...]:
    issued = reading.log.issued
    if issued is None:
        return ()
    if before is not None and before.log.issued is not None:
        issued -= before.log.issued
    return tuple(serial for serial in issued if not is_issued(serial))

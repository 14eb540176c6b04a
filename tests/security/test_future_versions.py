"""A thief of the writer's key enters versions of days to come: the versions of those days keep their places."""

from __future__ import annotations

from dataclasses import replace

from exclave.formats.charter import DeletionRule, Keep
from exclave.ids import Epoch, parse_moment
from exclave.ids import Sequence as VersionNumber
from exclave.rules.retention import Made, decide
from support.custody import make_epoch, people, register_block, writer

BLOCK = register_block(make_epoch(people("anna"), 1, by=writer()).note)
RULE = replace(BLOCK, retention_days=0, keep=Keep(0, 0, 30), deletion=DeletionRule(60, 1))


def made(*times: str) -> list[Made]:
    return [Made(VersionNumber(n), Epoch(1), parse_moment(f"{time}T12:00Z"), 1) for n, time in enumerate(times, 1)]


def kept(versions: list[Made], now: str) -> list[int]:
    return [s.version.sequence for s in decide(versions, [(1, RULE)], parse_moment(f"{now}T12:00Z")) if s.kept]


def test_places_of_days_to_come_cannot_be_taken() -> None:
    """Versions dated to years ahead leave these to whoever is there when they come; what comes later takes no place."""
    forged = ("2027-01-01", "2028-01-01")
    honest = ("2026-11-27", "2027-01-05", "2028-01-05", "2028-06-01", "2029-01-01")
    assert kept(made("2026-11-26", *forged, *honest), "2032-01-01") == [1, 2, 3, 5, 6, 8]


def test_a_time_that_goes_back_takes_nothing_away() -> None:
    """Versions dated far back, entered between honest ones, can only make more of these stand for their years."""
    honest = ("2026-11-26", "2027-01-05", "2028-01-05", "2029-01-01")
    mixed = [time for honest_time in honest for time in (honest_time, "1990-01-01")]
    assert {1, 3, 5, 7} <= set(kept(made(*mixed, "2029-02-01"), "2032-01-01"))

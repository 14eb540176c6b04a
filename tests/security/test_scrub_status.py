"""What `status` says of scrubs cannot be made to look well by a day's patience, or by a date that is yet to come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from exclave.formats.scrubbed import KIND, ScrubLine
from exclave.ids import Label
from exclave.rules.scrub import LastRun, overdue
from exclave.verify.history import RegisterHistory
from exclave.verify.scrubs import last_scrubs, left_wrong

LUX = Label("lux")
EST = Label("est")


def _history(*lines: ScrubLine) -> RegisterHistory:
    facts = [SimpleNamespace(fact=SimpleNamespace(kind=KIND, say=(line.encode(),))) for line in lines]
    return cast(RegisterHistory, SimpleNamespace(facts=facts))


def _line(
    day: int, *, wrong: int = 0, repaired: int = 0, read: int = 20, packs: int = 500, site: Label = LUX
) -> ScrubLine:
    return ScrubLine(site, 30, day, day, read, packs, 1, wrong, repaired)


def test_damage_is_not_forgotten_the_next_day() -> None:
    """What was left wrong is told of though the next day's run, over other objects, found nothing."""
    history = _history(_line(990, wrong=2), _line(991), _line(992, wrong=1, repaired=1), _line(992, site=EST))
    assert last_scrubs(history, [LUX])[LUX].wrong == 1
    left = left_wrong(history, [LUX, EST])
    assert left == {LUX: _line(990, wrong=2)}
    said = overdue(LastRun(30, 992, 1, 1, left=2, left_on=990), promised=0, held_since=900, today=992)
    assert "left 2 objects" in said


def test_damage_ends_when_everything_was_read() -> None:
    """A run that read all and left nothing wrong ends it, and so do two whole periods."""
    assert left_wrong(_history(_line(990, wrong=2), _line(991, read=500, wrong=2, repaired=2)), [LUX]) == {}
    assert left_wrong(_history(_line(900, wrong=2), _line(961)), [LUX]) == {}
    assert left_wrong(_history(_line(900, wrong=2), _line(960)), [LUX]) != {}


def test_older_head_does_not_end_damage() -> None:
    """A site that shows a head of long ago for a day, all of whose few packs are right, has put nothing right."""
    assert left_wrong(_history(_line(990, wrong=2), _line(991, read=3, packs=3)), [LUX]) != {}


def test_scrub_of_the_future_does_not_silence_status() -> None:
    """A fact by a wrong clock, or by whoever had the writer's key once, does not keep a site from being overdue."""
    assert "yet to come" in overdue(LastRun(30, 800_000, 0, 0), promised=30, held_since=900, today=1000)
    assert overdue(LastRun(30, 1001, 0, 0), promised=30, held_since=900, today=1000) == ""

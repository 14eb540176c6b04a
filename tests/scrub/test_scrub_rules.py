"""Which part of a site is read when, what is told of it, and the text of that: decisions alone."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import MalformedError, UsageError
from exclave.formats.scrubbed import ScrubLine, parse_scrub_line, parse_scrub_report
from exclave.ids import Digest, Label, sha256
from exclave.rules.scrub import LastRun, Part, day_text, falls_due, order_secret, overdue, part_of, sample_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "scrubbed" / "vectors.json").read_text())
NAMES = [sha256(b"pack %d" % number) for number in range(2000)]
SECRET = order_secret(b"s" * 32, Label("lux"))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: f"{case['form']}-{case['name']}")
def test_vectors(case: dict[str, str]) -> None:
    """Good lines and reports come back as they were; all others are malformed."""
    parse = parse_scrub_line if case["form"] == "line" else parse_scrub_report
    if case["expect"] == "ok":
        assert parse(case["text"]).encode() == case["text"]
    else:
        with pytest.raises(MalformedError):
            parse(case["text"])


def test_days_as_the_page_says() -> None:
    """The day of a name is what the written rule gives, computed here by hand, and what the vectors keep."""
    seed, days = bytes.fromhex(VECTORS["seed"]), VECTORS["period"]
    secret = hmac.new(seed, b"exclave/scrub-order/v1\nlux", hashlib.sha256).digest()
    for one in VECTORS["due"]:
        name = bytes.fromhex(one["name"])
        wanted = []
        for period in (692, 693):
            key = hmac.new(secret, f"{days} {period}".encode(), hashlib.sha256).digest()
            place = int.from_bytes(hmac.new(key, name, hashlib.sha256).digest()[:8], "big") % days
            wanted.append(period * days + place)
        assert one["days"] == wanted
        due = [day for day in range(20_760, 20_820) if falls_due(Part(days, day, day), secret)(Digest(name))]
        assert due == wanted


@pytest.mark.parametrize("days", [1, 2, 7, 30])
def test_all_is_read_once_a_period(days: int) -> None:
    """One run a day reads each object exactly once in each period, in another order each time."""
    first = days * 700
    orders = []
    for period in range(2):
        read: Counter[bytes] = Counter()
        order = []
        for day in range(first + period * days, first + (period + 1) * days):
            part = part_of(days, day - 1, day)
            due = [name for name in NAMES if falls_due(part, SECRET)(name)]
            order.append(due)
            read.update(due)
        assert set(read.values()) == {1}
        assert len(read) == len(NAMES)
        orders.append(order)
    assert days == 1 or orders[0] != orders[1]


@given(st.lists(st.integers(1, 45), min_size=1, max_size=12), st.integers(2, 30), st.integers(0, 29))
def test_missed_days_are_caught_up(gaps: list[int], days: int, offset: int) -> None:
    """Whatever days are missed, what fell due since the last run has been read when a run ends."""
    today = days * 500 + offset
    last: int | None = None
    names = NAMES[:60]
    for gap in gaps:
        part = part_of(days, last, today)
        due = falls_due(part, SECRET)
        if last is not None:
            for day in range(last + 1, today + 1):
                fell = falls_due(Part(days, day, day), SECRET)
                assert all(due(name) for name in names if fell(name))
        last, today = today, today + gap


@pytest.mark.parametrize(
    ("days", "since", "today", "part"),
    [
        (30, None, 1000, Part(30, 1000, 1000)),
        (30, 999, 1000, Part(30, 1000, 1000)),
        (30, 1000, 1000, Part(30, 1001, 1000)),
        (30, 990, 1000, Part(30, 991, 1000)),
        (30, 971, 1000, Part(30, 972, 1000)),
        (30, 970, 1000, Part(30, 971, 1000, everything=True)),
        (30, 0, 1000, Part(30, 971, 1000, everything=True)),
        (30, 1001, 1000, Part(30, 1000, 1000)),
        (1, None, 1000, Part(1, 1000, 1000, everything=True)),
        (1, 999, 1000, Part(1, 1000, 1000, everything=True)),
        (1, 1000, 1000, Part(1, 1001, 1000, everything=True)),
    ],
)
def test_parts(days: int, since: int | None, today: int, part: Part) -> None:
    """What is due after which last run; a last run in the future does not count."""
    assert part_of(days, since, today) == part


@pytest.mark.parametrize("since", [None, 990, 999, 1000, 1001])
def test_everything_while_something_is_wrong(since: int | None) -> None:
    """Whatever was read before: after a run that left something wrong all is read."""
    part = part_of(30, since, 1000, left_wrong=True)
    assert part.everything
    assert all(falls_due(part, SECRET)(name) for name in NAMES)


def test_nothing_due_twice_a_day() -> None:
    """A second run of a day has no part, only its sample."""
    due = falls_due(part_of(30, 1000, 1000), SECRET)
    assert not any(due(name) for name in NAMES)


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_days_out_of_range(days: int) -> None:
    """A site cannot be read in no days, nor in more than ten years."""
    with pytest.raises(UsageError):
        part_of(days, None, 1000)


def test_order_needs_the_secret() -> None:
    """Two secrets, and two sites under one secret, give orders that agree no more than chance would."""
    part = Part(30, 1000, 1000)
    mine = {name for name in NAMES if falls_due(part, SECRET)(name)}
    for other in (order_secret(b"t" * 32, Label("lux")), order_secret(b"s" * 32, Label("fin"))):
        theirs = {name for name in NAMES if falls_due(part, other)(name)}
        assert 30 < len(theirs) < 110
        assert len(mine & theirs) < 15


def test_sample() -> None:
    """At least sixteen, one in two hundred of many, none twice, all if there are few."""
    assert len(set(sample_of(NAMES[:500], lambda n: n - 1))) == 16
    many = [sha256(b"%d" % number) for number in range(8000)]
    assert len(set(sample_of(many, lambda n: n // 2))) == 40
    assert sorted(sample_of(NAMES[:5], lambda n: 0)) == sorted(NAMES[:5])
    assert sample_of([], lambda n: 0) == []


@pytest.mark.parametrize(
    ("last", "promised", "held_since", "told"),
    [
        (None, 0, 900, ""),
        (None, 30, None, ""),
        (None, 30, 980, ""),
        (None, 30, 970, ""),
        (None, 30, 969, "never scrubbed"),
        (LastRun(30, 1000, 0, 0), 0, 900, ""),
        (LastRun(30, 970, 0, 0), 0, 900, ""),
        (LastRun(30, 969, 0, 0), 0, 900, "not scrubbed since"),
        (LastRun(30, 985, 0, 0), 14, 900, "not scrubbed since"),
        (LastRun(30, 969, 0, 0), 60, 900, ""),
        (LastRun(30, 1000, 3, 1), 0, 900, "left 2 objects"),
        (LastRun(30, 1000, 3, 3), 0, 900, ""),
    ],
)
def test_what_is_overdue(last: LastRun | None, promised: int, held_since: int | None, told: str) -> None:
    """A site that was not read within its days is told of, and one where something is wrong still."""
    said = overdue(last, promised=promised, held_since=held_since, today=1000)
    assert (told in said) if told else said == ""


def test_line_tells_days() -> None:
    """A line's days are dates that a person can read."""
    line = ScrubLine(Label("lux"), 30, 20_780, 20_783, 1, 2, 3, 0, 0)
    assert (
        line.encode() == "site lux days 30 from 2026-11-23 through 2026-11-26 packs 1 of 2 bytes 3 wrong 0 repaired 0"
    )
    assert day_text(20_783) == "2026-11-26"

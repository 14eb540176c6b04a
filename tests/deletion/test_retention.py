"""How long versions are kept: one pure function, asked about calendars, clocks and charters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from exclave.formats.charter import CharterRegister, DeletionRule, Keep
from exclave.ids import Epoch, Instant, parse_moment
from exclave.ids import Sequence as VersionNumber
from exclave.rules.retention import FOREVER, Made, Rule, Standing, decide, terms_of
from support.custody import make_epoch, people, register_block, writer

BLOCK = register_block(make_epoch(people("anna"), 1, by=writer()).note)
DAY = 86_400_000_000


def rule(
    days: int = 0, keep: tuple[int, int, int] = (0, 0, 0), *, hold: str | None = None, delay_s: int = 60, k: int = 1
) -> CharterRegister:
    return replace(BLOCK, retention_days=days, keep=Keep(*keep), hold=hold, deletion=DeletionRule(delay_s, k))


def at(text: str) -> Instant:
    """``2024-02-29`` (noon) or ``2024-02-29T10:00``."""
    return parse_moment(f"{text}Z" if "T" in text else f"{text}T12:00Z")


def made(*times: str, charter: int = 1) -> list[Made]:
    return [Made(VersionNumber(n), Epoch(1), at(time), charter) for n, time in enumerate(times, 1)]


def ask(versions: Sequence[Made], now: str, *charters: CharterRegister, held: bool = False) -> tuple[Standing, ...]:
    return decide(versions, list(enumerate(charters or (rule(),), 1)), at(now), held=held)


def kept(versions: Sequence[Made], now: str, *charters: CharterRegister, held: bool = False) -> list[int]:
    return [s.version.sequence for s in ask(versions, now, *charters, held=held) if s.kept]


YEAR = ("2024-01-01", "2024-01-31", "2024-02-29", "2024-03-01", "2024-12-31", "2025-01-01", "2025-03-01")
TABLE = [
    # rule, now, versions that are kept
    ("nothing but the newest", rule(0), "2025-03-02", [7]),
    ("all for a year", rule(366), "2025-03-01", [4, 5, 6, 7]),
    ("the year before is over to the microsecond", rule(365), "2025-03-01", [5, 6, 7]),
    ("the first of each day", rule(0, (60, 0, 0)), "2025-03-01", [6, 7]),
    ("the first of each month for a year", rule(0, (0, 12, 0)), "2025-01-15", [3, 4, 5, 6, 7]),
    ("the first of each year for two", rule(0, (0, 0, 2)), "2025-12-31", [1, 6, 7]),
    ("all of them together", rule(30, (90, 12, 10)), "2025-02-28", [1, 3, 4, 5, 6, 7]),
]


@pytest.mark.parametrize(("what", "terms", "now", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_the_table(what: str, terms: CharterRegister, now: str, expected: list[int]) -> None:
    """What each rule keeps of seven versions around two turns of the year and a leap day."""
    assert kept(made(*YEAR), now, terms) == expected


MONTH_ENDS = [
    # made, months, kept until
    ("2024-01-31", 1, "2024-03-01"),
    ("2023-01-31", 1, "2023-03-01"),
    ("2024-01-29", 1, "2024-02-29"),
    ("2023-01-29", 1, "2023-03-01"),
    ("2024-03-31", 1, "2024-05-01"),
    ("2024-12-31", 2, "2025-03-01"),
    ("2024-02-29", 12, "2025-03-01"),
    ("2024-02-29", 48, "2028-02-29"),
    ("2024-08-31", 6, "2025-03-01"),
    ("2100-01-31", 1, "2100-03-01"),
    ("2000-01-30", 1, "2000-03-01"),
]


@pytest.mark.parametrize(("time", "months", "until"), MONTH_ENDS)
def test_months_end_where_they_end(time: str, months: int, until: str) -> None:
    """Where the later month has no such day, the version is kept into the next one, never shorter."""
    (standing, _newest) = ask(made(time, "2200-01-01"), "2201-01-01", rule(0, (0, months, 0)))
    assert (standing.rule, standing.until) == (Rule.MONTHLY, at(until))


def test_a_leap_day_is_kept_a_whole_year() -> None:
    """A yearly version of 29 February ends on 1 March of a year without one."""
    (standing, _newest) = ask(made("2024-02-29", "2030-01-01"), "2031-01-01", rule(0, (0, 0, 1)))
    assert standing.until == at("2025-03-01")


def test_the_end_of_the_calendar() -> None:
    """Times and rules beyond the year 9999 keep for ever and break nothing."""
    versions = made("9998-12-31", "9999-12-31", "9999-12-31")
    for terms in (rule(366_000), rule(0, (0, 11_806, 0)), rule(0, (0, 0, 1000))):
        assert all(s.until <= FOREVER for s in ask(versions, "9999-12-31T23:59", terms))
    assert ask(versions, "9999-12-31", rule(0, (0, 0, 1000)))[0].until == FOREVER


def test_the_newest_is_never_deleted() -> None:
    """However old it is, and whatever its time says."""
    assert kept(made("2001-01-01"), "2099-01-01") == [1]
    assert kept(made("2024-05-05", "1970-01-02"), "2099-01-01") == [2]


def test_the_first_of_a_day_stands_for_it() -> None:
    """Versions that are entered later, of whatever time, never take the place of an earlier one."""
    good = made("2024-05-05T08:00")
    for later in ("2024-05-05T07:00", "2024-05-05T09:00", "2024-05-05T23:59"):
        flood = [*good, *(replace(good[0], sequence=VersionNumber(n), time=at(later)) for n in range(2, 40))]
        assert 1 in kept([*flood, replace(good[0], sequence=VersionNumber(99), time=at("2024-05-20"))], "2024-05-20",
                         rule(0, (30, 0, 0)))  # fmt: skip


def test_a_clock_that_went_back_makes_nothing_old() -> None:
    """A version whose time lies before its predecessor's is as old as that one."""
    versions = made("2024-05-05", "1970-01-02", "2024-05-06", "2024-05-07")
    assert kept(versions, "2024-05-20", rule(20)) == [1, 2, 3, 4]
    (_, back, *_) = ask(versions, "2024-05-20", rule(20))
    assert back.until == Instant(at("2024-05-05") + 20 * DAY)


def test_a_time_in_the_future_takes_no_place() -> None:
    """A forged version of the future keeps itself; it neither ages others nor stands for their days."""
    honest = made("2024-05-05", "2024-06-05", "2024-07-05")
    forged = [replace(honest[0], sequence=VersionNumber(9), time=at("2031-01-01"))]
    mixed = [*forged, *honest]
    assert kept(mixed, "2024-07-06", rule(0, (0, 3, 0))) == [9, 1, 2, 3]
    # Once that future is the past, the months of the honest ones are still their own.
    assert kept(mixed, "2031-02-01", rule(0, (0, 90, 0))) == [9, 1, 2, 3]


def test_versions_out_of_order_are_all_asked_about() -> None:
    """Every version gets an answer, in the order in which it was given."""
    rng = random.Random(4)
    versions = [
        Made(VersionNumber(n), Epoch(1), Instant(rng.randrange(0, FOREVER)), rng.choice([1, 2])) for n in range(1, 200)
    ]
    found = ask(versions, "2040-01-01", rule(3, (4, 5, 6)), rule(1))
    assert [s.version for s in found] == versions
    assert found[-1].kept


def test_more_rules_never_keep_less() -> None:
    """Lengthening any number keeps all that was kept before."""
    rng = random.Random(5)
    for _ in range(60):
        versions = [
            Made(VersionNumber(n), Epoch(1), Instant(at("2024-01-01") + rng.randrange(0, 900 * DAY)), 1)
            for n in range(1, 60)
        ]
        days, keep = rng.randrange(0, 300), (rng.randrange(0, 300), rng.randrange(0, 30), rng.randrange(0, 5))
        less = set(kept(versions, "2026-01-01", rule(days, keep)))
        more = set(kept(versions, "2026-01-01", rule(days + 1, (keep[0] + 1, keep[1] + 1, keep[2] + 1))))
        assert less <= more


def test_a_shorter_charter_does_not_reach_back() -> None:
    """Versions made under the longer rule stay under it, unlike those entered after the ledger named a shorter."""
    versions = [*made("2024-01-01", "2024-01-02"), *made("2024-01-03", "2024-01-04", "2024-01-05", charter=2)]
    versions = [replace(v, sequence=VersionNumber(n)) for n, v in enumerate(versions, 1)]
    assert kept(versions, "2024-06-01", rule(365), rule(1)) == [1, 2, 5]


def test_a_longer_charter_reaches_back() -> None:
    """A later charter keeps what exists longer, and the one after it cannot take that back."""
    versions = made("2024-01-01", "2024-01-02")
    assert kept(versions, "2024-06-01", rule(1)) == [2]
    assert kept(versions, "2024-06-01", rule(1), rule(365)) == [1, 2]
    assert kept(versions, "2024-06-01", rule(1), rule(365), rule(1)) == [1, 2]


def test_backdating_a_charter_is_of_no_use() -> None:
    """Only the ledger's order says which charter a version was made under: times are not even looked at."""
    versions = made("2024-03-01", "2024-03-02")
    assert kept(versions, "2024-06-01", rule(365), rule(1)) == [1, 2]


@pytest.mark.parametrize("held", ["charter", "custodians"])
def test_a_legal_hold_keeps_everything(held: str) -> None:
    """Whatever the rules say, and only as long as it stands."""
    versions = made("2001-01-01", "2002-01-01", "2003-01-01")
    terms = rule(0, hold="Case 7" if held == "charter" else None)
    found = ask(versions, "2099-01-01", terms, held=held == "custodians")
    assert [(s.kept, s.rule) for s in found] == [(True, Rule.HOLD)] * 3
    assert kept(versions, "2099-01-01", terms, rule(0)) == [3], "a later charter without it lifts it"


def test_no_charter_gives_no_answer() -> None:
    """A register that no charter lists has no rules, so nothing is said of it."""
    assert decide(made("2024-01-01"), [], at("2025-01-01")) == ()


def test_time_to_object_is_never_taken_away() -> None:
    """The longest delay and the fewest objections since the oldest version count."""
    charters = list(enumerate((rule(delay_s=100, k=2), rule(delay_s=5, k=1), rule(delay_s=50, k=3)), 1))
    assert terms_of(charters, 1) == (100, 1)
    assert terms_of(charters, 2) == (50, 1)
    assert terms_of(charters, 3) == (50, 3)

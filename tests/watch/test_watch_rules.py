"""What evidence means, and what is told to whom: tables."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from exclave.formats.charter import ParsedCharter
from exclave.ids import Country, Instant, Label, RegisterId, Sequence
from exclave.rules.alarms import Condition, Event, Happened, Told, before_of, conditions_of, due, told_after
from exclave.rules.watch import Before, Evidence, RegisterVerdict, State, judge_cell, judge_register, worst_of
from support.watched import NOW, ago, charter_of

RPO, PROOF = 3600, 86_400
REGISTER = RegisterId("ab" * 16)


def evidence(site: str = "lux", age_s: float = 60, proven_s: float = 0, **more: object) -> Evidence:
    values = {"sequence": Sequence(7), "time": ago(age_s), "proven": ago(proven_s), **more}
    return Evidence(Label(site), **values)  # type: ignore[arg-type]


CELLS = {
    "fresh": (evidence(), State.FRESH, NOW),
    "exactly at its RPO": (evidence(age_s=RPO), State.FRESH, NOW),
    "a microsecond past it": (evidence(age_s=RPO + 1e-6), State.LATE, ago(1e-6)),
    "late since its RPO": (evidence(age_s=RPO + 500), State.LATE, ago(500)),
    "none there": (Evidence(Label("lux"), proven=NOW), State.LATE, NOW),
    "never read": (Evidence(Label("lux"), silent="no route"), State.UNKNOWN, NOW),
    "silent, though fresh before": (evidence(silent="no route"), State.UNKNOWN, NOW),
    "proven too long ago": (evidence(proven_s=PROOF + 1), State.UNKNOWN, NOW),
    "proven just in time": (evidence(proven_s=PROOF), State.FRESH, NOW),
    "a clock within tolerance": (evidence(age_s=-299), State.FRESH, NOW),
    "a clock ahead": (evidence(age_s=-301), State.AHEAD, NOW),
    "damaged": (evidence(wrong="packs are missing"), State.DAMAGED, NOW),
    "damaged before all else": (evidence(age_s=9 * RPO, wrong="x", silent="y"), State.DAMAGED, NOW),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell(name: str) -> None:
    """Each kind of evidence has one state, a moment since when, and a reason unless all is well."""
    given, state, since = CELLS[name]
    cell = judge_cell(given, Country("LU"), rpo_s=RPO, proof_s=PROOF, now=NOW)
    assert (cell.state, cell.since) == (state, since)
    assert bool(cell.why) == (state is not State.FRESH)


def test_since_goes_on() -> None:
    """A state that lasts keeps the moment at which it began; another one begins now."""
    for state, since in ((State.DAMAGED, ago(900)), (State.FRESH, NOW)):
        cell = judge_cell(
            evidence(wrong="x"), Country("LU"), rpo_s=RPO, proof_s=PROOF, now=NOW, before=Before(state, ago(900))
        )
        assert cell.since == since


def charter(copies: int = 2, countries: int = 2, abroad: int = 1) -> ParsedCharter:
    return charter_of({REGISTER: None}, copies=copies, countries=countries, abroad=abroad)


def judge(
    *found: Evidence, copies: int = 2, abroad: int = 1, before: Mapping[Label | None, Before] | None = None
) -> RegisterVerdict:
    made = charter(copies=copies, abroad=abroad)
    return judge_register(made, made.registers[0], found, proof_s=PROOF, now=NOW, before=before)


REGISTERS = {
    "all fresh": ((evidence("home"), evidence("lux"), evidence("fin")), State.FRESH, 60, 3),
    "two are enough": ((evidence("home"), evidence("lux", silent="x"), evidence("fin")), State.FRESH, 60, 2),
    "its age is that of the older copy": ((evidence("home", 10), evidence("lux", 500)), State.FRESH, 500, 2),
    "the newest two of three": ((evidence("home", 10), evidence("lux", 500), evidence("fin", 20)), State.FRESH, 20, 2),
    "one is late": ((evidence("home", 10), evidence("lux", RPO + 9)), State.LATE, RPO + 9, 2),
    "one is damaged": ((evidence("home", 10), evidence("lux", wrong="x")), State.LATE, None, 0),
    "the other is silent": ((evidence("home", 10), evidence("lux", silent="x")), State.UNKNOWN, None, 0),
    "all are silent": ((evidence("home", silent="x"), evidence("lux", silent="x")), State.UNKNOWN, None, 0),
    "damaged and silent": ((evidence("home", wrong="x"), evidence("lux", silent="x")), State.LATE, None, 0),
    "one is ahead": ((evidence("home", 10), evidence("lux", -9000)), State.AHEAD, None, 0),
    "nothing anywhere": ((), State.LATE, None, 0),
}


@pytest.mark.parametrize("name", REGISTERS)
def test_a_register(name: str) -> None:
    """A register is as old as the moment that enough of its sites reach, in enough countries."""
    given, state, age_s, copies = REGISTERS[name]
    verdict = judge(*given)
    assert (verdict.state, verdict.age_s, verdict.copies) == (state, age_s, copies)
    assert (verdict.time == 0) == (age_s is None)
    assert verdict.worst >= verdict.state or verdict.worst is not State.FRESH


def test_copies_at_home_are_not_enough() -> None:
    """A rule that asks for copies abroad is not met by any number at home."""
    assert judge(evidence("home", 10), evidence("lux", wrong="x"), copies=2, abroad=2).state is State.LATE


def test_a_site_that_the_charter_does_not_name_counts_for_nothing() -> None:
    """Evidence of an unknown site is left out."""
    verdict = judge(evidence("home"), evidence("elsewhere"))
    assert verdict.state is State.LATE
    assert [cell.site for cell in verdict.cells] == ["home"]


def test_the_worst_of_nothing_is_fresh() -> None:
    """A state without registers has nothing to be alarmed about."""
    assert worst_of(()) is State.FRESH
    assert worst_of([judge(evidence("home"), evidence("lux", wrong="x"), evidence("fin"))]) is State.DAMAGED


# Alarms


def condition(state: State = State.LATE, since: Instant = NOW, patience_s: int = 0) -> Condition:
    return Condition(f"{REGISTER}/lux", REGISTER, Label("lux"), state, since, Instant(0), patience_s, "why")


def told(state: State = State.LATE, at: Instant = NOW) -> dict[str, Told]:
    return {f"{REGISTER}/lux": Told(state, at, at)}


NOBODY: frozenset[RegisterId] = frozenset()
DUE = {
    "new": ((condition(),), {}, NOBODY, [Happened.RAISED]),
    "told already": ((condition(),), told(), NOBODY, []),
    "told long ago": ((condition(),), told(at=ago(600)), NOBODY, [Happened.REPEATED]),
    "another state": ((condition(State.DAMAGED),), told(), NOBODY, [Happened.RAISED]),
    "over": ((), told(), NOBODY, [Happened.RESOLVED]),
    "not yet": ((condition(State.UNKNOWN, ago(59), 60),), {}, NOBODY, []),
    "long enough": ((condition(State.UNKNOWN, ago(60), 60),), {}, NOBODY, [Happened.RAISED]),
    "changed, and not long enough": ((condition(State.UNKNOWN, NOW, 60),), told(), NOBODY, []),
    "paused": ((condition(),), {}, frozenset({REGISTER}), []),
    "paused and over": ((), told(), frozenset({REGISTER}), []),
    "another one is paused": ((condition(),), {}, frozenset({RegisterId("cd" * 16)}), [Happened.RAISED]),
}


@pytest.mark.parametrize("name", DUE)
def test_what_is_due(name: str) -> None:
    """Told once, again by interval, and once more at the end; silence only after patience; nothing while paused."""
    wrong, known, paused, expected = DUE[name]
    events = due(wrong, known, paused, repeat_s=600, now=NOW)
    assert [event.happened for event in events] == expected
    again = due(wrong, told_after(known, events, NOW), paused, repeat_s=600, now=NOW)
    assert again == ()


def test_a_channel_that_failed_hears_it_later() -> None:
    """Only what was taken is remembered; of what ended before anybody heard of it, nobody hears."""
    assert due((condition(),), {}, NOBODY, repeat_s=600, now=NOW) == due(
        (condition(),), told_after({}, (), NOW), NOBODY, repeat_s=600, now=NOW
    )
    assert due((), {}, NOBODY, repeat_s=600, now=NOW) == ()


def test_silence_has_patience_and_the_rest_has_none() -> None:
    """A site may be silent for half of the RPO at most; what is late or damaged is told at once."""
    verdict = judge(evidence("home", silent="x"), evidence("lux", wrong="x"), evidence("fin", RPO + 1))
    found = {c.key.partition("/")[2] or "rule": c for c in conditions_of([verdict], patience_s=10 * RPO)}
    assert {key: c.patience_s for key, c in found.items()} == {"rule": 0, "home": RPO // 2, "lux": 0, "fin": 0}
    known = before_of(found.values())[REGISTER]
    assert judge(evidence("home", silent="x"), before=known).cells[0].since == found["home"].since


def test_events_name_their_condition() -> None:
    """An alarm tells why; its end tells what it was."""
    (raised,) = due((condition(),), {}, NOBODY, repeat_s=600, now=NOW)
    assert raised == Event(Happened.RAISED, f"{REGISTER}/lux", State.LATE, NOW, condition())
    (resolved,) = due((), told(), NOBODY, repeat_s=600, now=NOW)
    assert (resolved.state, resolved.condition) == (State.LATE, None)

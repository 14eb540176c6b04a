"""Tables of what is protected, of what ends when, of when a site may be given up and when its objects may go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exclave.errors import LegalBasisMissing, PlacementUnmet
from exclave.formats.charter import CharterRegister, CharterSite, DeletionRule, ParsedCharter, Placement
from exclave.ids import Country, Instant, Label, RegisterId
from exclave.rules.deletion import OrderState
from exclave.rules.evacuation import RegisterOutlook, Step, next_step
from exclave.rules.lease import alarms, require_basis_now, terms
from exclave.rules.leaving import Leaving, judge_exit, lay_there, left_out_by
from exclave.rules.placement import placement_of
from support.custody import START, Land, people

DAY = 86_400_000_000
SITES = {  # label: country, operator
    "home": ("EE", "state"),
    "lux": ("LU", "ctie"),
    "nord": ("FI", "csc"),
    "oslo": ("NO", "csc"),
    "tartu": ("EE", "uni"),
}


MADE = Land(people("anna", "boris", "clara"), 2).charter


def labels(text: str) -> tuple[Label, ...]:
    return tuple(Label(name) for name in text.split())


def charter(
    rule: tuple[int, int, int, int] = (2, 2, 1, 1),
    at: str = "home lux nord oslo tartu",
    *,
    leases: dict[str, int] | None = None,
    until: dict[str, int] | None = None,
) -> ParsedCharter:
    """One register; ends are days from ``START``."""
    made = MADE
    block = replace(
        made.registers[0], at=labels(at), placement=Placement(*rule),
        until=tuple((Label(name), Instant(START + day * DAY)) for name, day in (until or {}).items()),
    )  # fmt: skip
    sites = tuple(
        CharterSite(
            Label(name), Country(country), Label(operator),
            Instant(START + (leases or {})[name] * DAY) if name in (leases or {}) else None,
        )
        for name, (country, operator) in SITES.items()
    )  # fmt: skip
    return replace(made, home=Country("EE"), sites=sites, registers=(block,))


@pytest.mark.parametrize(
    ("rule", "holders", "lacks"),
    [
        ((1, 1, 0, 1), "home", ""),
        ((1, 1, 0, 1), "", "0 of 1 copies, 0 of 1 countries"),
        ((2, 1, 0, 1), "home tartu", ""),
        ((2, 2, 1, 1), "home tartu", "1 of 2 countries, 0 of 1 copies abroad"),
        ((2, 2, 1, 1), "home lux", ""),
        ((2, 2, 2, 1), "home lux", "1 of 2 copies abroad"),
        ((2, 2, 1, 2), "nord oslo", "1 of 2 administrators"),
        ((3, 3, 2, 3), "home nord oslo", "2 of 3 administrators"),
        ((3, 3, 2, 3), "home lux nord", ""),
        ((2, 1, 0, 1), "home home", "1 of 2 copies"),
        ((2, 1, 0, 1), "home elsewhere", "1 of 2 copies"),
    ],
)
def test_placement(rule: tuple[int, int, int, int], holders: str, lacks: str) -> None:
    """Copies, countries, copies abroad and administrators, each counted once and only where the charter says."""
    made = charter(rule)
    placement = placement_of(made, made.registers[0], now=START)
    assert placement.missing(labels(holders)) == lacks
    assert placement.protection(labels(holders)).protected == (not lacks)
    if lacks:
        with pytest.raises(PlacementUnmet, match=lacks):
            placement.check(labels(holders))


def test_words() -> None:
    """Why a version is protected or not is said in words, with the sites that are to blame."""
    made = charter((2, 2, 1, 2), leases={"lux": 10})
    early = placement_of(made, made.registers[0], now=START)
    assert early.protection(labels("home lux")).why == "2 copies in 2 countries, 1 abroad, by 2 administrators"
    found = early.protection(labels("home"), {Label("lux"): "does not hold all of it"})
    assert found.why == (
        "1 of 2 copies, 1 of 2 countries, 0 of 1 copies abroad, 1 of 2 administrators; lux: does not hold all of it"
    )
    late = placement_of(made, made.registers[0], now=Instant(START + 10 * DAY))
    assert not late.protection(labels("home lux")).protected
    assert "lux: its lease ended on" in late.protection(labels("home lux")).why
    # A writer goes on after a lease has ended, but not after a legal basis has.
    writer = placement_of(made, made.registers[0], now=Instant(START + 10 * DAY), leases=False)
    assert writer.missing(labels("home lux")) == ""
    ended = charter((2, 2, 1, 1), until={"lux": 10})
    rule = placement_of(ended, ended.registers[0], now=Instant(START + 10 * DAY), leases=False)
    assert rule.missing(labels("home lux")) == "1 of 2 copies, 1 of 2 countries, 0 of 1 copies abroad"


@pytest.mark.parametrize(
    ("day", "level", "text"),
    [
        (0, 0, ""),
        (9, 0, ""),
        (10, 1, "lux: the lease ends in 89 days"),
        (70, 2, "lux: the lease ends in 29 days"),
        (93, 3, "lux: the lease ends in 6 days"),
        (98, 3, "lux: the lease ends in 1 day,"),
        (99, 3, "lux: the lease ends today"),
        (100, 4, "lux: the lease ended on"),
        (400, 4, "lux: the lease ended on"),
    ],
)
def test_alarms(day: int, level: int, text: str) -> None:
    """Each end is said 90, 30 and 7 days before, each time more urgently, and once it is over for as long as it is."""
    found = alarms(charter(leases={"lux": 100}), Instant(START + day * DAY + 1))
    assert [a.level for a in found] == ([level] if level else [])
    assert all(text in a.text() for a in found)
    assert all(a.ended == (day >= 100) for a in found)


def test_terms() -> None:
    """Leases and legal bases stand in one list, the soonest first, and each names its register."""
    made = charter(leases={"nord": 30, "lux": 90}, until={"lux": 60})
    assert [(t.site, t.register is None) for t in terms(made)] == [("nord", True), ("lux", False), ("lux", True)]
    assert [a.term.site for a in alarms(made, START, (45,))] == ["nord"]
    assert "the legal basis of gazette ends" in alarms(made, Instant(START + DAY))[1].text("gazette")
    with pytest.raises(LegalBasisMissing, match="may be shipped to lux") as refused:
        require_basis_now(made.registers[0], Label("lux"), Instant(START + 60 * DAY))
    assert "legal_basis_until" in refused.value.hint
    require_basis_now(made.registers[0], Label("lux"), Instant(START + 60 * DAY - 1))


def outlook(*, at_risk: int = 0, basis: bool = True, lacking: int = 0) -> RegisterOutlook:
    return RegisterOutlook(RegisterId("0" * 32), 3, 9, 900, 0, at_risk, "1 of 2 copies" * at_risk, basis, lacking)


@pytest.mark.parametrize(
    ("named", "present", "registers", "step"),
    [
        (True, True, [outlook()], Step.PROPOSE),
        (True, True, [outlook(), outlook(basis=False, lacking=900)], Step.BASIS),
        (True, True, [outlook(), outlook(lacking=1, at_risk=1)], Step.COPY),
        (True, True, [outlook(at_risk=1), outlook()], Step.WAIT),
        (True, False, [outlook()], Step.PROPOSE),
        (True, True, [], Step.PROPOSE),
        (False, True, [], Step.LEAVE),
        (False, False, [], Step.DONE),
    ],
)
def test_next_step(named: bool, present: bool, registers: list[RegisterOutlook], step: Step) -> None:
    """No step of an evacuation is due before the one that makes it safe."""
    assert next_step(named=named, present=present, registers=registers) is step


def chain(*sites: str) -> list[ParsedCharter]:
    """Charters 1, 2, …, each with these sites; the delay to object is longest in the first one."""
    found = []
    for number, names in enumerate(sites, 1):
        made = charter(at=names)
        block = replace(made.registers[0], deletion=DeletionRule(10 * 86400 if number == 1 else 60, number))
        found.append(replace(
            made, number=number, sites=tuple(s for s in made.sites if s.label in labels(names)), registers=(block,)
        ))  # fmt: skip
    return found


def test_left_out_by() -> None:
    """A site has left only while no later charter names it again."""
    lux = Label("lux")
    assert left_out_by(chain("home lux", "home"), lux) == 2
    assert left_out_by(chain("home lux", "home", "home"), lux) == 2
    assert left_out_by(chain("home lux", "home", "home lux"), lux) == 0
    assert left_out_by(chain("home", "home"), lux) == 0
    assert left_out_by(chain("home lux"), lux) == 0


@pytest.mark.parametrize(
    ("change", "day", "state"),
    [
        ({}, 9, OrderState.WAITING),
        ({}, 10, OrderState.DUE),
        ({"public_since": None}, 99, OrderState.WAITING),
        ({"at_risk": ["version 3 would have 1 of 2 copies"]}, 99, OrderState.STOPPED),
        ({"unheard": "nord does not say"}, 99, OrderState.STOPPED),
        ({"holders": frozenset({Label("anna")})}, 99, OrderState.STOPPED),
        ({"charters": chain("home lux", "home lux")}, 99, OrderState.STOPPED),
        ({"charters": chain("home", "home")}, 99, OrderState.STOPPED),
    ],
)
def test_judge_exit(change: dict[str, object], day: int, state: OrderState) -> None:
    """Objects go only after the longest delay that any charter asked for, unheld, and whole elsewhere."""
    charters = chain("home lux nord", "home nord")
    (register,) = lay_there(charters, Label("lux"))
    if "holders" in change:
        change = {"holders": {register: change["holders"]}}
    case = replace(Leaving(Label("lux"), charters, START, {}, "", ()), **change)  # type: ignore[arg-type]
    assert judge_exit(case, Instant(START + day * DAY)).state is state


def test_an_end_cannot_be_shortened_away() -> None:
    """A later charter with a shorter delay does not let objects go earlier."""
    charters = chain("home lux", "home", "home")
    rules: list[tuple[int, CharterRegister]] = next(iter(lay_there(charters, Label("lux")).values()))
    assert [rule.deletion.delay_s for _, rule in rules] == [10 * 86400, 60, 60]
    case = Leaving(Label("lux"), charters, START, {}, "", ())
    assert judge_exit(case, Instant(START + 9 * DAY)).state is OrderState.WAITING

"""A charter in words: every rule that a custodian signs can be read, and what it changes is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exclave.formats.charter import CharterWitness, DeletionRule, Keep, ParsedCharter, Placement
from exclave.formats.policy import WitnessPolicy
from exclave.formats.timestamp import Authority
from exclave.ids import Country, Label, parse_day, sha256
from exclave.rules.charter_words import changes, register_name, register_rules, registers_alike, rules_of, span
from support.custody import Land, any_of, next_charter, people

A, B, C, D = people("anna", "boris", "clara", "dora")


def charter() -> ParsedCharter:
    return Land([A, B, C], 2).chain.newest.charter


def test_register() -> None:
    """Each number of a register's block stands in a sentence that says what it is."""
    block = replace(
        charter().registers[0],
        placement=Placement(3, 2, 1, 2),
        keep=Keep(90, 24, 1),
        deletion=DeletionRule(30 * 86400, 1),
        until=((Label("monaco"), parse_day("2031-01-01")),),
    )
    assert register_rules(block, Country("EE")) == (
        "May lie at home, luxembourg, monaco; the legal basis ends at monaco on 2031-01-01.",
        "At least 3 copies in 2 countries, 1 outside EE, run by 2 administrators.",
        "At most 1 hour of changes may be lost (RPO); it runs again within 4 hours (RTO).",
        "Every version is kept for 3650 days; the first of each day for 90 days, the first of each month for 24 months,"
        " the first of each year for 1 year.",
        "An order to delete waits 30 days in the open; 1 custodian's objection stops it.",
        "No legal hold by the charter.",
    )
    held = register_rules(replace(block, hold="a lawsuit", deletion=DeletionRule(90, 2), keep=Keep()), Country("EE"))
    assert held[3] == "Every version is kept for 3650 days."
    assert held[4:] == (
        "An order to delete waits 90 seconds in the open; 2 custodians' objections stop it.",
        "Legal hold: nothing is deleted while it stands (a lawsuit).",
    )


def test_state() -> None:
    """Who must agree, who runs the sites and until when, whose cosignatures and timestamps count."""
    plain = charter()
    sites = (*plain.sites[:2], replace(plain.sites[2], lease_until=parse_day("2030-12-31")))
    trusted = Authority(Label("stamp"), None, "https://stamp.example", b"root")
    assert rules_of(replace(plain, sites=sites, authorities=(trusted,))) == (
        "2 of 3 custodians must agree: anna (EE), boris (EE), clara (EE).",
        "Home is EE.",
        "Site home: in EE, run by state.",
        "Site luxembourg: in LU, run by lux-host.",
        "Site monaco: in MC, run by mc-host, its host is bound until 2030-12-31.",
        "A version counts when cosigned by observer.",
        "For two histories to count, at least 1 witness would have to lie.",
        "Whichever they are, none of them may be away; if more are, new versions may not count.",
        "Timestamps on ledgers are believed of: stamp (any policy, https://stamp.example).",
    )


def test_witnesses() -> None:
    """Without witnesses, without a quorum, with a weak one and with one who only watches: each is said."""
    names = ("w1", "w2", "w3")
    three = replace(charter(), witnesses=tuple(CharterWitness(Label(name), sha256(name.encode())) for name in names))
    assert any("only the sites" in said for said in rules_of(replace(three, witnesses=(), policy=WitnessPolicy())))
    assert any("without cosignatures" in said for said in rules_of(replace(three, policy=WitnessPolicy())))
    weak = rules_of(replace(three, policy=any_of(1, "w1", "w2")))
    assert any("vouch for two histories" in said for said in weak)
    assert "Not part of the quorum: w3." in weak
    assert rules_of(three)[-1] == "No timestamp authority is named."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2592000, "30 days"), (86400, "1 day"), (5400, "90 minutes"), (3600, "1 hour"), (61, "61 seconds")],
)
def test_times_are_exact(seconds: int, text: str) -> None:
    """No second of a rule is rounded away."""
    assert span(seconds) == text


def test_same_rules_are_said_once() -> None:
    """A thousand registers with the same rules do not bury the one that has others."""
    block = charter().registers[0]
    many = tuple(replace(block, id=type(block.id)(f"{n:032x}"), rpo_s=60 if n == 2 else 3600) for n in range(4))
    alike = registers_alike(replace(charter(), registers=many))
    assert [len(registers) for registers in alike.values()] == [3, 1]


def test_changes() -> None:
    """What a charter adds, drops and changes is told; a new epoch or annex alone is no change of a rule."""
    before = charter()
    block = before.registers[0]
    names = {block.id: "gazette"}
    same = next_charter(before, registers=[replace(block, annex_box=sha256(b"another"))])
    assert changes(before, same, names) == ()

    weaker = replace(block, deletion=DeletionRule(60, 1), hold=None)
    after = next_charter(before, custodians=[A, B, D], threshold=1, registers=[weaker])
    about = f"register gazette ({block.id})"
    assert register_name(block.id, names) == about.removeprefix("register ")
    assert changes(before, after, names) == (
        f"gone: custodian clara. It was: Of EE, key card {C.card.digest.hex()[:16]}….",
        "changed: threshold. Before: 2 custodians must agree. Now: 1 custodian must agree.",
        f"new: custodian dora. Of EE, key card {D.card.digest.hex()[:16]}….",
        f"changed: {about}. Before: An order to delete waits 30 days in the open; 1 custodian's objection stops it."
        " Now: An order to delete waits 1 minute in the open; 1 custodian's objection stops it.",
    )
    assert changes(before, next_charter(before, registers=[]), {})[0].startswith(f"gone: register {block.id}. It")

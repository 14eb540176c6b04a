"""Statements to the public: vectors, and what is put into them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.crypto.hpke import OpeningKey
from exclave.crypto.sign import SigningPair
from exclave.errors import MalformedError, NotAuthorised, UsageError
from exclave.formats.charter import CharterWitness, Custodian
from exclave.formats.publicstatement import PublicStatement, RegisterLine, Role, SealedTotal, parse_public_statement
from exclave.ids import Country, Digest, Fingerprint, Instant, Label, RegisterId, Sequence
from exclave.rules.signatures import card_of
from exclave.rules.statement import SealedShown, role_of, statement_of
from exclave.rules.watch import Evidence, judge_register
from support.watched import NOW, ago, charter_of

VECTORS = Path(__file__).parent.parent / "vectors" / "publicstatement" / "vectors.json"
CASES = json.loads(VECTORS.read_text())["cases"]
OPEN, SEALED, OTHER = (RegisterId(pair * 16) for pair in ("ab", "cd", "ef"))
CHARTER = charter_of({OPEN: "Gazette", SEALED: None, OTHER: None})


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_vectors(case: dict[str, str]) -> None:
    """Each good text re-encodes to itself, each bad one is malformed."""
    if case["expect"] == "ok":
        assert parse_public_statement(case["text"]).encode() == case["text"]
        return
    with pytest.raises(MalformedError):
        parse_public_statement(case["text"])


@given(st.data())
def test_one_changed_character_is_never_another_spelling(data: st.DataObject) -> None:
    """A text with one character changed is malformed, or says something else."""
    text = next(case["text"] for case in CASES if case["expect"] == "ok")
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.characters(codec="utf-8")) + text[place + 1 :]
    try:
        found = parse_public_statement(changed)
    except MalformedError:
        return
    assert found.encode() == changed


def evidence(site: str, age_s: float = 60, **more: object) -> Evidence:
    values = {"sequence": Sequence(7), "time": ago(age_s), "proven": NOW, "leaf": Digest(b"\x07" * 32), **more}
    return Evidence(Label(site), **values)  # type: ignore[arg-type]


def made(found: dict[RegisterId, tuple[Evidence, ...]], sealed: SealedShown = "total") -> PublicStatement:
    verdicts = [judge_register(CHARTER, r, found[r.id], proof_s=60, now=NOW) for r in CHARTER.registers]
    said = statement_of(
        Fingerprint("11" * 32), CHARTER, verdicts, verified=NOW, next_by=Instant(NOW + 1), role=Role.WRITER,
        signer=Label("home"), card=Digest(bytes(32)), sample=4, sealed=sealed,
    )  # fmt: skip
    assert parse_public_statement(said.encode()) == said
    return said


TWO = (evidence("home"), evidence("lux", 90))
GOOD = {OPEN: (*TWO, evidence("fin", 5000)), SEALED: TWO, OTHER: (*TWO, evidence("fin", 80))}


def test_only_what_was_proven_is_counted() -> None:
    """Sites that are late, silent, damaged or ahead are no copies of the newest data."""
    said = made(GOOD)
    (line,) = said.lines
    assert line == RegisterLine(OPEN, 3600, 2, 2, Sequence(7), ago(90), Digest(b"\x07" * 32), "Gazette")
    assert said.total == SealedTotal(2, 2, 2, 2, ago(90))
    for spoilt in ({"silent": "x"}, {"wrong": "x"}, {"time": Instant(NOW + 10**10)}, {"proven": ago(61)}):
        less = made(GOOD | {OPEN: (evidence("home"), evidence("lux", **spoilt))})
        assert less.lines[0] == RegisterLine(OPEN, 3600, 0, 0, Sequence(0), Instant(0), Digest(bytes(32)), "Gazette"), (
            spoilt
        )


def test_what_is_said_of_sealed_registers() -> None:
    """By default only all together, by id if the state wants, or nothing; never a name."""
    assert [line.register for line in made(GOOD, "each").lines] == [OPEN, SEALED, OTHER]
    assert made(GOOD, "each").total is None
    assert (len(made(GOOD, "none").lines), made(GOOD, "none").total) == (1, None)
    lost = made(GOOD | {OTHER: ()})
    assert lost.total == SealedTotal(2, 1, 0, 0, Instant(0)), "one of two is not safe, so not all are"
    late = made(GOOD | {OTHER: (evidence("home", 4000), evidence("lux", 4000))})
    assert late.total == SealedTotal(2, 1, 2, 2, ago(4000))


def test_no_register_is_left_out() -> None:
    """A statement is about all registers of the charter, or there is none."""
    verdicts = [judge_register(CHARTER, CHARTER.registers[0], TWO, proof_s=60, now=NOW)]
    with pytest.raises(UsageError, match="all of them"):
        statement_of(
            Fingerprint("11" * 32), CHARTER, verdicts, verified=NOW, next_by=Instant(NOW + 1), role=Role.WRITER,
            signer=Label("home"), card=Digest(bytes(32)), sample=4,
        )  # fmt: skip


def test_who_may_speak() -> None:
    """Witnesses and custodians of the charter and writers of registers, by their cards; a like name is not enough."""
    card = card_of(Label("kaja"), SigningPair(bytes(32)), OpeningKey(bytes(32)))
    other = card_of(Label("kaja"), SigningPair(bytes([1]) * 32), OpeningKey(bytes(32)))
    known = replace(CHARTER, custodians=(Custodian(Label("kaja"), Country("EE"), card.digest),))
    assert role_of(known, (), card) is Role.CUSTODIAN
    seen = replace(CHARTER, witnesses=(CharterWitness(Label("kaja"), card.digest),))
    assert role_of(seen, (card,), card) is Role.WITNESS
    assert role_of(CHARTER, (card,), card) is Role.WRITER
    for charter, writers in ((known, ()), (CHARTER, (card,))):
        with pytest.raises(NotAuthorised):
            role_of(charter, writers, other)

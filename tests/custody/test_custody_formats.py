"""Strict parsers: what parses re-encodes identically, and no changed character yields the same value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exclave.errors import MalformedError
from exclave.formats.annex import Annex, annex_info, parse_annex
from exclave.formats.answer import MAX_ANSWER_CHARS, ParsedAnswer, ResealedShare, parse_answer
from exclave.formats.card import parse_card
from exclave.formats.charter import (
    MAX_CHARTER_BYTES,
    MAX_THRESHOLD,
    CharterRegister,
    CharterSite,
    CharterWitness,
    Custodian,
    ParsedCharter,
    Placement,
    parse_charter,
)
from exclave.formats.epochnote import Cut, EpochShare, ParsedEpoch, parse_epoch
from exclave.formats.note import MAX_NOTE_BYTES, MAX_SIGNATURES, ParsedNote, Signature, parse_note
from exclave.formats.policy import WitnessGroup, WitnessPolicy
from exclave.formats.timestamp import Authority
from exclave.formats.warrant import MAX_REGISTERS, OBJECT_ACTS, STANDING_ACTS, Act, ParsedWarrant, parse_warrant
from exclave.ids import Country, Digest, Epoch, Fingerprint, Instant, Label, RegisterId
from exclave.keys.file import KeyKind, ParsedKeyFile, parse_key_file
from support.custody import HOUR, REGISTER, START, Land, answer, machine, people, request_text, signed
from support.sample_annex import sample_annex

A, B, C = people("anna", "boris", "clara")
LAND = Land([A, B, C], 2)
REQUEST = signed(request_text(LAND.chain.newest, LAND.state, act=Act.RESTORE), machine())


class Encodes(Protocol):
    def encode(self) -> str: ...


def _card(text: str) -> Encodes:
    return parse_card(text.encode())


def _key_file(text: str) -> Encodes:
    return parse_key_file(text.encode())


TEXTS: dict[str, tuple[str, Callable[[str], Encodes]]] = {
    "charter": (LAND.charter.encode(), parse_charter),
    "epoch": (LAND.first.note.encode(), parse_epoch),
    "warrant": (REQUEST.text, parse_warrant),
    "answer": (answer(LAND, REQUEST, A, LAND.first).text, parse_answer),
    "card": (A.card.encode(), _card),
    "key-file": (ParsedKeyFile(KeyKind.WRITER, Label("x"), bytes(32)).encode(), _key_file),
}

digests = st.binary(min_size=32, max_size=32).map(Digest)
labels = st.from_regex(r"[a-z][a-z0-9-]{0,39}", fullmatch=True).map(Label)
countries = st.from_regex(r"[A-Z]{2}", fullmatch=True).map(Country)
registers = st.from_regex(r"[0-9a-f]{32}", fullmatch=True).map(RegisterId)
instants = st.integers(0, 4_000_000_000_000_000).map(Instant)
free = (
    st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), min_size=1, max_size=60)
    .map(str.strip)
    .filter(bool)
)


@st.composite
def policies(draw: st.DrawFn, witnesses: list[Label]) -> WitnessPolicy:
    """Groups in groups; the outermost is the quorum."""
    groups: list[WitnessGroup] = []
    left = list(witnesses)
    while left and draw(st.booleans()):
        chosen = draw(st.sets(st.sampled_from(left), min_size=1))
        members = tuple(sorted(chosen | {groups[-1].name} if groups else chosen))
        groups.append(WitnessGroup(Label(f"group--{len(groups)}"), draw(st.integers(1, len(members))), members))
        left = [label for label in left if label not in chosen]
    if groups:
        return WitnessPolicy(tuple(groups), groups[-1].name)
    return WitnessPolicy((), draw(st.none() | st.sampled_from(left)) if left else None)


@st.composite
def charters(draw: st.DrawFn) -> ParsedCharter:
    names = sorted(draw(st.sets(labels, min_size=1, max_size=8)))
    cards = draw(st.lists(digests, min_size=len(names), max_size=len(names), unique=True))
    sites = sorted(draw(st.sets(labels, min_size=1, max_size=6)))
    where = draw(st.lists(countries, min_size=len(sites), max_size=len(sites)))
    operators = draw(st.lists(labels, min_size=len(sites), max_size=len(sites)))
    witnesses = sorted(draw(st.sets(labels.filter(lambda name: name != "none"), max_size=4)))
    keys = draw(st.lists(digests, min_size=len(witnesses), max_size=len(witnesses), unique=True))
    home = draw(countries)
    number = draw(st.integers(1, 99_999_999))
    blocks = []
    for register in sorted(draw(st.sets(registers, max_size=3))):
        at = sorted(draw(st.sets(st.sampled_from(sites), min_size=1)))
        there = [where[sites.index(label)] for label in at]
        copies = draw(st.integers(1, len(at)))
        rule = Placement(
            copies,
            draw(st.integers(1, min(copies, len(set(there))))),
            draw(st.integers(0, min(copies, sum(c != home for c in there)))),
            draw(st.integers(1, min(copies, len({operators[sites.index(label)] for label in at})))),
        )
        blocks.append(
            CharterRegister(
                register,
                draw(st.none() | free),
                tuple(at),
                rule,
                draw(st.integers(1, 86400)),
                draw(st.integers(1, 86400)),
                draw(st.integers(1, 36600)),
                Epoch(1 if number == 1 else draw(st.integers(1, 2**32 - 1))),
                draw(digests),
                draw(digests),
                draw(digests),
            )
        )
    return ParsedCharter(
        number,
        None if number == 1 else draw(digests),
        draw(instants),
        draw(free),
        home,
        draw(st.integers(1, len(names))),
        tuple(Custodian(n, draw(countries), c) for n, c in zip(names, cards, strict=True)),
        tuple(
            CharterSite(s, c, o, draw(st.none() | instants)) for s, c, o in zip(sites, where, operators, strict=True)
        ),
        tuple(CharterWitness(w, k) for w, k in zip(witnesses, keys, strict=True)),
        draw(policies(witnesses)),
        tuple(
            Authority(name, draw(st.sampled_from([None, "1.2.3", "2.999.0"])), "https://tsa.example/ts", draw(digests))
            for name in sorted(draw(st.sets(labels, max_size=2)))
        ),
        tuple(blocks),
    )


@st.composite
def epochs(draw: st.DrawFn) -> ParsedEpoch:
    number = draw(st.integers(1, 2**32 - 1))
    names = draw(st.lists(labels, min_size=1, max_size=9, unique=True))
    return ParsedEpoch(
        draw(registers),
        Epoch(number),
        None if number == 1 else draw(st.none() | digests),
        None if number == 1 else Cut(draw(digests), draw(st.integers(0, 2**63 - 1)), draw(digests)),
        draw(digests),
        draw(digests) * 38,
        draw(st.integers(1, len(names))),
        tuple(EpochShare(n, i, draw(digests), draw(digests)) for i, n in enumerate(names, 1)),
        None if number == 1 else draw(st.none() | digests),
    )


@st.composite
def warrants(draw: st.DrawFn) -> ParsedWarrant:
    start, end = sorted(draw(st.sets(instants, min_size=2, max_size=2)))
    act = draw(st.sampled_from(Act))
    needs, may = act in OBJECT_ACTS - STANDING_ACTS, act in OBJECT_ACTS
    return ParsedWarrant(
        Fingerprint(draw(digests).hex()),
        draw(digests),
        act,
        tuple(sorted(draw(st.sets(registers, min_size=1, max_size=5)))),
        draw(labels),
        draw(digests),
        draw(digests if needs else st.none() | digests if may else st.none()),
        start,
        end,
        draw(free),
        draw(registers),
    )


@st.composite
def answers(draw: st.DrawFn) -> ParsedAnswer:
    places = sorted(draw(st.sets(st.tuples(registers, st.integers(1, 2**32 - 1)), max_size=3)))
    return ParsedAnswer(
        draw(digests),
        draw(labels),
        draw(instants),
        draw(st.binary(min_size=68, max_size=68)),
        draw(digests) * 75 + bytes(24),
        tuple(
            ResealedShare(r, Epoch(e), draw(st.integers(1, 64)), draw(st.binary(min_size=16, max_size=16)) * 73)
            for r, e in places
        ),
    )


few = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@few
@given(charters())
def test_charters_come_back(value: ParsedCharter) -> None:
    """Every charter that keeps the rules survives its text."""
    assert parse_charter(value.encode()) == value


@few
@given(epochs())
def test_epoch_notes_come_back(value: ParsedEpoch) -> None:
    """Every epoch note that keeps the rules survives its text."""
    assert parse_epoch(value.encode()) == value


@few
@given(warrants())
def test_warrants_come_back(value: ParsedWarrant) -> None:
    """Every warrant that keeps the rules survives its text."""
    assert parse_warrant(value.encode()) == value


@few
@given(answers())
def test_answers_come_back(value: ParsedAnswer) -> None:
    """Every answer that keeps the rules survives its text."""
    assert parse_answer(value.encode()) == value


@pytest.mark.parametrize("kind", TEXTS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_text_is_refused_or_another_value(kind: str, data: st.DataObject) -> None:
    """A text with a character changed, added or removed parses to nothing or to what re-encodes as just that text."""
    text, parse = TEXTS[kind]
    place = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 2))
    piece = data.draw(st.text(st.characters(exclude_categories=("Cs",)), max_size=2) | st.sampled_from("0 \n\r\t=A"))
    changed = text[:place] + piece + text[place + length :]
    try:
        value = parse(changed)
    except MalformedError:
        return
    assert value.encode() == changed
    assert (value == parse(text)) == (changed == text)


@pytest.mark.parametrize("kind", TEXTS)
def test_moved_lines_are_refused(kind: str) -> None:
    """No two neighbouring lines of a text may change places, stand twice or be left out."""
    text, parse = TEXTS[kind]
    lines = text.split("\n")[:-1]
    for place in range(len(lines) - 1):
        swapped = [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]]
        doubled = [*lines[: place + 1], *lines[place:]]
        for changed in (swapped, doubled):
            with pytest.raises(MalformedError):
                parse("\n".join(changed) + "\n")
    for place in range(len(lines)):
        shorter = "\n".join([*lines[:place], *lines[place + 1 :]]) + "\n"
        try:
            value = parse(shorter)
        except MalformedError:
            continue
        # A witness, a share in an answer and the like may be absent: then it is another text, with another digest.
        assert value.encode() == shorter != text


@few
@given(st.text(max_size=200))
def test_any_text_is_refused_as_malformed(text: str) -> None:
    """Nothing but MalformedError comes out for arbitrary text, lone surrogates included."""
    for parse in (parse_charter, parse_epoch, parse_warrant, parse_answer):
        with pytest.raises(MalformedError):
            parse(text)
        with pytest.raises(MalformedError):
            parse("exclave/charter/v1\n" + text)
        with pytest.raises(MalformedError):
            parse(text + "\ud800\n")


@few
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_malformed(data: bytes) -> None:
    """Cards, key files and annexes answer arbitrary bytes with MalformedError only."""
    for parse in (parse_card, parse_key_file, parse_annex):
        with pytest.raises(MalformedError):
            parse(data)  # type: ignore[operator]


def test_the_annex_comes_back() -> None:
    """An annex that uses every field survives, whatever order its maps were filled in."""
    annex = sample_annex()
    assert parse_annex(annex.encode()) == annex
    turned = msgspec.structs.replace(annex, depends=dict(reversed(annex.depends.items())))
    assert turned.encode() == annex.encode()
    assert annex.services[1].query is not None
    assert annex.services[1].query.expected() == {"owner": "Mari"}
    assert annex_info(REGISTER, Epoch(3)) == f"exclave/annex/v1\n{REGISTER}\n3\n".encode()


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_changed_annex_is_refused_or_another_value(data: st.DataObject) -> None:
    """An annex with one byte changed parses to nothing or to another annex that re-encodes as just those bytes."""
    good = sample_annex()
    raw = bytearray(good.encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        annex = parse_annex(bytes(raw))
    except MalformedError:
        return
    assert annex.encode() == bytes(raw)
    assert annex != good


def _service(**changes: object) -> Annex:
    annex = sample_annex()
    changed = msgspec.structs.replace(annex.services[1], **changes)
    return msgspec.structs.replace(annex, services=(annex.services[0], changed))


@pytest.mark.parametrize(
    "annex",
    [
        _service(port=65536),
        _service(port=-1),
        _service(argv=()),
        _service(argv=("a\0b",)),
        _service(env={"a=b": "c"}),
        _service(env={"A": "b\0"}),
        _service(probe="health"),
        _service(name="database"),
        _service(query=msgspec.structs.replace(sample_annex().services[1].query, expect="7")),  # type: ignore[type-var]
        _service(query=msgspec.structs.replace(sample_annex().services[1].query, expect="{")),  # type: ignore[type-var]
        _service(query=msgspec.structs.replace(sample_annex().services[1].query, expect="[" * 9999)),  # type: ignore[type-var]
        msgspec.structs.replace(sample_annex(), salt=bytes(31)),
        msgspec.structs.replace(sample_annex(), name="Land"),
        msgspec.structs.replace(sample_annex(), owner=""),
        msgspec.structs.replace(sample_annex(), depends={"x": "y"}),
        msgspec.structs.replace(sample_annex(), datasets=sample_annex().datasets * 2),
        msgspec.structs.replace(sample_annex(), sites=sample_annex().sites * 2),
        msgspec.structs.replace(sample_annex(), owner="a\u200bb"),
    ],
)
def test_impossible_annexes_are_refused(annex: Annex) -> None:
    """Each rule on the content of an annex is checked when it is read."""
    with pytest.raises(MalformedError):
        parse_annex(annex.encode())


def test_sizes_fit_together() -> None:
    """The longest charter with the most signatures, and the longest answer, still fit into a note."""
    wide = [Signature("x" * 40, bytes([i, 0, 0, 0]), bytes(2420)) for i in range(MAX_SIGNATURES)]
    text = "x" * (MAX_CHARTER_BYTES - 1) + "\n"
    assert len(ParsedNote(text, tuple(wide)).encode()) <= MAX_NOTE_BYTES
    assert 4 * MAX_THRESHOLD <= MAX_SIGNATURES
    shares = tuple(
        ResealedShare(RegisterId(f"{i:032x}"), Epoch(2**32 - 1), 64, bytes(1168)) for i in range(MAX_REGISTERS)
    )
    full = replace(parse_answer(TEXTS["answer"][0]), custodian=Label("x" * 40), shares=shares)
    assert len(full.encode()) <= MAX_ANSWER_CHARS
    assert parse_answer(full.encode()) == full
    note = ParsedNote(full.encode(), tuple(wide[:2]))
    assert parse_note(note.encode()) == note
    more = ResealedShare(RegisterId("f" * 32), Epoch(1), 1, bytes(1168))
    with pytest.raises(MalformedError):
        parse_answer(replace(full, shares=(*shares, more)).encode())


def test_the_largest_charters_are_read_and_larger_ones_refused() -> None:
    """A thousand registers pass; a text beyond the limit is refused by its length."""
    block = LAND.charter.registers[0]
    many = tuple(replace(block, id=RegisterId(f"{i:032x}")) for i in range(1000))
    charter = replace(LAND.charter, registers=many)
    assert parse_charter(charter.encode()) == charter
    for count in (65, 64):
        crowd = tuple(Custodian(Label(f"c{i:03d}"), Country("EE"), Digest(bytes([i]) * 32)) for i in range(count))
        if count == 64:
            assert parse_charter(replace(charter, custodians=crowd).encode()).custodians == crowd
        else:
            with pytest.raises(MalformedError):
                parse_charter(replace(charter, custodians=crowd).encode())
    with pytest.raises(MalformedError, match="longer than"):
        parse_charter(replace(charter, state_name="x" * MAX_CHARTER_BYTES).encode())
    with pytest.raises(MalformedError):
        parse_charter(replace(charter, threshold=MAX_THRESHOLD + 1).encode())


def test_a_warrant_names_at_most_so_many_registers() -> None:
    """One register more than the limit is refused."""
    warrant = parse_warrant(TEXTS["warrant"][0])
    some = tuple(RegisterId(f"{i:032x}") for i in range(MAX_REGISTERS + 1))
    with pytest.raises(MalformedError):
        parse_warrant(replace(warrant, registers=some).encode())
    assert len(parse_warrant(replace(warrant, registers=some[1:]).encode()).registers) == MAX_REGISTERS
    with pytest.raises(MalformedError, match="ends before"):
        parse_warrant(replace(warrant, not_after=Instant(START - HOUR)).encode())

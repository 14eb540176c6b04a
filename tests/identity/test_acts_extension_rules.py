"""Extension lists: their form, and whom they let pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exclave.errors import MalformedError
from exclave.formats.extension import (
    MAX_KEYS,
    MAX_LENGTH_S,
    EndedBetween,
    ExtensionEnd,
    ExtensionList,
    parse_extension,
    parse_extension_end,
    parse_serial,
)
from exclave.formats.note import ParsedNote, Signature
from exclave.identity.extensions import Extensions
from exclave.ids import Digest, Fingerprint, Instant, sha256
from exclave.rules.extensions import Extended, NotExtended, extended

DAY = 86_400_000_000
START = Instant(1_790_000_000_000_000)
ISSUER, OTHER = sha256(b"issuer"), sha256(b"other issuer")
KEY, STRANGER = sha256(b"key"), sha256(b"another key")
RULE = EndedBetween(Instant(START - 10 * DAY), Instant(START + 10 * DAY))
LIST = ExtensionList(
    Fingerprint("a" * 64), ISSUER, START, Instant(START + 90 * DAY), Instant(START + 60 * DAY), "No cards can be made",
    "Emergency Act, section 3", RULE, frozenset({0, 7, 300}), frozenset({KEY}),
)  # fmt: skip


def _ask(
    *lists: ExtensionList,
    issuer: Digest = ISSUER,
    key: Digest = STRANGER,
    serial: int = 1,
    ended: int = START,
    now: int = START + DAY,
) -> Extended | NotExtended:
    return extended(
        lists, issuer=issuer, spki_sha256=key, serial=serial, ended=Instant(ended), now=Instant(now)
    )  # fmt: skip


def test_lists_come_back() -> None:
    """A list, and the order that ends one, survive their text."""
    assert parse_extension(LIST.encode()) == LIST
    only_keys = replace(LIST, rule=None, exceptions=frozenset())
    assert parse_extension(only_keys.encode()) == only_keys
    end = ExtensionEnd(LIST.state, LIST.digest, "Cards can be made again")
    assert parse_extension_end(end.encode()) == end


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        ({"key": KEY, "ended": START - 400 * DAY}, True),
        ({"key": KEY, "serial": 7}, True),
        ({}, True),
        ({"ended": RULE.first}, True),
        ({"ended": RULE.last, "now": RULE.last + 1}, True),
        ({"ended": RULE.first - 1}, False),
        ({"ended": RULE.last + 1, "now": RULE.last + DAY}, False),
        ({"serial": 7}, False),
        ({"serial": 0}, False),
        ({"issuer": OTHER}, False),
        ({"issuer": OTHER, "key": KEY}, False),
        ({"now": START}, True),
        ({"now": START - 1, "ended": START - 2}, False),
        ({"now": LIST.until}, True),
        ({"now": LIST.until + 1}, False),
        ({"key": KEY, "now": LIST.until + 1}, False),
        ({"key": KEY, "ended": START - MAX_LENGTH_S * 1_000_000 + DAY}, True),
        ({"key": KEY, "ended": START - MAX_LENGTH_S * 1_000_000 + DAY - 1}, False),
    ],
)
def test_whom_a_list_lets_pass(asked: dict[str, object], passes: bool) -> None:
    """Key or rule, exceptions, issuer and every border in time."""
    assert isinstance(_ask(LIST, **asked), Extended if passes else NotExtended)  # type: ignore[arg-type]


def test_a_list_dies_by_itself() -> None:
    """After the list's own end it accepts nobody, though its certificates might have had longer; the why says when."""
    short = replace(LIST, not_after=Instant(START + 2 * DAY))
    assert isinstance(_ask(short, now=short.not_after), Extended)
    told = _ask(short, now=short.not_after + 1)
    assert isinstance(told, NotExtended)
    assert "until" in told.why


def test_the_longest_of_several_lists_counts() -> None:
    """Of the lists that accept a certificate the one that does so longest is named; without any, none."""
    short = replace(LIST, not_after=Instant(START + 2 * DAY))
    for lists in ((short, LIST), (LIST, short)):
        assert _ask(*lists) == Extended(LIST.digest, LIST.until)
    assert isinstance(_ask(), NotExtended)


class _Store:
    def __init__(self) -> None:
        self.number = 0
        self.notes: tuple[bytes, ...] = ()

    def generation(self) -> int:
        return self.number

    def extensions(self) -> tuple[bytes, ...]:
        return self.notes


def test_an_ended_list_dies_at_once() -> None:
    """What the store no longer gives is gone with the store's next generation; a damaged note stops no other."""
    store = _Store()
    asked = {"issuer": ISSUER, "spki_sha256": KEY, "serial": 1, "ended": START, "now": Instant(START + DAY)}
    accepted = Extensions(store)
    assert isinstance(accepted(**asked), NotExtended)  # type: ignore[arg-type]
    note = ParsedNote(LIST.encode(), (Signature("machine", bytes(4), bytes(64)),)).encode()
    store.number, store.notes = 1, (b"rubbish", note)
    assert accepted(**asked) == Extended(LIST.digest, LIST.until)  # type: ignore[arg-type]
    store.number, store.notes = 2, ()
    assert isinstance(accepted(**asked), NotExtended)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (replace(LIST, rule=None, exceptions=frozenset(), keys=frozenset()), "neither"),
        (replace(LIST, rule=None), "no rule"),
        (replace(LIST, not_after=LIST.not_before), "before it begins"),
        (replace(LIST, until=LIST.not_before), "before it begins"),
        (replace(LIST, rule=EndedBetween(RULE.last, RULE.first)), "before it begins"),
        (replace(LIST, until=Instant(RULE.first + MAX_LENGTH_S * 1_000_000 + 1)), "three years"),
        (replace(LIST, keys=frozenset(sha256(b"%d" % n) for n in range(MAX_KEYS + 1))), "more than"),
        (replace(LIST, basis=" "), "basis"),
    ],
)
def test_impossible_lists(bad: ExtensionList, told: str) -> None:
    """A list that says nothing, too much, or is over before it begins is no list."""
    with pytest.raises(MalformedError, match=told):
        parse_extension(bad.encode())


@pytest.mark.parametrize("text", ["", "00", "01", "A", "0x1", "f" * 41, " 1", "1\n", "-1"])
def test_serials_have_one_form(text: str) -> None:
    """Lower-case hex without leading zeros, and nothing else."""
    with pytest.raises(MalformedError):
        parse_serial(text)

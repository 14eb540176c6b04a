"""Orders to delete and objections: vectors, and what their parsers refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.errors import MalformedError
from exclave.formats.deletion import MAX_VERSIONS, DeletionOrder, Objection, parse_deletion, parse_objection
from exclave.formats.epochnote import parse_epoch
from exclave.ids import Epoch, sha256
from support.custody import make_epoch, people, writer

VECTORS = Path(__file__).parent.parent / "vectors" / "deletion"


def cases(name: str) -> list[dict[str, str]]:
    return list(json.loads((VECTORS / name).read_text())["cases"])


def read(name: str, text: str) -> DeletionOrder | Objection:
    return parse_deletion(text.encode()) if name == "orders.json" else parse_objection(text)


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in ("orders.json", "objections.json") for case in cases(name)],
    ids=lambda value: value["name"] if isinstance(value, dict) else value,
)  # fmt: skip
def test_vectors(name: str, case: dict[str, str]) -> None:
    """Each vector reads back to its own bytes and digest, or is refused as it says."""
    if case["expect"] == "ok":
        found = read(name, case["text"])
        assert found.encode() == case["text"]
        assert sha256(found.encode().encode()).hex() == case["digest"]
        return
    with pytest.raises(MalformedError):
        read(name, case["text"])


@pytest.mark.parametrize("name", ["orders.json", "objections.json"])
def test_no_flipped_byte_is_taken_for_the_same(name: str) -> None:
    """Whatever one byte is changed to, the text is refused or means something else."""
    text = cases(name)[0]["text"]
    good = read(name, text)
    data = text.encode()
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            found = read(name, changed.decode())
        except (MalformedError, UnicodeDecodeError):
            continue
        assert found != good
        assert found.encode().encode() == changed


@pytest.mark.parametrize(
    ("without", "fine"),
    [((), True), ((1,), True), ((1, 2), True), ((2, 1), False), ((1, 1), False), ((3,), False), ((9,), False)],
)
def test_former_keys_that_an_epoch_leaves_out(without: tuple[int, ...], fine: bool) -> None:
    """They are former epochs, in order, each once; the note has one spelling."""
    first = make_epoch(people("anna"), 1, by=writer()).note
    second = make_epoch(people("anna"), 1, by=writer(), number=3, previous=first, warrant=sha256(b"w")).note
    note = replace(second, ancestor=sha256(b"box"), without=tuple(Epoch(n) for n in without))
    if fine:
        assert parse_epoch(note.encode()) == note
        return
    with pytest.raises(MalformedError):
        parse_epoch(note.encode())


def test_an_order_has_a_limit() -> None:
    """So many versions fit into one order, and not one more."""
    text = cases("orders.json")[0]["text"]
    line = text.splitlines(True)[-1]
    head = text[: text.index("version ")]
    many = [line.replace("version 5", f"version {number}") for number in range(1, MAX_VERSIONS + 2)]
    assert len(parse_deletion((head + "".join(many[:-1])).encode()).versions) == MAX_VERSIONS
    with pytest.raises(MalformedError):
        parse_deletion((head + "".join(many)).encode())

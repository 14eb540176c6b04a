"""Every stored vector gives what it says: parse, verify, re-encode."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from exclave.errors import ExclaveError, all_errors
from exclave.formats.annex import parse_annex
from exclave.formats.answer import parse_answer
from exclave.formats.card import Card, parse_card
from exclave.formats.charter import parse_charter
from exclave.formats.epochnote import parse_epoch
from exclave.formats.note import parse_note
from exclave.formats.warrant import Act, parse_warrant
from exclave.ids import Digest, Label, parse_fingerprint, parse_instant
from exclave.keys.file import load, parse_key_file
from exclave.rules.charters import CharterChain, verify_charter_chain
from exclave.rules.epochs import verify_epoch_chain
from exclave.rules.warrants import authorise_warrant, verify_answer

VECTORS = Path(__file__).parent.parent / "vectors"
FOLDERS = ("card", "keyfile", "charter", "epoch", "warrant", "answer", "annex")


def read(path: Path) -> tuple[dict[str, str], bytes]:
    head, _, body = path.read_bytes().partition(b"\n\n")
    lines = [line.split(": ", 1) for line in head.decode().split("\n")]
    return dict(lines), body


@cache
def cards() -> dict[Digest, Card]:
    good = [read(p) for p in sorted((VECTORS / "card").iterdir())]
    found = [parse_card(body) for head, body in good if head["expect"] == "ok"]
    return {card.digest: card for card in found}


@cache
def chain() -> CharterChain:
    head, body = read(VECTORS / "charter" / "first")
    return verify_charter_chain([body], cards(), parse_fingerprint(head["pin"]))


def _card(head: dict[str, str], body: bytes, folder: Path) -> bytes:
    return parse_card(body).encode().encode()


def _key_file(head: dict[str, str], body: bytes, folder: Path) -> bytes:
    path = folder / "key"
    path.touch(mode=0o600)
    path.write_bytes(body)
    phrase = head.get("passphrase")
    key = load(str(path), None if phrase is None else lambda: phrase or "")
    assert key.seed.hex() == head["seed"]
    return parse_key_file(body).encode().encode()


def _charter(head: dict[str, str], body: bytes, folder: Path) -> bytes:
    found = verify_charter_chain([body], cards(), parse_fingerprint(head["pin"]))
    note = parse_note(body)
    assert parse_charter(note.text) == found.newest.charter
    assert found.newest.charter.encode() == note.text
    return note.encode()


def _epoch(head: dict[str, str], body: bytes, folder: Path) -> bytes:
    note = parse_note(body)
    parsed = parse_epoch(note.text)
    found = verify_epoch_chain(chain(), parsed.register, [body], {}, cards())
    assert found.newest.note == parsed
    assert parsed.encode() == note.text
    return note.encode()


def _warrant(head: dict[str, str], body: bytes, folder: Path) -> bytes:
    note = parse_note(body)
    now = None if head["now"] == "none" else parse_instant(head["now"])
    found = authorise_warrant(
        note, chain(), cards(), now=now, place=Label(head["place"]), machine=None, act=Act(head["act"])
    )
    assert found.warrant.encode() == parse_warrant(note.text).encode() == note.text
    return note.encode()


def _answer(head: dict[str, str], body: bytes, folder: Path) -> bytes:
    request = parse_note(read(VECTORS / "warrant" / "request")[1])
    card = next(c for c in cards().values() if c.name == head["custodian"])
    note = parse_note(body)
    found = verify_answer(note, request, card)
    assert found.answer.encode() == parse_answer(note.text).encode() == note.text
    return note.encode()


def _annex(head: dict[str, str], body: bytes, folder: Path) -> bytes:
    return parse_annex(body).encode()


READERS: dict[str, Callable[[dict[str, str], bytes, Path], bytes]] = {
    "card": _card,
    "keyfile": _key_file,
    "charter": _charter,
    "epoch": _epoch,
    "warrant": _warrant,
    "answer": _answer,
    "annex": _annex,
}
CASES = [(folder, path.name) for folder in FOLDERS for path in sorted((VECTORS / folder).iterdir())]


@pytest.mark.parametrize(("folder", "name"), CASES, ids=[f"{f}/{n}" for f, n in CASES])
def test_vector(folder: str, name: str, tmp_path: Path) -> None:
    """A vector is read as it says: the same bytes again, or its class of failure exactly."""
    head, body = read(VECTORS / folder / name)
    if head["expect"] == "ok":
        assert READERS[folder](head, body, tmp_path) == body
        return
    assert head["expect"] in {error.code for error in all_errors()}
    with pytest.raises(ExclaveError) as caught:
        READERS[folder](head, body, tmp_path)
    assert caught.value.code == head["expect"], caught.value.message


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_corpus_is_empty(folder: str) -> None:
    """Each format has vectors that are good and vectors that are not."""
    expected = [read(path)[0]["expect"] for path in (VECTORS / folder).iterdir()]
    assert "ok" in expected
    assert expected.count("malformed") >= 4

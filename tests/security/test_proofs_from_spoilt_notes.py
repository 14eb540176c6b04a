"""A host puts lines of its own among the signatures of what it shows: proofs are made all the same, and hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exclave.formats.note import ParsedNote, Signature, parse_note
from exclave.formats.paths import charter_key
from exclave.rules.signatures import MAX_TRIES
from exclave.verify.proof import verify_proof
from support.proving import ProvingState

DOCUMENTS = {f"act-{n}".encode(): b"act %d\n" % n for n in range(3)}


def junk_everywhere(note: ParsedNote) -> ParsedNote:
    """A line of an unknown key under each name that has signed."""
    names = dict.fromkeys(s.name for s in note.signatures)
    return note.with_signatures(*(Signature(name, b"junk", bytes(64)) for name in names))


def junk_first(note: ParsedNote) -> ParsedNote:
    """So many false lines before the good ones of one signer that his are not tried."""
    first = note.signatures[0]
    false = (Signature(first.name, first.key_id, bytes([n]) * 64) for n in range(MAX_TRIES))
    return ParsedNote(note.text, (*false, *note.signatures))


@pytest.mark.parametrize("spoil", [junk_everywhere, junk_first])
def test_a_proof_holds(tmp_path: Path, spoil: Callable[[ParsedNote], ParsedNote]) -> None:
    """Charters at one host, and the head at all, have lines that nobody signed: they are not in the proof."""
    town = ProvingState(tmp_path / "state")
    town.commit(DOCUMENTS)
    town.name_witnesses(1, "nova", "vera")
    town.commit(DOCUMENTS)
    town.cosign("nova", "vera")
    folder = town.site_folder("home") / town.state
    for path in list((folder / "charter").iterdir()):
        data = spoil(parse_note(path.read_bytes())).encode()
        path.unlink()
        town.primary.put_same(charter_key(town.state, data), data)
    if spoil is junk_everywhere:
        for site in town.sites:
            for head in (town.site_folder(site) / town.state).rglob("checkpoint"):
                data = spoil(parse_note(head.read_bytes())).encode()
                head.unlink()
                head.write_bytes(data)
    proven = verify_proof(town.document(2, b"act-1"), town.state)
    assert [name for name, _ in proven.cosigners] == ["nova", "vera"]
